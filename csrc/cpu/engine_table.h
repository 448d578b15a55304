// Fills an Engine with the kernels of the region this is included in.
#pragma once

#include "backward_tile.h"
#include "engine.h"

namespace memx {
namespace MEMX_ISA {

template <class S, int64_t vector_bytes>
constexpr TileKernels<S, accumulate_t<S>> tile_kernels() {
  using A = accumulate_t<S>;
  constexpr int V = int(vector_bytes / sizeof(A));
  return {forward_tile<S, A, V>,  forward_scratch<S, A>,        backward_tile<S, A, V>,
          backward_scratch<S, A>, frame_gradient_tile<S, A, V>, frame_gradient_scratch<S, A>};
}

template <int64_t vector_bytes>
constexpr Engine make_engine(const char* name) {
  return {name,
          vector_bytes,
          tile_kernels<float, vector_bytes>(),
          tile_kernels<double, vector_bytes>(),
          tile_kernels<Bfloat16, vector_bytes>(),
          tile_kernels<Float16, vector_bytes>()};
}

}  // namespace MEMX_ISA
}  // namespace memx

// Fills an Engine with the kernels of the region this is included in.
#pragma once

#include "backward_tile.h"
#include "engine.h"

namespace memx {
namespace MEMX_ISA {

template <class S, class O, int64_t vector_bytes>
constexpr TileKernels<S, O> tile_kernels() {
  constexpr int V = int(vector_bytes / sizeof(accumulate_t<O>));
  return {forward_tile<S, O, V>,     forward_scratch<S, O, V>,     backward_tile<S, O, V>,
          backward_scratch<S, O, V>, frame_gradient_tile<S, O, V>, frame_gradient_scratch<S, O, V>};
}

template <int64_t vector_bytes>
constexpr Engine make_engine(const char* name) {
  return {name,
          vector_bytes,
          tile_kernels<float, float, vector_bytes>(),
          tile_kernels<double, double, vector_bytes>(),
          tile_kernels<Bfloat16, float, vector_bytes>(),
          tile_kernels<Float16, float, vector_bytes>(),
          {}};
}

}  // namespace MEMX_ISA
}  // namespace memx

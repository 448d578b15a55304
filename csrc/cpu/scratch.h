// A thread's scratch: what each array is, and how large. Measuring and carving are the same code,
// so they cannot disagree.
#pragma once

#include "gather.h"
#include "winograd.h"

namespace memx {
namespace MEMX_ISA {

// Hands out aligned pieces of one allocation; with a null base it only counts.
template <class A>
class Arena {
 public:
  explicit Arena(A* base) : base_(base) {}
  A* take(int64_t elements) {
    A* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(elements, 64 / int64_t(sizeof(A)));
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  A* base_;
  int64_t used_ = 0;
};

MEMX_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The outer product reads kBlockRows numbers from every pixel, also from the last.
template <class A>
int64_t halo_elements(const Convolution<A>& convolution, const Tile& tile) {
  return HaloExtent(convolution, tile).pixels() * convolution.in_channels + kBlockRows;
}

template <class A>
int64_t transformed_elements(const Convolution<A>& convolution, const Tile& tile) {
  if (!convolution.winograd) {
    return 0;
  }
  return kPositions * BlockGrid(tile).padded_count() * convolution.in_channels + kBlockRows;
}

template <class A>
int64_t panel_elements(const Convolution<A>& convolution, const Sizes& sizes, const Tile& tile) {
  return convolution.panels * sizes.panel_width() * round_up(tile.pixels(), kBlockRows);
}

inline int64_t product_elements(const Sizes& sizes, const Tile& tile) {
  return kPositions * BlockGrid(tile).padded_count() * sizes.panel_width();
}

template <class A>
struct ForwardScratch {
  A* gates;        // [gate panel][padded pixel][2V]
  A* halo;         // [halo rows][halo columns][channels] of X_t, then of H_{t-1}
  A* transformed;  // [16][padded block][channels]
  A* products;     // [16][padded block][2V]

  template <class S>
  ForwardScratch(Arena<A>& arena, const ForwardStep<S, A>& step, const Tile& tile) {
    const auto& x = step.input_convolution;
    const auto& h = step.hidden_convolution;
    gates = arena.take(panel_elements(h, step.sizes, tile));
    halo = arena.take(larger(halo_elements(x, tile), halo_elements(h, tile)));
    transformed = arena.take(larger(transformed_elements(x, tile), transformed_elements(h, tile)));
    products = arena.take(product_elements(step.sizes, tile));
  }
};

template <class A>
struct TransposedScratch {
  A* result;       // [panel][padded pixel][2V]
  A* transformed;  // of the gate gradients [16][padded block][gate column]
  A* products;     // [16][padded block][2V]

  TransposedScratch(Arena<A>& arena, const Convolution<A>& transposed, const Sizes& sizes,
                    const Tile& tile) {
    result = arena.take(panel_elements(transposed, sizes, tile));
    transformed = arena.take(transformed_elements(transposed, tile));
    products = arena.take(product_elements(sizes, tile));
  }
};

template <class A>
struct BackwardScratch {
  ForwardScratch<A> forward;  // `gates` becomes the gate gradients of the tile, in the same layout
  TransposedScratch<A> transposed;  // `result` is the gradient of H_t

  template <class S>
  BackwardScratch(Arena<A>& arena, const BackwardStep<S, A>& step, const Tile& tile)
      : forward(arena, step.forward, tile),
        transposed(arena, step.hidden_transposed, step.forward.sizes, tile) {}
};

}  // namespace MEMX_ISA
}  // namespace memx

// A thread's scratch: what each array is, and how large. Measuring and carving are the same code,
// so they cannot disagree.
#pragma once

#include "gather.h"
#include "winograd.h"
#if defined(MEMX_MATRIX_REGISTERS)
#include "pairs_on_registers.h"
#else
#include "pairs_on_vectors.h"
#endif

namespace memx {
namespace MEMX_ISA {

// Hands out aligned pieces of one allocation; with a null base it only counts bytes.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t elements) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(elements * int64_t(sizeof(T)), 64);
    return reinterpret_cast<T*>(piece);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Numbers of what an algorithm makes of a halo image before it multiplies.
template <class O>
int64_t transformed_elements(const Convolution<O>& convolution, const Tile& tile) {
  if constexpr (depth<O> > 1) {
    return gathered_elements(convolution, tile);
  } else {
    return convolution.winograd() ? convolution.positions() * BlockGrid(tile).padded_count() *
                                            convolution.in_channels +
                                        kBlockRows
                                  : 0;
  }
}

template <int V, class O>
int64_t panel_elements(const Convolution<O>& convolution, const Tile& tile) {
  return convolution.panels * kPanelVectors * V * round_up(tile.pixels(), kBlockRows);
}

template <int V, class O>
int64_t product_elements(const Convolution<O>& convolution, const Tile& tile) {
  if (!convolution.winograd()) {
    return 0;
  }
  return kMostPanels<accumulate_t<O>, V> * convolution.positions() *
         BlockGrid(tile).padded_count() * kPanelVectors * V;
}

// No part of the tile that goes through the equations at a time has more pixels than `part`.
template <class O, int V>
struct ForwardScratch {
  using A = accumulate_t<O>;

  A* gates;                  // [gate panel][padded pixel][2V] of a part
  number_t<O>* input_halo;   // [halo rows][halo columns][channels] of X_t
  number_t<O>* hidden_halo;  // the same of H_{t-1}
  number_t<O>* transformed;  // [position][padded block][channels], or what is gathered
  A* products;               // [panel][position][padded block][2V]

  template <class S>
  ForwardScratch(Arena& arena, const ForwardStep<S, O>& step, const Tile& tile, const Tile& part) {
    const auto& x = step.input_convolution;
    const auto& h = step.hidden_convolution;
    gates = arena.take<A>(panel_elements<V>(h, part));
    input_halo = arena.take<number_t<O>>(halo_elements(x, tile));
    hidden_halo = arena.take<number_t<O>>(halo_elements(h, tile));
    transformed = arena.take<number_t<O>>(
        larger(transformed_elements(x, tile), transformed_elements(h, tile)));
    products = arena.take<A>(larger(product_elements<V>(x, tile), product_elements<V>(h, tile)));
  }
};

template <class O, int V>
struct TransposedScratch {
  using A = accumulate_t<O>;

  A* result;                 // [panel][padded pixel][2V]
  number_t<O>* transformed;  // of the gate gradients [position][padded block][gate column]
  A* products;               // [panel][position][padded block][2V]

  TransposedScratch(Arena& arena, const Convolution<O>& transposed, const Tile& tile) {
    result = arena.take<A>(panel_elements<V>(transposed, tile));
    transformed = arena.take<number_t<O>>(transformed_elements(transposed, tile));
    products = arena.take<A>(product_elements<V>(transposed, tile));
  }
};

template <class O, int V>
struct BackwardScratch {
  // `gates` becomes the gate gradients of the part, in the same layout.
  ForwardScratch<O, V> forward;
  TransposedScratch<O, V> transposed;  // `result` is the gradient of H_t
  O* halo_operands = nullptr;          // of a weight gradient, where they are pairs
  O* gate_operands = nullptr;

  template <class S>
  BackwardScratch(Arena& arena, const BackwardStep<S, O>& step, const Tile& tile, const Tile& part)
      : forward(arena, step.forward, tile, part), transposed(arena, step.hidden_transposed, part) {
    if constexpr (depth<O> > 1) {
      const auto& x = step.forward.input_convolution;
      const auto& h = step.forward.hidden_convolution;
      halo_operands = arena.take<O>(
          larger(halo_pairs(step.forward, x, tile), halo_pairs(step.forward, h, tile)));
      gate_operands = arena.take<O>(gate_pairs<S, V>(step.forward, tile));
    }
  }
};

}  // namespace MEMX_ISA
}  // namespace memx

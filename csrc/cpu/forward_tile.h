// Step t of the forward pass for one tile: pre-activations by two convolutions, then equations
// (1)-(5) while they are in cache. They are never written to memory.
#pragma once

#include "scratch.h"
#include "short_arithmetic.h"

namespace memx {
namespace MEMX_ISA {

// out[panel][padded pixel][2V] += convolution of a halo image, by whichever algorithm its weights are
// packed for. `transformed` and `products` are scratch.
template <class O, int V>
void convolve(const Convolution<O>& convolution, const Halo<number_t<O>>& halo, const Tile& tile,
              number_t<O>* transformed, accumulate_t<O>* products, accumulate_t<O>* out) {
  if constexpr (depth<O> > 1) {
    convolve_pairs<V>(convolution, halo, tile, transformed, out);
  } else if (convolution.winograd()) {
    transform_input<O, V>(convolution, halo, tile, transformed);
    convolve_winograd<O, V>(convolution, transformed, tile, products, out);
  } else {
    convolve_direct<O, V>(convolution, halo, tile, out);
  }
}

// Every gate starts at its bias, or at the ready-made input gates.
template <class S, class O, int V>
void start_gates(const ForwardStep<S, O>& step, const Tile& tile, accumulate_t<O>* gates) {
  using A = accumulate_t<O>;
  const Sizes& sizes = step.sizes;
  const int64_t width = kPanelVectors * V;
  const int64_t padded_pixels = round_up(tile.pixels(), kBlockRows);
  for (int64_t panel = 0; panel < sizes.gate_columns() / width; ++panel) {
    const A* bias = step.bias + panel * width;
    A* out = gates + panel * padded_pixels * width;
    for (int64_t m = 0; m < padded_pixels; ++m, out += width) {
      for (int64_t j = 0; j < width; ++j) {
        out[j] = bias[j];
      }
    }
  }
  if (step.input_convolution.weights != nullptr) {
    return;
  }
  for (int64_t y = 0; y < tile.rows; ++y) {
    for (int64_t x = 0; x < tile.columns; ++x) {
      const S* in = step.input_frame.at(tile.batch, tile.row + y, tile.column + x);
      for (int64_t block = 0; block < sizes.channel_blocks(); ++block) {
        const int64_t c = block * V;
        const int64_t count = sizes.hidden - c < V ? sizes.hidden - c : V;
        for (int64_t gate = 0; gate < kGates; ++gate) {
          const int64_t vector = block * kGates + gate;
          A* out = gates + (vector / kPanelVectors) * padded_pixels * width +
                   (y * tile.columns + x) * width + (vector % kPanelVectors) * V;
          const S* lane = in + (gate * sizes.hidden + c) * step.input_frame.channel;
          for (int64_t j = 0; j < count; ++j) {
            out[j] += widen(lane[j * step.input_frame.channel]);
          }
        }
      }
    }
  }
}

// What the convolutions see of X_t and of H_{t-1}, the latter times its mask; null where there is no
// convolution, or H_{t-1} is zero.
template <class O>
struct Halos {
  Halo<number_t<O>> input, hidden;
};

template <class S, class O, int V>
Halos<O> gather_halos(const ForwardStep<S, O>& step, const Tile& tile,
                      const ForwardScratch<O, V>& scratch) {
  Halos<O> halos{};
  if (step.input_convolution.weights != nullptr) {
    halos.input = gather_halo<S, O>(step.input_frame, nullptr, step.input_convolution, tile,
                                    scratch.input_halo);
  }
  if (step.hidden_frame.data != nullptr) {
    halos.hidden = gather_halo<S, O>(step.hidden_frame, step.hidden_mask, step.hidden_convolution,
                                     tile, scratch.hidden_halo);
  }
  return halos;
}

// Pre-activations of a part of the tile, without peepholes: [gate panel][padded pixel][2V].
template <class S, class O, int V>
void compute_gates(const ForwardStep<S, O>& step, const Halos<O>& halos, const Tile& tile,
                   const Tile& part, const ForwardScratch<O, V>& scratch) {
  const auto input = halos.input.of_part(tile, part), hidden = halos.hidden.of_part(tile, part);
  if constexpr (depth<O> > 1) {
    if (compute_gates_at_once(step, input, hidden, part, scratch.transformed, scratch.gates)) {
      return;
    }
  }
  start_gates<S, O, V>(step, part, scratch.gates);
  if (input.data != nullptr) {
    convolve<O, V>(step.input_convolution, input, part, scratch.transformed, scratch.products,
                   scratch.gates);
  }
  if (hidden.data != nullptr) {
    convolve<O, V>(step.hidden_convolution, hidden, part, scratch.transformed, scratch.products,
                   scratch.gates);
  }
}

// The pre-activations of one vector of channels of one pixel, from the (i, f) and (g, o) panels.
template <class A, int V>
MEMX_INLINE Gates<vector_t<A, V>> load_gates(const A* if_panel, const A* go_panel) {
  using Vec = vector_t<A, V>;
  return {load<Vec>(if_panel), load<Vec>(if_panel + V), load<Vec>(go_panel),
          load<Vec>(go_panel + V)};
}

template <class A, int V>
MEMX_INLINE Peephole<vector_t<A, V>> load_peephole(const Peepholes<A>& peepholes, int64_t pixel,
                                                   int64_t channel, int64_t count) {
  using Vec = vector_t<A, V>;
  const A* weights = peepholes.weights + pixel * peepholes.pixel_stride + channel;
  return {load_lanes<Vec>(weights, count), load_lanes<Vec>(weights + peepholes.gate_stride, count),
          load_lanes<Vec>(weights + 2 * peepholes.gate_stride, count)};
}

// A vector of channels of a pixel.
template <class Count>
struct Cells {
  int64_t y, x;     // in the image
  int64_t of_part;  // the pixel's position in the part of the tile
  int64_t channel;  // the first
  Count count;      // of channels: all that a vector holds is a constant
};

// Calls body(cells) for all vectors of channels of a part, which are `whole` or may be partly filled.
template <int V, bool whole, class Body>
MEMX_INLINE void for_cells(const Tile& part, int64_t hidden, const Body& body) {
  using Count = std::conditional_t<whole, std::integral_constant<int64_t, V>, int64_t>;
  int64_t pixel = 0;
  for (int64_t y = part.row; y < part.row + part.rows; ++y) {
    for (int64_t x = part.column; x < part.column + part.columns; ++x, ++pixel) {
      for (int64_t c = 0; c < hidden; c += V) {
        Count count{};
        if constexpr (!whole) {
          count = hidden - c < V ? hidden - c : V;
        }
        body(Cells<Count>{y, x, pixel, c, count});
      }
    }
  }
}

// Calls body(output_sees_current, whole, sigmoid), the first two as constants, for the variant of a
// step's equations.
template <int V, class S, class O, class Body>
MEMX_INLINE void for_variants(const ForwardStep<S, O>& step, const Body& body) {
  for_equations<functions_t<S>>(step.peepholes.output_sees_current, step.hard_sigmoid_slope,
                                [&](auto output_sees_current, const auto& sigmoid) {
                                  step.sizes.hidden % V == 0
                                      ? body(output_sees_current, std::true_type{}, sigmoid)
                                      : body(output_sees_current, std::false_type{}, sigmoid);
                                });
}

// Equations (1)-(5) over a part of a tile, of whose pre-activations there are panels. The step is a copy
// that nothing that is stored can change, so that what it says stays in registers.
template <class S, class O, int V, bool output_sees_current, bool whole, class Sigmoid>
void apply_cell(const ForwardStep<S, O> step, const Tile& part, const accumulate_t<O>* gates,
                const Sigmoid& sigmoid) {
  using Vec = vector_t<accumulate_t<O>, V>;
  const int64_t width = kPanelVectors * V, hidden = step.sizes.hidden;
  const int64_t panel_pitch = round_up(part.pixels(), kBlockRows) * width;
  const int64_t image = part.batch * step.sizes.pixels();
  for_cells<V, whole>(part, hidden, [&](const auto& cells) MEMX_INLINE_LAMBDA {
    const int64_t pixel = cells.y * step.sizes.width + cells.x, channel = cells.channel;
    const auto count = cells.count;
    const int64_t at = (image + pixel) * hidden + channel;
    const auto* panel = gates + channel / V * 2 * panel_pitch + cells.of_part * width;
    auto gate = load_gates<accumulate_t<O>, V>(panel, panel + panel_pitch);
    const auto peephole = load_peephole<accumulate_t<O>, V>(step.peepholes, pixel, channel, count);
    const Vec previous =
        step.previous_cell == nullptr ? Vec{} : load_lanes<Vec>(step.previous_cell + at, count);
    const CellState<Vec> state =
        cell_forward(gate, peephole, previous, std::bool_constant<output_sees_current>{}, sigmoid);
    store_lanes(state.cell, count, step.cell + at);
    store_lanes(state.hidden, count, step.hidden + at);
    if (step.gates != nullptr) {
      S* saved = step.gates + (image + pixel) * kGates * hidden + channel;
      store_lanes(gate.i, count, saved);
      store_lanes(gate.f, count, saved + hidden);
      store_lanes(gate.g, count, saved + 2 * hidden);
      store_lanes(gate.o, count, saved + 3 * hidden);
    }
  });
}

template <class S, class O, int V>
void forward_tile(const ForwardStep<S, O>& step, const Tile& tile, char* memory) {
  [[maybe_unused]] const HeldRegisters<O> registers;
  const Tile largest = largest_part(step, tile);
  Arena arena(memory);
  const ForwardScratch<O, V> scratch(arena, step, tile, largest);
  const Halos<O> halos = gather_halos<S, O, V>(step, tile, scratch);
  for_parts(tile, largest, kWholeColumns<O>, [&](const Tile& part) {
    compute_gates<S, O, V>(step, halos, tile, part, scratch);
    for_variants<V>(step, [&](auto output_sees_current, auto whole, const auto& sigmoid) {
      apply_cell<S, O, V, output_sees_current.value, whole.value>(step, part, scratch.gates,
                                                                  sigmoid);
    });
  });
}

template <class S, class O, int V>
int64_t forward_scratch(const ForwardStep<S, O>& step, const Tile& largest) {
  Arena arena(nullptr);
  const ForwardScratch<O, V> scratch(arena, step, largest, largest_part(step, largest));
  return arena.used();
}

}  // namespace MEMX_ISA
}  // namespace memx

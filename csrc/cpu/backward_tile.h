// Step t of the backward pass for one tile. The gradient of H_t is the transposed convolution over
// the gate gradients of step t+1 plus what arrives from above; equations (5)-(1) are differentiated
// while it is in cache, and the tile's share of every parameter gradient is added before the tile's
// gate gradients leave the cache.
#pragma once

#include "forward_tile.h"

namespace memx {
namespace MEMX_ISA {

template <int V, class O>
void clear_panels(const Convolution<O>& convolution, const Tile& tile, accumulate_t<O>* panels) {
  for (int64_t i = 0; i < panel_elements<V>(convolution, tile); ++i) {
    panels[i] = 0;
  }
}

// panels += transposed convolution over the tile's halo of a plane of gate gradients.
template <class O, int V>
void add_transposed_convolution(const Convolution<O>& convolution,
                                const GatePlane<const number_t<O>>& plane, const Sizes& sizes,
                                const Tile& tile, const TransposedScratch<O, V>& scratch) {
  const int64_t columns = sizes.gate_columns();
  const Halo<number_t<O>> halo{plane.data + tile.batch * plane.image +
                                   (tile.row - convolution.pad_rows) * plane.row +
                                   (tile.column - convolution.pad_columns) * columns,
                               plane.row, columns};
  convolve<O, V>(convolution, halo, tile, scratch.transformed, scratch.products, scratch.result);
}

template <class Vec, class N>
MEMX_INLINE void store_gates(const Gates<Vec>& gate, N* if_lanes, N* go_lanes) {
  store_vector(gate.i, if_lanes);
  store_vector(gate.f, if_lanes + lanes<Vec>);
  store_vector(gate.g, go_lanes);
  store_vector(gate.o, go_lanes + lanes<Vec>);
}

// The first value is what the sum starts from.
template <class Vec>
MEMX_INLINE void add_lanes(Vec value, int64_t count, bool first, element_t<Vec>* sum) {
  store_lanes(first ? value : load_lanes<Vec>(sum, count) + value, count, sum);
}

// Differentiates equations (5)-(1): turns the gradient of H_t into the gate gradients of the part,
// kept in `gates` (which holds pre-activations when gates are recomputed) and written to the plane. The
// step and the gradient are copies, as in apply_cell().
template <class S, class O, int V, bool output_sees_current, bool whole, class Sigmoid>
void differentiate_cell(const BackwardStep<S, O> step,
                        const PeepholeGradient<accumulate_t<O>> peephole_gradient, const Tile& tile,
                        const Tile& part, const accumulate_t<O>* hidden_gradient,
                        accumulate_t<O>* gates, const Sigmoid& sigmoid) {
  using A = accumulate_t<O>;
  using Vec = vector_t<A, V>;
  constexpr std::bool_constant<output_sees_current> sees_current;
  const ForwardStep<S, O>& forward = step.forward;
  const int64_t width = kPanelVectors * V, hidden = forward.sizes.hidden;
  const int64_t gate_columns = forward.sizes.gate_columns();
  const int64_t panel_pitch = round_up(part.pixels(), kBlockRows) * width;
  const int64_t image = tile.batch * forward.sizes.pixels();
  number_t<O>* const image_plane = step.gate_gradient.data + tile.batch * step.gate_gradient.image;
  for_cells<V, whole>(part, hidden, [&](const auto& cells) MEMX_INLINE_LAMBDA {
    const int64_t pixel = cells.y * forward.sizes.width + cells.x, channel = cells.channel;
    const auto count = cells.count;
    const int64_t at = (image + pixel) * hidden + channel, vector = channel / V;
    A* const panel = gates + vector * 2 * panel_pitch + cells.of_part * width;
    const auto peephole = load_peephole<A, V>(forward.peepholes, pixel, channel, count);
    const Vec previous = forward.previous_cell == nullptr
                             ? Vec{}
                             : load_lanes<Vec>(forward.previous_cell + at, count);
    const Vec cell = load_lanes<Vec>(step.cell + at, count);
    Gates<Vec> gate;
    if (forward.gates == nullptr) {
      gate = load_gates<A, V>(panel, panel + panel_pitch);
      cell_forward(gate, peephole, previous, sees_current, sigmoid);
    } else {
      const S* saved = forward.gates + (image + pixel) * kGates * hidden + channel;
      gate = {load_lanes<Vec>(saved, count), load_lanes<Vec>(saved + hidden, count),
              load_lanes<Vec>(saved + 2 * hidden, count),
              load_lanes<Vec>(saved + 3 * hidden, count)};
    }
    const A* hidden_lane = hidden_gradient + vector / kPanelVectors * panel_pitch +
                           cells.of_part * width + vector % kPanelVectors * V;
    Vec cell_gradient = step.next_cell_gradient == nullptr
                            ? Vec{}
                            : load_lanes<Vec>(step.next_cell_gradient + at, count);
    const Gates<Vec> d = cell_backward(gate, peephole, previous, cell, load<Vec>(hidden_lane),
                                       cell_gradient, sees_current, sigmoid);
    store_lanes(cell_gradient, count, step.cell_gradient + at);
    store_gates(d, panel, panel + panel_pitch);
    number_t<O>* const plane = image_plane + cells.y * step.gate_gradient.row +
                               cells.x * gate_columns + vector * kGates * V;
    store_gates(d, plane, plane + 2 * V);
    if (peephole_gradient.data != nullptr) {
      A* const sum = peephole_gradient.at(tile, cells.y, cells.x) + channel;
      const bool first = peephole_gradient.first;
      add_lanes(d.i * previous, count, first, sum);
      add_lanes(d.f * previous, count, first, sum + peephole_gradient.gate);
      add_lanes(d.o * (output_sees_current ? cell : previous), count, first,
                sum + 2 * peephole_gradient.gate);
    }
  });
}

// Gate gradients of ready-made input gates, in the layout [B, 4*C, H, W] they came in.
template <class S, class A, int V>
void store_gate_gradient(const A* gates, const Sizes& sizes, const Tile& tile,
                         const Frame<S>& frame) {
  const int64_t width = kPanelVectors * V;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t m = 0; m < tile.pixels(); ++m) {
    S* out = frame.at(tile.batch, tile.row + m / tile.columns, tile.column + m % tile.columns);
    for (int64_t vector = 0; vector < sizes.channel_blocks() * kGates; ++vector) {
      const A* in =
          gates + (vector / kPanelVectors) * panel_pitch + m * width + (vector % kPanelVectors) * V;
      const int64_t c = vector / kGates * V;
      const int64_t gate = vector % kGates;
      for (int64_t j = 0; j < V && c + j < sizes.hidden; ++j) {
        narrow(in[j], out[(gate * sizes.hidden + c + j) * frame.channel]);
      }
    }
  }
}

// gradient += the tile's share for the weights of the convolution of a halo image.
template <class S, class O, int V>
void add_weight_gradient(const ForwardStep<S, O>& step, const Convolution<O>& convolution,
                         const Halo<number_t<O>>& halo, const Tile& tile,
                         const BackwardScratch<O, V>& scratch, accumulate_t<O>* gradient) {
  const ForwardScratch<O, V>& forward = scratch.forward;
  if constexpr (depth<O> > 1) {
    add_pair_gradient<S, V>(step, convolution, halo, tile, forward.transformed,
                            scratch.halo_operands, scratch.gate_operands, gradient);
  } else if (convolution.winograd()) {
    transform_input<O, V>(convolution, halo, tile, forward.transformed);
    weight_gradient_winograd<O, V>(convolution, forward.transformed, tile, forward.gates,
                                   forward.products, gradient);
  } else {
    const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * kPanelVectors * V;
    weight_gradient_direct<O, V>(
        convolution,
        {{halo.data, tile.rows, tile.columns, halo.row_pitch, halo.pixel_pitch},
         forward.gates,
         panel_pitch},
        gradient);
  }
}

// Four sums a column, over every fourth pixel: short chains of additions, and independent ones.
template <class A, int V>
void add_bias_gradient(const Sizes& sizes, const Tile& tile, const A* gates, A* gradient) {
  using Vec = vector_t<A, V>;
  constexpr int64_t width = kPanelVectors * V, ways = 4;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t column = 0; column < sizes.gate_columns(); column += V) {
    const A* in = gates + column / width * panel_pitch + column % width;
    Vec sum[ways] = {};
    int64_t m = 0;
    for (; m + ways <= tile.pixels(); m += ways) {
#pragma GCC unroll 4
      for (int64_t way = 0; way < ways; ++way) {
        sum[way] += load<Vec>(in + (m + way) * width);
      }
    }
    for (; m < tile.pixels(); ++m) {
      sum[0] += load<Vec>(in + m * width);
    }
    store((sum[0] + sum[1]) + (sum[2] + sum[3]) + load<Vec>(gradient + column), gradient + column);
  }
}

// The gradient of H_t of a part of the tile, from above and from step t+1: [panel][padded pixel][2V].
// What comes from step t+1 is masked, if anything, and so comes first there.
template <class S, class O, int V>
void compute_hidden_gradient(const BackwardStep<S, O>& step, const Tile& part,
                             const TransposedScratch<O, V>& scratch) {
  const Sizes& sizes = step.forward.sizes;
  const bool convolved = step.next_gate_gradient.data != nullptr;
  const bool masked = convolved && step.forward.hidden_mask != nullptr;
  const bool from_above = step.output_gradient.data != nullptr;
  const auto convolve_plane = [&] {
    add_transposed_convolution<O, V>(step.hidden_transposed, step.next_gate_gradient, sizes, part,
                                     scratch);
  };
  if (masked || !from_above) {
    clear_panels<V>(step.hidden_transposed, part, scratch.result);
  }
  if (masked) {
    convolve_plane();
    multiply_by_image<V>(step.forward.hidden_mask, sizes, part, scratch.result);
  }
  if (from_above) {
    add_frame<V>(step.output_gradient, sizes.hidden, part, !masked, scratch.result);
  }
  if (step.final_gradient.data != nullptr) {
    add_frame<V>(step.final_gradient, sizes.hidden, part, false, scratch.result);
  }
  if (convolved && !masked) {
    convolve_plane();
  }
}

// A part of the tile: its gate gradients, and all gradients but those of the weights.
template <class S, class O, int V>
void differentiate_part(const BackwardStep<S, O>& step, const Halos<O>& halos,
                        const ParameterGradients<accumulate_t<O>>& parameters, const Tile& tile,
                        const Tile& part, const BackwardScratch<O, V>& scratch) {
  using A = accumulate_t<O>;
  const ForwardStep<S, O>& forward = step.forward;
  A* const gates = scratch.forward.gates;
  compute_hidden_gradient<S, O, V>(step, part, scratch.transposed);
  if (forward.gates == nullptr) {
    compute_gates<S, O, V>(forward, halos, tile, part, scratch.forward);
  }
  for_variants<V>(forward, [&](auto output_sees_current, auto whole, const auto& sigmoid) {
    differentiate_cell<S, O, V, output_sees_current.value, whole.value>(
        step, parameters.peepholes, tile, part, scratch.transposed.result, gates, sigmoid);
  });
  if (step.input_gates_gradient.data != nullptr) {
    store_gate_gradient<S, A, V>(gates, forward.sizes, part, step.input_gates_gradient);
  }
  if (parameters.bias != nullptr) {
    add_bias_gradient<A, V>(forward.sizes, part, gates, parameters.bias);
  }
}

// Some rows of the tile: all its gradients.
template <class S, class O, int V>
void differentiate_rows(const BackwardStep<S, O>& step,
                        const ParameterGradients<accumulate_t<O>>& parameters, const Tile& tile,
                        const Tile& largest, const BackwardScratch<O, V>& scratch) {
  const ForwardStep<S, O>& forward = step.forward;
  const bool to_input = parameters.input_weights != nullptr;
  const bool to_hidden = parameters.hidden_weights != nullptr;
  const bool to_weights = to_input || to_hidden;
  const bool sees_frames = forward.gates == nullptr || to_weights;
  const Halos<O> halos =
      sees_frames ? gather_halos<S, O, V>(forward, tile, scratch.forward) : Halos<O>{};
  if constexpr (depth<O> > 1) {
    if (to_weights) {
      start_gate_pairs<S, V>(forward, tile, scratch.gate_operands);
    }
  }
  for_parts(tile, largest, kWholeColumns<O>, [&](const Tile& part) {
    differentiate_part<S, O, V>(step, halos, parameters, tile, part, scratch);
    if constexpr (depth<O> > 1) {
      if (to_weights) {
        pair_gates<S, V>(forward, tile, part, scratch.forward.gates, scratch.gate_operands);
      }
    }
  });
  if (to_input) {
    add_weight_gradient<S, O, V>(forward, forward.input_convolution, halos.input, tile, scratch,
                                 parameters.input_weights);
  }
  if (to_hidden && halos.hidden.data != nullptr) {
    add_weight_gradient<S, O, V>(forward, forward.hidden_convolution, halos.hidden, tile, scratch,
                                 parameters.hidden_weights);
  }
}

// As many rows of a tile as are differentiated at once.
template <class S, class O>
Tile largest_rows(const ForwardStep<S, O>& step, const Tile& tile) {
  return {tile.batch, tile.row, tile.column, rows_at_once(step, tile), tile.columns};
}

template <class S, class O, int V>
void backward_tile(const BackwardStep<S, O>& step,
                   const ParameterGradients<accumulate_t<O>>& parameters, const Tile& tile,
                   char* memory) {
  [[maybe_unused]] const HeldRegisters<O> registers;
  const Tile rows = largest_rows(step.forward, tile), part = largest_part(step.forward, rows);
  Arena arena(memory);
  const BackwardScratch<O, V> scratch(arena, step, rows, part);
  for_parts(tile, rows, tile.columns, [&](const Tile& some) {
    differentiate_rows<S, O, V>(step, parameters, some, part, scratch);
  });
}

template <class S, class O, int V>
int64_t backward_scratch(const BackwardStep<S, O>& step, const Tile& largest) {
  Arena arena(nullptr);
  const Tile rows = largest_rows(step.forward, largest);
  const BackwardScratch<O, V> scratch(arena, step, rows, largest_part(step.forward, rows));
  return arena.used();
}

// A tile of the gradient of X_t or H_0. Its pixels are those of the frame, of which there are more
// than of the states where the convolution was not padded to the same size.
template <class S, class O, int V>
void frame_gradient_tile(const FrameGradientStep<S, O>& step, const Tile& tile, char* memory) {
  [[maybe_unused]] const HeldRegisters<O> registers;
  Arena arena(memory);
  const TransposedScratch<O, V> scratch(arena, step.transposed, tile);
  clear_panels<V>(step.transposed, tile, scratch.result);
  add_transposed_convolution<O, V>(step.transposed, step.gate_gradient, step.sizes, tile, scratch);
  store_frame<V>(scratch.result, step.channels, tile, step.gradient);
}

template <class S, class O, int V>
int64_t frame_gradient_scratch(const FrameGradientStep<S, O>& step, const Tile& largest) {
  Arena arena(nullptr);
  const TransposedScratch<O, V> scratch(arena, step.transposed, largest);
  return arena.used();
}

}  // namespace MEMX_ISA
}  // namespace memx

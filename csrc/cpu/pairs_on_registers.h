// Convolutions and weight gradients of operands that are pairs of numbers, on matrix registers: the
// functions of pairs_on_vectors.h.
#pragma once

#include "matrix_gradient.h"

namespace memx {
namespace MEMX_ISA {

template <>
struct HeldRegisters<Bfloat16Pair> {
  HeldRegisters() { shape_in_use() = {}; }
  ~HeldRegisters() { _tile_release(); }
};

// Parts whose gates stay in the first-level cache, of a few whole registers' rows: it takes as long as
// hundreds of sums to give the registers another shape. All weights are read for every part: those that
// fill the second-level cache want larger ones.
template <class S>
Tile largest_part(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile) {
  constexpr int64_t kMostWeights = 512 * 1024;
  const auto& h = step.hidden_convolution;
  if (h.panels * kPanelWidth * h.numbers() > kMostWeights) {
    return tile;
  }
  return {tile.batch, tile.row, tile.column, 2, 2 * kRegisterRows};
}
template <>
constexpr int64_t kWholeColumns<Bfloat16Pair> = kRegisterRows;

// Numbers of scratch for what convolve_pairs() makes of a halo image.
inline int64_t gathered_elements(const Convolution<Bfloat16Pair>& convolution, const Tile& tile) {
  return convolution.gathered() ? tile.pixels() * convolution.of_gathered().in_channels + kHaloSlack
                                : 0;
}

inline SeenBy seen_by(const Convolution<Bfloat16Pair>& convolution, const Halo<Bfloat16>& halo,
                      const Tile& tile, Bfloat16* gathered) {
  if (convolution.gathered()) {
    return {convolution.of_gathered(), gather_kernels(convolution, halo, tile, gathered)};
  }
  return {convolution, halo};
}

// out[panel][padded pixel][2V] += convolution of a halo image.
template <int V>
void convolve_pairs(const Convolution<Bfloat16Pair>& convolution, const Halo<Bfloat16>& halo,
                    const Tile& tile, Bfloat16* gathered, float* out) {
  static_assert(V == kRegisterRows);
  const SeenBy seen = seen_by(convolution, halo, tile, gathered);
  convolve_registers(&seen, 1, tile, nullptr, out);
}

// Both convolutions of a part of a tile at once, from the bias on: false where there is but one, or no
// scratch to gather both in. An image that is null is not there.
template <class S>
bool compute_gates_at_once(const ForwardStep<S, Bfloat16Pair>& step, const Halo<Bfloat16>& input,
                           const Halo<Bfloat16>& hidden, const Tile& part, Bfloat16* gathered,
                           float* gates) {
  const auto& x = step.input_convolution;
  const auto& h = step.hidden_convolution;
  if (input.data == nullptr || hidden.data == nullptr || (x.gathered() && h.gathered())) {
    return false;
  }
  const SeenBy seen[2] = {seen_by(x, input, part, gathered), seen_by(h, hidden, part, gathered)};
  convolve_registers(seen, 2, part, step.bias, gates);
  return true;
}

// Pairs of scratch for the halo image of a weight gradient, and for a tile's gate gradients.
template <class S>
int64_t halo_pairs(const ForwardStep<S, Bfloat16Pair>& step,
                   const Convolution<Bfloat16Pair>& convolution, const Tile& tile) {
  const PixelRun run = pixel_run(step, tile);
  return (convolution.gathered() ? convolution.numbers() * run.channel_pitch(1, 1)
                                 : convolution.in_channels *
                                       run.channel_pitch(convolution.height, convolution.width)) /
         depth<Bfloat16Pair>;
}
template <class S, int V>
int64_t gate_pairs(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile) {
  return step.hidden_convolution.panels * kPanelWidth * pixel_run(step, tile).pixels() /
         depth<Bfloat16Pair>;
}

// Gate gradients as the right operands of the tile's weight gradients: first the zeros where the run
// leaves the tile, then part by part.
template <class S, int V>
void start_gate_pairs(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile,
                      Bfloat16Pair* out) {
  clear_between_rows(step.hidden_convolution.panels, tile, pixel_run(step, tile), out);
}
template <class S, int V>
void pair_gates(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile, const Tile& part,
                const float* gates, Bfloat16Pair* out) {
  pair_run(gates, step.hidden_convolution.panels, tile, part, pixel_run(step, tile), out);
}

// gradient += the tile's share for the weights of a convolution of a halo image.
template <class S, int V>
void add_pair_gradient(const ForwardStep<S, Bfloat16Pair>& step,
                       const Convolution<Bfloat16Pair>& convolution, const Halo<Bfloat16>& halo,
                       const Tile& tile, Bfloat16* gathered, Bfloat16Pair* halo_pairs,
                       const Bfloat16Pair* gate_pairs, float* gradient) {
  const PixelRun run = pixel_run(step, tile);
  Bfloat16* const left = &halo_pairs->first;
  if (convolution.gathered()) {
    const int64_t numbers = convolution.numbers();
    transpose_image(gather_kernels(convolution, halo, tile, gathered), tile.rows, tile.columns,
                    numbers, run, run.channel_pitch(1, 1), left);
    weight_gradient_registers(1, 1, numbers, convolution.panels, run, left, gate_pairs, gradient);
  } else {
    const HaloExtent extent(convolution, tile);
    transpose_image(halo, extent.rows, extent.columns, convolution.in_channels, run,
                    run.channel_pitch(convolution.height, convolution.width), left);
    weight_gradient_registers(convolution.height, convolution.width, convolution.in_channels,
                              convolution.panels, run, left, gate_pairs, gradient);
  }
}

}  // namespace MEMX_ISA
}  // namespace memx

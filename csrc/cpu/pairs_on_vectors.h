// Convolutions and weight gradients of operands that are pairs of numbers, on vectors. The same
// functions on matrix registers are in pairs_on_registers.h; an instruction set has one or the other.
#pragma once

#include "gather.h"

namespace memx {
namespace MEMX_ISA {

// Numbers of scratch for what convolve_pairs() makes of a halo image: none.
inline int64_t gathered_elements(const Convolution<Bfloat16Pair>&, const Tile&) { return 0; }

// out[panel][padded pixel][2V] += convolution of a halo image.
template <int V>
void convolve_pairs(const Convolution<Bfloat16Pair>& convolution, const Halo<Bfloat16>& halo,
                    const Tile& tile, Bfloat16*, float* out) {
  convolve_direct<Bfloat16Pair, V>(convolution, halo, tile, out);
}

// Each number of a halo image beside that of the pixel to its right, [rows][columns][channels]; zero
// beside the last column.
inline Halo<Bfloat16Pair> pair_columns(const Halo<Bfloat16>& in, const HaloExtent& extent,
                                       Bfloat16Pair* out) {
  const int64_t pitch = in.row_pitch, channels = in.pixel_pitch;
  for (int64_t row = 0; row < extent.rows; ++row) {
    const Bfloat16* from = in.data + row * pitch;
    Bfloat16Pair* to = out + row * pitch;
    for (int64_t i = 0; i < pitch - channels; ++i) {
      to[i] = {from[i], from[i + channels]};
    }
    for (int64_t i = pitch - channels; i < pitch; ++i) {
      to[i] = {from[i], Bfloat16{}};
    }
  }
  return {out, pitch, channels};
}

// [panel][padded pixel][2V] -> [panel][tile row][pair of columns][2V] pairs; zero beside an odd row's
// last pixel.
template <int V>
void pair_panels(const float* panels, int64_t count, const Tile& tile, Bfloat16Pair* out) {
  constexpr int64_t width = kPanelVectors * V;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t panel = 0; panel < count; ++panel) {
    for (int64_t y = 0; y < tile.rows; ++y) {
      const float* in = panels + panel * panel_pitch + y * tile.columns * width;
      for (int64_t x = 0; x + 1 < tile.columns; x += 2, in += 2 * width, out += width) {
        for (int64_t j = 0; j < width; ++j) {
          narrow(in[j], out[j].first);
          narrow(in[width + j], out[j].second);
        }
      }
      if (tile.columns % 2 != 0) {
        for (int64_t j = 0; j < width; ++j, ++out) {
          narrow(in[j], out->first);
          out->second = Bfloat16{};
        }
      }
    }
  }
}

// Vectors have no way to compute both convolutions of a part of a tile at once.
template <class S>
bool compute_gates_at_once(const ForwardStep<S, Bfloat16Pair>&, const Halo<Bfloat16>&,
                           const Halo<Bfloat16>&, const Tile&, Bfloat16*, float*) {
  return false;
}

// Pairs of scratch for the halo image of a weight gradient, and for a tile's gate gradients.
template <class S>
int64_t halo_pairs(const ForwardStep<S, Bfloat16Pair>&,
                   const Convolution<Bfloat16Pair>& convolution, const Tile& tile) {
  return halo_elements(convolution, tile);
}
template <class S, int V>
int64_t gate_pairs(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile) {
  return step.hidden_convolution.panels * kPanelVectors * V * tile.rows * ceil_div(tile.columns, 2);
}

// Gate gradients as the right operands of the tile's weight gradients: part by part, of which there
// is one.
template <class S, int V>
void start_gate_pairs(const ForwardStep<S, Bfloat16Pair>&, const Tile&, Bfloat16Pair*) {}
template <class S, int V>
void pair_gates(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile, const Tile&,
                const float* gates, Bfloat16Pair* out) {
  pair_panels<V>(gates, step.hidden_convolution.panels, tile, out);
}

// gradient += the tile's share for the weights of a convolution of a halo image.
template <class S, int V>
void add_pair_gradient(const ForwardStep<S, Bfloat16Pair>&,
                       const Convolution<Bfloat16Pair>& convolution, const Halo<Bfloat16>& halo,
                       const Tile& tile, Bfloat16*, Bfloat16Pair* halo_pairs,
                       const Bfloat16Pair* gate_pairs, float* gradient) {
  const Halo<Bfloat16Pair> pairs = pair_columns(halo, HaloExtent(convolution, tile), halo_pairs);
  const int64_t columns = ceil_div(tile.columns, 2);
  weight_gradient_direct<Bfloat16Pair, V>(
      convolution,
      {{pairs.data, tile.rows, columns, pairs.row_pitch, 2 * pairs.pixel_pitch},
       &gate_pairs->first,
       tile.rows * columns * kPanelVectors * V * 2},
      gradient);
}

}  // namespace MEMX_ISA
}  // namespace memx

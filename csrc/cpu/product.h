// The matrix products under every convolution: register blocks of 6 pixels by two vectors.
//
// The left operand is never gathered into columns. In a halo image of `channels` numbers a pixel
// the kw * channels numbers under one row of the kernel are contiguous, so that row of the kernel
// is an ordinary product whose operand rows overlap, and a convolution is kh such products summed.
#pragma once

#include "step.h"
#include "storage.h"

namespace memx {
namespace MEMX_ISA {

// An image whose pixels include the border a convolution sees. `data` is the pixel under the first
// tap of the first output pixel.
template <class A>
struct Halo {
  const A* data;
  int64_t row_pitch;    // elements from one row to the next
  int64_t pixel_pitch;  // elements from one pixel to the next: the channel count
};

// Register blocks: `sum` starts at zero, so that a long total is never what small products are
// added to; the block then goes to memory as it is, or is added to what is there.
template <class A, int V>
using RegisterBlock = vector_t<A, V>[kBlockRows][kPanelVectors];

template <class A, int V>
MEMX_INLINE void multiply_add(const A (&value)[kBlockRows], const A* right,
                              RegisterBlock<A, V>& sum) {
  const vector_t<A, V> right0 = load<vector_t<A, V>>(right);
  const vector_t<A, V> right1 = load<vector_t<A, V>>(right + V);
#pragma GCC unroll 6
  for (int i = 0; i < kBlockRows; ++i) {
    sum[i][0] += value[i] * right0;
    sum[i][1] += value[i] * right1;
  }
}

template <class A, int V, bool accumulate>
MEMX_INLINE void finish_block(RegisterBlock<A, V>& sum, A* out) {
#pragma GCC unroll 6
  for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j, out += V) {
      store(accumulate ? load<vector_t<A, V>>(out) + sum[i][j] : sum[i][j], out);
    }
  }
}

// out[6][2V] (+)= sum over `runs` of left[6][length] * panel[length][2V], each run `run_pitch` on.
template <class A, int V, bool accumulate>
MEMX_INLINE void multiply_block(const A* const (&left)[kBlockRows], int64_t runs, int64_t length,
                                int64_t run_pitch, const A* panel, A* out) {
  RegisterBlock<A, V> sum = {};
  const A *row0 = left[0], *row1 = left[1], *row2 = left[2];
  const A *row3 = left[3], *row4 = left[4], *row5 = left[5];
  for (int64_t run = 0; run < runs; ++run) {
    for (int64_t k = 0; k < length; ++k) {
      multiply_add<A, V>({row0[k], row1[k], row2[k], row3[k], row4[k], row5[k]}, panel, sum);
      panel += kPanelVectors * V;
    }
    row0 += run_pitch, row1 += run_pitch, row2 += run_pitch;
    row3 += run_pitch, row4 += run_pitch, row5 += run_pitch;
  }
  finish_block<A, V, accumulate>(sum, out);
}

// out[6][2V] += sum over pixels of left[pixel][6]^T * right[pixel][2V]: a block of a weight
// gradient. Right operand pixels are contiguous; the left ones are rows x columns of a halo image.
// Reads six numbers from every left pixel even where fewer are wanted.
template <class A, int V>
MEMX_INLINE void outer_block(const A* left, int64_t rows, int64_t columns, int64_t row_pitch,
                             int64_t pixel_pitch, const A* right, A* out) {
  RegisterBlock<A, V> sum = {};
  for (int64_t y = 0; y < rows; ++y) {
    const A* pixel = left + y * row_pitch;
    for (int64_t x = 0; x < columns; ++x) {
      multiply_add<A, V>({pixel[0], pixel[1], pixel[2], pixel[3], pixel[4], pixel[5]}, right, sum);
      pixel += pixel_pitch;
      right += kPanelVectors * V;
    }
  }
  finish_block<A, V, true>(sum, out);
}

// Sums of about this many products are kept apart: it bounds the rounding error of large kernels,
// and keeps the part of a weight panel in use small enough for the first-level cache.
constexpr int64_t kLongestSum = 192;

// The six left rows of the block of pixels that starts at `first`, under one row of the kernel;
// past the tile's end the last pixel is repeated, and its products land in padding rows of the
// output.
template <class A>
MEMX_INLINE void block_rows(const Halo<A>& in, const Tile& tile, int64_t first, int64_t kernel_row,
                            const A* (&left)[kBlockRows]) {
  int64_t y = first / tile.columns;
  int64_t x = first - y * tile.columns;
  for (int i = 0; i < kBlockRows; ++i) {
    left[i] = in.data + (y + kernel_row) * in.row_pitch + x * in.pixel_pitch;
    if (first + i + 1 < tile.pixels()) {
      if (++x == tile.columns) {
        x = 0, ++y;
      }
    }
  }
}

// out[panel][padded pixel][2V] += convolution of the tile.
template <class A, int V>
void convolve_direct(const Convolution<A>& convolution, const Halo<A>& in, const Tile& tile,
                     A* out) {
  const int64_t width = kPanelVectors * V;
  const int64_t padded_pixels = round_up(tile.pixels(), kBlockRows);
  const int64_t length = convolution.width * convolution.in_channels;
  const int64_t most_runs = ceil_div(kLongestSum, length);
  const A* weights = convolution.weights;
  for (int64_t panel = 0; panel < convolution.panels; ++panel) {
    A* panel_out = out + panel * padded_pixels * width;
    for (int64_t ky = 0; ky < convolution.height; ky += most_runs) {
      const int64_t left_over = convolution.height - ky;
      const int64_t runs = left_over < most_runs ? left_over : most_runs;
      for (int64_t first = 0; first < tile.pixels(); first += kBlockRows) {
        const A* left[kBlockRows];
        block_rows(in, tile, first, ky, left);
        multiply_block<A, V, true>(left, runs, length, in.row_pitch, weights,
                                   panel_out + first * width);
      }
      weights += runs * length * width;
    }
  }
}

// gradient[panel][kernel row][kernel column * in channel, padded to 6][2V] += the tile's share.
template <class A, int V>
void weight_gradient_direct(const Convolution<A>& convolution, const Halo<A>& in, const Tile& tile,
                            const A* gate_gradient, A* gradient) {
  const int64_t width = kPanelVectors * V;
  const int64_t padded_pixels = round_up(tile.pixels(), kBlockRows);
  const int64_t padded_length = round_up(convolution.width * convolution.in_channels, kBlockRows);
  for (int64_t panel = 0; panel < convolution.panels; ++panel) {
    const A* right = gate_gradient + panel * padded_pixels * width;
    for (int64_t ky = 0; ky < convolution.height; ++ky) {
      for (int64_t k = 0; k < padded_length; k += kBlockRows) {
        outer_block<A, V>(in.data + ky * in.row_pitch + k, tile.rows, tile.columns, in.row_pitch,
                          in.pixel_pitch, right, gradient);
        gradient += kBlockRows * width;
      }
    }
  }
}

}  // namespace MEMX_ISA
}  // namespace memx

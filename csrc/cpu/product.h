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

// What a thread holds while it computes tiles of an operand: nothing, but for matrix registers.
template <class O>
struct HeldRegisters {};

// What at most should go through the equations at a time: all of a tile, but for matrix registers.
template <class S, class O>
Tile largest_part(const ForwardStep<S, O>&, const Tile& tile) {
  return tile;
}
// The columns that such a part should have a multiple of.
template <class O>
constexpr int64_t kWholeColumns = 1;

// How many rows of a tile the backward pass goes through before it adds their weight gradients.
template <class S, class O>
int64_t rows_at_once(const ForwardStep<S, O>&, const Tile& tile) {
  return tile.rows;
}

MEMX_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// An image whose pixels include the border a convolution sees. `data` is the pixel under the first
// tap of the first output pixel; N is a number, or an operand.
template <class N>
struct Halo {
  const N* data;
  int64_t row_pitch;    // elements from one row to the next
  int64_t pixel_pitch;  // elements from one pixel to the next: the channel count

  // That of a part of the tile; null stays null.
  Halo of_part(const Tile& tile, const Tile& part) const {
    if (data == nullptr) {
      return *this;
    }
    return {data + (part.row - tile.row) * row_pitch + (part.column - tile.column) * pixel_pitch,
            row_pitch, pixel_pitch};
  }
};

// Panels that share the left operands of a register block. With the 32 registers of AVX-512 two
// panels' worth of accumulators fit, and hide the latency of the additions better than one.
template <class A, int V>
constexpr int64_t kMostPanels = V * sizeof(A) == 64 ? 2 : 1;

// Register blocks: `sum` starts at zero, so that a long total is never what small products are
// added to; the block then goes to memory as it is, or is added to what is there.
template <class A, int V, int P>
using RegisterBlock = vector_t<A, V>[P][kBlockRows][kPanelVectors];

template <class A, int V>
MEMX_INLINE void multiply_add(A left, const A* right, vector_t<A, V>& sum) {
  sum += left * load<vector_t<A, V>>(right);
}

#if defined(MEMX_BFLOAT16_PAIRS)
template <class A, int V>
MEMX_INLINE void multiply_add(Bfloat16Pair left, const Bfloat16* right, vector_t<A, V>& sum) {
  const __m512i pairs = _mm512_set1_epi32(__builtin_bit_cast(int, left));
  sum = vector_t<A, V>(
      _mm512_dpbf16_ps(__m512(sum), __m512bh(pairs), __m512bh(_mm512_loadu_si512(right))));
}
#endif

// sum += the outer product of six operands and a row of each of P panels.
template <class O, int V, int P>
MEMX_INLINE void multiply_add_row(const O (&left)[kBlockRows], const number_t<O>* right,
                                  int64_t panel_pitch, RegisterBlock<accumulate_t<O>, V, P>& sum) {
#pragma GCC unroll 6
  for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) {
        multiply_add<accumulate_t<O>, V>(left[i], right + p * panel_pitch + j * V * depth<O>,
                                         sum[p][i][j]);
      }
    }
  }
}

template <class A, int V, int P, bool accumulate>
MEMX_INLINE void finish_block(RegisterBlock<A, V, P>& sum, A* out, int64_t panel_pitch) {
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
    A* row = out + p * panel_pitch;
#pragma GCC unroll 6
    for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j, row += V) {
        store(accumulate ? load<vector_t<A, V>>(row) + sum[p][i][j] : sum[p][i][j], row);
      }
    }
  }
}

template <class O>
MEMX_INLINE O load_operand(const number_t<O>* numbers) {
  O operand;
  __builtin_memcpy(&operand, numbers, sizeof(O));
  return operand;
}

// The last number of a run that ends within an operand. What lies behind it may be NaN.
template <class O>
MEMX_INLINE O load_half_operand(const number_t<O>* number) {
  return {*number, number_t<O>{}};
}

// Runs of numbers in each of six left rows.
struct Runs {
  int64_t count, length;
  int64_t pitch;  // from one run to the next in the left rows
};

// For each of P panels: out[6][2V] (+)= sum over the runs of left[6][length] * panel[length][2V].
template <class O, int V, int P, bool accumulate>
MEMX_INLINE void multiply_block(const number_t<O>* const (&left)[kBlockRows], const Runs& runs,
                                const number_t<O>* panel, int64_t panel_pitch, accumulate_t<O>* out,
                                int64_t out_pitch) {
  RegisterBlock<accumulate_t<O>, V, P> sum = {};
  const number_t<O>*row0 = left[0], *row1 = left[1], *row2 = left[2];
  const number_t<O>*row3 = left[3], *row4 = left[4], *row5 = left[5];
  for (int64_t run = 0; run < runs.count; ++run) {
    int64_t k = 0;
    for (; k + depth<O> <= runs.length; k += depth<O>) {
      multiply_add_row<O, V, P>(
          {load_operand<O>(row0 + k), load_operand<O>(row1 + k), load_operand<O>(row2 + k),
           load_operand<O>(row3 + k), load_operand<O>(row4 + k), load_operand<O>(row5 + k)},
          panel, panel_pitch, sum);
      panel += kPanelVectors * V * depth<O>;
    }
    if constexpr (depth<O> > 1) {
      if (k < runs.length) {
        multiply_add_row<O, V, P>({load_half_operand<O>(row0 + k), load_half_operand<O>(row1 + k),
                                   load_half_operand<O>(row2 + k), load_half_operand<O>(row3 + k),
                                   load_half_operand<O>(row4 + k), load_half_operand<O>(row5 + k)},
                                  panel, panel_pitch, sum);
        panel += kPanelVectors * V * depth<O>;
      }
    }
    row0 += runs.pitch, row1 += runs.pitch, row2 += runs.pitch;
    row3 += runs.pitch, row4 += runs.pitch, row5 += runs.pitch;
  }
  finish_block<accumulate_t<O>, V, P, accumulate>(sum, out, out_pitch);
}

// Pixels of an image of operands, `columns` in a row.
template <class O>
struct Pixels {
  const O* data;
  int64_t rows, columns;
  int64_t row_pitch, pixel_pitch;
};

// For each of P panels: out[6][2V] += sum over pixels of left[pixel][6]^T * right[pixel][2V], a block
// of a weight gradient. Right operand pixels are contiguous. Reads six operands from every left pixel
// even where fewer are wanted.
template <class O, int V, int P>
MEMX_INLINE void outer_block(const Pixels<O>& left, const number_t<O>* right, int64_t right_pitch,
                             accumulate_t<O>* out, int64_t out_pitch) {
  RegisterBlock<accumulate_t<O>, V, P> sum = {};
  for (int64_t y = 0; y < left.rows; ++y) {
    const O* pixel = left.data + y * left.row_pitch;
    for (int64_t x = 0; x < left.columns; ++x) {
      multiply_add_row<O, V, P>({pixel[0], pixel[1], pixel[2], pixel[3], pixel[4], pixel[5]}, right,
                                right_pitch, sum);
      pixel += left.pixel_pitch;
      right += kPanelVectors * V * depth<O>;
    }
  }
  finish_block<accumulate_t<O>, V, P, true>(sum, out, out_pitch);
}

// Calls body(first panel, number of panels as a constant) until all panels are done.
template <class A, int V, class Body>
MEMX_INLINE void for_panels(int64_t panels, const Body& body) {
  constexpr int64_t most = kMostPanels<A, V>;
  int64_t panel = 0;
  for (; panel + most <= panels; panel += most) {
    body(panel, std::integral_constant<int, most>{});
  }
  for (; panel < panels; ++panel) {
    body(panel, std::integral_constant<int, 1>{});
  }
}

// Sums of at most about this many numbers are kept apart: it bounds the rounding error of many
// channels, and keeps the part of the weight panels in use small enough for the first-level cache.
constexpr int64_t kLongestSum = 192;

// Calls body(first, count) for pieces of a longer sum, about equal ones of whole operands.
template <class O, class Body>
MEMX_INLINE void for_pieces(int64_t length, const Body& body) {
  const int64_t piece = round_up(ceil_div(length, ceil_div(length, kLongestSum)), depth<O>);
  for (int64_t first = 0; first < length; first += piece) {
    body(first, length - first < piece ? length - first : piece);
  }
}

// The six left rows of the block of pixels that starts at `first`, under one row of the kernel;
// past the tile's end the last pixel is repeated, and its products land in padding rows of the
// output.
template <class N>
MEMX_INLINE void block_rows(const Halo<N>& in, const Tile& tile, int64_t first, int64_t kernel_row,
                            const N* (&left)[kBlockRows]) {
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

// P panels of convolve_direct, from `panel` on.
template <class O, int V, int P>
void convolve_panels(const Convolution<O>& convolution, const Halo<number_t<O>>& in,
                     const Tile& tile, int64_t panel, accumulate_t<O>* out) {
  const int64_t width = kPanelVectors * V;
  const int64_t out_pitch = round_up(tile.pixels(), kBlockRows) * width;
  const int64_t length = convolution.width * convolution.in_channels;
  const int64_t row_weights = convolution.row_operands() * depth<O> * width;
  const int64_t panel_weights = convolution.height * row_weights;
  const int64_t most_runs = ceil_div(kLongestSum, P * length);
  for (int64_t ky = 0; ky < convolution.height; ky += most_runs) {
    const int64_t left_over = convolution.height - ky;
    const int64_t rows = left_over < most_runs ? left_over : most_runs;
    const number_t<O>* weights = convolution.weights + panel * panel_weights + ky * row_weights;
    // Several rows are shorter than a piece together.
    for_pieces<O>(length, [&](int64_t k, int64_t count) {
      const Halo<number_t<O>> piece{in.data + k, in.row_pitch, in.pixel_pitch};
      const Runs runs{rows, count, in.row_pitch};
      for (int64_t first = 0; first < tile.pixels(); first += kBlockRows) {
        const number_t<O>* left[kBlockRows];
        block_rows(piece, tile, first, ky, left);
        multiply_block<O, V, P, true>(left, runs, weights + k * width, panel_weights,
                                      out + panel * out_pitch + first * width, out_pitch);
      }
    });
  }
}

// out[panel][padded pixel][2V] += convolution of the tile.
template <class O, int V>
void convolve_direct(const Convolution<O>& convolution, const Halo<number_t<O>>& in,
                     const Tile& tile, accumulate_t<O>* out) {
  for_panels<accumulate_t<O>, V>(convolution.panels, [&](int64_t panel, auto count) {
    convolve_panels<O, V, count.value>(convolution, in, tile, panel, out);
  });
}

// What a direct weight gradient is the product of: for every pixel, or pair of neighbours in a row,
// what the kernel's first column sees, [halo row][halo column][in channel], and the gate gradients,
// [panel][pixel or pair][2V].
template <class O>
struct GradientOperands {
  Pixels<O> left;
  const number_t<O>* right;
  int64_t right_pitch;  // numbers from one panel to the next
};

// gradient[panel][kernel row][kernel column * in channel, padded to 6][2V] += the tile's share.
template <class O, int V>
void weight_gradient_direct(const Convolution<O>& convolution, const GradientOperands<O>& operands,
                            accumulate_t<O>* gradient) {
  const int64_t width = kPanelVectors * V;
  const int64_t padded_length = round_up(convolution.width * convolution.in_channels, kBlockRows);
  const int64_t out_pitch = convolution.height * padded_length * width;
  for_panels<accumulate_t<O>, V>(convolution.panels, [&](int64_t panel, auto count) {
    const number_t<O>* right = operands.right + panel * operands.right_pitch;
    accumulate_t<O>* out = gradient + panel * out_pitch;
    for (int64_t ky = 0; ky < convolution.height; ++ky) {
      for (int64_t k = 0; k < padded_length; k += kBlockRows, out += kBlockRows * width) {
        Pixels<O> left = operands.left;
        left.data += ky * left.row_pitch + k;
        outer_block<O, V, count.value>(left, right, operands.right_pitch, out, out_pitch);
      }
    }
  });
}

}  // namespace MEMX_ISA
}  // namespace memx

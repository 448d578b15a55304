// Weight gradients on the matrix registers of AMX: products over the pixels of a tile, so that pixels
// run along the rows of the left registers.
//
// A tile's pixels are one long run, row after row, `row_pixels` from one row to the next: as many as
// the widest halo image has columns, made even. What a tap of the kernel sees is the same run, moved;
// the gate gradients are zero where the run leaves the tile.
#pragma once

#include "matrix_tiles.h"

namespace memx {
namespace MEMX_ISA {

struct PixelRun {
  int64_t row_pixels, rows;

  // Filled up to whole registers.
  int64_t pixels() const { return round_up(rows * row_pixels, kRegisterNumbers); }
  // From one channel's numbers to the next: room for every tap, and an odd number of cache lines, so
  // that channels do not compete for the same places in the cache.
  int64_t channel_pitch(int64_t kernel_height, int64_t kernel_width) const {
    const int64_t reach = (kernel_height - 1) * row_pixels + kernel_width - 1 + pixels();
    return round_up(reach + kRegisterRows, 64) + 32;
  }
};

// The run of a step's tiles: one for the gradients of both convolutions.
template <class S>
PixelRun pixel_run(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile) {
  const auto& x = step.input_convolution;
  const int64_t widest = larger(step.hidden_convolution.width, x.gathered() ? 1 : x.width);
  return {round_up(tile.columns + widest - 1, 2), tile.rows};
}

// out[column][row] = in[row][column] of 16 x 16 numbers.
MEMX_INLINE void transpose_numbers(const __m256i (&in)[16], __m256i (&out)[16]) {
  __m256i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // a[2i], a[2i + 1]: rows 2i and 2i + 1, interleaved by number
    a[2 * i] = _mm256_unpacklo_epi16(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi16(in[2 * i], in[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // b[4i + j]: columns 2j, 2j + 1 (and 8 more) of rows 4i to 4i + 3
    b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {  // a[8i + j]: column j (and j + 8) of rows 8i to 8i + 7
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      a[8 * i + 2 * j] = _mm256_unpacklo_epi64(b[8 * i + j], b[8 * i + 4 + j]);
      a[8 * i + 2 * j + 1] = _mm256_unpackhi_epi64(b[8 * i + j], b[8 * i + 4 + j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    out[j] = _mm256_permute2x128_si256(a[j], a[8 + j], 0x20);
    out[j + 8] = _mm256_permute2x128_si256(a[j], a[8 + j], 0x31);
  }
}

// 16 channels of 16 pixels, zero beyond `channels` and `pixels`.
MEMX_INLINE void load_pixels(const Bfloat16* in, int64_t pixel_pitch, int64_t pixels,
                             int64_t channels, __m256i (&rows)[16]) {
  const __mmask16 wanted = __mmask16(channels < 16 ? (1 << channels) - 1 : 0xffff);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    rows[i] = _mm256_maskz_loadu_epi16(i < pixels ? wanted : 0, in + i * pixel_pitch);
  }
}

// out[channel][run] of an image of rows x columns pixels, the rest of the run zero.
inline void transpose_image(const Halo<Bfloat16>& in, int64_t rows, int64_t columns,
                            int64_t channels, const PixelRun& run, int64_t channel_pitch,
                            Bfloat16* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    const int64_t count = channels - c < 16 ? channels - c : 16;
    Bfloat16* const to = out + c * channel_pitch;
    // The zeros behind a row are overwritten by the next.
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < run.row_pixels; x += 16) {
        __m256i pixels[16], numbers[16];
        load_pixels(in.data + y * in.row_pitch + x * in.pixel_pitch + c, in.pixel_pitch,
                    columns - x, count, pixels);
        transpose_numbers(pixels, numbers);
        for (int64_t j = 0; j < count; ++j) {
          _mm256_storeu_si256((__m256i*)(to + j * channel_pitch + y * run.row_pixels + x),
                              numbers[j]);
        }
      }
    }
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = rows * run.row_pixels; i < channel_pitch; ++i) {
        to[j * channel_pitch + i] = Bfloat16{};
      }
    }
  }
}

// Two numbers of each lane as a pair, rounded.
MEMX_INLINE void store_pairs(vector_t<float, kRegisterRows> first,
                             vector_t<float, kRegisterRows> second, Bfloat16Pair* out) {
  const __m512i alternating =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh rounded = _mm512_cvtne2ps_pbh(__m512(second), __m512(first));
  _mm512_storeu_si512(out, _mm512_permutexvar_epi16(alternating, __m512i(rounded)));
}

// [panel][padded pixel][2V] of a part of the tile -> [panel][pair of the run][2V] pairs; zero beside the
// last pixel of an odd row. The part begins at an even column of the tile.
inline void pair_run(const float* panels, int64_t count, const Tile& tile, const Tile& part,
                     const PixelRun& run, Bfloat16Pair* out) {
  using Vec = vector_t<float, kRegisterRows>;
  const int64_t panel_pitch = round_up(part.pixels(), kBlockRows) * kPanelWidth;
  const int64_t first = (part.row - tile.row) * run.row_pixels + part.column - tile.column;
  for (int64_t panel = 0; panel < count; ++panel) {
    for (int64_t y = 0; y < part.rows; ++y) {
      const float* in = panels + panel * panel_pitch + y * part.columns * kPanelWidth;
      Bfloat16Pair* to =
          out + (panel * run.pixels() + first + y * run.row_pixels) / 2 * kPanelWidth;
      for (int64_t x = 0; x < part.columns; x += 2, in += 2 * kPanelWidth, to += kPanelWidth) {
        for (int64_t j = 0; j < kPanelWidth; j += kRegisterRows) {
          const bool both = x + 1 < part.columns;
          store_pairs(load<Vec>(in + j), both ? load<Vec>(in + kPanelWidth + j) : Vec{}, to + j);
        }
      }
    }
  }
}

// Zeros for the pairs of the run outside the tile.
inline void clear_between_rows(int64_t count, const Tile& tile, const PixelRun& run,
                               Bfloat16Pair* out) {
  const int64_t row_pairs = run.row_pixels / 2, inside = ceil_div(tile.columns, 2);
  for (int64_t panel = 0; panel < count; ++panel, out += run.pixels() / 2 * kPanelWidth) {
    for (int64_t y = 0; y < tile.rows; ++y) {
      for (int64_t i = (y * row_pairs + inside) * kPanelWidth;
           i < (y + 1) * row_pairs * kPanelWidth; ++i) {
        out[i] = Bfloat16Pair{};
      }
    }
    for (int64_t i = tile.rows * row_pairs * kPanelWidth; i < run.pixels() / 2 * kPanelWidth; ++i) {
      out[i] = Bfloat16Pair{};
    }
  }
}

// Calls body(first row, left registers as a constant) for all rows 0..`rows`: whole registers in twos,
// and what is left over, each with the registers in shape for it.
template <class Body>
MEMX_INLINE void for_registers(int64_t rows, const Body& body) {
  const int64_t whole = rows / kRegisterRows * kRegisterRows;
  if (whole > 0) {
    shape_registers(kRegisterRows, kRegisterOperands);
    int64_t row = 0;
    for (; row + 2 * kRegisterRows <= whole; row += 2 * kRegisterRows) {
      body(row, std::integral_constant<int, 2>{});
    }
    if (row < whole) {
      body(row, std::integral_constant<int, 1>{});
    }
  }
  if (whole < rows) {
    shape_registers(rows - whole, kRegisterOperands);
    body(whole, std::integral_constant<int, 1>{});
  }
}

// Pixels of the run that are multiplied at a time: both operands stay in the first-level cache while
// every tap of the kernel meets them.
constexpr int64_t kRunPixels = 256;

// Rows of as many pixels as are multiplied a few times: the operands made of them fill less of the
// second-level cache than those of a whole tile.
template <class S>
int64_t rows_at_once(const ForwardStep<S, Bfloat16Pair>& step, const Tile& tile) {
  const int64_t pairs = 3 * kRunPixels / (2 * pixel_run(step, tile).row_pixels);
  const int64_t rows = 2 * larger(1, pairs);
  return rows < tile.rows ? rows : tile.rows;
}

// gradient[panel][kernel row][kernel column * channel, padded to 6][2V] += the tile's share, for a
// kernel of height x width pixels; left[channel][run], right[panel][pair of the run][2V].
inline void weight_gradient_registers(int64_t height, int64_t width, int64_t channels,
                                      int64_t panels, const PixelRun& run, const Bfloat16* left,
                                      const Bfloat16Pair* right, float* gradient) {
  const int64_t channel_pitch = run.channel_pitch(height, width);
  const int64_t row_length = round_up(width * channels, kBlockRows);
  for_registers(channels, [&](int64_t channel, auto registers) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t pixel = 0; pixel < run.pixels(); pixel += kRunPixels) {
        const int64_t left_over = run.pixels() - pixel;
        const int64_t count = left_over < kRunPixels ? left_over : kRunPixels;
        const Bfloat16Pair* const gates = right + (panel * run.pixels() + pixel) / 2 * kPanelWidth;
        for (int64_t tap = 0; tap < height * width; ++tap) {
          const int64_t ky = tap / width, kx = tap % width;
          const Bfloat16* const seen =
              left + channel * channel_pitch + pixel + ky * run.row_pixels + kx;
          const Term term{{seen, 0, channel_pitch}, &gates->first, 1, count / kRegisterNumbers, 0};
          float* const sums =
              gradient +
              ((panel * height + ky) * row_length + kx * channels + channel) * kPanelWidth;
          float* const out[2] = {sums, sums + kRegisterRows * kPanelWidth};
          multiply_registers<registers.value>(&term, 1, {{0, 0}, {0, kRegisterRows}},
                                              {out[0], out[1]}, kPanelRowBytes, out);
        }
      }
    }
  });
}

}  // namespace MEMX_ISA
}  // namespace memx

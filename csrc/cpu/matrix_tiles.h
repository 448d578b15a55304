// The matrix products of bfloat16 pairs on the matrix registers of AMX, where product.h has them on
// vectors. A register holds 16 rows of 64 bytes: of pixels, 16 operands each, or of an operand's
// weights for half a panel. One instruction adds the product of two such registers to 16 x 16 sums.
//
// Packed weights are those of product.h: 16 operands of a panel are two registers side by side. The
// registers are shaped (shape_registers) for what is to be multiplied, so that nothing is read or
// written beyond an operand's last number or a tile's last pixel.
#pragma once

#include "gather.h"

namespace memx {
namespace MEMX_ISA {

constexpr int64_t kRegisterRows = 16;
constexpr int64_t kRegisterOperands = kRegisterNumbers / depth<Bfloat16Pair>;
constexpr int64_t kPanelWidth = 2 * kRegisterRows;  // 2V
constexpr int64_t kPanelRowBytes = kPanelWidth * sizeof(float);
constexpr int64_t kStepWeights = kRegisterOperands * kPanelWidth * depth<Bfloat16Pair>;

// The operand of LDTILECFG.
struct alignas(64) RegisterShapes {
  uint8_t palette = 1, first_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The shapes that this thread's registers have; none when it begins with a tile (HeldRegisters).
struct RegisterShape {
  int64_t left_rows = 0, operands = 0;

  bool operator==(const RegisterShape&) const = default;
};
inline RegisterShape& shape_in_use() {
  static thread_local RegisterShape shape;
  return shape;
}

// Registers 0 to 3 are sums [left register][half of a panel], 4 and 5 left operands, 6 and 7 the
// halves of a panel.
inline void shape_registers(int64_t left_rows, int64_t operands) {
  const RegisterShape wanted{left_rows, operands};
  if (shape_in_use() == wanted) {
    return;
  }
  shape_in_use() = wanted;
  RegisterShapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = uint8_t(i < 6 ? left_rows : operands);
    shapes.row_bytes[i] = uint16_t(4 * (i == 4 || i == 5 ? operands : kRegisterOperands));
  }
  // The intrinsics do not tell the compiler what they read.
  asm volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

// One left image and the weights that it meets: runs of `steps` registers each under one another.
struct Term {
  Halo<Bfloat16> in;
  const Bfloat16* weights;
  int64_t runs, steps;
  int64_t run_weights;  // numbers from a run to the next
};

// Where the first row of a left register lies in the images.
struct Place {
  int64_t y, x;
};

// For each of L left registers: out[row][2V] = start[row][2V] + sum over the terms of left * weights.
// `start_bytes` lie between the rows of `start`, which may be `out`.
template <int L>
MEMX_INLINE void multiply_registers(const Term* terms, int64_t count, const Place (&places)[2],
                                    const float* const (&start)[2], int64_t start_bytes,
                                    float* const (&out)[2]) {
  constexpr int64_t half = kPanelWidth;  // numbers of half a panel's row
  // The intrinsics do not tell the compiler what they read.
  asm volatile("" : : : "memory");
  _tile_loadd(0, start[0], start_bytes);
  _tile_loadd(1, start[0] + kRegisterRows, start_bytes);
  if constexpr (L == 2) {
    _tile_loadd(2, start[1], start_bytes);
    _tile_loadd(3, start[1] + kRegisterRows, start_bytes);
  }
  for (const Term* term = terms; term < terms + count; ++term) {
    const Halo<Bfloat16>& in = term->in;
    const int64_t left_bytes = in.pixel_pitch * int64_t(sizeof(Bfloat16));
    const Bfloat16* left[2];
    for (int i = 0; i < L; ++i) {
      left[i] = in.data + places[i].y * in.row_pitch + places[i].x * in.pixel_pitch;
    }
    for (int64_t run = 0; run < term->runs; ++run) {
      const Bfloat16* right = term->weights + run * term->run_weights;
      for (int64_t k = 0; k < term->steps * kRegisterNumbers; k += kRegisterNumbers) {
        _tile_loadd(6, right, kPanelRowBytes);
        _tile_loadd(4, left[0] + k, left_bytes);
        _tile_loadd(7, right + half, kPanelRowBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (L == 2) {
          _tile_loadd(5, left[1] + k, left_bytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        right += kStepWeights;
      }
      for (int i = 0; i < L; ++i) {
        left[i] += in.row_pitch;
      }
    }
  }
  _tile_stored(0, out[0], kPanelRowBytes);
  _tile_stored(1, out[0] + kRegisterRows, kPanelRowBytes);
  if constexpr (L == 2) {
    _tile_stored(2, out[1], kPanelRowBytes);
    _tile_stored(3, out[1] + kRegisterRows, kPanelRowBytes);
  }
}

// Terms of one shape for all pixels of a panel, one a convolution. The weights of a pass should stay in
// the first-level cache while all pixels meet them.
struct Pass {
  static constexpr int64_t kMostWeightBytes = 40 * 1024;

  Term terms[2];
  int64_t count = 0, weight_bytes = 0;

  // Runs of so many bytes that may still be added: one at least to an empty pass.
  int64_t room(int64_t run_bytes) const {
    const int64_t fitting = (kMostWeightBytes - weight_bytes) / run_bytes;
    return count == 0 ? larger(1, fitting) : larger(0, fitting);
  }
  void add(const Term& term, int64_t bytes) {
    terms[count++] = term;
    weight_bytes += bytes;
  }
};

// The sums of a panel: [row][column][2V] of an image of pixels.
struct PanelSums {
  int64_t rows, columns;
  const float* start;  // what they start from, the same for all pixels; null: from themselves
  float* sums;
};

// Blocks of pixels for a left register each: `of_row` of them in every row, from a column on.
inline void multiply_blocks(const Pass& pass, const PanelSums& panel, int64_t first_column,
                            int64_t of_row) {
  const int64_t start_bytes = panel.start == nullptr ? kPanelRowBytes : 0;
  Place places[2];
  float* out[2];
  const float* start[2];
  const auto set = [&](int which, int64_t block) {
    const Place place{block / of_row, first_column + block % of_row * kRegisterRows};
    places[which] = place;
    out[which] = panel.sums + (place.y * panel.columns + place.x) * kPanelWidth;
    start[which] = panel.start == nullptr ? out[which] : panel.start;
  };
  const int64_t blocks = panel.rows * of_row;
  int64_t block = 0;
  for (; block + 2 <= blocks; block += 2) {
    set(0, block);
    set(1, block + 1);
    multiply_registers<2>(pass.terms, pass.count, places, start, start_bytes, out);
  }
  if (block < blocks) {
    set(0, block);
    multiply_registers<1>(pass.terms, pass.count, places, start, start_bytes, out);
  }
}

// Adds the pass to the sums, and empties it.
inline void multiply_pass(Pass& pass, int64_t operands, PanelSums& panel) {
  if (pass.count == 0) {
    return;
  }
  const int64_t of_row = panel.columns / kRegisterRows, rest = panel.columns % kRegisterRows;
  if (of_row > 0) {
    shape_registers(kRegisterRows, operands);
    multiply_blocks(pass, panel, 0, of_row);
  }
  if (rest > 0) {
    shape_registers(rest, operands);
    multiply_blocks(pass, panel, panel.columns - rest, 1);
  }
  panel.start = nullptr;
  pass.count = pass.weight_bytes = 0;
}

// A convolution and the halo image that it sees; the rows of its kernel end with whole operands.
struct SeenBy {
  Convolution<Bfloat16Pair> convolution;
  Halo<Bfloat16> image;

  int64_t whole() const { return convolution.row_operands() / kRegisterOperands; }
  int64_t rest() const { return convolution.row_operands() % kRegisterOperands; }
  bool has_borders(const Tile& tile) const {
    return image.row_pitch != tile.columns * image.pixel_pitch;
  }
  // Of so many kernel rows from ky on, `steps` registers from an operand on.
  Term term(int64_t panel, int64_t ky, int64_t rows, int64_t operand, int64_t steps) const {
    const int64_t row_weights = convolution.row_operands() * kPanelWidth * depth<Bfloat16Pair>;
    const int64_t number = operand * depth<Bfloat16Pair>;
    return {{image.data + ky * image.row_pitch + number, image.row_pitch, image.pixel_pitch},
            convolution.weights + (panel * convolution.height + ky) * row_weights +
                number * kPanelWidth,
            rows,
            steps,
            row_weights};
  }
};

// Adds up to two convolutions for one panel: whole registers of their kernel rows, then what is left
// over of them.
inline void convolve_panel(const SeenBy* seen, int64_t count, int64_t panel, PanelSums sums) {
  Pass pass;
  for (const SeenBy* one = seen; one < seen + count; ++one) {
    const int64_t row_bytes = one->whole() * kStepWeights * int64_t(sizeof(Bfloat16));
    for (int64_t ky = 0; row_bytes > 0 && ky < one->convolution.height;) {
      if (pass.room(row_bytes) == 0) {
        multiply_pass(pass, kRegisterOperands, sums);
      }
      const int64_t room = pass.room(row_bytes), left_over = one->convolution.height - ky;
      const int64_t rows = left_over < room ? left_over : room;
      pass.add(one->term(panel, ky, rows, 0, one->whole()), rows * row_bytes);
      ky += rows;
    }
  }
  multiply_pass(pass, kRegisterOperands, sums);
  for (const SeenBy* one = seen; one < seen + count; ++one) {
    if (one->rest() > 0) {
      const int64_t first = one->whole() * kRegisterOperands;
      pass.add(one->term(panel, 0, one->convolution.height, first, 1), 0);
      multiply_pass(pass, one->rest(), sums);
    }
  }
}

// out[panel][padded pixel][2V] = start[panel][2V], or what is there, + convolutions of as many panels.
inline void convolve_registers(const SeenBy* seen, int64_t count, const Tile& tile,
                               const float* start, float* out) {
  const int64_t out_pitch = round_up(tile.pixels(), kBlockRows) * kPanelWidth;
  bool borders = false;
  for (int64_t i = 0; i < count; ++i) {
    borders = borders || seen[i].has_borders(tile);
  }
  // Pixels without a border between rows are one long row.
  const int64_t rows = borders ? tile.rows : 1;
  const int64_t columns = borders ? tile.columns : tile.pixels();
  for (int64_t panel = 0; panel < seen->convolution.panels; ++panel) {
    convolve_panel(seen, count, panel,
                   {rows, columns, start == nullptr ? nullptr : start + panel * kPanelWidth,
                    out + panel * out_pitch});
  }
}

// The image that a gathered convolution sees: [tile row][tile column][numbers under the kernel,
// filled up with zeros]. Both images have kHaloSlack numbers behind them: rows of the kernel, and zeros,
// are written whole vectors at a time, each over what is too much of the one before.
inline Halo<Bfloat16> gather_kernels(const Convolution<Bfloat16Pair>& convolution,
                                     const Halo<Bfloat16>& in, const Tile& tile, Bfloat16* out) {
  constexpr int64_t kVector = 16;
  static_assert(kVector <= kHaloSlack);
  const int64_t row_numbers = convolution.width * convolution.in_channels;
  const int64_t numbers = convolution.numbers();
  const int64_t pitch = convolution.of_gathered().in_channels;
  Bfloat16* to = out;
  for (int64_t y = 0; y < tile.rows; ++y) {
    for (int64_t x = 0; x < tile.columns; ++x, to += pitch) {
      const Bfloat16* from = in.data + y * in.row_pitch + x * in.pixel_pitch;
      for (int64_t ky = 0; ky < convolution.height; ++ky, from += in.row_pitch) {
        for (int64_t i = 0; i < row_numbers; i += kVector) {
          __builtin_memcpy(to + ky * row_numbers + i, from + i, kVector * sizeof(Bfloat16));
        }
      }
      for (int64_t number = numbers; number < pitch; number += kVector) {
        __builtin_memset(to + number, 0, kVector * sizeof(Bfloat16));
      }
    }
  }
  return {out, tile.columns * pitch, pitch};
}

}  // namespace MEMX_ISA
}  // namespace memx

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

// Runs of registers' rows of numbers under one another in a left operand, and of panel rows.
struct RegisterRuns {
  int64_t count, steps;             // registers in each
  int64_t left_pitch, right_pitch;  // numbers from a run to the next
};

// For each of L left registers: out[row][2V] += sum over the runs of left[row][..] * panel[..][2V].
// `left_row` numbers lie between the rows of a left register.
template <int L>
MEMX_INLINE void multiply_registers(const Bfloat16* const (&left)[2], int64_t left_row,
                                    const Bfloat16* panel, const RegisterRuns& runs,
                                    float* const (&out)[2]) {
  const int64_t left_bytes = left_row * int64_t(sizeof(Bfloat16));
  const Bfloat16 *left0 = left[0], *left1 = left[1];
  constexpr int64_t half = kPanelWidth;  // numbers of half a panel's row
  // The intrinsics do not tell the compiler what they read.
  asm volatile("" : : : "memory");
  _tile_loadd(0, out[0], kPanelRowBytes);
  _tile_loadd(1, out[0] + kRegisterRows, kPanelRowBytes);
  if constexpr (L == 2) {
    _tile_loadd(2, out[1], kPanelRowBytes);
    _tile_loadd(3, out[1] + kRegisterRows, kPanelRowBytes);
  }
  for (int64_t run = 0; run < runs.count; ++run) {
    const Bfloat16* right = panel + run * runs.right_pitch;
    for (int64_t k = 0; k < runs.steps * kRegisterNumbers; k += kRegisterNumbers) {
      _tile_loadd(6, right, kPanelRowBytes);
      _tile_loadd(4, left0 + k, left_bytes);
      _tile_loadd(7, right + half, kPanelRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (L == 2) {
        _tile_loadd(5, left1 + k, left_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      right += kStepWeights;
    }
    left0 += runs.left_pitch, left1 += runs.left_pitch;
  }
  _tile_stored(0, out[0], kPanelRowBytes);
  _tile_stored(1, out[0] + kRegisterRows, kPanelRowBytes);
  if constexpr (L == 2) {
    _tile_stored(2, out[1], kPanelRowBytes);
    _tile_stored(3, out[1] + kRegisterRows, kPanelRowBytes);
  }
}

// Calls body(first row, rows, left registers as a constant, how many) for all rows 0..`rows`: whole
// registers in twos, and what is left over. `body` is called within one shape of the registers.
template <class Body>
MEMX_INLINE void for_registers(int64_t rows, int64_t operands, const Body& body) {
  const int64_t whole = rows / kRegisterRows * kRegisterRows;
  if (whole > 0) {
    shape_registers(kRegisterRows, operands);
    int64_t row = 0;
    for (; row + 2 * kRegisterRows <= whole; row += 2 * kRegisterRows) {
      body(row, std::integral_constant<int, 2>{});
    }
    if (row < whole) {
      body(row, std::integral_constant<int, 1>{});
    }
  }
  if (whole < rows) {
    shape_registers(rows - whole, operands);
    body(whole, std::integral_constant<int, 1>{});
  }
}

// Blocks of a tile's pixels for a left register each, in the order of rows of the image: `of_row`
// whole ones in every row, or, where `first_column` is not 0, what they leave of it.
struct PixelBlocks {
  int64_t rows, of_row, first_column;
  int64_t pixels;  // of a block

  int64_t count() const { return rows * of_row; }
};

// out[pixel][2V] of a panel += the runs' share of the convolution, for all of these blocks.
inline void convolve_blocks(const PixelBlocks& blocks, const Halo<Bfloat16>& in, int64_t columns,
                            const Bfloat16* panel, const RegisterRuns& runs, float* out) {
  const auto block = [&](int64_t i, const Bfloat16*& left, float*& sums) {
    const int64_t y = i / blocks.of_row;
    const int64_t x = blocks.first_column + i % blocks.of_row * kRegisterRows;
    left = in.data + y * in.row_pitch + x * in.pixel_pitch;
    sums = out + (y * columns + x) * kPanelWidth;
  };
  const Bfloat16* left[2];
  float* sums[2];
  int64_t i = 0;
  for (; i + 2 <= blocks.count(); i += 2) {
    block(i, left[0], sums[0]);
    block(i + 1, left[1], sums[1]);
    multiply_registers<2>(left, in.pixel_pitch, panel, runs, sums);
  }
  if (i < blocks.count()) {
    block(i, left[0], sums[0]);
    multiply_registers<1>(left, in.pixel_pitch, panel, runs, sums);
  }
}

// The weights of so many bytes of a panel should stay in the first-level cache while all pixels meet
// them.
constexpr int64_t kCachedWeightBytes = 40 * 1024;

// What one operand's length of registers (`operands`, `steps` in a row of the kernel, from operand
// `first` on) adds to a panel, for the kernel rows from `kernel_row` on.
struct KernelPart {
  int64_t kernel_row, kernel_rows;
  int64_t first, operands, steps;
};

inline void convolve_part(const Convolution<Bfloat16Pair>& convolution, const KernelPart& part,
                          const Halo<Bfloat16>& in, int64_t rows, int64_t columns,
                          const Bfloat16* panel, float* out) {
  constexpr int64_t operand = depth<Bfloat16Pair>;
  const int64_t row_weights = convolution.row_operands() * kPanelWidth * operand;
  const RegisterRuns runs{part.kernel_rows, part.steps, in.row_pitch, row_weights};
  const Halo<Bfloat16> under{in.data + part.kernel_row * in.row_pitch + part.first * operand,
                             in.row_pitch, in.pixel_pitch};
  const Bfloat16* const weights =
      panel + part.kernel_row * row_weights + part.first * kPanelWidth * operand;
  const int64_t of_row = columns / kRegisterRows, rest = columns % kRegisterRows;
  if (of_row > 0) {
    shape_registers(kRegisterRows, part.operands);
    convolve_blocks({rows, of_row, 0}, under, columns, weights, runs, out);
  }
  if (rest > 0) {
    shape_registers(rest, part.operands);
    convolve_blocks({rows, 1, columns - rest}, under, columns, weights, runs, out);
  }
}

// convolve_direct on matrix registers, where the rows of the kernel end with whole operands.
inline void convolve_registers(const Convolution<Bfloat16Pair>& convolution,
                               const Halo<Bfloat16>& in, const Tile& tile, float* out) {
  const int64_t row_operands = convolution.row_operands();
  const int64_t row_bytes = row_operands * kPanelRowBytes;
  const int64_t steps = row_operands / kRegisterOperands, rest = row_operands % kRegisterOperands;
  const int64_t panel_numbers =
      convolution.height * row_operands * kPanelWidth * depth<Bfloat16Pair>;
  const int64_t out_pitch = round_up(tile.pixels(), kBlockRows) * kPanelWidth;
  // Pixels without a border between rows are one long row.
  const bool one_row = in.row_pitch == tile.columns * in.pixel_pitch;
  const int64_t rows = one_row ? 1 : tile.rows;
  const int64_t columns = one_row ? tile.pixels() : tile.columns;
  const int64_t most_rows = larger(1, kCachedWeightBytes / row_bytes);
  for (int64_t panel = 0; panel < convolution.panels; ++panel) {
    const Bfloat16* const weights = convolution.weights + panel * panel_numbers;
    float* const sums = out + panel * out_pitch;
    for (int64_t ky = 0; ky < convolution.height; ky += most_rows) {
      const int64_t left_over = convolution.height - ky;
      const int64_t kernel_rows = left_over < most_rows ? left_over : most_rows;
      if (steps > 0) {
        convolve_part(convolution, {ky, kernel_rows, 0, kRegisterOperands, steps}, in, rows,
                      columns, weights, sums);
      }
      if (rest > 0) {
        convolve_part(convolution, {ky, kernel_rows, row_operands - rest, rest, 1}, in, rows,
                      columns, weights, sums);
      }
    }
  }
}

// The image that a gathered convolution sees: [tile row][tile column][numbers under the kernel,
// filled up with zeros].
inline Halo<Bfloat16> gather_kernels(const Convolution<Bfloat16Pair>& convolution,
                                     const Halo<Bfloat16>& in, const Tile& tile, Bfloat16* out) {
  const int64_t row_numbers = convolution.width * convolution.in_channels;
  const int64_t pitch = convolution.of_gathered().in_channels;
  Bfloat16* to = out;
  for (int64_t y = 0; y < tile.rows; ++y) {
    for (int64_t x = 0; x < tile.columns; ++x, to += pitch) {
      const Bfloat16* from = in.data + y * in.row_pitch + x * in.pixel_pitch;
      int64_t number = 0;
      for (int64_t ky = 0; ky < convolution.height; ++ky, from += in.row_pitch) {
        for (int64_t i = 0; i < row_numbers; ++i) {
          to[number++] = from[i];
        }
      }
      for (; number < pitch; ++number) {
        to[number] = Bfloat16{};
      }
    }
  }
  return {out, tile.columns * pitch, pitch};
}

}  // namespace MEMX_ISA
}  // namespace memx

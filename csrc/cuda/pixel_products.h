// Products whose K are pixels, of which a weight gradient consists: both operands are images in
// shared memory, rows are channels under a tap and columns the channels of gates.
//
// For each kind of numbers PixelProducts says how many tiles of rows and columns a warp has, how many
// pixels a product takes (kDepth: 8 of them are neighbours in a row), of how many products there are
// registers for the operands, and where a lane begins to read: at which of these pixels, and so many
// bytes after the warp's first channel. add() is a product.
#pragma once

#include "numbers.h"

namespace memx::cuda {

// What a lane reads of the pixels of one product. Every tile of rows is 16 channels under a tap.
template <int tiles>
struct PixelOperands {
  const char* rows[tiles];
  const char* columns;
  int row_pitch, column_pitch;  // bytes from a pixel to its neighbour
};

template <class Numbers>
struct PixelProducts;

template <class Storage, class Operand>
struct PixelProducts<MatrixNumbers<Storage, Operand>> {
  // 3 x 8 tiles read 28 lines of shared memory for 24 products, and leave registers for 12 warps.
  static constexpr int kRowTiles = 3, kColumnTiles = 8;
  static constexpr int kDepth = kBlockBytes / sizeof(Storage), kUnrolled = 2;
  static constexpr bool kIsHalf = sizeof(Storage) == 2;
  static constexpr int kPadding = kIsHalf ? 16 : 32;  // bytes: no bank conflicts
  static constexpr double kCycles =
      kIsHalf ? 1.6 / 16 : 1.6 / 8;  // of a multiprocessor: a tile's pixel

  MEMX_DEVICE static int first_image_pixel() {
    return kIsHalf ? lane() / 16 * 8 + lane() % 8 : lane() % 4;
  }
  MEMX_DEVICE static int first_row_byte() {
    return kIsHalf ? lane() / 8 % 2 * kPieceBytes : lane() / 4 * 4;
  }
  MEMX_DEVICE static int first_gradient_pixel() { return kIsHalf ? lane() % 16 : lane() % 4; }
  MEMX_DEVICE static int first_column_byte() {
    return kIsHalf ? lane() / 16 * kPieceBytes : lane() / 4 * 4;
  }

  MEMX_DEVICE static void add(float (&sum)[kRowTiles][kColumnTiles][4],
                              const PixelOperands<kRowTiles>& operands) {
    uint32_t left[kRowTiles][4], right[kColumnTiles][2];
    if constexpr (kIsHalf) {
      load_halves(operands, left, right);
    } else {
      load_floats(operands, left, right);
    }
    multiply<Operand>(sum, left, right);
  }

 private:
  MEMX_DEVICE static void load_halves(const PixelOperands<kRowTiles>& operands,
                                      uint32_t (&left)[kRowTiles][4],
                                      uint32_t (&right)[kColumnTiles][2]) {
    const char* columns[kColumnTiles / 2];
#pragma unroll
    for (int n = 0; n < kColumnTiles / 2; ++n) {
      columns[n] = operands.columns + n * (2 * kPieceBytes);
    }
    uint32_t found[kColumnTiles / 2][4];
    load_matrices_transposed(found, columns);
    load_matrices_transposed(left, operands.rows);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      right[n][0] = found[n / 2][n % 2 * 2];
      right[n][1] = found[n / 2][n % 2 * 2 + 1];
    }
  }

  MEMX_DEVICE static void load_floats(const PixelOperands<kRowTiles>& operands,
                                      uint32_t (&left)[kRowTiles][4],
                                      uint32_t (&right)[kColumnTiles][2]) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int row_offset = 4 * k * operands.row_pitch;
      const char* columns = operands.columns + 4 * k * operands.column_pitch;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        right[n][k] = operand_of_tf32(at<uint32_t>(columns, n * 32));
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        left[m][2 * k] = operand_of_tf32(at<uint32_t>(operands.rows[m] + row_offset, 0));
        left[m][2 * k + 1] = operand_of_tf32(at<uint32_t>(operands.rows[m] + row_offset, 32));
      }
    }
  }
};

// The products of kDepth pixels are added up by themselves first.
template <class T>
struct PixelProducts<PlainNumbers<T>> {
  static constexpr int kRowTiles = sizeof(T) == 4 ? 2 : 1;
  static constexpr int kColumnTiles = sizeof(T) == 4 ? 8 : 4;
  static constexpr int kDepth = 4, kUnrolled = 1;
  static constexpr int kPadding = kPieceBytes;
  static constexpr double kCycles = sizeof(T) == 4 ? 1 : 2;

  MEMX_DEVICE static int first_image_pixel() { return 0; }
  MEMX_DEVICE static int first_row_byte() { return lane() / 4 * int(sizeof(T)); }
  MEMX_DEVICE static int first_gradient_pixel() { return 0; }
  MEMX_DEVICE static int first_column_byte() { return lane() % 4 * int(sizeof(Columns)); }

  MEMX_DEVICE static void add(T (&sum)[kRowTiles][kColumnTiles][4],
                              const PixelOperands<kRowTiles>& operands) {
    T left[2 * kRowTiles][kDepth];
#pragma unroll
    for (int row = 0; row < 2 * kRowTiles; ++row) {
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        left[row][k] =
            at<T>(operands.rows[row / 2] + k * operands.row_pitch, row % 2 * (8 * int(sizeof(T))));
      }
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      T part[2 * kRowTiles][2] = {};
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        const Columns right = at<Columns>(operands.columns + k * operands.column_pitch,
                                          n * (kTileColumns * int(sizeof(T))));
#pragma unroll
        for (int row = 0; row < 2 * kRowTiles; ++row) {
          part[row][0] += left[row][k] * right.numbers[0];
          part[row][1] += left[row][k] * right.numbers[1];
        }
      }
#pragma unroll
      for (int row = 0; row < 2 * kRowTiles; ++row) {
        sum[row / 2][n][row % 2 * 2] += part[row][0];
        sum[row / 2][n][row % 2 * 2 + 1] += part[row][1];
      }
    }
  }

 private:
  struct alignas(2 * sizeof(T)) Columns {  // of a tile, a lane's
    T numbers[2];
  };
};

}  // namespace memx::cuda

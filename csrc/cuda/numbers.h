// How tensors of one type are stored, multiplied and added.
//
// The unit of all products is a block of K, 32 bytes of numbers, and a tile of 16 rows and 8
// columns. With r = lane / 4 and c = lane % 4 a lane has rows r and r + 8 of a tile and its columns
// 2 c and 2 c + 1, whatever the numbers are multiplied with:
//
//   sum[m][n][2 h + e]    row 16 m + 8 h + r, column 8 n + 2 c + e
//
// In multiply_packed() rows are pixels and K their channels, one after the other in shared memory; the
// right operand is packed as the lanes need it (place_in_block). Products whose K are pixels are in
// pixel_products.h.
#pragma once

#include <type_traits>

#include "layer.h"
#include "primitives.h"

namespace memx::cuda {

constexpr int kBlockBytes = 32;  // of K
constexpr int kTileRows = 16;
constexpr int kTileColumns = 8;
constexpr int kQuadTiles = 4;  // weights are packed for four tiles at a time: a quad
constexpr int kQuadColumns = kQuadTiles * kTileColumns;
constexpr int kPackedBytes = kBlockBytes * kQuadColumns;  // of a block of K of a quad

// Where a number of a packed block of K of a quad comes from.
struct PackedPlace {
  int k;       // in the block of K
  int column;  // in the quad
};

// Of the two tiles that hold a unit of 16 channels a lane has columns 2 c and 2 c + 1 each. They stand
// for four channels in a row, 4 c to 4 c + 3, so that a lane can move them at once.
constexpr int kUnitColumns = 2 * kTileColumns;

// The channel, in its unit, of a column of the unit's first tile or, `second`, its other.
MEMX_EITHER int channel_of_column(int column, bool second) {
  return column / 2 * 4 + second * 2 + column % 2;
}

// What a thread moves at once.
struct alignas(16) Piece {
  uint32_t bits[4];
};
constexpr int kPieceBytes = sizeof(Piece);

template <class T>
MEMX_DEVICE const T& at(const char* memory, int offset) {
  return *reinterpret_cast<const T*>(memory + offset);
}

// Pixels of a tile in shared memory: (y, x) is at ((y * row + x) * pitch) bytes, where numbers of
// pixels count through rows of 2^width_log2.
struct PixelImage {
  const char* memory;
  int pitch, row, width_log2;

  MEMX_DEVICE int offset(int pixel) const {
    return ((pixel >> width_log2) * row + (pixel & ((1 << width_log2) - 1))) * pitch;
  }
};

// Products on matrix instructions: of Bfloat16, of Float16, or of floats rounded to TensorFloat32.
template <class Storage, class Operand>
struct MatrixNumbers {
  using storage = Storage;
  using accumulate = float;
  static constexpr bool kIsMatrix = true;
  static constexpr int kTiles = 2;            // of rows, of a warp
  static constexpr int kThreadsAtOnce = 512;  // of a multiprocessor: registers are for so many
  static constexpr int kPointers = kTiles;    // of multiply_packed, a lane
  static constexpr bool kIsRounded = std::is_same_v<Operand, TensorFloat32>;

  MEMX_DEVICE static PackedPlace place_in_block(int number) {
    constexpr int kHeld = 4 / sizeof(Storage);  // in a register
    const int part = number % kHeld, held = number / kHeld % 4;
    const int lane = number / (4 * kHeld) % 32, half = number / (128 * kHeld);
    const int k = lane % 4 * kHeld + held % 2 * (4 * kHeld) + part;
    return {k, (2 * half + held / 2) * kTileColumns + lane / 4};
  }

  // What multiply() takes of a packed number.
  MEMX_DEVICE static void round(Storage& number) {
    if constexpr (kIsRounded) {
      number = __builtin_bit_cast(float, round_to_tf32(__builtin_bit_cast(uint32_t, number)));
    }
  }

  // The row of the warp's tiles that pointer number `pointer` of this lane is of.
  MEMX_DEVICE static int row_of_pointer(int pointer) { return pointer * kTileRows + lane() % 16; }

  template <int N>
  MEMX_DEVICE static void multiply_packed(float (&sum)[kTiles][N][4],
                                          const char* const (&rows)[kPointers],
                                          const char* packed) {
    const char* pieces[kTiles];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      pieces[m] = rows[m] + lane() / 16 * kPieceBytes;
    }
    uint32_t left[kTiles][4], right[N][2];
    load_matrices(left, pieces);
    round_all(left);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      const Piece& piece = at<Piece>(packed, n / 2 * (kPackedBytes / 2) + lane() * kPieceBytes);
      right[n][0] = piece.bits[0];
      right[n][1] = piece.bits[1];
      right[n + 1][0] = piece.bits[2];
      right[n + 1][1] = piece.bits[3];
    }
    multiply<Operand>(sum, left, right);
  }

 private:
  template <int M, int N>
  MEMX_DEVICE static void round_all(uint32_t (&bits)[M][N]) {
    if constexpr (kIsRounded) {
#pragma unroll
      for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
          bits[m][n] = operand_of_tf32(bits[m][n]);
        }
      }
    }
  }
};

// Products in T itself, float or double, by fused multiply-adds. Those of a block of K are
// added up by themselves first: one sum over thousands of them, term by term, would be several times
// less exact.
template <class T>
struct PlainNumbers {
  using storage = T;
  using accumulate = T;
  static constexpr bool kIsMatrix = false;
  static constexpr int kTiles = sizeof(T) == 4 ? 2 : 1;
  static constexpr int kThreadsAtOnce = 256;
  static constexpr int kPointers = 2 * kTiles;

  static constexpr int kHeld = kPieceBytes / sizeof(T);  // in a piece

  MEMX_DEVICE static PackedPlace place_in_block(int number) {
    const int within = number % kQuadColumns;
    const int c = within % (4 * kHeld) / kHeld, part = within % kHeld;
    const int tile = within / (4 * kHeld) * (kHeld / 2) + part / 2;
    return {number / kQuadColumns, tile * kTileColumns + 2 * c + part % 2};
  }

  MEMX_DEVICE static void round(T&) {}

  MEMX_DEVICE static int row_of_pointer(int pointer) { return pointer * 8 + lane() / 4; }

  template <int N>
  MEMX_DEVICE static void multiply_packed(T (&sum)[kTiles][N][4],
                                          const char* const (&rows)[kPointers],
                                          const char* packed) {
    constexpr int kDepth = kBlockBytes / sizeof(T);
    T left[kPointers][kDepth];
#pragma unroll
    for (int row = 0; row < kPointers; ++row) {
#pragma unroll
      for (int k = 0; k < kDepth; k += kHeld) {
        load(left[row] + k, rows[row] + k * int(sizeof(T)));
      }
    }
#pragma unroll
    for (int n = 0; n < N; n += kHeld / 2) {
      const char* columns = packed + n / kQuadTiles * kPackedBytes +
                            n % kQuadTiles * (kTileColumns * int(sizeof(T))) +
                            lane() % 4 * kPieceBytes;
      T part[kPointers][kHeld] = {};
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        T right[kHeld];
        load(right, columns + k * (kQuadColumns * int(sizeof(T))));
#pragma unroll
        for (int row = 0; row < kPointers; ++row) {
#pragma unroll
          for (int held = 0; held < kHeld; ++held) {
            part[row][held] += left[row][k] * right[held];
          }
        }
      }
#pragma unroll
      for (int row = 0; row < kPointers; ++row) {
#pragma unroll
        for (int held = 0; held < kHeld; ++held) {
          sum[row / 2][n + held / 2][row % 2 * 2 + held % 2] += part[row][held];
        }
      }
    }
  }

 private:
  MEMX_DEVICE static void load(T* numbers, const char* source) {
    struct alignas(kPieceBytes) Numbers {
      T held[kHeld];
    };
    const Numbers found = at<Numbers>(source, 0);
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      numbers[n] = found.held[n];
    }
  }
};

using Bfloat16Numbers = MatrixNumbers<Bfloat16, Bfloat16>;
using Float16Numbers = MatrixNumbers<Float16, Float16>;
using TensorFloat32Numbers = MatrixNumbers<float, TensorFloat32>;
using Float32Numbers = PlainNumbers<float>;
using Float64Numbers = PlainNumbers<double>;

// Calls body(Numbers{}) with the numbers of a type.
template <class Body>
void dispatch(NumberType type, const Body& body) {
  switch (type) {
    case NumberType::kFloat32:
      return body(Float32Numbers{});
    case NumberType::kTensorFloat32:
      return body(TensorFloat32Numbers{});
    case NumberType::kFloat64:
      return body(Float64Numbers{});
    case NumberType::kBfloat16:
      return body(Bfloat16Numbers{});
    case NumberType::kFloat16:
      return body(Float16Numbers{});
  }
}

}  // namespace memx::cuda

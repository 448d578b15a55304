// primitives.h for the CPU: a launch runs its blocks one after the other, every thread of a block
// as a fibre. The fibres themselves, and with them who runs when, belong to the tests
// (tests/cuda_on_host/fibres.h).
//
// Stricter than a GPU where that finds mistakes: shared memory is of exactly the size that was
// asked for and filled with NaN, copies land as late or as early as they may, and a barrier that a
// thread does not reach, or a collective that is not one, ends the process with a message.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibres.h"

#define MEMX_KERNEL(threads, blocks) void
#define MEMX_KERNEL_ARGUMENT const
#define MEMX_DEVICE inline
#define MEMX_EITHER inline

namespace memx::cuda {

using fibres::Machine;
using Stream = Machine*;

struct Grid {
  int64_t x;
  int y = 1, z = 1;
};

inline int thread() { return fibres::current().thread; }
inline int threads() { return fibres::block().threads; }
inline int lane() { return thread() % 32; }
inline int warp() { return thread() / 32; }
inline int block_x() { return fibres::block().x; }
inline int block_y() { return fibres::block().y; }
inline int block_z() { return fibres::block().z; }
inline char* shared_memory() { return fibres::block().shared_memory; }

inline void barrier() { fibres::wait_for_block(); }

inline void copy_16_bytes(char* target, const void* source, bool valid) {
  if (reinterpret_cast<uintptr_t>(target) % 16 != 0 ||
      (valid && reinterpret_cast<uintptr_t>(source) % 16 != 0)) {
    fibres::fail("copy_16_bytes: an address is not aligned to 16 bytes");
  }
  fibres::copy({target, valid ? source : nullptr, 16});
}
inline void prefetch(const void* memory, int bytes) {
  if (reinterpret_cast<uintptr_t>(memory) % 16 != 0 || bytes % 16 != 0) {
    fibres::fail("prefetch: an address or a number of bytes is no multiple of 16");
  }
  for (int byte = 0; byte < bytes; ++byte) {  // the sanitizer sees what does not exist
    static_cast<void>(static_cast<const volatile char*>(memory)[byte]);
  }
}
inline void commit_copies() { fibres::commit_copies(); }
template <int pending>
void wait_copies() {
  fibres::wait_copies(pending);
}

struct TensorFloat32 {};

inline uint32_t round_to_tf32(uint32_t bits) {
  const bool is_number = (bits & 0x7fffffffu) < 0x7f800000u;
  return is_number ? (bits + 0x1000u) & 0xffffe000u : bits;
}

inline uint32_t operand_of_tf32(uint32_t bits) { return round_to_tf32(bits); }

inline float widen(Bfloat16 value) { return __builtin_bit_cast(float, uint32_t{value.bits} << 16); }
inline float widen(Float16 value) { return float(__builtin_bit_cast(_Float16, value.bits)); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

inline void narrow(float value, Bfloat16& result) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  result.bits = value != value ? uint16_t{0x7fff} : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline void narrow(float value, Float16& result) {
  result.bits = __builtin_bit_cast(uint16_t, _Float16(value));
}
inline void narrow(float value, float& result) { result = value; }
inline void narrow(double value, double& result) { result = value; }

template <bool second, class S>
float widen_one(uint32_t pair, S) {
  return widen(S{uint16_t(second ? pair >> 16 : pair)});
}
template <class S>
uint32_t narrow_pair(float first, float second, S) {
  S low, high;
  narrow(first, low);
  narrow(second, high);
  return uint32_t{high.bits} << 16 | low.bits;
}

inline float power_of_two(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

namespace collective {

// Numbers of K in the 4 bytes that a lane holds of an operand.
inline void unpack(uint32_t bits, float (&numbers)[2], Bfloat16) {
  numbers[0] = widen(Bfloat16{uint16_t(bits)});
  numbers[1] = widen(Bfloat16{uint16_t(bits >> 16)});
}
inline void unpack(uint32_t bits, float (&numbers)[2], Float16) {
  numbers[0] = widen(Float16{uint16_t(bits)});
  numbers[1] = widen(Float16{uint16_t(bits >> 16)});
}
inline void unpack(uint32_t bits, float (&numbers)[1], TensorFloat32) {
  numbers[0] = __builtin_bit_cast(float, bits);
}

// What the lanes bring to multiply(); the sums are updated in place, on their stacks.
struct Operands {
  const uint32_t (*left)[4];
  const uint32_t (*right)[2];
  float (*sum)[4];
};

template <class Operand, int M, int N>
void multiply_tiles(void* const (&lanes)[32]) {
  constexpr int kNumbers = std::is_same_v<Operand, TensorFloat32> ? 1 : 2;
  constexpr int kDepth = 8 * kNumbers;
  float left[16 * M][kDepth], right[kDepth][8 * N];
  const auto of_lane = [&](int lane) { return static_cast<const Operands*>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane) {
    const int row = lane / 4, first = lane % 4 * kNumbers;
    float numbers[kNumbers];
    for (int part = 0; part < 4 * M; ++part) {
      unpack(of_lane(lane)->left[part / 4][part % 4], numbers, Operand{});
      for (int k = 0; k < kNumbers; ++k) {
        left[part / 4 * 16 + part % 2 * 8 + row][part % 4 / 2 * (kDepth / 2) + first + k] =
            numbers[k];
      }
    }
    for (int part = 0; part < 2 * N; ++part) {
      unpack(of_lane(lane)->right[part / 2][part % 2], numbers, Operand{});
      for (int k = 0; k < kNumbers; ++k) {
        right[part % 2 * (kDepth / 2) + first + k][part / 2 * 8 + row] = numbers[k];
      }
    }
  }
  for (int row = 0; row < 16 * M; ++row) {
    float product[8 * N] = {};
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8 * N; ++column) {
        product[column] += left[row][k] * right[k][column];
      }
    }
    for (int column = 0; column < 8 * N; ++column) {
      const Operands* owner = of_lane(row % 8 * 4 + column % 8 / 2);
      owner->sum[row / 16 * N + column / 8][row % 16 / 8 * 2 + column % 2] += product[column];
    }
  }
}

struct Rows {
  const char* const* rows;
  uint32_t (*matrices)[4];
};

template <int M, bool transposed>
void load_tiles(void* const (&lanes)[32]) {
  for (int m = 0; m < M; ++m) {
    for (int part = 0; part < 4; ++part) {
      uint16_t matrix[8][8];
      for (int row = 0; row < 8; ++row) {
        const char* source = static_cast<const Rows*>(lanes[8 * part + row])->rows[m];
        if (reinterpret_cast<uintptr_t>(source) % 16 != 0) {
          fibres::fail("load_matrices: a row is not aligned to 16 bytes");
        }
        std::memcpy(matrix[row], source, 16);
      }
      for (int lane = 0; lane < 32; ++lane) {
        const int r = lane / 4, c = 2 * (lane % 4);
        const uint32_t low = transposed ? matrix[c][r] : matrix[r][c];
        const uint32_t high = transposed ? matrix[c + 1][r] : matrix[r][c + 1];
        static_cast<Rows*>(lanes[lane])->matrices[m][part] = high << 16 | low;
      }
    }
  }
}

}  // namespace collective

template <int M>
void load_matrices(uint32_t (&matrices)[M][4], const char* const (&rows)[M]) {
  collective::Rows mine{rows, matrices};
  fibres::wait_for_warp(collective::load_tiles<M, false>, &mine);
}

template <int M>
void load_matrices_transposed(uint32_t (&matrices)[M][4], const char* const (&rows)[M]) {
  collective::Rows mine{rows, matrices};
  fibres::wait_for_warp(collective::load_tiles<M, true>, &mine);
}

template <class Operand, int M, int N>
void multiply(float (&sum)[M][N][4], const uint32_t (&left)[M][4], const uint32_t (&right)[N][2]) {
  collective::Operands mine{left, right, sum[0]};
  fibres::wait_for_warp(collective::multiply_tiles<Operand, M, N>, &mine);
}

inline void clear(void* memory, int64_t bytes, Stream) { std::memset(memory, 0, bytes); }

template <class Arguments>
void launch(void (*kernel)(Arguments), Grid grid, int threads, int shared_bytes, Stream machine,
            const Arguments& arguments) {
  for (int z = 0; z < grid.z; ++z) {
    for (int y = 0; y < grid.y; ++y) {
      for (int64_t x = 0; x < grid.x; ++x) {
        machine->run_block({int(x), y, z, threads}, shared_bytes, [&] { kernel(arguments); });
      }
    }
  }
}

}  // namespace memx::cuda

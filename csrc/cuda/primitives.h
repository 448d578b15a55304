// What the kernels use of a GPU: thread numbers, barriers, shared memory, asynchronous copies,
// matrix instructions, conversions, launches. The only file with inline PTX, and all that a kernel
// knows of CUDA.
//
// primitives_host.h has the same functions for the CPU, so that every kernel also compiles with g++
// and runs in the tests, each thread of a block on a stack of its own.
//
// Rules that hold for both: what is said to be collective is reached by all 32 lanes of a warp
// together; memory that copies were asked to fill is read after wait_copies() and barrier().
#pragma once

#include "../number_types.h"

namespace memx::cuda {

// Shared memory of one block: what every GPU since Ampere has for one.
constexpr int kSharedBytes = 99 << 10;

}  // namespace memx::cuda

#ifndef __CUDACC__
#include "primitives_host.h"
#else

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#define MEMX_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define MEMX_KERNEL_ARGUMENT const __grid_constant__
#define MEMX_DEVICE __device__ __forceinline__
#define MEMX_EITHER __host__ __device__ __forceinline__

namespace memx::cuda {

using Stream = cudaStream_t;

struct Grid {
  int64_t x;
  int y = 1, z = 1;
};

MEMX_DEVICE int thread() { return threadIdx.x; }
MEMX_DEVICE int threads() { return blockDim.x; }
MEMX_DEVICE int lane() { return threadIdx.x % 32; }
MEMX_DEVICE int warp() { return threadIdx.x / 32; }
MEMX_DEVICE int block_x() { return blockIdx.x; }
MEMX_DEVICE int block_y() { return blockIdx.y; }
MEMX_DEVICE int block_z() { return blockIdx.z; }

MEMX_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char bytes[];
  return bytes;
}

MEMX_DEVICE void barrier() { __syncthreads(); }

MEMX_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, both aligned to 16; zeros unless `valid`.
MEMX_DEVICE void copy_16_bytes(char* target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(target)),
               "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

// Has bytes, whose address and number are multiples of 16, brought to the cache that all
// multiprocessors share, where a GPU can be asked for that.
MEMX_DEVICE void prefetch([[maybe_unused]] const void* memory, [[maybe_unused]] int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(memory), "r"(bytes) : "memory");
#endif
}

// Ends a group of this thread's copies.
MEMX_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most the last `pending` groups of this thread's copies are on their way.
template <int pending>
MEMX_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

// Collective. M times four 8 x 8 matrices of 16-bit numbers (or 8 x 4 of 32-bit ones) from shared
// memory: lane 8 i + r gives the address of row r of matrix i, 16 bytes. Afterwards lane 4 r + c
// has row r, numbers 2 c and 2 c + 1 (the 32-bit number c) of every matrix.
template <int M>
MEMX_DEVICE void load_matrices(uint32_t (&matrices)[M][4], const char* const (&rows)[M]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[m][0]), "=r"(matrices[m][1]), "=r"(matrices[m][2]),
                   "=r"(matrices[m][3])
                 : "r"(shared_address(rows[m]))
                 : "memory");
  }
}

// Collective. The same of 16-bit numbers, transposed: lane 4 r + c has column r, rows 2 c and
// 2 c + 1.
template <int M>
MEMX_DEVICE void load_matrices_transposed(uint32_t (&matrices)[M][4],
                                          const char* const (&rows)[M]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[m][0]), "=r"(matrices[m][1]), "=r"(matrices[m][2]),
                   "=r"(matrices[m][3])
                 : "r"(shared_address(rows[m]))
                 : "memory");
  }
}

// Single precision as TensorFloat-32, rounded to nearest.
MEMX_DEVICE uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// The same in fewer instructions, for multiply() alone, which ignores the last 13 bits: of negative
// NaNs those that arithmetic never gives, with all of the highest bits set, become zero.
MEMX_DEVICE uint32_t operand_of_tf32(uint32_t bits) {
  return max(int32_t(bits + 0x1000u), int32_t(bits));
}

// What float operands of multiply() are rounded to.
struct TensorFloat32 {};

MEMX_DEVICE void multiply_one(float (&sum)[4], const uint32_t (&left)[4],
                              const uint32_t (&right)[2], Bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

MEMX_DEVICE void multiply_one(float (&sum)[4], const uint32_t (&left)[4],
                              const uint32_t (&right)[2], Float16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

MEMX_DEVICE void multiply_one(float (&sum)[4], const uint32_t (&left)[4],
                              const uint32_t (&right)[2], TensorFloat32) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// Collective. sum[m][n] += left[m] * right[n]: tiles of 16 x K times K x 8, K = 32 bytes. With
// r = lane / 4 and c = lane % 4 a lane has
//   left   4 bytes of rows r, r + 8, r, r + 8, from bytes 4 c, 4 c, 16 + 4 c, 16 + 4 c of K on
//   right  4 bytes of column r, from bytes 4 c and 16 + 4 c of K on
//   sum    columns 2 c and 2 c + 1 of row r, then of row r + 8
template <class Operand, int M, int N>
MEMX_DEVICE void multiply(float (&sum)[M][N][4], const uint32_t (&left)[M][4],
                          const uint32_t (&right)[N][2]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      multiply_one(sum[m][n], left[m], right[n], Operand{});
    }
  }
}

MEMX_DEVICE float widen(Bfloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }
MEMX_DEVICE float widen(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(result) : "h"(value.bits));
  return result;
}
MEMX_DEVICE float widen(float value) { return value; }
MEMX_DEVICE double widen(double value) { return value; }

MEMX_DEVICE void narrow(float value, Bfloat16& result) {
  asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
}
MEMX_DEVICE void narrow(float value, Float16& result) {
  asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
}
MEMX_DEVICE void narrow(float value, float& result) { result = value; }
MEMX_DEVICE void narrow(double value, double& result) { result = value; }

// The first or the second of two numbers in four bytes.
template <bool second>
MEMX_DEVICE float widen_one(uint32_t pair, Bfloat16) {
  return __uint_as_float(second ? pair & 0xffff0000u : pair << 16);
}
template <bool second>
MEMX_DEVICE float widen_one(uint32_t pair, Float16) {
  float result;
  if constexpr (second) {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}\n"
        : "=f"(result)
        : "r"(pair));
  } else {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}\n"
        : "=f"(result)
        : "r"(pair));
  }
  return result;
}

// Two numbers in four bytes, the first one low.
MEMX_DEVICE uint32_t narrow_pair(float first, float second, Bfloat16) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}
MEMX_DEVICE uint32_t narrow_pair(float first, float second, Float16) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}

// 2^x and 1 / x by the special function unit: within two units in the last place, and zero where the
// result is not a normal number.
MEMX_DEVICE float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}
MEMX_DEVICE float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

inline void check(cudaError_t status) {
  if (status != cudaSuccess) {
    cudaGetLastError();  // or whoever asks next would take the error for one of its own
    throw std::runtime_error(std::string("memx_fast: CUDA: ") + cudaGetErrorString(status));
  }
}

// Enqueues the writing of zeros.
inline void clear(void* memory, int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(memory, 0, bytes, stream));
}

// Enqueues kernel(arguments) with so many bytes of shared memory a block, kSharedBytes at most.
template <class Arguments>
void launch(void (*kernel)(Arguments), Grid grid, int threads, int shared_bytes, Stream stream,
            const Arguments& arguments) {
  constexpr int kAlwaysAllowed = 48 << 10;
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kAlwaysAllowed) {
    // The limit belongs to the kernel. Set to one number alone, no other thread that launches it can
    // lower it in between.
    check(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  }
  void* pointers[] = {const_cast<Arguments*>(&arguments)};
  check(cudaLaunchKernel(function, dim3(grid.x, grid.y, grid.z), dim3(threads), pointers,
                         shared_bytes, stream));
}

}  // namespace memx::cuda
#endif

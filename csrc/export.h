// What the instruction-set regions and the GPU share: inlining, and the name of the region being
// compiled.
#pragma once

#ifdef __CUDACC__
#define MEMX_INLINE __host__ __device__ static inline __attribute__((always_inline))
#define MEMX_INLINE_MEMBER __host__ __device__ inline __attribute__((always_inline))
#else
#define MEMX_INLINE static inline __attribute__((always_inline))
#define MEMX_INLINE_MEMBER inline __attribute__((always_inline))
#endif
// After the parameters of a lambda. What it captured is then in registers.
#define MEMX_INLINE_LAMBDA __attribute__((always_inline))

// Kernel code is compiled once for each instruction set, in a namespace of that set's name, so that
// the copies never meet at link time. Code outside any region is the baseline copy.
#ifndef MEMX_ISA
#define MEMX_ISA baseline
#endif

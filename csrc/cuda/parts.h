// Adds up what blocks have summed by themselves, in a fixed order, so that the same call gives the
// same bits every time.
#pragma once

#include "planning.h"

namespace memx::cuda {

// out[(column * channels + channel) * taps + tap] = sum over parts of (part, tap, channel, column).
template <class S, class A>
struct PartsSum {
  const A* parts;
  S* result;
  int count;  // of parts
  int taps, channels, columns;
  int slices_log2 = 0;  // of the parts, a thread each

  MEMX_EITHER int64_t size() const { return int64_t{taps} * channels * columns; }
};

constexpr int kSumThreads = 256;
constexpr int kLeastSlice = 8, kMostSlicesLog2 = 4;

// One slice of a number's parts: every so many of them.
template <class S, class A>
MEMX_DEVICE A sum_slice(const PartsSum<S, A>& work, int64_t number, int slice) {
  A sum = 0;
#pragma unroll 8
  for (int part = slice; part < work.count; part += 1 << work.slices_log2) {
    sum += work.parts[part * work.size() + number];
  }
  return sum;
}

template <class S, class A>
MEMX_DEVICE void store_sum(const PartsSum<S, A>& work, uint32_t number, A sum) {
  const uint32_t row = number / work.columns, column = number - row * work.columns;
  const uint32_t tap = row / work.channels, channel = row - tap * work.channels;
  narrow(sum, work.result[(int64_t{column} * work.channels + channel) * work.taps + tap]);
}

template <class S, class A>
MEMX_KERNEL(kSumThreads, 1)
add_parts(MEMX_KERNEL_ARGUMENT PartsSum<S, A> work) {
  const int numbers = kSumThreads >> work.slices_log2;  // of a block
  const int64_t number = int64_t{block_x()} * numbers + (thread() & (numbers - 1));
  const int slice = thread() / numbers;
  const bool exists = number < work.size();
  A* shared = reinterpret_cast<A*>(shared_memory());
  shared[thread()] = exists ? sum_slice(work, number, slice) : A{0};
  barrier();
  if (exists && slice == 0) {
    A sum = shared[thread()];
    for (int other = thread() + numbers; other < kSumThreads; other += numbers) {
      sum += shared[other];
    }
    store_sum(work, uint32_t(number), sum);
  }
}

inline int log2_at_most(int number) { return number < 2 ? 0 : 1 + log2_at_most(number / 2); }

template <class S, class A>
void launch_add_parts(PartsSum<S, A> work, Stream stream) {
  work.slices_log2 = std::min(kMostSlicesLog2, log2_at_most(work.count / kLeastSlice));
  launch(add_parts<S, A>, {ceil_div(work.size(), kSumThreads >> work.slices_log2)}, kSumThreads,
         kSumThreads * int(sizeof(A)), stream, work);
}

}  // namespace memx::cuda

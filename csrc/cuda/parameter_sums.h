// Gradients of bias and peepholes: sums of gate gradients over steps, batch and pixels, in a fixed
// order.
#pragma once

#include "parts.h"

namespace memx::cuda {

constexpr int kParameterThreads = 256;  // of a block, two of which are on a multiprocessor
constexpr int kParameterBlocks = 2;
constexpr int kParameterChannels = 32;  // of a block

constexpr int kGateSums = 4, kPeepholeSums = 3, kParameterSums = kGateSums + kPeepholeSums;

// Rows are the pixels of all images. A thread has every so many of them, of one channel or several
// that are moved together: if peepholes are spatial, those of one pixel.
template <class Numbers>
struct ParameterSums {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  const S* gate_gradients;  // (T*B*H*W, 4, C)
  const A* cells;           // (T*B*H*W, C): C_t
  const A* c_0;             // (B*H*W, C); null: zeros
  int64_t rows, rows_a_step;
  int64_t stride;  // from a thread's row to its next
  int hidden;
  bool output_sees_current, sums_peepholes;
  A* bias;       // (blocks, 4, C)
  A* peepholes;  // (blocks, 3, C); null: they are spatial or not wanted
  S* spatial;    // (3, C, H*W); null: they are not, or not wanted
};

// Channels that a thread has.
template <class Numbers>
constexpr int kChannelsTogether = 16 / sizeof(typename Numbers::accumulate);

template <class Numbers>
MEMX_EITHER bool move_together(int hidden) {
  return hidden % kChannelsTogether<Numbers> == 0;
}

// Rows that a block has at once: of as many channels as it has, too.
MEMX_EITHER constexpr int rows_at_once(int channels) {
  return kParameterThreads * channels / kParameterChannels;
}

// Neighbouring channels as they are moved: what was halves is taken apart when it is added, not when
// it is asked for, which would wait for it.
template <int bytes>
struct alignas(bytes) Moved {
  uint32_t words[bytes / 4];
};
template <>
struct Moved<2> {
  uint16_t half;
};
template <class T, int channels>
using MovedChannels = Moved<channels* int(sizeof(T))>;

template <class T, int channels>
struct TakenChannels {
  T numbers[channels];
};

template <int channels, class T>
MEMX_DEVICE MovedChannels<T, channels> load_channels(const T* memory) {
  return *reinterpret_cast<const MovedChannels<T, channels>*>(memory);
}

template <class T, int channels>
MEMX_DEVICE TakenChannels<T, channels> channels_of(const MovedChannels<T, channels>& moved) {
  using Taken = TakenChannels<T, channels>;
  return __builtin_bit_cast(Taken, moved);
}

// A sum and what was lost of it by rounding. (One that is infinite becomes NaN.)
template <class A>
struct CompensatedSum {
  A sum = 0, lost = 0;

  MEMX_DEVICE void add(A number) {
    const A corrected = number - lost, next = sum + corrected;
    lost = (next - sum) - corrected;
    sum = next;
  }
};

// What is read of a row.
template <class Numbers, int channels>
struct SumOperands {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  MovedChannels<S, channels> gates[kGateSums];
  MovedChannels<A, channels> previous, cell;  // C_{t-1} and C_t
};

template <int channels, class Numbers>
MEMX_DEVICE SumOperands<Numbers, channels> load_row(const ParameterSums<Numbers>& work, int64_t row,
                                                    int channel) {
  SumOperands<Numbers, channels> loaded{};
  if (row < work.rows) {
    const int64_t at = row * work.hidden + channel;
    const auto* gradients = work.gate_gradients + 4 * row * work.hidden + channel;
#pragma unroll
    for (int gate = 0; gate < kGateSums; ++gate) {
      loaded.gates[gate] = load_channels<channels>(gradients + gate * work.hidden);
    }
    if (work.sums_peepholes) {
      if (row >= work.rows_a_step) {
        loaded.previous = load_channels<channels>(work.cells + at - work.rows_a_step * work.hidden);
      } else if (work.c_0 != nullptr) {
        loaded.previous = load_channels<channels>(work.c_0 + at);
      }
      if (work.output_sees_current) {
        loaded.cell = load_channels<channels>(work.cells + at);
      }
    }
  }
  return loaded;
}

template <class Numbers, int channels, class A>
MEMX_DEVICE void add_gates(const SumOperands<Numbers, channels>& loaded,
                           CompensatedSum<A> (&sums)[kParameterSums][channels]) {
#pragma unroll
  for (int gate = 0; gate < kGateSums; ++gate) {
    const auto gradients = channels_of<typename Numbers::storage, channels>(loaded.gates[gate]);
#pragma unroll
    for (int e = 0; e < channels; ++e) {
      sums[gate][e].add(widen(gradients.numbers[e]));
    }
  }
}

// The gradients of i, f and o times the cell state that they saw.
template <class Numbers, int channels, class A>
MEMX_DEVICE void add_peepholes(const SumOperands<Numbers, channels>& loaded,
                               bool output_sees_current,
                               CompensatedSum<A> (&sums)[kParameterSums][channels]) {
  constexpr int kGates[kPeepholeSums] = {0, 1, 3};
  const auto previous = channels_of<A, channels>(loaded.previous);
  const auto cell = channels_of<A, channels>(loaded.cell);
#pragma unroll
  for (int n = 0; n < kPeepholeSums; ++n) {
    const auto gradients =
        channels_of<typename Numbers::storage, channels>(loaded.gates[kGates[n]]);
#pragma unroll
    for (int e = 0; e < channels; ++e) {
      const A seen = n == 2 && output_sees_current ? cell.numbers[e] : previous.numbers[e];
      sums[kGateSums + n][e].add(widen(gradients.numbers[e]) * seen);
    }
  }
}

// The sums of a block's threads in shared memory: (kParameterSums, rows at once, channels), the last padded
// against bank conflicts.
template <class A, int channels>
struct BlockSums {
  static constexpr int kRows = rows_at_once(channels);

  MEMX_DEVICE static A& at(int sum, int row, int channel) {
    A* memory = reinterpret_cast<A*>(shared_memory());
    return memory[(sum * kRows + row) * (kParameterChannels + 1) + channel];
  }

  MEMX_DEVICE static A over_rows(int sum, int channel) {
    CompensatedSum<A> result;
    for (int row = 0; row < kRows; ++row) {
      result.add(at(sum, row, channel));
    }
    return result.sum;
  }
};

MEMX_EITHER constexpr int parameter_bytes(int channels, int bytes) {
  return kParameterSums * rows_at_once(channels) * (kParameterChannels + 1) * bytes;
}

template <int channels, class Numbers>
MEMX_DEVICE void sum_rows(const ParameterSums<Numbers>& work) {
  using A = typename Numbers::accumulate;
  constexpr int kAhead = sizeof(A) == 4 ? 2 : 1;  // rows that are asked for at once
  constexpr int kThreadsAcross = kParameterChannels / channels;
  const int of_row = thread() / kThreadsAcross, of_channel = thread() % kThreadsAcross * channels;
  const int channel = block_y() * kParameterChannels + of_channel;
  CompensatedSum<A> sums[kParameterSums][channels];
  const int64_t first = int64_t{block_x()} * rows_at_once(channels) + of_row;
  const int64_t end = first < work.stride && channel < work.hidden ? work.rows : 0;
  for (int64_t row = first; row < end; row += kAhead * work.stride) {
    SumOperands<Numbers, channels> loaded[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      loaded[n] = load_row<channels>(work, row + n * work.stride, channel);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      add_gates(loaded[n], sums);
      if (work.sums_peepholes) {
        add_peepholes(loaded[n], work.output_sees_current, sums);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kParameterSums; ++n) {
#pragma unroll
    for (int e = 0; e < channels; ++e) {
      BlockSums<A, channels>::at(n, of_row, of_channel + e) = sums[n][e].sum;
    }
  }
}

// One of the block's sums a thread.
template <int channels, class Numbers>
MEMX_DEVICE void store_block(const ParameterSums<Numbers>& work) {
  const int n = thread() / kParameterChannels, of_channel = thread() % kParameterChannels;
  const int channel = block_y() * kParameterChannels + of_channel;
  const bool is_gate = n < kGateSums;
  auto* parts = is_gate ? work.bias : work.peepholes;
  if (n < kParameterSums && channel < work.hidden && parts != nullptr) {
    const int64_t place = is_gate ? int64_t{block_x()} * kGateSums + n
                                  : int64_t{block_x()} * kPeepholeSums + n - kGateSums;
    parts[place * work.hidden + channel] =
        BlockSums<typename Numbers::accumulate, channels>::over_rows(n, of_channel);
  }
}

// The sums of the block's pixels, one pixel after the other.
template <int channels, class Numbers>
MEMX_DEVICE void store_pixels(const ParameterSums<Numbers>& work) {
  constexpr int kRows = rows_at_once(channels);
  const int64_t pixel = int64_t{block_x()} * kRows + thread() % kRows;
  for (int n = thread() / kRows; n < kPeepholeSums * kParameterChannels;
       n += kParameterThreads / kRows) {
    const int sum = n / kParameterChannels, of_channel = n % kParameterChannels;
    const int channel = block_y() * kParameterChannels + of_channel;
    if (pixel < work.stride && channel < work.hidden) {
      narrow(BlockSums<typename Numbers::accumulate, channels>::at(kGateSums + sum,
                                                                   thread() % kRows, of_channel),
             work.spatial[(int64_t{sum} * work.hidden + channel) * work.stride + pixel]);
    }
  }
}

template <int channels, class Numbers>
MEMX_DEVICE void sum_parameters(const ParameterSums<Numbers>& work) {
  sum_rows<channels>(work);
  barrier();
  store_block<channels>(work);
  if (work.spatial != nullptr) {
    store_pixels<channels>(work);
  }
}

template <class Numbers>
MEMX_KERNEL(kParameterThreads, kParameterBlocks)
parameter_sums(MEMX_KERNEL_ARGUMENT ParameterSums<Numbers> work) {
  if (move_together<Numbers>(work.hidden)) {
    sum_parameters<kChannelsTogether<Numbers>>(work);
  } else {
    sum_parameters<1>(work);
  }
}

}  // namespace memx::cuda

// Gradients of bias and peepholes: sums of gate gradients over steps, batch and pixels, in their
// order.
#pragma once

#include "elements.h"
#include "planning.h"

namespace memx::cuda {

constexpr int kSumPixels = 8, kSumChannels = 32;  // of a block, a thread each

template <class Numbers>
struct ParameterSums {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  const S* gate_gradients;  // (T*B, H*W, 4, C)
  const A* cells;           // (T*B, H*W, C): C_t
  const A* c_0;             // (B, H*W, C); null: zeros
  int64_t images, batch, pixels;
  int hidden;
  bool is_spatial, output_sees_current;
  A* bias;       // (blocks of pixels, 4, C); null: not wanted
  A* peepholes;  // (3, H*W, C) if spatial, else (blocks of pixels, 3, C); null: not wanted
};

constexpr int kGateSums = 4, kPeepholeSums = 3;

// Sums of one channel of one pixel over all images: of the four gate gradients, and of those of i,
// f and o times the cell state that they saw.
template <class Numbers, class A>
MEMX_DEVICE void add_images(const ParameterSums<Numbers>& work, int64_t pixel, int channel,
                            A (&sums)[kGateSums + kPeepholeSums]) {
  const int64_t size = work.pixels * work.hidden, at = pixel * work.hidden + channel;
  for (int64_t image = 0; image < work.images; ++image) {
    const auto* gradients =
        work.gate_gradients + 4 * (image * size + pixel * work.hidden) + channel;
    A gradient[kGateSums];
#pragma unroll
    for (int gate = 0; gate < kGateSums; ++gate) {
      gradient[gate] = widen(gradients[gate * work.hidden]);
      sums[gate] += gradient[gate];
    }
    if (work.peepholes != nullptr) {
      A previous = 0;
      if (image >= work.batch) {
        previous = work.cells[(image - work.batch) * size + at];
      } else if (work.c_0 != nullptr) {
        previous = work.c_0[image * size + at];
      }
      const A seen = work.output_sees_current ? work.cells[image * size + at] : previous;
      sums[kGateSums] += gradient[0] * previous;
      sums[kGateSums + 1] += gradient[1] * previous;
      sums[kGateSums + 2] += gradient[3] * seen;
    }
  }
}

template <class Numbers>
MEMX_KERNEL(kSumPixels* kSumChannels, 1)
parameter_sums(MEMX_KERNEL_ARGUMENT ParameterSums<Numbers> work) {
  using A = typename Numbers::accumulate;
  const int of_pixel = thread() / kSumChannels, of_channel = thread() % kSumChannels;
  const int64_t pixel = int64_t{block_x()} * kSumPixels + of_pixel;
  const int channel = block_y() * kSumChannels + of_channel;
  A sums[kGateSums + kPeepholeSums] = {};
  if (pixel < work.pixels && channel < work.hidden) {
    add_images(work, pixel, channel, sums);
    if (work.peepholes != nullptr && work.is_spatial) {
#pragma unroll
      for (int n = 0; n < kPeepholeSums; ++n) {
        work.peepholes[(n * work.pixels + pixel) * work.hidden + channel] = sums[kGateSums + n];
      }
    }
  }
  A* shared = reinterpret_cast<A*>(shared_memory());
#pragma unroll
  for (int n = 0; n < kGateSums + kPeepholeSums; ++n) {
    barrier();
    shared[of_pixel * kSumChannels + of_channel] = sums[n];
    barrier();
    if (of_pixel == 0 && channel < work.hidden) {
      A sum = 0;
      for (int row = 0; row < kSumPixels; ++row) {
        sum += shared[row * kSumChannels + of_channel];
      }
      if (n < kGateSums && work.bias != nullptr) {
        work.bias[(int64_t{block_x()} * kGateSums + n) * work.hidden + channel] = sum;
      }
      if (n >= kGateSums && work.peepholes != nullptr && !work.is_spatial) {
        work.peepholes[(int64_t{block_x()} * kPeepholeSums + n - kGateSums) * work.hidden +
                       channel] = sum;
      }
    }
  }
}

}  // namespace memx::cuda

// Gradient of a convolution's weight over all steps at once, without atomics.
//
// A product of the images, transposed, with the gate gradients: rows are channels under a tap,
// columns the channels of the gates, and the sum runs over the pixels of all images. A block has
// one chunk of channels, a run of columns and a part of the tiles that the images are cut into;
// each of its warps has one tap and reads, shifted, the pixels that all share. Where there are few
// taps, several warps share the pixels of one. Every part writes its own sum; add_parts() adds them
// up in their order, so that the same call gives the same bits every time.
#pragma once

#include "planning.h"

namespace memx::cuda {

constexpr int kGradientStages = 2;
constexpr int kMostTapWarps = 9;

template <class Numbers>
struct WeightGradient {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Image image;      // what was convolved
  Image gradients;  // of the gates (N, H, W, 4C), without a kernel
  Tiling tiling;    // of the gates' images
  int64_t tiles, tiles_a_part;
  const int64_t* lengths;           // (batch,): the steps of every sequence; null: all
  int64_t batch, first_step;        // images are those of the batch at this step, then at the next
  int image_bytes, gradient_bytes;  // of a stage in shared memory
  int taps, shares;                 // of a block; of a tap, a warp each
  A* parts;                         // (parts, taps, channels, 4C)
};

template <class Numbers>
constexpr int kGradientChannels = Numbers::kTiles * kTileRows;  // of a block
template <class Numbers>
constexpr int kGradientColumns = Numbers::kPixelColumns * kTileColumns;
// Pixels of a tile: what is large in memory has fewer.
template <class Numbers>
constexpr int kGradientPixels = sizeof(typename Numbers::storage) == 2 ? 128 : 64;

template <class Numbers>
MEMX_EITHER int gradient_pitch(const Image& image) {
  return image.blocks * kBlockBytes + Numbers::kPixelPadding;
}

// The first tile from `number` on of which there is a step: after the end of a sequence its images may
// hold anything.
template <class Numbers>
MEMX_DEVICE int64_t next_tile(const WeightGradient<Numbers>& work, int64_t number, int64_t end) {
  if (work.lengths != nullptr) {
    const int64_t tiles = work.tiling.tiles();
    for (int64_t image = number / tiles; number < end; number = ++image * tiles) {
      if (!has_ended(work.lengths, image % work.batch, work.first_step + image / work.batch)) {
        break;
      }
    }
  }
  return number;
}

// One run of columns of the weight gradient, of rows that are the channels of a chunk under a tap.
template <class Numbers, class A>
MEMX_DEVICE void store_part(const WeightGradient<Numbers>& work, int tap,
                            const A (&sum)[Numbers::kTiles][Numbers::kPixelColumns][4]) {
  const int depth = work.image.depth(), columns = work.gradients.channels;
  const int chunk = block_x() % work.image.chunks;
  A* result = work.parts + (int64_t(block_z()) * work.image.taps() + tap) * depth * columns;
#pragma unroll
  for (int row = 0; row < 2 * Numbers::kTiles; ++row) {
    const int channel = chunk * kGradientChannels<Numbers> + row * 8 + lane() / 4;
#pragma unroll
    for (int n = 0; n < Numbers::kPixelColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column =
            block_y() * kGradientColumns<Numbers> + n * kTileColumns + lane() % 4 * 2 + e;
        if (channel < depth && column < columns) {
          result[int64_t{channel} * columns + column] = sum[row / 2][n][row % 2 * 2 + e];
        }
      }
    }
  }
}

// Adds the sums of a tap's other warps to those of its first, in their order.
template <class Numbers, class A>
MEMX_DEVICE void add_shares(int shares, A (&sum)[Numbers::kTiles][Numbers::kPixelColumns][4]) {
  constexpr int kSums = sizeof(sum) / sizeof(A);
  A* const own = &sum[0][0][0];
  A* const shared = reinterpret_cast<A*>(shared_memory()) + warp() / shares * (kSums * 32) + lane();
  for (int share = 1; share < shares; ++share) {
    barrier();
    if (warp() % shares == share) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) {
        shared[n * 32] = own[n];
      }
    }
    barrier();
    if (warp() % shares == 0) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) {
        own[n] += shared[n * 32];
      }
    }
  }
}

template <class Numbers>
MEMX_KERNEL(32 * kMostTapWarps, 1)
weight_gradient(MEMX_KERNEL_ARGUMENT WeightGradient<Numbers> work) {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  const int chunk = block_x() % work.image.chunks;
  const int tap = block_x() / work.image.chunks * work.taps + warp() / work.shares;
  const int pixels = kGradientPixels<Numbers> / work.shares, first = warp() % work.shares * pixels;
  const int64_t begin = block_z() * work.tiles_a_part;
  const int64_t end =
      begin + work.tiles_a_part < work.tiles ? begin + work.tiles_a_part : work.tiles;
  const int pitch = gradient_pitch<Numbers>(work.image);
  const int gradient_pitch_ = gradient_pitch<Numbers>(work.gradients);
  const auto memory_of = [&](int stage) {
    return shared_memory() + stage % kGradientStages * (work.image_bytes + work.gradient_bytes);
  };
  const auto request = [&](int64_t number, int stage) {
    if (number < end) {
      const Tile tile = tile_of(work.tiling, number);
      char* memory = memory_of(stage);
      move_chunk<S>(work.image, work.tiling, tile, chunk, {memory, pitch});
      move_chunk<S>(work.gradients, work.tiling, tile, block_y(),
                    {memory + work.image_bytes, gradient_pitch_});
    }
    commit_copies();
  };

  A sum[Numbers::kTiles][Numbers::kPixelColumns][4] = {};
  const int row = work.image.halo_columns(work.tiling.columns());
  const int down = tap / work.image.kernel_width;
  const int shift = (down * row + tap - down * work.image.kernel_width) * pitch;
  int64_t number = next_tile(work, begin, end);
  request(number, 0);
  for (int stage = 0; number < end; ++stage) {
    wait_copies<0>();
    barrier();
    number = next_tile(work, number + 1, end);
    request(number, stage + 1);
    if (tap < work.image.taps()) {
      char* memory = memory_of(stage);
      const PixelImage image{memory + shift, pitch, row, work.tiling.columns_log2};
      const PixelImage gradients{memory + work.image_bytes, gradient_pitch_, work.tiling.columns(),
                                 work.tiling.columns_log2};
      for (int pixel = first; pixel < first + pixels; pixel += Numbers::kPixelDepth) {
        Numbers::multiply_pixels(sum, image, gradients, pixel);
      }
    }
  }
  add_shares<Numbers>(work.shares, sum);
  if (tap < work.image.taps() && warp() % work.shares == 0) {
    store_part(work, tap, sum);
  }
}

// Decides how a weight gradient's images lie in shared memory, and what the warps of a block do.
template <class Numbers>
void plan(WeightGradient<Numbers>& work) {
  using S = typename Numbers::storage;
  work.gradients.blocks = kGradientColumns<Numbers> * int(sizeof(S)) / kBlockBytes;
  for (const bool gathers : {false, true}) {
    if (gathers) {
      gather(work.image);
    }
    const bool has_halo = !work.image.is_gathered;
    work.tiling =
        tiling_of(work.gradients.height, work.gradients.width, kGradientPixels<Numbers>,
                  has_halo ? work.image.kernel_height : 1, has_halo ? work.image.kernel_width : 1);
    work.image.blocks = kGradientChannels<Numbers> * int(sizeof(S)) / kBlockBytes;
    work.image.chunks = int(ceil_div(work.image.depth(), kGradientChannels<Numbers>));
    work.image_bytes = halo_pixels(work.image, work.tiling) * gradient_pitch<Numbers>(work.image);
    work.gradient_bytes = kGradientPixels<Numbers> * gradient_pitch<Numbers>(work.gradients);
    if (kGradientStages * (work.image_bytes + work.gradient_bytes) <= kSharedBytes) {
      const int taps = work.image.taps();
      work.taps = int(ceil_div(taps, ceil_div(taps, kMostTapWarps)));
      work.shares = 1;
      while (2 * work.shares * work.taps <= kMostTapWarps) {
        work.shares *= 2;
      }
      return;
    }
  }
  throw std::logic_error("memx_fast: a gathered tile does not fit into shared memory");
}

// out[(column * channels + channel) * taps + tap] = sum over parts of (part, tap, channel, column).
template <class S, class A>
struct PartsSum {
  const A* parts;
  S* result;
  int64_t count;  // of parts
  int64_t taps, channels, columns;
};

constexpr int kSumThreads = 256;

template <class S, class A>
MEMX_KERNEL(kSumThreads, 1)
add_parts(MEMX_KERNEL_ARGUMENT PartsSum<S, A> work) {
  const int64_t number = int64_t{block_x()} * kSumThreads + thread();
  const int64_t size = work.taps * work.channels * work.columns;
  if (number >= size) {
    return;
  }
  A sum = 0;
  for (int64_t part = 0; part < work.count; ++part) {
    sum += work.parts[part * size + number];
  }
  const int64_t column = number % work.columns, row = number / work.columns;
  const int64_t channel = row % work.channels, tap = row / work.channels;
  narrow(sum, work.result[(column * work.channels + channel) * work.taps + tap]);
}

template <class S, class A>
void launch_add_parts(const PartsSum<S, A>& work, Stream stream) {
  const int64_t size = work.taps * work.channels * work.columns;
  launch(add_parts<S, A>, {ceil_div(size, kSumThreads)}, kSumThreads, 0, stream, work);
}

}  // namespace memx::cuda

// On the CPU, before a weight gradient is launched: how its images lie in shared memory, and what the
// warps of a block do. What is decided depends on the sizes of a layer and its images alone.
#pragma once

#include "weight_gradient.h"

namespace memx::cuda {

// What plan() chooses among.
struct GradientShape {
  bool gathers;
  int channel_tiles;  // of a chunk
  int across;         // runs of columns of a block
  int pixels;         // of a rectangle
};

// What so many threads do to bring the pixels under a rectangle to shared memory.
template <class Numbers>
Footprint footprint_of(const Image& image, const Tiling& tiling, int threads) {
  const int unit = image.moves_pieces ? kPieceBytes : sizeof(typename Numbers::storage);
  Footprint footprint{};
  footprint.rows = image.halo_rows(tiling.rows());
  footprint.columns = image.halo_columns(tiling.columns());
  footprint.pitch = image.blocks * kBlockBytes + PixelProducts<Numbers>::kPadding;
  footprint.units_log2 = log2_of(image.blocks * kBlockBytes / unit);
  const int pixels = threads >> footprint.units_log2;
  footprint.rows_on = pixels / footprint.columns;
  footprint.columns_on = pixels % footprint.columns;
  return footprint;
}

// Shares a block's tiles, runs and pixels among as many warps as there may be.
template <class Numbers>
void share_out(WeightGradient<Numbers>& work, const GradientShape& shape) {
  using Products = PixelProducts<Numbers>;
  work.across_log2 = log2_of(shape.across);
  const int tiles = int(ceil_div(work.row_tiles(), Products::kRowTiles));  // a warp each
  work.groups = int(ceil_div(tiles, kGradientWarps / shape.across));
  work.down = int(ceil_div(tiles, work.groups));
  const int most_shares =
      std::min(kGradientWarps / (work.down * shape.across), shape.pixels / Products::kDepth);
  work.shares_log2 = log2_at_most(most_shares);
}

// Everything that follows from a shape.
template <class Numbers>
void shape_gradient(WeightGradient<Numbers>& work, const GradientShape& shape) {
  using S = typename Numbers::storage;
  using Products = PixelProducts<Numbers>;
  Image& image = work.image;
  const auto blocks = [](int numbers) { return numbers * int(sizeof(S)) / kBlockBytes; };
  const bool takes_pieces = image.channels * sizeof(S) % kPieceBytes == 0;
  image.is_gathered = shape.gathers;
  image.moves_pieces = takes_pieces && !shape.gathers && image.mask == nullptr;
  image.blocks = blocks(shape.channel_tiles * kTileRows);
  image.chunks = int(ceil_div(image.depth(), shape.channel_tiles * kTileRows));
  work.gradients.blocks = blocks(shape.across * kRunColumns<Numbers>);
  work.tiling = tiling_of(work.gradients.height, work.gradients.width, shape.pixels,
                          image.tap_rows(), image.tap_columns());
  work.channel_tiles = shape.channel_tiles;
  share_out(work, shape);
  const int threads = 32 * work.warps();
  work.image_footprint = footprint_of<Numbers>(image, work.tiling, threads);
  work.gradient_footprint = footprint_of<Numbers>(work.gradients, work.tiling, threads);
  work.stage_bytes = work.image_footprint.bytes() + work.gradient_footprint.bytes();

  const int pitch = work.image_footprint.pitch;
  work.products = shape.pixels / work.shares() / Products::kDepth;
  work.products_in_row = std::max(1, work.tiling.columns() / Products::kDepth);
  const int rows = std::max(1, Products::kDepth / work.tiling.columns());
  work.product_bytes = Products::kDepth * pitch;
  work.row_bytes =
      rows * work.image_footprint.columns * pitch - work.products_in_row * work.product_bytes;
}

template <class Numbers>
int shared_bytes(const WeightGradient<Numbers>& work) {
  const int sums = work.shares() > 1 ? work.down * work.across() * kSumBytes<Numbers> : 0;
  return std::max(kGradientStages * work.stage_bytes, sums);
}

// Whether there is memory for a block, and a thread for every unit of a pixel.
template <class Numbers>
bool is_possible(const WeightGradient<Numbers>& work) {
  const int units_log2 =
      std::max(work.image_footprint.units_log2, work.gradient_footprint.units_log2);
  return shared_bytes(work) <= kSharedBytes && 32 * work.warps() >> units_log2 > 0;
}

// About how many cycles a multiprocessor has to do with an image, as if it moved pixels and then
// multiplied: what is moved by pieces comes at 20 bytes a cycle, by numbers at 4 of them, and every
// rectangle has a barrier.
template <class Numbers>
double cycles_of(const WeightGradient<Numbers>& work) {
  using S = typename Numbers::storage;
  using Products = PixelProducts<Numbers>;
  const auto moving = [](const Image& image, const Footprint& footprint) {
    const int bytes = footprint.rows * footprint.columns * image.blocks * kBlockBytes;
    return image.moves_pieces ? bytes / 20.0 : bytes / (4.0 * sizeof(S));
  };
  constexpr int kBarrier = 300;
  const int64_t warps = ceil_div(work.warps(), kSchedulers) * kSchedulers;
  const double multiplying = double(warps * work.products) * Products::kDepth *
                             Products::kRowTiles * Products::kColumnTiles * Products::kCycles;
  const int64_t runs = ceil_div(work.gradients.channels, kRunColumns<Numbers>);
  const int64_t blocks = work.image.chunks * work.groups * ceil_div(runs, work.across());
  return double(blocks * work.tiling.tiles()) *
         (multiplying + moving(work.image, work.image_footprint) +
          moving(work.gradients, work.gradient_footprint) + kBarrier);
}

// body(shape): those that may suit images of such depth under a kernel.
template <class Numbers, class Body>
void each_gradient_shape(const WeightGradient<Numbers>& work, const Body& body) {
  const int64_t runs = ceil_div(work.gradients.channels, kRunColumns<Numbers>);
  const int kernel = work.image.kernel_height * work.image.kernel_width;
  for (const bool gathers : {false, true}) {
    const int64_t tiles = ceil_div(work.image.channels * (gathers ? kernel : 1), kTileRows);
    for (int channel_tiles = 1; channel_tiles <= 4 && channel_tiles < 2 * tiles;
         channel_tiles *= 2) {
      for (int across = 1; across <= 4 && across < 2 * runs; across *= 2) {
        for (int pixels = 16; pixels <= 128; pixels *= 2) {
          body(GradientShape{gathers && kernel > 1, channel_tiles, across, pixels});
        }
      }
    }
  }
}

// Decides how a weight gradient's images lie in shared memory, and what the warps of a block do: what
// takes least time.
template <class Numbers>
void plan(WeightGradient<Numbers>& work) {
  GradientShape best{};
  double least = 0;
  each_gradient_shape(work, [&](const GradientShape& shape) {
    shape_gradient(work, shape);
    const double cycles = cycles_of(work);
    if (is_possible(work) && (least == 0 || cycles < least)) {
      best = shape;
      least = cycles;
    }
  });
  if (least == 0) {
    throw std::logic_error("memx_fast: a gathered tile does not fit into shared memory");
  }
  shape_gradient(work, best);
}

}  // namespace memx::cuda

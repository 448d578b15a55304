// Gradient of a convolution's weight over all steps at once, without atomics.
//
// A product of the images, transposed, with the gate gradients: rows are channels under a tap,
// columns the channels of the gates, and the sum runs over the pixels of all images. Rows are cut
// into tiles of 16 channels under one tap, which read, shifted, the same pixels. A block has the
// tiles of a chunk of channels, or a group of them, some runs of columns, and a part of the
// rectangles that the images are cut into; warps share its tiles, its runs and, where there are few
// of these, its pixels. Every part writes its own sum; add_parts() adds them up in a fixed order, so
// that the same call gives the same bits every time.
#pragma once

#include "parts.h"
#include "pixel_products.h"

namespace memx::cuda {

constexpr int kGradientStages = 3;
constexpr int kSchedulers = 4;  // of a multiprocessor, among which the warps are dealt out
constexpr int kGradientWarps = 3 * kSchedulers;  // of a block, at most

// How threads bring a rectangle's pixels to shared memory: a thread has one unit of every so many
// pixels, a piece, or a number where pieces cannot be moved as they are.
struct Footprint {
  int rows, columns;        // of pixels, with what lies around them under a kernel
  int pitch;                // bytes of a pixel
  int units_log2;           // of a pixel
  int rows_on, columns_on;  // from one pixel of a thread to its next: counted, not divided

  MEMX_EITHER int bytes() const { return rows * columns * pitch; }
};

template <class Numbers>
struct WeightGradient {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Image image;      // what was convolved
  Image gradients;  // of the gates (N, H, W, 4C), without a kernel
  Footprint image_footprint, gradient_footprint;
  int stage_bytes;  // of shared memory: both footprints
  Tiling tiling;    // of the gates' images
  int64_t tiles, tiles_a_part;
  const int64_t* lengths;     // (batch,): the steps of every sequence; null: all
  int64_t batch, first_step;  // images are those of the batch at this step, then at the next
  int channel_tiles, groups;  // of a chunk
  int down, across_log2, shares_log2;  // warps of a block
  // The products of a warp with a rectangle of pixels: how many, how many in a row, and how many bytes
  // on in the image's pixels the next is, in the row and after it.
  int products, products_in_row;
  int product_bytes, row_bytes;
  A* parts;  // (parts, taps, channels, 4C)

  MEMX_EITHER int across() const { return 1 << across_log2; }
  MEMX_EITHER int shares() const { return 1 << shares_log2; }
  MEMX_EITHER int warps() const { return down << (across_log2 + shares_log2); }
  MEMX_EITHER int row_tiles() const { return image.taps() * channel_tiles; }
};

template <class Numbers>
constexpr int kRunColumns = PixelProducts<Numbers>::kColumnTiles * kTileColumns;

template <class Numbers>
using WeightSums = typename Numbers::accumulate[PixelProducts<Numbers>::kRowTiles]
                                               [PixelProducts<Numbers>::kColumnTiles][4];

// The rectangles of a part, one after the other, but for those of sequences that have ended: there
// images may hold anything.
template <class Numbers>
struct TileWalk {
  const WeightGradient<Numbers>& work;
  int left;  // rectangles, with this one
  Tile tile;
  int sequence, step;  // of the image

  MEMX_DEVICE TileWalk(const WeightGradient<Numbers>& of, int64_t begin, int64_t end)
      : work(of), left(int(end - begin)), tile(tile_of(of.tiling, begin)) {
    const int64_t steps = tile.image / work.batch;
    sequence = int(tile.image - steps * work.batch);
    step = int(work.first_step + steps);
    skip();
  }

  MEMX_DEVICE void advance() {
    --left;
    tile.left += work.tiling.columns();
    if (tile.left >= work.tiling.width) {
      tile.left = 0;
      tile.top += work.tiling.rows();
      if (tile.top >= work.tiling.height) {
        begin_next_image();
        skip();
      }
    }
  }

 private:
  MEMX_DEVICE void begin_next_image() {
    tile = {tile.image + 1, 0, 0};
    if (++sequence == work.batch) {
      sequence = 0;
      ++step;
    }
  }

  MEMX_DEVICE void skip() {
    while (left > 0 && has_ended(work.lengths, sequence, step)) {
      const Tiling& tiling = work.tiling;
      left -= tiling.tiles() - (tile.top >> tiling.rows_log2) * tiling.tiles_across -
              (tile.left >> tiling.columns_log2);
      begin_next_image();
    }
  }
};

// A thread's first pixel in a footprint.
struct FirstPixel {
  int down, across;
};

MEMX_DEVICE FirstPixel first_pixel_of(const Footprint& footprint) {
  const int pixel = thread() >> footprint.units_log2;
  const int down = pixel / footprint.columns;
  return {down, pixel - down * footprint.columns};
}

// A thread's unit of a pixel.
MEMX_DEVICE int unit_of(const Footprint& footprint) {
  return thread() & ((1 << footprint.units_log2) - 1);
}

// A thread's way through the pixels of a footprint: where they are in the image and in shared memory.
struct FootprintWalk {
  const Footprint& footprint;
  int y, x, right;
  char* target;
  const char* end;
  int bytes_on;

  MEMX_DEVICE FootprintWalk(const Footprint& of, const FirstPixel& first, int top, int left,
                            char* memory, int unit_bytes)
      : footprint(of), y(top + first.down), x(left + first.across), right(left + of.columns) {
    const int pixel = thread() >> of.units_log2, pixels = threads() >> of.units_log2;
    target = memory + pixel * of.pitch + unit_of(of) * unit_bytes;
    end = pixel < pixels ? memory + of.bytes() : target;  // none of threads that are left over
    bytes_on = pixels * of.pitch;
  }

  MEMX_DEVICE bool has_pixel() const { return target < end; }

  MEMX_DEVICE void advance() {
    target += bytes_on;
    y += footprint.rows_on;
    x += footprint.columns_on;
    if (x >= right) {
      x -= footprint.columns;
      ++y;
    }
  }
};

template <class S>
MEMX_DEVICE void copy_pieces(const Image& image, const Footprint& footprint,
                             const FirstPixel& first, const Tile& tile, int chunk, char* memory) {
  const int piece = (chunk << footprint.units_log2) + unit_of(footprint);
  const int channel = piece * (kPieceBytes / int(sizeof(S)));
  const char* source =
      reinterpret_cast<const char*>(image_in<S>(image, image.memory, tile.image) + channel);
  const uint32_t pixel_bytes = image.channels * sizeof(S);
  FootprintWalk walk(footprint, first, tile.top - image.padding_rows,
                     tile.left - image.padding_columns, memory, kPieceBytes);
  for (; walk.has_pixel(); walk.advance()) {
    const bool exists = channel < image.channels && is_inside(image, walk.y, walk.x);
    const uint32_t pixel = exists ? walk.y * image.width + walk.x : 0;
    copy_16_bytes(walk.target, source + uint64_t{pixel} * pixel_bytes, exists);
  }
}

// Number by number, times a mask if there is one. Some are asked for before the first is looked at.
template <class S>
MEMX_DEVICE void copy_numbers(const Image& image, const Footprint& footprint,
                              const FirstPixel& first, const Tile& tile, int sequence, int chunk,
                              char* memory) {
  constexpr int kAtOnce = 4;
  const int number = (chunk << footprint.units_log2) + unit_of(footprint);
  const ChannelSource place = channel_source(image, number);
  const S* source = image_in<S>(image, image.memory, tile.image) + place.channel;
  const S* mask =
      image.mask == nullptr ? nullptr : image_in<S>(image, image.mask, sequence) + place.channel;
  FootprintWalk walk(footprint, first, tile.top - image.padding_rows + place.down,
                     tile.left - image.padding_columns + place.across, memory, sizeof(S));
  while (walk.has_pixel()) {
    char* target = walk.target;
    S values[kAtOnce]{}, factors[kAtOnce]{};
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n, walk.advance()) {
      if (number < image.depth() && is_inside(image, walk.y, walk.x)) {
        const int64_t at = int64_t{walk.y * image.width + walk.x} * image.channels;
        values[n] = source[at];
        if (mask != nullptr) {
          factors[n] = mask[at];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n, target += walk.bytes_on) {
      if (mask != nullptr) {
        narrow(widen(values[n]) * widen(factors[n]), values[n]);
      }
      if (target < walk.end) {
        *reinterpret_cast<S*>(target) = values[n];
      }
    }
  }
}

// Where a warp stands in its block.
struct WarpPlace {
  int share, run, first_row_tile;
};

template <class Numbers>
MEMX_DEVICE WarpPlace warp_place(const WeightGradient<Numbers>& work) {
  const int place = warp() >> work.shares_log2, down = place >> work.across_log2;
  const int group = block_x() % work.groups;
  return {warp() & (work.shares() - 1), place & (work.across() - 1),
          (group * work.down + down) * PixelProducts<Numbers>::kRowTiles};
}

// Where in a stage a lane begins to read. A tile of rows that does not exist reads what the first does.
template <class Numbers>
struct LanePlaces {
  using Products = PixelProducts<Numbers>;
  int rows[Products::kRowTiles], columns;

  MEMX_DEVICE LanePlaces(const WeightGradient<Numbers>& work, const WarpPlace& warp) {
    using S = typename Numbers::storage;
    const Footprint &image = work.image_footprint, &gradients = work.gradient_footprint;
    const int first = warp.share * work.products * Products::kDepth;
    const int pixel = first + Products::first_image_pixel();
    const int down = pixel >> work.tiling.columns_log2;
    const int across = pixel - (down << work.tiling.columns_log2);
#pragma unroll
    for (int m = 0; m < Products::kRowTiles; ++m) {
      const int row_tile = warp.first_row_tile + m;
      const int exists = row_tile < work.row_tiles() ? 1 : 0;
      const int tap = exists * row_tile / work.channel_tiles;
      const int channel = (exists * row_tile - tap * work.channel_tiles) * kTileRows;
      const int tap_down = tap / work.image.tap_columns();
      const int tap_across = tap - tap_down * work.image.tap_columns();
      rows[m] = ((down + tap_down) * image.columns + across + tap_across) * image.pitch +
                channel * int(sizeof(S)) + Products::first_row_byte();
    }
    columns = image.bytes() + (first + Products::first_gradient_pixel()) * gradients.pitch +
              warp.run * (kRunColumns<Numbers> * int(sizeof(S))) + Products::first_column_byte();
  }
};

template <class Numbers>
MEMX_DEVICE void add_products(const WeightGradient<Numbers>& work,
                              const LanePlaces<Numbers>& places, const char* memory,
                              WeightSums<Numbers>& sum) {
  using Products = PixelProducts<Numbers>;
  PixelOperands<Products::kRowTiles> operands;
  operands.columns = memory + places.columns;
  operands.row_pitch = work.image_footprint.pitch;
  operands.column_pitch = work.gradient_footprint.pitch;
#pragma unroll Products::kUnrolled
  for (int product = 0, in_row = 0; product < work.products; ++product) {
#pragma unroll
    for (int m = 0; m < Products::kRowTiles; ++m) {
      operands.rows[m] = memory + places.rows[m];
    }
    Products::add(sum, operands);
    operands.columns += Products::kDepth * operands.column_pitch;
    memory += work.product_bytes;
    if (++in_row == work.products_in_row) {
      in_row = 0;
      memory += work.row_bytes;
    }
  }
}

// What a lane has of a row of a tile.
template <class A>
struct alignas(2 * sizeof(A)) TwoColumns {
  A numbers[2];
};

// A warp's run of columns of its rows.
template <class Numbers>
MEMX_DEVICE void store_part(const WeightGradient<Numbers>& work, const WarpPlace& warp,
                            const WeightSums<Numbers>& sum) {
  using A = typename Numbers::accumulate;
  using Products = PixelProducts<Numbers>;
  const int depth = work.image.depth(), columns = work.gradients.channels;
  const int chunk = block_x() / work.groups;
  const int run = block_y() * work.across() + warp.run;
  A* part = work.parts + int64_t(block_z()) * work.image.taps() * depth * columns;
#pragma unroll
  for (int row = 0; row < 2 * Products::kRowTiles; ++row) {
    const int row_tile = warp.first_row_tile + row / 2, tap = row_tile / work.channel_tiles;
    const int channel_tile = row_tile + (chunk - tap) * work.channel_tiles;
    const int channel = channel_tile * kTileRows + row % 2 * 8 + lane() / 4;
    A* result = part + (int64_t{tap} * depth + channel) * columns;
#pragma unroll
    for (int n = 0; n < Products::kColumnTiles; ++n) {
      const int column = run * kRunColumns<Numbers> + n * kTileColumns + lane() % 4 * 2;
      if (row_tile < work.row_tiles() && channel < depth && column < columns) {
        const A* two = &sum[row / 2][n][row % 2 * 2];
        *reinterpret_cast<TwoColumns<A>*>(result + column) = {{two[0], two[1]}};
      }
    }
  }
}

// Bytes of shared memory that add_shares() takes, for each warp that ends up with a sum.
template <class Numbers>
constexpr int kSumBytes = 32 * int(sizeof(WeightSums<Numbers>));

// Adds the sums of the warps that share their pixels to those of the first, in their order.
template <class Numbers>
MEMX_DEVICE void add_shares(int shares, WeightSums<Numbers>& sum) {
  using A = typename Numbers::accumulate;
  constexpr int kSums = sizeof(sum) / sizeof(A);
  A* const own = &sum[0][0][0];
  A* const shared =
      reinterpret_cast<A*>(shared_memory() + warp() / shares * kSumBytes<Numbers>) + lane();
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

// Brings the pixels of one rectangle after the other to shared memory.
template <class Numbers>
struct GradientPipeline {
  using S = typename Numbers::storage;
  const WeightGradient<Numbers>& work;
  TileWalk<Numbers> next;
  FirstPixel image_pixel, gradient_pixel;
  int on_their_way = 0;  // rectangles that are not yet read

  MEMX_DEVICE GradientPipeline(const WeightGradient<Numbers>& of, int64_t begin, int64_t end)
      : work(of),
        next(of, begin, end),
        image_pixel(first_pixel_of(of.image_footprint)),
        gradient_pixel(first_pixel_of(of.gradient_footprint)) {}

  // Ends a group of copies, of nothing after the last rectangle.
  MEMX_DEVICE void request(int slot) {
    if (next.left > 0) {
      char* memory = slot_memory(slot);
      move(work.gradients, work.gradient_footprint, gradient_pixel, block_y(),
           memory + work.image_footprint.bytes());
      move(work.image, work.image_footprint, image_pixel, block_x() / work.groups, memory);
      next.advance();
      ++on_their_way;
    }
    commit_copies();
  }

  MEMX_DEVICE const char* take(int slot) {
    --on_their_way;
    return slot_memory(slot);
  }

 private:
  MEMX_DEVICE char* slot_memory(int slot) const {
    return shared_memory() + slot * work.stage_bytes;
  }

  MEMX_DEVICE void move(const Image& image, const Footprint& footprint, const FirstPixel& first,
                        int chunk, char* memory) const {
    if (image.moves_pieces) {
      copy_pieces<S>(image, footprint, first, next.tile, chunk, memory);
    } else {
      copy_numbers<S>(image, footprint, first, next.tile, next.sequence, chunk, memory);
    }
  }
};

template <class Numbers>
MEMX_KERNEL(32 * kGradientWarps, 1)
weight_gradient(MEMX_KERNEL_ARGUMENT WeightGradient<Numbers> work) {
  const int64_t begin = block_z() * work.tiles_a_part;
  const int64_t end =
      begin + work.tiles_a_part < work.tiles ? begin + work.tiles_a_part : work.tiles;
  GradientPipeline<Numbers> pipeline(work, begin, end);
  const WarpPlace place = warp_place(work);
  const LanePlaces<Numbers> places(work, place);
  WeightSums<Numbers> sum = {};
#pragma unroll 1
  for (int ahead = 0; ahead < kGradientStages - 1; ++ahead) {
    pipeline.request(ahead);
  }
  // What is asked for lies over what was read before the barrier. Some warps ask first and some
  // multiply first, so that a scheduler always has one that multiplies.
  const int requesting = warp() / kSchedulers % 2;
  for (int slot = 0; pipeline.on_their_way > 0; slot = following(slot, kGradientStages)) {
    wait_copies<kGradientStages - 2>();
    barrier();
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if (half == requesting) {
        pipeline.request(slot == 0 ? kGradientStages - 1 : slot - 1);
      } else {
        add_products(work, places, pipeline.take(slot), sum);
      }
    }
  }
  add_shares<Numbers>(work.shares(), sum);
  if (place.share == 0) {
    store_part(work, place, sum);
  }
}

}  // namespace memx::cuda

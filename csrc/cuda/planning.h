// On the CPU, before a launch: how images are cut into tiles and chunks, and what fits into shared
// memory. What is decided depends on the sizes of a layer and its images alone.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "exchange.h"

namespace memx::cuda {

constexpr int kMostBlocks = 4;  // of K in a chunk: 128 bytes of channels
constexpr int kMostTaps = 3;    // of a stage

// What the blocks of a multiprocessor may have together: that of Hopper's, and no less than two blocks
// need. Where a multiprocessor has less, fewer of them run at once.
constexpr int kMultiprocessorBytes = 2 * kSharedBytes;

constexpr int64_t ceil_div(int64_t number, int64_t by) { return (number + by - 1) / by; }

constexpr int log2_of(int power) { return power == 1 ? 0 : 1 + log2_of(power / 2); }

// `mask`, if there is one, multiplies the images, `masks` of them in turn.
template <class S>
Image image_of(const void* memory, const ImageSizes& sizes, const void* mask = nullptr,
               int64_t masks = 1) {
  const int bytes = sizes.channels * int(sizeof(S));
  const bool narrow = bytes < kBlockBytes && sizes.kernel_height * sizes.kernel_width > 1;
  return {memory,
          mask,
          masks,
          sizes.height,
          sizes.width,
          sizes.channels,
          sizes.kernel_height,
          sizes.kernel_width,
          sizes.padding_rows,
          sizes.padding_columns,
          narrow,
          mask == nullptr && bytes % kPieceBytes == 0,
          0,
          0,
          1};
}

inline void gather(Image& image) {
  image.is_gathered = image.kernel_height * image.kernel_width > 1;
}

// Chunks of at most so many blocks, about equally deep; and rows of taps into about equal runs.
template <class S>
void cut_into_chunks(Image& image, int most_blocks) {
  const int blocks = int(ceil_div(int64_t{image.depth()} * sizeof(S), kBlockBytes));
  image.chunks = int(ceil_div(blocks, most_blocks));
  image.blocks = int(ceil_div(blocks, image.chunks));
  image.run = int(ceil_div(image.tap_columns(), ceil_div(image.tap_columns(), kMostTaps)));
}

inline int halo_pixels(const Image& image, const Tiling& tiling) {
  return image.halo_rows(tiling.rows()) * image.halo_columns(tiling.columns());
}

// Rectangles of so many pixels: as few as cover the images, and with the smaller halo under a
// kernel.
inline Tiling tiling_of(int height, int width, int pixels, int kernel_height, int kernel_width) {
  Tiling best{};
  int64_t least_tiles = 0, least_halo = 0;
  for (int columns_log2 = 3; (1 << columns_log2) <= pixels; ++columns_log2) {
    const int rows_log2 = log2_of(pixels) - columns_log2;
    const Tiling tiling{height,
                        width,
                        rows_log2,
                        columns_log2,
                        int(ceil_div(height, 1 << rows_log2)),
                        int(ceil_div(width, 1 << columns_log2))};
    const int64_t halo =
        (tiling.rows() + kernel_height - 1) * (tiling.columns() + kernel_width - 1);
    const int64_t tiles = tiling.tiles();
    if (least_tiles == 0 || tiles < least_tiles || (tiles == least_tiles && halo < least_halo)) {
      best = tiling;
      least_tiles = tiles;
      least_halo = halo;
    }
  }
  return best;
}

// Memory for the chunks of which some tap may be read while those after them are on their way.
template <class Shape, int operands>
Memory memory_of(const Convolution<operands>& convolution) {
  int chunks = 0, fewest_stages = kStages;  // of a chunk
  Memory memory{};
  memory.exchanged_bytes = kExchangedBytes<Shape>;
  for (const Operand& operand : convolution.operand) {
    const Image& image = operand.image;
    if (image.chunks > 0) {
      const int pitch = image.blocks * kBlockBytes + kPieceBytes;
      chunks += image.chunks;
      fewest_stages =
          std::min(fewest_stages, image.tap_rows() * int(ceil_div(image.tap_columns(), image.run)));
      memory.image_bytes =
          std::max(memory.image_bytes, halo_pixels(image, convolution.tiling) * pitch);
      memory.weight_bytes = std::max(memory.weight_bytes, image.run * weight_bytes<Shape>(image));
    }
  }
  memory.images = std::min(chunks, 1 + int(ceil_div(kStages - 1, fewest_stages)));
  return memory;
}

// How the blocks of a convolution lie over its results.
template <class Shape>
Grid grid_of(const Tiling& tiling, int64_t images, int64_t quads) {
  return {images * tiling.tiles(), int(ceil_div(quads, Shape::kBlockQuads))};
}

// How many bytes of shared memory make a block too large: as many blocks as there are for each
// multiprocessor, and as it has registers for, are to run at once.
template <class Shape>
int most_bytes(const Grid& grid, int multiprocessors) {
  const int64_t wanted = ceil_div(grid.x * grid.y, multiprocessors);
  const int64_t blocks = std::min<int64_t>(wanted, Shape::kBlocks);
  return std::min(kSharedBytes, int(kMultiprocessorBytes / std::max<int64_t>(blocks, 1)));
}

// What a convolution computes: images of so many pixels and packed quads of columns.
struct Extent {
  int64_t images;
  int height, width;
  int64_t quads;
};

// Decides on tiles, chunks and memory of a convolution and says how its blocks are to be launched.
// Operands without a kernel are left out. Packed weights depend on the chunks and so come later.
template <class Shape, int operands>
Grid plan(Convolution<operands>& convolution, const Extent& extent, int multiprocessors) {
  using S = typename Shape::numbers::storage;
  int kernel_height = 1, kernel_width = 1;
  for (const Operand& operand : convolution.operand) {
    if (operand.image.kernel_height > 0 && !operand.image.is_gathered) {
      kernel_height = std::max(kernel_height, operand.image.kernel_height);
      kernel_width = std::max(kernel_width, operand.image.kernel_width);
    }
  }
  convolution.tiling =
      tiling_of(extent.height, extent.width, Shape::kPixels, kernel_height, kernel_width);
  const Grid grid = grid_of<Shape>(convolution.tiling, extent.images, extent.quads);
  for (const bool gathers : {false, true}) {
    for (int blocks = kMostBlocks; blocks > 0; blocks /= 2) {
      for (Operand& operand : convolution.operand) {
        if (operand.image.kernel_height > 0) {
          if (gathers) {
            gather(operand.image);
          }
          cut_into_chunks<S>(operand.image, blocks);
        }
      }
      convolution.memory = memory_of<Shape>(convolution);
      const int most = blocks > 1 ? most_bytes<Shape>(grid, multiprocessors) : kSharedBytes;
      if (convolution.memory.bytes() <= most) {
        return grid;
      }
    }
  }
  throw std::logic_error("memx_fast: a gathered tile does not fit into shared memory");
}

}  // namespace memx::cuda

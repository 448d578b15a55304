// On the CPU, before a launch: how images are cut into tiles and chunks, and what fits into shared
// memory. What is decided depends on the sizes of a layer and its images alone.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "convolution.h"

namespace memx::cuda {

constexpr int kMostBlocks = 4;  // of K in a chunk: 128 bytes of channels

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
          mask == nullptr && !narrow && bytes % kPieceBytes == 0,
          0,
          0};
}

inline void gather(Image& image) {
  image.is_gathered = image.kernel_height * image.kernel_width > 1;
  image.moves_pieces = image.moves_pieces && !image.is_gathered;
}

// Chunks of at most so many blocks, about equally deep.
template <class S>
void cut_into_chunks(Image& image, int most_blocks) {
  const int blocks = int(ceil_div(int64_t{image.depth()} * sizeof(S), kBlockBytes));
  image.chunks = int(ceil_div(blocks, most_blocks));
  image.blocks = int(ceil_div(blocks, image.chunks));
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
  int chunks = 0, fewest_taps = kStages;
  Memory memory{};
  for (const Operand& operand : convolution.operand) {
    const Image& image = operand.image;
    if (image.chunks > 0) {
      const int pitch = image.blocks * kBlockBytes + kPieceBytes;
      chunks += image.chunks;
      fewest_taps = std::min(fewest_taps, image.taps());
      memory.image_bytes =
          std::max(memory.image_bytes, halo_pixels(image, convolution.tiling) * pitch);
      memory.weight_bytes =
          std::max(memory.weight_bytes, image.blocks * Shape::kBlockQuads * kPackedBytes);
    }
  }
  memory.images = std::min(chunks, 1 + int(ceil_div(kStages - 1, fewest_taps)));
  return memory;
}

// Decides on tiles, chunks and memory of a convolution whose results are height x width. Operands
// without a kernel are left out. Packed weights depend on the chunks and so come later.
template <class Shape, int operands>
void plan(Convolution<operands>& convolution, int height, int width) {
  using S = typename Shape::numbers::storage;
  int kernel_height = 1, kernel_width = 1;
  for (const Operand& operand : convolution.operand) {
    if (operand.image.kernel_height > 0 && !operand.image.is_gathered) {
      kernel_height = std::max(kernel_height, operand.image.kernel_height);
      kernel_width = std::max(kernel_width, operand.image.kernel_width);
    }
  }
  convolution.tiling = tiling_of(height, width, Shape::kPixels, kernel_height, kernel_width);
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
      if (convolution.memory.bytes() <= kSharedBytes) {
        return;
      }
    }
  }
  throw std::logic_error("memx_fast: a gathered tile does not fit into shared memory");
}

}  // namespace memx::cuda

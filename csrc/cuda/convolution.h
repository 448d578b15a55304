// The main loop of every step: a zero-padded convolution as an implicit GEMM.
//
// A block owns a tile of pixels and a run of packed columns, each warp some of both. It goes
// through stages: one tap of the kernel over one chunk of channels. A chunk's pixels, halo and all,
// are brought to shared memory once and read from there, shifted, by each of its taps; the weights
// of every stage stream through shared memory. Both are on their way kStages - 1 stages ahead.
//
// Weights are packed (packing.h) as [run of columns][chunk][tap][block of K][quad][kPackedBytes].
#pragma once

#include "images.h"

namespace memx::cuda {

constexpr int kStages = 3;

// An image and the packed weights that it is convolved with; chunks = 0 where there is none.
struct Operand {
  Image image;
  const char* weights;
};

// How the warps of a block share its tile.
template <class Numbers, int down, int across, int quads>
struct Shape {
  using numbers = Numbers;
  static constexpr int kWarpsDown = down, kWarpsAcross = across, kQuads = quads;  // kQuads a warp
  static constexpr int kThreads = 32 * down * across;
  static constexpr int kPixels = down * Numbers::kTiles * kTileRows;
  static constexpr int kBlockQuads = across * quads;
  static constexpr int kColumnTiles = quads * kQuadTiles;  // a warp
  using sums = typename Numbers::accumulate[Numbers::kTiles][kColumnTiles][4];
};

// Shared memory of a block: the images of some chunks, then the weights of kStages stages.
struct Memory {
  int image_bytes, images;
  int weight_bytes;
  MEMX_EITHER int bytes() const { return images * image_bytes + kStages * weight_bytes; }
};

template <int operands>
struct Convolution {
  Operand operand[operands];
  Tiling tiling;
  Memory memory;
};

// A stage, counted through all operands.
struct Stage {
  int operand = 0, chunk = 0, tap = 0;
  int chunks_before = 0;  // of all operands
  int number = 0;
};

template <int operands>
MEMX_DEVICE bool exists(const Convolution<operands>& convolution, Stage& stage) {
  while (stage.operand < operands &&
         stage.chunk == convolution.operand[stage.operand].image.chunks) {
    ++stage.operand;
    stage.chunk = 0;
  }
  return stage.operand < operands;
}

MEMX_DEVICE void advance(const Image& image, Stage& stage) {
  ++stage.number;
  if (++stage.tap == image.taps()) {
    stage.tap = 0;
    ++stage.chunk;
    ++stage.chunks_before;
  }
}

template <class Shape>
MEMX_DEVICE int weight_bytes(const Image& image) {
  return image.blocks * Shape::kBlockQuads * kPackedBytes;
}

MEMX_DEVICE int pitch_of(const Image& image) { return image.blocks * kBlockBytes + kPieceBytes; }

template <class Shape, int operands>
struct Pipeline {
  using Numbers = typename Shape::numbers;
  using S = typename Numbers::storage;

  const Convolution<operands>& convolution;
  const Tile& tile;

  MEMX_DEVICE char* image_memory(const Stage& stage) const {
    const Memory& memory = convolution.memory;
    return shared_memory() + stage.chunks_before % memory.images * memory.image_bytes;
  }

  MEMX_DEVICE char* weight_memory(const Stage& stage) const {
    const Memory& memory = convolution.memory;
    return shared_memory() + memory.images * memory.image_bytes +
           stage.number % kStages * memory.weight_bytes;
  }

  // Asks for what a stage reads, and ends a group of copies, of nothing after the last stage.
  MEMX_DEVICE void request(Stage& stage) const {
    if (exists(convolution, stage)) {
      const Operand& operand = convolution.operand[stage.operand];
      if (stage.tap == 0) {
        const Target target{image_memory(stage), pitch_of(operand.image)};
        move_chunk<S>(operand.image, convolution.tiling, tile, stage.chunk, target);
      }
      const int bytes = weight_bytes<Shape>(operand.image);
      const int64_t before =
          (int64_t(block_y()) * operand.image.chunks + stage.chunk) * operand.image.taps() +
          stage.tap;
      const char* source = operand.weights + before * bytes;
      char* target = weight_memory(stage);
      for (int i = thread() * kPieceBytes; i < bytes; i += threads() * kPieceBytes) {
        copy_16_bytes(target + i, source + i, true);
      }
      advance(operand.image, stage);
    }
    commit_copies();
  }

  MEMX_DEVICE void multiply_stage(typename Shape::sums& sum, const Stage& stage) const {
    const Image& image = convolution.operand[stage.operand].image;
    const Tiling& tiling = convolution.tiling;
    const int row = image.halo_columns(tiling.columns());
    const PixelImage pixels{image_memory(stage), pitch_of(image), row, tiling.columns_log2};
    const int down = stage.tap / image.kernel_width;
    const int shift = (down * row + stage.tap - down * image.kernel_width) * pixels.pitch;
    const int first = warp() / Shape::kWarpsAcross * (Numbers::kTiles * kTileRows);
    const char* rows[Numbers::kPointers];
#pragma unroll
    for (int i = 0; i < Numbers::kPointers; ++i) {
      rows[i] = pixels.memory + pixels.offset(first + Numbers::row_of_pointer(i)) + shift;
    }
    const char* packed =
        weight_memory(stage) + warp() % Shape::kWarpsAcross * (Shape::kQuads * kPackedBytes);
    for (int block = 0; block < image.blocks; ++block) {
      Numbers::multiply_packed(sum, rows, packed);
#pragma unroll
      for (int i = 0; i < Numbers::kPointers; ++i) {
        rows[i] += kBlockBytes;
      }
      packed += Shape::kBlockQuads * kPackedBytes;
    }
  }

  // Adds the products of all stages. The slot of a stage's weights is filled again kStages - 1
  // stages before it is read, after the barrier that ended the reading of what it held; a chunk's
  // pixels likewise, for which there is enough memory (memory_of in planning.h).
  MEMX_DEVICE void run(typename Shape::sums& sum) const {
    Stage requested, read;
    for (int ahead = 0; ahead < kStages - 1; ++ahead) {
      request(requested);
    }
    while (exists(convolution, read)) {
      wait_copies<kStages - 2>();
      barrier();
      request(requested);
      multiply_stage(sum, read);
      advance(convolution.operand[read.operand].image, read);
    }
  }
};

}  // namespace memx::cuda

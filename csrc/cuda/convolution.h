// The main loop of every step: a zero-padded convolution as an implicit GEMM.
//
// A block owns a tile of pixels and a run of packed columns, each warp some of both. It goes
// through stages: a few taps of one row of the kernel over one chunk of channels. A chunk's pixels,
// halo and all, are brought to shared memory once and read from there, shifted, by each of its taps;
// the weights of every stage stream through shared memory. Both are on their way kStages - 1 stages
// ahead.
//
// Weights are packed (packing.h) as [run of columns][chunk][tap][block of K][quad][kPackedBytes].
#pragma once

#include "images.h"

namespace memx::cuda {

constexpr int kStages = 2;

// An image and the packed weights that it is convolved with; chunks = 0 where there is none.
struct Operand {
  Image image;
  const char* weights;
};

// How the warps of a block share its tile: `down` x `across` positions, and K among `shares` warps at
// each. Of what they have added up, every one of these then has some rows (exchange.h).
template <class Numbers, int down, int across, int quads, int shares = 1>
struct Shape {
  using numbers = Numbers;
  static constexpr int kPositions = down * across, kShares = shares;
  static constexpr int kQuads = quads;  // a warp
  static constexpr int kThreads = 32 * kPositions * shares;
  static constexpr int kBlocks = Numbers::kThreadsAtOnce / kThreads;  // of a multiprocessor
  static constexpr int kPixels = down * Numbers::kTiles * kTileRows;
  static constexpr int kBlockQuads = across * quads;
  static constexpr int kColumnTiles = quads * kQuadTiles;  // a warp
  using sums = typename Numbers::accumulate[Numbers::kTiles][kColumnTiles][4];

  // Of 8 pixels each: of a position, and of one of its warps.
  static constexpr int kRows = 2 * Numbers::kTiles;
  static constexpr int kOwnRows = (kRows + shares - 1) / shares;
  using own_sums = typename Numbers::accumulate[(kOwnRows + 1) / 2][kColumnTiles][4];

  MEMX_DEVICE static int share() { return shares == 1 ? 0 : warp() / kPositions; }
  MEMX_DEVICE static int position() { return shares == 1 ? warp() : warp() % kPositions; }
  MEMX_DEVICE static int warp_across() { return warp() % across; }
  MEMX_DEVICE static int first_pixel() {
    return position() / across * (Numbers::kTiles * kTileRows);
  }
  MEMX_DEVICE static int first_own_row() { return share() * kOwnRows; }
};

// Shared memory of a block: the images of some chunks, then the weights of kStages stages. In the end
// the sums that warps exchange take its place.
struct Memory {
  int image_bytes, images;
  int weight_bytes;
  int exchanged_bytes;

  MEMX_EITHER int bytes() const {
    const int of_stages = images * image_bytes + kStages * weight_bytes;
    return of_stages < exchanged_bytes ? exchanged_bytes : of_stages;
  }
};

template <int operands>
struct Convolution {
  Operand operand[operands];
  Tiling tiling;
  Memory memory;
};

// A stage, and which of the slots for images its pixels have: they take turns.
struct Stage {
  int operand = 0, chunk = 0;
  int down = 0, across = 0;  // the first tap
  int weights = 0;           // bytes of the operand's that earlier stages have
  int image_slot = 0;

  MEMX_DEVICE bool begins_chunk() const { return down == 0 && across == 0; }
};

template <int operands>
MEMX_DEVICE bool exists(const Convolution<operands>& convolution, Stage& stage) {
  while (stage.operand < operands &&
         stage.chunk == convolution.operand[stage.operand].image.chunks) {
    ++stage.operand;
    stage.chunk = 0;
    stage.weights = 0;
  }
  return stage.operand < operands;
}

MEMX_DEVICE int following(int slot, int slots) { return slot + 1 == slots ? 0 : slot + 1; }

// To the next stage: counted, not divided, as every thread does it.
MEMX_DEVICE void advance(const Image& image, const Memory& memory, Stage& stage) {
  stage.across += image.run;
  if (stage.across >= image.tap_columns()) {
    stage.across = 0;
    stage.down = following(stage.down, image.tap_rows());
    if (stage.down == 0) {
      ++stage.chunk;
      stage.image_slot = following(stage.image_slot, memory.images);
    }
  }
}

// Taps of a stage: fewer at the end of a row.
MEMX_DEVICE int taps_of(const Image& image, const Stage& stage) {
  const int left = image.tap_columns() - stage.across;
  return left < image.run ? left : image.run;
}

// Of a tap's weights for a chunk; those of a block's columns, which follow each other in memory, are
// less than 2^31.
template <class Shape>
MEMX_EITHER int weight_bytes(const Image& image) {
  return image.blocks * Shape::kBlockQuads * kPackedBytes;
}

// Asks for bytes one after the other, by all threads.
template <int threads>
MEMX_DEVICE void copy_run(char* target, const char* source, int bytes) {
  constexpr int kStep = threads * kPieceBytes, kAtOnce = 2;
  int i = thread() * kPieceBytes;
  for (; i + (kAtOnce - 1) * kStep < bytes; i += kAtOnce * kStep) {
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      copy_16_bytes(target + i + n * kStep, source + i + n * kStep, true);
    }
  }
  for (; i < bytes; i += kStep) {
    copy_16_bytes(target + i, source + i, true);
  }
}

MEMX_DEVICE int pitch_of(const Image& image) { return image.blocks * kBlockBytes + kPieceBytes; }

template <class Shape, int operands>
struct Pipeline {
  using Numbers = typename Shape::numbers;
  using S = typename Numbers::storage;

  const Convolution<operands>& convolution;
  const Tile& tile;
  Stage requested{};

  MEMX_DEVICE char* image_memory(const Stage& stage) const {
    const int slot = Shape::kShares == 1 ? stage.image_slot : counted_slot(stage);
    return shared_memory() + slot * convolution.memory.image_bytes;
  }

  // The same slot, for blocks that have no register to keep it in.
  MEMX_DEVICE int counted_slot(const Stage& stage) const {
    static_assert(kStages == 2, "there are one or two images");
    int number = stage.chunk;
    for (int before = 0; before < stage.operand; ++before) {
      number += convolution.operand[before].image.chunks;
    }
    return number & (convolution.memory.images - 1);
  }

  MEMX_DEVICE char* weight_memory(int slot) const {
    const Memory& memory = convolution.memory;
    return shared_memory() + memory.images * memory.image_bytes + slot * memory.weight_bytes;
  }

  // Asks for what the next stage reads, and ends a group of copies, of nothing after the last stage.
  MEMX_DEVICE void request(int weight_slot) {
    Stage& stage = requested;
    if (exists(convolution, stage)) {
      const Operand& operand = convolution.operand[stage.operand];
      const Image& image = operand.image;
      if (stage.begins_chunk()) {
        const Target target{image_memory(stage), pitch_of(image)};
        move_chunk<S>(image, convolution.tiling, tile, stage.chunk, target);
      }
      const int tap_bytes = weight_bytes<Shape>(image);
      const int bytes = taps_of(image, stage) * tap_bytes;
      const int64_t before = int64_t{block_y()} * (image.chunks * image.taps() * tap_bytes);
      copy_run<Shape::kThreads>(weight_memory(weight_slot),
                                operand.weights + before + stage.weights, bytes);
      advance(image, convolution.memory, stage);
      stage.weights += bytes;
    }
    commit_copies();
  }

  MEMX_DEVICE void multiply_stage(typename Shape::sums& sum, const Stage& stage,
                                  int weight_slot) const {
    const Image& image = convolution.operand[stage.operand].image;
    const Tiling& tiling = convolution.tiling;
    const int row = image.halo_columns(tiling.columns());
    const PixelImage pixels{image_memory(stage), pitch_of(image), row, tiling.columns_log2};
    const int shift = (stage.down * row + stage.across) * pixels.pitch;
    const char* rows[Numbers::kPointers];
#pragma unroll
    for (int i = 0; i < Numbers::kPointers; ++i) {
      const int pixel = Shape::first_pixel() + Numbers::row_of_pointer(i);
      rows[i] = pixels.memory + pixels.offset(pixel) + shift;
    }
    const char* packed =
        weight_memory(weight_slot) + Shape::warp_across() * (Shape::kQuads * kPackedBytes);
    if constexpr (Shape::kShares == 1) {
      multiply_all(sum, image, taps_of(image, stage), pixels.pitch, rows, packed);
    } else {
      multiply_share(sum, image, taps_of(image, stage), pixels.pitch, rows, packed);
    }
  }

  MEMX_DEVICE static void multiply_all(typename Shape::sums& sum, const Image& image, int taps,
                                       int pitch, const char* (&rows)[Numbers::kPointers],
                                       const char* packed) {
    for (int tap = 0; tap < taps; ++tap) {
      const char* blocks[Numbers::kPointers];
#pragma unroll
      for (int i = 0; i < Numbers::kPointers; ++i) {
        blocks[i] = rows[i];
      }
      move(rows, pitch);
#pragma unroll 2
      for (int block = 0; block < image.blocks; ++block) {
        Numbers::multiply_packed(sum, blocks, packed);
        move(blocks, kBlockBytes);
        packed += Shape::kBlockQuads * kPackedBytes;
      }
    }
  }

  // Of the blocks of K of all taps, one after the other, every kShares-th.
  MEMX_DEVICE static void multiply_share(typename Shape::sums& sum, const Image& image, int taps,
                                         int pitch, const char* (&rows)[Numbers::kPointers],
                                         const char* packed) {
    constexpr int kPacked = Shape::kBlockQuads * kPackedBytes;
    const char* const end = packed + taps * image.blocks * kPacked;
    int block = Shape::share();
    move(rows, block * kBlockBytes);
    for (packed += block * kPacked; packed < end; packed += Shape::kShares * kPacked) {
      for (; block >= image.blocks; block -= image.blocks) {
        move(rows, pitch - image.blocks * kBlockBytes);
      }
      Numbers::multiply_packed(sum, rows, packed);
      block += Shape::kShares;
      move(rows, Shape::kShares * kBlockBytes);
    }
  }

  MEMX_DEVICE static void move(const char* (&pointers)[Numbers::kPointers], int bytes) {
#pragma unroll
    for (int i = 0; i < Numbers::kPointers; ++i) {
      pointers[i] += bytes;
    }
  }

  // Asks for the first stages: what is done before run() goes on meanwhile.
  MEMX_DEVICE void begin() {
    for (int slot = 0; slot < kStages - 1; ++slot) {
      request(slot);
    }
  }

  // Adds the products of all stages. The slot of a stage's weights is filled again kStages - 1
  // stages before it is read, after the barrier that ended the reading of what it held; a chunk's
  // pixels likewise, for which there is enough memory (memory_of in planning.h).
  MEMX_DEVICE void run(typename Shape::sums& sum) {
    Stage read;
    for (int slot = 0; exists(convolution, read); slot = following(slot, kStages)) {
      wait_copies<kStages - 2>();
      barrier();
      request(slot == 0 ? kStages - 1 : slot - 1);
      multiply_stage(sum, read, slot);
      advance(convolution.operand[read.operand].image, convolution.memory, read);
    }
  }
};

}  // namespace memx::cuda

// Parameters in the layout that the kernels read: weights as the lanes need them, everything else
// in the accumulation type with channels last.
#pragma once

#include "planning.h"

namespace memx::cuda {

// What a packed column and a packed channel of K are in a weight (4C, Cin, kh, kw): of the forward
// step, or of the transposed convolution, from gate gradients to the gradient of an image.
enum class Direction { kForward, kTransposed };

template <class Numbers>
struct WeightPacking {
  using S = typename Numbers::storage;
  const S* weight;  // (4C, channels, taps)
  char* packed;     // [run of columns][chunk][tap][block of K][quad][kPackedBytes]
  Direction direction;
  int hidden, channels, taps;
  bool is_gathered;           // taps and channels together form K
  int chunks, blocks, quads;  // quads of a run of columns
  int64_t count;              // numbers in all
};

// The weight between a channel (of K) and a column under a tap, zero where one does not exist.
template <class Numbers, class S = typename Numbers::storage>
MEMX_DEVICE S weight_of(const WeightPacking<Numbers>& packing, int tap, int channel, int quad,
                        int column) {
  const int hidden = packing.hidden;
  if (packing.direction == Direction::kForward) {
    const int gate = column / kTileColumns;
    const int of_gate =
        quad / 2 * kUnitColumns + channel_of_column(column % kTileColumns, quad % 2 == 1);
    const bool exists = tap < packing.taps && channel < packing.channels && of_gate < hidden;
    const int64_t row = int64_t{gate} * hidden + of_gate;
    return exists ? packing.weight[(row * packing.channels + channel) * packing.taps + tap] : S{};
  }
  const int tile = column / kTileColumns;
  const int image_channel = quad * kQuadColumns + tile / 2 * kUnitColumns +
                            channel_of_column(column % kTileColumns, tile % 2 == 1);
  const bool exists =
      tap < packing.taps && channel < 4 * hidden && image_channel < packing.channels;
  const int64_t at = int64_t{channel} * packing.channels + image_channel;
  return exists ? packing.weight[at * packing.taps + packing.taps - 1 - tap] : S{};
}

constexpr int kPackingThreads = 256;

template <class Numbers>
MEMX_KERNEL(kPackingThreads, 1)
pack_weight(MEMX_KERNEL_ARGUMENT WeightPacking<Numbers> packing) {
  using S = typename Numbers::storage;
  constexpr int kNumbers = kPackedBytes / sizeof(S), kDepth = kBlockBytes / sizeof(S);
  const int64_t number = int64_t{block_x()} * kPackingThreads + thread();
  if (number >= packing.count) {
    return;
  }
  const PackedPlace place = Numbers::place_in_block(int(number % kNumbers));
  int64_t unit = number / kNumbers;
  const int quad_in_run = int(unit % packing.quads);
  unit /= packing.quads;
  const int block = int(unit % packing.blocks);
  unit /= packing.blocks;
  const int packed_taps = packing.is_gathered ? 1 : packing.taps;
  int tap = int(unit % packed_taps);
  unit /= packed_taps;
  const int chunk = int(unit % packing.chunks);
  const int quad = int(unit / packing.chunks) * packing.quads + quad_in_run;
  int channel = (chunk * packing.blocks + block) * kDepth + place.k;
  if (packing.is_gathered) {
    const int channels =
        packing.direction == Direction::kForward ? packing.channels : 4 * packing.hidden;
    tap = channel / channels;
    channel -= tap * channels;
  }
  S value = weight_of(packing, tap, channel, quad, place.column);
  Numbers::round(value);
  reinterpret_cast<S*>(packing.packed)[number] = value;
}

// (outer, channels, pixels) to (outer, pixels, channels), and to another type.
template <class From, class To>
struct Transposition {
  const From* from;
  To* to;
  int64_t pixels, channels;
  int64_t count;
};

template <class From, class To>
MEMX_KERNEL(kPackingThreads, 1)
transpose(MEMX_KERNEL_ARGUMENT Transposition<From, To> transposition) {
  const int64_t number = int64_t{block_x()} * kPackingThreads + thread();
  if (number < transposition.count) {
    const int64_t channels = transposition.channels, pixels = transposition.pixels;
    const int64_t channel = number % channels, pixel = number / channels % pixels;
    const int64_t outer = number / channels / pixels;
    narrow(widen(transposition.from[(outer * channels + channel) * pixels + pixel]),
           transposition.to[number]);
  }
}

// Packs a weight for an operand that plan() has cut into chunks.
template <class Shape>
void pack(Operand& operand, const void* weight, Direction direction, int hidden, int channels,
          Workspace& workspace, Stream stream) {
  using Numbers = typename Shape::numbers;
  using S = typename Numbers::storage;
  const Image& image = operand.image;
  const int columns = direction == Direction::kForward ? 4 * hidden : channels;
  const int64_t quads = direction == Direction::kForward ? ceil_div(hidden, kTileColumns)
                                                         : ceil_div(columns, kQuadColumns);
  const int64_t bytes = ceil_div(quads, Shape::kBlockQuads) * Shape::kBlockQuads * image.chunks *
                        image.taps() * image.blocks * kPackedBytes;
  char* packed = workspace.array<char>(bytes);
  const WeightPacking<Numbers> packing{static_cast<const S*>(weight),
                                       packed,
                                       direction,
                                       hidden,
                                       channels,
                                       image.kernel_height * image.kernel_width,
                                       image.is_gathered,
                                       image.chunks,
                                       image.blocks,
                                       Shape::kBlockQuads,
                                       bytes / int64_t(sizeof(S))};
  launch(pack_weight<Numbers>, {ceil_div(packing.count, kPackingThreads)}, kPackingThreads, 0,
         stream, packing);
  operand.weights = packed;
}

template <class From, class To>
const To* transposed(const void* from, int64_t outer, int64_t channels, int64_t pixels,
                     Workspace& workspace, Stream stream) {
  const int64_t count = outer * channels * pixels;
  To* to = workspace.array<To>(count);
  const Transposition<From, To> transposition{static_cast<const From*>(from), to, pixels, channels,
                                              count};
  launch(transpose<From, To>, {ceil_div(count, kPackingThreads)}, kPackingThreads, 0, stream,
         transposition);
  return to;
}

}  // namespace memx::cuda

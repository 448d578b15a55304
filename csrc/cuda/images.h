// Images, the rectangles of pixels that blocks own, and the way of pixels to shared memory.
#pragma once

#include "numbers.h"

namespace memx::cuda {

// The rectangles of 2^rows_log2 x 2^columns_log2 pixels that images are cut into. A row has at
// least the 8 pixels that a lane's matrix rows are read from at once.
struct Tiling {
  int height, width;  // of an image
  int rows_log2, columns_log2;
  int tiles_down, tiles_across;  // of an image

  MEMX_EITHER int rows() const { return 1 << rows_log2; }
  MEMX_EITHER int columns() const { return 1 << columns_log2; }
  MEMX_EITHER int tiles() const { return tiles_down * tiles_across; }
};

// A rectangle: image number and first pixel.
struct Tile {
  int64_t image;
  int top, left;
};

// Number is an int where the tiles are blocks, of which there are no more: 64 bits are divided slowly.
template <class Number>
MEMX_DEVICE Tile tile_of(const Tiling& tiling, Number number) {
  const Number image = number / tiling.tiles();
  const int within = int(number - image * tiling.tiles());
  return {image, (within / tiling.tiles_across) << tiling.rows_log2,
          (within % tiling.tiles_across) << tiling.columns_log2};
}

// Whether a sequence has no step t; of null lengths all have all steps.
MEMX_DEVICE bool has_ended(const int64_t* lengths, int64_t sequence, int64_t t) {
  return lengths != nullptr && t >= lengths[sequence];
}

// A pixel of a tile, which may lie outside of the image.
struct Pixel {
  int y, x;
  bool exists;
  int64_t number;  // through all images
};

MEMX_DEVICE Pixel pixel_of(const Tiling& tiling, const Tile& tile, int number) {
  const int y = tile.top + (number >> tiling.columns_log2);
  const int x = tile.left + (number & (tiling.columns() - 1));
  return {y, x, y < tiling.height && x < tiling.width,
          (tile.image * tiling.height + y) * tiling.width + x};
}

// The left operand of a convolution: images (N, height, width, channels), dense, channels first cut
// into chunks of so many blocks of K.
//
// A gathered image has few channels, or a kernel too large for shared memory: what lies under the
// kernel of a pixel, tap by tap, then counts as the channels of that pixel.
struct Image {
  const void* memory;
  const void* mask;  // (masks, height, width, channels), multiplies the images in turn; null: ones
  int64_t masks;
  int height, width, channels;
  int kernel_height, kernel_width;
  int padding_rows, padding_columns;  // zeros around the image
  bool is_gathered;
  bool moves_pieces;  // as they are, in whole, aligned pieces of 16 bytes
  int chunks, blocks;
  int run;  // taps of a row that are gone through at once

  MEMX_EITHER int tap_rows() const { return is_gathered ? 1 : kernel_height; }
  MEMX_EITHER int tap_columns() const { return is_gathered ? 1 : kernel_width; }
  MEMX_EITHER int taps() const { return tap_rows() * tap_columns(); }
  MEMX_EITHER int depth() const {  // channels of a pixel in shared memory
    return is_gathered ? kernel_height * kernel_width * channels : channels;
  }
  // Pixels in shared memory for a rectangle of so many.
  MEMX_EITHER int halo_rows(int rows) const {
    return is_gathered ? rows : rows + kernel_height - 1;
  }
  MEMX_EITHER int halo_columns(int columns) const {
    return is_gathered ? columns : columns + kernel_width - 1;
  }
};

// One chunk's pixels in shared memory: those under a tile, row by row, `pitch` bytes apart.
struct Target {
  char* memory;
  int pitch;
};

// The first number of one of the images, or of the masks.
template <class S>
MEMX_DEVICE const S* image_in(const Image& image, const void* memory, int64_t number) {
  const int64_t size = int64_t{image.height} * image.width * image.channels;
  return static_cast<const S*>(memory) + number * size;
}

MEMX_DEVICE bool is_inside(const Image& image, int y, int x) {
  return unsigned(y) < unsigned(image.height) && unsigned(x) < unsigned(image.width);
}

// A thread's way through the pixels of a rectangle, `units` threads to each pixel, of which
// thread() % units is the unit; a block has more threads than units. From one pixel to the next is
// counted, not divided.
class Walk {
 public:
  MEMX_DEVICE Walk(int rows, int columns, int units)
      : step_(threads() / units), columns_(columns), pixels_(rows * columns) {
    pixel = across = thread() / units;
    if (across >= step_) {
      pixel = pixels_;  // of the threads that are left over
    }
    wrap();
  }

  int pixel, down = 0, across;  // number, row and column

  MEMX_DEVICE bool has_pixel() const { return pixel < pixels_; }

  MEMX_DEVICE void advance() {
    pixel += step_;
    across += step_;
    wrap();
  }

 private:
  MEMX_DEVICE void wrap() {
    while (across >= columns_) {
      across -= columns_;
      ++down;
    }
  }

  int step_, columns_, pixels_;
};

// One channel of K: which channel of the image, and what to add to a pixel's place in the rectangle
// for its place in the image.
struct ChannelSource {
  int channel, down, across;
};

MEMX_DEVICE ChannelSource channel_source(const Image& image, int channel) {
  if (!image.is_gathered) {
    return {channel, 0, 0};
  }
  const int tap = channel / image.channels;
  const int down = tap / image.kernel_width;
  return {channel - tap * image.channels, down, tap - down * image.kernel_width};
}

template <class S>
struct alignas(kPieceBytes) PieceOf {
  static constexpr int kCount = kPieceBytes / sizeof(S);
  S numbers[kCount];
};

// A piece of channels of K of a pixel, from an image or its mask: number by number, all asked for
// before one is looked at. From one number to the next is counted, not divided.
template <class S>
MEMX_DEVICE PieceOf<S> collect(const Image& image, const S* memory, const Tile& tile,
                               const Walk& walk, int channel) {
  ChannelSource source = channel_source(image, channel);
  int y = tile.top - image.padding_rows + walk.down + source.down;
  int x = tile.left - image.padding_columns + walk.across + source.across;
  int64_t at = (int64_t{y} * image.width + x) * image.channels + source.channel;
  const int to_next_row = (image.width - image.kernel_width) * image.channels;
  PieceOf<S> piece;
#pragma unroll
  for (int n = 0; n < piece.kCount; ++n) {
    const bool exists = is_inside(image, y, x) && channel + n < image.depth();
    const S number = memory[exists ? at : 0];  // without a branch: there is a first number
    piece.numbers[n] = exists ? number : S{};
    const bool ends_tap = image.is_gathered && source.channel + 1 == image.channels;
    const bool ends_row = ends_tap && source.across + 1 == image.kernel_width;
    source.channel = ends_tap ? 0 : source.channel + 1;
    source.across = ends_row ? 0 : source.across + ends_tap;
    x += ends_row ? 1 - image.kernel_width : ends_tap;
    y += ends_row;
    at += ends_row ? 1 + to_next_row : 1;
  }
  return piece;
}

template <class S>
MEMX_DEVICE PieceOf<S> collect_masked(const Image& image, const Tile& tile, const Walk& walk,
                                      int channel) {
  PieceOf<S> piece =
      collect(image, image_in<S>(image, image.memory, tile.image), tile, walk, channel);
  if (image.mask != nullptr) {
    const S* mask = image_in<S>(image, image.mask, tile.image % image.masks);
    const PieceOf<S> factors = collect(image, mask, tile, walk, channel);
#pragma unroll
    for (int n = 0; n < piece.kCount; ++n) {
      narrow(widen(piece.numbers[n]) * widen(factors.numbers[n]), piece.numbers[n]);
    }
  }
  return piece;
}

// Brings a chunk of the pixels under a tile to shared memory, zeros where there are none. Complete
// after the copies of the thread's current group, and a barrier.
template <class S>
MEMX_DEVICE void move_chunk(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                            const Target& target) {
  const int pieces = image.blocks * (kBlockBytes / kPieceBytes), piece = thread() % pieces;
  const int channel = (chunk * pieces + piece) * PieceOf<S>::kCount;
  const ChannelSource source = channel_source(image, channel);
  const int top = tile.top - image.padding_rows + source.down;
  const int left = tile.left - image.padding_columns + source.across;
  const S* images = image_in<S>(image, image.memory, tile.image);
  Walk walk(image.halo_rows(tiling.rows()), image.halo_columns(tiling.columns()), pieces);
  for (; walk.has_pixel(); walk.advance()) {
    char* result = target.memory + walk.pixel * target.pitch + piece * kPieceBytes;
    if (image.moves_pieces) {
      const int y = top + walk.down, x = left + walk.across;
      const bool exists = is_inside(image, y, x) && channel < image.depth();
      const int64_t at = (int64_t{y} * image.width + x) * image.channels + source.channel;
      copy_16_bytes(result, images + (exists ? at : 0), exists);
    } else {
      *reinterpret_cast<PieceOf<S>*>(result) = collect_masked<S>(image, tile, walk, channel);
    }
  }
}

}  // namespace memx::cuda

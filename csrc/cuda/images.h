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

MEMX_DEVICE Tile tile_of(const Tiling& tiling, int64_t number) {
  const int within = int(number % tiling.tiles());
  return {number / tiling.tiles(), (within / tiling.tiles_across) << tiling.rows_log2,
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

  MEMX_EITHER int taps() const { return is_gathered ? 1 : kernel_height * kernel_width; }
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

template <class S>
MEMX_DEVICE const S* pixel_in(const Image& image, const void* memory, int64_t number, int y,
                              int x) {
  const int64_t pixel = (number * image.height + y) * image.width + x;
  return static_cast<const S*>(memory) + pixel * image.channels;
}

// A number of an image, times the mask's.
template <class S>
MEMX_DEVICE S number_in(const Image& image, int64_t number, int y, int x, int channel) {
  S value = pixel_in<S>(image, image.memory, number, y, x)[channel];
  if (image.mask != nullptr) {
    const S* mask = pixel_in<S>(image, image.mask, number % image.masks, y, x);
    narrow(widen(value) * widen(mask[channel]), value);
  }
  return value;
}

MEMX_DEVICE bool is_inside(const Image& image, int y, int x) {
  return unsigned(y) < unsigned(image.height) && unsigned(x) < unsigned(image.width);
}

template <class S>
MEMX_DEVICE void move_pieces(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                             const Target& target) {
  constexpr int kNumbers = kPieceBytes / sizeof(S);
  const int pieces = image.blocks * (kBlockBytes / kPieceBytes);
  const int columns = image.halo_columns(tiling.columns());
  const int count = image.halo_rows(tiling.rows()) * columns * pieces;
  for (int i = thread(); i < count; i += threads()) {
    const int pixel = i / pieces, piece = i - pixel * pieces;
    const int down = pixel / columns, across = pixel - down * columns;
    const int y = tile.top + down - image.padding_rows;
    const int x = tile.left + across - image.padding_columns;
    const int channel = (chunk * pieces + piece) * kNumbers;
    const bool exists = is_inside(image, y, x) && channel < image.channels;
    const S* source = exists ? pixel_in<S>(image, image.memory, tile.image, y, x) + channel
                             : static_cast<const S*>(image.memory);
    copy_16_bytes(target.memory + pixel * target.pitch + piece * kPieceBytes, source, exists);
  }
}

// Number by number: for images of any alignment, gathered ones, and those with a mask.
template <class S>
MEMX_DEVICE void move_numbers(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                              const Target& target) {
  const int numbers = image.blocks * (kBlockBytes / int(sizeof(S)));
  const int columns = image.halo_columns(tiling.columns());
  const int count = image.halo_rows(tiling.rows()) * columns * numbers;
  for (int i = thread(); i < count; i += threads()) {
    const int pixel = i / numbers, number = i - pixel * numbers;
    int y = tile.top + pixel / columns - image.padding_rows;
    int x = tile.left + pixel % columns - image.padding_columns;
    int channel = chunk * numbers + number;
    bool exists = channel < image.depth();
    if (image.is_gathered) {
      const int tap = channel / image.channels;
      channel -= tap * image.channels;
      y += tap / image.kernel_width;
      x += tap % image.kernel_width;
    }
    exists = exists && is_inside(image, y, x);
    S* result = reinterpret_cast<S*>(target.memory + pixel * target.pitch) + number;
    *result = exists ? number_in<S>(image, tile.image, y, x, channel) : S{};
  }
}

// Brings a chunk of the pixels under a tile to shared memory, zeros where there are none. Complete
// after the copies of the thread's current group, and a barrier.
template <class S>
MEMX_DEVICE void move_chunk(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                            const Target& target) {
  if (image.moves_pieces) {
    move_pieces<S>(image, tiling, tile, chunk, target);
  } else {
    move_numbers<S>(image, tiling, tile, chunk, target);
  }
}

}  // namespace memx::cuda

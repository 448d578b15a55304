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

// body(down, across, number of the pixel): every pixel of a rectangle, `units` threads to each, of
// which thread() % units is the unit; a block has more threads than units. From one pixel of a thread
// to its next is counted, not divided.
template <class Body>
MEMX_DEVICE void each_pixel_of(int rows, int columns, int units, const Body& body) {
  const int step = threads() / units;
  int down = 0, across = thread() / units;
  if (across >= step) {
    return;  // of the threads that are left over
  }
  for (int pixel = across;; pixel += step, across += step) {
    while (across >= columns) {
      across -= columns;
      ++down;
    }
    if (down >= rows) {
      return;
    }
    body(down, across, pixel);
  }
}

template <class S>
MEMX_DEVICE void move_pieces(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                             const Target& target) {
  constexpr int kNumbers = kPieceBytes / sizeof(S);
  const int pieces = image.blocks * (kBlockBytes / kPieceBytes), piece = thread() % pieces;
  const int channel = (chunk * pieces + piece) * kNumbers;
  const int top = tile.top - image.padding_rows, left = tile.left - image.padding_columns;
  const S* source = image_in<S>(image, image.memory, tile.image);
  each_pixel_of(image.halo_rows(tiling.rows()), image.halo_columns(tiling.columns()), pieces,
                [&](int down, int across, int pixel) {
                  const int y = top + down, x = left + across;
                  const bool exists = is_inside(image, y, x) && channel < image.channels;
                  const int64_t at =
                      exists ? (int64_t{y} * image.width + x) * image.channels + channel : 0;
                  copy_16_bytes(target.memory + pixel * target.pitch + piece * kPieceBytes,
                                source + at, exists);
                });
}

// Number by number: for images of any alignment, gathered ones, and those with a mask.
template <class S>
MEMX_DEVICE void move_numbers(const Image& image, const Tiling& tiling, const Tile& tile, int chunk,
                              const Target& target) {
  const int numbers = image.blocks * (kBlockBytes / int(sizeof(S))), number = thread() % numbers;
  int channel = chunk * numbers + number;
  int top = tile.top - image.padding_rows, left = tile.left - image.padding_columns;
  const bool has_channel = channel < image.depth();
  if (image.is_gathered) {
    const int tap = channel / image.channels;
    channel -= tap * image.channels;
    top += tap / image.kernel_width;
    left += tap % image.kernel_width;
  }
  const S* source = image_in<S>(image, image.memory, tile.image);
  const S* mask = nullptr;
  if (image.mask != nullptr) {
    mask = image_in<S>(image, image.mask, tile.image % image.masks);
  }
  char* result = target.memory + number * int(sizeof(S));
  each_pixel_of(image.halo_rows(tiling.rows()), image.halo_columns(tiling.columns()), numbers,
                [&](int down, int across, int pixel) {
                  const int y = top + down, x = left + across;
                  S value{};
                  if (has_channel && is_inside(image, y, x)) {
                    const int64_t at = (int64_t{y} * image.width + x) * image.channels + channel;
                    value = source[at];
                    if (mask != nullptr) {
                      narrow(widen(value) * widen(mask[at]), value);
                    }
                  }
                  *reinterpret_cast<S*>(result + pixel * target.pitch) = value;
                });
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

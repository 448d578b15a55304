// What the epilogues of the steps share: two neighbouring channels of a pixel at a time, which is
// how a lane has them.
#pragma once

#include "../cell_math.h"
#include "convolution.h"

namespace memx::cuda {

using baseline::for_equations;
using baseline::Gates;
using baseline::Peephole;

// Channels `first` and, where it exists, the one after it. They are moved together where all images
// have an even number of channels.
struct TwoChannels {
  int first;
  int count;  // 0 to 2
  bool together;
};

MEMX_DEVICE TwoChannels two_channels(int first, int channels) {
  const int left = channels - first;
  return {first, left < 0 ? 0 : left < 2 ? left : 2, channels % 2 == 0};
}

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T numbers[2];
};

// Adds what is at `memory`, the first channel's place; nothing if there is no memory.
template <class T, class A>
MEMX_DEVICE void add_two(A (&sum)[2], const T* memory, int64_t offset,
                         const TwoChannels& channels) {
  if (memory == nullptr) {
    return;
  }
  if (channels.together) {
    const Pair<T> pair = *reinterpret_cast<const Pair<T>*>(memory + offset);
    sum[0] += widen(pair.numbers[0]);
    sum[1] += widen(pair.numbers[1]);
    return;
  }
  sum[0] += widen(memory[offset]);
  if (channels.count == 2) {
    sum[1] += widen(memory[offset + 1]);
  }
}

// Multiplies by what is at `memory`; by one if there is no memory.
template <class T, class A>
MEMX_DEVICE void multiply_two(A (&values)[2], const T* memory, int64_t offset,
                              const TwoChannels& channels) {
  if (memory != nullptr) {
    A factors[2] = {};
    add_two(factors, memory, offset, channels);
    values[0] *= factors[0];
    values[1] *= factors[1];
  }
}

template <class T, class A>
MEMX_DEVICE void store_two(const A (&values)[2], T* memory, int64_t offset,
                           const TwoChannels& channels) {
  if (memory == nullptr) {
    return;
  }
  Pair<T> pair;
  narrow(values[0], pair.numbers[0]);
  narrow(values[1], pair.numbers[1]);
  if (channels.together) {
    *reinterpret_cast<Pair<T>*>(memory + offset) = pair;
    return;
  }
  memory[offset] = pair.numbers[0];
  if (channels.count == 2) {
    memory[offset + 1] = pair.numbers[1];
  }
}

// (3, H*W, C) if spatial, else (3, 1, C), in order i, f, o; null: zeros.
template <class A>
struct Peepholes {
  const A* weights;
  bool is_spatial;
};

// Which of the variants of equations (1)-(5) a layer computes.
template <class A>
struct Equations {
  bool output_sees_current;
  A hard_sigmoid_slope;  // 0: the logistic sigmoid
};

template <class A>
MEMX_DEVICE void load_peepholes(Peephole<A> (&result)[2], const Peepholes<A>& peepholes,
                                const Tiling& tiling, const Pixel& pixel, int channels,
                                const TwoChannels& two) {
  const int64_t pixels = peepholes.is_spatial ? int64_t{tiling.height} * tiling.width : 1;
  const int64_t in_image = peepholes.is_spatial ? int64_t{pixel.y} * tiling.width + pixel.x : 0;
  const int64_t at = in_image * channels + two.first, gate = pixels * channels;
  A i[2] = {}, f[2] = {}, o[2] = {};
  add_two(i, peepholes.weights, at, two);
  add_two(f, peepholes.weights, at + gate, two);
  add_two(o, peepholes.weights, at + 2 * gate, two);
  result[0] = {i[0], f[0], o[0]};
  result[1] = {i[1], f[1], o[1]};
}

// body(pixel, row): every pixel of a lane's rows that exists, and the number of the row.
template <class Shape, class Body>
MEMX_DEVICE void each_pixel(const Tiling& tiling, const Tile& tile, const Body& body) {
  constexpr int kTiles = Shape::numbers::kTiles;
  const int first = warp() / Shape::kWarpsAcross * (kTiles * kTileRows) + lane() / 4;
#pragma unroll
  for (int row = 0; row < 2 * kTiles; ++row) {
    const Pixel pixel = pixel_of(tiling, tile, first + row * 8);
    if (pixel.exists) {
      body(pixel, row);
    }
  }
}

// The lane's two columns of a row of a tile of sums.
template <class A, int M, int N>
MEMX_DEVICE void take_two(A (&values)[2], const A (&sum)[M][N][4], int row, int n) {
  values[0] = sum[row / 2][n][row % 2 * 2];
  values[1] = sum[row / 2][n][row % 2 * 2 + 1];
}

// body(pixel, two channels, their sums): all that a lane has of a convolution whose columns are the
// channels of an image.
template <class Shape, class Body>
MEMX_DEVICE void each_image_pair(const Tiling& tiling, const Tile& tile, int channels,
                                 const typename Shape::sums& sum, const Body& body) {
  const int first_quad =
      block_y() * Shape::kBlockQuads + warp() % Shape::kWarpsAcross * Shape::kQuads;
  each_pixel<Shape>(tiling, tile, [&](const Pixel& pixel, int row) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; ++n) {
      const int channel = first_quad * kQuadColumns + n * kTileColumns + lane() % 4 * 2;
      const TwoChannels two = two_channels(channel, channels);
      if (two.count > 0) {
        typename Shape::numbers::accumulate values[2];
        take_two(values, sum, row, n);
        body(pixel, two, values);
      }
    }
  });
}

}  // namespace memx::cuda

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
template <bool together>
struct TwoChannels {
  int first;
  int count;  // 0 to 2
};

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T numbers[2];
};

// What is at `memory`, the first channel's place; zeros where there is no memory or no channel.
template <class T, bool together>
MEMX_DEVICE Pair<T> load_two(const T* memory, int64_t offset, const TwoChannels<together>& two) {
  const int count = memory == nullptr ? 0 : two.count;
  Pair<T> pair{};
  if constexpr (together) {
    if (count > 0) {
      pair = *reinterpret_cast<const Pair<T>*>(memory + offset);
    }
  } else {
    if (count > 0) {
      pair.numbers[0] = memory[offset];
    }
    if (count > 1) {
      pair.numbers[1] = memory[offset + 1];
    }
  }
  return pair;
}

template <class T, class A, bool together>
MEMX_DEVICE void store_two(const A (&values)[2], T* memory, int64_t offset,
                           const TwoChannels<together>& two) {
  if (memory == nullptr) {
    return;
  }
  Pair<T> pair;
  narrow(values[0], pair.numbers[0]);
  narrow(values[1], pair.numbers[1]);
  if constexpr (together) {
    *reinterpret_cast<Pair<T>*>(memory + offset) = pair;
  } else {
    memory[offset] = pair.numbers[0];
    if (two.count == 2) {
      memory[offset + 1] = pair.numbers[1];
    }
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

// The weights of two channels of a pixel: i, f, o.
template <class A>
struct PeepholePairs {
  Pair<A> gates[3];
  MEMX_DEVICE Peephole<A> operator[](int e) const {
    return {gates[0].numbers[e], gates[1].numbers[e], gates[2].numbers[e]};
  }
};

template <class A, bool together>
MEMX_DEVICE PeepholePairs<A> load_peepholes(const Peepholes<A>& peepholes, const Tiling& tiling,
                                            const Pixel& pixel, int channels,
                                            const TwoChannels<together>& two) {
  const int64_t pixels = peepholes.is_spatial ? int64_t{tiling.height} * tiling.width : 1;
  const int64_t in_image = peepholes.is_spatial ? int64_t{pixel.y} * tiling.width + pixel.x : 0;
  const int64_t at = in_image * channels + two.first, gate = pixels * channels;
  return {load_two(peepholes.weights, at, two), load_two(peepholes.weights, at + gate, two),
          load_two(peepholes.weights, at + 2 * gate, two)};
}

// Two channels of a pixel, the sums of which are a lane's; none of a pixel that does not exist.
template <bool together>
struct Site {
  Pixel pixel;
  TwoChannels<together> two;
};

// The lane's of a row, in 8 channels from `first` on.
template <class Shape, bool together>
MEMX_DEVICE Site<together> site_of(const Tiling& tiling, const Tile& tile, int row, int first,
                                   int channels) {
  const int rows = warp() / Shape::kWarpsAcross * (Shape::numbers::kTiles * kTileRows);
  const Pixel pixel = pixel_of(tiling, tile, rows + row * 8 + lane() / 4);
  const int channel = first + lane() % 4 * 2;
  const int left = pixel.exists ? channels - channel : 0;
  return {pixel, {channel, left < 0 ? 0 : left < 2 ? left : 2}};
}

// finish(number, load(number)) for so many numbers. All that one of them reads is asked for before
// any of it is looked at: a lane that looked at each operand as it came would wait for memory once an
// operand. With `ahead` the next is on its way meanwhile, too.
template <int count, bool ahead, class Load, class Finish>
MEMX_DEVICE void load_and_finish(const Load& load, const Finish& finish) {
  auto next = load(0);
#pragma unroll
  for (int number = 0; number < count; ++number) {
    const auto loaded = next;
    if (ahead && number + 1 < count) {
      next = load(number + 1);
    }
    finish(number, loaded);
    if (!ahead && number + 1 < count) {
      next = load(number + 1);
    }
  }
}

// body(whether channels are moved together, as a constant).
template <class Body>
MEMX_DEVICE void for_channels(int channels, const Body& body) {
  if (channels % 2 == 0) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

// The lane's two columns of a row of a tile of sums.
template <class A, int M, int N>
MEMX_DEVICE void take_two(A (&values)[2], const A (&sum)[M][N][4], int row, int n) {
  values[0] = sum[row / 2][n][row % 2 * 2];
  values[1] = sum[row / 2][n][row % 2 * 2 + 1];
}

// body(site, load(site), its sums): all that a lane has of a convolution whose columns are the
// channels of an image.
template <class Shape, class Load, class Body>
MEMX_DEVICE void each_image_pair(const Tiling& tiling, const Tile& tile, int channels,
                                 const typename Shape::sums& sum, const Load& load,
                                 const Body& body) {
  constexpr int kRows = 2 * Shape::numbers::kTiles, kAcross = Shape::kColumnTiles;
  const int first_quad =
      block_y() * Shape::kBlockQuads + warp() % Shape::kWarpsAcross * Shape::kQuads;
  for_channels(channels, [&](auto together) {
    const auto site = [&](int number) {
      const int first = first_quad * kQuadColumns + number % kAcross * kTileColumns;
      return site_of<Shape, decltype(together)::value>(tiling, tile, number / kAcross, first,
                                                       channels);
    };
    // What is not moved together takes twice the registers.
    load_and_finish<kRows * kAcross, decltype(together)::value>(
        [&](int number) { return load(site(number)); },
        [&](int number, const auto& loaded) {
          const auto here = site(number);
          if (here.two.count > 0) {
            typename Shape::numbers::accumulate values[2];
            take_two(values, sum, number / kAcross, number % kAcross);
            body(here, loaded, values);
          }
        });
  });
}

}  // namespace memx::cuda

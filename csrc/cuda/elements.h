// What the epilogues of the steps share: four neighbouring channels of a pixel at a time, which is how
// a lane has them (channel_of_column).
#pragma once

#include "../cell_math.h"
#include "exchange.h"

namespace memx::cuda {

using baseline::Gates;
using baseline::Peephole;

constexpr int kUnitChannels = 4;

// Channels `first` and those after it that exist. They are moved together where all images have a
// multiple of four channels.
template <bool together>
struct LaneChannels {
  int first;
  int count;  // 0 to 4
};

// Four channels as they are moved: half types two to a register, or each would take several
// instructions to get into its place and out of it.
template <class T, bool is_half = sizeof(T) == 2>
struct alignas(kPieceBytes) Four {
  T numbers[kUnitChannels];

  MEMX_DEVICE T operator[](int e) const { return numbers[e]; }
  MEMX_DEVICE T number(int e) const { return numbers[e]; }
  // Once each, when all are zero.
  MEMX_DEVICE void set(int e, T number) { numbers[e] = number; }
  template <class A>
  MEMX_DEVICE static Four of(const A (&values)[kUnitChannels]) {
    return {{values[0], values[1], values[2], values[3]}};
  }
};

template <class T>
struct alignas(4 * sizeof(T)) Four<T, true> {
  uint64_t bits;

  // The number as a float.
  MEMX_DEVICE float operator[](int e) const {
    const uint32_t pair = uint32_t(bits >> (e < 2 ? 0 : 32));
    return e % 2 == 0 ? widen_one<false>(pair, T{}) : widen_one<true>(pair, T{});
  }
  MEMX_DEVICE T number(int e) const { return {uint16_t(bits >> 16 * e)}; }
  MEMX_DEVICE void set(int e, T number) { bits |= uint64_t{number.bits} << 16 * e; }
  MEMX_DEVICE static Four of(const float (&values)[kUnitChannels]) {
    return {uint64_t{narrow_pair(values[2], values[3], T{})} << 32 |
            narrow_pair(values[0], values[1], T{})};
  }
};

// What is at `memory`, the first channel's place; zeros where there is no memory or no channel.
template <class T, bool together>
MEMX_DEVICE Four<T> load_four(const T* memory, int64_t offset,
                              const LaneChannels<together>& channels) {
  const int count = memory == nullptr ? 0 : channels.count;
  Four<T> four{};
  if constexpr (together) {
    if (count > 0) {
      four = *reinterpret_cast<const Four<T>*>(memory + offset);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kUnitChannels; ++e) {
      if (e < count) {
        four.set(e, memory[offset + e]);
      }
    }
  }
  return four;
}

template <class T, class A, bool together>
MEMX_DEVICE void store_four(const A (&values)[kUnitChannels], T* memory, int64_t offset,
                            const LaneChannels<together>& channels) {
  if (memory == nullptr) {
    return;
  }
  const Four<T> four = Four<T>::of(values);
  if constexpr (together) {
    *reinterpret_cast<Four<T>*>(memory + offset) = four;
  } else {
#pragma unroll
    for (int e = 0; e < kUnitChannels; ++e) {
      if (e < channels.count) {
        memory[offset + e] = four.number(e);
      }
    }
  }
}

// Has the rows of a tile brought closer, of images (N, H, W, so many numbers) that are dense; null:
// nothing. One warp is enough: the one of this number. Of the blocks that share a tile the first does it.
template <class T>
MEMX_DEVICE void prefetch_tile(const Tiling& tiling, const Tile& tile, const T* images, int numbers,
                               int of_warp) {
  const int pixel_bytes = numbers * int(sizeof(T)), y = tile.top + lane();
  const bool is_mine = warp() == of_warp && block_y() == 0 && lane() < tiling.rows();
  if (images == nullptr || !is_mine || y >= tiling.height || pixel_bytes % kPieceBytes != 0) {
    return;
  }
  const int left = tiling.width - tile.left;
  const int64_t first = (tile.image * tiling.height + y) * tiling.width + tile.left;
  prefetch(images + first * numbers,
           (left < tiling.columns() ? left : tiling.columns()) * pixel_bytes);
}

// (3, H*W, C) if spatial, else (3, 1, C), in order i, f, o; null: zeros.
template <class S>
struct Peepholes {
  const S* weights;
  bool is_spatial;
};

// The functions of equations (1)-(5) for types whose products are rounded far more than these are:
// by the special function unit. tanh of small numbers is a polynomial, where the quotient would
// lose their digits.
struct SpecialFunctions {
  MEMX_DEVICE static float sigmoid(float x) {
    constexpr float kLog2OfE = 1.44269504f;
    return reciprocal(1.0f + power_of_two(-kLog2OfE * x));
  }
  MEMX_DEVICE static float tanh(float x) {
    constexpr float kSmall = 0.03f;  // there both are within 4e-6
    const float u = x * x;
    const float series = x * (1.0f - 0.333333333f * u);
    const float quotient = 2.0f * sigmoid(2.0f * x) - 1.0f;
    return u < kSmall * kSmall ? series : quotient;
  }
};

template <class Numbers>
using FunctionsOf = std::conditional_t<Numbers::kIsMatrix, SpecialFunctions, baseline::Arithmetic>;

// Which of the variants of equations (1)-(5) a layer computes.
template <class A>
struct Equations {
  bool output_sees_current;
  A hard_sigmoid_slope;  // 0: the logistic sigmoid
};

// body(sigmoid): decided once, so that what a warp then goes through is in one place.
template <class Numbers, class A, class Body>
MEMX_DEVICE void for_sigmoid(const Equations<A>& equations, const Body& body) {
  baseline::for_sigmoid<FunctionsOf<Numbers>>(equations.hard_sigmoid_slope, body);
}

// The weights of four channels of a pixel: i, f, o.
template <class S>
struct PeepholeFours {
  Four<S> gates[3];

  MEMX_DEVICE auto operator[](int e) const {
    return Peephole<decltype(widen(S{}))>{gates[0][e], gates[1][e], gates[2][e]};
  }
};

template <class S, bool together>
MEMX_DEVICE PeepholeFours<S> load_peepholes(const Peepholes<S>& peepholes, const Tiling& tiling,
                                            const Pixel& pixel, int hidden,
                                            const LaneChannels<together>& channels) {
  const int64_t pixels = peepholes.is_spatial ? int64_t{tiling.height} * tiling.width : 1;
  const int64_t in_image = peepholes.is_spatial ? int64_t{pixel.y} * tiling.width + pixel.x : 0;
  const int64_t at = in_image * hidden + channels.first, gate = pixels * hidden;
  return {load_four(peepholes.weights, at, channels),
          load_four(peepholes.weights, at + gate, channels),
          load_four(peepholes.weights, at + 2 * gate, channels)};
}

// Four channels of a pixel, the sums of which are a lane's; none of a pixel that does not exist.
template <bool together>
struct Site {
  Pixel pixel;
  LaneChannels<together> channels;
};

// The lane's in the unit of 16 channels that begins with `first`.
template <bool together>
MEMX_DEVICE LaneChannels<together> lane_channels(int first, int channels) {
  const int channel = first + lane() % 4 * kUnitChannels, left = channels - channel;
  return {channel, left < 0 ? 0 : left < kUnitChannels ? left : kUnitChannels};
}

// The lane's of a row and a unit.
template <class Shape, bool together>
MEMX_DEVICE Site<together> site_of(const Tiling& tiling, const Tile& tile, int row, int first,
                                   int channels) {
  Pixel pixel = pixel_of(tiling, tile, Shape::first_pixel() + row * 8 + lane() / 4);
  pixel.exists = pixel.exists && row < Shape::kRows;
  return {pixel, lane_channels<together>(first, pixel.exists ? channels : 0)};
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
  if (channels % kUnitChannels == 0) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

// The lane's columns of a row, in two tiles of sums that hold a unit.
template <class A, int M, int N>
MEMX_DEVICE void take_four(A (&values)[kUnitChannels], const A (&sum)[M][N][4], int row,
                           int first_tile, int second_tile) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    values[e] = sum[row / 2][first_tile][row % 2 * 2 + e];
    values[2 + e] = sum[row / 2][second_tile][row % 2 * 2 + e];
  }
}

template <class A, int M, int N>
MEMX_DEVICE void put_four(const A (&values)[kUnitChannels], A (&sum)[M][N][4], int row,
                          int first_tile, int second_tile) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    sum[row / 2][first_tile][row % 2 * 2 + e] = values[e];
    sum[row / 2][second_tile][row % 2 * 2 + e] = values[2 + e];
  }
}

// body(site, load(site), its sums): all that a lane has, in the warp's own rows, of a convolution whose
// columns are the channels of an image.
template <class Shape, class Sums, class Load, class Body>
MEMX_DEVICE void each_site(const Tiling& tiling, const Tile& tile, int channels, const Sums& sum,
                           const Load& load, const Body& body) {
  constexpr int kUnits = Shape::kColumnTiles / 2;
  const int first_quad = block_y() * Shape::kBlockQuads + Shape::warp_across() * Shape::kQuads;
  for_channels(channels, [&](auto together) {
    const auto site = [&](int number) {
      const int first = first_quad * kQuadColumns + number % kUnits * kUnitColumns;
      return site_of<Shape, decltype(together)::value>(
          tiling, tile, Shape::first_own_row() + number / kUnits, first, channels);
    };
    // The next is not asked for ahead: it would take more registers than there are.
    load_and_finish<Shape::kOwnRows * kUnits, false>(
        [&](int number) { return load(site(number)); },
        [&](int number, const auto& loaded) {
          const auto here = site(number);
          if (here.channels.count > 0) {
            typename Shape::numbers::accumulate values[kUnitChannels];
            const int first_tile = number % kUnits * 2;
            take_four(values, sum, number / kUnits, first_tile, first_tile + 1);
            body(here, loaded, values);
          }
        });
  });
}

}  // namespace memx::cuda

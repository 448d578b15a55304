// The forward step: both convolutions and equations (1)-(5) in one launch.
#pragma once

#include "elements.h"

namespace memx::cuda {

// Step t of a layer. Pointers are to the images of that step, dense with channels last; null where
// there is nothing, which for what is read means zeros.
template <class Numbers>
struct ForwardStep {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Convolution<2> convolution;  // X_t with W_x, H_{t-1} with W_h
  int64_t t;
  const int64_t* lengths;  // (B,): the steps of every sequence; null: all
  int hidden;              // channels C
  const S* input_gates;    // (B, H, W, 4, C), added to the convolutions
  const A* bias;           // (4, C)
  Peepholes<S> peepholes;
  Equations<A> equations;
  const A* previous_cell;  // (B, H, W, C): C_{t-1}
  A* cell;                 // (B, H, W, C): C_t, where C_{t-1} is or elsewhere
  S* output;               // (B, H, W, C): H_t
  S* gates;                // (B, H, W, 4, C): i, f, g, o
};

// A warp has 32 pixels (16 in double precision) and 16 channels with their four gates.
template <class Numbers>
using WideForward = Shape<Numbers, 4, 2, 2>;
template <class Numbers>
using NarrowForward = Shape<Numbers, 4, 1, 2>;
// So many blocks of a multiprocessor at once.
template <class Numbers, int blocks>
using SharedForward = Shape<Numbers, 4, 1, 2, Numbers::kThreadsAtOnce / 128 / blocks>;

// Packed columns of the forward step: a quad is the four gates of a tile of 8 columns, and two quads
// a unit, so that one lane has all gates of its channels.
constexpr int kForwardChannels = kTileColumns;  // of a quad

// What a step reads of four channels of a pixel, beside the images that it convolves.
template <class Numbers>
struct ForwardOperands {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  PeepholeFours<S> peepholes;
  Four<A> previous_cell;
};

template <class Numbers, bool together>
MEMX_DEVICE ForwardOperands<Numbers> load_forward(const ForwardStep<Numbers>& step,
                                                  const Site<together>& site) {
  const auto& [pixel, channels] = site;
  const int64_t at = pixel.number * step.hidden + channels.first;
  return {load_peepholes(step.peepholes, step.convolution.tiling, pixel, step.hidden, channels),
          load_four(step.previous_cell, at, channels)};
}

// Equations (1)-(5) for four channels of a pixel, whose pre-activations but for the peepholes are z.
template <class Numbers, bool together, class A, class Sigmoid>
MEMX_DEVICE void finish_forward(const ForwardStep<Numbers>& step, const Site<together>& site,
                                const ForwardOperands<Numbers>& loaded, A (&z)[4][kUnitChannels],
                                const Sigmoid& sigmoid) {
  A cell[kUnitChannels], hidden[kUnitChannels];
#pragma unroll
  for (int e = 0; e < kUnitChannels; ++e) {
    Gates<A> gates{z[0][e], z[1][e], z[2][e], z[3][e]};
    const baseline::CellState<A> state =
        baseline::cell_forward(gates, loaded.peepholes[e], loaded.previous_cell[e],
                               step.equations.output_sees_current, sigmoid);
    cell[e] = state.cell;
    hidden[e] = state.hidden;
    z[0][e] = gates.i;
    z[1][e] = gates.f;
    z[2][e] = gates.g;
    z[3][e] = gates.o;
  }
  const auto& [pixel, channels] = site;
  const int64_t at = pixel.number * step.hidden + channels.first;
  store_four(cell, step.cell, at, channels);
  store_four(hidden, step.output, at, channels);
  if (step.gates != nullptr) {
    auto* gates = step.gates + 4 * pixel.number * step.hidden + channels.first;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      store_four(z[gate], gates, int64_t{gate} * step.hidden, channels);
    }
  }
}

// Where the sums of a warp are: some rows, from the first on, times units of channels.
template <class Shape, bool together, int rows>
struct ForwardSites {
  using Numbers = typename Shape::numbers;
  static constexpr int kRows = rows, kUnits = Shape::kQuads / 2;
  static constexpr int kCount = kRows * kUnits;

  const ForwardStep<Numbers>& step;
  const Tile& tile;
  int first_row;

  MEMX_DEVICE static int first_channel(int unit) {
    const int quad = block_y() * Shape::kBlockQuads + Shape::warp_across() * Shape::kQuads;
    return quad * kForwardChannels + unit * kUnitColumns;
  }

  MEMX_DEVICE LaneChannels<together> channels_of(int unit) const {
    return lane_channels<together>(first_channel(unit), step.hidden);
  }

  MEMX_DEVICE Site<together> operator[](int number) const {
    return site_of<Shape, together>(step.convolution.tiling, tile, first_row + number / kUnits,
                                    first_channel(number % kUnits), step.hidden);
  }

  // The first of the two tiles of sums that a gate of a site is in, kQuadTiles apart.
  MEMX_DEVICE static int tile_of_gate(int number, int gate) {
    return number % kUnits * 2 * kQuadTiles + gate;
  }
};

// Every row of the sums begins with the bias.
template <class Shape, class Sites>
MEMX_DEVICE void begin_with_bias(const ForwardStep<typename Shape::numbers>& step,
                                 const Sites& sites, typename Shape::sums& sum) {
#pragma unroll
  for (int unit = 0; unit < sites.kUnits; ++unit) {
    const auto channels = sites.channels_of(unit);
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const auto bias = load_four(step.bias, gate * step.hidden + channels.first, channels);
      const int first_tile = sites.tile_of_gate(unit, gate);
#pragma unroll
      for (int row = 0; row < sites.kRows; ++row) {
        put_four(bias.numbers, sum, row, first_tile, first_tile + kQuadTiles);
      }
    }
  }
}

// Adds ready-made input gates.
template <class Shape, class Sites>
MEMX_DEVICE void add_input_gates(const ForwardStep<typename Shape::numbers>& step,
                                 const Sites& sites, typename Shape::sums& sum) {
#pragma unroll
  for (int number = 0; number < sites.kCount; ++number) {
    const auto [pixel, channels] = sites[number];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const int64_t at = (4 * pixel.number + gate) * step.hidden + channels.first;
      const auto given = load_four(step.input_gates, at, channels);
      const int first_tile = sites.tile_of_gate(number, gate);
      typename Shape::numbers::accumulate values[kUnitChannels];
      take_four(values, sum, number / sites.kUnits, first_tile, first_tile + kQuadTiles);
#pragma unroll
      for (int e = 0; e < kUnitChannels; ++e) {
        values[e] += given[e];
      }
      put_four(values, sum, number / sites.kUnits, first_tile, first_tile + kQuadTiles);
    }
  }
}

template <bool together, class Shape>
MEMX_DEVICE void begin_sums(const ForwardStep<typename Shape::numbers>& step, const Tile& tile,
                            typename Shape::sums& sum) {
  const ForwardSites<Shape, together, Shape::kRows> sites{step, tile, 0};
  begin_with_bias<Shape>(step, sites, sum);
  if (step.input_gates != nullptr) {
    add_input_gates<Shape>(step, sites, sum);
  }
}

template <bool together, class Shape, class Sums>
MEMX_DEVICE void finish_sums(const ForwardStep<typename Shape::numbers>& step, const Tile& tile,
                             const Sums& sum) {
  const ForwardSites<Shape, together, Shape::kOwnRows> sites{step, tile, Shape::first_own_row()};
  using Numbers = typename Shape::numbers;
  for_sigmoid<Numbers>(step.equations, [&](const auto& sigmoid) {
    load_and_finish<sites.kCount, together>(
        [&](int number) { return load_forward(step, sites[number]); },
        [&](int number, const auto& loaded) {
          const auto here = sites[number];
          if (here.channels.count > 0) {
            typename Numbers::accumulate z[4][kUnitChannels];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) {
              const int first_tile = sites.tile_of_gate(number, gate);
              take_four(z[gate], sum, number / sites.kUnits, first_tile, first_tile + kQuadTiles);
            }
            finish_forward(step, here, loaded, z, sigmoid);
          }
        });
  });
}

template <class Shape>
MEMX_KERNEL(Shape::kThreads, Shape::kBlocks)
forward_step(MEMX_KERNEL_ARGUMENT ForwardStep<typename Shape::numbers> step) {
  const Tile tile = tile_of(step.convolution.tiling, block_x());
  if (has_ended(step.lengths, tile.image, step.t)) {
    return;
  }
  Pipeline<Shape, 2> pipeline{step.convolution, tile};
  pipeline.begin();
  prefetch_tile(step.convolution.tiling, tile, step.previous_cell, step.hidden, 0);
  prefetch_tile(step.convolution.tiling, tile, step.input_gates, 4 * step.hidden, 1);
  typename Shape::sums sum = {};
  for_channels(step.hidden, [&](auto together) {
    if (Shape::share() == 0) {
      begin_sums<decltype(together)::value, Shape>(step, tile, sum);
    }
  });
  pipeline.run(sum);
  with_own_sums<Shape>(sum, [&](const auto& own) {
    for_channels(step.hidden, [&](auto together) {
      finish_sums<decltype(together)::value, Shape>(step, tile, own);
    });
  });
}

}  // namespace memx::cuda

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
  Peepholes<A> peepholes;
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

// Packed columns of the forward step: a quad is the four gates of 8 channels, so that one lane has
// all gates of a channel.
constexpr int kQuadChannels = kTileColumns;

// What a step reads of two channels of a pixel, beside the images that it convolves.
template <class Numbers>
struct ForwardOperands {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Pair<S> input_gates[4];
  PeepholePairs<A> peepholes;
  Pair<A> previous_cell;
};

template <class Numbers, bool together>
MEMX_DEVICE ForwardOperands<Numbers> load_forward(const ForwardStep<Numbers>& step,
                                                  const Site<together>& site) {
  const auto& [pixel, two] = site;
  ForwardOperands<Numbers> loaded;
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    const int64_t channel = int64_t{gate} * step.hidden + two.first;
    loaded.input_gates[gate] =
        load_two(step.input_gates, 4 * pixel.number * step.hidden + channel, two);
  }
  loaded.peepholes =
      load_peepholes(step.peepholes, step.convolution.tiling, pixel, step.hidden, two);
  loaded.previous_cell = load_two(step.previous_cell, pixel.number * step.hidden + two.first, two);
  return loaded;
}

// Equations (1)-(5) for two channels of a pixel, whose convolutions are in z.
template <class Numbers, bool together, class A>
MEMX_DEVICE void finish_forward(const ForwardStep<Numbers>& step, const Site<together>& site,
                                const ForwardOperands<Numbers>& loaded, A (&z)[4][2]) {
  const auto& [pixel, two] = site;
  Pair<A> bias[4];
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    bias[gate] = load_two(step.bias, int64_t{gate} * step.hidden + two.first, two);
  }
  A cell[2], hidden[2];
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      z[gate][e] += widen(loaded.input_gates[gate].numbers[e]);
      z[gate][e] += bias[gate].numbers[e];
    }
  }
  for_equations(step.equations.output_sees_current, step.equations.hard_sigmoid_slope,
                [&](auto output_sees_current, const auto& sigmoid) {
#pragma unroll
                  for (int e = 0; e < 2; ++e) {
                    Gates<A> gates{z[0][e], z[1][e], z[2][e], z[3][e]};
                    const baseline::CellState<A> state =
                        baseline::cell_forward<decltype(output_sees_current)::value>(
                            gates, loaded.peepholes[e], loaded.previous_cell.numbers[e], sigmoid);
                    cell[e] = state.cell;
                    hidden[e] = state.hidden;
                    z[0][e] = gates.i;
                    z[1][e] = gates.f;
                    z[2][e] = gates.g;
                    z[3][e] = gates.o;
                  }
                });
  const int64_t at = pixel.number * step.hidden + two.first;
  const int64_t gates_at = 4 * pixel.number * step.hidden + two.first;
  store_two(cell, step.cell, at, two);
  store_two(hidden, step.output, at, two);
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    store_two(z[gate], step.gates, gates_at + gate * step.hidden, two);
  }
}

template <class Shape>
MEMX_KERNEL(Shape::kThreads, Shape::kBlocks)
forward_step(MEMX_KERNEL_ARGUMENT ForwardStep<typename Shape::numbers> step) {
  const Tiling& tiling = step.convolution.tiling;
  const Tile tile = tile_of(tiling, block_x());
  if (has_ended(step.lengths, tile.image, step.t)) {
    return;
  }
  typename Shape::sums sum = {};
  Pipeline<Shape, 2>{step.convolution, tile}.run(sum);

  constexpr int kRows = 2 * Shape::numbers::kTiles, kAcross = Shape::kQuads;
  const int first_quad =
      block_y() * Shape::kBlockQuads + warp() % Shape::kWarpsAcross * Shape::kQuads;
  for_channels(step.hidden, [&](auto together) {
    const auto site = [&](int number) {
      const int first = (first_quad + number % kAcross) * kQuadChannels;
      return site_of<Shape, decltype(together)::value>(tiling, tile, number / kAcross, first,
                                                       step.hidden);
    };
    load_and_finish<kRows * kAcross, decltype(together)::value>(
        [&](int number) { return load_forward(step, site(number)); },
        [&](int number, const auto& loaded) {
          const auto here = site(number);
          if (here.two.count > 0) {
            typename Shape::numbers::accumulate z[4][2];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) {
              take_two(z[gate], sum, number / kAcross, number % kAcross * kQuadTiles + gate);
            }
            finish_forward(step, here, loaded, z);
          }
        });
  });
}

}  // namespace memx::cuda

// The backward step: the transposed convolution over the gate gradients of step t+1 and the
// derivative of equations (5)-(1) at step t, in one launch.
#pragma once

#include "elements.h"

namespace memx::cuda {

// A gradient (B, C, H, W) of any strides; null: zeros. `is_aligned`: its channels are neighbours, and
// four of them can be read at once wherever the first is a multiple of four.
template <class S>
struct StridedImages {
  const S* memory;
  int64_t image, channel, row, column;
  bool is_aligned;
};

// Step t. Pointers are to the images of that step, dense with channels last; null where there is
// nothing, which for what is read means zeros.
template <class Numbers>
struct BackwardStep {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Convolution<1> convolution;  // gate gradients of step t+1, with W_h transposed
  int64_t t;
  const int64_t* lengths;  // (B,): the steps of every sequence; null: all
  int hidden;              // channels C
  StridedImages<S> output_gradient;
  StridedImages<S> final_gradient;  // of H_t after a sequence's last step
  const S* hidden_mask;             // (B, H, W, C), multiplied H_t on its way to step t+1
  Peepholes<S> peepholes;
  Equations<A> equations;
  const S* gates;          // (B, H, W, 4, C) after activation
  const A* cell;           // (B, H, W, C): C_t
  const A* previous_cell;  // (B, H, W, C): C_{t-1}
  A* cell_gradient;        // (B, H, W, C): of C_t in, of C_{t-1} out
  S* gate_gradients;       // (B, H, W, 4, C), of the pre-activations
};

// A warp has 32 pixels (16 in double precision) and 32 channels.
template <class Numbers>
using WideBackward = Shape<Numbers, 4, 2, 1>;
template <class Numbers>
using TallBackward = Shape<Numbers, 8, 1, 1>;
// So many blocks of a multiprocessor at once.
template <class Numbers, int blocks>
using SharedBackward = Shape<Numbers, 4, 1, 1, Numbers::kThreadsAtOnce / 128 / blocks>;

template <class S, bool together>
MEMX_DEVICE Four<S> load_strided(const StridedImages<S>& images, int64_t image, const Pixel& pixel,
                                 const LaneChannels<together>& channels) {
  const int64_t at = image * images.image + pixel.y * images.row + pixel.x * images.column +
                     channels.first * images.channel;
  if (together && images.is_aligned) {
    return load_four(images.memory, at, channels);
  }
  const int count = images.memory == nullptr ? 0 : channels.count;
  Four<S> four{};
#pragma unroll
  for (int e = 0; e < kUnitChannels; ++e) {
    if (e < count) {
      four.set(e, images.memory[at + e * images.channel]);
    }
  }
  return four;
}

// What a step reads of four channels of a pixel, beside the images that it convolves.
template <class Numbers>
struct BackwardOperands {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Four<S> output_gradient, gates[4];
  Four<A> cell, previous_cell, cell_gradient;
  PeepholeFours<S> peepholes;
};

template <class Numbers, bool together>
MEMX_DEVICE BackwardOperands<Numbers> load_backward(const BackwardStep<Numbers>& step,
                                                    int64_t image, const Site<together>& site) {
  const auto& [pixel, channels] = site;
  const int64_t at = pixel.number * step.hidden + channels.first;
  const int64_t gates_at = 4 * pixel.number * step.hidden + channels.first;
  BackwardOperands<Numbers> loaded;
  loaded.output_gradient = load_strided(step.output_gradient, image, pixel, channels);
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    loaded.gates[gate] = load_four(step.gates, gates_at + gate * step.hidden, channels);
  }
  loaded.cell = load_four(step.cell, at, channels);
  loaded.previous_cell = load_four(step.previous_cell, at, channels);
  loaded.cell_gradient = load_four<typename Numbers::accumulate>(step.cell_gradient, at, channels);
  loaded.peepholes =
      load_peepholes(step.peepholes, step.convolution.tiling, pixel, step.hidden, channels);
  return loaded;
}

// Of H_t: what the convolution sent it, by way of the mask, and what came from outside.
template <class Numbers, bool together, class A>
MEMX_DEVICE void complete_hidden_gradient(const BackwardStep<Numbers>& step, int64_t image,
                                          bool is_last, const Site<together>& site,
                                          const BackwardOperands<Numbers>& loaded,
                                          A (&gradient)[kUnitChannels]) {
  const auto& [pixel, channels] = site;
  if (step.hidden_mask != nullptr) {
    const int64_t at = pixel.number * step.hidden + channels.first;
    const auto mask = load_four(step.hidden_mask, at, channels);
#pragma unroll
    for (int e = 0; e < kUnitChannels; ++e) {
      gradient[e] *= mask[e];
    }
  }
#pragma unroll
  for (int e = 0; e < kUnitChannels; ++e) {
    gradient[e] += loaded.output_gradient[e];
  }
  if (is_last && step.final_gradient.memory != nullptr) {
    const auto from_end = load_strided(step.final_gradient, image, pixel, channels);
#pragma unroll
    for (int e = 0; e < kUnitChannels; ++e) {
      gradient[e] += from_end[e];
    }
  }
}

// The derivative for four channels of a pixel.
template <class Numbers, bool together, class A, class Sigmoid>
MEMX_DEVICE void finish_backward(const BackwardStep<Numbers>& step, const Site<together>& site,
                                 const BackwardOperands<Numbers>& loaded,
                                 const A (&hidden_gradient)[kUnitChannels],
                                 const Sigmoid& sigmoid) {
  A gates[4][kUnitChannels], cell_gradient[kUnitChannels];
#pragma unroll
  for (int e = 0; e < kUnitChannels; ++e) {
    const auto& saved = loaded.gates;
    const Gates<A> gate{saved[0][e], saved[1][e], saved[2][e], saved[3][e]};
    cell_gradient[e] = loaded.cell_gradient[e];
    const Gates<A> gradient = baseline::cell_backward(
        gate, loaded.peepholes[e], loaded.previous_cell[e], loaded.cell[e], hidden_gradient[e],
        cell_gradient[e], step.equations.output_sees_current, sigmoid);
    gates[0][e] = gradient.i;
    gates[1][e] = gradient.f;
    gates[2][e] = gradient.g;
    gates[3][e] = gradient.o;
  }
  const auto& [pixel, channels] = site;
  const int64_t at = pixel.number * step.hidden + channels.first;
  store_four(cell_gradient, step.cell_gradient, at, channels);
  auto* gate_gradients = step.gate_gradients + 4 * pixel.number * step.hidden + channels.first;
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    store_four(gates[gate], gate_gradients, int64_t{gate} * step.hidden, channels);
  }
}

template <class Numbers>
MEMX_DEVICE void prefetch_backward(const BackwardStep<Numbers>& step, const Tile& tile) {
  const Tiling& tiling = step.convolution.tiling;
  prefetch_tile(tiling, tile, step.gates, 4 * step.hidden, 0);
  prefetch_tile(tiling, tile, step.cell, step.hidden, 1);
  prefetch_tile(tiling, tile, step.previous_cell, step.hidden, 2);
  prefetch_tile<typename Numbers::accumulate>(tiling, tile, step.cell_gradient, step.hidden, 3);
}

template <class Shape>
MEMX_KERNEL(Shape::kThreads, Shape::kBlocks)
backward_step(MEMX_KERNEL_ARGUMENT BackwardStep<typename Shape::numbers> step) {
  const Tile tile = tile_of(step.convolution.tiling, block_x());
  if (has_ended(step.lengths, tile.image, step.t)) {
    return;
  }
  Pipeline<Shape, 1> pipeline{step.convolution, tile};
  pipeline.begin();
  prefetch_backward(step, tile);
  typename Shape::sums sum = {};
  pipeline.run(sum);
  const bool is_last = step.lengths == nullptr || step.t + 1 == step.lengths[tile.image];
  with_own_sums<Shape>(sum, [&](const auto& own) {
    for_sigmoid<typename Shape::numbers>(step.equations, [&](const auto& sigmoid) {
      each_site<Shape>(
          step.convolution.tiling, tile, step.hidden, own,
          [&](const auto& site) { return load_backward(step, tile.image, site); },
          [&](const auto& site, const auto& loaded, auto& gradient) {
            complete_hidden_gradient(step, tile.image, is_last, site, loaded, gradient);
            finish_backward(step, site, loaded, gradient, sigmoid);
          });
    });
  });
}

}  // namespace memx::cuda

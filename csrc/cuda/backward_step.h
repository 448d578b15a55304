// The backward step: the transposed convolution over the gate gradients of step t+1 and the
// derivative of equations (5)-(1) at step t, in one launch.
#pragma once

#include "elements.h"

namespace memx::cuda {

// A gradient (B, C, H, W) of any strides; null: zeros.
template <class S>
struct StridedImages {
  const S* memory;
  int64_t image, channel, row, column;
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
  Peepholes<A> peepholes;
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
using NarrowBackward = Shape<Numbers, 4, 1, 1>;

template <class S, bool together>
MEMX_DEVICE Pair<S> load_strided(const StridedImages<S>& images, int64_t image, const Pixel& pixel,
                                 const TwoChannels<together>& two) {
  const int count = images.memory == nullptr ? 0 : two.count;
  const S* source = images.memory + image * images.image + pixel.y * images.row +
                    pixel.x * images.column + two.first * images.channel;
  Pair<S> pair{};
  if (count > 0) {
    pair.numbers[0] = source[0];
  }
  if (count > 1) {
    pair.numbers[1] = source[images.channel];
  }
  return pair;
}

// What a step reads of two channels of a pixel, beside the images that it convolves.
template <class Numbers>
struct BackwardOperands {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  Pair<S> hidden_mask, output_gradient, final_gradient;
  Pair<S> gates[4];
  Pair<A> cell, previous_cell, cell_gradient;
  PeepholePairs<A> peepholes;
};

// `is_last`: of the sequence's steps.
template <class Numbers, bool together>
MEMX_DEVICE BackwardOperands<Numbers> load_backward(const BackwardStep<Numbers>& step,
                                                    int64_t image, bool is_last,
                                                    const Site<together>& site) {
  const auto& [pixel, two] = site;
  const int64_t at = pixel.number * step.hidden + two.first;
  const int64_t gates_at = 4 * pixel.number * step.hidden + two.first;
  BackwardOperands<Numbers> loaded;
  loaded.hidden_mask = load_two(step.hidden_mask, at, two);
  loaded.output_gradient = load_strided(step.output_gradient, image, pixel, two);
  loaded.final_gradient = is_last ? load_strided(step.final_gradient, image, pixel, two)
                                  : decltype(loaded.final_gradient){};
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    loaded.gates[gate] = load_two(step.gates, gates_at + gate * step.hidden, two);
  }
  loaded.cell = load_two(step.cell, at, two);
  loaded.previous_cell = load_two(step.previous_cell, at, two);
  loaded.cell_gradient = load_two<typename Numbers::accumulate>(step.cell_gradient, at, two);
  loaded.peepholes =
      load_peepholes(step.peepholes, step.convolution.tiling, pixel, step.hidden, two);
  return loaded;
}

// The derivative for two channels of a pixel, to whose H_t the convolution sent `hidden_gradient`.
template <class Numbers, bool together, class A>
MEMX_DEVICE void finish_backward(const BackwardStep<Numbers>& step, const Site<together>& site,
                                 const BackwardOperands<Numbers>& loaded, A (&hidden_gradient)[2]) {
  A gates[4][2], cell_gradient[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    if (step.hidden_mask != nullptr) {
      hidden_gradient[e] *= widen(loaded.hidden_mask.numbers[e]);
    }
    hidden_gradient[e] += widen(loaded.output_gradient.numbers[e]);
    hidden_gradient[e] += widen(loaded.final_gradient.numbers[e]);
    cell_gradient[e] = loaded.cell_gradient.numbers[e];
  }
  for_equations(step.equations.output_sees_current, step.equations.hard_sigmoid_slope,
                [&](auto output_sees_current, const auto& sigmoid) {
#pragma unroll
                  for (int e = 0; e < 2; ++e) {
                    const auto& saved = loaded.gates;
                    const Gates<A> gate{widen(saved[0].numbers[e]), widen(saved[1].numbers[e]),
                                        widen(saved[2].numbers[e]), widen(saved[3].numbers[e])};
                    const Gates<A> gradient =
                        baseline::cell_backward<decltype(output_sees_current)::value>(
                            gate, loaded.peepholes[e], loaded.previous_cell.numbers[e],
                            loaded.cell.numbers[e], hidden_gradient[e], cell_gradient[e], sigmoid);
                    gates[0][e] = gradient.i;
                    gates[1][e] = gradient.f;
                    gates[2][e] = gradient.g;
                    gates[3][e] = gradient.o;
                  }
                });
  const auto& [pixel, two] = site;
  const int64_t gates_at = 4 * pixel.number * step.hidden + two.first;
  store_two(cell_gradient, step.cell_gradient, pixel.number * step.hidden + two.first, two);
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    store_two(gates[gate], step.gate_gradients, gates_at + gate * step.hidden, two);
  }
}

template <class Shape>
MEMX_KERNEL(Shape::kThreads, Shape::kBlocks)
backward_step(MEMX_KERNEL_ARGUMENT BackwardStep<typename Shape::numbers> step) {
  const Tile tile = tile_of(step.convolution.tiling, block_x());
  if (has_ended(step.lengths, tile.image, step.t)) {
    return;
  }
  typename Shape::sums sum = {};
  Pipeline<Shape, 1>{step.convolution, tile}.run(sum);
  const bool is_last = step.lengths == nullptr || step.t + 1 == step.lengths[tile.image];
  each_image_pair<Shape>(
      step.convolution.tiling, tile, step.hidden, sum,
      [&](const auto& site) { return load_backward(step, tile.image, is_last, site); },
      [&](const auto& site, const auto& loaded, auto& values) {
        finish_backward(step, site, loaded, values);
      });
}

}  // namespace memx::cuda

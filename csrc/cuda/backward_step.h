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

template <class S, class A>
MEMX_DEVICE void add_strided(A (&sum)[2], const StridedImages<S>& images, int64_t image,
                             const Pixel& pixel, const TwoChannels& two) {
  if (images.memory == nullptr) {
    return;
  }
  const S* found = images.memory + image * images.image + pixel.y * images.row +
                   pixel.x * images.column + two.first * images.channel;
  sum[0] += widen(found[0]);
  if (two.count == 2) {
    sum[1] += widen(found[images.channel]);
  }
}

// The derivative for two channels of a pixel, to whose H_t the convolution sent `hidden_gradient`.
template <class Numbers, class A>
MEMX_DEVICE void finish_backward(const BackwardStep<Numbers>& step, int64_t image,
                                 const Pixel& pixel, const TwoChannels& two,
                                 A (&hidden_gradient)[2]) {
  const int64_t at = pixel.number * step.hidden + two.first;
  const int64_t gates_at = 4 * pixel.number * step.hidden + two.first;
  multiply_two(hidden_gradient, step.hidden_mask, at, two);
  add_strided(hidden_gradient, step.output_gradient, image, pixel, two);
  if (step.lengths == nullptr || step.t + 1 == step.lengths[image]) {
    add_strided(hidden_gradient, step.final_gradient, image, pixel, two);
  }
  A gates[4][2] = {}, cell[2] = {}, previous[2] = {}, cell_gradient[2] = {};
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    add_two(gates[gate], step.gates, gates_at + gate * step.hidden, two);
  }
  add_two(cell, step.cell, at, two);
  add_two(previous, step.previous_cell, at, two);
  add_two(cell_gradient, step.cell_gradient, at, two);
  Peephole<A> peephole[2];
  load_peepholes(peephole, step.peepholes, step.convolution.tiling, pixel, step.hidden, two);
  for_equations(step.equations.output_sees_current, step.equations.hard_sigmoid_slope,
                [&](auto output_sees_current, const auto& sigmoid) {
#pragma unroll
                  for (int e = 0; e < 2; ++e) {
                    const Gates<A> gate{gates[0][e], gates[1][e], gates[2][e], gates[3][e]};
                    const Gates<A> gradient =
                        baseline::cell_backward<decltype(output_sees_current)::value>(
                            gate, peephole[e], previous[e], cell[e], hidden_gradient[e],
                            cell_gradient[e], sigmoid);
                    gates[0][e] = gradient.i;
                    gates[1][e] = gradient.f;
                    gates[2][e] = gradient.g;
                    gates[3][e] = gradient.o;
                  }
                });
  store_two(cell_gradient, step.cell_gradient, at, two);
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    store_two(gates[gate], step.gate_gradients, gates_at + gate * step.hidden, two);
  }
}

template <class Shape>
MEMX_KERNEL(Shape::kThreads, 1)
backward_step(MEMX_KERNEL_ARGUMENT BackwardStep<typename Shape::numbers> step) {
  const Tile tile = tile_of(step.convolution.tiling, block_x());
  if (has_ended(step.lengths, tile.image, step.t)) {
    return;
  }
  typename Shape::sums sum = {};
  Pipeline<Shape, 1>{step.convolution, tile}.run(sum);
  each_image_pair<Shape>(step.convolution.tiling, tile, step.hidden, sum,
                         [&](const Pixel& pixel, const TwoChannels& two, auto& values) {
                           finish_backward(step, tile.image, pixel, two, values);
                         });
}

}  // namespace memx::cuda

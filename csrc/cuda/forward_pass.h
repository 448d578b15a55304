// The forward pass: one launch a step.
#pragma once

#include "forward_step.h"
#include "packing.h"

namespace memx::cuda {

template <class Numbers, class S = typename Numbers::storage>
Peepholes<S> peepholes_of(const Layer& layer, Workspace& workspace, Stream stream) {
  const S* weights = nullptr;
  if (layer.weight_ch != nullptr) {
    const int64_t pixels = layer.spatial_peepholes ? layer.image_pixels() : 1;
    weights = transposed<S, S>(layer.weight_ch, 3, layer.hidden, pixels, workspace, stream);
  }
  return {weights, layer.spatial_peepholes};
}

template <class A>
Equations<A> equations_of(const Layer& layer) {
  return {layer.output_sees_current, A(layer.hard_sigmoid_slope)};
}

// The operands of a layer in the layout of the kernel, and the launch of one step. The backward
// pass uses it too, to compute gates again.
template <class Numbers>
class ForwardPass {
 public:
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;

  ForwardPass(const Layer& layer, Workspace& workspace, Stream stream)
      : layer_(layer), workspace_(workspace), stream_(stream), step_{} {
    step_.hidden = layer.hidden;
    step_.lengths = layer.lengths;
    if (layer.bias != nullptr) {
      step_.bias = transposed<S, A>(layer.bias, 1, 4 * layer.hidden, 1, workspace, stream);
    }
    step_.peepholes = peepholes_of<Numbers>(layer, workspace, stream);
    step_.equations = equations_of<A>(layer);
    choose_shape();
    with_shape([&](auto shape) { pack_weights<decltype(shape)>(); });
  }

  // Computes step t from H_{t-1} and C_{t-1}; null results are not stored.
  void launch_step(int64_t t, const S* previous_hidden, const A* previous_cell, S* output, A* cell,
                   S* gates) const {
    ForwardStep<Numbers> step = step_;
    step.t = t;
    const S* x = static_cast<const S*>(layer_.x) + t * layer_.frame_size();
    if (layer_.weight_ih == nullptr) {
      step.input_gates = x;
    } else {
      step.convolution.operand[0].image.memory = x;
    }
    step.convolution.operand[1].image.memory = previous_hidden;
    if (previous_hidden == nullptr) {
      step.convolution.operand[1].image.chunks = 0;
    }
    step.previous_cell = previous_cell;
    step.output = output;
    step.cell = cell;
    step.gates = gates;
    with_shape([&](auto shape) { launch_as<decltype(shape)>(step); });
  }

 private:
  enum class Blocks { kWide, kNarrow, kShared, kSharedByTwo };

  // body(Shape{}).
  template <class Body>
  void with_shape(const Body& body) const {
    switch (blocks_) {
      case Blocks::kWide:
        return body(WideForward<Numbers>{});
      case Blocks::kNarrow:
        return body(NarrowForward<Numbers>{});
      case Blocks::kShared:
        return body(SharedForward<Numbers, 1>{});
      case Blocks::kSharedByTwo:
        return body(SharedForward<Numbers, 2>{});
    }
  }

  // Narrow blocks where there are few channels. Where there would be too few blocks to fill the GPU,
  // small ones whose warps share K: as many warps as a multiprocessor can have at once, in one block or,
  // where there are enough, in two.
  void choose_shape() {
    prepare<WideForward<Numbers>>();
    if (grid_.x * grid_.y < layer_.multiprocessors) {
      blocks_ = Blocks::kShared;
      prepare<SharedForward<Numbers, 1>>();
      if (grid_.x * grid_.y > layer_.multiprocessors) {
        blocks_ = Blocks::kSharedByTwo;
        prepare<SharedForward<Numbers, 2>>();
      }
    } else if (layer_.hidden <= NarrowForward<Numbers>::kBlockQuads * kForwardChannels) {
      blocks_ = Blocks::kNarrow;
      prepare<NarrowForward<Numbers>>();
    }
  }

  template <class Shape>
  void prepare() {
    Convolution<2>& convolution = step_.convolution;
    convolution = {};
    if (layer_.weight_ih != nullptr) {
      convolution.operand[0].image = image_of<S>(nullptr, layer_.frame_sizes());
    }
    convolution.operand[1].image =
        image_of<S>(nullptr, layer_.state_sizes(), layer_.hidden_mask, layer_.batch);
    const Extent extent{layer_.batch, layer_.height, layer_.width,
                        ceil_div(layer_.hidden, kForwardChannels)};
    grid_ = plan<Shape>(convolution, extent, layer_.multiprocessors);
  }

  template <class Shape>
  void pack_weights() {
    Operand* operand = step_.convolution.operand;
    if (layer_.weight_ih != nullptr) {
      pack<Shape>(operand[0], layer_.weight_ih, Direction::kForward, layer_.hidden,
                  layer_.input_channels, workspace_, stream_);
    }
    pack<Shape>(operand[1], layer_.weight_hh, Direction::kForward, layer_.hidden, layer_.hidden,
                workspace_, stream_);
  }

  template <class Shape>
  void launch_as(const ForwardStep<Numbers>& step) const {
    launch(forward_step<Shape>, grid_, Shape::kThreads, step.convolution.memory.bytes(), stream_,
           step);
  }

  const Layer& layer_;
  Workspace& workspace_;
  const Stream stream_;
  ForwardStep<Numbers> step_;
  Grid grid_;
  Blocks blocks_ = Blocks::kWide;
};

template <class Numbers>
void run_forward(const Layer& layer, const ForwardResults& results, Workspace& workspace,
                 Stream stream) {
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;
  const ForwardPass<Numbers> pass(layer, workspace, stream);
  const int64_t size = layer.state_size();
  if (layer.lengths != nullptr) {
    clear(results.output, layer.steps * size * sizeof(S), stream);
    if (results.keeps_cells) {
      clear(results.cells, layer.steps * size * sizeof(A), stream);
    }
    if (results.saved_gates > 0) {
      clear(results.gates, results.saved_gates * 4 * size * sizeof(S), stream);
    }
  }
  S* output = static_cast<S*>(results.output);
  A* cells = static_cast<A*>(results.cells);
  const S* previous_hidden = static_cast<const S*>(layer.h_0);
  const A* previous_cell = static_cast<const A*>(layer.c_0);
  for (int64_t t = 0; t < layer.steps; ++t) {
    const int64_t saved = t - (layer.steps - results.saved_gates);
    S* gates = saved < 0 ? nullptr : static_cast<S*>(results.gates) + saved * 4 * size;
    A* cell = results.keeps_cells ? cells + t * size : cells;
    pass.launch_step(t, previous_hidden, previous_cell, output + t * size, cell, gates);
    previous_hidden = output + t * size;
    previous_cell = cell;
  }
}

}  // namespace memx::cuda

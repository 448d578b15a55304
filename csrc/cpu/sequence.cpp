#include "sequence.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "allocation.h"

namespace memx {
namespace {

// [3, P, C] of the accumulation type; absent peepholes are zeros shared by all pixels.
at::Tensor peephole_rows(const at::Tensor& weight, int64_t hidden, at::ScalarType dtype) {
  if (!weight.defined()) {
    return at::zeros({3, 1, hidden}, dtype);
  }
  const at::Tensor rows = weight.dim() == 2 ? weight.unsqueeze(1)
                                            : weight.permute({0, 2, 3, 1}).reshape({3, -1, hidden});
  return rows.to(dtype).contiguous();
}

}  // namespace

Sizes sizes_of(const Arguments& arguments, int64_t lanes) {
  const auto [batch, height, width, hidden] = states_of(arguments);
  return {batch, height, width, hidden, lanes};
}

// The larger a tile, the less of the halo is read twice and the longer the sums of a weight gradient;
// but its gate panels should stay in the second-level cache, and every thread should get some strips.
// Where gates are computed in parts there are never panels of a whole tile, and twice as many pixels
// measured best. Other strips leave half of that cache to what one step hands to the next, if they keep a
// few rows: those they move by from step to step are new to the cache. Rows come in pairs because a
// Winograd block is two rows high; the columns are split evenly.
TileGrid::TileGrid(int64_t batch, int64_t height, int64_t width, int64_t columns, bool in_parts)
    : height_(height), width_(width) {
  constexpr int64_t kFewestPixels = 64, kFewestTiles = 16, kFewestStripPairs = 3;
  const int64_t gate_bytes = (in_parts ? 1536 : 768) * 1024;
  const int64_t cached = gate_bytes / (columns * int64_t(sizeof(float)));
  const int64_t shared = batch * height * width / kFewestTiles;
  const int64_t target = std::max(kFewestPixels, std::min(cached, shared));
  int64_t pairs = std::max<int64_t>(1, target / (2 * width));
  if (2 * pairs < height && !in_parts) {
    pairs = std::min(pairs, std::max(kFewestStripPairs, cached / (4 * width)));
  }
  tile_rows_ = std::min(height, 2 * pairs);
  const int64_t widest = std::max<int64_t>(2, target / tile_rows_);
  tile_columns_ = std::min(width, round_up(ceil_div(width, ceil_div(width, widest)), 2));
}

TileGrid TileGrid::resized(int64_t height, int64_t width) const {
  TileGrid grid = *this;
  grid.height_ = height;
  grid.width_ = width;
  grid.tile_rows_ = tile_rows_ == height_ ? height : tile_rows_;
  grid.tile_columns_ = tile_columns_ == width_ ? width : tile_columns_;
  return grid;
}

template <class S, class O>
Sequence<S, O>::Sequence(const Arguments& given, bool keep_weights)
    : arguments(given),
      steps(given.x.size(0)),
      sizes(sizes_of(given, engine().vector_bytes / int64_t(sizeof(A)))),
      tiles(sizes.batch, sizes.height, sizes.width, sizes.gate_columns(),
            depth<O> > 1 && engine().matrix_registers),
      kernels(engine().kernels<S, O>()),
      ends_(sizes.batch, steps) {
  if (arguments.lengths.defined()) {
    const at::Tensor lengths = arguments.lengths.contiguous();
    ends_.assign(lengths.data_ptr<int64_t>(), lengths.data_ptr<int64_t>() + sizes.batch);
  }
  const at::ScalarType dtype = c10::CppTypeToScalarType<A>::value;
  if (arguments.weight_ih.defined()) {
    input_ = pack_convolution<O>(arguments.weight_ih, arguments.padding, sizes, keep_weights);
  }
  hidden_ = pack_convolution<O>(arguments.weight_hh, same_padding(arguments.weight_hh), sizes,
                                keep_weights);
  bias_ = pack_bias<A>(arguments.bias, sizes);
  peephole_weights_ = peephole_rows(arguments.weight_ch, sizes.hidden, dtype);
  if (arguments.c_0.defined()) {
    initial_cell_ = arguments.c_0.permute({0, 2, 3, 1}).contiguous();
  }
  if (arguments.hidden_mask.defined()) {
    hidden_mask_ = arguments.hidden_mask.permute({0, 2, 3, 1}).contiguous();
  }
}

template <class S, class O>
ForwardStep<S, O> Sequence<S, O>::forward_step(int64_t t) const {
  ForwardStep<S, O> step;
  step.sizes = sizes;
  step.input_convolution = input_.convolution;
  step.hidden_convolution = hidden_.convolution;
  step.input_frame = frame_of<const S>(arguments.x, t);
  if (hidden_mask_.defined()) {
    step.hidden_mask = data_of<S>(hidden_mask_);
  }
  step.bias = bias_.template data_ptr<A>();
  const bool spatial = arguments.weight_ch.defined() && arguments.weight_ch.dim() == 4;
  step.peepholes = {peephole_weights_.template data_ptr<A>(), spatial ? sizes.hidden : 0,
                    peephole_weights_.size(1) * sizes.hidden, arguments.output_sees_current};
  step.hard_sigmoid_slope = A(arguments.hard_sigmoid_slope);
  if (t == 0) {
    if (arguments.h_0.defined()) {
      step.hidden_frame = frame_of<const S>(arguments.h_0);
    }
    if (initial_cell_.defined()) {
      step.previous_cell = initial_cell_.template data_ptr<A>();
    }
  }
  return step;
}

template <class S, class O>
at::Tensor Sequence<S, O>::at_ends(const at::Tensor& of_steps) const {
  at::Tensor found = copy_large(of_steps[steps - 1]);
  for (int64_t b = 0; b < sizes.batch; ++b) {
    if (end(b) < steps) {
      found[b].copy_(of_steps[end(b) - 1][b]);
    }
  }
  return found;
}

template <class S, class O>
void Sequence<S, O>::clear_after_ends(const at::Tensor& of_steps) const {
  const int64_t count = of_steps.size(0), first = steps - count;
  for (int64_t b = 0; b < sizes.batch; ++b) {
    const int64_t begin = std::max<int64_t>(0, end(b) - first);
    if (begin < count) {
      of_steps.slice(0, begin).select(1, b).zero_();
    }
  }
}

template <class S>
Frame<S> frame_of(const at::Tensor& tensor, int64_t t) {
  using Plain = std::remove_const_t<S>;
  return {data_of<Plain>(tensor) + t * tensor.stride(0),
          tensor.stride(1),
          tensor.stride(2),
          tensor.stride(3),
          tensor.stride(4),
          tensor.size(3),
          tensor.size(4)};
}

template <class S>
Frame<S> frame_of(const at::Tensor& tensor) {
  using Plain = std::remove_const_t<S>;
  return {data_of<Plain>(tensor), tensor.stride(0), tensor.stride(1), tensor.stride(2),
          tensor.stride(3),       tensor.size(2),   tensor.size(3)};
}

template class Sequence<float, float>;
template class Sequence<double, double>;
template class Sequence<Bfloat16, float>;
template class Sequence<Bfloat16, Bfloat16Pair>;
template class Sequence<Float16, float>;

#define MEMX_INSTANTIATE(S)                                     \
  template Frame<S> frame_of(const at::Tensor&, int64_t);       \
  template Frame<S> frame_of(const at::Tensor&);                \
  template Frame<const S> frame_of(const at::Tensor&, int64_t); \
  template Frame<const S> frame_of(const at::Tensor&);
MEMX_INSTANTIATE(float)
MEMX_INSTANTIATE(double)
MEMX_INSTANTIATE(Bfloat16)
MEMX_INSTANTIATE(Float16)
#undef MEMX_INSTANTIATE

}  // namespace memx

#include "sequence.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace memx {
void check_dtype(const char* name, const at::Tensor& tensor, at::ScalarType expected) {
  TORCH_CHECK(!tensor.defined() || tensor.scalar_type() == expected, "memx_fast: ", name,
              " has dtype ", tensor.scalar_type(), ", expected ", expected);
}

void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  TORCH_CHECK(!tensor.defined() || tensor.sizes() == expected, "memx_fast: ", name, " has shape ",
              tensor.sizes(), ", expected ", expected);
}

Sizes sizes_of(const Arguments& arguments, int64_t lanes) {
  const at::Tensor& x = arguments.x;
  const at::Tensor& weight = arguments.weight_ih;
  const int64_t kernel_rows = weight.defined() ? weight.size(2) : 1;
  const int64_t kernel_columns = weight.defined() ? weight.size(3) : 1;
  return {x.size(1), x.size(3) + 2 * arguments.padding.rows - kernel_rows + 1,
          x.size(4) + 2 * arguments.padding.columns - kernel_columns + 1,
          arguments.weight_hh.size(1), lanes};
}

namespace {

void check_padding(const Arguments& arguments) {
  const at::Tensor& weight = arguments.weight_ih;
  const Padding padding = arguments.padding;
  TORCH_CHECK(padding.rows >= 0 && padding.columns >= 0 &&
                  padding.rows < (weight.defined() ? weight.size(2) : 1) &&
                  padding.columns < (weight.defined() ? weight.size(3) : 1),
              "memx_fast: padding is (", padding.rows, ", ", padding.columns,
              "), expected less than the kernel of weight_ih, and 0 without it");
  const Sizes sizes = sizes_of(arguments, 1);
  TORCH_CHECK(sizes.height > 0 && sizes.width > 0, "memx_fast: x has shape ", arguments.x.sizes(),
              ", too small for weight_ih of shape ", weight.sizes());
}

void check_lengths(const Arguments& arguments) {
  const at::Tensor& lengths = arguments.lengths;
  const int64_t steps = arguments.x.size(0);
  check_dtype("lengths", lengths, at::kLong);
  check_shape("lengths", lengths, {arguments.x.size(1)});
  TORCH_CHECK(lengths.is_cpu(), "memx_fast: lengths is on ", lengths.device(), ", expected cpu");
  TORCH_CHECK(lengths.min().item<int64_t>() >= 1 && lengths.max().item<int64_t>() <= steps,
              "memx_fast: lengths is ", lengths, ", expected numbers from 1 to ", steps);
}

// [3, P, C] of the accumulation type; absent peepholes are zeros shared by all pixels.
at::Tensor peephole_rows(const at::Tensor& weight, int64_t hidden, at::ScalarType dtype) {
  if (!weight.defined()) {
    return at::zeros({3, 1, hidden}, dtype);
  }
  const at::Tensor rows = weight.dim() == 2 ? weight.unsqueeze(1)
                                            : weight.permute({0, 2, 3, 1}).reshape({3, -1, hidden});
  return rows.to(dtype).contiguous();
}

void check_arguments(const Arguments& arguments) {
  const at::Tensor& x = arguments.x;
  const at::Tensor& weight_hh = arguments.weight_hh;
  TORCH_CHECK(x.dim() == 5 && x.numel() > 0, "memx_fast: x has shape ", x.sizes(),
              ", expected a non-empty (T, B, channels, H, W)");
  TORCH_CHECK(weight_hh.dim() == 4 && weight_hh.size(0) == kGates * weight_hh.size(1) &&
                  weight_hh.numel() > 0 && weight_hh.size(2) % 2 == 1 && weight_hh.size(3) % 2 == 1,
              "memx_fast: weight_hh has shape ", weight_hh.sizes(),
              ", expected (4C, C, kh, kw) with an odd kernel");
  const int64_t hidden = weight_hh.size(1);
  if (arguments.weight_ih.defined()) {
    TORCH_CHECK(arguments.weight_ih.dim() == 4 && arguments.weight_ih.size(0) == kGates * hidden &&
                    arguments.weight_ih.size(1) == x.size(2),
                "memx_fast: weight_ih has shape ", arguments.weight_ih.sizes(), ", expected (",
                kGates * hidden, ", ", x.size(2), ", kh, kw)");
  } else {
    TORCH_CHECK(x.size(2) == kGates * hidden, "memx_fast: x has shape ", x.sizes(), ", expected ",
                kGates * hidden, " channels of ready-made input gates");
  }
  check_padding(arguments);
  const auto [batch, height, width, channels, lanes] = sizes_of(arguments, 1);
  check_shape("bias", arguments.bias, {kGates * hidden});
  if (arguments.weight_ch.defined() && arguments.weight_ch.dim() == 2) {
    check_shape("weight_ch", arguments.weight_ch, {3, hidden});
  } else {
    check_shape("weight_ch", arguments.weight_ch, {3, hidden, height, width});
  }
  check_shape("h_0", arguments.h_0, {batch, hidden, height, width});
  check_shape("c_0", arguments.c_0, {batch, hidden, height, width});
  check_shape("hidden_mask", arguments.hidden_mask, {batch, hidden, height, width});
  const at::ScalarType dtype = x.scalar_type();
  check_dtype("weight_ih", arguments.weight_ih, dtype);
  check_dtype("weight_hh", weight_hh, dtype);
  check_dtype("bias", arguments.bias, dtype);
  check_dtype("weight_ch", arguments.weight_ch, dtype);
  check_dtype("h_0", arguments.h_0, dtype);
  check_dtype("c_0", arguments.c_0, accumulate_dtype(dtype));
  check_dtype("hidden_mask", arguments.hidden_mask, dtype);
  if (arguments.lengths.defined()) {
    check_lengths(arguments);
  }
}

}  // namespace

Arguments checked_arguments(const at::Tensor& x, const std::optional<at::Tensor>& weight_ih,
                            const at::Tensor& weight_hh, const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& weight_ch,
                            const std::optional<at::Tensor>& h_0,
                            const std::optional<at::Tensor>& c_0, at::IntArrayRef padding,
                            bool output_sees_current, double hard_sigmoid_slope,
                            const std::optional<at::Tensor>& hidden_mask,
                            const std::optional<at::Tensor>& lengths) {
  TORCH_CHECK(padding.size() == 2, "memx_fast: padding has ", padding.size(),
              " numbers, expected rows and columns");
  TORCH_CHECK(hard_sigmoid_slope >= 0 && hard_sigmoid_slope < HUGE_VAL,
              "memx_fast: hard_sigmoid_slope is ", hard_sigmoid_slope,
              ", expected a finite number above 0, or 0 for the logistic sigmoid");
  const Arguments arguments{x,
                            weight_ih.value_or(at::Tensor()),
                            weight_hh,
                            bias.value_or(at::Tensor()),
                            weight_ch.value_or(at::Tensor()),
                            h_0.value_or(at::Tensor()),
                            c_0.value_or(at::Tensor()),
                            hidden_mask.value_or(at::Tensor()),
                            lengths.value_or(at::Tensor()),
                            {padding[0], padding[1]},
                            output_sees_current,
                            hard_sigmoid_slope};
  check_arguments(arguments);
  return arguments;
}

// The larger a tile, the less of the halo is read twice and the longer the sums of a weight gradient;
// but its gate panels should stay in the second-level cache, and every thread should get some tiles.
// Rows come in pairs because a Winograd block is two rows high; the columns are split evenly.
TileGrid::TileGrid(int64_t batch, int64_t height, int64_t width, int64_t columns)
    : batch_(batch), height_(height), width_(width) {
  constexpr int64_t kGateBytes = 768 * 1024;
  constexpr int64_t kFewestPixels = 64, kFewestTiles = 16;
  const int64_t cached = kGateBytes / (columns * int64_t(sizeof(float)));
  const int64_t shared = batch * height * width / kFewestTiles;
  const int64_t target = std::max(kFewestPixels, std::min(cached, shared));
  const int64_t pairs = std::max<int64_t>(1, target / (2 * width));
  tile_rows_ = std::min(height, 2 * pairs);
  const int64_t widest = std::max<int64_t>(2, target / tile_rows_);
  columns_ = ceil_div(width, widest);
  tile_columns_ = std::min(width, round_up(ceil_div(width, columns_), 2));
  columns_ = ceil_div(width, tile_columns_);
  rows_ = ceil_div(height, tile_rows_);
}

Tile TileGrid::at(int64_t index) const {
  const int64_t column = index % columns_ * tile_columns_;
  const int64_t row = index / columns_ % rows_ * tile_rows_;
  return {index / columns_ / rows_, row, column, std::min(tile_rows_, height_ - row),
          std::min(tile_columns_, width_ - column)};
}

std::vector<Tile> TileGrid::all() const {
  std::vector<Tile> found(count());
  for (int64_t i = 0; i < count(); ++i) {
    found[i] = at(i);
  }
  return found;
}

template <class S, class O>
Sequence<S, O>::Sequence(const Arguments& given, bool keep_weights)
    : arguments(given),
      steps(given.x.size(0)),
      sizes(sizes_of(given, engine().vector_bytes / int64_t(sizeof(A)))),
      tiles(sizes.batch, sizes.height, sizes.width, sizes.gate_columns()),
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
void Sequence<S, O>::drop_ended(std::vector<Tile>& of_step, int64_t t) const {
  std::erase_if(of_step, [&](const Tile& tile) { return t >= end(tile.batch); });
}

template <class S, class O>
at::Tensor Sequence<S, O>::at_ends(const at::Tensor& of_steps) const {
  at::Tensor found = of_steps[steps - 1].clone();
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

Padding same_padding(const at::Tensor& weight) { return {weight.size(2) / 2, weight.size(3) / 2}; }

at::Tensor channels_first(const at::Tensor& channels_last) { return channels_last.movedim(-1, -3); }

at::ScalarType accumulate_dtype(at::ScalarType storage) {
  return storage == at::kDouble ? at::kDouble : at::kFloat;
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

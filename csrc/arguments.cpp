#include "arguments.h"

#include <ATen/core/Formatting.h>

#include <algorithm>
#include <cmath>

#include "number_types.h"

namespace memx {
namespace {

void check_dtype(const char* name, const at::Tensor& tensor, at::ScalarType expected) {
  TORCH_CHECK(!tensor.defined() || tensor.scalar_type() == expected, "memx_fast: ", name,
              " has dtype ", tensor.scalar_type(), ", expected ", expected);
}

void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  TORCH_CHECK(!tensor.defined() || tensor.sizes() == expected, "memx_fast: ", name, " has shape ",
              tensor.sizes(), ", expected ", expected);
}

void check_device(const char* name, const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK(!tensor.defined() || tensor.device() == x.device(), "memx_fast: ", name, " is on ",
              tensor.device(), ", expected ", x.device(), " as x");
}

// All three, of a tensor that goes with x.
void check_tensor(const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                  at::ScalarType dtype, const at::Tensor& x) {
  check_shape(name, tensor, shape);
  check_dtype(name, tensor, dtype);
  check_device(name, tensor, x);
}

void check_padding(const Arguments& arguments) {
  const at::Tensor& weight = arguments.weight_ih;
  const Padding padding = arguments.padding;
  TORCH_CHECK(padding.rows >= 0 && padding.columns >= 0 &&
                  padding.rows < (weight.defined() ? weight.size(2) : 1) &&
                  padding.columns < (weight.defined() ? weight.size(3) : 1),
              "memx_fast: padding is (", padding.rows, ", ", padding.columns,
              "), expected less than the kernel of weight_ih, and 0 without it");
  const States states = states_of(arguments);
  TORCH_CHECK(states.height > 0 && states.width > 0, "memx_fast: x has shape ", arguments.x.sizes(),
              ", too small for weight_ih of shape ", weight.sizes());
}

void check_lengths(const Arguments& arguments) {
  const at::Tensor& lengths = arguments.lengths;
  if (!lengths.defined()) {
    return;
  }
  const int64_t steps = arguments.x.size(0);
  check_tensor("lengths", lengths, {arguments.x.size(1)}, at::kLong, arguments.x);
  if (lengths.is_cpu()) {
    TORCH_CHECK(lengths.min().item<int64_t>() >= 1 && lengths.max().item<int64_t>() <= steps,
                "memx_fast: lengths is ", lengths, ", expected numbers from 1 to ", steps);
  }
}

void check_weights(const Arguments& arguments) {
  const at::Tensor& x = arguments.x;
  const at::Tensor& weight_hh = arguments.weight_hh;
  TORCH_CHECK(x.dim() == 5 && x.numel() > 0, "memx_fast: x has shape ", x.sizes(),
              ", expected a non-empty (T, B, channels, H, W)");
  const at::ScalarType dtype = x.scalar_type();
  TORCH_CHECK(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
      "memx_fast: x has dtype ", dtype, ", expected float32, float64, bfloat16 or float16");
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
  for (const auto& [name, weight] :
       {std::pair{"weight_ih", arguments.weight_ih}, std::pair{"weight_hh", weight_hh}}) {
    check_dtype(name, weight, dtype);
    check_device(name, weight, x);
  }
}

void check_arguments(const Arguments& arguments) {
  check_weights(arguments);
  check_padding(arguments);
  const at::Tensor& x = arguments.x;
  const at::ScalarType dtype = x.scalar_type();
  const auto [batch, height, width, hidden] = states_of(arguments);
  const bool spatial = !arguments.weight_ch.defined() || arguments.weight_ch.dim() != 2;
  check_tensor("bias", arguments.bias, {kGates * hidden}, dtype, x);
  check_tensor("weight_ch", arguments.weight_ch,
               spatial ? at::DimVector{3, hidden, height, width} : at::DimVector{3, hidden}, dtype,
               x);
  const at::DimVector state{batch, hidden, height, width};
  check_tensor("h_0", arguments.h_0, state, dtype, x);
  check_tensor("c_0", arguments.c_0, state, accumulate_dtype(dtype), x);
  check_tensor("hidden_mask", arguments.hidden_mask, state, dtype, x);
  check_lengths(arguments);
}

}  // namespace

States states_of(const Arguments& arguments) {
  const at::Tensor& x = arguments.x;
  const at::Tensor& weight = arguments.weight_ih;
  const int64_t kernel_rows = weight.defined() ? weight.size(2) : 1;
  const int64_t kernel_columns = weight.defined() ? weight.size(3) : 1;
  return {x.size(1), x.size(3) + 2 * arguments.padding.rows - kernel_rows + 1,
          x.size(4) + 2 * arguments.padding.columns - kernel_columns + 1,
          arguments.weight_hh.size(1)};
}

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

void check_saved_gates(const Arguments& arguments, int64_t saved_gates) {
  const int64_t steps = arguments.x.size(0);
  TORCH_CHECK(saved_gates >= 0 && saved_gates <= steps, "memx_fast: saved_gates is ", saved_gates,
              ", expected 0 to ", steps, " steps");
}

Incoming checked_incoming(const Arguments& arguments, const std::optional<at::Tensor>& output,
                          const std::optional<at::Tensor>& h_n,
                          const std::optional<at::Tensor>& c_n) {
  const at::Tensor& x = arguments.x;
  const auto [B, H, W, C] = states_of(arguments);
  const at::ScalarType dtype = x.scalar_type();
  const Incoming incoming{output.value_or(at::Tensor()), h_n.value_or(at::Tensor()),
                          c_n.value_or(at::Tensor())};
  check_tensor("grad_output", incoming.output, {x.size(0), B, C, H, W}, dtype, x);
  check_tensor("grad_h_n", incoming.h_n, {B, C, H, W}, dtype, x);
  check_tensor("grad_c_n", incoming.c_n, {B, C, H, W}, accumulate_dtype(dtype), x);
  return incoming;
}

Saved checked_saved(const Arguments& arguments, const at::Tensor& output, const at::Tensor& cells,
                    const at::Tensor& gates) {
  const at::Tensor& x = arguments.x;
  const auto [B, H, W, C] = states_of(arguments);
  const int64_t T = x.size(0);
  const at::ScalarType dtype = x.scalar_type();
  const int64_t saved_gates = gates.dim() == 6 ? std::min(gates.size(0), T) : T;
  check_tensor("output", output, {T, B, C, H, W}, dtype, x);
  check_tensor("cells", cells, {T, B, H, W, C}, accumulate_dtype(dtype), x);
  check_tensor("gates", gates, {saved_gates, B, H, W, kGates, C}, dtype, x);
  TORCH_CHECK(cells.is_contiguous() && gates.is_contiguous(),
              "memx_fast: cells and gates must be as conv_lstm returned them");
  return {output, cells, gates};
}

Needs wanted(const Arguments& arguments, const std::array<bool, 7>& needs) {
  return {needs[0],
          needs[1] && arguments.weight_ih.defined(),
          needs[2],
          needs[3] && arguments.bias.defined(),
          needs[4] && arguments.weight_ch.defined(),
          needs[5],
          needs[6]};
}

Padding same_padding(const at::Tensor& weight) { return {weight.size(2) / 2, weight.size(3) / 2}; }

at::Tensor channels_first(const at::Tensor& channels_last) { return channels_last.movedim(-1, -3); }

at::ScalarType accumulate_dtype(at::ScalarType storage) {
  return storage == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace memx

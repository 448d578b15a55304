// What the operators are given, checked: the same for every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

namespace memx {

// Zeros around an image, in pixels.
struct Padding {
  int64_t rows, columns;
};

// The arguments of a layer, as both operators get them; an undefined tensor is an absent one. Shapes
// as in ops.cpp.
struct Arguments {
  at::Tensor x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask, lengths;
  Padding padding;  // of the input convolution
  bool output_sees_current;
  double hard_sigmoid_slope;  // 0: the logistic sigmoid
};

// Batch, sizes of the states and hidden channels that the arguments lead to.
struct States {
  int64_t batch, height, width, hidden;
};
States states_of(const Arguments& arguments);

struct Incoming {
  at::Tensor output, h_n, c_n;  // (T, B, C, H, W), (B, C, H, W) twice; undefined: none
};

struct Saved {
  at::Tensor output, cells, gates;  // as the forward operator returned them
};

// Which gradients are wanted, in the order of the operator's arguments.
struct Needs {
  bool x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0;
};

struct Gradients {
  at::Tensor x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0;  // empty where not wanted
};

// The arguments as the operators get them. Like all checks here it throws c10::Error, with the
// offending shape, dtype or device, unless they fit together. The values of lengths on a GPU are not
// looked at, which would wait for it.
Arguments checked_arguments(const at::Tensor& x, const std::optional<at::Tensor>& weight_ih,
                            const at::Tensor& weight_hh, const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& weight_ch,
                            const std::optional<at::Tensor>& h_0,
                            const std::optional<at::Tensor>& c_0, at::IntArrayRef padding,
                            bool output_sees_current, double hard_sigmoid_slope,
                            const std::optional<at::Tensor>& hidden_mask,
                            const std::optional<at::Tensor>& lengths);

void check_saved_gates(const Arguments& arguments, int64_t saved_gates);

Incoming checked_incoming(const Arguments& arguments, const std::optional<at::Tensor>& output,
                          const std::optional<at::Tensor>& h_n,
                          const std::optional<at::Tensor>& c_n);

Saved checked_saved(const Arguments& arguments, const at::Tensor& output, const at::Tensor& cells,
                    const at::Tensor& gates);

// Those that are needed, of what there is.
Needs wanted(const Arguments& arguments, const std::array<bool, 7>& needs);

// The padding with which an odd kernel keeps the size.
Padding same_padding(const at::Tensor& weight);

// [batch, H, W, C] memory seen as (..., C, H, W).
at::Tensor channels_first(const at::Tensor& channels_last);

// The dtype of cell states and of all arithmetic.
at::ScalarType accumulate_dtype(at::ScalarType storage);

}  // namespace memx

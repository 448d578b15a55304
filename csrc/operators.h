// The implementations of the operators that memx_fast/ops.py declares; argument shapes are given in
// ops.cpp. Each registers itself for its device.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace memx {

using ForwardOperator = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& x, const std::optional<at::Tensor>& weight_ih, const at::Tensor& weight_hh,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& weight_ch,
    const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
    at::IntArrayRef padding, bool output_sees_current, bool save_cells, int64_t saved_gates,
    double hard_sigmoid_slope, const std::optional<at::Tensor>& hidden_mask,
    const std::optional<at::Tensor>& lengths);

using BackwardOperator =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
        const std::optional<at::Tensor>& grad_output, const std::optional<at::Tensor>& grad_h_n,
        const std::optional<at::Tensor>& grad_c_n, const at::Tensor& x,
        const std::optional<at::Tensor>& weight_ih, const at::Tensor& weight_hh,
        const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& weight_ch,
        const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
        const at::Tensor& output, const at::Tensor& cells, const at::Tensor& gates,
        at::IntArrayRef padding, bool output_sees_current, std::array<bool, 7> needs,
        double hard_sigmoid_slope, const std::optional<at::Tensor>& hidden_mask,
        const std::optional<at::Tensor>& lengths);

ForwardOperator conv_lstm_cpu, conv_lstm_cuda;
BackwardOperator conv_lstm_cpu_backward, conv_lstm_cuda_backward;

}  // namespace memx

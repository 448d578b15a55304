// The operators on the CUDA engine (layer.h): everything that has to do with tensors. Nothing here
// needs CUDA; device.h says on which device the engine runs.
#include "../operators.h"

#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <vector>

#include "../arguments.h"
#include "../number_types.h"
#include "device.h"
#include "layer.h"

namespace memx::cuda {
namespace {

struct Results {
  at::Tensor output;  // (T, B, H, W, C)
  at::Tensor h_n;     // (B, H, W, C)
  at::Tensor c_n;     // (B, H, W, C) of the accumulation type
  at::Tensor cells;   // (T, B, H, W, C) of the accumulation type, or empty
  at::Tensor gates;   // (saved_gates, B, H, W, 4, C) after activation, of the last steps
};

// Of tensors, which PyTorch gives to whoever asks for memory on the same stream once the call has
// ended: what is enqueued there comes first.
class Memory : public Workspace {
 public:
  explicit Memory(const at::Tensor& like) : options_(like.options().dtype(at::kByte)) {}
  void* allocate(int64_t bytes) override {
    tensors_.push_back(at::empty({bytes}, options_));
    return tensors_.back().data_ptr();
  }

 private:
  const at::TensorOptions options_;
  std::vector<at::Tensor> tensors_;
};

// The tensor's numbers, dense, where the engine can read 16 bytes at once.
at::Tensor dense(const at::Tensor& tensor) {
  constexpr uintptr_t kAlignment = 16;
  const at::Tensor found = tensor.contiguous();
  return reinterpret_cast<uintptr_t>(found.data_ptr()) % kAlignment == 0 ? found : found.clone();
}

// (.., C, H, W) of any strides as a dense (.., H, W, C).
at::Tensor channels_last(const at::Tensor& images) { return dense(images.movedim(-3, -1)); }

void* memory_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.numel() > 0 ? tensor.data_ptr() : nullptr;
}

// The engine counts pixels and channels in int.
int as_int(int64_t size) {
  TORCH_CHECK(size <= std::numeric_limits<int>::max(), "memx_fast: a tensor has ", size,
              " elements in one dimension, the CUDA kernels count to ",
              std::numeric_limits<int>::max());
  return int(size);
}

// float32 is multiplied in TensorFloat-32 where PyTorch's convolutions may be, too.
NumberType number_type(at::ScalarType dtype) {
  const auto permitted = [] {
    return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::CONV) ==
           at::Float32Precision::TF32;
  };
  switch (dtype) {
    case at::kDouble:
      return NumberType::kFloat64;
    case at::kBFloat16:
      return NumberType::kBfloat16;
    case at::kHalf:
      return NumberType::kFloat16;
    default:
      return permitted() ? NumberType::kTensorFloat32 : NumberType::kFloat32;
  }
}

// A layer's tensors in the layout of the engine. Must outlive what layer() gives.
class Operands {
 public:
  explicit Operands(const Arguments& arguments) : arguments_(arguments) {
    for (at::Tensor* images :
         {&arguments_.x, &arguments_.h_0, &arguments_.c_0, &arguments_.hidden_mask}) {
      if (images->defined()) {
        *images = channels_last(*images);
      }
    }
    for (at::Tensor* parameter : {&arguments_.weight_ih, &arguments_.weight_hh, &arguments_.bias,
                                  &arguments_.weight_ch, &arguments_.lengths}) {
      if (parameter->defined()) {
        *parameter = dense(*parameter);
      }
    }
    states_ = states_of(arguments);
  }

  Layer layer(const Device& device) const {
    const at::Tensor& x = arguments_.x;  // (T, B, Hx, Wx, Cin)
    const at::Tensor& weight_ih = arguments_.weight_ih;
    const at::Tensor& weight_hh = arguments_.weight_hh;
    const at::Tensor& weight_ch = arguments_.weight_ch;
    const at::Tensor& lengths = arguments_.lengths;
    Layer layer{};
    layer.type = number_type(x.scalar_type());
    layer.steps = x.size(0);
    layer.batch = as_int(states_.batch);
    layer.input_height = as_int(x.size(2));
    layer.input_width = as_int(x.size(3));
    layer.input_channels = as_int(x.size(4));
    layer.hidden = as_int(states_.hidden);
    layer.height = as_int(states_.height);
    layer.width = as_int(states_.width);
    layer.kernel_height = as_int(weight_hh.size(2));
    layer.kernel_width = as_int(weight_hh.size(3));
    layer.input_kernel_height = weight_ih.defined() ? as_int(weight_ih.size(2)) : 1;
    layer.input_kernel_width = weight_ih.defined() ? as_int(weight_ih.size(3)) : 1;
    layer.padding_rows = int(arguments_.padding.rows);
    layer.padding_columns = int(arguments_.padding.columns);
    layer.spatial_peepholes = weight_ch.defined() && weight_ch.dim() == 4;
    layer.output_sees_current = arguments_.output_sees_current;
    layer.hard_sigmoid_slope = arguments_.hard_sigmoid_slope;
    layer.multiprocessors = device.multiprocessors;
    layer.x = memory_of(x);
    layer.weight_ih = memory_of(weight_ih);
    layer.weight_hh = memory_of(weight_hh);
    layer.bias = memory_of(arguments_.bias);
    layer.weight_ch = memory_of(weight_ch);
    layer.h_0 = memory_of(arguments_.h_0);
    layer.c_0 = memory_of(arguments_.c_0);
    layer.hidden_mask = memory_of(arguments_.hidden_mask);
    layer.lengths = static_cast<const int64_t*>(memory_of(lengths));
    return layer;
  }

 private:
  Arguments arguments_;
  States states_;
};

// What every sequence's last step left in a tensor (T, B, ...): (B, ...). No number in lengths leads
// out of bounds.
at::Tensor at_ends(const at::Tensor& of_steps, const at::Tensor& lengths) {
  const int64_t last = of_steps.size(0) - 1;
  if (!lengths.defined()) {
    return of_steps[last].clone();
  }
  const at::Tensor steps = lengths.sub(1).clamp(0, last);
  const at::Tensor sequences = at::arange(lengths.size(0), lengths.options());
  return at::index(of_steps, c10::List<std::optional<at::Tensor>>({steps, sequences}));
}

// Without `save_cells` the cell state lives in c_n alone and is updated in place.
Results run(const Arguments& arguments, bool save_cells, int64_t saved_gates) {
  const auto [B, H, W, C] = states_of(arguments);
  const int64_t T = arguments.x.size(0);
  const at::TensorOptions stored = arguments.x.options();
  const at::TensorOptions accumulated = stored.dtype(accumulate_dtype(arguments.x.scalar_type()));
  Results results;
  results.output = at::empty({T, B, H, W, C}, stored);
  results.gates = at::empty({saved_gates, B, H, W, kGates, C}, stored);
  const at::Tensor cells = at::empty({save_cells ? T : 1, B, H, W, C}, accumulated);
  on_device_of(arguments.x, [&](const Device& device) {
    const Operands operands(arguments);
    Memory memory(arguments.x);
    forward(operands.layer(device),
            {memory_of(results.output), memory_of(cells), save_cells, memory_of(results.gates),
             saved_gates},
            memory, device.stream);
  });
  results.h_n = at_ends(results.output, arguments.lengths);
  results.c_n = save_cells ? at_ends(cells, arguments.lengths) : cells[0];
  results.cells = save_cells ? cells : at::empty({0}, accumulated);
  return results;
}

// A gradient (.., B, C, H, W), read where it is.
IncomingGradient incoming_gradient(const at::Tensor& gradient) {
  if (!gradient.defined()) {
    return {};
  }
  return {memory_of(gradient), gradient.dim() == 5 ? gradient.stride(0) : 0,
          gradient.stride(-4), gradient.stride(-3),
          gradient.stride(-2), gradient.stride(-1)};
}

Gradients differentiate(const Arguments& arguments, const Incoming& incoming, const Saved& saved,
                        const Needs& needs) {
  const auto [B, H, W, C] = states_of(arguments);
  const at::Tensor& x = arguments.x;
  const at::TensorOptions stored = x.options();
  const at::TensorOptions accumulated = stored.dtype(accumulate_dtype(x.scalar_type()));
  const auto empty_for = [&](bool needed, at::IntArrayRef sizes) {
    return at::empty(needed ? sizes : at::IntArrayRef{0}, stored);
  };
  const auto empty_as = [&](bool needed, const at::Tensor& parameter) {
    return empty_for(needed, parameter.defined() ? parameter.sizes() : at::IntArrayRef{0});
  };
  const bool convolves_input = arguments.weight_ih.defined();
  const at::Tensor gate_gradients = at::empty({x.size(0), B, H, W, kGates * C}, stored);
  const at::Tensor cell_gradient =
      incoming.c_n.defined()
          ? incoming.c_n.permute({0, 2, 3, 1}).clone(at::MemoryFormat::Contiguous)
          : at::zeros({B, H, W, C}, accumulated);
  const at::Tensor grad_x = empty_for(needs.x && convolves_input,
                                      {x.size(0), x.size(1), x.size(3), x.size(4), x.size(2)});
  const at::Tensor grad_h_0 = empty_for(needs.h_0, {B, H, W, C});
  const Gradients gradients{
      needs.x ? channels_first(convolves_input ? grad_x : gate_gradients) : grad_x,
      empty_as(needs.weight_ih, arguments.weight_ih),
      empty_as(needs.weight_hh, arguments.weight_hh),
      empty_as(needs.bias, arguments.bias),
      empty_as(needs.weight_ch, arguments.weight_ch),
      needs.h_0 ? channels_first(grad_h_0) : grad_h_0,
      needs.c_0 ? channels_first(cell_gradient) : at::empty({0}, accumulated)};
  on_device_of(x, [&](const Device& device) {
    const Operands operands(arguments);
    const at::Tensor hidden = channels_last(saved.output);
    const at::Tensor cells = dense(saved.cells), gates = dense(saved.gates);
    Memory memory(x);
    backward(operands.layer(device),
             {incoming_gradient(incoming.output), incoming_gradient(incoming.h_n),
              memory_of(hidden), memory_of(cells), memory_of(gates), saved.gates.size(0),
              memory_of(gate_gradients), memory_of(cell_gradient), memory_of(grad_x),
              memory_of(gradients.weight_ih), memory_of(gradients.weight_hh),
              memory_of(gradients.bias), memory_of(gradients.weight_ch), memory_of(grad_h_0)},
             memory, device.stream);
  });
  return gradients;
}

}  // namespace
}  // namespace memx::cuda

namespace memx {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> conv_lstm_cuda(
    const at::Tensor& x, const std::optional<at::Tensor>& weight_ih, const at::Tensor& weight_hh,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& weight_ch,
    const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
    at::IntArrayRef padding, bool output_sees_current, bool save_cells, int64_t saved_gates,
    double hard_sigmoid_slope, const std::optional<at::Tensor>& hidden_mask,
    const std::optional<at::Tensor>& lengths) {
  // Results are made here and nowhere else: to autograd none of them is a view of another.
  const at::AutoDispatchBelowADInplaceOrView no_views;
  const Arguments arguments =
      checked_arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, padding,
                        output_sees_current, hard_sigmoid_slope, hidden_mask, lengths);
  check_saved_gates(arguments, saved_gates);
  const cuda::Results results = cuda::run(arguments, save_cells, saved_gates);
  return {channels_first(results.output), channels_first(results.h_n), channels_first(results.c_n),
          results.cells, results.gates};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
conv_lstm_cuda_backward(const std::optional<at::Tensor>& grad_output,
                        const std::optional<at::Tensor>& grad_h_n,
                        const std::optional<at::Tensor>& grad_c_n, const at::Tensor& x,
                        const std::optional<at::Tensor>& weight_ih, const at::Tensor& weight_hh,
                        const std::optional<at::Tensor>& bias,
                        const std::optional<at::Tensor>& weight_ch,
                        const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
                        const at::Tensor& output, const at::Tensor& cells, const at::Tensor& gates,
                        at::IntArrayRef padding, bool output_sees_current,
                        std::array<bool, 7> needs, double hard_sigmoid_slope,
                        const std::optional<at::Tensor>& hidden_mask,
                        const std::optional<at::Tensor>& lengths) {
  const at::AutoDispatchBelowADInplaceOrView no_views;
  const Arguments arguments =
      checked_arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, padding,
                        output_sees_current, hard_sigmoid_slope, hidden_mask, lengths);
  const Gradients g =
      cuda::differentiate(arguments, checked_incoming(arguments, grad_output, grad_h_n, grad_c_n),
                          checked_saved(arguments, output, cells, gates), wanted(arguments, needs));
  return {g.x, g.weight_ih, g.weight_hh, g.bias, g.weight_ch, g.h_0, g.c_0};
}

}  // namespace memx

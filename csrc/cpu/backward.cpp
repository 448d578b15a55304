// The backward pass over a sequence: one parallel sweep over the tiles a step, from the last step to
// the first, another for the gradient of X_t where it is wanted, and a last one for that of H_0.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../operators.h"
#include "allocation.h"
#include "parameter_sums.h"

namespace memx {
namespace {

// Two planes of gate gradients [B, H + border, W + border, gate columns], of steps t and t+1 in
// turn. The border is zero and never written: it is what the transposed convolution sees outside
// the image. A Winograd block may stick out by one pixel more on the far side.
template <class N>
class GatePlanes {
 public:
  GatePlanes(const Sizes& sizes, int64_t pad_rows, int64_t pad_columns, at::ScalarType dtype)
      : rows_(sizes.height + 2 * pad_rows + 1),
        columns_(sizes.width + 2 * pad_columns + 1),
        gate_columns_(sizes.gate_columns()),
        origin_(pad_rows * row_pitch() + pad_columns * gate_columns_),
        storage_(empty_large({2, sizes.batch, rows_, columns_, gate_columns_}, dtype)) {
    const int64_t last_row = pad_rows + sizes.height, last_column = pad_columns + sizes.width;
    at::parallel_for(0, 2 * sizes.batch * rows_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        N* const row = data_of<N>(storage_) + i * row_pitch();
        if (i % rows_ < pad_rows || i % rows_ >= last_row) {
          std::fill(row, row + row_pitch(), N{});
        } else {
          std::fill(row, row + pad_columns * gate_columns_, N{});
          std::fill(row + last_column * gate_columns_, row + row_pitch(), N{});
        }
      }
    });
  }

  template <class T>
  GatePlane<T> of_step(int64_t t) const {
    return {data_of<N>(storage_) + t % 2 * storage_.stride(0) + origin_, row_pitch(),
            rows_ * row_pitch()};
  }

 private:
  int64_t row_pitch() const { return columns_ * gate_columns_; }

  int64_t rows_, columns_, gate_columns_, origin_;
  at::Tensor storage_;
};

template <class S, class O>
class BackwardPass {
 public:
  using A = accumulate_t<O>;
  using N = number_t<O>;

  BackwardPass(const Sequence<S, O>& sequence, const Incoming& incoming, const Saved& saved,
               const Needs& needs)
      : sequence_(sequence),
        sizes_(sequence.sizes),
        incoming_(incoming),
        saved_(saved),
        needs_(needs),
        sums_(sequence, needs) {
    const Arguments& arguments = sequence.arguments;
    const at::ScalarType stored = arguments.x.scalar_type();
    const int64_t T = sequence.steps, B = sizes_.batch, H = sizes_.height, W = sizes_.width;
    const int64_t C = sizes_.hidden;
    cell_gradient_ = incoming.c_n.defined()
                         ? copy_large(incoming.c_n.permute({0, 2, 3, 1}))
                         : zeros_large({B, H, W, C}, c10::CppTypeToScalarType<A>::value);
    const at::Tensor& x = arguments.x;
    grad_x_ = empty_large(
        needs.x ? at::DimVector{T, B, x.size(3), x.size(4), x.size(2)} : at::DimVector{0}, stored);
    grad_h_0_ = empty_large(needs.h_0 ? at::DimVector{B, H, W, C} : at::DimVector{0}, stored);
    hidden_transposed_ = pack_transposed_convolution<O>(arguments.weight_hh,
                                                        same_padding(arguments.weight_hh), sizes_);
    if (needs.x && arguments.weight_ih.defined()) {
      input_transposed_ =
          pack_transposed_convolution<O>(arguments.weight_ih, arguments.padding, sizes_);
    }
  }

  Gradients run() {
    const Convolution<O>& hidden = hidden_transposed_.convolution;
    const Convolution<O>& input = input_transposed_.convolution;
    const GatePlanes<N> planes(sizes_, std::max(hidden.pad_rows, input.pad_rows),
                               std::max(hidden.pad_columns, input.pad_columns), plane_dtype());
    for (int64_t t = sequence_.steps - 1; t >= 0; --t) {
      differentiate(t, planes);
      if (input.weights != nullptr) {
        sweep(frame_gradient(input, t, planes, frame_of<S>(channels_first(grad_x_), t),
                             grad_x_.size(4)),
              t);
      }
    }
    if (needs_.x) {
      sequence_.clear_after_ends(grad_x_);
    }
    if (needs_.h_0) {
      const at::Tensor gradient = channels_first(grad_h_0_);
      sweep(frame_gradient(hidden, 0, planes, frame_of<S>(gradient), sizes_.hidden), 0);
      if (sequence_.arguments.hidden_mask.defined()) {
        gradient.mul_(sequence_.arguments.hidden_mask);
      }
    }
    return results();
  }

 private:
  // Step t of the sequences of which it is not the last step.
  BackwardStep<S, O> backward_step(int64_t t, const GatePlanes<N>& planes) const {
    BackwardStep<S, O> step;
    step.forward = sequence_.forward_step(t);
    step.hidden_transposed = hidden_transposed_.convolution;
    step.cell_gradient = data_of<A>(cell_gradient_);
    const int64_t image_elements = sizes_.batch * sizes_.pixels() * sizes_.hidden;
    step.cell = data_of<A>(saved_.cells) + t * image_elements;
    if (const int64_t saved = t - (sequence_.steps - saved_.gates.size(0)); saved >= 0) {
      step.forward.gates = data_of<S>(saved_.gates) + saved * kGates * image_elements;
    }
    if (t > 0) {
      step.forward.previous_cell = step.cell - image_elements;
      step.forward.hidden_frame = frame_of<const S>(saved_.output, t - 1);
    }
    step.next_gate_gradient = planes.template of_step<const N>(t + 1);
    step.gate_gradient = planes.template of_step<N>(t);
    if (incoming_.output.defined()) {
      step.output_gradient = frame_of<const S>(incoming_.output, t);
    }
    if (needs_.x && !sequence_.arguments.weight_ih.defined()) {
      step.input_gates_gradient = frame_of<S>(channels_first(grad_x_), t);
    }
    return step;
  }

  FrameGradientStep<S, O> frame_gradient(const Convolution<O>& transposed, int64_t t,
                                         const GatePlanes<N>& planes, const Frame<S>& gradient,
                                         int64_t channels) const {
    return {sizes_, transposed, planes.template of_step<const N>(t), channels, gradient};
  }

  // Gate gradients are kept in the operands' numbers: those of the storage type, or of A.
  at::ScalarType plane_dtype() const {
    return std::is_same_v<N, A> ? cell_gradient_.scalar_type()
                                : sequence_.arguments.x.scalar_type();
  }

  // The calling thread's scratch, within one allocation that grows to the largest need.
  char* scratch(int64_t bytes) const {
    return data_of<char>(scratch_) + at::get_thread_num() * bytes;
  }
  void reserve_scratch(int64_t bytes) {
    if (!scratch_.defined() || scratch_.numel() < at::get_num_threads() * bytes) {
      scratch_ = empty_scratch(bytes);
    }
  }

  void differentiate(int64_t t, const GatePlanes<N>& planes) {
    const BackwardStep<S, O> step = backward_step(t, planes);
    BackwardStep<S, O> last_step = step;  // of the sequences that end with it
    last_step.next_gate_gradient = {};
    if (incoming_.h_n.defined()) {
      last_step.final_gradient = frame_of<const S>(incoming_.h_n);
    }
    const int64_t bytes = sequence_.kernels.backward_scratch(step, sequence_.tiles.largest());
    reserve_scratch(bytes);
    at::parallel_for(0, sums_.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (int64_t i = sums_.first_tile(slot); i < sums_.first_tile(slot + 1); ++i) {
          const Tile tile = sequence_.tiles.at(i);
          const int64_t last = sequence_.end(tile.batch) - 1;
          if (t <= last) {
            sequence_.kernels.backward(t < last ? step : last_step, sums_.accumulators(slot, i),
                                       tile, scratch(bytes));
          }
        }
      }
    });
  }

  // Of the frame of step t, or of what is before step 0.
  void sweep(const FrameGradientStep<S, O>& step, int64_t t) {
    const TileGrid tiles(sizes_.batch, step.gradient.height, step.gradient.width,
                         sizes_.gate_columns());
    const int64_t bytes = sequence_.kernels.frame_gradient_scratch(step, tiles.largest());
    reserve_scratch(bytes);
    at::parallel_for(0, tiles.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Tile tile = tiles.at(i);
        if (t < sequence_.end(tile.batch)) {
          sequence_.kernels.frame_gradient(step, tile, scratch(bytes));
        }
      }
    });
  }

  Gradients results() {
    sums_.reduce();
    const at::Tensor none = at::empty({0}, cell_gradient_.options());
    return {needs_.x ? channels_first(grad_x_) : grad_x_,
            sums_.input_weights(),
            sums_.hidden_weights(),
            sums_.bias(),
            sums_.peepholes(),
            needs_.h_0 ? channels_first(grad_h_0_) : grad_h_0_,
            needs_.c_0 ? channels_first(cell_gradient_) : none};
  }

  const Sequence<S, O>& sequence_;
  const Sizes& sizes_;
  const Incoming& incoming_;
  const Saved& saved_;
  const Needs needs_;
  ParameterSums<S, O> sums_;
  PackedConvolution<O> hidden_transposed_, input_transposed_;
  at::Tensor cell_gradient_;  // (B, H, W, C): of C_t, then of C_{t-1}
  at::Tensor grad_x_;         // (T, B, H, W, channels of x), or empty
  at::Tensor grad_h_0_;       // (B, H, W, C), or empty
  at::Tensor scratch_;
};

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
conv_lstm_cpu_backward(const std::optional<at::Tensor>& grad_output,
                       const std::optional<at::Tensor>& grad_h_n,
                       const std::optional<at::Tensor>& grad_c_n, const at::Tensor& x,
                       const std::optional<at::Tensor>& weight_ih, const at::Tensor& weight_hh,
                       const std::optional<at::Tensor>& bias,
                       const std::optional<at::Tensor>& weight_ch,
                       const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
                       const at::Tensor& output, const at::Tensor& cells, const at::Tensor& gates,
                       at::IntArrayRef padding, bool output_sees_current, std::array<bool, 7> needs,
                       double hard_sigmoid_slope, const std::optional<at::Tensor>& hidden_mask,
                       const std::optional<at::Tensor>& lengths) {
  const at::AutoDispatchBelowADInplaceOrView no_views;
  const Arguments arguments =
      checked_arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, padding,
                        output_sees_current, hard_sigmoid_slope, hidden_mask, lengths);
  const Incoming incoming = checked_incoming(arguments, grad_output, grad_h_n, grad_c_n);
  const Saved saved = checked_saved(arguments, output, cells, gates);
  const Gradients g = dispatch_types(x.scalar_type(), [&](auto storage, auto operand) {
    const Sequence<decltype(storage), decltype(operand)> sequence(arguments, false);
    return BackwardPass(sequence, incoming, saved, wanted(arguments, needs)).run();
  });
  return {g.x, g.weight_ih, g.weight_hh, g.bias, g.weight_ch, g.h_0, g.c_0};
}

TORCH_LIBRARY_IMPL(memx_fast, CPU, library) {
  library.impl("conv_lstm_backward", conv_lstm_cpu_backward);
}

}  // namespace memx

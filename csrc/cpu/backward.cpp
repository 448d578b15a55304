// The backward pass over a sequence: strips from the last step to the first, in which the gradient of
// X_t follows the gate gradients of its step, where it is wanted, and that of H_0 those of step 0.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../operators.h"
#include "allocation.h"
#include "parameter_sums.h"
#include "strips.h"

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
        hidden_transposed_(pack_transposed_convolution<O>(
            sequence.arguments.weight_hh, same_padding(sequence.arguments.weight_hh), sizes_)),
        input_transposed_(packed_input()),
        frames_(needs.x ? sequence.tiles.resized(sequence.arguments.x.size(3),
                                                 sequence.arguments.x.size(4))
                        : sequence.tiles),
        strips_(all_strips()),
        sums_(sequence, needs, strips_) {
    const at::Tensor& x = sequence.arguments.x;
    const at::ScalarType stored = x.scalar_type();
    const int64_t T = sequence.steps, B = sizes_.batch, H = sizes_.height, W = sizes_.width;
    const int64_t C = sizes_.hidden;
    cell_gradient_ = incoming.c_n.defined()
                         ? copy_large(incoming.c_n.permute({0, 2, 3, 1}))
                         : empty_large({B, H, W, C}, c10::CppTypeToScalarType<A>::value);
    grad_x_ = empty_large(
        needs.x ? at::DimVector{T, B, x.size(3), x.size(4), x.size(2)} : at::DimVector{0}, stored);
    grad_h_0_ = empty_large(needs.h_0 ? at::DimVector{B, H, W, C} : at::DimVector{0}, stored);
  }

  Gradients run() {
    const Convolution<O>& hidden = hidden_transposed_.convolution;
    const Convolution<O>& input = input_transposed_.convolution;
    const GatePlanes<N> planes(sizes_, std::max(hidden.pad_rows, input.pad_rows),
                               std::max(hidden.pad_columns, input.pad_columns), plane_dtype());
    std::vector<Step> steps;
    steps.reserve(sequence_.steps);
    for (int64_t t = sequence_.steps - 1; t >= 0; --t) {
      steps.push_back(step(t, planes));
    }
    const int64_t bytes = scratch_bytes(steps.back());
    const at::Tensor scratch = empty_scratch(bytes);
    strips_.run(2, sums_.queues(), [&](const Strip& strip, int64_t position, int64_t phase) {
      if (steps[position].t < sequence_.end(strip.image)) {
        char* const memory = data_of<char>(scratch) + at::get_thread_num() * bytes;
        phase == 0 ? differentiate(steps[position], strip, position, memory)
                   : to_frames(steps[position], strip, position, memory);
      }
    });
    if (needs_.x) {
      sequence_.clear_after_ends(grad_x_);
    }
    if (needs_.h_0 && sequence_.arguments.hidden_mask.defined()) {
      channels_first(grad_h_0_).mul_(sequence_.arguments.hidden_mask);
    }
    return results();
  }

 private:
  // What is computed at step t. The gradient of a frame that is not wanted has no weights.
  struct Step {
    int64_t t;
    BackwardStep<S, O> inner;  // of the sequences that go on after it
    BackwardStep<S, O> last;   // of those that end with it
    FrameGradientStep<S, O> to_x;
    FrameGradientStep<S, O> to_h_0;  // at t = 0
  };

  PackedConvolution<O> packed_input() const {
    const Arguments& arguments = sequence_.arguments;
    return needs_.x && arguments.weight_ih.defined()
               ? pack_transposed_convolution<O>(arguments.weight_ih, arguments.padding, sizes_)
               : PackedConvolution<O>{};
  }

  Strips all_strips() const {
    const auto& hidden = hidden_transposed_.convolution;
    const auto& input = input_transposed_.convolution;
    const Tile state = sequence_.tiles.largest(), frame = frames_.largest();
    const int64_t T = sequence_.steps;
    const Bands rows(std::max(sizes_.height, frames_.height()), std::max(state.rows, frame.rows),
                     std::max(hidden.reach_of_rows(), input.reach_of_rows()), T);
    const Bands columns(std::max(sizes_.width, frames_.width()),
                        std::max(state.columns, frame.columns),
                        std::max(hidden.reach_of_columns(), input.reach_of_columns()), T);
    return {sizes_.batch, rows, columns, T};
  }

  Step step(int64_t t, const GatePlanes<N>& planes) const {
    Step found;
    found.t = t;
    found.inner = found.last = backward_step(t, planes);
    found.last.next_gate_gradient = {};
    if (!incoming_.c_n.defined()) {
      found.last.next_cell_gradient = nullptr;
    }
    if (incoming_.h_n.defined()) {
      found.last.final_gradient = frame_of<const S>(incoming_.h_n);
    }
    const GatePlane<const N> plane = planes.template of_step<const N>(t);
    if (const auto& input = input_transposed_.convolution; input.weights != nullptr) {
      found.to_x = {sizes_, input, plane, grad_x_.size(4), frame_of<S>(channels_first(grad_x_), t)};
    }
    if (t == 0 && needs_.h_0) {
      found.to_h_0 = {sizes_, hidden_transposed_.convolution, plane, sizes_.hidden,
                      frame_of<S>(channels_first(grad_h_0_))};
    }
    return found;
  }

  BackwardStep<S, O> backward_step(int64_t t, const GatePlanes<N>& planes) const {
    BackwardStep<S, O> step;
    step.forward = sequence_.forward_step(t);
    step.hidden_transposed = hidden_transposed_.convolution;
    step.cell_gradient = data_of<A>(cell_gradient_);
    step.next_cell_gradient = step.cell_gradient;
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

  // Gate gradients are kept in the operands' numbers: those of the storage type, or of A.
  at::ScalarType plane_dtype() const {
    return std::is_same_v<N, A> ? cell_gradient_.scalar_type()
                                : sequence_.arguments.x.scalar_type();
  }

  // That a thread needs for any step; all gradients of frames are wanted at the last one that is
  // computed, if at all.
  int64_t scratch_bytes(const Step& last) const {
    const auto& kernels = sequence_.kernels;
    const Tile state = sequence_.tiles.largest();
    return std::max({kernels.backward_scratch(last.inner, state),
                     kernels.frame_gradient_scratch(last.to_x, frames_.largest()),
                     kernels.frame_gradient_scratch(last.to_h_0, state)});
  }

  // A strip's share of the gate gradients of a step, and of the sums.
  void differentiate(const Step& step, const Strip& strip, int64_t position, char* scratch) const {
    const bool is_last = step.t == sequence_.end(strip.image) - 1;
    if (const Tile part = sequence_.tiles.of(strips_, strip, position); part.pixels() > 0) {
      sequence_.kernels.backward(is_last ? step.last : step.inner,
                                 sums_.accumulators(strip, is_last), part, scratch);
    }
  }

  // A strip's share of the gradients of frames. These see gate gradients of what lies after it in the
  // image, and so are a shift behind; those of two steps further have not taken their place yet.
  void to_frames(const Step& step, const Strip& strip, int64_t position, char* scratch) const {
    const auto compute = [&](const FrameGradientStep<S, O>& wanted, const TileGrid& tiles) {
      const Tile part = tiles.of(strips_, strip, position + 1);
      if (wanted.transposed.weights != nullptr && part.pixels() > 0) {
        sequence_.kernels.frame_gradient(wanted, part, scratch);
      }
    };
    compute(step.to_x, frames_);
    compute(step.to_h_0, sequence_.tiles);
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
  const PackedConvolution<O> hidden_transposed_, input_transposed_;
  const TileGrid frames_;  // of X_t
  const Strips strips_;
  ParameterSums<S, O> sums_;
  at::Tensor cell_gradient_;  // (B, H, W, C): of C_t, then of C_{t-1}
  at::Tensor grad_x_;         // (T, B, H, W, channels of x), or empty
  at::Tensor grad_h_0_;       // (B, H, W, C), or empty
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

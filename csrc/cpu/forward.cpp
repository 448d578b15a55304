// The forward pass over a sequence.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <vector>

#include "../operators.h"
#include "allocation.h"
#include "sequence.h"
#include "strips.h"

namespace memx {
namespace {

struct Results {
  at::Tensor output;  // (T, B, H, W, C)
  at::Tensor h_n;     // (B, H, W, C)
  at::Tensor c_n;     // (B, H, W, C) of the accumulation type
  at::Tensor cells;   // (T, B, H, W, C) of the accumulation type, or empty
  at::Tensor gates;   // (saved_gates, B, H, W, 4, C) after activation, of the last steps
};

// Without `save_cells` the cell state lives in c_n alone and is updated in place.
template <class S, class O>
Results allocate(const Sequence<S, O>& sequence, bool save_cells, int64_t saved_gates) {
  const Sizes& sizes = sequence.sizes;
  const int64_t T = sequence.steps, B = sizes.batch, H = sizes.height, W = sizes.width;
  const int64_t C = sizes.hidden;
  const at::ScalarType stored = sequence.arguments.x.scalar_type();
  const at::ScalarType accumulated = c10::CppTypeToScalarType<accumulate_t<O>>::value;

  Results results;
  results.output = empty_large({T, B, H, W, C}, stored);
  if (!save_cells) {
    results.c_n = empty_large({B, H, W, C}, accumulated);
  }
  results.cells =
      empty_large(save_cells ? at::DimVector{T, B, H, W, C} : at::DimVector{0}, accumulated);
  results.gates = empty_large({saved_gates, B, H, W, kGates, C}, stored);
  return results;
}

template <class S, class O>
std::vector<ForwardStep<S, O>> all_steps(const Sequence<S, O>& sequence, const Results& results) {
  using A = accumulate_t<O>;
  const Sizes& sizes = sequence.sizes;
  const int64_t T = sequence.steps, H = sizes.height, W = sizes.width, C = sizes.hidden;
  const int64_t image_elements = sizes.batch * H * W * C, saved_gates = results.gates.size(0);
  S* const output = data_of<S>(results.output);
  const auto cell_of = [&](int64_t t) {
    return results.c_n.defined() ? data_of<A>(results.c_n)
                                 : data_of<A>(results.cells) + t * image_elements;
  };
  std::vector<ForwardStep<S, O>> steps;
  steps.reserve(T);
  for (int64_t t = 0; t < T; ++t) {
    ForwardStep<S, O> step = sequence.forward_step(t);
    step.cell = cell_of(t);
    step.hidden = output + t * image_elements;
    if (const int64_t saved = t - (T - saved_gates); saved >= 0) {
      step.gates = data_of<S>(results.gates) + saved * kGates * image_elements;
    }
    if (t > 0) {
      step.previous_cell = cell_of(t - 1);
      step.hidden_frame = {output + (t - 1) * image_elements, H * W * C, 1, W * C, C, H, W};
    }
    steps.push_back(step);
  }
  return steps;
}

template <class S, class O>
void compute(const Sequence<S, O>& sequence, const std::vector<ForwardStep<S, O>>& steps) {
  const Sizes& sizes = sequence.sizes;
  const Tile largest = sequence.tiles.largest();
  const int64_t T = sequence.steps;
  const auto& hidden = steps[0].hidden_convolution;
  const Strips strips(sizes.batch, {sizes.height, largest.rows, hidden.reach_of_rows(), T},
                      {sizes.width, largest.columns, hidden.reach_of_columns(), T}, T);
  const int64_t scratch_bytes = sequence.kernels.forward_scratch(steps[0], largest);
  const at::Tensor scratch = empty_scratch(scratch_bytes);
  // Nothing is summed over strips: each has a slot.
  const Queues queues{sizes.batch, strips.places()};
  strips.run(1, queues, [&](const Strip& strip, int64_t t, int64_t) {
    const Tile tile = sequence.tiles.of(strips, strip, t);
    if (tile.pixels() > 0 && t < sequence.end(strip.image)) {
      sequence.kernels.forward(steps[t], tile,
                               data_of<char>(scratch) + at::get_thread_num() * scratch_bytes);
    }
  });
}

template <class S, class O>
Results run(const Sequence<S, O>& sequence, bool save_cells, int64_t saved_gates) {
  Results results = allocate(sequence, save_cells, saved_gates);
  compute(sequence, all_steps(sequence, results));
  results.h_n = sequence.at_ends(results.output);
  sequence.clear_after_ends(results.output);
  sequence.clear_after_ends(results.gates);
  if (save_cells) {
    results.c_n = sequence.at_ends(results.cells);
    sequence.clear_after_ends(results.cells);
  }
  return results;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> conv_lstm_cpu(
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
  const Results results = dispatch_types(x.scalar_type(), [&](auto storage, auto operand) {
    // Without cells there is no backward pass: this is inference, and the weights may stay.
    using Typed = Sequence<decltype(storage), decltype(operand)>;
    return run(Typed(arguments, !save_cells), save_cells, saved_gates);
  });
  return {channels_first(results.output), channels_first(results.h_n), channels_first(results.c_n),
          results.cells, results.gates};
}

TORCH_LIBRARY_IMPL(memx_fast, CPU, library) { library.impl("conv_lstm", conv_lstm_cpu); }

}  // namespace memx

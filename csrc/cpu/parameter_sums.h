// Accumulators of the parameter gradients of a backward pass.
#pragma once

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "allocation.h"
#include "sequence.h"
#include "strips.h"

namespace memx {

// rows[0] = sum of all rows, in order: the same bits whatever the number of threads.
template <class A>
void sum_rows(A* rows, int64_t count, int64_t elements) {
  at::parallel_for(0, elements, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t row = 1; row < count; ++row) {
      for (int64_t i = begin; i < end; ++i) {
        rows[i] += rows[row * elements + i];
      }
    }
  });
}

// Every slot of the strips' queues has accumulators of its own. More slots let more threads work, but
// each costs memory and a pass of the final sum.
//
// Spatial peepholes are the exception: their gradient is as large as three images. All slots of a queue
// share one, which Queues allows, and queues are few.
template <class S, class O>
class ParameterSums {
 public:
  using A = accumulate_t<O>;

  ParameterSums(const Sequence<S, O>& sequence, const Needs& needs, const Strips& strips)
      : sequence_(sequence), strips_(strips) {
    const ForwardStep<S, O> step = sequence.forward_step(0);
    const Sizes& sizes = sequence.sizes;
    const at::Tensor& weight_ch = sequence.arguments.weight_ch;
    const bool spatial = weight_ch.defined() && weight_ch.dim() == 4;
    const at::ScalarType accumulated = c10::CppTypeToScalarType<A>::value;
    if (needs.weight_ih) {
      input_ = take(weight_gradient_elements(step.input_convolution, sizes));
    }
    if (needs.weight_hh) {
      hidden_ = take(weight_gradient_elements(step.hidden_convolution, sizes));
    }
    if (needs.bias) {
      bias_ = take(sizes.gate_columns());
    }
    if (needs.weight_ch && !spatial) {
      peepholes_ = take(3 * column_elements());
    }
    const bool copied = needs.weight_ch && spatial;
    const int64_t slots = most_slots();
    queues_.count = std::min({sizes.batch, slots, copied ? most_copies() : slots});
    queues_.slots = std::min(strips.places_at_once(), slots / queues_.count);
    storage_ = zeros_large({queues_.count * queues_.slots, elements_}, accumulated);
    if (copied) {
      const at::DimVector shape{queues_.count, 3, sizes.pixels(), sizes.hidden};
      cleared_ = sequence.arguments.lengths.defined();
      spatial_peepholes_ =
          cleared_ ? zeros_large(shape, accumulated) : empty_large(shape, accumulated);
    }
  }

  const Queues& queues() const { return queues_; }

  // Where a strip adds what it finds at a step, the last of its sequence or another.
  ParameterGradients<A> accumulators(const Strip& strip, bool last_step) const {
    const int64_t queue = strip.image % queues_.count;
    ParameterGradients<A> found =
        of_slot(strips_.place(strip) % queues_.slots * queues_.count + queue);
    if (spatial_peepholes_.defined()) {
      found.peepholes.data =
          spatial_peepholes_.template data_ptr<A>() + queue * spatial_peepholes_.stride(0);
      // Where sequences end at different steps, another may have been at a pixel before.
      found.peepholes.first = !cleared_ && last_step && strip.image < queues_.count;
    }
    return found;
  }

  // After this the accumulators of slot 0 hold the sums.
  void reduce() {
    sum_rows(storage_.template data_ptr<A>(), storage_.size(0), elements_);
    if (spatial_peepholes_.defined()) {
      sum_rows(spatial_peepholes_.template data_ptr<A>(), spatial_peepholes_.size(0),
               spatial_peepholes_.stride(0));
    }
  }

  // The sums in the shape and dtype of the parameters; an unwanted gradient is an empty tensor.
  at::Tensor input_weights() const {
    return weights(of_slot(0).input_weights, sequence_.forward_step(0).input_convolution);
  }
  at::Tensor hidden_weights() const {
    return weights(of_slot(0).hidden_weights, sequence_.forward_step(0).hidden_convolution);
  }
  at::Tensor bias() const {
    if (bias_ < 0) {
      return empty();
    }
    return unpack_bias_gradient(of_slot(0).bias, sequence_.sizes, dtype());
  }
  at::Tensor peepholes() const {
    const Sizes& sizes = sequence_.sizes;
    if (spatial_peepholes_.defined()) {
      const at::Tensor sum =
          spatial_peepholes_[0].view({3, sizes.height, sizes.width, sizes.hidden});
      return channels_first(sum).to(dtype()).contiguous();
    }
    if (peepholes_ < 0) {
      return empty();
    }
    return storage_[0]
        .narrow(0, peepholes_, 3 * column_elements())
        .view({3, -1, sizes.hidden})
        .sum(1)
        .to(dtype());
  }

 private:
  // Numbers of one peephole in the accumulators of a slot: [tile column][C].
  int64_t column_elements() const {
    return sequence_.tiles.largest().columns * sequence_.sizes.hidden;
  }
  PeepholeGradient<A> peephole_gradient(A* of_slot) const {
    const Sizes& sizes = sequence_.sizes;
    if (!spatial_peepholes_.defined()) {
      return {of_slot, 0, sizes.hidden, column_elements(), true};
    }
    return {nullptr, sizes.width * sizes.hidden, sizes.hidden, sizes.pixels() * sizes.hidden,
            false};
  }
  ParameterGradients<A> of_slot(int64_t slot) const {
    A* const base = storage_.template data_ptr<A>() + slot * elements_;
    const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
    return {at(input_), at(hidden_), at(bias_), peephole_gradient(at(peepholes_))};
  }
  int64_t take(int64_t elements) {
    const int64_t offset = elements_;
    elements_ += round_up(elements, 64 / int64_t(sizeof(A)));
    return offset;
  }
  // As many as there are threads that can use them: processors of the machine, of which a process may
  // be given fewer.
  static int64_t most_copies() {
    constexpr int64_t kFewest = 2, kMost = 16;
#if defined(_SC_NPROCESSORS_CONF)
    return std::clamp<int64_t>(sysconf(_SC_NPROCESSORS_CONF), kFewest, kMost);
#else
    return kMost;
#endif
  }
  // Clearing and summing the slots costs the same for one step as for many.
  int64_t most_slots() const {
    constexpr int64_t kMost = 64, kFewest = 4, kBytes = 64 << 20, kBytesAStep = 6 << 20;
    const int64_t bytes = std::min(kBytes, sequence_.steps * kBytesAStep);
    const int64_t affordable = bytes / std::max<int64_t>(1, elements_ * int64_t(sizeof(A)));
    return std::clamp(affordable, kFewest, kMost);
  }
  at::ScalarType dtype() const { return sequence_.arguments.x.scalar_type(); }
  at::Tensor empty() const { return at::empty({0}, sequence_.arguments.x.options()); }
  at::Tensor weights(const A* sums, const Convolution<O>& convolution) const {
    if (sums == nullptr) {
      return empty();
    }
    return unpack_weight_gradient(sums, convolution, sequence_.sizes, dtype());
  }

  const Sequence<S, O>& sequence_;
  const Strips& strips_;
  int64_t input_ = -1, hidden_ = -1, bias_ = -1,
          peepholes_ = -1;  // offsets in a slot; -1: unwanted
  int64_t elements_ = 0;
  Queues queues_;
  at::Tensor storage_;            // [slot][elements]
  at::Tensor spatial_peepholes_;  // [queue, 3, H*W, C], or undefined
  bool cleared_ = false;          // or else its first numbers are stored, not added
};

}  // namespace memx

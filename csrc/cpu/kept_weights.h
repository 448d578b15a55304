// Packed weights kept from one inference call to the next: packing does not depend on the frame.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/clone.h>

#include <cstring>
#include <list>
#include <mutex>

#include "step.h"

namespace memx {

// What a packed form depends on beside the weight itself.
struct PackedLayout {
  at::ScalarType dtype;
  int64_t lanes;
  Algorithm algorithm;

  bool operator==(const PackedLayout&) const = default;
};

// Weights are known by their content: a copy lies beside the packed form, and is compared with the
// parameter byte by byte. Whatever changes a parameter is seen then: an optimiser, load_state_dict,
// writing through .data, another tensor at the same address. (Version counters and addresses miss
// some of these.) Reading a weight once costs a fraction of packing it.
class KeptWeights {
 public:
  struct Statistics {
    int64_t entries, bytes, hits;
  };

  // The packed form, by `pack` unless it is here already. The least recently used ones go first
  // when there is no room.
  template <class Pack>
  at::Tensor get(const at::Tensor& weight, const PackedLayout& layout, const Pack& pack) {
    if (!weight.is_contiguous() || int64_t(weight.nbytes()) > kMostBytes / 4) {
      return pack();
    }
    if (const at::Tensor found = find(weight, layout); found.defined()) {
      return found;
    }
    // Unlocked: others may look and pack meanwhile. Two that pack the same keep it twice.
    const Entry entry{at::clone(weight.detach()), layout, pack()};
    insert(entry);
    return entry.packed;
  }

  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.clear();
    bytes_ = 0;
  }

  Statistics statistics() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {int64_t(entries_.size()), bytes_, hits_};
  }

 private:
  static constexpr int64_t kMostBytes = 64 << 20;

  struct Entry {
    at::Tensor weight;
    PackedLayout layout;
    at::Tensor packed;

    int64_t bytes() const { return weight.nbytes() + packed.nbytes(); }
  };

  at::Tensor find(const at::Tensor& weight, const PackedLayout& layout) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->layout == layout && same_content(entry->weight, weight)) {
        entries_.splice(entries_.begin(), entries_, entry);
        ++hits_;
        return entry->packed;
      }
    }
    return {};
  }

  void insert(const Entry& entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_front(entry);
    bytes_ += entry.bytes();
    while (bytes_ > kMostBytes) {
      bytes_ -= entries_.back().bytes();
      entries_.pop_back();
    }
  }

  static bool same_content(const at::Tensor& one, const at::Tensor& other) {
    return one.scalar_type() == other.scalar_type() && one.sizes() == other.sizes() &&
           std::memcmp(one.const_data_ptr(), other.const_data_ptr(), one.nbytes()) == 0;
  }

  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the most recently used first
  int64_t bytes_ = 0, hits_ = 0;
};

// Those of this process. Never destroyed: threads may still run when it ends.
inline KeptWeights& kept_weights() {
  static KeptWeights& kept = *new KeptWeights;
  return kept;
}

}  // namespace memx

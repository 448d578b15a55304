// Allocation of the large results, and of scratch.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

#include "tuning.h"

namespace memx {

// at::empty, with huge pages where the system grants them on request. A sequence's results are
// hundreds of megabytes that are written once: with small pages, a good part of the time goes into
// the page faults of that first write.
inline at::Tensor empty_large(at::IntArrayRef sizes, const at::TensorOptions& options) {
  at::Tensor tensor = at::empty(sizes, options);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + tensor.nbytes()) / kHugePage * kHugePage;
  // Advice only: where it is refused, nothing changes.
  if (tuning().huge_pages && first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

// Scratch of that many bytes for every thread.
inline at::Tensor empty_scratch(int64_t bytes) {
  return at::empty({at::get_num_threads() * bytes}, at::kByte);
}

}  // namespace memx

#include "allocation.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/native/TensorFactories.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <list>
#include <memory>
#include <mutex>

#include "tuning.h"

namespace memx {
namespace {

// Below this malloc keeps blocks itself.
constexpr size_t kLeastBytes = 128 * 1024;

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

// Huge pages for the block; where they are refused, nothing changes.
void ask_for_huge_pages([[maybe_unused]] const Block& block) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block.data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + block.bytes) / kHugePage * kHugePage;
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
}

// How much may be kept. Where the machine does not say how much memory it has: nothing.
size_t most_kept() {
#if defined(_SC_PHYS_PAGES)
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? size_t(pages) * size_t(page) / 8 : 0;
#else
  return 0;
#endif
}

// Kept blocks lie in a row, the longest kept first. Invariants: in use + kept <= 5/4 most, and
// kept <= most_kept(). The quarter is for blocks of a step that are not in use at the same time.
class LargeAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLeastBytes) {
      return c10::GetCPUAllocator()->allocate(bytes);
    }
    auto block = std::make_unique<Block>(tuning().keep_memory ? take_kept(bytes) : Block{});
    if (block->data == nullptr) {
      *block = make(bytes);
    }
    report(*block, int64_t(block->bytes));
    void* const data = block->data;
    return {data, block.release(), &give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  LargeMemory statistics() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {int64_t(in_use_), int64_t(kept_), int64_t(most_), made_};
  }

  void release() {
    std::list<Block> released;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      most_ = in_use_;
      released.swap(blocks_);
      kept_ = 0;
    }
    hand_back(released);
  }

 private:
  // The smallest kept block that fits, if no more than an eighth of it is wasted.
  Block take_kept(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const bool fits = block->bytes >= bytes && block->bytes - bytes <= block->bytes / 8;
      if (fits && (best == blocks_.end() || block->bytes < best->bytes)) {
        best = block;
      }
    }
    if (best == blocks_.end()) {
      return {};
    }
    const Block found = *best;
    blocks_.erase(best);
    kept_ -= found.bytes;
    in_use_ += found.bytes;
    most_ = std::max(most_, in_use_);
    return found;
  }

  Block make(size_t bytes) {
    std::list<Block> released;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_ += bytes;
      most_ = std::max(most_, in_use_);
      ++made_;
      released = beyond_limits();
    }
    hand_back(released);
    const Block block{memory(bytes), bytes};
    if (tuning().huge_pages) {
      ask_for_huge_pages(block);
    }
    return block;
  }

  // From the system; before it has too little, what is kept goes.
  void* memory(size_t bytes) {
    try {
      return c10::alloc_cpu(bytes);
    } catch (const c10::Error&) {
      release();
    }
    try {
      return c10::alloc_cpu(bytes);
    } catch (const c10::Error&) {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_ -= bytes;
      most_ = in_use_;
      throw;
    }
  }

  // Takes out the longest kept blocks, as the invariants demand.
  std::list<Block> beyond_limits() {
    std::list<Block> released;
    while (in_use_ + kept_ > most_ + most_ / 4 || kept_ > most_kept_) {
      kept_ -= blocks_.front().bytes;
      released.splice(released.end(), blocks_, blocks_.begin());
    }
    return released;
  }

  static void hand_back(const std::list<Block>& blocks) {
    for (const Block& block : blocks) {
      c10::free_cpu(block.data);
    }
  }

  // The deleter of a tensor's storage.
  static void give_back(void* context);

  // Whoever profiles memory sees large blocks as those of PyTorch.
  void report(const Block& block, int64_t change) const {
    const LargeMemory now = statistics();
    c10::reportMemoryUsageToProfiler(block.data, change, now.in_use, now.in_use + now.kept,
                                     c10::Device(c10::kCPU));
  }

  void take_back(const Block& block) {
    std::list<Block> released{block};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_ -= block.bytes;
      if (tuning().keep_memory && block.bytes <= most_kept_) {
        kept_ += block.bytes;
        blocks_.splice(blocks_.end(), released);
        released = beyond_limits();
      }
    }
    hand_back(released);
  }

  const size_t most_kept_ = most_kept();
  mutable std::mutex mutex_;
  std::list<Block> blocks_;
  size_t in_use_ = 0, kept_ = 0, most_ = 0;
  int64_t made_ = 0;
};

// That of this process. Never destroyed: tensors may outlive everything else.
LargeAllocator& large_allocator() {
  static LargeAllocator& allocator = *new LargeAllocator;
  return allocator;
}

void LargeAllocator::give_back(void* context) {
  Block* const block = static_cast<Block*>(context);
  LargeAllocator& allocator = large_allocator();
  allocator.take_back(*block);
  allocator.report(*block, -int64_t(block->bytes));
  delete block;
}

}  // namespace

at::Tensor empty_large(at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor tensor(at::detail::empty_generic(
      sizes, &large_allocator(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, std::nullopt));
  // As at::empty does. See Note [Enabling Deterministic Operations] of PyTorch.
  const at::Context& context = at::globalContext();
  if (context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory()) {
    at::native::fill_empty_deterministic_(tensor);
  }
  return tensor;
}

at::Tensor zeros_large(at::IntArrayRef sizes, at::ScalarType dtype) {
  return empty_large(sizes, dtype).zero_();
}

at::Tensor copy_large(const at::Tensor& tensor) {
  return empty_large(tensor.sizes(), tensor.scalar_type()).copy_(tensor);
}

at::Tensor empty_scratch(int64_t bytes) {
  return empty_large({at::get_num_threads() * bytes}, at::kByte);
}

LargeMemory large_memory() { return large_allocator().statistics(); }

void release_kept_memory() { large_allocator().release(); }

}  // namespace memx

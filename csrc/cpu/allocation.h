// Allocation of the large results, and of scratch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace memx {

// What a sequence needs is hundreds of megabytes, of the same sizes step for step of a training, and
// written once. Were they handed back to the system each time, a good part of the time would go into
// new pages: they come one by one, and cleared. So there are two remedies:
//
// - large blocks are of huge pages where the system grants them on request;
// - blocks that are no longer needed are kept for the next ones of about their size: an eighth of the
//   machine's memory at most, and never so much that the process holds a quarter more than it once
//   had in use at the same time. (Telling the system that it may take kept pages, by MADV_FREE,
//   costs more than the new pages would.)

// at::empty on the CPU.
at::Tensor empty_large(at::IntArrayRef sizes, at::ScalarType dtype);
// at::zeros.
at::Tensor zeros_large(at::IntArrayRef sizes, at::ScalarType dtype);
// A contiguous copy.
at::Tensor copy_large(const at::Tensor& tensor);
// Scratch of that many bytes for every thread.
at::Tensor empty_scratch(int64_t bytes);

// Bytes of large blocks: in tensors, kept beside them, and the most that were in tensors at once since
// what was kept was given back. And how many blocks the system was ever asked for.
struct LargeMemory {
  int64_t in_use, kept, most, made;
};
LargeMemory large_memory();

// Gives what is kept back to the system.
void release_kept_memory();

}  // namespace memx

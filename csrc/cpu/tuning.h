// Optimisations that can be switched off, to measure what each of them is worth.
#pragma once

namespace memx {

struct Tuning {
  bool winograd = true;     // for 3 x 3 and 5 x 5 kernels in single precision
  bool huge_pages = true;   // asked for where results are large
  bool keep_memory = true;  // of large blocks, for the next ones
  bool strips = true;       // or else all tiles of a step, then the next step
};

// What the next call of an operator will use. Not to be changed while kernels run.
inline Tuning& tuning() {
  static Tuning in_use;
  return in_use;
}

}  // namespace memx

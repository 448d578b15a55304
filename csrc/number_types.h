// The storage types S, in which tensors are stored, and A, in which arithmetic is done and sums are
// kept: float, or double for double. And the number of gates.
#pragma once

#include <cstdint>

namespace memx {

constexpr int64_t kGates = 4;  // i, f, g, o

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <class T>
using accumulate_t = typename AccumulateType<T>::type;

}  // namespace memx

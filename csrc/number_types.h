// The storage types S, in which tensors are stored, and A, in which arithmetic is done and sums are
// kept: float, or double for double.
#pragma once

#include <cstdint>

namespace memx {

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

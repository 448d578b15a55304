// The types a computation is made of: storage types S, in which tensors are stored, operand types O,
// which the products take, and A, in which arithmetic is done and sums are kept (float, or double
// for double).
//
// An operand is what one multiply-add takes of an image or of a weight in each lane: one number, or
// two neighbouring ones whose products are summed. Packed weights, halo images and gate gradients are
// arrays of the operand's numbers.
#pragma once

#include <cstdint>

namespace memx {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

struct Bfloat16Pair {
  Bfloat16 first, second;
};

// For a storage or an operand type.
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

template <class O>
struct OperandTraits {
  using number = O;
};
template <>
struct OperandTraits<Bfloat16Pair> {
  using number = Bfloat16;
};
template <class O>
using number_t = typename OperandTraits<O>::number;
template <class O>
constexpr int64_t depth = sizeof(O) / sizeof(number_t<O>);

}  // namespace memx

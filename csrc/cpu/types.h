// Operand types O, which the products take of an image or of a weight in each lane: one number, or
// two neighbouring ones whose products are summed. Packed weights, halo images and gate gradients are
// arrays of the operand's numbers.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace memx {

struct Bfloat16Pair {
  Bfloat16 first, second;
};

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

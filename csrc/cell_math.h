// Equations (1)-(5) of a ConvLSTM step and their derivative, for one channel of one pixel or for a
// vector of channels: T is float, double, or a vector of either.
//
// Everything here is branch-free arithmetic. Gate order is i, f, g, o and peephole order i, f, o
// everywhere. This header is compiled once for every instruction set inside a target region, so it
// includes nothing that could emit a shared inline function.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "export.h"

namespace memx {
namespace MEMX_ISA {

// The number type of T, and the unsigned integers of the same width: a vector's for a vector.
template <class T>
struct Numbers {
  using element = std::remove_reference_t<decltype((*static_cast<T*>(nullptr))[0])>;
  typedef uint32_t bits __attribute__((vector_size(sizeof(T))));
};
template <>
struct Numbers<float> {
  using element = float;
  using bits = uint32_t;
};
template <>
struct Numbers<double> {
  using element = double;
};
template <class T>
using element_t = typename Numbers<T>::element;
template <class T>
constexpr bool is_double = sizeof(element_t<T>) == sizeof(double);

// function(x) for a number, lane by lane for a vector.
template <class T, class Function>
MEMX_INLINE T each_lane(T x, const Function& function) {
  if constexpr (sizeof(T) == sizeof(element_t<T>)) {
    return function(x);
  } else {
    for (unsigned j = 0; j < sizeof(T) / sizeof(element_t<T>); ++j) {
      x[j] = function(x[j]);
    }
    return x;
  }
}

// x within bounds; NaN is kept.
template <class T>
MEMX_INLINE T clamped(T x, element_t<T> least, element_t<T> most) {
#if defined(MEMX_AVX512)
  // What the comparisons below become takes two instructions each. Of NaN and a number, the maximum
  // and the minimum are the second operand.
  if constexpr (sizeof(T) == 64 && !is_double<T>) {
    const __m512 raised = _mm512_maskz_max_ps(0xffff, _mm512_set1_ps(least), __m512(x));
    return T(_mm512_maskz_min_ps(0xffff, _mm512_set1_ps(most), raised));
  }
#endif
  x = x < least ? T{} + least : x;
  return x > most ? T{} + most : x;
}

// exp. In single precision for |x| <= 60 (clamped: sigmoid needs no more, and no denormal ever
// appears); NaN is kept. 2^n is added to the exponent field; the remainder in [-ln2/2, ln2/2] goes
// through a minimax polynomial whose relative error is 3.1e-9.
template <class T>
MEMX_INLINE T exponential(T x) {
  if constexpr (is_double<T>) {
    return each_lane(x, [](double value) { return std::exp(value); });
  } else {
    using Bits = typename Numbers<T>::bits;
    x = clamped(x, -60.0f, 60.0f);
    const T shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: n is in the low bits
    const T n = shifted - 12582912.0f;
    const T r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    T p = r * 1.3814539e-3f + 8.3687454e-3f;
    p = p * r + 4.1668389e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * r * r + r + 1.0f;
    const Bits exponent = (__builtin_bit_cast(Bits, shifted) << 23) + 0x3f800000u;
    return p * __builtin_bit_cast(T, exponent);
  }
}

// a / b. For vectors of AVX-512 by an estimate of 1 / b of 14 bits and one step of Newton's method,
// within 2 ulp: a division would take as long as all the rest of a gate. Not for b that is 0, denormal
// or infinite.
template <class T>
MEMX_INLINE T quotient(T a, T b) {
#if defined(MEMX_AVX512)
  if constexpr (sizeof(T) == 64 && !is_double<T>) {
    const T estimate = T(_mm512_maskz_rcp14_ps(0xffff, __m512(b)));
    return a * (estimate + estimate * (1.0f - b * estimate));
  }
#endif
  return a / b;
}

// tanh. In single precision an odd rational minimax approximation on [-8.2, 8.2]: below 5 ulp
// everywhere, keeps -0, tiny arguments and NaN, and saturates at 0.9999999.
template <class T>
MEMX_INLINE T hyperbolic_tangent(T x) {
  if constexpr (is_double<T>) {
    return each_lane(x, [](double value) { return std::tanh(value); });
  } else {
    x = clamped(x, -8.2f, 8.2f);
    const T u = x * x;
    T p = u * -1.0880397738376527e-13f + 6.137542557516085e-11f;
    p = p * u - 2.189732484225715e-08f;
    p = p * u + 1.1548119800863788e-05f;
    p = p * u + 0.0031407340429723263f;
    p = p * u + 0.13116717338562012f;
    p = p * u + 1.0f;
    T q = u * 0.0002600191510282457f + 0.02464093454182148f;
    q = q * u + 0.4645004868507385f;
    q = q * u + 1.0f;
    return quotient(x * p, q);
  }
}

// The two functions that the equations are made of, as arithmetic.
struct Arithmetic {
  template <class T>
  MEMX_INLINE_MEMBER static T sigmoid(T x) {
    constexpr element_t<T> one = 1;
    return quotient(T{} + one, one + exponential(-x));
  }
  template <class T>
  MEMX_INLINE_MEMBER static T tanh(T x) {
    return hyperbolic_tangent<T>(x);
  }
};

// What the gates i, f and o go through, and with which functions. `derivative` takes what came out.
template <class F>
struct LogisticSigmoid {
  using Functions = F;

  template <class T>
  MEMX_INLINE_MEMBER T operator()(T x) const {
    return F::sigmoid(x);
  }
  template <class T>
  MEMX_INLINE_MEMBER T derivative(T gate) const {
    constexpr element_t<T> one = 1;
    return gate * (one - gate);
  }
};

// clamp(slope x + 1/2, 0, 1), which keeps NaN. The derivative is 0 where the result is 0 or 1.
template <class A, class F>
struct HardSigmoid {
  using Functions = F;

  A slope;

  template <class T>
  MEMX_INLINE_MEMBER T operator()(T x) const {
    const T ramp = x * slope + A(0.5);
    return clamped(ramp, A(0), A(1));
  }
  template <class T>
  MEMX_INLINE_MEMBER T derivative(T gate) const {
    const T from_zero = gate > A(0) ? T{} + slope : T{};
    return gate < A(1) ? from_zero : T{};
  }
};

template <class T>
struct Peephole {
  T i, f, o;
};

template <class T>
struct Gates {
  T i, f, g, o;
};

template <class T>
struct CellState {
  T cell, hidden;
};

// Calls body(sigmoid) for what the gates go through; of slope 0 it is the logistic sigmoid.
template <class Functions, class A, class Body>
MEMX_INLINE void for_sigmoid(A hard_sigmoid_slope, const Body& body) {
  if (hard_sigmoid_slope != A(0)) {
    body(HardSigmoid<A, Functions>{hard_sigmoid_slope});
  } else {
    body(LogisticSigmoid<Functions>{});
  }
}

// Calls body(output_sees_current as a constant, sigmoid) for a variant of the equations.
template <class Functions, class A, class Body>
MEMX_INLINE void for_equations(bool output_sees_current, A hard_sigmoid_slope, const Body& body) {
  for_sigmoid<Functions>(hard_sigmoid_slope, [&](const auto& sigmoid) {
    output_sees_current ? body(std::true_type{}, sigmoid) : body(std::false_type{}, sigmoid);
  });
}

// Equations (1)-(5): activates the pre-activations `z` in place and gives C_t and H_t. The output
// gate looks at C_t when `output_sees_current`, a bool or a constant, else at C_{t-1}.
template <class T, class Flag, class Sigmoid>
MEMX_INLINE CellState<T> cell_forward(Gates<T>& z, const Peephole<T>& peephole, T previous_cell,
                                      Flag output_sees_current, const Sigmoid& sigmoid) {
  z.i = sigmoid(z.i + peephole.i * previous_cell);
  z.f = sigmoid(z.f + peephole.f * previous_cell);
  z.g = Sigmoid::Functions::tanh(z.g);
  const T cell = z.f * previous_cell + z.i * z.g;
  z.o = sigmoid(z.o + peephole.o * (output_sees_current ? cell : previous_cell));
  return {cell, z.o * Sigmoid::Functions::tanh(cell)};
}

// The reverse of cell_forward. In: the gates after activation, C_{t-1}, C_t, the gradient of H_t
// and the gradient of C_t that came from step t+1. Out: the gradients of the four pre-activations;
// the gradient of C_{t-1} replaces `cell_gradient`.
template <class T, class Flag, class Sigmoid>
MEMX_INLINE Gates<T> cell_backward(const Gates<T>& gate, const Peephole<T>& peephole,
                                   T previous_cell, T cell, T hidden_gradient, T& cell_gradient,
                                   Flag output_sees_current, const Sigmoid& sigmoid) {
  constexpr element_t<T> one = 1;
  const T tanh_cell = Sigmoid::Functions::tanh(cell);
  Gates<T> d;
  d.o = hidden_gradient * tanh_cell * sigmoid.derivative(gate.o);
  const T by_output = peephole.o * d.o;
  T d_cell = cell_gradient + hidden_gradient * gate.o * (one - tanh_cell * tanh_cell);
  if (output_sees_current) {
    d_cell += by_output;
  }
  d.i = d_cell * gate.g * sigmoid.derivative(gate.i);
  d.f = d_cell * previous_cell * sigmoid.derivative(gate.f);
  d.g = d_cell * gate.i * (one - gate.g * gate.g);
  cell_gradient = d_cell * gate.f + peephole.i * d.i + peephole.f * d.f;
  if (!output_sees_current) {
    cell_gradient += by_output;
  }
  return d;
}

}  // namespace MEMX_ISA
}  // namespace memx

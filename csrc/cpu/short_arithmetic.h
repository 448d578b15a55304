// The functions of the equations for states that are stored as bfloat16, of 8 significant bits: with
// relative errors below 2^-12 they take half as many instructions as those of cell_math.h. NaN stays
// NaN, and tanh(0) is 0.
#pragma once

#include "storage.h"

namespace memx {
namespace MEMX_ISA {

#if defined(MEMX_AVX512)
// 1 / x to 14 bits.
MEMX_INLINE __m512 reciprocal14(__m512 x) { return _mm512_maskz_rcp14_ps(0xffff, x); }

// 2^x, as a cubic polynomial on the way from one whole exponent to the next that is exact at both:
// relative error 1.1e-4.
MEMX_INLINE __m512 power_of_two(__m512 x) {
  constexpr int kDown = 0x9;  // the distance from the whole number below, no exceptions
  typedef float Vec __attribute__((vector_size(64)));
  const Vec r = Vec(_mm512_maskz_reduce_ps(0xffff, x, kDown));
  Vec p = r * 0.07826797f + 0.22630768f;
  p = p * r + 0.69542435f;
  p = p * r + 1.0f;
  return _mm512_maskz_scalef_ps(0xffff, __m512(p), x);
}
#endif

struct ShortArithmetic {
  template <class T>
  MEMX_INLINE_MEMBER static T sigmoid(T x) {
#if defined(MEMX_AVX512)
    if constexpr (sizeof(T) == 64 && !is_double<T>) {
      return T(reciprocal14(__m512(1.0f + T(power_of_two(__m512(x * -1.44269504f))))));
    }
#endif
    return Arithmetic::sigmoid(x);
  }

  // An odd rational approximation on [-5, 5], minimax but for a factor that keeps it below 1 whatever the
  // error of the reciprocal, without which the relative error is 7.7e-5; beyond it is 0.99994.
  template <class T>
  MEMX_INLINE_MEMBER static T tanh(T x) {
#if defined(MEMX_AVX512)
    if constexpr (sizeof(T) == 64 && !is_double<T>) {
      x = clamped(x, -5.0f, 5.0f);
      const T u = x * x;
      T p = u * 0.00067054084f + 0.10241489f;
      p = p * u + 0.99992303f;
      T q = u * 0.012819811f + 0.43543223f;
      q = q * u + 1.0f;
      return x * p * T(reciprocal14(__m512(q)));
    }
#endif
    return Arithmetic::tanh(x);
  }
};

// What states of a storage type go through.
template <class S>
using functions_t = std::conditional_t<std::is_same_v<S, Bfloat16>, ShortArithmetic, Arithmetic>;

}  // namespace MEMX_ISA
}  // namespace memx

// Vectors of the type arithmetic is done in, and the way to them from the storage types and back. The
// conversions are written so that loops over them become vector code: no branches.
#pragma once

#include <utility>

#include "../cell_math.h"
#include "types.h"

namespace memx {

namespace MEMX_ISA {

template <class A, int V>
struct VectorOf {
  typedef A type __attribute__((vector_size(V * sizeof(A))));
};
template <class A, int V>
using vector_t = typename VectorOf<A, V>::type;
template <class Vec>
constexpr int lanes = sizeof(Vec) / sizeof(element_t<Vec>);
template <int V>
struct HalfWords {
  typedef uint16_t type __attribute__((vector_size(V * sizeof(uint16_t))));
};

MEMX_INLINE double widen(double x) { return x; }
MEMX_INLINE float widen(float x) { return x; }
MEMX_INLINE float widen(Bfloat16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

// Shifting the 15 value bits under a float's exponent leaves it 112 too small; the product with
// 2^112 repairs normal and subnormal numbers alike. All-ones exponents become the float's own.
MEMX_INLINE float widen(Float16 x) {
  const uint32_t value = uint32_t(x.bits & 0x7fffu) << 13;
  const float scaled = __builtin_bit_cast(float, value) * 0x1p112f;
  const uint32_t finite = __builtin_bit_cast(uint32_t, scaled);
  const uint32_t magnitude = value >= 0x0f800000u ? (value | 0x7f800000u) : finite;
  return __builtin_bit_cast(float, magnitude | (uint32_t(x.bits & 0x8000u) << 16));
}

MEMX_INLINE void narrow(double x, double& out) { out = x; }
MEMX_INLINE void narrow(float x, float& out) { out = x; }

// Round to nearest even; NaN stays NaN (its quiet bit is set).
MEMX_INLINE void narrow(float x, Bfloat16& out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = uint16_t(x != x ? ((bits >> 16) | 0x40u) : rounded);
}

// Round to nearest even. Numbers below 2^-14 are aligned to the subnormal grid by adding 0.5, whose
// last place is 2^-24; larger ones are rounded on their own bits; above 65520 lies infinity.
MEMX_INLINE void narrow(float x, Float16& out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const float aligned = __builtin_bit_cast(float, magnitude) + 0.5f;
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, aligned) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out.bits = uint16_t(half | sign);
}

// One T (a number or a vector) at any element's address; it may alias whatever is stored there.
template <class T>
MEMX_INLINE T load(const element_t<T>* in) {
  typedef T Unaligned __attribute__((aligned(sizeof(element_t<T>)), may_alias));
  return *(const Unaligned*)in;
}

template <class T>
MEMX_INLINE void store(T value, element_t<T>* out) {
  typedef T Unaligned __attribute__((aligned(sizeof(element_t<T>)), may_alias));
  *(Unaligned*)out = value;
}

// A full vector from memory of any storage type, and back.
template <class Vec, class S>
MEMX_INLINE Vec load_vector(const S* in) {
  if constexpr (sizeof(S) == sizeof(element_t<Vec>)) {
    return load<Vec>(in);
  } else {
    element_t<Vec> buffer[lanes<Vec>];
    for (int j = 0; j < lanes<Vec>; ++j) {
      buffer[j] = widen(in[j]);
    }
    return load<Vec>(buffer);
  }
}

template <class Vec, class S>
MEMX_INLINE void store_vector(Vec value, S* out) {
  if constexpr (sizeof(S) == sizeof(element_t<Vec>)) {
    store(value, out);
  } else {
    element_t<Vec> buffer[lanes<Vec>];
    store(value, buffer);
    for (int j = 0; j < lanes<Vec>; ++j) {
      narrow(buffer[j], out[j]);
    }
  }
}

// bfloat16 is the upper half of a float: the conversions above, written for all lanes at once.
template <class Vec>
using half_words_t = typename HalfWords<lanes<Vec>>::type;

template <class Vec>
MEMX_INLINE Vec load_vector(const Bfloat16* in) {
  using Bits = typename Numbers<Vec>::bits;
  half_words_t<Vec> words;
  __builtin_memcpy(&words, in, sizeof(words));
#if defined(MEMX_AVX512)
  if constexpr (sizeof(words) == 32) {  // GCC converts each half by itself, and joins them
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, __m256i(words));
    return __builtin_bit_cast(Vec, Bits(wide) << 16);
  }
#endif
  return __builtin_bit_cast(Vec, __builtin_convertvector(words, Bits) << 16);
}

template <class Vec>
MEMX_INLINE void store_vector(Vec value, Bfloat16* out) {
#if defined(MEMX_BFLOAT16_PAIRS)
  if constexpr (sizeof(Vec) == 64) {  // numbers below the least normal one become zero
    const __m256bh words = _mm512_cvtneps_pbh(__m512(value));
    __builtin_memcpy(out, &words, sizeof(words));
    return;
  }
#endif
  using Bits = typename Numbers<Vec>::bits;
  const Bits bits = __builtin_bit_cast(Bits, value);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits chosen = value != value ? ((bits >> 16) | 0x40u) : rounded;
  const auto words = __builtin_convertvector(chosen, half_words_t<Vec>);
  __builtin_memcpy(out, &words, sizeof(words));
}

// The first `count` lanes of a vector, the rest zero.
template <class Vec, class S>
MEMX_INLINE Vec load_lanes(const S* in, int64_t count) {
  if (count == lanes<Vec>) {
    return load_vector<Vec>(in);
  }
  element_t<Vec> buffer[lanes<Vec>] = {};
  for (int64_t j = 0; j < count; ++j) {
    buffer[j] = widen(in[j]);
  }
  return load<Vec>(buffer);
}

template <class Vec, class S>
MEMX_INLINE void store_lanes(Vec value, int64_t count, S* out) {
  if (count == lanes<Vec>) {
    store_vector(value, out);
    return;
  }
  element_t<Vec> buffer[lanes<Vec>];
  store(value, buffer);
  for (int64_t j = 0; j < count; ++j) {
    narrow(buffer[j], out[j]);
  }
}

// Lanes of two vectors in turn: those of the lower halves, or of the upper ones.
template <class Vec, int... I>
MEMX_INLINE Vec interleaved(Vec a, Vec b, bool upper, std::integer_sequence<int, I...>) {
  constexpr int count = lanes<Vec>;
#if defined(__clang__)
  return upper ? __builtin_shufflevector(a, b, (count / 2 + I / 2 + I % 2 * count)...)
               : __builtin_shufflevector(a, b, (I / 2 + I % 2 * count)...);
#else
  typedef decltype(a < b) Mask;
  return upper ? __builtin_shuffle(a, b, Mask{(count / 2 + I / 2 + I % 2 * count)...})
               : __builtin_shuffle(a, b, Mask{(I / 2 + I % 2 * count)...});
#endif
}

// As many rows as a vector has lanes become columns: each round moves one bit of the row number into
// the lane number.
template <class Vec>
MEMX_INLINE void transpose(Vec (&rows)[lanes<Vec>]) {
  constexpr int count = lanes<Vec>;
  constexpr std::make_integer_sequence<int, count> all;
#pragma GCC unroll 4
  for (int round = 1; round < count; round *= 2) {
    Vec next[count];
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) {
      next[2 * i] = interleaved(rows[i], rows[i + count / 2], false, all);
      next[2 * i + 1] = interleaved(rows[i], rows[i + count / 2], true, all);
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      rows[i] = next[i];
    }
  }
}

}  // namespace MEMX_ISA
}  // namespace memx

// The one-dimensional filters of which winograd.h makes its convolutions: two neighbouring outputs
// of a kernel of K taps, from K + 1 inputs.
//
// F(2, 3) of Winograd (Lavin & Gray 2016) takes 4 products for 3 taps, F(2, 2) takes 3 for 2 more.
// A kernel of 5 taps is the sum of both, over inputs 0..3 and 3..5: 7 products instead of 10. No
// transform multiplies by anything but 1, -1 and 1/2, so rounding errors stay at the level of the
// direct sum, which they do not for the shorter filters that take 5 taps at once.
//
//   y = A^T [ (G g) . (B^T d) ]          dg = G^T [ (B^T d) . (A dy) ]
#pragma once

#include <type_traits>

#include "../export.h"
#include "step.h"

namespace memx {
namespace MEMX_ISA {

// Below, T is a number or a vector of them; `i` is the first product of a pair of further taps.
template <int K>
struct Filter {
  static constexpr int kProducts = filter_products(K);
  static constexpr int kInputs = K + 1;

  // t[kProducts] = B^T d
  template <class T>
  static MEMX_INLINE_MEMBER void transform_input(const T* d, T* t) {
    t[0] = d[0] - d[2], t[1] = d[1] + d[2], t[2] = d[2] - d[1], t[3] = d[1] - d[3];
#pragma GCC unroll 4
    for (int tap = 3, i = 4; tap < K; tap += 2, i += 3) {
      t[i] = d[tap] - d[tap + 1], t[i + 1] = d[tap + 1], t[i + 2] = d[tap + 1] - d[tap + 2];
    }
  }

  // y[2] = A^T m
  template <class T>
  static MEMX_INLINE_MEMBER void transform_products(const T* m, T* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
#pragma GCC unroll 4
    for (int i = 4; i < kProducts; i += 3) {
      y[0] += m[i] + m[i + 1];
      y[1] += m[i + 1] - m[i + 2];
    }
  }

  // t[kProducts] = A d
  template <class T>
  static MEMX_INLINE_MEMBER void transform_gradient(const T* d, T* t) {
    t[0] = d[0], t[1] = d[0] + d[1], t[2] = d[0] - d[1], t[3] = -d[1];
#pragma GCC unroll 4
    for (int i = 4; i < kProducts; i += 3) {
      t[i] = d[0], t[i + 1] = d[0] + d[1], t[i + 2] = -d[1];
    }
  }

  // u[kProducts] = G g
  template <class T>
  static MEMX_INLINE_MEMBER void transform_kernel(const T* g, T* u) {
    const T outer = 0.5 * (g[0] + g[2]), inner = 0.5 * g[1];
    u[0] = g[0], u[1] = outer + inner, u[2] = outer - inner, u[3] = g[2];
#pragma GCC unroll 4
    for (int tap = 3, i = 4; tap < K; tap += 2, i += 3) {
      u[i] = g[tap], u[i + 1] = g[tap] + g[tap + 1], u[i + 2] = g[tap + 1];
    }
  }

  // g[K] = G^T u
  template <class T>
  static MEMX_INLINE_MEMBER void transform_kernel_gradient(const T* u, T* g) {
    const T sum = 0.5 * (u[1] + u[2]);
    g[0] = u[0] + sum, g[1] = 0.5 * (u[1] - u[2]), g[2] = sum + u[3];
#pragma GCC unroll 4
    for (int tap = 3, i = 4; tap < K; tap += 2, i += 3) {
      g[tap] = u[i] + u[i + 1], g[tap + 1] = u[i + 1] + u[i + 2];
    }
  }
};

// Calls body(K as a constant) for a kernel size that has a filter.
template <class Body>
MEMX_INLINE void for_filter(int64_t kernel, const Body& body) {
  if (kernel == 3) {
    body(std::integral_constant<int, 3>{});
  } else {
    body(std::integral_constant<int, 5>{});
  }
}

}  // namespace MEMX_ISA
}  // namespace memx

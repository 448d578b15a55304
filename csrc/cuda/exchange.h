// Where K is shared among warps: their sums, added up.
#pragma once

#include "convolution.h"

namespace memx::cuda {

// Shared memory: [row][other share][position][number][lane].
template <class Shape>
constexpr int kExchangedNumbers = 2 * Shape::kColumnTiles;  // a lane's of a row

template <class Shape>
constexpr int kExchangedBytes =
    Shape::kRows * (Shape::kShares - 1) * Shape::kPositions * kExchangedNumbers<Shape> * 32 *
    int(sizeof(typename Shape::numbers::accumulate));

// The lane's of one row, from one of the shares that do not own it.
template <class Shape>
MEMX_DEVICE auto* exchanged(int row, int from) {
  const int owner = row / Shape::kOwnRows;
  const int other = row * (Shape::kShares - 1) + (from < owner ? from : from - 1);
  const int place = (other * Shape::kPositions + Shape::position()) * kExchangedNumbers<Shape>;
  return reinterpret_cast<typename Shape::numbers::accumulate*>(shared_memory()) + place * 32 +
         lane();
}

// Collective, of a block. What the warps of a position have of a row goes to the one that owns it,
// which adds it up in a fixed order.
template <class Shape>
MEMX_DEVICE void exchange(const typename Shape::sums& sum, typename Shape::own_sums& own) {
  barrier();  // all have read the last stage
#pragma unroll
  for (int row = 0; row < Shape::kRows; ++row) {
    if (row / Shape::kOwnRows != Shape::share()) {
      auto* place = exchanged<Shape>(row, Shape::share());
#pragma unroll
      for (int n = 0; n < kExchangedNumbers<Shape>; ++n) {
        place[n * 32] = sum[row / 2][n / 2][row % 2 * 2 + n % 2];
      }
    }
  }
  barrier();
#pragma unroll
  for (int number = 0; number < Shape::kOwnRows; ++number) {
    const int own_row = Shape::first_own_row() + number;
#pragma unroll
    for (int n = 0; n < kExchangedNumbers<Shape>; ++n) {
      auto& total = own[number / 2][n / 2][number % 2 * 2 + n % 2];
      total = 0;
#pragma unroll
      for (int row = number; row < Shape::kRows; row += Shape::kOwnRows) {
        total = row == own_row ? sum[row / 2][n / 2][row % 2 * 2 + n % 2] : total;
      }
    }
    for (int from = 0; own_row < Shape::kRows && from < Shape::kShares; ++from) {
      if (from != Shape::share()) {
        const auto* place = exchanged<Shape>(own_row, from);
#pragma unroll
        for (int n = 0; n < kExchangedNumbers<Shape>; ++n) {
          own[number / 2][n / 2][number % 2 * 2 + n % 2] += place[n * 32];
        }
      }
    }
  }
}

// body(the sums of the warp's own rows).
template <class Shape, class Body>
MEMX_DEVICE void with_own_sums(const typename Shape::sums& sum, const Body& body) {
  if constexpr (Shape::kShares == 1) {
    body(sum);
  } else {
    typename Shape::own_sums own;
    exchange<Shape>(sum, own);
    body(own);
  }
}

}  // namespace memx::cuda

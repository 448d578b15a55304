// 3x3 and 5x5 convolutions by Winograd's minimal filtering: a 2x2 block of outputs costs 16 products
// instead of 36, or 49 instead of 100. In two dimensions, with the one-dimensional transforms of
// filter.h, for input block d, kernel g, output block Y:
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A          dg = G^T [ (B^T d B) . (A dY A^T) ] G
//
// Each product sums over channels alone: the positions of a transformed block are as many
// independent matrix products over the blocks of a tile.
#pragma once

#include "filter.h"
#include "product.h"

namespace memx {
namespace MEMX_ISA {

// The 2x2 blocks that cover a tile; the last row or column of them may stick out by one pixel.
struct BlockGrid {
  int64_t rows, columns;

  explicit BlockGrid(const Tile& tile)
      : rows(ceil_div(tile.rows, 2)), columns(ceil_div(tile.columns, 2)) {}
  int64_t count() const { return rows * columns; }
  int64_t padded_count() const { return round_up(count(), kBlockRows); }
};

// B^T d B for one block; T is a vector of channels or a single one. `step` elements lie between the
// results.
template <int K, class T, class A>
MEMX_INLINE void transform_input_block(const Halo<A>& in, const A* corner, A* out, int64_t step) {
  constexpr int kInputs = Filter<K>::kInputs, kProducts = Filter<K>::kProducts;
  T half[kInputs][kProducts];  // B^T d, one column of d after the other
#pragma GCC unroll 6
  for (int x = 0; x < kInputs; ++x) {
    T d[kInputs];
#pragma GCC unroll 6
    for (int y = 0; y < kInputs; ++y) {
      d[y] = load<T>(corner + y * in.row_pitch + x * in.pixel_pitch);
    }
    Filter<K>::transform_input(d, half[x]);
  }
#pragma GCC unroll 7
  for (int y = 0; y < kProducts; ++y) {
    T d[kInputs], t[kProducts];
#pragma GCC unroll 6
    for (int x = 0; x < kInputs; ++x) {
      d[x] = half[x][y];
    }
    Filter<K>::transform_input(d, t);
#pragma GCC unroll 7
    for (int x = 0; x < kProducts; ++x) {
      store<T>(t[x], out + (kProducts * y + x) * step);
    }
  }
}

template <int K, class A, int V>
void transform_input_blocks(const Halo<A>& in, int64_t channels, const Tile& tile, A* transformed) {
  const BlockGrid grid(tile);
  const int64_t step = grid.padded_count() * channels;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      const A* corner = in.data + 2 * by * in.row_pitch + 2 * bx * in.pixel_pitch;
      A* out = transformed + (by * grid.columns + bx) * channels;
      int64_t k = 0;
      for (; k + V <= channels; k += V) {
        transform_input_block<K, vector_t<A, V>>(in, corner + k, out + k, step);
      }
      for (; k < channels; ++k) {
        transform_input_block<K, A>(in, corner + k, out + k, step);
      }
    }
  }
}

// transformed[position][padded block][channel] of a tile's halo image.
template <class A, int V>
void transform_input(const Convolution<A>& convolution, const Halo<A>& in, const Tile& tile,
                     A* transformed) {
  for_filter(convolution.height, [&](auto kernel) {
    transform_input_blocks<kernel.value, A, V>(in, convolution.in_channels, tile, transformed);
  });
}

// A^T m A for one vector of a block, added to the up to four pixels of the block inside the tile.
template <int K, class A, int V>
MEMX_INLINE void add_output_block(const A* products, int64_t step, const Tile& tile, int64_t y,
                                  int64_t x, A* out) {
  using Vec = vector_t<A, V>;
  constexpr int kProducts = Filter<K>::kProducts;
  const int64_t width = kPanelVectors * V;
  Vec half[2][kProducts];  // A^T m
#pragma GCC unroll 7
  for (int j = 0; j < kProducts; ++j) {
    Vec m[kProducts], t[2];
#pragma GCC unroll 7
    for (int i = 0; i < kProducts; ++i) {
      m[i] = load<Vec>(products + (kProducts * i + j) * step);
    }
    Filter<K>::transform_products(m, t);
    half[0][j] = t[0], half[1][j] = t[1];
  }
  const bool second_column = x + 1 < tile.columns;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    if (y + i == tile.rows) {
      break;
    }
    Vec result[2];
    Filter<K>::transform_products(half[i], result);
    A* pixel = out + ((y + i) * tile.columns + x) * width;
    store<Vec>(load<Vec>(pixel) + result[0], pixel);
    if (second_column) {
      pixel += width;
      store<Vec>(load<Vec>(pixel) + result[1], pixel);
    }
  }
}

// products[panel][position][padded block][2V] of P panels of the weights, from the transformed input.
template <class A, int V, int P>
void multiply_positions(const Convolution<A>& convolution, const A* transformed,
                        const BlockGrid& grid, int64_t panel, A* products) {
  const int64_t width = kPanelVectors * V;
  const int64_t channels = convolution.in_channels;
  const int64_t step = grid.padded_count() * width;
  const int64_t positions = convolution.positions();
  const int64_t panel_weights = positions * channels * width;
  for (int64_t position = 0; position < positions; ++position) {
    const A* input = transformed + position * grid.padded_count() * channels;
    const A* weights = convolution.weights + panel * panel_weights + position * channels * width;
    for_pieces<A>(channels, [&](int64_t k, int64_t count) {
      for (int64_t first = 0; first < grid.count(); first += kBlockRows) {
        const A* const row = input + first * channels + k;
        const A* const left[kBlockRows] = {row,
                                           row + channels,
                                           row + 2 * channels,
                                           row + 3 * channels,
                                           row + 4 * channels,
                                           row + 5 * channels};
        A* const out = products + position * step + first * width;
        const Runs runs{1, count, 0};
        if (k == 0) {
          multiply_block<A, V, P, false>(left, runs, weights, panel_weights, out, positions * step);
        } else {
          multiply_block<A, V, P, true>(left, runs, weights + k * width, panel_weights, out,
                                        positions * step);
        }
      }
    });
  }
}

// out[padded pixel][2V] of a panel += A^T m A of all its blocks m.
template <int K, class A, int V>
void add_output_blocks(const A* products, const BlockGrid& grid, const Tile& tile, A* out) {
  const int64_t width = kPanelVectors * V;
  const int64_t step = grid.padded_count() * width;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      const A* block = products + (by * grid.columns + bx) * width;
      for (int64_t j = 0; j < width; j += V) {
        add_output_block<K, A, V>(block + j, step, tile, 2 * by, 2 * bx, out + j);
      }
    }
  }
}

// out[panel][padded pixel][2V] += convolution of the tile, from its transformed input. `products`
// is scratch of [panel at once][position][padded block][2V].
template <class A, int V>
void convolve_winograd(const Convolution<A>& convolution, const A* transformed, const Tile& tile,
                       A* products, A* out) {
  const int64_t width = kPanelVectors * V;
  const BlockGrid grid(tile);
  const int64_t panel_products = convolution.positions() * grid.padded_count() * width;
  const int64_t out_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for_panels<A, V>(convolution.panels, [&](int64_t panel, auto count) {
    multiply_positions<A, V, count.value>(convolution, transformed, grid, panel, products);
    for (int64_t p = 0; p < count.value; ++p) {
      for_filter(convolution.height, [&](auto kernel) {
        add_output_blocks<kernel.value, A, V>(products + p * panel_products, grid, tile,
                                              out + (panel + p) * out_pitch);
      });
    }
  });
}

// A dY A^T for one vector of a block; pixels outside the tile have no gradient.
template <int K, class A, int V>
MEMX_INLINE void transform_gradient_block(const A* gradient, const Tile& tile, int64_t y, int64_t x,
                                          A* out, int64_t step) {
  using Vec = vector_t<A, V>;
  constexpr int kProducts = Filter<K>::kProducts;
  const int64_t width = kPanelVectors * V;
  Vec half[2][kProducts] = {};  // dY A^T
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    if (y + i == tile.rows) {
      break;
    }
    const A* pixel = gradient + ((y + i) * tile.columns + x) * width;
    const Vec d[2] = {load<Vec>(pixel), x + 1 < tile.columns ? load<Vec>(pixel + width) : Vec{}};
    Filter<K>::transform_gradient(d, half[i]);
  }
#pragma GCC unroll 7
  for (int j = 0; j < kProducts; ++j) {
    const Vec d[2] = {half[0][j], half[1][j]};
    Vec t[kProducts];
    Filter<K>::transform_gradient(d, t);
#pragma GCC unroll 7
    for (int i = 0; i < kProducts; ++i) {
      store<Vec>(t[i], out + (kProducts * i + j) * step);
    }
  }
}

// products[position][padded block][2V] = A dY A^T of all blocks dY of a panel.
template <int K, class A, int V>
void transform_gradient_blocks(const A* panel, const BlockGrid& grid, const Tile& tile,
                               A* products) {
  const int64_t width = kPanelVectors * V;
  const int64_t step = grid.padded_count() * width;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      A* block = products + (by * grid.columns + bx) * width;
      for (int64_t j = 0; j < width; j += V) {
        transform_gradient_block<K, A, V>(panel + j, tile, 2 * by, 2 * bx, block + j, step);
      }
    }
  }
}

// gradient[panel][position][in channel, padded to 6][2V] += the tile's share of the transformed weight
// gradient. `products` is scratch of [panel at once][position][padded block][2V].
template <class A, int V>
void weight_gradient_winograd(const Convolution<A>& convolution, const A* transformed,
                              const Tile& tile, const A* gate_gradient, A* products, A* gradient) {
  const int64_t width = kPanelVectors * V;
  const int64_t channels = convolution.in_channels;
  const BlockGrid grid(tile);
  const int64_t step = grid.padded_count() * width;
  const int64_t gate_pitch = round_up(tile.pixels(), kBlockRows) * width;
  const int64_t positions = convolution.positions();
  const int64_t out_pitch = positions * round_up(channels, kBlockRows) * width;
  for_panels<A, V>(convolution.panels, [&](int64_t panel, auto count) {
    for (int64_t p = 0; p < count.value; ++p) {
      for_filter(convolution.height, [&](auto kernel) {
        transform_gradient_blocks<kernel.value, A, V>(gate_gradient + (panel + p) * gate_pitch,
                                                      grid, tile, products + p * positions * step);
      });
    }
    A* out = gradient + panel * out_pitch;
    for (int64_t position = 0; position < positions; ++position) {
      const A* left = transformed + position * grid.padded_count() * channels;
      for (int64_t k = 0; k < channels; k += kBlockRows, out += kBlockRows * width) {
        outer_block<A, V, count.value>({left + k, 1, grid.count(), 0, channels},
                                       products + position * step, positions * step, out,
                                       out_pitch);
      }
    }
  });
}

}  // namespace MEMX_ISA
}  // namespace memx

// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2016): a 2x2 block of
// outputs costs 16 products instead of 36. In the notation of that paper, for input block d, kernel
// g, output block Y:
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A          dg = G^T [ (B^T d B) . (A dY A^T) ] G
//
// The transforms add, subtract and halve only, and each product sums over channels alone, so the
// rounding error stays at the level of the direct sum. The 16 positions of a transformed block are
// 16 independent matrix products over the blocks of a tile.
#pragma once

#include "product.h"

namespace memx {
namespace MEMX_ISA {

constexpr int64_t kPositions = 16;

// The 2x2 blocks that cover a tile; the last row or column of them may stick out by one pixel.
struct BlockGrid {
  int64_t rows, columns;

  explicit BlockGrid(const Tile& tile)
      : rows(ceil_div(tile.rows, 2)), columns(ceil_div(tile.columns, 2)) {}
  int64_t count() const { return rows * columns; }
  int64_t padded_count() const { return round_up(count(), kBlockRows); }
};

// B^T d B for one block; T is a vector of channels or a single one. `step` elements lie between the
// 16 results.
template <class T, class A>
MEMX_INLINE void transform_input_block(const Halo<A>& in, const A* corner, A* out, int64_t step) {
  T t[4][4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) {
    T d[4];
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      d[y] = load<T>(corner + y * in.row_pitch + x * in.pixel_pitch);
    }
    t[0][x] = d[0] - d[2], t[1][x] = d[1] + d[2], t[2][x] = d[2] - d[1], t[3][x] = d[1] - d[3];
  }
#pragma GCC unroll 4
  for (int y = 0; y < 4; ++y) {
    store<T>(t[y][0] - t[y][2], out + (4 * y + 0) * step);
    store<T>(t[y][1] + t[y][2], out + (4 * y + 1) * step);
    store<T>(t[y][2] - t[y][1], out + (4 * y + 2) * step);
    store<T>(t[y][1] - t[y][3], out + (4 * y + 3) * step);
  }
}

// transformed[16][padded block][channel] of a tile's halo image.
template <class A, int V>
void transform_input(const Halo<A>& in, int64_t channels, const Tile& tile, A* transformed) {
  const BlockGrid grid(tile);
  const int64_t step = grid.padded_count() * channels;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      const A* corner = in.data + 2 * by * in.row_pitch + 2 * bx * in.pixel_pitch;
      A* out = transformed + (by * grid.columns + bx) * channels;
      int64_t k = 0;
      for (; k + V <= channels; k += V) {
        transform_input_block<vector_t<A, V>>(in, corner + k, out + k, step);
      }
      for (; k < channels; ++k) {
        transform_input_block<A>(in, corner + k, out + k, step);
      }
    }
  }
}

// A^T m A for one vector of a block, added to the up to four pixels of the block inside the tile.
template <class A, int V>
MEMX_INLINE void add_output_block(const A* products, int64_t step, const Tile& tile, int64_t y,
                                  int64_t x, A* out) {
  using Vec = vector_t<A, V>;
  const int64_t width = kPanelVectors * V;
  Vec t[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec m0 = load<Vec>(products + (0 + j) * step);
    const Vec m1 = load<Vec>(products + (4 + j) * step);
    const Vec m2 = load<Vec>(products + (8 + j) * step);
    const Vec m3 = load<Vec>(products + (12 + j) * step);
    t[0][j] = m0 + m1 + m2;
    t[1][j] = m1 - m2 - m3;
  }
  const bool second_column = x + 1 < tile.columns;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    if (y + i == tile.rows) {
      break;
    }
    A* pixel = out + ((y + i) * tile.columns + x) * width;
    store<Vec>(load<Vec>(pixel) + t[i][0] + t[i][1] + t[i][2], pixel);
    if (!second_column) {
      continue;
    }
    pixel += width;
    store<Vec>(load<Vec>(pixel) + t[i][1] - t[i][2] - t[i][3], pixel);
  }
}

// products[panel][16][padded block][2V] of P panels of the weights, from the transformed input.
template <class A, int V, int P>
void multiply_positions(const Convolution<A>& convolution, const A* transformed,
                        const BlockGrid& grid, int64_t panel, A* products) {
  const int64_t width = kPanelVectors * V;
  const int64_t channels = convolution.in_channels;
  const int64_t step = grid.padded_count() * width;
  const int64_t panel_weights = kPositions * channels * width;
  for (int64_t position = 0; position < kPositions; ++position) {
    const A* input = transformed + position * grid.padded_count() * channels;
    const A* weights = convolution.weights + panel * panel_weights + position * channels * width;
    for (int64_t first = 0; first < grid.count(); first += kBlockRows) {
      const A* const row = input + first * channels;
      const A* const left[kBlockRows] = {row,
                                         row + channels,
                                         row + 2 * channels,
                                         row + 3 * channels,
                                         row + 4 * channels,
                                         row + 5 * channels};
      multiply_block<A, V, P, false>(left, {1, channels, 0}, weights, panel_weights,
                                     products + position * step + first * width, kPositions * step);
    }
  }
}

// out[padded pixel][2V] of a panel += A^T m A of all its blocks m.
template <class A, int V>
void add_output_blocks(const A* products, const BlockGrid& grid, const Tile& tile, A* out) {
  const int64_t width = kPanelVectors * V;
  const int64_t step = grid.padded_count() * width;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      const A* block = products + (by * grid.columns + bx) * width;
      for (int64_t j = 0; j < width; j += V) {
        add_output_block<A, V>(block + j, step, tile, 2 * by, 2 * bx, out + j);
      }
    }
  }
}

// out[panel][padded pixel][2V] += convolution of the tile, from its transformed input. `products`
// is scratch of [panel at once][16][padded block][2V].
template <class A, int V>
void convolve_winograd(const Convolution<A>& convolution, const A* transformed, const Tile& tile,
                       A* products, A* out) {
  const int64_t width = kPanelVectors * V;
  const BlockGrid grid(tile);
  const int64_t panel_products = kPositions * grid.padded_count() * width;
  const int64_t out_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for_panels<A, V>(convolution.panels, [&](int64_t panel, auto count) {
    multiply_positions<A, V, count.value>(convolution, transformed, grid, panel, products);
    for (int64_t p = 0; p < count.value; ++p) {
      add_output_blocks<A, V>(products + p * panel_products, grid, tile,
                              out + (panel + p) * out_pitch);
    }
  });
}

// A dY A^T for one vector of a block; pixels outside the tile have no gradient.
template <class A, int V>
MEMX_INLINE void transform_gradient_block(const A* gradient, const Tile& tile, int64_t y, int64_t x,
                                          A* out, int64_t step) {
  using Vec = vector_t<A, V>;
  const int64_t width = kPanelVectors * V;
  Vec d[2][2] = {};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    if (y + i == tile.rows) {
      break;
    }
    const A* pixel = gradient + ((y + i) * tile.columns + x) * width;
    d[i][0] = load<Vec>(pixel);
    if (x + 1 < tile.columns) {
      d[i][1] = load<Vec>(pixel + width);
    }
  }
  Vec t[4][2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    t[0][j] = d[0][j], t[1][j] = d[0][j] + d[1][j], t[2][j] = d[0][j] - d[1][j], t[3][j] = -d[1][j];
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store<Vec>(t[i][0], out + (4 * i + 0) * step);
    store<Vec>(t[i][0] + t[i][1], out + (4 * i + 1) * step);
    store<Vec>(t[i][0] - t[i][1], out + (4 * i + 2) * step);
    store<Vec>(-t[i][1], out + (4 * i + 3) * step);
  }
}

// products[16][padded block][2V] = A dY A^T of all blocks dY of a panel.
template <class A, int V>
void transform_gradient(const A* panel, const BlockGrid& grid, const Tile& tile, A* products) {
  const int64_t width = kPanelVectors * V;
  const int64_t step = grid.padded_count() * width;
  for (int64_t by = 0; by < grid.rows; ++by) {
    for (int64_t bx = 0; bx < grid.columns; ++bx) {
      A* block = products + (by * grid.columns + bx) * width;
      for (int64_t j = 0; j < width; j += V) {
        transform_gradient_block<A, V>(panel + j, tile, 2 * by, 2 * bx, block + j, step);
      }
    }
  }
}

// gradient[panel][16][in channel, padded to 6][2V] += the tile's share of the transformed weight
// gradient. `products` is scratch of [panel at once][16][padded block][2V].
template <class A, int V>
void weight_gradient_winograd(const Convolution<A>& convolution, const A* transformed,
                              const Tile& tile, const A* gate_gradient, A* products, A* gradient) {
  const int64_t width = kPanelVectors * V;
  const int64_t channels = convolution.in_channels;
  const BlockGrid grid(tile);
  const int64_t step = grid.padded_count() * width;
  const int64_t gate_pitch = round_up(tile.pixels(), kBlockRows) * width;
  const int64_t out_pitch = kPositions * round_up(channels, kBlockRows) * width;
  for_panels<A, V>(convolution.panels, [&](int64_t panel, auto count) {
    for (int64_t p = 0; p < count.value; ++p) {
      transform_gradient<A, V>(gate_gradient + (panel + p) * gate_pitch, grid, tile,
                               products + p * kPositions * step);
    }
    A* out = gradient + panel * out_pitch;
    for (int64_t position = 0; position < kPositions; ++position) {
      const A* left = transformed + position * grid.padded_count() * channels;
      for (int64_t k = 0; k < channels; k += kBlockRows, out += kBlockRows * width) {
        outer_block<A, V, count.value>({left + k, 1, grid.count(), 0, channels},
                                       products + position * step, kPositions * step, out,
                                       out_pitch);
      }
    }
  });
}

}  // namespace MEMX_ISA
}  // namespace memx

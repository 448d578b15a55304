// Moving images of any strides and storage type into a thread's scratch and back: the one place
// where layouts are converted, a tile at a time, while the data is in cache.
#pragma once

#include "product.h"

namespace memx {
namespace MEMX_ISA {

// Pixels a convolution reads around a tile. A Winograd block may stick out of the tile by one
// pixel.
struct HaloExtent {
  int64_t rows, columns, above, left;

  template <class O>
  HaloExtent(const Convolution<O>& convolution, const Tile& tile)
      : rows(round_up(tile.rows, convolution.winograd() ? 2 : 1) + convolution.height - 1),
        columns(round_up(tile.columns, convolution.winograd() ? 2 : 1) + convolution.width - 1),
        above(convolution.pad_rows),
        left(convolution.pad_columns) {}
  int64_t pixels() const { return rows * columns; }
};

// Numbers behind a halo image that may be read, whatever they are: the outer product reads kBlockRows
// operands from every pixel, also from the last.
constexpr int64_t kHaloSlack = 16;

template <class O>
int64_t halo_elements(const Convolution<O>& convolution, const Tile& tile) {
  return HaloExtent(convolution, tile).pixels() * convolution.in_channels + kHaloSlack;
}

// A stored number as a number of an operand.
template <class S, class N>
MEMX_INLINE N number_of(S stored) {
  if constexpr (std::is_same_v<S, N>) {
    return stored;
  } else {
    return widen(stored);
  }
}

template <class S, class N>
MEMX_INLINE void gather_row(const S* in, int64_t channel_stride, int64_t column_stride,
                            int64_t channels, int64_t columns, N* out) {
  if (channel_stride == 1 && column_stride == channels) {
    for (int64_t i = 0; i < columns * channels; ++i) {
      out[i] = number_of<S, N>(in[i]);
    }
  } else if (channel_stride == 1) {
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t c = 0; c < channels; ++c) {
        out[x * channels + c] = number_of<S, N>(in[x * column_stride + c]);
      }
    }
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = 0; x < columns; ++x) {
        out[x * channels + c] = number_of<S, N>(in[c * channel_stride + x * column_stride]);
      }
    }
  }
}

// row *= an image's row of as many numbers.
template <class S, class N>
MEMX_INLINE void multiply_row(const S* factor, int64_t numbers, N* row) {
  for (int64_t i = 0; i < numbers; ++i) {
    narrow(widen(row[i]) * widen(factor[i]), row[i]);
  }
}

// The tile's halo image [rows][columns][channels], zero outside the frame. `mask`, if there is one,
// multiplies the frame: [B, height, width, channels].
template <class S, class O>
Halo<number_t<O>> gather_halo(const Frame<const S>& frame, const S* mask,
                              const Convolution<O>& convolution, const Tile& tile,
                              number_t<O>* out) {
  using N = number_t<O>;
  const HaloExtent extent(convolution, tile);
  const int64_t channels = convolution.in_channels;
  const int64_t pitch = extent.columns * channels;
  const int64_t x_begin = tile.column - extent.left;
  const int64_t first = x_begin < 0 ? -x_begin : 0;
  const int64_t room = frame.width - x_begin;
  const int64_t last = room < extent.columns ? room : extent.columns;
  for (int64_t row = 0; row < extent.rows; ++row) {
    N* out_row = out + row * pitch;
    const int64_t y = tile.row - extent.above + row;
    const bool inside = y >= 0 && y < frame.height;
    const int64_t begin = inside ? first : extent.columns;
    for (int64_t i = 0; i < begin * channels; ++i) {
      out_row[i] = N{};
    }
    if (!inside) {
      continue;
    }
    gather_row(frame.at(tile.batch, y, x_begin + begin), frame.channel, frame.column, channels,
               last - begin, out_row + begin * channels);
    if (mask != nullptr) {
      const int64_t pixel = (tile.batch * frame.height + y) * frame.width + x_begin + begin;
      multiply_row(mask + pixel * channels, (last - begin) * channels, out_row + begin * channels);
    }
    for (int64_t i = last * channels; i < pitch; ++i) {
      out_row[i] = N{};
    }
  }
  return {out, pitch, channels};
}

// panels[panel][pixel][2V] += a row of planes, [channel][pixel], in blocks of V x V; = it, if `first`.
// Planes are many streams of short runs, which no processor foresees: the numbers `ahead` are fetched.
template <int V, class S, class A>
MEMX_INLINE void add_planes(const S* planes, int64_t plane_pitch, int64_t channels, int64_t pixels,
                            int64_t ahead, bool first, A* panels, int64_t panel_pitch) {
  using Vec = vector_t<A, V>;
  constexpr int64_t width = kPanelVectors * V;
  for (int64_t c = 0; c < channels; c += V) {
    A* const out = panels + c / width * panel_pitch + c % width;
    for (int64_t x = 0; x < pixels; x += V) {
      const int64_t count = pixels - x < V ? pixels - x : V;
      Vec block[V];
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) {
        const S* const in = planes + (c + j) * plane_pitch + x;
        block[j] = c + j < channels ? load_lanes<Vec>(in, count) : Vec{};
        __builtin_prefetch(in + ahead);
      }
      transpose(block);
      for (int64_t j = 0; j < count; ++j) {
        A* const sum = out + (x + j) * width;
        store(first ? block[j] : load<Vec>(sum) + block[j], sum);
      }
    }
  }
}

// panels[panel][padded pixel][2V] += an image of plain channels; = it, if `first`.
template <int V, class S, class A>
void add_frame(const Frame<const S>& frame, int64_t channels, const Tile& tile, bool first,
               A* panels) {
  const int64_t width = kPanelVectors * V;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t y = 0; y < tile.rows; ++y) {
    A* const row = panels + y * tile.columns * width;
    if (frame.column == 1) {
      add_planes<V>(frame.at(tile.batch, tile.row + y, tile.column), frame.channel, channels,
                    tile.columns, tile.rows * frame.row, first, row, panel_pitch);
      continue;
    }
    for (int64_t x = 0; x < tile.columns; ++x) {
      const S* in = frame.at(tile.batch, tile.row + y, tile.column + x);
      A* out = row + x * width;
      for (int64_t c = 0; c < channels; c += width, out += panel_pitch) {
        const int64_t count = channels - c < width ? channels - c : width;
        for (int64_t j = 0; j < count; ++j) {
          out[j] = (first ? A(0) : out[j]) + widen(in[(c + j) * frame.channel]);
        }
        for (int64_t j = count; first && j < width; ++j) {
          out[j] = A(0);
        }
      }
    }
  }
}

// panels[panel][padded pixel][2V] *= an image [B, H, W, channels] of which the tile is a part.
template <int V, class S, class A>
void multiply_by_image(const S* image, const Sizes& sizes, const Tile& tile, A* panels) {
  const int64_t width = kPanelVectors * V;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t y = 0; y < tile.rows; ++y) {
    for (int64_t x = 0; x < tile.columns; ++x) {
      const int64_t pixel =
          tile.batch * sizes.pixels() + (tile.row + y) * sizes.width + tile.column + x;
      const S* in = image + pixel * sizes.hidden;
      A* out = panels + (y * tile.columns + x) * width;
      for (int64_t c = 0; c < sizes.hidden; c += width, out += panel_pitch) {
        multiply_row(in + c, sizes.hidden - c < width ? sizes.hidden - c : width, out);
      }
    }
  }
}

// The reverse of add_frame: an image of plain channels = panels.
template <int V, class S, class A>
void store_frame(const A* panels, int64_t channels, const Tile& tile, const Frame<S>& frame) {
  const int64_t width = kPanelVectors * V;
  const int64_t panel_pitch = round_up(tile.pixels(), kBlockRows) * width;
  for (int64_t y = 0; y < tile.rows; ++y) {
    for (int64_t x = 0; x < tile.columns; ++x) {
      const A* in = panels + (y * tile.columns + x) * width;
      S* out = frame.at(tile.batch, tile.row + y, tile.column + x);
      for (int64_t c = 0; c < channels; c += width, in += panel_pitch) {
        const int64_t count = channels - c < width ? channels - c : width;
        for (int64_t j = 0; j < count; ++j) {
          narrow(in[j], out[(c + j) * frame.channel]);
        }
      }
    }
  }
}

}  // namespace MEMX_ISA
}  // namespace memx

// What the forward and the backward pass over a sequence share: the checked arguments, packed
// weights, the tiling of the images, and the description of step t for the tile kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

#include "../arguments.h"
#include "engine.h"
#include "strips.h"
#include "weights.h"

namespace memx {

// The sizes that the arguments lead to, for vectors of so many lanes.
Sizes sizes_of(const Arguments& arguments, int64_t lanes);

// How images are cut into tiles. It depends on the shapes only, never on the number of threads.
class TileGrid {
 public:
  // A batch of images of height x width, of which a tile's pixels take `columns` numbers each, all at
  // once or part by part.
  TileGrid(int64_t batch, int64_t height, int64_t width, int64_t columns, bool in_parts);

  // Images of another size, cut at the same places.
  TileGrid resized(int64_t height, int64_t width) const;

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  Tile largest() const { return {0, 0, 0, tile_rows_, tile_columns_}; }

  // A strip's tile after so many shifts, as far as it is inside the image: without pixels if it is
  // nowhere.
  Tile of(const Strips& strips, const Strip& strip, int64_t shifts) const {
    const int64_t row = strips.first_row(strip, shifts);
    const int64_t column = strips.first_column(strip, shifts);
    const int64_t first_row = std::max<int64_t>(0, row);
    const int64_t first_column = std::max<int64_t>(0, column);
    const int64_t rows = std::min(row + tile_rows_, height_) - first_row;
    const int64_t columns = std::min(column + tile_columns_, width_) - first_column;
    return {strip.image, first_row, first_column, std::max<int64_t>(0, rows),
            std::max<int64_t>(0, columns)};
  }

 private:
  int64_t height_, width_;
  int64_t tile_rows_, tile_columns_;
};

template <class S, class O>
class Sequence {
 public:
  using A = accumulate_t<O>;

  // With `keep_weights` their packed form stays for later calls with the same ones.
  Sequence(const Arguments& arguments, bool keep_weights);

  // Everything of step t except its outputs: the caller sets where C_{t-1}, H_{t-1} and the results
  // are for t > 0.
  ForwardStep<S, O> forward_step(int64_t t) const;

  // The steps of one sequence of the batch.
  int64_t end(int64_t batch) const { return ends_[batch]; }

  // What every sequence's last step left in a tensor (T, B, ...): (B, ...).
  at::Tensor at_ends(const at::Tensor& of_steps) const;

  // Zeros for the steps after the end of a sequence, in a tensor (.., B, ...) of the last steps.
  void clear_after_ends(const at::Tensor& of_steps) const;

  const Arguments arguments;
  const int64_t steps;
  const Sizes sizes;
  const TileGrid tiles;
  const TileKernels<S, O>& kernels;

 private:
  std::vector<int64_t> ends_;  // of every sequence
  PackedConvolution<O> input_, hidden_;
  at::Tensor bias_, peephole_weights_, initial_cell_, hidden_mask_;
};

// Step t of a (T, B, C, H, W) tensor, or a (B, C, H, W) tensor, as the kernels see it.
template <class S>
Frame<S> frame_of(const at::Tensor& tensor, int64_t t);
template <class S>
Frame<S> frame_of(const at::Tensor& tensor);

// Typed data of a tensor of storage type S.
template <class S>
S* data_of(const at::Tensor& tensor) {
  return static_cast<S*>(tensor.data_ptr());
}

// Calls body(S{}, O{}) with the storage and the operand type of a dtype's kernels.
template <class Body>
auto dispatch_types(at::ScalarType dtype, const Body& body) {
  switch (dtype) {
    case at::kFloat:
      return body(float{}, float{});
    case at::kDouble:
      return body(double{}, double{});
    case at::kBFloat16:
      return engine().bfloat16_pairs.forward != nullptr ? body(Bfloat16{}, Bfloat16Pair{})
                                                        : body(Bfloat16{}, float{});
    case at::kHalf:
      return body(Float16{}, float{});
    default:
      TORCH_CHECK(false, "memx_fast: x has dtype ", dtype,
                  ", expected float32, float64, bfloat16 or float16");
  }
}

}  // namespace memx

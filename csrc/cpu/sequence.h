// What the forward and the backward pass over a sequence share: the checked arguments, packed
// weights, the tiling of the images, and the description of step t for the tile kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "engine.h"
#include "weights.h"

namespace memx {

// The operator's arguments; an undefined tensor is an absent one. Shapes as in ops.cpp.
struct Arguments {
  at::Tensor x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask, lengths;
  Padding padding;  // of the input convolution
  bool output_sees_current;
  double hard_sigmoid_slope;  // 0: the logistic sigmoid
};

// The arguments as the operators get them. Throws c10::Error, with the offending shape or dtype,
// unless they fit together.
Arguments checked_arguments(const at::Tensor& x, const std::optional<at::Tensor>& weight_ih,
                            const at::Tensor& weight_hh, const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& weight_ch,
                            const std::optional<at::Tensor>& h_0,
                            const std::optional<at::Tensor>& c_0, at::IntArrayRef padding,
                            bool output_sees_current, double hard_sigmoid_slope,
                            const std::optional<at::Tensor>& hidden_mask,
                            const std::optional<at::Tensor>& lengths);

// Batch, sizes of the states and hidden channels that the arguments lead to.
Sizes sizes_of(const Arguments& arguments, int64_t lanes);

// Each throws c10::Error with the tensor's name; an undefined tensor passes.
void check_dtype(const char* name, const at::Tensor& tensor, at::ScalarType expected);
void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef expected);

// The fixed partition of a batch of images into tiles. It depends on the shapes only, never on the
// number of threads.
class TileGrid {
 public:
  // Images of height x width, of which a tile's pixels take `columns` numbers each.
  TileGrid(int64_t batch, int64_t height, int64_t width, int64_t columns);
  int64_t count() const { return batch_ * rows_ * columns_; }
  Tile largest() const { return {0, 0, 0, tile_rows_, tile_columns_}; }
  Tile at(int64_t index) const;
  std::vector<Tile> all() const;

 private:
  int64_t batch_, height_, width_;
  int64_t tile_rows_, tile_columns_;  // of a tile, in pixels
  int64_t rows_, columns_;            // of the grid, in tiles
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

  // Takes from the tiles of a step those of sequences that end before step t.
  void drop_ended(std::vector<Tile>& of_step, int64_t t) const;

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

// The padding with which an odd kernel keeps the size.
Padding same_padding(const at::Tensor& weight);

// [batch, H, W, C] memory seen as (..., C, H, W).
at::Tensor channels_first(const at::Tensor& channels_last);

// The storage and accumulation dtypes of a call.
at::ScalarType accumulate_dtype(at::ScalarType storage);

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

// Packing of weights into the panels the tile kernels read, and of weight gradients back.
#pragma once

#include <ATen/core/Tensor.h>

#include "../arguments.h"
#include "step.h"

namespace memx {

// A packed convolution and the tensor that owns its weights.
template <class O>
struct PackedConvolution {
  Convolution<O> convolution;
  at::Tensor storage;
};

// weight (4C, K, kh, kw) -> gate columns from K channels: the forward convolution. With `keep` the
// packed form stays for later calls (kept_weights.h).
template <class O>
PackedConvolution<O> pack_convolution(const at::Tensor& weight, Padding padding, const Sizes& sizes,
                                      bool keep);

// weight (4C, K, kh, kw) -> K channels from gate columns: the transpose of the convolution with that
// padding. With the kernel turned round it is a convolution of stride 1 as well, padded with what
// the other's padding lacks to the full kernel.
template <class O>
PackedConvolution<O> pack_transposed_convolution(const at::Tensor& weight, Padding padding,
                                                 const Sizes& sizes);

// bias (4C,) or undefined (zeros) -> [gate columns].
template <class A>
at::Tensor pack_bias(const at::Tensor& bias, const Sizes& sizes);

// Numbers a slot needs for the gradient of a convolution's weights, and the reverse of packing:
// [gradient panels] -> (4C, K, kh, kw). The layout is that of weight_gradient_direct() and
// weight_gradient_winograd().
template <class O>
int64_t weight_gradient_elements(const Convolution<O>& convolution, const Sizes& sizes);
template <class O>
at::Tensor unpack_weight_gradient(const accumulate_t<O>* gradient,
                                  const Convolution<O>& convolution, const Sizes& sizes,
                                  at::ScalarType dtype);
template <class A>
at::Tensor unpack_bias_gradient(const A* gradient, const Sizes& sizes, at::ScalarType dtype);

}  // namespace memx

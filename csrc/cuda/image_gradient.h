// Gradient of the images that a convolution read, from the gate gradients that it led to.
#pragma once

#include "elements.h"

namespace memx::cuda {

template <class Numbers>
struct ImageGradient {
  using S = typename Numbers::storage;
  Convolution<1> convolution;  // gate gradients (N, H, W, 4C) with the weight transposed
  int channels;
  const S* mask;  // (N, height, width, channels), multiplied the images; null: ones
  S* gradient;    // (N, height, width, channels)
};

template <class Shape>
MEMX_KERNEL(Shape::kThreads, Shape::kBlocks)
image_gradient(MEMX_KERNEL_ARGUMENT ImageGradient<typename Shape::numbers> arguments) {
  const Tiling& tiling = arguments.convolution.tiling;
  const Tile tile = tile_of(tiling, block_x());
  typename Shape::sums sum = {};
  Pipeline<Shape, 1> pipeline{arguments.convolution, tile};
  pipeline.begin();
  pipeline.run(sum);
  const auto at = [&](const auto& site) {
    return site.pixel.number * arguments.channels + site.channels.first;
  };
  with_own_sums<Shape>(sum, [&](const auto& own) {
    each_site<Shape>(
        tiling, tile, arguments.channels, own,
        [&](const auto& site) { return load_four(arguments.mask, at(site), site.channels); },
        [&](const auto& site, const auto& mask, auto& values) {
          if (arguments.mask != nullptr) {
#pragma unroll
            for (int e = 0; e < kUnitChannels; ++e) {
              values[e] *= mask[e];
            }
          }
          store_four(values, arguments.gradient, at(site), site.channels);
        });
  });
}

}  // namespace memx::cuda

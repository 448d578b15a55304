#include "weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <array>

namespace memx {
namespace {

using Kernel3x3 = std::array<std::array<double, 3>, 3>;
using Block4x4 = std::array<std::array<double, 4>, 4>;

// Rows of G of F(2x2, 3x3).
constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

// G g G^T, in double: packing adds no error of its own.
Block4x4 transform_kernel(const Kernel3x3& g) {
  Block4x4 out{};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 3; ++x) {
          out[i][j] += kG[i][y] * g[y][x] * kG[j][x];
        }
      }
    }
  }
  return out;
}

// G^T u G: the gradient of a kernel from that of its transform.
Kernel3x3 transform_kernel_gradient(const Block4x4& u) {
  Kernel3x3 out{};
  for (int y = 0; y < 3; ++y) {
    for (int x = 0; x < 3; ++x) {
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
          out[y][x] += kG[i][y] * u[i][j] * kG[j][x];
        }
      }
    }
  }
  return out;
}

// Below this many channels the transforms cost more than the products they save.
constexpr int64_t kWinogradChannels = 8;

template <class A>
bool use_winograd(const Convolution<A>& convolution) {
  return sizeof(A) == sizeof(float) && convolution.height == 3 && convolution.width == 3 &&
         convolution.in_channels >= kWinogradChannels;
}

// Where a gate column belongs: gate * C + c in the order of the parameters, or -1 for padding.
int64_t parameter_row(int64_t column, const Sizes& sizes) {
  const int64_t vector = column / sizes.lanes;
  const int64_t c = vector / kGates * sizes.lanes + column % sizes.lanes;
  return c < sizes.hidden ? vector % kGates * sizes.hidden + c : -1;
}

// Fills panels from value(column, channel, ky, kx), which gives 0 for padding.
template <class A, class Value>
PackedConvolution<A> pack(Convolution<A> convolution, int64_t columns, const Sizes& sizes,
                          const Value& value) {
  const int64_t width = sizes.panel_width();
  const int64_t channels = convolution.in_channels;
  const int64_t height = convolution.height, kernel_width = convolution.width;
  convolution.panels = ceil_div(columns, width);
  convolution.winograd = use_winograd(convolution);
  const int64_t taps = convolution.winograd ? 16 : height * kernel_width;
  at::Tensor storage =
      at::empty({convolution.panels * taps * channels * width}, c10::CppTypeToScalarType<A>::value);
  A* const data = storage.data_ptr<A>();
  at::parallel_for(0, convolution.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * width; i < end * width; ++i) {
      A* const out = data + i / width * taps * channels * width + i % width;
      for (int64_t k = 0; k < channels; ++k) {
        if (convolution.winograd) {
          Kernel3x3 kernel;
          for (int64_t y = 0; y < 3; ++y) {
            for (int64_t x = 0; x < 3; ++x) {
              kernel[y][x] = value(i, k, y, x);
            }
          }
          const Block4x4 block = transform_kernel(kernel);
          for (int64_t p = 0; p < taps; ++p) {
            out[(p * channels + k) * width] = A(block[p / 4][p % 4]);
          }
        } else {
          for (int64_t p = 0; p < taps; ++p) {
            out[(p * channels + k) * width] = value(i, k, p / kernel_width, p % kernel_width);
          }
        }
      }
    }
  });
  convolution.weights = data;
  return {convolution, storage};
}

}  // namespace

template <class A>
PackedConvolution<A> pack_convolution(const at::Tensor& weight, Padding padding,
                                      const Sizes& sizes) {
  const at::Tensor dense = weight.to(c10::CppTypeToScalarType<A>::value).contiguous();
  const A* const w = dense.data_ptr<A>();
  Convolution<A> convolution;
  convolution.in_channels = weight.size(1);
  convolution.height = weight.size(2);
  convolution.width = weight.size(3);
  convolution.pad_rows = padding.rows;
  convolution.pad_columns = padding.columns;
  const int64_t channels = weight.size(1), height = weight.size(2), width = weight.size(3);
  return pack(convolution, sizes.gate_columns(), sizes,
              [&](int64_t column, int64_t k, int64_t y, int64_t x) {
                const int64_t row = parameter_row(column, sizes);
                return row < 0 ? A(0) : w[((row * channels + k) * height + y) * width + x];
              });
}

template <class A>
PackedConvolution<A> pack_transposed_convolution(const at::Tensor& weight, Padding padding,
                                                 const Sizes& sizes) {
  const at::Tensor dense = weight.to(c10::CppTypeToScalarType<A>::value).contiguous();
  const A* const w = dense.data_ptr<A>();
  Convolution<A> convolution;
  convolution.in_channels = sizes.gate_columns();
  convolution.height = weight.size(2);
  convolution.width = weight.size(3);
  convolution.pad_rows = weight.size(2) - 1 - padding.rows;
  convolution.pad_columns = weight.size(3) - 1 - padding.columns;
  const int64_t channels = weight.size(1), height = weight.size(2), width = weight.size(3);
  return pack(convolution, channels, sizes, [&](int64_t k, int64_t column, int64_t y, int64_t x) {
    const int64_t row = parameter_row(column, sizes);
    if (row < 0 || k >= channels) {
      return A(0);
    }
    return w[((row * channels + k) * height + height - 1 - y) * width + width - 1 - x];
  });
}

template <class A>
at::Tensor pack_bias(const at::Tensor& bias, const Sizes& sizes) {
  at::Tensor packed = at::zeros({sizes.gate_columns()}, c10::CppTypeToScalarType<A>::value);
  if (!bias.defined()) {
    return packed;
  }
  const at::Tensor dense = bias.to(packed.scalar_type()).contiguous();
  for (int64_t column = 0; column < sizes.gate_columns(); ++column) {
    const int64_t row = parameter_row(column, sizes);
    if (row >= 0) {
      packed.data_ptr<A>()[column] = dense.data_ptr<A>()[row];
    }
  }
  return packed;
}

template <class A>
int64_t weight_gradient_elements(const Convolution<A>& convolution, const Sizes& sizes) {
  const int64_t channels = convolution.in_channels;
  const int64_t rows =
      convolution.winograd
          ? 16 * round_up(channels, kBlockRows)
          : convolution.height * round_up(convolution.width * channels, kBlockRows);
  return convolution.panels * rows * sizes.panel_width();
}

template <class A>
at::Tensor unpack_weight_gradient(const A* gradient, const Convolution<A>& convolution,
                                  const Sizes& sizes, at::ScalarType dtype) {
  const int64_t panel_width = sizes.panel_width();
  const int64_t channels = convolution.in_channels;
  const int64_t height = convolution.height, width = convolution.width;
  const int64_t padded_channels = round_up(channels, kBlockRows);
  const int64_t padded_length = round_up(width * channels, kBlockRows);
  at::Tensor out = at::empty({kGates * sizes.hidden, channels, height, width},
                             c10::CppTypeToScalarType<A>::value);
  A* const data = out.data_ptr<A>();
  for (int64_t column = 0; column < sizes.gate_columns(); ++column) {
    const int64_t row = parameter_row(column, sizes);
    if (row < 0) {
      continue;
    }
    const int64_t panel = column / panel_width, lane = column % panel_width;
    for (int64_t k = 0; k < channels; ++k) {
      A* const kernel = data + (row * channels + k) * height * width;
      if (convolution.winograd) {
        Block4x4 block;
        for (int64_t p = 0; p < 16; ++p) {
          block[p / 4][p % 4] =
              gradient[((panel * 16 + p) * padded_channels + k) * panel_width + lane];
        }
        const Kernel3x3 g = transform_kernel_gradient(block);
        for (int64_t p = 0; p < 9; ++p) {
          kernel[p] = A(g[p / 3][p % 3]);
        }
      } else {
        for (int64_t p = 0; p < height * width; ++p) {
          const int64_t run = (panel * height + p / width) * padded_length;
          kernel[p] = gradient[(run + p % width * channels + k) * panel_width + lane];
        }
      }
    }
  }
  return out.to(dtype);
}

template <class A>
at::Tensor unpack_bias_gradient(const A* gradient, const Sizes& sizes, at::ScalarType dtype) {
  at::Tensor out = at::empty({kGates * sizes.hidden}, c10::CppTypeToScalarType<A>::value);
  for (int64_t column = 0; column < sizes.gate_columns(); ++column) {
    const int64_t row = parameter_row(column, sizes);
    if (row >= 0) {
      out.data_ptr<A>()[row] = gradient[column];
    }
  }
  return out.to(dtype);
}

#define MEMX_INSTANTIATE(A)                                                                 \
  template PackedConvolution<A> pack_convolution(const at::Tensor&, Padding, const Sizes&); \
  template PackedConvolution<A> pack_transposed_convolution(const at::Tensor&, Padding,     \
                                                            const Sizes&);                  \
  template at::Tensor pack_bias<A>(const at::Tensor&, const Sizes&);                        \
  template int64_t weight_gradient_elements(const Convolution<A>&, const Sizes&);           \
  template at::Tensor unpack_weight_gradient(const A*, const Convolution<A>&, const Sizes&, \
                                             at::ScalarType);                               \
  template at::Tensor unpack_bias_gradient(const A*, const Sizes&, at::ScalarType);
MEMX_INSTANTIATE(float)
MEMX_INSTANTIATE(double)
#undef MEMX_INSTANTIATE

}  // namespace memx

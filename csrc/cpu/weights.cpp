#include "weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "engine.h"
#include "filter.h"
#include "kept_weights.h"
#include "storage.h"
#include "tuning.h"

namespace memx {
namespace {

// G g G^T for the kernels g[K][K][width] of a panel's columns, in double: packing adds no error of its
// own. Result [P][P][width].
template <int K>
void transform_kernels(const double* g, int64_t width, double* out) {
  constexpr int P = baseline::Filter<K>::kProducts;
  for (int64_t i = 0; i < width; ++i) {
    double half[K][P];  // g G^T
    for (int y = 0; y < K; ++y) {
      double row[K];
      for (int x = 0; x < K; ++x) {
        row[x] = g[(y * K + x) * width + i];
      }
      baseline::Filter<K>::transform_kernel(row, half[y]);
    }
    for (int x = 0; x < P; ++x) {
      double column[K], transformed[P];
      for (int y = 0; y < K; ++y) {
        column[y] = half[y][x];
      }
      baseline::Filter<K>::transform_kernel(column, transformed);
      for (int y = 0; y < P; ++y) {
        out[(y * P + x) * width + i] = transformed[y];
      }
    }
  }
}

// G^T u G: the gradient of a kernel [K][K] from that of its transform, whose positions are `pitch`
// apart.
template <int K, class A>
void transform_kernel_gradient(const A* u, int64_t pitch, A* kernel) {
  constexpr int P = baseline::Filter<K>::kProducts;
  double half[P][K];  // u G
  for (int y = 0; y < P; ++y) {
    double row[P];
    for (int x = 0; x < P; ++x) {
      row[x] = u[(y * P + x) * pitch];
    }
    baseline::Filter<K>::transform_kernel_gradient(row, half[y]);
  }
  for (int x = 0; x < K; ++x) {
    double column[P], result[K];
    for (int y = 0; y < P; ++y) {
      column[y] = half[y][x];
    }
    baseline::Filter<K>::transform_kernel_gradient(column, result);
    for (int y = 0; y < K; ++y) {
      kernel[y * K + x] = A(result[y]);
    }
  }
}

// Below this many channels the transforms cost more than the products they save.
constexpr int64_t kWinogradChannels = 8;

// In smaller images most taps of a direct sum meet zeros, so that it is both quicker and, having few
// terms, more exact.
constexpr int64_t kWinogradPixels = 4;

template <class O>
bool use_winograd(const Convolution<O>& convolution, const Sizes& sizes) {
  return tuning().winograd && std::is_same_v<O, float> &&
         (convolution.height == 3 || convolution.height == 5) &&
         convolution.width == convolution.height && convolution.in_channels >= kWinogradChannels &&
         std::min(sizes.height, sizes.width) >= kWinogradPixels;
}

// On matrix registers, where gathering at least halves the rows of them that are multiplied: a kernel
// row of few channels fills a small part of one. And always where a kernel row ends within an operand.
template <class O>
bool use_gathered(const Convolution<O>& convolution) {
  const int64_t row_numbers = convolution.width * convolution.in_channels;
  const int64_t direct = convolution.height * ceil_div(row_numbers, kRegisterNumbers);
  const int64_t gathered = ceil_div(convolution.numbers(), kRegisterNumbers);
  const bool splits_operands = row_numbers % depth<O> != 0;
  return depth<O> > 1 && engine().matrix_registers && (2 * gathered <= direct || splits_operands);
}

template <class O>
Algorithm algorithm_of(const Convolution<O>& convolution, const Sizes& sizes) {
  return use_winograd(convolution, sizes) ? Algorithm::kWinograd
         : use_gathered(convolution)      ? Algorithm::kGathered
                                          : Algorithm::kDirect;
}

template <class N>
constexpr at::ScalarType scalar_type() {
  return std::is_same_v<N, Bfloat16> ? at::kBFloat16
         : std::is_same_v<N, double> ? at::kDouble
                                     : at::kFloat;
}

void assign(double value, double& number) { number = value; }
void assign(double value, float& number) { number = float(value); }
void assign(double value, Bfloat16& number) { baseline::narrow(float(value), number); }

// Where a gate column belongs: gate * C + c in the order of the parameters, or -1 for padding.
int64_t parameter_row(int64_t column, const Sizes& sizes) {
  const int64_t vector = column / sizes.lanes;
  const int64_t c = vector / kGates * sizes.lanes + column % sizes.lanes;
  return c < sizes.hidden ? vector % kGates * sizes.hidden + c : -1;
}

std::vector<int64_t> parameter_rows(const Sizes& sizes) {
  std::vector<int64_t> rows(sizes.gate_columns());
  for (int64_t column = 0; column < sizes.gate_columns(); ++column) {
    rows[column] = parameter_row(column, sizes);
  }
  return rows;
}

// Where in a panel's weights the number of tap p of channel k for column 0 lies, and the distance to
// that of the next column.
template <class O>
struct PanelLayout {
  PanelLayout(const Convolution<O>& convolution, int64_t width)
      : convolution(convolution),
        taps(convolution.winograd() ? convolution.positions()
                                    : convolution.height * convolution.width),
        row_taps(convolution.gathered() ? taps : convolution.width),
        rows(convolution.winograd()   ? convolution.positions() * convolution.in_channels
             : convolution.gathered() ? convolution.of_gathered().row_operands()
                                      : convolution.height * convolution.row_operands()),
        width(width) {}
  int64_t numbers() const { return rows * width * depth<O>; }
  int64_t offset(int64_t p, int64_t k) const {
    if (convolution.winograd()) {
      return (p * convolution.in_channels + k) * width;
    }
    const int64_t number = p % row_taps * convolution.in_channels + k;
    const int64_t row = p / row_taps * convolution.row_operands() + number / depth<O>;
    return row * width * depth<O> + number % depth<O>;
  }

  const Convolution<O>& convolution;
  int64_t taps, row_taps;  // of the kernel, and of what is packed as a row of it
  int64_t rows, width;
};

// Panels filled from kernel(column, channel): a pointer to the taps of a kernel, `tap_pitch` apart
// (backwards for a flipped kernel), or null for padding.
template <class O, class Kernel>
at::Tensor packed_panels(const Convolution<O>& convolution, int64_t width, int64_t tap_pitch,
                         const Kernel& kernel) {
  using N = number_t<O>;
  const int64_t channels = convolution.in_channels;
  const int64_t kernel_taps = convolution.height * convolution.width;
  const PanelLayout<O> layout(convolution, width);
  at::Tensor storage = at::zeros({convolution.panels * layout.numbers()}, scalar_type<N>());
  N* const data = static_cast<N*>(storage.data_ptr());
  at::parallel_for(0, convolution.panels * channels, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> given(kernel_taps * width), transformed(layout.taps * width);
    for (int64_t job = begin; job < end; ++job) {
      const int64_t panel = job / channels, k = job % channels;
      for (int64_t i = 0; i < width; ++i) {
        const accumulate_t<O>* const from = kernel(panel * width + i, k);
        for (int64_t p = 0; p < kernel_taps; ++p) {
          given[p * width + i] = from == nullptr ? 0 : double(from[p * tap_pitch]);
        }
      }
      if (convolution.winograd()) {
        baseline::for_filter(convolution.height, [&](auto size) {
          transform_kernels<size.value>(given.data(), width, transformed.data());
        });
      }
      const double* const values = convolution.winograd() ? transformed.data() : given.data();
      for (int64_t p = 0; p < layout.taps; ++p) {
        N* const out = data + panel * layout.numbers() + layout.offset(p, k);
        for (int64_t i = 0; i < width; ++i) {
          assign(values[p * width + i], out[i * depth<O>]);
        }
      }
    }
  });
  return storage;
}

// The description of a convolution from `in_channels` to `columns` channels.
template <class O>
Convolution<O> describe(const at::Tensor& weight, int64_t in_channels, int64_t columns,
                        Padding padding, const Sizes& sizes) {
  Convolution<O> convolution;
  convolution.in_channels = in_channels;
  convolution.height = weight.size(2);
  convolution.width = weight.size(3);
  convolution.pad_rows = padding.rows;
  convolution.pad_columns = padding.columns;
  convolution.panels = ceil_div(columns, sizes.panel_width());
  convolution.algorithm = algorithm_of(convolution, sizes);
  return convolution;
}

// The parameter in the type arithmetic is done in.
template <class O>
at::Tensor dense_weight(const at::Tensor& weight) {
  return weight.to(scalar_type<accumulate_t<O>>()).contiguous();
}

}  // namespace

template <class O>
PackedConvolution<O> pack_convolution(const at::Tensor& weight, Padding padding, const Sizes& sizes,
                                      bool keep) {
  const int64_t channels = weight.size(1), taps = weight.size(2) * weight.size(3);
  PackedConvolution<O> packed;
  packed.convolution = describe<O>(weight, channels, sizes.gate_columns(), padding, sizes);
  const auto pack = [&] {
    const at::Tensor dense = dense_weight<O>(weight);
    const auto* const w = dense.data_ptr<accumulate_t<O>>();
    const std::vector<int64_t> rows = parameter_rows(sizes);
    return packed_panels(packed.convolution, sizes.panel_width(), 1,
                         [&](int64_t column, int64_t k) {
                           const int64_t row = rows[column];
                           return row < 0 ? nullptr : w + (row * channels + k) * taps;
                         });
  };
  const PackedLayout layout{scalar_type<number_t<O>>(), sizes.lanes, packed.convolution.algorithm};
  packed.storage = keep ? kept_weights().get(weight, layout, pack) : pack();
  packed.convolution.weights = static_cast<const number_t<O>*>(packed.storage.data_ptr());
  return packed;
}

template <class O>
PackedConvolution<O> pack_transposed_convolution(const at::Tensor& weight, Padding padding,
                                                 const Sizes& sizes) {
  const at::Tensor dense = dense_weight<O>(weight);
  const auto* const w = dense.data_ptr<accumulate_t<O>>();
  const int64_t channels = weight.size(1), taps = weight.size(2) * weight.size(3);
  const Padding rest{weight.size(2) - 1 - padding.rows, weight.size(3) - 1 - padding.columns};
  const std::vector<int64_t> rows = parameter_rows(sizes);
  PackedConvolution<O> packed;
  packed.convolution = describe<O>(weight, sizes.gate_columns(), channels, rest, sizes);
  packed.storage =
      packed_panels(packed.convolution, sizes.panel_width(), -1, [&](int64_t k, int64_t column) {
        const bool padded = rows[column] < 0 || k >= channels;
        const int64_t last_tap = taps - 1;
        return padded ? nullptr : w + (rows[column] * channels + k) * taps + last_tap;
      });
  packed.convolution.weights = static_cast<const number_t<O>*>(packed.storage.data_ptr());
  return packed;
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

template <class O>
int64_t weight_gradient_elements(const Convolution<O>& convolution, const Sizes& sizes) {
  const int64_t channels = convolution.in_channels;
  const int64_t rows =
      convolution.winograd() ? convolution.positions() * round_up(channels, kBlockRows)
      : convolution.gathered()
          ? round_up(convolution.numbers(), kBlockRows)
          : convolution.height * round_up(convolution.width * channels, kBlockRows);
  return convolution.panels * rows * sizes.panel_width();
}

template <class O>
at::Tensor unpack_weight_gradient(const accumulate_t<O>* gradient,
                                  const Convolution<O>& convolution, const Sizes& sizes,
                                  at::ScalarType dtype) {
  using A = accumulate_t<O>;
  const int64_t panel_width = sizes.panel_width();
  const int64_t channels = convolution.in_channels;
  const int64_t height = convolution.height, width = convolution.width;
  const int64_t kernel_rows = convolution.gathered() ? 1 : height;
  const int64_t padded_channels = round_up(channels, kBlockRows);
  const int64_t row_taps = convolution.gathered() ? height * width : width;
  const int64_t padded_length = round_up(row_taps * channels, kBlockRows);
  at::Tensor out = at::empty({kGates * sizes.hidden, channels, height, width},
                             c10::CppTypeToScalarType<A>::value);
  A* const data = out.data_ptr<A>();
  const auto unpack_column = [&](int64_t column, int64_t row) {
    const int64_t panel = column / panel_width, lane = column % panel_width;
    for (int64_t k = 0; k < channels; ++k) {
      A* const kernel = data + (row * channels + k) * height * width;
      if (convolution.winograd()) {
        const A* u =
            gradient + (panel * convolution.positions() * padded_channels + k) * panel_width + lane;
        baseline::for_filter(height, [&](auto size) {
          transform_kernel_gradient<size.value>(u, padded_channels * panel_width, kernel);
        });
      } else {
        for (int64_t p = 0; p < height * width; ++p) {
          const int64_t run = (panel * kernel_rows + p / row_taps) * padded_length;
          kernel[p] = gradient[(run + p % row_taps * channels + k) * panel_width + lane];
        }
      }
    }
  };
  at::parallel_for(0, sizes.gate_columns(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      if (const int64_t row = parameter_row(column, sizes); row >= 0) {
        unpack_column(column, row);
      }
    }
  });
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

#define MEMX_INSTANTIATE(O)                                                                       \
  template PackedConvolution<O> pack_convolution(const at::Tensor&, Padding, const Sizes&, bool); \
  template PackedConvolution<O> pack_transposed_convolution(const at::Tensor&, Padding,           \
                                                            const Sizes&);                        \
  template int64_t weight_gradient_elements(const Convolution<O>&, const Sizes&);                 \
  template at::Tensor unpack_weight_gradient(const accumulate_t<O>*, const Convolution<O>&,       \
                                             const Sizes&, at::ScalarType);
MEMX_INSTANTIATE(float)
MEMX_INSTANTIATE(double)
MEMX_INSTANTIATE(Bfloat16Pair)
#undef MEMX_INSTANTIATE

#define MEMX_INSTANTIATE(A)                                          \
  template at::Tensor pack_bias<A>(const at::Tensor&, const Sizes&); \
  template at::Tensor unpack_bias_gradient(const A*, const Sizes&, at::ScalarType);
MEMX_INSTANTIATE(float)
MEMX_INSTANTIATE(double)
#undef MEMX_INSTANTIATE

}  // namespace memx

// What the operators take and give, and module initialisation. Their schemas are in
// memx_fast/ops.py, because they exist without this extension too; kernels register themselves
// beside their definition.
//
// Shapes: T steps, B batch, C hidden channels, H and W the image. Parameters and states are of the
// dtype of x, except c_0 and c_n, which are float32 where x is bfloat16 or float16.
//
//   x          (T, B, Cin, Hx, Wx), any strides; (T, B, 4C, H, W) input gates without weight_ih
//   weight_ih  (4C, Cin, kh, kw), rows in gate order i, f, g, o
//   weight_hh  (4C, C, kh, kw), odd kernel, always padded to the same size
//   bias       (4C,)
//   weight_ch  (3, C) or (3, C, H, W), in order i, f, o
//   h_0, c_0   (B, C, H, W); absent: zeros
//   padding    zeros around x, rows and columns, less than the kernel: H = Hx + 2 rows - kh + 1
//   hidden_mask  (B, C, H, W), multiplies H_{t-1} on its way into the recurrent convolution; absent:
//              ones
//   lengths    (B,) of int64, from 1 to T: the steps of every sequence, after which it is
//              not computed: zeros in output, cells, gates and the gradient of x; absent: T
//   hard_sigmoid_slope  above 0: the gates i, f, o are clamp(slope z + 1/2, 0, 1); 0: logistic
//
//   output     (T, B, C, H, W), channels-last strides
//   h_n, c_n   (B, C, H, W), likewise
//   cells      (T, B, H, W, C) with save_cells, else (0,)
//   gates      (saved_gates, B, H, W, 4, C), those of the last steps
//
// The backward operator takes what the forward returned and gives an empty tensor for every
// gradient whose entry of `needs` (x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0) is false.
// Gates that were not saved are computed again.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <string>
#include <vector>

#include "cpu/allocation.h"
#include "cpu/engine.h"
#include "cpu/kept_weights.h"
#include "cpu/tuning.h"

namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const memx::Engine* engine : memx::supported_engines()) {
    names.emplace_back(engine->name);
  }
  return names;
}

constexpr bool kOpenMP =
#ifdef _OPENMP
    true;
#else
    false;
#endif

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build facts of the compiled kernels; the operators are in torch.ops.memx_fast.";
  module.def("build_info", [] {
    pybind11::dict info;
    info["torch"] = TORCH_VERSION;
    info["compiler"] = __VERSION__;
    info["openmp"] = kOpenMP;
    info["instruction_sets"] = instruction_sets();
    return info;
  });
  module.def("kept_weights", [] {
    const memx::KeptWeights::Statistics found = memx::kept_weights().statistics();
    pybind11::dict info;
    info["entries"] = found.entries;
    info["bytes"] = found.bytes;
    info["hits"] = found.hits;
    return info;
  });
  module.def("large_memory", [] {
    const memx::LargeMemory found = memx::large_memory();
    pybind11::dict info;
    info["in_use"] = found.in_use;
    info["kept"] = found.kept;
    info["most"] = found.most;
    info["made"] = found.made;
    return info;
  });
  module.def("empty_cache", [] {
    memx::release_kept_memory();
    memx::kept_weights().clear();
  });
  module.def("instruction_set", [] { return std::string(memx::engine().name); });
  module.def("select_instruction_set", &memx::select_engine, pybind11::arg("name"),
             "Use the kernels of one of the instruction sets this processor runs.");
  module.def(
      "tune",
      [](bool winograd, bool huge_pages, bool keep_memory, bool strips) {
        memx::tuning() = {winograd, huge_pages, keep_memory, strips};
      },
      pybind11::kw_only(), pybind11::arg("winograd") = true, pybind11::arg("huge_pages") = true,
      pybind11::arg("keep_memory") = true, pybind11::arg("strips") = true,
      "Switch optimisations on or off, to measure what they are worth.");
}

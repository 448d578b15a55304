// The CPU as the device of csrc/cuda/operators.cpp, so that the operators of the CUDA engine run as
// they are on tensors of the CPU, sanitizers watching. Which GPU it plays is in the environment.
#include "../../csrc/cuda/device.h"

#include <torch/library.h>

#include <cstdlib>

#include "../../csrc/operators.h"
#include "fibres.h"

namespace memx {

void cuda::on_device_of(const at::Tensor&, const std::function<void(const Device&)>& body) {
  const char* multiprocessors = std::getenv("MEMX_FAST_TEST_MULTIPROCESSORS");
  cuda::fibres::Machine machine(0, false);
  body({multiprocessors == nullptr ? 132 : std::atoi(multiprocessors), &machine});
}

TORCH_LIBRARY_IMPL(memx_fast, CPU, library) {
  library.impl("conv_lstm_cuda", conv_lstm_cuda);
  library.impl("conv_lstm_cuda_backward", conv_lstm_cuda_backward);
}

}  // namespace memx

// The device that the CUDA engine's operators run on: a GPU (device.cpp); in the tests the CPU, which
// plays one (tests/cuda_on_host/device.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace memx::cuda {

struct Device {
  int multiprocessors;
  void* stream;  // the current one
};

// Calls body with the tensor's device, which is the current one meanwhile.
void on_device_of(const at::Tensor& tensor, const std::function<void(const Device&)>& body);

}  // namespace memx::cuda

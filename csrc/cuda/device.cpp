#include "device.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

#include "../operators.h"

namespace memx {

void cuda::on_device_of(const at::Tensor& tensor, const std::function<void(const Device&)>& body) {
  const c10::cuda::CUDAGuard guard(tensor.device());
  Device device{0, c10::cuda::getCurrentCUDAStream().stream()};
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount,
                                        tensor.get_device()));
  body(device);
}

TORCH_LIBRARY_IMPL(memx_fast, CUDA, library) {
  library.impl("conv_lstm_cuda", conv_lstm_cuda);
  library.impl("conv_lstm_cuda_backward", conv_lstm_cuda_backward);
}

}  // namespace memx

"""How the CUDA kernels are launched: primitives.h, compiled by nvcc, over a runtime that notes."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the path")

SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"

# The functions of CUDA's runtime that a program with one kernel calls.
RUNTIME = r"""
#include <cuda_runtime_api.h>
#include <cstdio>
#include <cstdlib>

static cudaError_t last = cudaSuccess;

extern "C" {
void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, struct CUstream_st*) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaSuccess; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { abort(); }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { abort(); }
const char* cudaGetErrorString(cudaError_t) { return "out of order"; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { abort(); }

cudaError_t cudaGetLastError() {
  const cudaError_t found = last;
  last = cudaSuccess;
  return found;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  std::printf("limit %d\n", value);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void** arguments, size_t bytes,
                             cudaStream_t stream) {
  std::printf("grid %u %u %u, threads %u, shared %zu, stream %p, argument %d\n", grid.x, grid.y,
              grid.z, block.x, bytes, static_cast<void*>(stream), *static_cast<int*>(arguments[0]));
  return last = block.x > 1024 ? cudaErrorInvalidConfiguration : cudaSuccess;
}
}
"""

PROGRAM = r"""
#include "primitives.h"

#include <cstdio>

namespace memx::cuda {
MEMX_KERNEL(64, 1) kernel(MEMX_KERNEL_ARGUMENT int) {}
}  // namespace memx::cuda

int main() {
  using namespace memx::cuda;
  const Stream stream = reinterpret_cast<Stream>(0x60);
  for (const int bytes : {1 << 10, 90 << 10, 60 << 10}) {
    launch(kernel, {5, 4, 3}, 64, bytes, stream, 7);
  }
  try {
    launch(kernel, {1}, 2048, 0, stream, 7);
  } catch (const std::runtime_error& error) {
    std::printf("%s; left behind: %d\n", error.what(), cudaGetLastError());
  }
}
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the program prints, line by line."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "runtime.cpp").write_text(RUNTIME)
    (folder / "program.cu").write_text(PROGRAM)
    command = (
        "nvcc",
        "-std=c++20",
        "-arch=sm_80",
        f"-I{SOURCES}",
        "--cudart=none",
        "-o",
        "program",
    )
    compiled = subprocess.run(
        (*command, "program.cu", "runtime.cpp"), cwd=folder, capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    ran = subprocess.run((folder / "program",), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_launch_is_on_the_stream_that_was_given(said: list[str]) -> None:
    """With grid, threads, shared memory and arguments as asked for."""
    launches = [line for line in said if line.startswith("grid 5")]
    assert launches == [
        f"grid 5 4 3, threads 64, shared {kibibytes << 10}, stream 0x60, argument 7"
        for kibibytes in (1, 90, 60)
    ]


def test_limit_of_shared_memory_is_one_number(said: list[str]) -> None:
    """A second thread that launches the same kernel with less cannot lower it under the first's."""
    limits = [int(line.removeprefix("limit ")) for line in said if line.startswith("limit")]
    assert len(limits) == 2
    assert set(limits) == {99 << 10}


def test_failed_launch_is_reported_once(said: list[str]) -> None:
    """By an exception; PyTorch's next check does not find the error again."""
    assert said[-1] == "memx_fast: CUDA: out of order; left behind: 0"

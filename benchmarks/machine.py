"""What the machine itself can do, measured in the same run as the contenders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .devices import device_name, synchronise

# Shapes (M, K, N) of the products whose best rate counts, the longest last: the tall narrow one
# that a ConvLSTM of 32 channels consists of, and square ones.
_PRODUCTS = {
    "cpu": ((16384, 288, 128), (1024, 1024, 1024), (2048, 2048, 2048)),
    "cuda": ((131072, 288, 128), (4096, 4096, 4096), (8192, 8192, 8192)),
}
_COPIED_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
# A product that takes this long is slow enough to be measured by one call, and the last one.
_LONG = 0.25


@dataclass(frozen=True)
class Machine:
    """Limits of this device.

    Attributes:
        device: its name and the number of cores used.
        gemm_rate: floating-point operations a second of torch.mm, by type.
        copy_bandwidth: bytes a second, read and written, of a large copy.
    """

    device: str
    gemm_rate: dict[str, float]
    copy_bandwidth: float

    def limit(self, dtype: str) -> float:
        """Operations a second that a contender of this type could reach.

        Where products of bfloat16 are slower than those of float32, the latter are the limit.
        """
        return max(self.gemm_rate["float32"], self.gemm_rate[dtype])


def measure(device: str) -> Machine:
    """The machine as it is now; takes a second or two."""
    return Machine(
        device=device_name(device),
        gemm_rate={
            name: gemm_rate(getattr(torch, name), device) for name in ("float32", "bfloat16")
        },
        copy_bandwidth=copy_bandwidth(device),
    )


def gemm_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of torch.mm, the best over a few shapes; float32 in TF32 on a GPU."""
    best = 0.0
    usual = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    for rows, inner, columns in _PRODUCTS[device]:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(inner, columns, device=device).to(dtype)
        seconds = shortest(lambda left=left, right=right: left @ right, device)
        best = max(best, 2.0 * rows * inner * columns / seconds)
        if seconds > _LONG:
            break
    torch.backends.cuda.matmul.allow_tf32 = usual
    return best


def copy_bandwidth(device: str) -> float:
    """Bytes a second, those read and those written counted, of a copy larger than any cache."""
    size = _COPIED_BYTES[device]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / shortest(lambda: target.copy_(source), device)


def shortest(function: Callable[[], object], device: str, rounds: int = 5) -> float:
    """Seconds of the fastest of some calls; of one call if that takes long."""
    if device == "cuda":
        function()  # the first call starts libraries
    times = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - start)
        if times[-1] > _LONG:
            break
    return min(times)

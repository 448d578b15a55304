"""What the machine itself can do, measured in the same run as the contenders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from memx_fast import info

# Shapes (M, K, N) of the products whose best rate counts, the longest last: the tall narrow one
# that a ConvLSTM of 32 channels consists of, and square ones.
_PRODUCTS = ((16384, 288, 128), (1024, 1024, 1024), (2048, 2048, 2048))
_COPIED_BYTES = 256 * 2**20
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


def measure() -> Machine:
    """The machine as it is now; takes a second or two."""
    return Machine(
        device=device_name(),
        gemm_rate={name: gemm_rate(getattr(torch, name)) for name in ("float32", "bfloat16")},
        copy_bandwidth=copy_bandwidth(),
    )


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16; otherwise libraries emulate it, very slowly."""
    sets = info.processor()["instruction_sets"]
    return any(name in sets for name in ("avx512_bf16", "amx_bf16", "bf16"))


def device_name() -> str:
    """Name of the CPU and the number of threads that PyTorch uses on it."""
    threads = torch.get_num_threads()
    return f"{info.processor()['name']}, {threads} thread{'s' if threads > 1 else ''}"


def gemm_rate(dtype: torch.dtype) -> float:
    """Operations a second of torch.mm, the best over a few shapes."""
    best = 0.0
    for rows, inner, columns in _PRODUCTS:
        left = torch.randn(rows, inner).to(dtype)
        right = torch.randn(inner, columns).to(dtype)
        seconds = shortest(lambda left=left, right=right: left @ right)
        best = max(best, 2.0 * rows * inner * columns / seconds)
        if seconds > _LONG:
            break
    return best


def copy_bandwidth() -> float:
    """Bytes a second, those read and those written counted, of a copy larger than any cache."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)
    return 2 * _COPIED_BYTES / shortest(lambda: target.copy_(source))


def shortest(function: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the fastest of some calls; of one call if that takes long."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
        if times[-1] > _LONG:
            break
    return min(times)

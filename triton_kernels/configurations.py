"""How large a tile a program owns, and with how many warps and pipeline stages it runs.

A table by kernel, type of number and number of output channels; one line a size class. What a
kernel is compiled for follows from the layer alone (its types, channels and kernel sizes) and never
from T, B, H or W: those may change from call to call without compiling anything.

A tile of the forward and the backward step has at least one element for every thread. They update
cell states and their gradients in place; were an element given to two threads, one could read what
the other has written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from memx_fast.ops import accumulate_dtype

_SMALLEST_PRODUCT = 16


@dataclass(frozen=True)
class Configuration:
    """One line of the table.

    Attributes:
        block_m: pixels of a tile; rows of the weight gradient for ``weight_gradient``.
        block_c: output channels of a tile.
        block_k: length of one product of the main loop.
        warps: warps of a program.
        stages: blocks of the main loop that are on their way at once.
    """

    block_m: int
    block_c: int
    block_k: int
    warps: int
    stages: int


def launch_options(warps: int, stages: int) -> dict[str, Any]:
    """Options of a launch. Fused multiply-adds are asked for: Triton's default is changing."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


# (kernel, type of number) -> one line for at most so many output channels each, the last for more.
TABLE: dict[tuple[str, str], dict[int | None, Configuration]] = {
    ("forward", "half"): {
        16: Configuration(128, 16, 32, 8, 3),
        None: Configuration(128, 32, 32, 8, 3),
    },
    ("forward", "tf32"): {
        16: Configuration(128, 16, 32, 8, 3),
        None: Configuration(128, 32, 32, 8, 3),
    },
    ("forward", "float32"): {None: Configuration(64, 16, 16, 4, 2)},
    ("forward", "float64"): {None: Configuration(32, 16, 16, 4, 2)},
    ("backward", "half"): {
        16: Configuration(128, 16, 64, 8, 3),
        32: Configuration(128, 32, 64, 8, 3),
        None: Configuration(64, 64, 64, 8, 3),
    },
    ("backward", "tf32"): {
        16: Configuration(128, 16, 32, 8, 3),
        None: Configuration(64, 32, 32, 8, 3),
    },
    ("backward", "float32"): {
        16: Configuration(64, 16, 16, 4, 2),
        None: Configuration(64, 32, 16, 8, 2),
    },
    ("backward", "float64"): {None: Configuration(32, 16, 16, 4, 2)},
    ("image_gradient", "half"): {
        16: Configuration(128, 16, 64, 8, 3),
        32: Configuration(128, 32, 64, 4, 3),
        None: Configuration(128, 64, 64, 4, 3),
    },
    ("image_gradient", "tf32"): {
        16: Configuration(128, 16, 32, 4, 3),
        None: Configuration(128, 32, 32, 8, 3),
    },
    ("image_gradient", "float32"): {
        16: Configuration(64, 16, 16, 4, 2),
        None: Configuration(64, 32, 16, 4, 2),
    },
    ("image_gradient", "float64"): {None: Configuration(32, 16, 16, 4, 2)},
    ("weight_gradient", "half"): {
        32: Configuration(32, 64, 64, 4, 3),
        None: Configuration(64, 128, 64, 4, 3),
    },
    ("weight_gradient", "tf32"): {
        32: Configuration(32, 64, 32, 4, 3),
        None: Configuration(64, 64, 32, 4, 3),
    },
    ("weight_gradient", "float32"): {None: Configuration(32, 64, 16, 4, 2)},
    ("weight_gradient", "float64"): {None: Configuration(16, 32, 16, 4, 2)},
}


@dataclass(frozen=True)
class Numbers:
    """How tensors of one dtype are multiplied and added.

    Attributes:
        dtype: of the tensors.
        precision: of the products of float32 tensors, ``"ieee"`` or ``"tf32"``.
    """

    dtype: torch.dtype
    precision: str

    @property
    def table_name(self) -> str:
        """The table's name for this type of number."""
        if self.dtype in (torch.bfloat16, torch.float16):
            return "half"
        if self.dtype == torch.float64:
            return "float64"
        return "tf32" if self.precision == "tf32" else "float32"

    def constants(self) -> dict[str, Any]:
        """What a kernel is told."""
        double = accumulate_dtype(self.dtype) == torch.float64
        return {"PRECISION": self.precision, "ACCUMULATE": tl.float64 if double else tl.float32}


def numbers_of(tensor: Tensor) -> Numbers:
    """How a tensor's numbers are multiplied and added."""
    return Numbers(tensor.dtype, precision(tensor.dtype, tensor.device))


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """What float32 operands are multiplied in: ``"tf32"`` where PyTorch's convolutions may too."""
    permitted = (
        dtype == torch.float32
        and device.type == "cuda"
        and not is_amd()
        and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    )
    return "tf32" if permitted else "ieee"


def configuration(kernel: str, numbers: Numbers, channels: int) -> Configuration:
    """The line of the table for a kernel.

    Args:
        kernel: ``"forward"``, ``"backward"``, ``"image_gradient"`` or ``"weight_gradient"``.
        numbers: of the tensors.
        channels: output channels of the convolution; for the weight gradient, those of the image.
    """
    lines = TABLE[kernel, numbers.table_name]
    line = next(line for most, line in lines.items() if most is None or channels <= most)
    # AMD's compiler needs more registers for these two, which hold four gates and the states of
    # their tile, and local memory is smaller.
    if is_amd() and kernel == "forward":
        return replace(line, block_m=line.block_m // 2, stages=2)
    if is_amd() and kernel == "backward":
        return replace(line, block_c=16, stages=2)
    return line


def is_amd() -> bool:
    """Whether PyTorch's GPUs are AMD's."""
    return torch.version.hip is not None


def depth(block_k: int, channels: int, taps: int) -> int:
    """Length of one product over an image of ``channels``: shorter where there is less to sum."""
    if channels >= block_k:
        return block_k
    length = _SMALLEST_PRODUCT
    while length < min(block_k, taps * channels):
        length *= 2
    return length


def whole_blocks(number: int, block: int) -> int:
    """How many blocks cover the number. Several times as fast as Triton's own cdiv."""
    return -(-number // block)


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return whole_blocks(number, multiple) * multiple

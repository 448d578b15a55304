"""Operands in the layout that the kernels read.

Images are dense with channels last; a tensor that already is comes as it is, without a copy.
Weights are packed once a call, rounded to the precision that they are multiplied in and padded with
zeros to full tiles: [K][gate][channel] for the gates, [K][channel] for a transposed convolution, K
running over the taps of the kernel and the channels under each (:mod:`.convolution`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import GATES
from .configurations import round_up

_ALIGNMENT = 16
"""Bytes: what Triton takes into account when it compiles for a pointer."""

_TF32_SPACING = 1 << 13
"""Of the numbers that TF32 has, in float32's bits."""


def channels_last(images: Tensor) -> Tensor:
    """(..., channels, H, W) of any strides as a dense (..., H, W, channels)."""
    return aligned(images.movedim(-3, -1).contiguous())


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, at an address that does not depend on where it was cut out of another."""
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor


def empty_images(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (..., channels, H, W), dense with channels last, and no view of anything."""
    *images, channels, height, width = range(len(shape))
    order = (*images, height, width, channels)
    return torch.empty_permuted(shape, order, dtype=dtype or like.dtype, device=like.device)


def rounded(weight: Tensor, precision: str) -> Tensor:
    """The nearest numbers that ``precision`` has, ties away from 0: see :mod:`.convolution`."""
    if precision != "tf32":
        return weight
    nearest = (weight.view(torch.int32) + _TF32_SPACING // 2) & -_TF32_SPACING
    # The bits of a NaN may run over into those of a number.
    return torch.where(weight.isnan(), weight, nearest.view(torch.float32))


def pack_gates(weight: Tensor, precision: str, block_k: int, block_c: int) -> Tensor:
    """(4C, Cin, kh, kw) as (K, 4, C), padded to blocks."""
    rows = rounded(weight, precision).unflatten(0, (GATES, -1)).permute(3, 4, 2, 0, 1)
    return _padded(rows.flatten(0, 1), block_k, block_c)


def pack_transposed(weight: Tensor, precision: str, block_k: int, block_c: int) -> Tensor:
    """(4C, Cin, kh, kw) as (K, 1, Cin), for gate gradients to the gradients of images."""
    rows = rounded(weight, precision).flip(2, 3).permute(2, 3, 0, 1).unsqueeze(3)
    return _padded(rows.flatten(0, 1), block_k, block_c)


def pack_bias(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """(4C,) in the accumulation type."""
    return aligned(bias.to(dtype).contiguous())


def pack_peepholes(weight_ch: Tensor, dtype: torch.dtype) -> Tensor:
    """(3, C) or (3, C, H, W) as (3, 1, C) or (3, H*W, C) in the accumulation type."""
    rows = weight_ch.unsqueeze(1) if weight_ch.dim() == 2 else weight_ch.flatten(2).transpose(1, 2)
    return aligned(rows.to(dtype).contiguous())


def _padded(rows: Tensor, block_k: int, block_c: int) -> Tensor:
    """(taps, channels, groups, columns) to (K, groups, columns), full blocks of both."""
    if rows.shape[1] < block_k:
        rows = rows.flatten(0, 1).unsqueeze(0)
    more_rows = round_up(rows.shape[1], block_k) - rows.shape[1]
    more_columns = round_up(rows.shape[3], block_c) - rows.shape[3]
    return F.pad(rows, (0, more_columns, 0, 0, 0, more_rows)).flatten(0, 1).contiguous()

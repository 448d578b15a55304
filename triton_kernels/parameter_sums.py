"""Gradients of bias and peepholes: sums of gate gradients over steps, batch and pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import GATES
from .configurations import launch_options, whole_blocks

_BLOCK_P, _BLOCK_C = 16, 32


@triton.jit
def add_compensated(total, lost, term):
    """One step of Kahan's summation: gives the new ``total``, and what it is too large by.

    The sum, ``total - lost``, is rounded as if it had few terms, however many there are. Beyond the
    largest number nothing is made up for, so that infinity does not become NaN.
    """
    term = term - lost
    grown = total + term
    lost = (grown - total) - term
    return grown, tl.where(lost == lost, lost, 0.0)


@triton.jit(do_not_specialize=("images", "batch", "pixels"))
def sum_over_images(
    gate_gradients_ptr,  # (T*B, H*W, 4, C)
    cells_ptr,  # (T*B, H*W, C): C_t
    c_0_ptr,  # (B, H*W, C); None: zeros
    bias_ptr,  # (blocks of pixels, 4, C); None: not wanted
    peephole_ptr,  # (3, H*W, C) if SPATIAL, else (blocks of pixels, 3, C); None: not wanted
    images,
    batch,
    pixels,
    HIDDEN: tl.constexpr,
    SPATIAL: tl.constexpr,
    SEES_CURRENT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums of a tile of pixels and channels over all steps and sequences, in their order.

    There may be thousands of images, and the error of an ordinary sum grows with their number.
    """
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < HIDDEN
    mask = (pixel < pixels)[:, None] & exists[None, :]
    at = pixel[:, None] * HIDDEN + channel[None, :]
    gates_at = pixel.to(tl.int64)[:, None] * (4 * HIDDEN) + channel[None, :]
    size = pixels.to(tl.int64) * HIDDEN
    sum_i = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_i = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    sum_f = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_f = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    sum_g = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_g = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    sum_o = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_o = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    peephole_i = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_peephole_i = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    peephole_f = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_peephole_f = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    peephole_o = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    lost_peephole_o = tl.zeros((BLOCK_P, BLOCK_C), ACCUMULATE)
    for image in range(images):
        gradients = gate_gradients_ptr + image * 4 * size + gates_at
        d_i = tl.load(gradients, mask=mask, other=0.0).to(ACCUMULATE)
        d_f = tl.load(gradients + HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
        d_g = tl.load(gradients + 2 * HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
        d_o = tl.load(gradients + 3 * HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
        sum_i, lost_i = add_compensated(sum_i, lost_i, d_i)
        sum_f, lost_f = add_compensated(sum_f, lost_f, d_f)
        sum_g, lost_g = add_compensated(sum_g, lost_g, d_g)
        sum_o, lost_o = add_compensated(sum_o, lost_o, d_o)
        if peephole_ptr is not None:
            later = tl.full((1, 1), image, tl.int32) >= batch
            previous = tl.load(
                cells_ptr + (image - batch) * size + at, mask=mask & later, other=0.0
            )
            if c_0_ptr is not None:
                previous += tl.load(c_0_ptr + image * size + at, mask=mask & ~later, other=0.0)
            seen = previous
            if SEES_CURRENT:
                seen = tl.load(cells_ptr + image * size + at, mask=mask, other=0.0)
            peephole_i, lost_peephole_i = add_compensated(
                peephole_i, lost_peephole_i, d_i * previous
            )
            peephole_f, lost_peephole_f = add_compensated(
                peephole_f, lost_peephole_f, d_f * previous
            )
            peephole_o, lost_peephole_o = add_compensated(peephole_o, lost_peephole_o, d_o * seen)

    if bias_ptr is not None:
        bias = bias_ptr + tl.program_id(0) * (4 * HIDDEN) + channel
        tl.store(bias, tl.sum(sum_i, 0), mask=exists)
        tl.store(bias + HIDDEN, tl.sum(sum_f, 0), mask=exists)
        tl.store(bias + 2 * HIDDEN, tl.sum(sum_g, 0), mask=exists)
        tl.store(bias + 3 * HIDDEN, tl.sum(sum_o, 0), mask=exists)
    if peephole_ptr is not None:
        if SPATIAL:
            tl.store(peephole_ptr + at, peephole_i, mask=mask)
            tl.store(peephole_ptr + size + at, peephole_f, mask=mask)
            tl.store(peephole_ptr + 2 * size + at, peephole_o, mask=mask)
        else:
            peephole = peephole_ptr + tl.program_id(0) * (3 * HIDDEN) + channel
            tl.store(peephole, tl.sum(peephole_i, 0), mask=exists)
            tl.store(peephole + HIDDEN, tl.sum(peephole_f, 0), mask=exists)
            tl.store(peephole + 2 * HIDDEN, tl.sum(peephole_o, 0), mask=exists)


class ParameterSums(NamedTuple):
    """Gradients, each None where it was not wanted."""

    bias: Tensor | None  # (4C,)
    peepholes: Tensor | None  # of the shape of weight_ch


def parameter_sums(
    gate_gradients: Tensor,
    cells: Tensor,
    c_0: Tensor | None,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    sees_current: bool,
) -> ParameterSums:
    """Gradients of bias and peepholes.

    Args:
        gate_gradients: ``(T, B, H, W, 4, C)``, dense.
        cells: ``(T, B, H, W, C)``, dense.
        c_0: ``(B, H, W, C)``, dense, or None for zeros.
        bias: ``(4C,)``, or None if its gradient is not wanted.
        weight_ch: ``(3, C)`` or ``(3, C, H, W)``, or None if its gradient is not wanted.
        sees_current: the cell state that the output gate saw.
    """
    steps, batch, height, width, hidden = cells.shape
    pixels = height * width
    spatial = weight_ch is not None and weight_ch.dim() == 4
    blocks = whole_blocks(pixels, _BLOCK_P)
    bias_parts = None if bias is None else cells.new_empty((blocks, GATES * hidden))
    peephole_parts = None
    if weight_ch is not None:
        shape = (3, pixels, hidden) if spatial else (blocks, 3, hidden)
        peephole_parts = cells.new_empty(shape)
    sum_over_images[blocks, whole_blocks(hidden, _BLOCK_C)](
        gate_gradients,
        cells,
        c_0,
        bias_parts,
        peephole_parts,
        steps * batch,
        batch,
        pixels,
        HIDDEN=hidden,
        SPATIAL=spatial,
        SEES_CURRENT=sees_current,
        ACCUMULATE=tl.float64 if cells.dtype == torch.float64 else tl.float32,
        BLOCK_P=_BLOCK_P,
        BLOCK_C=_BLOCK_C,
        **launch_options(warps=8, stages=2),
    )
    peepholes = None
    if weight_ch is not None and peephole_parts is not None:
        total = peephole_parts.transpose(1, 2) if spatial else peephole_parts.sum(0)
        peepholes = total.reshape(weight_ch.shape).to(weight_ch.dtype).contiguous()
    return ParameterSums(
        None if bias is None or bias_parts is None else bias_parts.sum(0).to(bias.dtype), peepholes
    )

"""Gradient of a convolution's weight over all steps at once, without atomics.

A product of the images, transposed, with the gate gradients: rows are the numbers under the kernel,
columns the gates' channels, and the sum runs over the pixels of all T*B images. The pixels are cut
into runs, each of which writes a partial sum of its own; a second pass adds these up in their
order, so that the same call gives the same bits every time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configurations import (
    configuration,
    depth,
    launch_options,
    numbers_of,
    round_up,
    whole_blocks,
)
from .convolution import multiply_add, rounded

_PROGRAMS = 512
"""How many programs a launch should have at least: a few for each processor of a large GPU."""

_SHORTEST_RUN = 1024
"""Pixels. Shorter runs would spend their time on writing partial sums."""

_PARTIAL_BYTES = 64 << 20
"""The most memory that all partial sums may take."""


@triton.jit(
    do_not_specialize=(
        *("pixels", "run", "first_part", "first_gates_image", "masks"),
        *("height", "width", "image_height", "image_width"),
    )
)
def partial_products(
    images_ptr,  # (N, image_height, image_width, CHANNELS)
    mask_ptr,  # (masks, image_height, image_width, CHANNELS), times the images; None: ones
    gate_gradients_ptr,  # (.., height, width, COLUMNS), from image first_gates_image on
    partial_ptr,  # (parts, TAPS, CHANNELS, COLUMNS), from part first_part on
    pixels,  # of the N images of gate gradients
    run,  # pixels of a part, a multiple of BLOCK_P
    first_part,
    first_gates_image,
    masks,
    height,
    width,
    image_height,
    image_width,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING_ROWS: tl.constexpr,
    PADDING_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Rows x columns of one part: program ids are block of rows, block of columns, part."""
    block = tl.program_id(0)
    if CHANNELS < BLOCK_R:
        row = block * BLOCK_R + tl.arange(0, BLOCK_R)
        tap, channel = row // CHANNELS, row % CHANNELS
        row_exists = tap < TAPS
    else:
        BLOCKS: tl.constexpr = (CHANNELS + BLOCK_R - 1) // BLOCK_R
        tap = block // BLOCKS
        channel = block % BLOCKS * BLOCK_R + tl.arange(0, BLOCK_R)
        row = tap * CHANNELS + channel
        row_exists = channel < CHANNELS
    down, right = tap // KERNEL_WIDTH - PADDING_ROWS, tap % KERNEL_WIDTH - PADDING_COLUMNS
    offset = (down * image_width + right) * CHANNELS + channel
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    column_exists = column < COLUMNS
    gates = gate_gradients_ptr + first_gates_image.to(tl.int64) * height * width * COLUMNS

    part = tl.program_id(2)
    begin = part * run
    sum = tl.zeros((BLOCK_R, BLOCK_N), ACCUMULATE)
    for start in range(begin, tl.minimum(begin + run, pixels), BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        image, y, x = pixel // (width * height), pixel // width % height, pixel % width
        under = image.to(tl.int64) * image_height * image_width + y * image_width + x
        if CHANNELS < BLOCK_R:
            image_row, image_column = y[:, None] + down[None, :], x[:, None] + right[None, :]
        else:
            image_row, image_column = (y + down)[:, None], (x + right)[:, None]
        inside = (image_row >= 0) & (image_row < image_height)
        inside &= (image_column >= 0) & (image_column < image_width)
        exists = (pixel < pixels)[:, None]
        inside &= exists & row_exists[None, :]
        left = tl.load(
            images_ptr + under[:, None] * CHANNELS + offset[None, :], mask=inside, other=0.0
        )
        if mask_ptr is not None:
            under -= (image // masks * masks).to(tl.int64) * image_height * image_width
            mask = tl.load(
                mask_ptr + under[:, None] * CHANNELS + offset[None, :], mask=inside, other=0.0
            )
            left = (left.to(ACCUMULATE) * mask.to(ACCUMULATE)).to(left.dtype)
        gradients = tl.load(
            gates + pixel.to(tl.int64)[:, None] * COLUMNS + column[None, :],
            mask=exists & column_exists[None, :],
            other=0.0,
        )
        left, gradients = rounded(left, PRECISION), rounded(gradients, PRECISION)
        sum = multiply_add(tl.trans(left), gradients, sum, PRECISION)
    result = partial_ptr + (first_part + part).to(tl.int64) * (TAPS * CHANNELS * COLUMNS)
    tl.store(
        result + row[:, None] * COLUMNS + column[None, :],
        sum,
        mask=row_exists[:, None] & column_exists[None, :],
    )


class Images(NamedTuple):
    """Images that a convolution read, and where the gate gradients that they led to begin."""

    images: Tensor  # (N, Hx, Wx, Cin), dense
    first_gates_image: int


def weight_gradient(
    groups: list[Images],
    gate_gradients: Tensor,
    weight: Tensor,
    padding: tuple[int, int],
    mask: Tensor | None = None,
) -> Tensor:
    """Gradient of a convolution's weight.

    Args:
        groups: all images that were convolved; those of one group follow one another in memory.
        gate_gradients: ``(T*B, H, W, 4C)``, dense.
        weight: ``(4C, Cin, kh, kw)``; only its shape and dtype are used.
        padding: rows and columns of zeros around the images.
        mask: ``(B, Hx, Wx, Cin)``, dense, which multiplied the images of every step; None for none.

    Returns:
        The gradient, of the shape and dtype of ``weight``.
    """
    columns, channels, kernel_height, kernel_width = weight.shape
    taps = kernel_height * kernel_width
    height, width = gate_gradients.shape[1:3]
    numbers = numbers_of(weight)
    tile = configuration("weight_gradient", numbers, channels)
    block_r = depth(tile.block_m, channels, taps)
    row_blocks = whole_blocks(taps * channels, block_r)
    if channels >= block_r:
        row_blocks = taps * whole_blocks(channels, block_r)
    column_blocks = whole_blocks(columns, tile.block_c)
    accumulate = torch.float64 if weight.dtype == torch.float64 else torch.float32

    runs = [
        _run_length(
            len(group.images) * height * width,
            row_blocks * column_blocks,
            weight.numel() * accumulate.itemsize,
            tile.block_k,
        )
        for group in groups
    ]
    parts = [
        whole_blocks(len(group.images) * height * width, run)
        for group, run in zip(groups, runs, strict=True)
    ]
    partial = weight.new_empty((sum(parts), taps, channels, columns), dtype=accumulate)
    for number, (group, run) in enumerate(zip(groups, runs, strict=True)):
        partial_products[row_blocks, column_blocks, parts[number]](
            group.images,
            mask,
            gate_gradients,
            partial,
            len(group.images) * height * width,
            run,
            sum(parts[:number]),
            group.first_gates_image,
            1 if mask is None else len(mask),
            height,
            width,
            group.images.shape[1],
            group.images.shape[2],
            CHANNELS=channels,
            COLUMNS=columns,
            KERNEL_WIDTH=kernel_width,
            TAPS=taps,
            PADDING_ROWS=padding[0],
            PADDING_COLUMNS=padding[1],
            BLOCK_R=block_r,
            BLOCK_N=tile.block_c,
            BLOCK_P=tile.block_k,
            **numbers.constants(),
            **launch_options(tile.warps, tile.stages),
        )
    total = partial.sum(0).view(kernel_height, kernel_width, channels, columns)
    return total.permute(3, 2, 0, 1).to(weight.dtype).contiguous()


def _run_length(pixels: int, programs_a_part: int, bytes_a_part: int, block: int) -> int:
    """Pixels of a part: whole blocks, and no more parts than help or than memory allows."""
    parts = min(
        whole_blocks(_PROGRAMS, programs_a_part),
        whole_blocks(pixels, _SHORTEST_RUN),
        max(1, _PARTIAL_BYTES // bytes_a_part),
    )
    return round_up(whole_blocks(pixels, parts), block)

"""Gradient of the images that a convolution read, from the gate gradients that it led to."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .autotuning import autotuned, programs, tile_options
from .configurations import configuration, depth, numbers_of
from .convolution import convolve, image_rows, pixel_coordinates, tile_offsets
from .packing import pack_transposed


@autotuned()
@triton.jit(do_not_specialize=("pixels", "height", "width", "gates_height", "gates_width"))
def transposed_convolution(
    gate_gradients_ptr,  # (N, gates_height, gates_width, GATE_CHANNELS)
    weight_ptr,  # packed transposed (K, COLUMNS)
    gradient_ptr,  # (N, height, width, CHANNELS)
    pixels,  # of all N images of the result
    height,
    width,
    gates_height,
    gates_width,
    CHANNELS: tl.constexpr,
    GATE_CHANNELS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING_ROWS: tl.constexpr,  # of the transposed convolution
    PADDING_COLUMNS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of pixels and channels of the images' gradient."""
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, y, x = pixel_coordinates(pixel, pixels, height, width)
    top, left = y - PADDING_ROWS, x - PADDING_COLUMNS
    rows = image_rows(
        *(gate_gradients_ptr, image, top, left), gates_height, gates_width, GATE_CHANNELS
    )
    gradient = convolve(
        tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE),
        *(rows, top, left, gates_height, gates_width, weight_ptr, channel),
        *(GATE_CHANNELS, KERNEL_WIDTH, TAPS, COLUMNS, BLOCK_K, PRECISION),
    )
    tile, at = tile_offsets(CHANNELS, BLOCK_M, BLOCK_C)
    mask = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
    tl.store(gradient_ptr + tile + at, gradient, mask=mask)


def image_gradient(
    gate_gradients: Tensor, weight: Tensor, padding: tuple[int, int], gradient: Tensor
) -> None:
    """Write the gradient of the images: the convolution's transpose, over any number of them.

    Args:
        gate_gradients: ``(N, H, W, 4C)``, dense.
        weight: ``(4C, Cin, kh, kw)``.
        padding: rows and columns of zeros around the images in the forward convolution.
        gradient: the result, ``(N, Hx, Wx, Cin)``, dense.
    """
    count, gates_height, gates_width, gate_channels = gate_gradients.shape
    _, height, width, channels = gradient.shape
    _, _, kernel_height, kernel_width = weight.shape
    taps = kernel_height * kernel_width
    numbers = numbers_of(weight)
    tile = configuration("image_gradient", numbers, channels)
    block_k = depth(tile.block_k, gate_channels, taps)
    packed = pack_transposed(weight, numbers.precision, block_k, tile.block_c)
    pixels = count * height * width
    transposed_convolution[programs(pixels, channels, tile)](
        gate_gradients,
        packed,
        gradient,
        pixels,
        height,
        width,
        gates_height,
        gates_width,
        CHANNELS=channels,
        GATE_CHANNELS=gate_channels,
        KERNEL_WIDTH=kernel_width,
        TAPS=taps,
        PADDING_ROWS=kernel_height - 1 - padding[0],
        PADDING_COLUMNS=kernel_width - 1 - padding[1],
        COLUMNS=packed.shape[2],
        BLOCK_C=tile.block_c,
        BLOCK_K=block_k,
        **numbers.constants(),
        **tile_options(tile),
    )

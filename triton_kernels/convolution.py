"""The main loop that every kernel here shares: a zero-padded convolution as an implicit GEMM.

A program owns a tile of ``BLOCK_M`` pixels and ``BLOCK_C`` output channels. It runs over the
``K = taps * channels`` numbers under the kernel in blocks of ``BLOCK_K``; a tap is one position of
the kernel, counted row by row. The left operand of a block is read straight from the image, and
what lies outside of it is zero by mask: nothing is gathered to memory, no halo is stored.

An image is (N, height, width, channels), dense. Weights are packed by :mod:`.packing` so that every
block of them is a full tile: no mask, always aligned.

- ``channels >= BLOCK_K``: each tap is padded to whole blocks, so that a block has one tap;
- ``channels < BLOCK_K``: taps and channels together form K, so that narrow images, as a network's
  first layer has them, waste no products.
"""

import os

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def rounded(numbers, PRECISION: tl.constexpr):
    """The nearest numbers that ``PRECISION`` has.

    Given others, the matrix units cut TF32 operands off, which makes every product smaller and
    gradients twice as wrong. NaN stays NaN. :func:`.packing.rounded` does the same to weights.
    """
    if PRECISION == "tf32" and not _INTERPRETED:
        return tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [numbers], dtype=tl.float32, is_pure=True, pack=1
        )
    return numbers


@triton.jit
def multiply_add(left, right, sum, PRECISION: tl.constexpr):
    """sum + left @ right. ``PRECISION`` is what float32 operands, rounded to it, are multiplied in.

    Products in float32 itself are added up by themselves first: one sum over thousands of them,
    term by term, would be several times less exact.
    """
    BY_THEMSELVES: tl.constexpr = PRECISION == "ieee" and left.dtype == tl.float32
    if _INTERPRETED:
        # numpy has no bfloat16: the interpreter would multiply its bit patterns.
        left = left.to(sum.dtype)
        right = right.to(sum.dtype)
    if BY_THEMSELVES:
        # As many products may be added up without the sum as there are: with 0, which is Triton's
        # default, its compiler would begin with the sum.
        return sum + tl.dot(
            left,
            right,
            input_precision=PRECISION,
            max_num_imprecise_acc=left.shape[1],
            out_dtype=sum.dtype,
        )
    return tl.dot(left, right, sum, input_precision=PRECISION, out_dtype=sum.dtype)


@triton.jit
def pixel_coordinates(pixel, pixels, height, width):
    """Image number, row and column of pixels numbered through all images.

    Pixels past the last are put on a row that is outside of every image, under every tap.
    """
    y = pixel // width % height
    return pixel // (width * height), tl.where(pixel < pixels, y, -(1 << 24)), pixel % width


@triton.jit
def image_rows(image_ptr, image, y, x, height, width, CHANNELS: tl.constexpr):
    """Pointer to the first channel of pixel (y, x), which may lie outside: to be masked."""
    at = (image.to(tl.int64) * height + y) * width + x
    return image_ptr + at * CHANNELS


@triton.jit
def tile_offsets(CHANNELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Where a program's tile begins in images of so many channels, and its elements from there on.

    Only the beginning needs 64 bits: the tile's own offsets take half of the registers.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_M * CHANNELS + tl.program_id(1) * BLOCK_C
    rows, columns = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    return first, rows[:, None] * CHANNELS + columns[None, :]


@triton.jit
def image_block(
    rows,
    y,
    x,
    height,
    width,
    block,
    CHANNELS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The left operand [BLOCK_M, BLOCK_K] of one block of K.

    ``rows``, ``y`` and ``x`` are the pointers and coordinates of the pixels that lie under the
    kernel's first tap.
    """
    if CHANNELS < BLOCK_K:
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        tap = k // CHANNELS
        down, right = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
        row, column = y[:, None] + down[None, :], x[:, None] + right[None, :]
        mask = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        mask &= (tap < TAPS)[None, :]
        offset = (down * width + right) * CHANNELS + k % CHANNELS
    else:
        BLOCKS: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
        tap = block // BLOCKS
        down, right = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
        row, column = y + down, x + right
        mask = ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]
        channel = block % BLOCKS * BLOCK_K + tl.arange(0, BLOCK_K)
        if CHANNELS % BLOCK_K != 0:
            mask &= (channel < CHANNELS)[None, :]
        offset = (down * width + right) * CHANNELS + channel
    return tl.load(rows[:, None] + offset[None, :], mask=mask, other=0.0)


@triton.jit
def convolve(
    sum,
    rows,
    y,
    x,
    height,
    width,
    weight_ptr,
    column,
    CHANNELS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum + convolution, [BLOCK_M, BLOCK_C].

    ``weight_ptr`` is packed (K, COLUMNS) and rounded to PRECISION; ``column`` are the tile's
    output channels.
    """
    blocks: tl.constexpr = (
        (TAPS * CHANNELS + BLOCK_K - 1) // BLOCK_K
        if CHANNELS < BLOCK_K
        else TAPS * ((CHANNELS + BLOCK_K - 1) // BLOCK_K)
    )
    weights = weight_ptr + tl.arange(0, BLOCK_K)[:, None] * COLUMNS + column[None, :]
    for block in range(blocks):
        left = image_block(rows, y, x, height, width, block, CHANNELS, KERNEL_WIDTH, TAPS, BLOCK_K)
        left = rounded(left, PRECISION)
        sum = multiply_add(left, tl.load(weights), sum, PRECISION)
        weights += BLOCK_K * COLUMNS
    return sum


@triton.jit
def convolve_gates(
    z_i,
    z_f,
    z_g,
    z_o,
    rows,
    mask_rows,
    y,
    x,
    height,
    width,
    weight_ptr,
    channel,
    CHANNELS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """:func:`convolve` for the four gates of the tile's channels at once.

    ``weight_ptr`` is packed (K, 4, COLUMNS) and rounded to PRECISION. ``mask_rows`` points, as
    ``rows``, into an image that multiplies the other; None: ones. Four products of one left
    operand, not one of four times the width: each gate then has the same element of the tile in
    the same thread, and the equations need no exchange between threads.
    """
    blocks: tl.constexpr = (
        (TAPS * CHANNELS + BLOCK_K - 1) // BLOCK_K
        if CHANNELS < BLOCK_K
        else TAPS * ((CHANNELS + BLOCK_K - 1) // BLOCK_K)
    )
    weights = weight_ptr + tl.arange(0, BLOCK_K)[:, None] * (4 * COLUMNS) + channel[None, :]
    for block in range(blocks):
        left = image_block(rows, y, x, height, width, block, CHANNELS, KERNEL_WIDTH, TAPS, BLOCK_K)
        if mask_rows is not None:
            mask = image_block(
                *(mask_rows, y, x, height, width, block, CHANNELS, KERNEL_WIDTH, TAPS, BLOCK_K)
            )
            left = (left.to(z_i.dtype) * mask.to(z_i.dtype)).to(left.dtype)
        left = rounded(left, PRECISION)
        z_i = multiply_add(left, tl.load(weights), z_i, PRECISION)
        z_f = multiply_add(left, tl.load(weights + COLUMNS), z_f, PRECISION)
        z_g = multiply_add(left, tl.load(weights + 2 * COLUMNS), z_g, PRECISION)
        z_o = multiply_add(left, tl.load(weights + 3 * COLUMNS), z_o, PRECISION)
        weights += BLOCK_K * 4 * COLUMNS
    return z_i, z_f, z_g, z_o

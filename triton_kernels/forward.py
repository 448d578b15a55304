"""The forward pass: one launch a step computes both convolutions, the gates, C_t and H_t."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from memx_fast.ops import accumulate_dtype

from .arguments import GATES, Arguments, Equations, Sizes, checked_sizes
from .autotuning import autotuned, programs, tile_options
from .cell import cell_forward, load_peepholes
from .configurations import configuration, depth, numbers_of, round_up
from .convolution import convolve_gates, image_rows, pixel_coordinates, tile_offsets
from .launching import Launches
from .packing import channels_last, empty_images, pack_bias, pack_gates, pack_peepholes

_CHANGING = (
    *("t", "previous_hidden_step", "previous_cell_step", "cell_step", "gates_step"),
    *("batch", "height", "width", "input_height", "input_width"),
)


@autotuned(updated="cell_ptr")
@triton.jit(do_not_specialize=_CHANGING)
def forward_step(
    x_ptr,  # (T, B, Hx, Wx, Cin), or ready-made input gates (T, B, H, W, 4, C)
    weight_ih_ptr,  # packed (K, 4, COLUMNS); None: x holds input gates
    weight_hh_ptr,  # packed (K, 4, COLUMNS)
    bias_ptr,  # (4, C); None: zeros
    peephole_ptr,  # (3, H*W, C) if SPATIAL, else (3, 1, C); None: zeros
    previous_hidden_ptr,  # (.., B, H, W, C), of which step previous_hidden_step; None: zeros
    hidden_mask_ptr,  # (B, H, W, C), times H_{t-1} in its convolution; None: ones
    previous_cell_ptr,  # (.., B, H, W, C), of which step previous_cell_step; None: zeros
    lengths_ptr,  # (B,): the steps of every sequence; None: T
    hidden_ptr,  # (T, B, H, W, C): H_t goes to step t; None: not stored
    cell_ptr,  # (.., B, H, W, C): C_t goes to step cell_step, which may be where C_{t-1} is
    gates_ptr,  # (.., B, H, W, 4, C): i, f, g, o go to step gates_step; None: not stored
    t,
    previous_hidden_step,
    previous_cell_step,
    cell_step,
    gates_step,
    batch,
    height,
    width,
    input_height,
    input_width,
    HIDDEN: tl.constexpr,
    INPUT_CHANNELS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    INPUT_KERNEL_HEIGHT: tl.constexpr,
    INPUT_KERNEL_WIDTH: tl.constexpr,
    PADDING_ROWS: tl.constexpr,
    PADDING_COLUMNS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RECURRENT: tl.constexpr,  # H_{t-1} is not None
    SPATIAL: tl.constexpr,
    SEES_CURRENT: tl.constexpr,
    HARD_SLOPE: tl.constexpr,  # of the hard sigmoid; 0: the logistic one
    PRECISION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INPUT_BLOCK_K: tl.constexpr,
):
    """Equations (1)-(5) of step t for a tile of pixels and hidden channels."""
    pixels = batch * height * width
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, y, x = pixel_coordinates(pixel, pixels, height, width)
    mask = (pixel < pixels)[:, None] & (channel < HIDDEN)[None, :]
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + image, mask=pixel < pixels, other=0)
        if tl.max(length, 0) <= t:
            return
        mask &= (t < length)[:, None]
    step_size = pixels.to(tl.int64) * HIDDEN
    tile, at = tile_offsets(HIDDEN, BLOCK_M, BLOCK_C)
    gates_tile, gates_at = tile_offsets(4 * HIDDEN, BLOCK_M, BLOCK_C)

    z_i = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    z_f = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    z_g = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    z_o = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    if weight_ih_ptr is not None:
        frames = x_ptr + t.to(tl.int64) * batch * input_height * input_width * INPUT_CHANNELS
        top, left = y - PADDING_ROWS, x - PADDING_COLUMNS
        rows = image_rows(frames, image, top, left, input_height, input_width, INPUT_CHANNELS)
        z_i, z_f, z_g, z_o = convolve_gates(
            *(z_i, z_f, z_g, z_o),
            *(rows, None, top, left, input_height, input_width),
            *(weight_ih_ptr, channel, INPUT_CHANNELS, INPUT_KERNEL_WIDTH),
            *(INPUT_KERNEL_HEIGHT * INPUT_KERNEL_WIDTH, COLUMNS, INPUT_BLOCK_K, PRECISION),
        )
    if RECURRENT:
        previous = previous_hidden_ptr + previous_hidden_step * step_size
        top, left = y - KERNEL_HEIGHT // 2, x - KERNEL_WIDTH // 2
        rows = image_rows(previous, image, top, left, height, width, HIDDEN)
        mask_rows = None
        if hidden_mask_ptr is not None:
            mask_rows = image_rows(hidden_mask_ptr, image, top, left, height, width, HIDDEN)
        z_i, z_f, z_g, z_o = convolve_gates(
            *(z_i, z_f, z_g, z_o),
            rows,
            mask_rows,  # in no tuple: one may not hold None
            *(top, left, height, width),
            *(weight_hh_ptr, channel, HIDDEN, KERNEL_WIDTH),
            *(KERNEL_HEIGHT * KERNEL_WIDTH, COLUMNS, BLOCK_K, PRECISION),
        )
    if weight_ih_ptr is None:
        gates_x = x_ptr + (t * 4 * step_size + gates_tile) + gates_at
        z_i += tl.load(gates_x, mask=mask, other=0.0)
        z_f += tl.load(gates_x + HIDDEN, mask=mask, other=0.0)
        z_g += tl.load(gates_x + 2 * HIDDEN, mask=mask, other=0.0)
        z_o += tl.load(gates_x + 3 * HIDDEN, mask=mask, other=0.0)
    if bias_ptr is not None:
        inside = channel < HIDDEN
        z_i += tl.load(bias_ptr + channel, mask=inside, other=0.0)[None, :]
        z_f += tl.load(bias_ptr + HIDDEN + channel, mask=inside, other=0.0)[None, :]
        z_g += tl.load(bias_ptr + 2 * HIDDEN + channel, mask=inside, other=0.0)[None, :]
        z_o += tl.load(bias_ptr + 3 * HIDDEN + channel, mask=inside, other=0.0)[None, :]

    peephole_i, peephole_f, peephole_o = 0.0, 0.0, 0.0
    if peephole_ptr is not None:
        peephole_i, peephole_f, peephole_o = load_peepholes(
            peephole_ptr, pixel % (height * width), channel, mask, height * width, HIDDEN, SPATIAL
        )
    previous_cell = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    if previous_cell_ptr is not None:
        previous_cell = tl.load(
            previous_cell_ptr + (previous_cell_step * step_size + tile) + at, mask=mask, other=0.0
        )
    i, f, g, o, cell, hidden = cell_forward(
        *(z_i, z_f, z_g, z_o, peephole_i, peephole_f, peephole_o, previous_cell),
        *(SEES_CURRENT, HARD_SLOPE),
    )
    if hidden_ptr is not None:
        tl.store(cell_ptr + (cell_step * step_size + tile) + at, cell, mask=mask)
        tl.store(hidden_ptr + (t * step_size + tile) + at, hidden, mask=mask)
    if gates_ptr is not None:
        gates = gates_ptr + (gates_step * 4 * step_size + gates_tile) + gates_at
        tl.store(gates, i, mask=mask)
        tl.store(gates + HIDDEN, f, mask=mask)
        tl.store(gates + 2 * HIDDEN, g, mask=mask)
        tl.store(gates + 3 * HIDDEN, o, mask=mask)


class PreviousState(NamedTuple):
    """H_{t-1} and C_{t-1}: each a tensor (.., B, H, W, C), or None for zeros, and a step of it."""

    hidden: Tensor | None
    hidden_step: int
    cell: Tensor | None
    cell_step: int


class _Steps(NamedTuple):
    """A layer's parameters, packed, and what launches its steps."""

    weight_ih: Tensor | None
    weight_hh: Tensor
    bias: Tensor | None
    peepholes: Tensor | None
    launch: Launches

    @staticmethod
    def of(arguments: Arguments, sizes: Sizes, padding: list[int], equations: Equations) -> _Steps:
        """Those of a layer; ``padding`` is of the input convolution."""
        x, weight_ih, weight_hh, bias, weight_ch, *_ = arguments
        accumulate = accumulate_dtype(x.dtype)
        taps = weight_hh[0, 0].numel()
        input_kernel = (1, 1) if weight_ih is None else tuple(weight_ih.shape[2:])
        numbers = numbers_of(x)
        tile = configuration("forward", numbers, sizes.hidden)
        block_k = depth(tile.block_k, sizes.hidden, taps)
        input_block_k = depth(tile.block_k, sizes.input_channels, input_kernel[0] * input_kernel[1])

        def packed(weight: Tensor, block_k: int) -> Tensor:
            return pack_gates(weight, numbers.precision, block_k, tile.block_c)

        constants = {
            "HIDDEN": sizes.hidden,
            "INPUT_CHANNELS": sizes.input_channels,
            "KERNEL_HEIGHT": weight_hh.shape[2],
            "KERNEL_WIDTH": weight_hh.shape[3],
            "INPUT_KERNEL_HEIGHT": input_kernel[0],
            "INPUT_KERNEL_WIDTH": input_kernel[1],
            "PADDING_ROWS": padding[0],
            "PADDING_COLUMNS": padding[1],
            "COLUMNS": round_up(sizes.hidden, tile.block_c),
            "SPATIAL": weight_ch is not None and weight_ch.dim() == 4,
            **equations.constants(),
            "BLOCK_C": tile.block_c,
            "BLOCK_K": block_k,
            "INPUT_BLOCK_K": input_block_k,
            **numbers.constants(),
            **tile_options(tile),
        }
        return _Steps(
            None if weight_ih is None else packed(weight_ih, input_block_k),
            packed(weight_hh, block_k),
            None if bias is None else pack_bias(bias, accumulate),
            None if weight_ch is None else pack_peepholes(weight_ch, accumulate),
            Launches(forward_step, programs(sizes.pixels, sizes.hidden, tile), constants),
        )


class ForwardPass:
    """A layer's operands in the layout of the kernel, and the launch of one step.

    The backward pass uses it too, to compute gates again.
    """

    def __init__(
        self, arguments: Arguments, sizes: Sizes, padding: list[int], equations: Equations
    ):
        x, _, _, _, _, h_0, c_0, hidden_mask, self.lengths = arguments
        self.sizes = sizes
        self.x = channels_last(x)
        self.h_0 = None if h_0 is None else channels_last(h_0)
        self.c_0 = None if c_0 is None else channels_last(c_0)
        self.hidden_mask = None if hidden_mask is None else channels_last(hidden_mask)
        self._arguments = arguments
        self._padding = padding
        self._equations = equations

    @cached_property
    def _steps(self) -> _Steps:
        """Made for the first step: a backward pass may need none."""
        return _Steps.of(self._arguments, self.sizes, self._padding, self._equations)

    def before_step(
        self, t: int, output: Tensor, cells: Tensor, cells_of_all: bool
    ) -> PreviousState:
        """The state before step t, when ``output`` and ``cells`` hold what the steps stored.

        Without ``cells_of_all``, ``cells`` is one image that every step overwrites.
        """
        if t == 0:
            return PreviousState(self.h_0, 0, self.c_0, 0)
        return PreviousState(output, t - 1, cells, t - 1 if cells_of_all else 0)

    def launch(
        self,
        t: int,
        previous: PreviousState,
        hidden: Tensor | None,
        cell: Tensor | None,
        cell_step: int,
        gates: Tensor | None,
        gates_step: int,
    ) -> None:
        """Compute step t; see :func:`forward_step` for what is stored where."""
        sizes, steps = self.sizes, self._steps
        steps.launch(
            self.x,
            steps.weight_ih,
            steps.weight_hh,
            steps.bias,
            steps.peepholes,
            previous.hidden,
            self.hidden_mask,
            previous.cell,
            self.lengths,
            hidden,
            cell,
            gates,
            t,
            previous.hidden_step,
            previous.cell_step,
            cell_step,
            gates_step,
            sizes.batch,
            sizes.height,
            sizes.width,
            sizes.input_height,
            sizes.input_width,
            RECURRENT=previous.hidden is not None,
        )


def conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    padding: list[int],
    output_sees_current: bool,
    save_cells: bool,
    saved_gates: int,
    hard_sigmoid_slope: float = 0.0,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator ``memx_fast::conv_lstm``: see :mod:`memx_fast.ops`.

    Everything is enqueued on the current stream of the device of x, without synchronising: the
    values of ``lengths`` are not checked, but none leads out of bounds.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape or a number that does not fit; the message names it.
    """
    arguments = Arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask, lengths)
    sizes = checked_sizes(arguments, padding)
    steps, first_saved = sizes.steps, sizes.steps - saved_gates
    if not 0 <= saved_gates <= steps:
        raise ValueError(f"saved_gates is {saved_gates}, expected 0 to {steps} steps")
    accumulate = accumulate_dtype(x.dtype)
    image = (sizes.batch, sizes.height, sizes.width)
    output = empty_images((steps, *sizes.state), x)
    h_n = empty_images(sizes.state, x)
    c_n = empty_images(sizes.state, x, accumulate)
    saved_cells = (steps, *image, sizes.hidden) if save_cells else (0,)
    cells = x.new_empty(saved_cells, dtype=accumulate)
    gates = x.new_empty((saved_gates, *image, GATES, sizes.hidden))
    if lengths is not None:
        for of_steps in (output, cells, gates):
            of_steps.zero_()  # what is not computed
    with on_device_of(x):
        equations = Equations.checked(output_sees_current, hard_sigmoid_slope)
        layer = ForwardPass(arguments, sizes, padding, equations)
        written = cells if save_cells else c_n
        for t in range(steps):
            layer.launch(
                t,
                layer.before_step(t, output, written, save_cells),
                output,
                written,
                t if save_cells else 0,
                gates if t >= first_saved else None,
                max(t - first_saved, 0),
            )
        h_n.copy_(at_ends(output, lengths))
        if save_cells:
            c_n.copy_(at_ends(cells, lengths).movedim(-1, -3))
    return output, h_n, c_n, cells, gates


def at_ends(of_steps: Tensor, lengths: Tensor | None) -> Tensor:
    """What every sequence's last step left in a tensor (T, B, ...): (B, ...)."""
    if lengths is None:
        return of_steps[-1]
    last = (lengths - 1).clamp(0, len(of_steps) - 1)
    return of_steps[last, torch.arange(len(lengths), device=lengths.device)]


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device the current one, on whose current stream Triton launches."""
    if tensor.device.type == "cpu":  # the interpreter
        return nullcontext()
    module = torch.get_device_module(tensor.device)
    context: AbstractContextManager[object] = module.device(tensor.device)
    return context

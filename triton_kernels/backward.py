"""The backward pass: one launch a step, then the sums over all steps.

The step's launch is the transposed convolution over the gate gradients of step t+1 and the
derivative of equations (5)-(1) at step t. What is left after the last launch, the gradients of the
weights, of the input and of bias and peepholes, is one launch each over all T*B images.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from memx_fast.lengths import cleared
from memx_fast.ops import accumulate_dtype

from .arguments import GATES, Arguments, Equations, Sizes, check_results, checked_sizes
from .autotuning import autotuned, programs, tile_options
from .cell import cell_backward, load_peepholes
from .configurations import configuration, depth, numbers_of
from .convolution import convolve, image_rows, pixel_coordinates, tile_offsets
from .forward import ForwardPass, on_device_of
from .image_gradient import image_gradient
from .launching import Launches
from .packing import aligned, empty_images, pack_peepholes, pack_transposed
from .parameter_sums import ParameterSums, parameter_sums
from .weight_gradient import Images, weight_gradient

_CHANGING = (
    *("t", "previous_cell_step", "gates_step", "batch", "height", "width"),
    *("output_step", "output_image", "output_channel", "output_row", "output_column"),
    *("final_image", "final_channel", "final_row", "final_column"),
)


@triton.jit
def load_gradient(
    gradient_ptr, image, y, x, channel, mask, of_image, of_channel, of_row, of_column
):
    """A tile of an incoming gradient (B, C, H, W) of any strides, zero ones too."""
    rows = gradient_ptr + image.to(tl.int64) * of_image
    rows += y * of_row.to(tl.int64) + x * of_column.to(tl.int64)
    return tl.load(rows[:, None] + channel[None, :] * of_channel.to(tl.int64), mask=mask, other=0.0)


@autotuned(updated="cell_gradient_ptr")
@triton.jit(do_not_specialize=_CHANGING)
def backward_step(
    weight_ptr,  # packed transposed (K, COLUMNS)
    hidden_mask_ptr,  # (B, H, W, C), times what comes through the convolution; None: ones
    peephole_ptr,  # (3, H*W, C) if SPATIAL, else (3, 1, C); None: zeros
    gates_ptr,  # (.., B, H, W, 4, C) after activation, of which step gates_step
    lengths_ptr,  # (B,): the steps of every sequence; None: T
    cells_ptr,  # (T, B, H, W, C)
    previous_cell_ptr,  # (.., B, H, W, C), of which step previous_cell_step; None: zeros
    output_gradient_ptr,  # (T, B, C, H, W) of the strides below; None: zeros
    final_gradient_ptr,  # (B, C, H, W) of the strides below, of H_T; None: zeros, or no T is t+1
    cell_gradient_ptr,  # (B, H, W, C): of C_t in, of C_{t-1} out
    gate_gradients_ptr,  # (T, B, H, W, 4, C): that of step t is the result
    t,
    previous_cell_step,
    gates_step,
    batch,
    height,
    width,
    output_step,
    output_image,
    output_channel,
    output_row,
    output_column,
    final_image,
    final_channel,
    final_row,
    final_column,
    HIDDEN: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_LAST: tl.constexpr,  # t = T-1: no gradient comes from a step after it
    SPATIAL: tl.constexpr,
    SEES_CURRENT: tl.constexpr,
    HARD_SLOPE: tl.constexpr,  # of the hard sigmoid; 0: the logistic one
    PRECISION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the pre-activations of step t, and of C_{t-1}, for a tile."""
    pixels = batch * height * width
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, y, x = pixel_coordinates(pixel, pixels, height, width)
    mask = (pixel < pixels)[:, None] & (channel < HIDDEN)[None, :]
    ends = mask
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + image, mask=pixel < pixels, other=0)
        if tl.max(length, 0) <= t:
            return
        mask &= (t < length)[:, None]
        ends = mask & (t == length - 1)[:, None]
    step_size = pixels.to(tl.int64) * HIDDEN
    tile, at = tile_offsets(HIDDEN, BLOCK_M, BLOCK_C)
    gates_tile, gates_at = tile_offsets(4 * HIDDEN, BLOCK_M, BLOCK_C)

    d_hidden = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    if not IS_LAST:
        following = gate_gradients_ptr + (t + 1) * 4 * step_size
        top, left = y - KERNEL_HEIGHT // 2, x - KERNEL_WIDTH // 2
        rows = image_rows(following, image, top, left, height, width, 4 * HIDDEN)
        d_hidden = convolve(
            *(d_hidden, rows, top, left, height, width),
            *(weight_ptr, channel, 4 * HIDDEN, KERNEL_WIDTH),
            *(KERNEL_HEIGHT * KERNEL_WIDTH, COLUMNS, BLOCK_K, PRECISION),
        )
        if hidden_mask_ptr is not None:
            d_hidden *= tl.load(hidden_mask_ptr + tile + at, mask=mask, other=0.0).to(ACCUMULATE)
    if output_gradient_ptr is not None:
        d_hidden += load_gradient(
            output_gradient_ptr + t.to(tl.int64) * output_step,
            *(image, y, x, channel, mask),
            *(output_image, output_channel, output_row, output_column),
        )
    if final_gradient_ptr is not None:
        d_hidden += load_gradient(
            *(final_gradient_ptr, image, y, x, channel, ends),
            *(final_image, final_channel, final_row, final_column),
        )

    gates = gates_ptr + (gates_step * 4 * step_size + gates_tile) + gates_at
    i = tl.load(gates, mask=mask, other=0.0).to(ACCUMULATE)
    f = tl.load(gates + HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
    g = tl.load(gates + 2 * HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
    o = tl.load(gates + 3 * HIDDEN, mask=mask, other=0.0).to(ACCUMULATE)
    cell = tl.load(cells_ptr + (t * step_size + tile) + at, mask=mask, other=0.0)
    previous_cell = tl.zeros((BLOCK_M, BLOCK_C), ACCUMULATE)
    if previous_cell_ptr is not None:
        previous_cell = tl.load(
            previous_cell_ptr + (previous_cell_step * step_size + tile) + at, mask=mask, other=0.0
        )
    peephole_i, peephole_f, peephole_o = 0.0, 0.0, 0.0
    if peephole_ptr is not None:
        peephole_i, peephole_f, peephole_o = load_peepholes(
            peephole_ptr, pixel % (height * width), channel, mask, height * width, HIDDEN, SPATIAL
        )
    d_cell = tl.load(cell_gradient_ptr + tile + at, mask=mask, other=0.0)
    d_i, d_f, d_g, d_o, d_previous = cell_backward(
        *(i, f, g, o, peephole_i, peephole_f, peephole_o),
        *(previous_cell, cell, d_hidden, d_cell, SEES_CURRENT, HARD_SLOPE),
    )
    tl.store(cell_gradient_ptr + tile + at, d_previous, mask=mask)
    gradients = gate_gradients_ptr + (t * 4 * step_size + gates_tile) + gates_at
    tl.store(gradients, d_i, mask=mask)
    tl.store(gradients + HIDDEN, d_f, mask=mask)
    tl.store(gradients + 2 * HIDDEN, d_g, mask=mask)
    tl.store(gradients + 3 * HIDDEN, d_o, mask=mask)


class Needs(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    weight_ih: bool
    weight_hh: bool
    bias: bool
    weight_ch: bool
    h_0: bool
    c_0: bool


class BackwardPass:
    """What the steps of a backward pass share, and the launch of one of them.

    Attributes:
        gate_gradients: ``(T, B, 4C, H, W)``, dense with channels last.
        cell_gradient: ``(B, C, H, W)``, likewise: of C_t before the launch of step t, of C_{t-1}
            after it.
    """

    def __init__(
        self,
        arguments: Arguments,
        sizes: Sizes,
        equations: Equations,
        forward: ForwardPass,
        cells: Tensor,
        grad_output: Tensor | None,
        grad_h_n: Tensor | None,
        grad_c_n: Tensor | None,
    ):
        x, _, weight_hh, _, weight_ch, *_ = arguments
        accumulate = accumulate_dtype(x.dtype)
        self.sizes = sizes
        gate_images = (sizes.steps, sizes.batch, GATES * sizes.hidden, sizes.height, sizes.width)
        self.gate_gradients = empty_images(gate_images, x)
        self.cell_gradient = empty_images(sizes.state, x, accumulate)
        if grad_c_n is None:
            self.cell_gradient.zero_()
        else:
            self.cell_gradient.copy_(grad_c_n)
        self.cells = cells
        self.c_0 = forward.c_0
        self._hidden_mask = forward.hidden_mask
        self._lengths = forward.lengths
        if forward.lengths is not None:
            self.gate_gradients.zero_()  # of the steps that are not there
        self._peepholes = None if weight_ch is None else pack_peepholes(weight_ch, accumulate)
        self._grad_output = None if grad_output is None else aligned(grad_output)
        self._grad_h_n = None if grad_h_n is None else aligned(grad_h_n)

        taps = weight_hh[0, 0].numel()
        numbers = numbers_of(x)
        tile = configuration("backward", numbers, sizes.hidden)
        block_k = depth(tile.block_k, GATES * sizes.hidden, taps)
        self._weight = pack_transposed(weight_hh, numbers.precision, block_k, tile.block_c)
        constants = {
            "HIDDEN": sizes.hidden,
            "KERNEL_HEIGHT": weight_hh.shape[2],
            "KERNEL_WIDTH": weight_hh.shape[3],
            "COLUMNS": self._weight.shape[2],
            "SPATIAL": weight_ch is not None and weight_ch.dim() == 4,
            **equations.constants(),
            "BLOCK_C": tile.block_c,
            "BLOCK_K": block_k,
            **numbers.constants(),
            **tile_options(tile),
        }
        grid = programs(sizes.pixels, sizes.hidden, tile)
        self._launch = Launches(backward_step, grid, constants)

    def launch(self, t: int, gates: Tensor, gates_step: int) -> None:
        """Differentiate step t, whose gates are at ``gates_step`` of ``gates``."""
        sizes = self.sizes
        is_last = t == sizes.steps - 1
        final = self._grad_h_n if is_last or self._lengths is not None else None
        self._launch(
            self._weight,
            self._hidden_mask,
            self._peepholes,
            gates,
            self._lengths,
            self.cells,
            self.c_0 if t == 0 else self.cells,
            self._grad_output,
            final,
            self.cell_gradient,
            self.gate_gradients,
            t,
            max(t - 1, 0),
            gates_step,
            sizes.batch,
            sizes.height,
            sizes.width,
            *((0,) * 5 if self._grad_output is None else self._grad_output.stride()),
            *((0,) * 4 if final is None else final.stride()),
            IS_LAST=is_last,
        )


def conv_lstm_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    output: Tensor,
    cells: Tensor,
    gates: Tensor,
    padding: list[int],
    output_sees_current: bool,
    needs: list[bool],
    hard_sigmoid_slope: float = 0.0,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator ``memx_fast::conv_lstm_backward``: see :mod:`memx_fast.ops`.

    Everything is enqueued on the current stream of the device of x, without synchronising. Gates of
    steps that have none saved are computed again, a launch more each.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape that does not fit; the message names the argument.
    """
    arguments = Arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask, lengths)
    sizes = checked_sizes(arguments, padding)
    check_results(sizes, x, (grad_output, grad_h_n, grad_c_n), (output, cells, gates))
    output, cells, gates = aligned(output), aligned(cells), aligned(gates)
    with on_device_of(x):
        equations = Equations.checked(output_sees_current, hard_sigmoid_slope)
        forward = ForwardPass(arguments, sizes, padding, equations)
        steps = BackwardPass(
            arguments, sizes, equations, forward, cells, grad_output, grad_h_n, grad_c_n
        )
        _run_steps(steps, forward, output, cells, gates)
        return _gradients(
            arguments, padding, output_sees_current, Needs(*needs), steps, forward, output
        )


def _run_steps(
    steps: BackwardPass, forward: ForwardPass, output: Tensor, cells: Tensor, gates: Tensor
) -> None:
    """All steps, the last first."""
    first_saved = steps.sizes.steps - gates.shape[0]
    computed_again = gates.new_empty(gates.shape[1:]) if first_saved else gates
    for t in reversed(range(steps.sizes.steps)):
        if t >= first_saved:
            steps.launch(t, gates, t - first_saved)
        else:
            previous = forward.before_step(t, output, cells, cells_of_all=True)
            forward.launch(t, previous, None, None, 0, computed_again, 0)
            steps.launch(t, computed_again, 0)


def _gradients(
    arguments: Arguments,
    padding: list[int],
    sees_current: bool,
    needs: Needs,
    steps: BackwardPass,
    forward: ForwardPass,
    output: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients that are needed, from those of the gates; empty tensors for the others."""
    x, weight_ih, weight_hh, bias, weight_ch, _, _, hidden_mask, lengths = arguments
    sizes = steps.sizes
    gate_gradients = steps.gate_gradients.movedim(2, -1).flatten(0, 1)
    same = (weight_hh.shape[2] // 2, weight_hh.shape[3] // 2)
    around_x = (padding[0], padding[1])

    grad_x = x.new_empty((0,))
    if needs.x and weight_ih is None:
        grad_x = steps.gate_gradients
    elif needs.x and weight_ih is not None:
        grad_x = empty_images(tuple(x.shape), x)
        image_gradient(gate_gradients, weight_ih, around_x, grad_x.movedim(2, -1).flatten(0, 1))
    grad_weight_ih = x.new_empty((0,))
    if needs.weight_ih and weight_ih is not None:
        # A gradient of 0 does not keep out what is not finite.
        frames = Images(cleared(forward.x, lengths).flatten(0, 1), 0)
        grad_weight_ih = weight_gradient([frames], gate_gradients, weight_ih, around_x)
    grad_weight_hh = x.new_empty((0,))
    if needs.weight_hh:
        hidden = _previous_hidden(forward.h_0, output)
        grad_weight_hh = weight_gradient(
            hidden, gate_gradients, weight_hh, same, forward.hidden_mask
        )
    wanted = ParameterSums(bias if needs.bias else None, weight_ch if needs.weight_ch else None)
    sums = ParameterSums(None, None)
    if wanted.bias is not None or wanted.peepholes is not None:
        sums = parameter_sums(
            gate_gradients, steps.cells, steps.c_0, wanted.bias, wanted.peepholes, sees_current
        )
    grad_h_0 = x.new_empty((0,))
    if needs.h_0:
        grad_h_0 = empty_images(sizes.state, x)
        image_gradient(gate_gradients[: sizes.batch], weight_hh, same, grad_h_0.movedim(1, -1))
        if hidden_mask is not None:
            grad_h_0.mul_(hidden_mask)
    grad_c_0 = steps.cell_gradient if needs.c_0 else steps.cell_gradient.new_empty((0,))
    return (
        grad_x,
        grad_weight_ih,
        grad_weight_hh,
        x.new_empty((0,)) if sums.bias is None else sums.bias,
        x.new_empty((0,)) if sums.peepholes is None else sums.peepholes,
        grad_h_0,
        grad_c_0,
    )


def _previous_hidden(h_0: Tensor | None, output: Tensor) -> list[Images]:
    """H_{t-1} of every step but those where it is zero."""
    batch = output.shape[1]
    groups = [] if h_0 is None else [Images(h_0, 0)]
    if len(output) > 1:
        groups.append(Images(output[:-1].movedim(2, -1).flatten(0, 1), batch))
    return groups

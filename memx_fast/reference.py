r"""The equations in plain PyTorch: the oracle of every test.

With ``*`` a zero-padded convolution over one, two or three spatial axes and ``o`` the product of
elements, for t = 1..T:

    i_t = sigmoid(W_xi * X_t + W_hi * H_{t-1} + W_ci o C_{t-1} + b_i)      (1)
    f_t = sigmoid(W_xf * X_t + W_hf * H_{t-1} + W_cf o C_{t-1} + b_f)      (2)
    g_t = tanh   (W_xg * X_t + W_hg * H_{t-1}                  + b_g)
    C_t = f_t o C_{t-1} + i_t o g_t                                        (3)
    o_t = sigmoid(W_xo * X_t + W_ho * H_{t-1} + W_co o C_?     + b_o)      (4)
    H_t = o_t o tanh(C_t)                                                  (5)

``C_?`` is C_{t-1} for ``output_peephole="previous"`` and C_t for ``"current"`` (Shi et al. 2015,
"Convolutional LSTM Network"). In place of the sigmoid of (1), (2) and (4) may stand a hard one,
``clamp(slope z + 1/2, 0, 1)``. The four gates lie in the order i, f, g, o along the first dimension
of the weights, the peepholes W_ci, W_cf, W_co in the order i, f, o.

Convolutions run in the dtype of x; states of cells and gate arithmetic in float32 where that is a
half type. Everything here is differentiable any number of times. Shapes are written for images; of
lines and volumes they have one axis less or more: ``(T, B, C, L)`` and ``(T, B, C, D, H, W)``. The
derivative, written out by hand, is in :mod:`memx_fast.reference_backward`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import lengths as variable
from .arguments import Sizes
from .geometry import InputConvolution, Padding
from .ops import accumulate_dtype

State = tuple[Tensor, Tensor]
"""Hidden state H and cell state C, both ``(B, C, H, W)``."""


# By the number of spatial axes; with a weight of that layout the result is channels-last.
_CONVOLUTIONS = {
    1: (F.conv1d, torch.contiguous_format),
    2: (F.conv2d, torch.channels_last),
    3: (F.conv3d, torch.channels_last_3d),
}


class Step(NamedTuple):
    """What one step leaves for the backward pass, each ``(B, C, H, W)``."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    previous_cell: Tensor
    cell: Tensor
    convolved: Tensor  # H_{t-1}, times the mask if there is one


def conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
    state: State | None = None,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    output_peephole: str = "previous",
    hard_sigmoid_slope: float = 0.0,
    padding: Padding = "same",
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
    step: Callable[..., tuple[Tensor, Step]] | None = None,
) -> tuple[Tensor, State]:
    """Run one ConvLSTM layer over a sequence: equations (1)-(5), step after step.

    The arguments are those of :func:`memx_fast.functional.conv_lstm`, which checks them; here they
    are taken to be valid.

    Args:
        x: ``(T, B, Cin, H, W)``; or, when ``weight_ih`` is None, input gates ``(T, B, 4C, H, W)``.
        weight_ih: ``(4C, Cin, kh, kw)`` or None.
        weight_hh: ``(4C, C, kh, kw)``, odd kernel.
        bias: ``(4C,)`` or None.
        weight_ch: ``(3, C)``, ``(3, C, H', W')`` or None.
        state: ``(h_0, c_0)``, both ``(B, C, H', W')``; None for zeros.
        hidden_mask: ``(B, C, H', W')``: stands before every H_{t-1} of (1), (2), (4) and of g_t as
            a factor; None for none.
        lengths: ``(B,)``, the steps of every sequence: its state stays as it is after them, and its
            output is zero; None for T.
        output_peephole: ``"previous"`` or ``"current"``: the cell state that the output gate sees.
        hard_sigmoid_slope: 0 for the logistic sigmoid; above 0, the slope of the hard one.
        padding: of the input convolution: ``"same"``, ``"valid"``, or rows and columns of zeros.
        stride: of the input convolution.
        dilation: of the input convolution.
        step: what computes one step, with the arguments and results of :func:`forward_step`, for a
            recurrence that differs in its equations alone; None for that one.

    Returns:
        ``output`` of shape ``(T, B, C, H', W')`` and ``(h_n, c_n)``, the states after the last
        step. ``c_n`` is float32 where x is bfloat16 or float16. H' x W' is the size of the frame
        after the input convolution.

    Under autocast, single-precision arguments are cast to its dtype first, except ``c_0``.
    """
    gates_x, weight_hh, weight_ch, state = prepared(
        variable.cleared(x, lengths),
        *(weight_ih, weight_hh, bias, weight_ch, state, padding, stride, dilation),
    )
    hidden, cell = state
    output = []
    for t, gates_t in enumerate(gates_x):
        before = hidden, cell
        hidden, now = (step or forward_step)(
            *(gates_t, hidden, cell, weight_hh, weight_ch, hidden_mask),
            output_peephole == "current",
            hard_sigmoid_slope,
        )
        cell = now.cell
        if lengths is not None:
            hidden, cell = kept_after_end((hidden, cell), before, lengths, t)
        output.append(hidden)
    return variable.cleared(torch.stack(output), lengths), (hidden, cell)


def kept_after_end(state: State, before: State, lengths: Tensor, t: int) -> State:
    """The state after step t: that of ``before`` for sequences which have no step t."""
    running = variable.running(lengths, t, state[0])
    hidden, cell = (torch.where(running, new, old) for new, old in zip(state, before, strict=True))
    return hidden, cell


def input_gates(
    x: Tensor,
    weight_ih: Tensor,
    bias: Tensor | None,
    convolution: InputConvolution,
) -> Tensor:
    """The part of the four gates that does not depend on time: ``W_x * X_t + b`` for all t at once.

    Args:
        x: ``(T, B, Cin, H, W)``.
        weight_ih: ``(4C, Cin, kh, kw)``.
        bias: ``(4C,)`` or None.
        convolution: its geometry.

    Returns:
        ``(T, B, 4C, H', W')``, of images and volumes in channels-last strides, and in the dtype of
        autocast where that is on.
    """
    convolve, layout = _CONVOLUTIONS[weight_ih.dim() - 2]
    gates = convolve(
        padded(x.flatten(0, 1), convolution),
        weight_ih.contiguous(memory_format=layout),
        bias,
        stride=convolution.stride,
        padding=convolution.before,
        dilation=convolution.dilation,
    )
    return gates.reshape(x.shape[0], x.shape[1], *gates.shape[1:])


def recurrent_gates(hidden: Tensor, weight_hh: Tensor) -> Tensor:
    """What the hidden state ``(B, C, H, W)`` adds to the four gates: ``W_h * H_{t-1}``."""
    convolve, _ = _CONVOLUTIONS[weight_hh.dim() - 2]
    return convolve(hidden, weight_hh, padding=same_padding(weight_hh))


def masked(hidden: Tensor, hidden_mask: Tensor | None) -> Tensor:
    """What of the hidden state, or of its gradient, passes the mask ``(B, C, H, W)``."""
    return hidden if hidden_mask is None else hidden * hidden_mask.to(hidden.dtype)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a layer whose input is x, or None where it leaves it alone."""
    device = x.device.type
    if x.dtype == torch.float64 or not _has_autocast(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


@torch.compiler.assume_constant_result  # PyTorch 2.11 cannot trace it
def _has_autocast(device: str) -> bool:
    """Whether there is autocast for a type of device, without which nothing else may be asked."""
    return torch.amp.is_autocast_available(device)


def prepared(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    state: State | None,
    padding: Padding,
    stride: int | Sizes,
    dilation: int | Sizes,
) -> tuple[Tensor, Tensor, Tensor | None, State]:
    """Input gates, recurrent weight, peepholes and states, each in the dtype it is computed in.

    Returns:
        Gates ``(T, B, 4C, H', W')`` and recurrent weight in the computation dtype, peepholes
        ``(3, C, 1 or H', 1 or W')`` and the cell state in the accumulation dtype.
    """
    dtype = autocast_dtype(x) or x.dtype
    accumulate = accumulate_dtype(dtype)
    if weight_ih is None:
        gates_x = x if bias is None else x + bias.reshape(-1, *_ones(weight_hh))
    else:
        convolution = InputConvolution.of(tuple(weight_ih.shape[2:]), padding, stride, dilation)
        gates_x = input_gates(x, weight_ih, bias, convolution)
    gates_x = gates_x.to(dtype)
    if state is None:
        shape = (x.shape[1], weight_hh.shape[1], *gates_x.shape[3:])
        state = (gates_x.new_zeros(shape), gates_x.new_zeros(shape, dtype=accumulate))
    hidden, cell = state
    if weight_ch is not None:
        weight_ch = weight_ch.to(dtype).to(accumulate)
        if weight_ch.dim() == 2:
            weight_ch = weight_ch.reshape(*weight_ch.shape, *_ones(weight_hh))
    return gates_x, weight_hh.to(dtype), weight_ch, (hidden.to(dtype), cell.to(accumulate))


def forward_step(
    gates_x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_hh: Tensor,
    weight_ch: Tensor | None,
    hidden_mask: Tensor | None,
    sees_current: bool,
    hard_sigmoid_slope: float,
) -> tuple[Tensor, Step]:
    """Equations (1)-(5): the next hidden state, in the dtype of the gates, and what led to it."""
    convolved = masked(hidden, hidden_mask)
    z = gates_x.to(cell.dtype) + recurrent_gates(convolved, weight_hh)
    z_i, z_f, z_g, z_o = z.chunk(4, 1)
    if weight_ch is not None:
        z_i = z_i + weight_ch[0] * cell
        z_f = z_f + weight_ch[1] * cell
    i, f, g = _gate(z_i, hard_sigmoid_slope), _gate(z_f, hard_sigmoid_slope), z_g.tanh()
    next_cell = f * cell + i * g
    if weight_ch is not None:
        z_o = z_o + weight_ch[2] * (next_cell if sees_current else cell)
    o = _gate(z_o, hard_sigmoid_slope)
    next_hidden = (o * next_cell.tanh()).to(gates_x.dtype)
    return next_hidden, Step(i, f, g, o, cell, next_cell, convolved)


def _gate(z: Tensor, hard_sigmoid_slope: float) -> Tensor:
    """The sigmoid of equations (1), (2) and (4)."""
    if hard_sigmoid_slope == 0:
        return z.sigmoid()
    # Unlike clamp's, the derivative of hardtanh is 0 where the result is 0 or 1.
    return F.hardtanh(hard_sigmoid_slope * z + 0.5, 0.0, 1.0)


def same_padding(weight: Tensor) -> Sizes:
    """Padding with which an odd kernel keeps the size."""
    return tuple(size // 2 for size in weight.shape[2:])


def padded(frames: Tensor, convolution: InputConvolution) -> Tensor:
    """Frames with what ``after`` has more than ``before``: convolutions pad both sides alike."""
    more = [
        after - before for before, after in zip(convolution.before, convolution.after, strict=True)
    ]
    # F.pad counts axes from the last.
    return F.pad(frames, [n for size in reversed(more) for n in (0, size)]) if any(more) else frames


def _ones(weight: Tensor) -> Sizes:
    """1 for every spatial axis: the shape of what all pixels share."""
    return (1,) * (weight.dim() - 2)

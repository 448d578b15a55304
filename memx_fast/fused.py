"""The fused operator over lines, images and volumes: how each becomes images, which it takes.

A line is an image of one row. A volume is none, to a convolution; but to the gates, which look at
one pixel at a time, it is an image of D x H rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import lengths as variable
from . import ops, reference
from .geometry import InputConvolution

_ONE_PIXEL = InputConvolution.of((1, 1), "same")
"""Geometry of ready-made input gates: that of a kernel of one pixel."""


class Arguments(NamedTuple):
    """The tensors of :func:`memx_fast.functional.conv_lstm`, which has their shapes."""

    x: Tensor
    weight_ih: Tensor | None
    weight_hh: Tensor
    bias: Tensor | None
    weight_ch: Tensor | None
    h_0: Tensor | None
    c_0: Tensor | None
    hidden_mask: Tensor | None
    lengths: Tensor | None


class Options(NamedTuple):
    """What is no tensor and no geometry: see :func:`memx_fast.functional.conv_lstm`."""

    output_peephole: str
    hard_sigmoid_slope: float
    recompute: float
    operator: str  # that runs it: see memx_fast.ops.OPERATORS


Results = tuple[Tensor, Tensor, Tensor]
"""output, h_n, c_n."""


def conv_lstm(arguments: Arguments, convolution: InputConvolution, options: Options) -> Results:
    """Run one layer over a sequence of lines, images or volumes; everything is taken to be valid.

    Equivalent to :func:`memx_fast.reference.conv_lstm`, with ``convolution`` for its padding,
    stride and dilation. The tensors, the options and the results are those of
    :func:`memx_fast.functional.conv_lstm`.
    """
    over = {1: _over_lines, 2: _over_images, 3: _over_volumes}[len(convolution.kernel)]
    return over(arguments, convolution, options)


def _over_lines(arguments: Arguments, convolution: InputConvolution, options: Options) -> Results:
    """Views of lines as images of one row, and of the results as lines again."""
    x, weight_ih, weight_hh, bias, *others = arguments
    images = Arguments(
        _row(x),
        None if weight_ih is None else _row(weight_ih),
        _row(weight_hh),
        bias,
        *(None if part is None else _row(part) for part in others),
    )
    row = InputConvolution(
        kernel=(1, *convolution.kernel),
        before=(0, *convolution.before),
        after=(0, *convolution.after),
        stride=(1, *convolution.stride),
        dilation=(1, *convolution.dilation),
    )
    output, h_n, c_n = _over_images(images, row, options)
    return output.squeeze(-2), h_n.squeeze(-2), c_n.squeeze(-2)


def _row(part: Tensor) -> Tensor:
    """A tensor over lines as one over images of one row; peepholes of channels have no pixels."""
    return part if part.dim() < 3 else part.unsqueeze(-2)


def _over_images(arguments: Arguments, convolution: InputConvolution, options: Options) -> Results:
    if not convolution.is_dense:
        arguments, convolution = _with_input_gates(arguments, convolution), _ONE_PIXEL
    return ops.fused_conv_lstm(
        *arguments,
        padding=(convolution.before[0], convolution.before[1]),
        **options._asdict(),
    )


def _over_volumes(arguments: Arguments, convolution: InputConvolution, options: Options) -> Results:
    """PyTorch's convolutions, and one call of the operator a step for all that is left."""
    if arguments.weight_ih is not None:
        arguments = _with_input_gates(arguments, convolution)
    arguments = arguments._replace(x=variable.cleared(arguments.x, arguments.lengths))
    gates_x, _, weight_hh, bias, weight_ch, hidden, cell, hidden_mask, lengths = arguments
    dtype = reference.autocast_dtype(gates_x) or gates_x.dtype
    gates_x, weight_hh = gates_x.to(dtype), weight_hh.to(dtype)
    peepholes = None if weight_ch is None else _as_image(weight_ch)
    # Without a hidden state the operator's own convolution is left out, whatever its weight.
    no_weight = weight_hh.new_zeros((*weight_hh.shape[:2], 1, 1))
    steps, volume = gates_x.shape[0], gates_x.shape[3:]
    recomputed = steps - ops.kept_steps(steps, options.recompute)
    output = []
    for t in range(steps):
        gates = gates_x[t]
        if hidden is not None:
            convolved = reference.masked(hidden.to(dtype), hidden_mask)
            gates = gates + reference.recurrent_gates(convolved, weight_hh)
        _, next_hidden, next_cell = ops.fused_conv_lstm(
            _as_image(gates).unsqueeze(0),
            None,
            no_weight,
            bias,
            peepholes,
            None,
            None if cell is None else _as_image(cell),
            **options._replace(recompute=1.0 if t < recomputed else 0.0)._asdict(),
        )
        state = next_hidden.unflatten(2, volume[:2]), next_cell.unflatten(2, volume[:2])
        if lengths is not None and hidden is not None and cell is not None:
            state = reference.kept_after_end(state, (hidden, cell), lengths, t)
        hidden, cell = state
        output.append(hidden)
    assert hidden is not None  # there is a step
    assert cell is not None
    return variable.cleared(torch.stack(output), lengths), hidden, cell


def _as_image(part: Tensor) -> Tensor:
    """(B, C, D, H, W) as (B, C, D H, W); peepholes of channels have no pixels."""
    return part if part.dim() < 5 else part.flatten(2, 3)


def _with_input_gates(arguments: Arguments, convolution: InputConvolution) -> Arguments:
    """The arguments of a layer over the input gates, which PyTorch's convolution makes of x."""
    x, weight_ih, _, bias, *_ = arguments
    assert weight_ih is not None
    x = variable.cleared(x, arguments.lengths)
    gates = reference.input_gates(x, weight_ih, bias, convolution)
    return arguments._replace(x=gates, weight_ih=None, bias=None)

"""The layer as ONNX has it: one Scan over the steps, for any number of them.

``torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=...)`` is all that is needed: while it
traces, :func:`memx_fast.conv_lstm` runs the one of this module in place of a fused engine.
With ``backend="reference"`` the steps are unrolled instead, and their number is fixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import lengths as variable
from . import reference
from .reference import State


def conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    state: State | None,
    hidden_mask: Tensor | None,
    lengths: Tensor | None,
    *,
    output_peephole: str,
    hard_sigmoid_slope: float,
    **geometry: Any,
) -> tuple[Tensor, State]:
    """Run one layer over a sequence, with a loop that tracing keeps as such.

    Equivalent to :func:`memx_fast.reference.conv_lstm`, whose arguments these are.
    """
    from torch._higher_order_ops import scan  # still private in PyTorch, and needed here alone

    gates_x, weight_hh, weight_ch, (hidden, cell) = reference.prepared(
        variable.cleared(x, lengths), weight_ih, weight_hh, bias, weight_ch, state, **geometry
    )
    # ONNX has no gradients, and a scan that has to have them cannot be exported.
    gates_x, weight_hh, hidden, cell = (
        part.detach() for part in (gates_x, weight_hh, hidden, cell)
    )
    if weight_ch is not None:
        # An axis of 1 would count as one of any size.
        weight_ch = weight_ch.detach().expand(-1, -1, *gates_x.shape[3:])

    if hidden_mask is not None:
        hidden_mask = hidden_mask.detach()

    def step(state: State, inputs: tuple[Tensor, ...]) -> tuple[State, Tensor]:
        hidden, cell = state
        gates_t, *left = inputs
        hidden, now = reference.forward_step(
            *(gates_t, hidden, cell, weight_hh, weight_ch, hidden_mask),
            output_peephole == "current",
            hard_sigmoid_slope,
        )
        cell = now.cell
        for steps_left in left:
            hidden, cell = reference.kept_after_end((hidden, cell), state, steps_left, 0)
        # What is carried on and what is collected must not be one tensor.
        return (hidden, cell), hidden.clone()

    inputs: tuple[Tensor, ...] = (gates_x,)
    if lengths is not None:
        steps = torch.arange(gates_x.shape[0], device=lengths.device)
        inputs = (gates_x, lengths - steps[:, None])
    state, output = scan(step, (hidden, cell), inputs)
    return variable.cleared(output, lengths), state

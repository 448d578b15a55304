"""The recurrence that OpenSTL's releases of 2023 had, for the weights that were trained with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import functional, reference
from .modules import ConvLSTM
from .reference import State


class OpenSTL2023(ConvLSTM):
    """A layer that is a ConvLSTM but for its last equation, as OpenSTL had it in 2023:

        H_t = o_t o g_t        instead of        H_t = o_t o tanh(C_t)

    so that the cell state never reaches the output. It is a defect (chengtan9907/OpenSTL, issue 68,
    mended in December 2023), and here for weights that learnt to live with it:
    ``checkpoints.load(None, weights, "openstl-2023")`` gives such a layer. For anything new, take
    :class:`memx_fast.ConvLSTM`.

    Arguments, inputs, outputs, parameters and errors are those of :class:`memx_fast.ConvLSTM`. It
    runs on plain PyTorch, step by step: the fused kernels have the equations of a ConvLSTM.

    Raises:
        ValueError: ``backend`` names a fused engine; and all that ConvLSTM raises.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.backend not in ("auto", "reference"):
            raise ValueError(
                f'backend: got {self.backend!r}, expected "auto" or "reference": '
                "no fused engine computes H = o * g"
            )

    def _run(
        self,
        suffix: str,
        x: Tensor,
        state: State | None,
        *,
        hidden_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        over_frames: bool = True,
        recompute: float = 0.5,
    ) -> tuple[Tensor, State]:
        geometry = (self.padding, self.stride, self.dilation) if over_frames else ("same", 1, 1)
        tensors = (x, *self._parameters_of(suffix), state, hidden_mask)
        functional.check_tensors(*tensors, *geometry)
        padding, stride, dilation = geometry
        return reference.conv_lstm(
            *tensors,
            lengths,
            output_peephole=self.output_peephole,
            hard_sigmoid_slope=functional.slope_of(
                self.recurrent_activation, self.hard_sigmoid_slope
            ),
            padding=padding,
            stride=stride,
            dilation=dilation,
            step=_step,
        )


def _step(gates_x: Tensor, *others: Any) -> tuple[Tensor, reference.Step]:
    """As :func:`memx_fast.reference.forward_step`, with another hidden state."""
    _, step = reference.forward_step(gates_x, *others)
    return (step.o * step.g).to(gates_x.dtype), step

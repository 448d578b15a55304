"""One step of the layer, :class:`ConvLSTMCell`, with the interface of ``torch.nn.LSTMCell``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .arguments import Sizes, check_shape, described, flag, odd_kernel, whole
from .functional import AXES
from .geometry import Padding
from .recurrence import Recurrence, repr_of_arguments
from .reference import State


class ConvLSTMCell(Recurrence):
    """One step of a :class:`memx_fast.ConvLSTM`, with the interface of ``torch.nn.LSTMCell``.

    Args:
        input_channels, hidden_channels, kernel_size, bias, peephole, spatial_size, output_peephole,
            recurrent_activation, hard_sigmoid_slope, padding, stride, dilation, forget_bias,
            backend, device, dtype: as in :class:`memx_fast.ConvLSTM`, with one number of hidden
            channels and one kernel.

    Inputs: x, (h_0, c_0)

    - **x** ``(B, input_channels, H, W)``, or unbatched ``(input_channels, H, W)``.
    - **h_0**, **c_0** ``(B, C, H', W')``, unbatched without B; without them the states are 0.

    Outputs: (h_1, c_1), the states after the step, of the shapes of h_0 and c_0. c_1 is float32 for
    half types.

    Parameters ``weight_ih``, ``weight_hh``, ``bias`` and ``weight_ch``: as the layer's.

    Raises:
        TypeError, ValueError, RuntimeError: as the layer.
    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | Sizes = 3,
        *,
        bias: bool = True,
        peephole: str | None = None,
        spatial_size: int | Sizes | None = None,
        output_peephole: str = "previous",
        recurrent_activation: str = "sigmoid",
        hard_sigmoid_slope: float = 1 / 6,
        padding: Padding = "same",
        stride: int | Sizes = 1,
        dilation: int | Sizes = 1,
        forget_bias: float = 1.0,
        backend: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kernel = odd_kernel(kernel_size, self.axes)
        super().__init__(
            input_channels,
            kernel,
            padding,
            stride,
            dilation,
            peephole,
            spatial_size,
            output_peephole,
            recurrent_activation,
            hard_sigmoid_slope,
            forget_bias,
            backend,
            device,
            dtype,
        )
        self.hidden_channels = whole("hidden_channels", hidden_channels, 1)
        self.kernel_size = kernel_size
        self._add_recurrence(
            "", self.input_channels, self.hidden_channels, kernel, flag("bias", bias)
        )
        self.reset_parameters()

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """One step; see the class for shapes."""
        frame = f"C, {AXES[self.axes]}"
        self._check_frames(x, f"(B, {frame}) or ({frame})", (self.axes + 1, self.axes + 2), 0)
        unbatched = x.dim() == self.axes + 1
        if unbatched:
            x = x.unsqueeze(0)
        _, (h, c) = self._run("", x.unsqueeze(0), self._initial_state(state, x, unbatched))
        return (h.squeeze(0), c.squeeze(0)) if unbatched else (h, c)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return repr_of_arguments(
            self,
            ("input_channels", "hidden_channels", "kernel_size"),
            peephole=None,
            spatial_size=None,
            output_peephole="previous",
            recurrent_activation="sigmoid",
            hard_sigmoid_slope=1 / 6,
            padding="same",
            stride=1,
            dilation=1,
            forget_bias=1.0,
            backend="auto",
        ) + (", bias=False" if self.bias is None else "")

    def _suffixes(self) -> tuple[str]:
        return ("",)

    def _initial_state(self, state: Any, x: Tensor, unbatched: bool) -> State | None:
        """(h_0, c_0) for x (B, C, H, W), or None for zeros."""
        if state is None:
            return None
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError(f"state: got {described(state)}, expected two tensors (h_0, c_0)")
        size = self._convolution.output_size(*x.shape[2:])
        shape = (*(() if unbatched else x.shape[:1]), self.hidden_channels, *size)
        for name, value in zip(("h_0", "c_0"), state, strict=True):
            check_shape(name, value, shape)
        h_0, c_0 = state
        return (h_0.unsqueeze(0), c_0.unsqueeze(0)) if unbatched else (h_0, c_0)

"""What the layers have in common: parameters, their initialisation, frames, one recurrence run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import backends, functional
from .arguments import Sizes, described, whole, whole_numbers
from .geometry import InputConvolution, Padding, pixels
from .reference import State

PEEPHOLES = (None, "channel", "spatial")
"""What the gates can see of the cell state."""

_NAMES = ("weight_ih", "weight_hh", "bias", "weight_ch")


class Recurrence(nn.Module):
    """Base of the layers: one or more recurrences, told apart by a suffix of their parameters.

    The arguments are those of :class:`memx_fast.ConvLSTM`, checked here; ``kernel`` is that of the
    convolution over the frames, which ``padding``, ``stride`` and ``dilation`` belong to.

    Attributes:
        axes: how many spatial axes a frame has: 1 for lines, 2 for images, 3 for volumes.
    """

    axes = 2

    def __init__(
        self,
        input_channels: int,
        kernel: Sizes,
        padding: Padding,
        stride: int | Sizes,
        dilation: int | Sizes,
        peephole: str | None,
        spatial_size: int | Sizes | None,
        output_peephole: str,
        recurrent_activation: str,
        hard_sigmoid_slope: float,
        forget_bias: float,
        backend: str,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if peephole not in PEEPHOLES:
            raise ValueError(f'peephole: got {peephole!r}, expected None, "channel" or "spatial"')
        if (peephole == "spatial") != (spatial_size is not None):
            raise ValueError(
                f"spatial_size: got {spatial_size!r} with peephole={peephole!r}, expected the "
                'size of the frames with peephole="spatial" and only then'
            )
        functional.check_equations(output_peephole, recurrent_activation, hard_sigmoid_slope)
        if isinstance(forget_bias, bool) or not isinstance(forget_bias, int | float):
            raise TypeError(f"forget_bias: got {forget_bias!r}, expected a number")
        if not math.isfinite(forget_bias):
            raise ValueError(f"forget_bias: got {forget_bias!r}, expected a finite number")
        if dtype is not None and dtype not in functional.DTYPES:
            raise TypeError(f"dtype: got {dtype!r}, expected float32, float64, bfloat16 or float16")
        backends.check_name(backend)
        self.input_channels = whole("input_channels", input_channels, 1)
        self.padding: Padding = padding
        self.stride = stride
        self.dilation = dilation
        self.peephole = peephole
        self.spatial_size = (
            None
            if spatial_size is None
            else whole_numbers("spatial_size", spatial_size, 1, self.axes)
        )
        self.output_peephole = output_peephole
        self.recurrent_activation = recurrent_activation
        self.hard_sigmoid_slope = float(hard_sigmoid_slope)
        self.forget_bias = float(forget_bias)
        self.backend = backend
        self._convolution = InputConvolution.of(kernel, padding, stride, dilation)
        self._factory: dict[str, Any] = {"device": device, "dtype": dtype}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the parameters.

        Input and recurrent weights are uniform in ``(-k, k)``, ``k = 1 / sqrt((Cin + C) kh kw)``:
        what ``nn.Conv2d`` gives the one convolution over input and hidden state that they amount
        to. The bias is ``forget_bias`` for the forget gate and 0 for the others, peepholes are 0.
        """
        for suffix in self._suffixes():
            weight_ih, weight_hh, bias, weight_ch = self._parameters_of(suffix)
            hidden = weight_hh.shape[1]
            fan_in = (weight_ih.shape[1] + hidden) * weight_hh[0, 0].numel()
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(weight_ih, -bound, bound)
            nn.init.uniform_(weight_hh, -bound, bound)
            if bias is not None:
                nn.init.zeros_(bias)
                nn.init.constant_(bias[hidden : 2 * hidden], self.forget_bias)
            if weight_ch is not None:
                nn.init.zeros_(weight_ch)

    def _suffixes(self) -> Sequence[str]:
        """One a recurrence."""
        raise NotImplementedError

    def _add_recurrence(
        self, suffix: str, input_channels: int, hidden: int, kernel: Sizes, bias: bool
    ) -> None:
        """Register its parameters; those that the layer goes without are None."""
        size: Sizes = ()
        if self.spatial_size is not None:
            size = self._convolution.output_size(*self.spatial_size)
        shapes: dict[str, tuple[int, ...] | None] = {
            "weight_ih": (4 * hidden, input_channels, *kernel),
            "weight_hh": (4 * hidden, hidden, *kernel),
            "bias": (4 * hidden,) if bias else None,
            "weight_ch": (3, hidden, *size) if self.peephole else None,
        }
        for name, shape in shapes.items():
            parameter = None if shape is None else nn.Parameter(torch.empty(shape, **self._factory))
            self.register_parameter(name + suffix, parameter)

    def _parameters_of(self, suffix: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """weight_ih, weight_hh, bias, weight_ch."""
        # By getattr: a parametrised weight is an attribute, but no parameter.
        weight_ih, weight_hh, bias, weight_ch = (getattr(self, name + suffix) for name in _NAMES)
        return weight_ih, weight_hh, bias, weight_ch

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
        """One recurrence over (T, B, C, H, W): the frames, or what another layer made of them."""
        return functional.conv_lstm(
            x,
            *self._parameters_of(suffix),
            state,
            hidden_mask=hidden_mask,
            lengths=lengths,
            output_peephole=self.output_peephole,
            recurrent_activation=self.recurrent_activation,
            hard_sigmoid_slope=self.hard_sigmoid_slope,
            padding=self.padding if over_frames else "same",
            stride=self.stride if over_frames else 1,
            dilation=self.dilation if over_frames else 1,
            recompute=recompute,
            backend=self.backend,
        )

    def _check_frames(self, x: Tensor, shapes: str, dims: tuple[int, int], batch: int) -> None:
        """``shapes`` and the two numbers of ``dims`` are what x may look like.

        With the second of these, the dimension ``batch`` may be 0.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x: got {described(x)}, expected a tensor")
        sizes = [size for index, size in enumerate(x.shape) if (x.dim(), index) != (dims[1], batch)]
        if x.dim() not in dims or 0 in sizes:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected {shapes}, only B may be 0")
        channels, *frame = x.shape[-1 - self.axes :]
        if channels != self.input_channels:
            raise ValueError(
                f"x: got {channels} channels in shape {tuple(x.shape)}, "
                f"expected {self.input_channels} = input_channels in {shapes}"
            )
        if self.spatial_size is not None and tuple(frame) != self.spatial_size:
            raise ValueError(
                f"x: got frames of {pixels(frame)}, "
                f"expected {' x '.join(map(str, self.spatial_size))} = spatial_size"
            )


def repr_of_arguments(module: nn.Module, always: tuple[str, ...], **defaults: object) -> str:
    """Arguments that are always shown, then those that differ from their defaults."""
    shown = [repr(getattr(module, name)) for name in always]
    for name, default in defaults.items():
        value = getattr(module, name)
        if value != default:
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)

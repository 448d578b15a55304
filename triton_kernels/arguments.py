"""What the operators are given, checked, and the sizes that follow from it.

Shapes are those of the operator: T steps, B batch, C hidden channels, H and W the states' image,
Hx and Wx the frames'. See :mod:`memx_fast.ops` for every argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memx_fast.ops import accumulate_dtype

GATES = 4

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Arguments(NamedTuple):
    """Arguments of a layer, as both operators get them."""

    x: Tensor  # (T, B, Cin, Hx, Wx), or ready-made input gates (T, B, 4C, H, W)
    weight_ih: Tensor | None  # (4C, Cin, kh, kw); None: x holds input gates
    weight_hh: Tensor  # (4C, C, kh, kw), odd kernel
    bias: Tensor | None  # (4C,)
    weight_ch: Tensor | None  # (3, C) or (3, C, H, W)
    h_0: Tensor | None  # (B, C, H, W)
    c_0: Tensor | None  # (B, C, H, W) of the accumulation type
    hidden_mask: Tensor | None  # (B, C, H, W), times H_{t-1} in the recurrent convolution
    lengths: Tensor | None  # (B,) of int64: the steps of every sequence; None: T


class Equations(NamedTuple):
    """Which variant of equations (1)-(5)."""

    sees_current: bool  # the output gate sees C_t, not C_{t-1}
    hard_sigmoid_slope: float  # 0: the logistic sigmoid

    @staticmethod
    def checked(sees_current: bool, hard_sigmoid_slope: float) -> Equations:
        """These equations.

        Raises:
            ValueError: there is no sigmoid of this slope.
        """
        if not 0 <= hard_sigmoid_slope < math.inf:
            raise ValueError(
                f"hard_sigmoid_slope is {hard_sigmoid_slope}, expected a finite number above 0, "
                "or 0 for the logistic sigmoid"
            )
        return Equations(sees_current, hard_sigmoid_slope)

    def constants(self) -> dict[str, bool | float]:
        """What the steps' kernels are compiled for."""
        return {"SEES_CURRENT": self.sees_current, "HARD_SLOPE": self.hard_sigmoid_slope}


@dataclass(frozen=True)
class Sizes:
    """The numbers of which all shapes are made."""

    steps: int
    batch: int
    input_channels: int
    input_height: int
    input_width: int
    hidden: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of the states of one step: B * H * W."""
        return self.batch * self.height * self.width

    @property
    def state(self) -> tuple[int, int, int, int]:
        """Shape of a state."""
        return self.batch, self.hidden, self.height, self.width


def checked_sizes(arguments: Arguments, padding: list[int]) -> Sizes:
    """Sizes of arguments that fit together.

    Raises:
        TypeError: an argument is of another dtype than x, or of one that is not supported.
        ValueError: an argument's shape or device does not fit; the message names the argument.
    """
    x, weight_ih, weight_hh = arguments[:3]
    if x.dim() != 5 or x.numel() == 0:
        raise ValueError(f"x has shape {_shape(x)}, expected a non-empty (T, B, channels, H, W)")
    if (
        weight_hh.dim() != 4
        or weight_hh.numel() == 0
        or weight_hh.shape[0] != GATES * weight_hh.shape[1]
        or weight_hh.shape[2] % 2 == 0
        or weight_hh.shape[3] % 2 == 0
    ):
        raise ValueError(
            f"weight_hh has shape {_shape(weight_hh)}, expected (4C, C, kh, kw) with an odd kernel"
        )
    hidden = weight_hh.shape[1]
    if weight_ih is None:
        if x.shape[2] != GATES * hidden:
            raise ValueError(
                f"x has shape {_shape(x)}, expected {GATES * hidden} channels of input gates"
            )
    elif weight_ih.dim() != 4 or weight_ih.shape[:2] != (GATES * hidden, x.shape[2]):
        raise ValueError(
            f"weight_ih has shape {_shape(weight_ih)}, "
            f"expected ({GATES * hidden}, {x.shape[2]}, kh, kw)"
        )
    height, width = _state_size(x, weight_ih, padding)
    steps, batch, input_channels, input_height, input_width = x.shape
    sizes = Sizes(steps, batch, input_channels, input_height, input_width, hidden, height, width)
    _check_shape("bias", arguments.bias, (GATES * hidden,))
    _check_shape("weight_ch", arguments.weight_ch, (3, hidden), (3, *sizes.state[1:]))
    _check_shape("h_0", arguments.h_0, sizes.state)
    _check_shape("c_0", arguments.c_0, sizes.state)
    _check_shape("hidden_mask", arguments.hidden_mask, sizes.state)
    _check_shape("lengths", arguments.lengths, (batch,))
    _check_numbers(arguments)
    return sizes


def check_results(
    sizes: Sizes,
    like: Tensor,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    saved: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Check what the backward operator gets from the forward: incoming gradients, saved tensors.

    Raises:
        TypeError: one is of another dtype than the forward gave.
        ValueError: one is of another shape, or cells or gates are not dense.
    """
    output, cells, gates = saved
    batch, hidden, height, width = sizes.state
    accumulate = accumulate_dtype(like.dtype)
    step = (batch, height, width)
    saved_gates = gates.shape[0] if gates.dim() == 6 and gates.shape[0] <= sizes.steps else 0
    for name, tensor, shape, dtype in (
        ("grad_output", grads[0], (sizes.steps, *sizes.state), like.dtype),
        ("grad_h_n", grads[1], sizes.state, like.dtype),
        ("grad_c_n", grads[2], sizes.state, accumulate),
        ("output", output, (sizes.steps, *sizes.state), like.dtype),
        ("cells", cells, (sizes.steps, *step, hidden), accumulate),
        ("gates", gates, (saved_gates, *step, GATES, hidden), like.dtype),
    ):
        _check_shape(name, tensor, shape)
        _check_number(name, tensor, dtype, like)
    if not (
        output.movedim(2, -1).is_contiguous() and cells.is_contiguous() and gates.is_contiguous()
    ):
        raise ValueError(
            "output, cells and gates must be laid out as the forward operator gave them"
        )


def _state_size(x: Tensor, weight_ih: Tensor | None, padding: list[int]) -> tuple[int, int]:
    if len(padding) != 2:
        raise ValueError(f"padding has {len(padding)} numbers, expected rows and columns")
    kernel = (1, 1) if weight_ih is None else tuple(weight_ih.shape[2:])
    if not all(0 <= zeros < size for zeros, size in zip(padding, kernel, strict=True)):
        raise ValueError(
            f"padding is {tuple(padding)}, "
            "expected less than the kernel of weight_ih, and 0 without it"
        )
    height = x.shape[3] + 2 * padding[0] - kernel[0] + 1
    width = x.shape[4] + 2 * padding[1] - kernel[1] + 1
    if height < 1 or width < 1:
        raise ValueError(
            f"x has shape {_shape(x)}, too small for weight_ih with a kernel of {kernel}"
        )
    return height, width


def _check_numbers(arguments: Arguments) -> None:
    x = arguments.x
    if x.dtype not in DTYPES:
        raise TypeError(f"x has dtype {x.dtype}, expected one of {DTYPES}")
    others = {"c_0": accumulate_dtype(x.dtype), "lengths": torch.int64}
    for name, tensor in zip(Arguments._fields, arguments, strict=True):
        _check_number(name, tensor, others.get(name, x.dtype), x)


def _check_number(name: str, tensor: Tensor | None, dtype: torch.dtype, like: Tensor) -> None:
    if tensor is None:
        return
    if tensor.dtype != dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, expected {like.device} as x")


def _check_shape(name: str, tensor: Tensor | None, *expected: tuple[int, ...]) -> None:
    if tensor is not None and _shape(tensor) not in expected:
        shapes = " or ".join(map(str, expected))
        raise ValueError(f"{name} has shape {_shape(tensor)}, expected {shapes}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)

"""What the Triton operators promise beside numbers: layouts, cell arithmetic, what they refuse."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memx_fast import ops, triton_kernels
from memx_fast.triton_kernels import configurations
from memx_fast.triton_kernels.arguments import DTYPES
from memx_fast.triton_kernels.launching import Launches
from tests.interpreted.kernel_calls import forward
from tests.operator_cases import NAMES, Case, cast

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ready_made", [False, True])
def test_results_are_what_the_fake_kernels_say(
    dtype: torch.dtype, batch: int, ready_made: bool
) -> None:
    """Shapes, dtypes and strides of results and gradients, and none of them is a view."""
    case = Case(2, batch, 0 if ready_made else 1, 3, 4, 1, peephole="spatial")
    leaves = cast(case.arguments(), dtype, c_0=torch.float32)
    given = [None if leaves[name] is None else leaves[name].detach() for name in NAMES]
    padding = [0, 0] if ready_made else [1, 1]
    found = triton_kernels.conv_lstm(*given, padding, False, True, 1)
    same_layout(found, ops._fake_forward(*given, padding, False, True, 1))
    needs = [value is not None for value in given]
    backward = (*found[:3], *given, found[0], *found[3:], padding, False, needs)
    same_layout(triton_kernels.conv_lstm_backward(*backward), ops._fake_backward(*backward))


def same_layout(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert not one._is_view()


def test_cell_state_of_half_types_is_single_precision() -> None:
    """c_n is float32, so that a sequence can be cut in two without rounding the cell state."""
    case = Case(4, 1, 2, 6, 5, 5)
    arguments = {
        name: None if value is None else value.detach()
        for name, value in cast(case.arguments(), torch.bfloat16, c_0=torch.float32).items()
    }
    output, h_n, c_n, _, _ = forward(case, arguments)
    assert (output.dtype, h_n.dtype, c_n.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    half = Case(2, 1, 2, 6, 5, 5)
    first = forward(half, {**arguments, "x": arguments["x"][:2]})
    second = forward(half, {**arguments, "x": arguments["x"][2:], "h_0": first[1], "c_0": first[2]})
    assert torch.equal(torch.cat([first[0], second[0]]), output)
    assert torch.equal(second[2], c_n)


@pytest.mark.parametrize("is_amd", [False, True])
def test_no_element_of_a_step_is_shared_by_threads(
    is_amd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is updated in place belongs to one thread, for every line of the table."""
    monkeypatch.setattr(configurations, "is_amd", lambda: is_amd)
    lanes = 64 if is_amd else 32
    for kernel, dtype, precision, channels in itertools.product(
        ("forward", "backward"), DTYPES, ("ieee", "tf32"), (16, 32, 64)
    ):
        numbers = configurations.Numbers(dtype, precision)
        tile = configurations.configuration(kernel, numbers, channels)
        assert tile.block_m * tile.block_c >= lanes * tile.warps, (kernel, numbers, tile)


def ulps(found: Tensor, exact: Tensor) -> float:
    spacing = torch.finfo(torch.float32).eps * torch.exp2(exact.abs().log2().floor())
    return ((found.double() - exact).abs() / spacing.clamp_min(1e-45)).max().item()


def test_gate_arithmetic_in_ulps() -> None:
    """Single-precision sigmoid within 4 ulp and tanh within 6 of the exact functions."""
    z = torch.cat([torch.linspace(-30, 30, 10_001), torch.logspace(-30, 1, 2_001)]).float()
    gates = torch.zeros(1, len(z), 4, 1, 1)
    weight = torch.zeros(4, 1, 1, 1)
    gates[0, :, 0, 0, 0], gates[0, :, 2, 0, 0] = 60.0, z  # i = 1 and f c_0 = 0: c_n = tanh(z)
    c_n = triton_kernels.conv_lstm(
        gates, None, weight, None, None, None, None, [0, 0], False, False, 0
    )[2]
    assert ulps(c_n.flatten(), torch.tanh(z.double())) <= 6
    gates.zero_()
    gates[0, :, 1, 0, 0] = z  # g = 0 and c_0 = 1: c_n = sigmoid(z)
    ones = torch.ones(len(z), 1, 1, 1)
    c_n = triton_kernels.conv_lstm(
        gates, None, weight, None, None, None, ones, [0, 0], False, False, 0
    )[2]
    assert ulps(c_n.flatten(), torch.sigmoid(z.double())) <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 2, 0, 4)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 2, 4, 4, dtype=torch.int32)}, "x has dtype"),
        ({"weight_ih": torch.zeros(12, 5, 3, 3)}, "weight_ih has shape"),
        ({"weight_ih": torch.zeros(12, 2, 1, 3)}, "padding is"),
        ({"weight_ih": torch.zeros(12, 2, 9, 3)}, "too small for weight_ih"),
        ({"weight_ih": None}, "x has shape"),
        ({"weight_hh": torch.zeros(12, 4, 3, 3)}, "weight_hh has shape"),
        ({"weight_hh": torch.zeros(12, 3, 2, 3)}, "weight_hh has shape"),
        ({"weight_hh": torch.zeros(12, 3, 3, 3, dtype=torch.float64)}, "weight_hh has dtype"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"bias": torch.zeros(12, device="meta")}, "bias is on meta, expected cpu"),
        ({"weight_ch": torch.zeros(3, 3, 4, 5)}, "weight_ch has shape"),
        ({"h_0": torch.zeros(1, 3, 4, 5)}, "h_0 has shape"),
        ({"c_0": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}, "c_0 has dtype"),
        ({"padding": (1,)}, "padding has 1 number"),
        ({"saved_gates": 3}, "saved_gates is 3, expected 0 to 2 steps"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, "hidden_mask has shape"),
        ({"mask": torch.zeros(1, 3, 4, 4).half()}, "hidden_mask has dtype"),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, "lengths has shape"),
        ({"lengths": torch.ones(1)}, "lengths has dtype"),
        ({"slope": -0.5}, "hard_sigmoid_slope is -0.5, expected a finite number above 0"),
        ({"slope": float("nan")}, "hard_sigmoid_slope is nan"),
    ],
)
def test_operator_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    """Nothing is read out of bounds: shapes, dtypes and devices are checked before any launch."""
    arguments = {
        "x": torch.zeros(2, 1, 2, 4, 4),
        "weight_ih": torch.zeros(12, 2, 3, 3),
        "weight_hh": torch.zeros(12, 3, 3, 3),
        **dict.fromkeys(NAMES[3:]),
        **{"padding": (1, 1), "sees_current": False, "save_cells": False, "saved_gates": 0},
        **{"slope": 0.0, "mask": None, "lengths": None},
    }
    with pytest.raises((TypeError, ValueError), match=message):
        triton_kernels.conv_lstm(*{**arguments, **change}.values())


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.ones(2, 1, 1, 5, 5), "grad_output has shape"),
        (0, torch.ones(2, 1, 2, 5, 5).double(), "grad_output has dtype"),
        (1, torch.ones(1, 2, 5, 4), "grad_h_n has shape"),
        (2, torch.ones(1, 2, 5, 5).double(), "grad_c_n has dtype"),
        (10, torch.ones(1, 1, 1, 1, 1), "output has shape"),
        (11, torch.ones(1, 1, 1, 1, 1), "cells has shape"),
        (11, torch.ones(2, 1, 5, 2, 5).mT, "output, cells and gates must be"),
        (12, torch.ones(3, 1, 5, 5, 4, 2), "gates has shape"),
        (12, torch.ones(1), "gates has shape"),
    ],
)
def test_backward_operator_refuses_what_does_not_fit(
    position: int, value: Tensor, message: str
) -> None:
    """Nor does the backward operator read out of bounds."""
    x, weight_ih, weight_hh = (
        torch.ones(2, 1, 3, 5, 5),
        torch.ones(8, 3, 3, 3),
        torch.ones(8, 2, 3, 3),
    )
    layer = [x, weight_ih, weight_hh, None, None, None, None]
    output, h_n, c_n, cells, gates = triton_kernels.conv_lstm(*layer, [1, 1], False, True, 1)
    given = [output, h_n, c_n, *layer, output, cells, gates, [1, 1], False, [True] * 7]
    given[position] = value
    with pytest.raises((TypeError, ValueError), match=message):
        triton_kernels.conv_lstm_backward(*given)


class _Binary:
    """What Triton gives for a launch; notes what it is launched with."""

    def __init__(self) -> None:
        self.launched: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *values: self.launched.append((grid, *values))


class _Kernel:
    """A kernel of three arguments and two constants; notes what Triton has to look at."""

    arg_names = ("tensor", "other", "t", "IS_LAST", "BLOCK_C")

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []
        self.binaries: list[_Binary] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., _Binary]:
        def launch(*arguments: object, **constants: object) -> _Binary:
            self.seen.append((arguments, constants))
            self.binaries.append(_Binary())
            return self.binaries[-1]

        return launch


def test_later_launches_of_a_kind_go_to_its_binary() -> None:
    """Triton looks at one launch for every set of tensors and constants; numbers may differ."""
    kernel, one, other = _Kernel(), torch.zeros(1), torch.ones(1)
    launches = Launches(kernel, (5, 2, 1), {"BLOCK_C": 16, "num_warps": 4})
    launches(one, None, 3, IS_LAST=True)
    launches(one, other, 2, IS_LAST=False)
    launches(other, one, 1, IS_LAST=False)
    launches(one, None, 0, IS_LAST=False)
    launches(other, None, 7, IS_LAST=True)
    options = {"BLOCK_C": 16, "num_warps": 4}
    assert kernel.seen == [
        ((one, None, 3), {"IS_LAST": True, **options}),
        ((one, other, 2), {"IS_LAST": False, **options}),
        ((one, None, 0), {"IS_LAST": False, **options}),
    ]
    last, middle, first = (binary.launched for binary in kernel.binaries)
    assert last == [((5, 2, 1), other, None, 7, True, 16)]
    assert middle == [((5, 2, 1), other, one, 1, False, 16)]
    assert first == []

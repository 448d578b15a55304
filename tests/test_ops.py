"""The fused operator against the float64 reference: forward and every gradient."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from memx_fast import _C, ops, reference
from tests.accuracy import worse_than_plain
from tests.operator_cases import (
    HALF_TYPES,
    NAMES,
    Case,
    cast,
    distance,
    fused,
    plain,
    results_and_gradients,
)

SHAPES = (
    Case(1, 1, 1, 1, 1, 1, (1, 1), (1, 1)),
    Case(1, 2, 3, 5, 7, 4),
    Case(2, 1, 1, 3, 2, 3, (5, 5), (5, 5)),
    Case(3, 2, 3, 5, 8, 1),
    Case(3, 1, 9, 8, 1, 9),
    Case(3, 2, 8, 16, 9, 11),
    Case(2, 2, 17, 33, 5, 6),
    Case(2, 2, 3, 9, 5, 7, (5, 3), (1, 3)),
    Case(2, 1, 2, 10, 33, 41, (3, 3), (5, 5)),
    Case(4, 1, 0, 12, 6, 7, bias=False),
    Case(3, 2, 2, 7, 13, 12, (1, 1), (3, 3)),
    Case(3, 2, 8, 9, 8, 7, padding=(0, 0)),
    Case(2, 2, 3, 8, 6, 9, (3, 3), (4, 2), padding=(0, 1)),
    Case(2, 1, 9, 8, 5, 40, (3, 3), (3, 3), padding=(2, 2)),
    Case(2, 2, 2, 6, 4, 5, (5, 5), (5, 3), padding=(1, 2)),
    # Many tiles, above and beside one another, so that strips of several steps meet; many images.
    Case(7, 18, 2, 3, 23, 8),
    Case(5, 1, 3, 4, 1, 301, (1, 3), (1, 5)),
    Case(4, 2, 2, 3, 6, 150, (5, 3), (3, 5), padding=(0, 3)),
    Case(5, 1, 3, 4, 41, 6, (5, 3), (5, 3), padding=(0, 1)),
    Case(6, 1, 1, 3, 38, 4, (3, 3), (7, 3), padding=(2, 2)),
)
VARIANTS = tuple(
    itertools.product((None, "channel", "spatial"), ("previous", "current"), (True, False))
)
CASES = tuple(
    replace(shape, peephole=peephole, output_peephole=output_peephole, states=states)
    for shape in SHAPES
    for peephole, output_peephole, states in VARIANTS
)
# Of slopes so steep that many gates are clamped; a variant a shape.
HARD_CASES = tuple(
    replace(case, hard_slope=slope)
    for case, slope in zip(CASES[:: len(VARIANTS) + 1], itertools.cycle((0.2, 0.5, 1.0)))
)


MASKED_CASES = tuple(replace(case, masked=True) for case in CASES[3 :: len(VARIANTS) + 1])
RAGGED_CASES = tuple(
    replace(case, batch=3, ragged=True, masked=masked, hard_slope=slope)
    for case, (masked, slope) in zip(
        CASES[5 :: len(VARIANTS) + 1], itertools.cycle(((False, 0.0), (True, 0.0), (True, 0.5)))
    )
)


@pytest.fixture(params=_C.build_info()["instruction_sets"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this processor runs, in turn."""
    usual = _C.instruction_set()
    _C.select_instruction_set(request.param)
    yield request.param
    _C.select_instruction_set(usual)


@pytest.mark.parametrize("case", [*CASES, *HARD_CASES, *MASKED_CASES, *RAGGED_CASES], ids=str)
def test_float64_agrees_with_the_reference(case: Case, instruction_set: str) -> None:
    """Results and all gradients to 1e-10, over shapes, peepholes, states; NaN-poisoned buffers."""
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    found = results_and_gradients(fused, case, arguments, case.incoming())
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
@pytest.mark.parametrize("output_peephole", ["previous", "current"])
def test_float64_agrees_with_the_package_reference(peephole, output_peephole) -> None:
    """The oracle of these tests and the package's own reference are the same function."""
    case = Case(3, 2, 3, 5, 6, 7, peephole=peephole, output_peephole=output_peephole)
    arguments = case.arguments()
    state = (arguments["h_0"], arguments["c_0"])
    expected, (h_n, c_n) = reference.conv_lstm(
        *(arguments[name] for name in NAMES[:5]), state, output_peephole=output_peephole
    )
    for found, exact in zip(fused(case, arguments), (expected, h_n, c_n), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


ACCURACY_CASES = (
    Case(5, 2, 1, 32, 24, 24, peephole="spatial"),
    Case(5, 2, 8, 16, 13, 17, peephole="channel", output_peephole="current"),
    Case(4, 2, 16, 64, 16, 16),
    Case(3, 2, 5, 8, 12, 12, peephole="channel"),
    Case(3, 2, 4, 12, 11, 11, (5, 5), (5, 5)),
    Case(3, 4, 24, 24, 21, 19, (1, 1), (1, 1), peephole="spatial"),
    Case(3, 2, 0, 16, 16, 15),
    Case(4, 2, 16, 64, 16, 16, hard_slope=0.2),
    Case(4, 2, 5, 24, 12, 13, peephole="channel", masked=True),
    Case(3, 2, 4, 12, 11, 11, (5, 5), masked=True),
    Case(5, 2, 8, 16, 13, 17, peephole="channel", output_peephole="current", hard_slope=0.5),
    Case(4, 3, 5, 24, 12, 13, peephole="channel", ragged=True),
    Case(4, 5, 2, 6, 9, 7, peephole="spatial", ragged=True),
)

# What matrix registers meet: tiles of several parts, registers that are not full, weights for which
# a tile is one part, kernel rows that end within a pair, in either convolution and in both.
REGISTER_CASES = (
    Case(3, 2, 3, 24, 20, 71, peephole="spatial", output_peephole="current"),
    Case(2, 2, 16, 48, 10, 37, (5, 5), (5, 5), ragged=True),
    Case(2, 1, 8, 160, 6, 40, masked=True),
    Case(2, 1, 17, 33, 9, 35),
    Case(2, 2, 6, 21, 7, 34, (1, 1), (3, 3), padding=(2, 2), peephole="channel"),
    Case(2, 1, 0, 40, 5, 66),
)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES], ids=str)
@pytest.mark.parametrize("case", [*ACCURACY_CASES, *REGISTER_CASES, *SHAPES], ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    case: Case, dtype: torch.dtype, instruction_set: str
) -> None:
    """In every other dtype: twice the error plain PyTorch makes in it."""

    def run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        given = cast(arguments, dtype, c_0=torch.float32)
        return results_and_gradients(fused, case, given, incoming)

    assert worse_than_plain(case, dtype, run) is None


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_cell_state_of_half_types_is_single_precision(dtype: torch.dtype) -> None:
    """c_n is float32, so that a sequence can be cut in two without rounding the cell state."""
    case = Case(4, 1, 2, 6, 5, 5)
    arguments = cast(case.arguments(), dtype, c_0=torch.float32)
    output, h_n, c_n = fused(case, arguments)
    assert (output.dtype, h_n.dtype, c_n.dtype) == (dtype, dtype, torch.float32)
    first = fused(case, {**arguments, "x": arguments["x"][:2]})
    second = fused(case, {**arguments, "x": arguments["x"][2:], "h_0": first[1], "c_0": first[2]})
    assert torch.equal(torch.cat([first[0], second[0]]), output)
    assert torch.equal(second[2], c_n)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["output", "h_n", "c_n"])
def test_one_incoming_gradient(part: int) -> None:
    """Results that take no part in the loss need no gradient of zeros."""
    case = Case(3, 2, 3, 5, 6, 5, peephole="channel", output_peephole="current")
    arguments = cast(case.arguments(), torch.float64)
    leaves = [value for value in arguments.values() if value is not None]
    grad = case.incoming()[part]
    found = torch.autograd.grad(fused(case, arguments)[part], leaves, grad)
    exact = torch.autograd.grad(
        plain(case, arguments)[part], leaves, grad, allow_unused=True, materialize_grads=True
    )
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "wanted", [(name,) for name in NAMES] + [("weight_hh", "bias"), ("x", "h_0")]
)
def test_only_wanted_gradients(wanted: tuple[str, ...]) -> None:
    """Each gradient is the same whichever others are asked for, and the others stay None."""
    case = Case(2, 2, 8, 9, 6, 5, peephole="channel")
    full = cast(case.arguments(), torch.float32)
    exact = results_and_gradients(fused, case, full, case.incoming())
    some = {name: value.detach().requires_grad_(name in wanted) for name, value in full.items()}
    results = fused(case, some)
    torch.autograd.backward(results, [grad.to(torch.float32) for grad in case.incoming()])
    for name, value in some.items():
        if name in wanted:
            assert torch.equal(value.grad, exact[f"grad of {name}"]), name
        else:
            assert value.grad is None, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("output_peephole", ["previous", "current"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_recompute(dtype: torch.dtype, output_peephole: str, share: float) -> None:
    """Without the gates of some steps: the same results, and gradients as accurate as with all."""
    options = {"peephole": "spatial", "output_peephole": output_peephole, "masked": True}
    case = Case(4, 2, 3, 9, 8, 7, **options)
    rounded = {name: value.to(dtype).double() for name, value in case.arguments().items()}
    incoming = [grad.to(dtype).double() for grad in case.incoming()]
    exact = results_and_gradients(plain, case, cast(rounded, torch.float64), incoming)
    accumulate = ops.accumulate_dtype(dtype)
    saved = results_and_gradients(fused, case, cast(rounded, dtype, c_0=accumulate), incoming)
    recomputed = results_and_gradients(
        lambda *a: fused(*a, recompute=share), case, cast(rounded, dtype, c_0=accumulate), incoming
    )
    for name, value in exact.items():
        allowed = max(1.5 * distance(saved[name], value), torch.finfo(dtype).eps)
        assert distance(recomputed[name], value) <= allowed, name
        if not name.startswith("grad"):
            assert torch.equal(recomputed[name], saved[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_nan_reaches_what_it_should(
    channels: int, dtype: torch.dtype, instruction_set: str
) -> None:
    """A NaN pixel makes its neighbourhood NaN and nothing else."""
    case = Case(1, 1, channels, 3, 7, 9, states=False)
    arguments = {
        name: None if value is None else value.to(dtype) for name, value in case.arguments().items()
    }
    arguments["x"][0, 0, -1, 3, 4] = torch.nan
    output, _, _ = fused(case, arguments)
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(output.isnan()[0, 0].all(0), expected)
    assert torch.equal(output.isnan()[0, 0].any(0), expected)


def single_gate_step(gates: Tensor, c_0: Tensor | None = None, hard_slope: float = 0.0):
    """One step over 1x1 images whose four pre-activations are given: (pixels, 4)."""
    x = gates.reshape(1, -1, 4, 1, 1)
    weight = torch.zeros(4, 1, 1, 1, dtype=gates.dtype)
    return torch.ops.memx_fast.conv_lstm(
        x, None, weight, None, None, None, c_0, (0, 0), False, True, 1, hard_slope
    ), (x, None, weight, None, None, None, c_0)


def ulps(found: Tensor, exact: Tensor) -> float:
    spacing = torch.finfo(torch.float32).eps * torch.exp2(exact.abs().log2().floor())
    return ((found.double() - exact).abs() / spacing.clamp_min(1e-45)).max().item()


def test_gate_arithmetic_in_ulps(instruction_set: str) -> None:
    """Single-precision sigmoid within 4 ulp and tanh within 6 of the exact functions."""
    z = torch.cat([torch.linspace(-30, 30, 100_001), torch.logspace(-30, 1, 20_001)]).float()
    gates = torch.zeros(len(z), 4)
    gates[:, 0], gates[:, 2] = 60.0, z  # i = 1 and f c_0 = 0: c_n = tanh(z)
    (_, _, c_n, _, _), _ = single_gate_step(gates)
    assert ulps(c_n.flatten(), torch.tanh(z.double())) <= 6
    gates = torch.zeros(len(z), 4)
    gates[:, 1] = z  # g = 0 and c_0 = 1: c_n = sigmoid(z)
    (_, _, c_n, _, _), _ = single_gate_step(gates, torch.ones(len(z), 1, 1, 1))
    assert ulps(c_n.flatten(), torch.sigmoid(z.double())) <= 4


def test_gate_arithmetic_of_bfloat16(instruction_set: str) -> None:
    """Relative errors below 2^-12 over all numbers, infinities and NaN; zero stays zero."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    close = {"rtol": 2**-12, "atol": 1e-26, "equal_nan": True}  # sigmoid(-60) is the least
    gates = torch.zeros(len(z), 4, dtype=z.dtype)
    gates[:, 0], gates[:, 2] = 60.0, z  # i = 1 and f c_0 = 0: c_n = tanh(z)
    (_, _, c_n, _, _), _ = single_gate_step(gates)
    torch.testing.assert_close(c_n.flatten(), torch.tanh(z.double()).float(), **close)
    assert torch.equal(c_n.flatten() == 0, z == 0)
    gates = torch.zeros(len(z), 4, dtype=z.dtype)
    gates[:, 1] = z  # g = 0 and c_0 = 1: c_n = sigmoid(z)
    (_, _, c_n, _, _), _ = single_gate_step(gates, torch.ones(len(z), 1, 1, 1))
    torch.testing.assert_close(c_n.flatten(), torch.sigmoid(z.double()).float(), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hard_sigmoid(dtype: torch.dtype, instruction_set: str) -> None:
    """It is PyTorch's, value and derivative: also beside the ends of its ramp, of infinity, NaN."""
    others = torch.tensor([-3.001, -2.999, 2.999, 3.001, torch.inf, -torch.inf, torch.nan])
    z = torch.cat([torch.linspace(-5.03, 5, 101), others]).to(dtype).requires_grad_()
    expected = torch.nn.functional.hardsigmoid(z)
    (derivative,) = torch.autograd.grad(expected.sum(), z)
    gates = torch.zeros(len(z), 4, dtype=dtype)
    gates[:, 1] = z.detach()  # g = 0 and c_0 = 1: c_n = sigmoid(z)
    ones = torch.ones(len(z), 1, 1, 1, dtype=dtype)
    results, arguments = single_gate_step(gates, ones, hard_slope=1 / 6)
    output, _, c_n, cells, saved = results
    torch.testing.assert_close(c_n.flatten(), expected.detach(), equal_nan=True)
    grads = torch.ops.memx_fast.conv_lstm_backward(
        *(None, None, ones, *arguments, output, cells, saved),
        *((0, 0), False, [True] + [False] * 6, 1 / 6),
    )
    found = grads[0].reshape(-1, 4)[:, 1]
    torch.testing.assert_close(found[:-1], derivative[:-1])


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_half_conversions_are_exact(dtype: torch.dtype, instruction_set: str) -> None:
    """All 65,536 values widen to themselves; floats narrow to the nearest even, as PyTorch's do.

    With i, f and o saturated at one and everything else at zero, the gradient of c_0 is the
    incoming gradient of output, and that of the candidate's pre-activation is the incoming gradient
    of c_n. Infinities become NaN in the products with zero.
    """
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    midpoints = every.float().view(torch.int32)[:, None] + torch.tensor(
        [-1, 0, 1, 4096, 32768], dtype=torch.int32
    )
    floats = midpoints.flatten().view(torch.float32)
    count = len(floats)
    gates = torch.tensor([60.0, 60.0, 0.0, 60.0], dtype=dtype).expand(count, 4).contiguous()
    (output, _, _, cells, saved), arguments = single_gate_step(gates, torch.zeros(count, 1, 1, 1))
    needs = [True] + [False] * 5 + [True]

    incoming = every.repeat(5).reshape(1, count, 1, 1, 1)
    grads = torch.ops.memx_fast.conv_lstm_backward(
        incoming, None, None, *arguments, output, cells, saved, (0, 0), False, needs
    )
    expected = incoming.flatten().float()
    expected[expected.isinf()] = torch.nan
    torch.testing.assert_close(grads[6].flatten(), expected, rtol=0, atol=0, equal_nan=True)

    grads = torch.ops.memx_fast.conv_lstm_backward(
        None,
        None,
        floats.reshape(-1, 1, 1, 1),
        *arguments,
        output,
        cells,
        saved,
        (0, 0),
        False,
        needs,
    )
    torch.testing.assert_close(
        grads[0].reshape(count, 4)[:, 2], floats.to(dtype), rtol=0, atol=0, equal_nan=True
    )

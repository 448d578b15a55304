"""The derivative by hand against autograd's, and autograd's against finite differences."""

import pytest
import torch
from torch import Tensor

from memx_fast import reference_backward
from tests.reference_cases import (
    GEOMETRIES,
    HALF_TYPES,
    NAMES,
    SAME,
    Arguments,
    Geometry,
    assert_close,
    cast,
    drawn,
    every_geometry,
    every_output_peephole,
    every_peephole,
    incoming_for,
    positional,
    run,
    strewn,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {"output": (0,), "h_n": (1,), "c_n": (2,), "all": (0, 1, 2)}


def check_backward(
    arguments: Arguments, parts: tuple[int, ...] = (0, 1, 2), layout=None, **options: object
) -> None:
    """The hand-derived gradients are those of autograd where only some results have one."""
    arguments = cast(arguments, torch.float64)
    leaves = {name: value for name, value in arguments.items() if value is not None}
    results = run(arguments, **options)
    grads = [grad if k in parts else None for k, grad in enumerate(incoming_for(results))]
    exact = torch.autograd.grad(
        [results[k] for k in parts],
        tuple(leaves.values()),
        [grads[k] for k in parts],
        allow_unused=True,
        materialize_grads=True,
    )
    if layout is not None:
        grads = [layout(grad) for grad in grads]
        arguments = {name: layout(value.detach()) for name, value in arguments.items()}
    found = reference_backward.conv_lstm_backward(
        *grads, *positional(arguments), **options
    )._asdict()
    for (name, leaf), grad in zip(leaves.items(), exact, strict=True):
        assert found[name].shape == leaf.shape, name
        assert_close(found[name], grad, name)
    assert {name for name, grad in found.items() if grad is not None} == set(leaves)


def test_backward_by_hand_of_a_masked_hidden_state() -> None:
    """The mask stands before every hidden state, and so before every gradient of one."""
    check_backward(drawn(), hidden_mask=drawn(seed=1)["h_0"])


@every_geometry
@every_output_peephole
def test_backward_by_hand_over_input_geometry(geometry: Geometry, output_peephole: str) -> None:
    """Gradients of frames and input kernel for every padding, stride and dilation."""
    check_backward(drawn(geometry), output_peephole=output_peephole, **geometry.options())


@every_peephole
@every_output_peephole
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("optional", [True, False], ids=["states_and_bias", "bare"])
@pytest.mark.parametrize("slope", [0.0, 0.4], ids=["logistic", "hard"])
def test_backward_by_hand_over_equations(
    peephole: str | None,
    output_peephole: str,
    parts: tuple[int, ...],
    optional: bool,
    slope: float,
) -> None:
    """Every kind of peephole, each incoming gradient alone and all; None for what is not there."""
    arguments = drawn(SAME, peephole, states=optional, bias=optional, recurrent_kernel=(3, 5))
    check_backward(arguments, parts, output_peephole=output_peephole, hard_sigmoid_slope=slope)


def test_backward_by_hand_of_any_strides() -> None:
    """Neither arguments nor incoming gradients need to be contiguous."""
    check_backward(drawn(), layout=strewn)
    check_backward(drawn(GEOMETRIES["stride"]), layout=strewn, padding=1, stride=2)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("c_0", ["single", "half"])
def test_backward_by_hand_of_half_types(dtype: torch.dtype, c_0: str) -> None:
    """Gradients have the dtypes of the arguments, and at most twice the error of autograd's."""
    rounded = cast(cast(drawn(), dtype), torch.float64)
    halves = cast(rounded, dtype, c_0=torch.float32 if c_0 == "single" else None)
    results = run(halves)
    incoming = incoming_for(results)
    usual = torch.autograd.grad(results, tuple(halves.values()), incoming)
    exact = torch.autograd.grad(
        run(rounded), tuple(rounded.values()), [grad.double() for grad in incoming]
    )
    found = reference_backward.conv_lstm_backward(*incoming, *positional(halves))
    for name, one, plain, other in zip(NAMES, found, usual, exact, strict=True):
        assert one.dtype == halves[name].dtype, name
        assert (one.double() - other).norm() <= 2 * (plain.double() - other).norm(), name


@every_peephole
@every_output_peephole
@pytest.mark.parametrize(
    "check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck], ids=["first", "second"]
)
def test_derivatives_are_those_of_finite_differences(
    peephole: str | None, output_peephole: str, check
) -> None:
    """First and second derivative of every argument, numerically."""
    small = (2, 2)
    arguments = drawn(Geometry((1, 2), (0, 0), small), peephole, recurrent_kernel=(1, 3))
    arguments["x"] = arguments["x"][:2, :1, :, :2, :2]
    arguments["h_0"], arguments["c_0"] = arguments["h_0"][:1], arguments["c_0"][:1]
    leaves = cast(arguments, torch.float64)
    names = [name for name, value in leaves.items() if value is not None]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        return run({**leaves, **dict(zip(names, values, strict=True))}, **options)

    options = {"output_peephole": output_peephole}
    assert check(function, tuple(leaves[name] for name in names))

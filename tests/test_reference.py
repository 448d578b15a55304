"""The reference, which is the oracle of everything, against loops and torch.nn.LSTM."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memx_fast import reference
from memx_fast.geometry import Sizes
from tests.reference_cases import (
    BATCH,
    GEOMETRIES,
    HALF_TYPES,
    HIDDEN,
    NAMES,
    SAME,
    STEPS,
    Arguments,
    Geometry,
    assert_close,
    cast,
    drawn,
    every_geometry,
    every_output_peephole,
    every_peephole,
    incoming_for,
    run,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def weighted_sum(
    image: list, weight: list, pixel: Sizes, before: Sizes, stride: Sizes, dilation: Sizes
) -> float:
    """One output of a zero-padded convolution, over lists (channels, rows, columns)."""
    total = 0.0
    for plane, kernel in zip(image, weight, strict=True):
        for row, column in itertools.product(range(len(kernel)), range(len(kernel[0]))):
            y = pixel[0] * stride[0] + row * dilation[0] - before[0]
            x = pixel[1] * stride[1] + column * dilation[1] - before[1]
            if 0 <= y < len(plane) and 0 <= x < len(plane[0]):
                total += kernel[row][column] * plane[y][x]
    return total


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def by_hand(
    arguments: Arguments,
    geometry: Geometry,
    output_peephole: str,
    sigmoid: Callable[[float], float] = logistic,
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations (1)-(5) on Python numbers, pixel after pixel."""

    def pair(value: int | Sizes) -> Sizes:
        return (value, value) if isinstance(value, int) else value

    stride, dilation = pair(geometry.stride), pair(geometry.dilation)
    x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0 = (
        None if arguments[name] is None else arguments[name].tolist() for name in NAMES
    )
    state = (BATCH, HIDDEN, *geometry.size)
    hidden = torch.zeros(state, dtype=torch.float64).tolist() if h_0 is None else h_0
    cell = torch.zeros(state, dtype=torch.float64).tolist() if c_0 is None else c_0
    same = (len(weight_hh[0][0]) // 2, len(weight_hh[0][0][0]) // 2)
    rows, columns = geometry.size
    output = []
    for frames in x:
        next_hidden = torch.empty(state, dtype=torch.float64)
        next_cell = torch.empty(state, dtype=torch.float64)
        for b, c, y, u in itertools.product(
            range(BATCH), range(HIDDEN), range(rows), range(columns)
        ):
            z = []
            for gate in range(4):
                line = gate * HIDDEN + c
                z_gate = 0.0 if bias is None else bias[line]
                if weight_ih is None:
                    z_gate += frames[b][line][y][u]
                else:
                    z_gate += weighted_sum(
                        frames[b], weight_ih[line], (y, u), geometry.before, stride, dilation
                    )
                z_gate += weighted_sum(hidden[b], weight_hh[line], (y, u), same, (1, 1), (1, 1))
                z.append(z_gate)
            peepholes = [0.0, 0.0, 0.0]
            if weight_ch is not None:
                peepholes = [
                    weight_ch[gate][c][y][u]
                    if isinstance(weight_ch[gate][c], list)
                    else weight_ch[gate][c]
                    for gate in range(3)
                ]
            before = cell[b][c][y][u]
            i = sigmoid(z[0] + peepholes[0] * before)
            f = sigmoid(z[1] + peepholes[1] * before)
            after = f * before + i * math.tanh(z[2])
            seen = {"previous": before, "current": after}[output_peephole]
            next_cell[b, c, y, u] = after
            next_hidden[b, c, y, u] = sigmoid(z[3] + peepholes[2] * seen) * math.tanh(after)
        hidden, cell = next_hidden.tolist(), next_cell.tolist()
        output.append(next_hidden)
    return torch.stack(output), next_hidden, next_cell


def test_hard_sigmoid_agrees_with_loops() -> None:
    """A ramp of the given slope, clamped to 0 and 1, in all three gates."""
    arguments = drawn(SAME, recurrent_kernel=(3, 5))
    expected = by_hand(arguments, SAME, "current", lambda z: min(max(0.4 * z + 0.5, 0.0), 1.0))
    found = run(arguments, output_peephole="current", hard_sigmoid_slope=0.4)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@every_geometry
def test_input_geometry_agrees_with_loops(geometry: Geometry) -> None:
    """Padding, stride, dilation and ready-made gates mean what the loops over pixels do."""
    arguments = drawn(geometry)
    expected = by_hand(arguments, geometry, "previous")
    found = run(arguments, **geometry.options())
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@every_peephole
@every_output_peephole
@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equations_agree_with_loops(
    peephole: str | None, output_peephole: str, states: bool, bias: bool
) -> None:
    """Equations (1)-(5) for every kind of peephole, with and without states and bias."""
    arguments = drawn(SAME, peephole, states, bias, recurrent_kernel=(3, 5))
    expected = by_hand(arguments, SAME, output_peephole)
    found = run(arguments, output_peephole=output_peephole)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_lstm_on_images_of_one_pixel() -> None:
    """Without peepholes a 1x1 image is a vector and the layer torch.nn.LSTM, gradients included."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    h_0, c_0 = torch.randn(2, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    expected, (h_n, c_n) = lstm(x, (h_0, c_0))
    output, state = reference.conv_lstm(
        x[..., None, None],
        lstm.weight_ih_l0[..., None, None],
        lstm.weight_hh_l0[..., None, None],
        lstm.bias_ih_l0 + lstm.bias_hh_l0,
        None,
        (h_0[0, ..., None, None], c_0[0, ..., None, None]),
    )
    found = (output[..., 0, 0], state[0][None, ..., 0, 0], state[1][None, ..., 0, 0])
    leaves = (x, h_0, c_0, *lstm.parameters())
    incoming = incoming_for((expected, h_n, c_n))
    grads = torch.autograd.grad(found, leaves, incoming)
    exact = torch.autograd.grad((expected, h_n, c_n), leaves, incoming)
    for one, other in zip((*found, *grads), (expected, h_n, c_n, *exact), strict=True):
        assert_close(one, other)


def test_masked_hidden_state() -> None:
    """What is masked is H_{t-1} before its convolution, at every step, and nothing else."""
    arguments = drawn()
    mask = drawn(seed=1)["h_0"]
    output, h_n, c_n = run(arguments, hidden_mask=mask)
    state = {"h_0": arguments["h_0"], "c_0": arguments["c_0"]}
    for t in range(STEPS):
        step = {**arguments, **state, "x": arguments["x"][t : t + 1]}
        step["h_0"] = step["h_0"] * mask
        expected, *state = run(step)
        state = dict(zip(("h_0", "c_0"), state, strict=True))
        assert_close(output[t], expected[0])
    assert_close(h_n, state["h_0"])
    assert_close(c_n, state["c_0"])


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@every_output_peephole
def test_gate_arithmetic_of_half_types_is_single(dtype: torch.dtype, output_peephole: str) -> None:
    """With no recurrent weight only storage is of a half type: the cells are those of float32."""
    arguments = drawn(GEOMETRIES["ready_made_gates"], bias=False)
    arguments["weight_hh"] = torch.zeros_like(arguments["weight_hh"])
    halves = cast(arguments, dtype, c_0=torch.float32)
    output, h_n, c_n = run(halves, output_peephole=output_peephole)
    expected = run(cast(halves, torch.float32), output_peephole=output_peephole)
    assert (output.dtype, h_n.dtype, c_n.dtype) == (dtype, dtype, torch.float32)
    assert torch.equal(c_n, expected[2])
    assert torch.equal(output, expected[0].to(dtype))
    assert torch.equal(h_n, output[-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF_TYPES], ids=str)
def test_sequence_cut_in_two(dtype: torch.dtype) -> None:
    """With the state carried over, two pieces give the bits of the whole sequence."""
    arguments = drawn(GEOMETRIES["ready_made_gates"])
    whole = cast(arguments, dtype, c_0=torch.promote_types(dtype, torch.float32))
    output, h_n, c_n = run(whole)
    first = run({**whole, "x": whole["x"][:1]})
    second = run({**whole, "x": whole["x"][1:], "h_0": first[1], "c_0": first[2]})
    assert torch.equal(torch.cat([first[0], second[0]]), output)
    assert torch.equal(second[1], h_n)
    assert torch.equal(second[2], c_n)


def test_autocast() -> None:
    """The bits of a call with half-type arguments; c_n stays float32, float64 is left alone."""
    single = cast(drawn(), torch.float32)
    expected = run(cast(single, torch.bfloat16, c_0=torch.float32))
    double = run(drawn())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(single)
        untouched = run(drawn())
    assert [result.dtype for result in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for one, other in zip((*found, *untouched), (*expected, *double), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype

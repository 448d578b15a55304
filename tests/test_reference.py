"""The reference, which is the oracle of everything, against loops, autograd and torch.nn.LSTM."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memx_fast import reference, reference_backward
from memx_fast.geometry import InputConvolution, Padding, Sizes

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")
HALF_TYPES = (torch.bfloat16, torch.float16)
STEPS, BATCH, INPUT_CHANNELS, HIDDEN = 3, 2, 2, 2
FRAME = (5, 4)

Arguments = dict[str, Tensor | None]


@dataclass(frozen=True)
class Geometry:
    """An input convolution over FRAME, with what it has to come to; no kernel: ready-made gates."""

    kernel: Sizes | None
    before: Sizes  # zeros above and left of the frame
    size: Sizes  # of the states
    padding: Padding = "same"
    stride: int | Sizes = 1
    dilation: int | Sizes = 1

    def options(self) -> dict[str, Padding]:
        return {"padding": self.padding, "stride": self.stride, "dilation": self.dilation}


GEOMETRIES = {
    "same_odd": Geometry((3, 5), (1, 2), (5, 4)),
    "same_even": Geometry((2, 4), (0, 1), (5, 4)),
    "same_dilated": Geometry((3, 2), (2, 1), (5, 4), dilation=2),
    "same_dilated_pair": Geometry((2, 2), (1, 0), (5, 4), dilation=(3, 1)),
    "valid": Geometry((3, 2), (0, 0), (3, 3), "valid"),
    "number": Geometry((3, 2), (1, 1), (5, 5), 1),
    "pair": Geometry((3, 3), (2, 0), (7, 2), (2, 0)),
    "more_than_kernel": Geometry((1, 2), (2, 2), (9, 7), 2),
    "stride": Geometry((3, 3), (1, 1), (3, 2), 1, stride=2),
    "stride_pair": Geometry((2, 1), (0, 0), (4, 2), "valid", stride=(1, 3)),
    "dilation": Geometry((2, 2), (0, 0), (3, 2), "valid", dilation=2),
    "stride_and_dilation": Geometry((3, 2), (1, 2), (3, 3), (1, 2), stride=2, dilation=(1, 2)),
    "ready_made_gates": Geometry(None, (0, 0), (5, 4)),
}
SAME = GEOMETRIES["same_odd"]

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
every_peephole = pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
every_output_peephole = pytest.mark.parametrize("output_peephole", ["previous", "current"])


def drawn(
    geometry: Geometry = SAME,
    peephole: str | None = "spatial",
    states: bool = True,
    bias: bool = True,
    recurrent_kernel: Sizes = (3, 1),
    seed: int = 0,
) -> Arguments:
    """Float64 arguments of a tiny layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.6 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    gates, state = 4 * HIDDEN, (BATCH, HIDDEN, *geometry.size)
    kernel = geometry.kernel
    peephole_size = {None: None, "channel": (), "spatial": geometry.size}[peephole]
    return {
        "x": draw(STEPS, BATCH, INPUT_CHANNELS if kernel else gates, *FRAME),
        "weight_ih": draw(gates, INPUT_CHANNELS, *kernel) if kernel else None,
        "weight_hh": draw(gates, HIDDEN, *recurrent_kernel),
        "bias": draw(gates) if bias else None,
        "weight_ch": None if peephole_size is None else draw(3, HIDDEN, *peephole_size),
        "h_0": draw(*state) if states else None,
        "c_0": draw(*state) if states else None,
    }


def cast(arguments: Arguments, dtype: torch.dtype, c_0: torch.dtype | None = None) -> Arguments:
    """Leaves of another dtype that need gradients."""
    return {
        name: None
        if value is None
        else value.detach().to(c_0 if name == "c_0" and c_0 else dtype).requires_grad_()
        for name, value in arguments.items()
    }


def positional(arguments: Arguments) -> tuple:
    """The arguments as the reference takes them: the states as a pair."""
    *others, h_0, c_0 = (arguments[name] for name in NAMES)
    return (*others, None if h_0 is None else (h_0, c_0))


def run(arguments: Arguments, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    output, (h_n, c_n) = reference.conv_lstm(*positional(arguments), **options)
    return output, h_n, c_n


def incoming_for(results: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of the results, of their dtypes."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(result.shape, dtype=torch.float64, generator=generator).to(result.dtype)
        for result in results
    ]


def strewn(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order, with NaN between the elements."""
    order = tuple(reversed(range(tensor.dim())))
    mirrored = tensor.permute(order)
    return torch.stack([mirrored, torch.full_like(mirrored, torch.nan)], -1)[..., 0].permute(order)


def assert_close(found: Tensor, exact: Tensor, name: str = "") -> None:
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10, msg=name or None)


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
    check_backward(arguments, hidden_mask=mask)


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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_same_is_that_of_conv2d() -> None:
    """Even kernels too: the odd row or column of zeros lies below and right."""
    torch.manual_seed(0)
    for kernel, dilation in itertools.product(((3, 5), (2, 4), (4, 3)), (1, 2, (3, 1))):
        x = torch.randn(2, 1, 2, 7, 6, dtype=torch.float64)
        weight = torch.randn(4, 2, *kernel, dtype=torch.float64)
        convolution = InputConvolution.of(kernel, "same", dilation=dilation)
        expected = F.conv2d(x.flatten(0, 1), weight, padding="same", dilation=dilation)
        found = reference.input_gates(x, weight, None, convolution)
        assert_close(found.flatten(0, 1), expected)


def test_sizes_are_those_of_conv2d() -> None:
    """output_size is the size conv2d gives, and an error where conv2d has one."""
    kernels = ((1, 1), (2, 3), (3, 2), (4, 1))
    paddings = ("same", "valid", 0, 1, (0, 2), (3, 1))
    strides, dilations = (1, 2, (1, 3)), (1, (2, 1), 3)
    frames = ((7, 5), (2, 9), (1, 1))
    refused = 0
    for kernel, padding, stride, dilation in itertools.product(
        kernels, paddings, strides, dilations
    ):
        if padding == "same" and stride != 1:
            continue
        convolution = InputConvolution.of(kernel, padding, stride, dilation)
        weight = torch.zeros(1, 1, *kernel)
        for frame in frames:
            try:
                expected = F.conv2d(
                    torch.zeros(1, 1, *frame), weight, None, stride, padding, dilation
                ).shape[2:]
            except RuntimeError:
                refused += 1
                with pytest.raises(ValueError, match=f"x: got frames of {frame[0]} x {frame[1]} "):
                    convolution.output_size(*frame)
            else:
                assert convolution.output_size(*frame) == expected
    assert refused > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding": "full"}, ValueError, 'padding: got \'full\', expected "same", "valid" or'),
        ({"padding": "same", "stride": 2}, ValueError, r'padding: got "same" with stride \(2, 2\)'),
        ({"padding": -1}, ValueError, "padding: got -1, expected at least 0"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding: got \(1, 2, 3\), expected one whole"),
        ({"padding": 1.5}, TypeError, "padding: got 1.5, expected a whole number"),
        ({"padding": (1, 2.0)}, TypeError, "padding: got 2.0, expected a whole number"),
        ({"padding": True}, TypeError, "padding: got True, expected a whole number"),
        ({"padding": None}, TypeError, "padding: got None, expected a whole number"),
        ({"stride": 0}, ValueError, "stride: got 0, expected at least 1"),
        ({"stride": "2"}, TypeError, "stride: got '2', expected a whole number"),
        ({"stride": (1,)}, ValueError, r"stride: got \(1,\), expected one whole number or two"),
        ({"dilation": (1, 0)}, ValueError, "dilation: got 0, expected at least 1"),
        ({"dilation": 2.0}, TypeError, "dilation: got 2.0, expected a whole number"),
    ],
    ids=str,
)
def test_geometry_refuses(options: dict, error: type[Exception], message: str) -> None:
    """The message names the argument, what came and what was expected."""
    with pytest.raises(error, match=message):
        InputConvolution.of((3, 3), **{"padding": "valid", **options})

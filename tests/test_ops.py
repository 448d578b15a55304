"""The fused operator against the float64 reference: forward and every gradient."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from memx_fast import _C, ops, reference

NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One problem. ``input_channels`` 0 means ready-made input gates."""

    steps: int
    batch: int
    input_channels: int
    hidden: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    input_kernel: tuple[int, int] = (3, 3)
    padding: tuple[int, int] | None = None  # of the input convolution; None keeps the size
    peephole: str | None = None
    output_peephole: str = "previous"
    states: bool = True
    bias: bool = True

    def arguments(self, seed: int = 0) -> dict[str, Tensor | None]:
        """Float64 arguments at the scale of a freshly initialised network."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

        gates, image = 4 * self.hidden, (self.height, self.width)
        fan_in = self.input_channels * self.input_kernel[0] * self.input_kernel[1]
        fan_hidden = self.hidden * self.kernel[0] * self.kernel[1]
        peephole = {None: None, "channel": (), "spatial": image}[self.peephole]
        return {
            "x": draw(self.steps, self.batch, self.input_channels or gates, *self.frame()),
            "weight_ih": draw(gates, self.input_channels, *self.input_kernel, scale=fan_in**-0.5)
            if self.input_channels
            else None,
            "weight_hh": draw(gates, self.hidden, *self.kernel, scale=fan_hidden**-0.5),
            "bias": draw(gates, scale=0.5) if self.bias else None,
            "weight_ch": None if peephole is None else draw(3, self.hidden, *peephole, scale=0.3),
            "h_0": draw(self.batch, self.hidden, *image, scale=0.5) if self.states else None,
            "c_0": draw(self.batch, self.hidden, *image, scale=0.5) if self.states else None,
        }

    def frame(self) -> tuple[int, int]:
        """The size of x for states of height x width."""
        if not self.input_channels or self.padding is None:
            return self.height, self.width
        return (
            self.height - 2 * self.padding[0] + self.input_kernel[0] - 1,
            self.width - 2 * self.padding[1] + self.input_kernel[1] - 1,
        )

    def incoming(self, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of output, h_n and c_n."""
        generator = torch.Generator().manual_seed(seed)
        state = (self.batch, self.hidden, self.height, self.width)
        return tuple(
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((self.steps, *state), state, state)
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
)
VARIANTS = tuple(
    itertools.product((None, "channel", "spatial"), ("previous", "current"), (True, False))
)
CASES = tuple(
    Case(
        **{
            **shape.__dict__,
            "peephole": peephole,
            "output_peephole": output_peephole,
            "states": states,
        }
    )
    for shape in SHAPES
    for peephole, output_peephole, states in VARIANTS
)


@pytest.fixture(params=_C.build_info()["instruction_sets"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this processor runs, in turn."""
    usual = _C.instruction_set()
    _C.select_instruction_set(request.param)
    yield request.param
    _C.select_instruction_set(usual)


def fused(case: Case, arguments: dict[str, Tensor | None], recompute: float = 0.0):
    return ops.fused_conv_lstm(
        *(arguments[name] for name in NAMES),
        padding=case.padding,
        output_peephole=case.output_peephole,
        recompute=recompute,
    )


def plain(case: Case, arguments: dict[str, Tensor | None]):
    """Equations (1)-(5) in plain PyTorch, everything in the dtype of the arguments."""
    x, weight_ih, weight_hh, bias, weight_ch, hidden, cell = (arguments[name] for name in NAMES)
    if weight_ih is not None:
        padding = case.padding or tuple(size // 2 for size in weight_ih.shape[2:])
        gates_x = torch.nn.functional.conv2d(x.flatten(0, 1), weight_ih, bias, padding=padding)
        gates_x = gates_x.unflatten(0, x.shape[:2])
    else:
        gates_x = x if bias is None else x + bias[:, None, None]
    state = (x.shape[1], weight_hh.shape[1], *gates_x.shape[3:])
    hidden = x.new_zeros(state) if hidden is None else hidden
    cell = x.new_zeros(state) if cell is None else cell
    peepholes = (0.0, 0.0, 0.0) if weight_ch is None else weight_ch.unbind()
    if weight_ch is not None and weight_ch.dim() == 2:
        peepholes = tuple(peephole[:, None, None] for peephole in peepholes)
    same = [size // 2 for size in weight_hh.shape[2:]]
    output = []
    for gates_t in gates_x:
        z = gates_t + torch.nn.functional.conv2d(hidden, weight_hh, padding=same)
        z_i, z_f, z_g, z_o = z.chunk(4, 1)
        previous = cell
        i = torch.sigmoid(z_i + peepholes[0] * previous)
        f = torch.sigmoid(z_f + peepholes[1] * previous)
        cell = f * previous + i * torch.tanh(z_g)
        seen = cell if case.output_peephole == "current" else previous
        hidden = torch.sigmoid(z_o + peepholes[2] * seen) * torch.tanh(cell)
        output.append(hidden)
    return torch.stack(output), hidden, cell


def cast(arguments: dict[str, Tensor | None], dtype: torch.dtype, c_0: torch.dtype | None = None):
    """Leaves of another dtype that need gradients."""
    return {
        name: None
        if value is None
        else value.to(c_0 if name == "c_0" and c_0 else dtype).requires_grad_()
        for name, value in arguments.items()
    }


def results_and_gradients(function, case: Case, arguments, incoming) -> dict[str, Tensor]:
    """Everything a call gives: the three results and the gradient of every argument."""
    results = function(case, arguments)
    leaves = {name: value for name, value in arguments.items() if value is not None}
    grads = torch.autograd.grad(
        results,
        tuple(leaves.values()),
        [grad.to(result.dtype) for grad, result in zip(incoming, results, strict=True)],
    )
    found = dict(zip(("output", "h_n", "c_n"), results, strict=True))
    found |= {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach() for name, value in found.items()}


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((found.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("case", CASES, ids=str)
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
)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES], ids=str)
@pytest.mark.parametrize("case", ACCURACY_CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    case: Case, dtype: torch.dtype, instruction_set: str
) -> None:
    """In every other dtype: twice the error plain PyTorch makes in it, and never above its epsilon.

    The second bound is only for tensors that PyTorch happens to get right to the last bit.
    """
    rounded = {
        name: None if value is None else value.to(dtype).double()
        for name, value in case.arguments().items()
    }
    incoming = [grad.to(dtype).double() for grad in case.incoming()]
    exact = results_and_gradients(plain, case, cast(rounded, torch.float64), incoming)
    usual = results_and_gradients(plain, case, cast(rounded, dtype), incoming)
    arguments = cast(rounded, dtype, c_0=torch.float32)
    found = results_and_gradients(fused, case, arguments, incoming)
    for name, value in exact.items():
        allowed = max(2 * distance(usual[name], value), torch.finfo(dtype).eps)
        assert distance(found[name], value) <= allowed, name


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


def sliced(tensor: Tensor) -> Tensor:
    """Every other element of a twice as wide NaN-filled tensor."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


def batch_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def mirrored_storage(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order."""
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


@pytest.mark.parametrize("layout", [sliced, channels_last, batch_first, mirrored_storage])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides_in(layout, dtype: torch.dtype) -> None:
    """Inputs, states and incoming gradients of any layout give bitwise the dense ones' results."""
    case = Case(3, 2, 3, 9, 8, 7, peephole="spatial")
    dense = cast(case.arguments(), dtype, c_0=torch.float32)
    exact = results_and_gradients(fused, case, dense, case.incoming())
    strided = {
        name: layout(value.detach()).requires_grad_()
        if name in ("x", "h_0", "c_0", "weight_ch", "weight_hh", "weight_ih")
        else value
        for name, value in dense.items()
    }
    results = fused(case, strided)
    incoming = [
        layout(grad.to(result.dtype)) for grad, result in zip(case.incoming(), results, strict=True)
    ]
    grads = torch.autograd.grad(results, tuple(strided.values()), incoming)
    for found, (name, value) in zip((*results, *grads), exact.items(), strict=True):
        assert torch.equal(found, value), name


def test_expanded_gradients() -> None:
    """The gradient of a sum has zero strides everywhere; it is read as it is."""
    case = Case(3, 2, 3, 9, 8, 7)
    arguments = cast(case.arguments(), torch.float32)
    leaves = [value for value in arguments.values() if value is not None]
    output, h_n, c_n = fused(case, arguments)
    loss = output.sum() + 2 * h_n.sum() + 3 * c_n.sum()
    found = torch.autograd.grad(loss, leaves)
    dense = [
        torch.full_like(result, weight)
        for result, weight in zip((output, h_n, c_n), (1, 2, 3), strict=True)
    ]
    expected = torch.autograd.grad(fused(case, arguments), leaves, dense)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


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
    case = Case(4, 2, 3, 9, 8, 7, peephole="spatial", output_peephole=output_peephole)
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


def test_what_is_saved() -> None:
    """Cells and the gates of the last steps, as many as asked for."""
    case = Case(3, 2, 3, 5, 4, 6)
    x, *others = (case.arguments()[name] for name in NAMES)
    for cells, gates in ((False, 0), (True, 0), (True, 1), (True, 3)):
        saved = torch.ops.memx_fast.conv_lstm(x, *others, (1, 1), False, cells, gates)[3:]
        assert saved[0].shape == ((3, 2, 4, 6, 5) if cells else (0,))
        assert saved[1].shape == (gates, 2, 4, 6, 4, 5)
    for gates in (-1, 4):
        with pytest.raises(RuntimeError, match=f"saved_gates is {gates}, expected 0 to 3 steps"):
            torch.ops.memx_fast.conv_lstm(x, *others, (1, 1), False, True, gates)


def test_second_backward_over_one_graph() -> None:
    """Saved tensors are never overwritten: a second backward gives the same bits."""
    case = Case(3, 2, 3, 9, 8, 7, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    leaves = [value for value in arguments.values() if value is not None]
    results = fused(case, arguments)
    incoming = [grad.to(torch.float32) for grad in case.incoming()]
    first = torch.autograd.grad(results, leaves, incoming, retain_graph=True)
    second = torch.autograd.grad(results, leaves, incoming)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_bits_do_not_depend_on_the_thread_count() -> None:
    """The same bits with one, two and five threads, and from run to run."""
    case = Case(3, 3, 9, 16, 37, 41, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    usual = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 5, 5):
            torch.set_num_threads(threads)
            runs.append(results_and_gradients(fused, case, arguments, case.incoming()))
    finally:
        torch.set_num_threads(usual)
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(run[name], value), name


def test_no_double_backward() -> None:
    """A second derivative is refused with the remedy, never silently zero."""
    case = Case(2, 1, 2, 3, 4, 4)
    arguments = cast(case.arguments(), torch.float64)
    output, _, _ = fused(case, arguments)
    (grad,) = torch.autograd.grad(output.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ready_made", [False, True])
def test_opcheck(dtype: torch.dtype, ready_made: bool) -> None:
    """Schema, fake kernels with exact strides, autograd registration, AOT dispatch: all clean."""
    case = Case(
        3,
        2,
        0 if ready_made else 3,
        4,
        5,
        6,
        padding=None if ready_made else (1, 0),
        peephole="channel",
    )
    arguments = cast(case.arguments(), dtype, c_0=torch.float32)
    padding = (0, 0) if ready_made else (1, 0)
    inputs = (*(arguments[name] for name in NAMES), padding, False, True, 2)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.memx_fast.conv_lstm, inputs, test_utils=tests)
    plain_inputs = tuple(v.detach() if isinstance(v, Tensor) else v for v in inputs)
    _, _, _, cells, gates = (results := torch.ops.memx_fast.conv_lstm(*plain_inputs))
    backward = (
        *(torch.randn(r.shape).to(r.dtype) for r in results[:3]),
        *plain_inputs[:7],
        results[0],
        cells,
        gates,
        padding,
        False,
        [True, not ready_made, True, True, True, True, True],
    )
    torch.library.opcheck(torch.ops.memx_fast.conv_lstm_backward, backward, test_utils=tests[::2])


def test_opcheck_dynamic() -> None:
    """Ahead-of-time dispatch with symbolic shapes, forward and backward."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="spatial", output_peephole="current")
    arguments = cast(case.arguments(), torch.float64)
    inputs = (*(arguments[name] for name in NAMES), (1, 1), True, True, 2)
    torch.library.opcheck(
        torch.ops.memx_fast.conv_lstm, inputs, test_utils="test_aot_dispatch_dynamic"
    )


def test_compile() -> None:
    """torch.compile(fullgraph=True) traces through, forward and backward, bit for bit."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    exact = results_and_gradients(fused, case, arguments, case.incoming())
    found = results_and_gradients(compiled, case, arguments, case.incoming())
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


def test_autocast() -> None:
    """Under autocast the arguments are cast, c_0 is not, and gradients come back in their dtype."""
    case = Case(3, 2, 3, 8, 6, 7, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results_and_gradients(fused, case, arguments, case.incoming())
    halves = cast(case.arguments(), torch.bfloat16, c_0=torch.float32)
    exact = results_and_gradients(fused, case, halves, case.incoming())
    assert found["output"].dtype == torch.bfloat16
    assert found["c_n"].dtype == torch.float32
    for name, value in exact.items():
        assert torch.equal(found[name].to(value.dtype), value), name
        if name.startswith("grad"):
            assert found[name].dtype == torch.float32, name


def test_nan_reaches_what_it_should() -> None:
    """A NaN pixel makes its neighbourhood NaN and nothing else."""
    case = Case(1, 1, 2, 3, 7, 9, states=False)
    arguments = {
        name: None if value is None else value.float() for name, value in case.arguments().items()
    }
    arguments["x"][0, 0, 1, 3, 4] = torch.nan
    output, _, _ = fused(case, arguments)
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(output.isnan()[0, 0].all(0), expected)
    assert torch.equal(output.isnan()[0, 0].any(0), expected)


def single_gate_step(gates: Tensor, c_0: Tensor | None = None, **grads: Tensor):
    """One step over 1x1 images whose four pre-activations are given: (pixels, 4)."""
    x = gates.reshape(1, -1, 4, 1, 1)
    weight = torch.zeros(4, 1, 1, 1, dtype=gates.dtype)
    return torch.ops.memx_fast.conv_lstm(
        x, None, weight, None, None, None, c_0, (0, 0), False, True, 1
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 2, 0, 4)}, "x has shape"),
        ({"weight_ih": torch.zeros(12, 5, 3, 3)}, "weight_ih has shape"),
        ({"weight_ih": torch.zeros(12, 2, 3)}, "weight_ih has shape"),
        ({"weight_ih": torch.zeros(12, 2, 1, 3)}, "padding is"),
        ({"weight_ih": torch.zeros(12, 2, 9, 3)}, "too small for weight_ih"),
        ({"weight_hh": torch.zeros(12, 4, 3, 3)}, "weight_hh has shape"),
        ({"weight_hh": torch.zeros(12, 3, 3, 3, dtype=torch.float64)}, "weight_hh has dtype"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"weight_ch": torch.zeros(3, 4)}, "weight_ch has shape"),
        ({"weight_ch": torch.zeros(3, 3, 4, 5)}, "weight_ch has shape"),
        ({"h_0": torch.zeros(1, 3, 4, 5)}, "h_0 has shape"),
        ({"c_0": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}, "c_0 has dtype"),
        ({"weight_hh": torch.zeros(0, 0, 3, 3)}, "weight_hh has shape"),
        ({"x": torch.zeros(2, 0, 2, 4, 4)}, "x has shape"),
        ({"padding": (1,)}, "padding has 1 number"),
    ],
)
def test_operator_refuses_what_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    """The operator itself never reads out of bounds: shapes and dtypes are checked in C++ too."""
    arguments = {
        "x": torch.zeros(2, 1, 2, 4, 4),
        "weight_ih": torch.zeros(12, 2, 3, 3),
        "weight_hh": torch.zeros(12, 3, 3, 3),
        **dict.fromkeys(NAMES[3:]),
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.memx_fast.conv_lstm(
            *({**arguments, **change}[name] for name in NAMES),
            change.get("padding", (1, 1)),
            False,
            False,
            0,
        )


def test_results_may_be_changed_in_place() -> None:
    """To autograd they are no views of one another; what is saved is guarded as everywhere."""
    case = Case(2, 1, 2, 3, 4, 4)
    arguments = cast(case.arguments(), torch.float64)
    expected = fused(case, arguments)
    output, h_n, c_n = fused(case, arguments)
    h_n.mul_(2)
    c_n.add_(1)
    assert torch.equal(h_n, 2 * expected[1])
    (found,) = torch.autograd.grad((h_n * c_n).sum(), arguments["x"], retain_graph=True)
    loss = (2 * expected[1] * (expected[2] + 1)).sum()
    assert torch.equal(found, torch.autograd.grad(loss, arguments["x"])[0])
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def backward_arguments() -> dict[str, object]:
    """What the backward operator gets for a tiny layer."""
    x, weight_ih, weight_hh = (
        torch.ones(2, 1, 3, 5, 5),
        torch.ones(8, 3, 3, 3),
        torch.ones(8, 2, 3, 3),
    )
    results = torch.ops.memx_fast.conv_lstm(
        x, weight_ih, weight_hh, None, None, None, None, (1, 1), False, True, 1
    )
    output, h_n, c_n, cells, gates = results
    return {
        **{"grad_output": torch.ones_like(output), "grad_h_n": h_n, "grad_c_n": c_n},
        **{"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh},
        **dict.fromkeys(("bias", "weight_ch", "h_0", "c_0")),
        **{"output": output, "cells": cells, "gates": gates, "padding": (1, 1)},
        **{"output_sees_current": False, "needs": [True] * 7},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_output": torch.ones(2, 1, 1, 5, 5)}, "grad_output has shape"),
        ({"grad_output": torch.ones(2, 1, 2, 5, 5).double()}, "grad_output has dtype"),
        ({"grad_h_n": torch.ones(1, 2, 5, 4)}, "grad_h_n has shape"),
        ({"grad_c_n": torch.ones(1, 2, 5, 5).double()}, "grad_c_n has dtype"),
        ({"output": torch.ones(1, 1, 1, 1, 1)}, "output has shape"),
        ({"cells": torch.ones(1, 1, 1, 1, 1)}, "cells has shape"),
        ({"cells": torch.ones(2, 1, 5, 2, 5).mT}, "cells and gates must be"),
        ({"gates": torch.ones(9, 1, 1, 1, 1, 1)}, "gates has shape"),
        ({"gates": torch.ones(3, 1, 5, 5, 4, 2)}, "gates has shape"),
        ({"gates": torch.ones(1)}, "gates has shape"),
        ({"padding": (1, 1, 7)}, "padding has 3 numbers"),
    ],
)
def test_backward_operator_refuses_what_does_not_fit(
    change: dict[str, object], message: str
) -> None:
    """Nor does the backward operator read out of bounds."""
    with pytest.raises(RuntimeError, match=message):
        torch.ops.memx_fast.conv_lstm_backward(*{**backward_arguments(), **change}.values())


def test_gradients_of_absent_arguments_are_empty() -> None:
    """Whoever asks for them gets what the fake kernel says: nothing."""
    found = torch.ops.memx_fast.conv_lstm_backward(*backward_arguments().values())
    assert [gradient.numel() > 0 for gradient in found] == [True] * 3 + [False] * 2 + [True] * 2


def test_inference_sees_every_change_of_the_weights() -> None:
    """Packed weights are kept between calls, and never used for others than they were made from."""
    case = Case(1, 1, 8, 16, 5, 5)
    arguments = {
        name: None if value is None else value.float() for name, value in case.arguments().items()
    }

    def changes() -> Iterator[None]:
        weight = arguments["weight_hh"]
        yield
        weight[0, 0, 0, 0] += 1
        yield
        weight.data.mul_(0.5)
        yield
        arguments["weight_hh"] = weight.clone()
        yield
        arguments["weight_hh"] = weight.flip(0).transpose(2, 3)
        yield
        arguments["weight_ih"] = arguments["weight_ih"].double().add(1e-3).float()
        yield
        _C.tune(winograd=False)
        yield
        _C.tune()
        for name in NAMES:
            arguments[name] = arguments[name] if name == "c_0" else halved(arguments[name])
        yield

    def halved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.bfloat16()

    try:
        for _ in changes():
            kept = _C.kept_weights()["hits"]
            first, again = (fused(case, arguments)[0] for _ in range(2))
            assert _C.kept_weights()["hits"] >= kept + 1
            assert torch.equal(first, again)
            copies = {
                name: None if value is None else value.clone() for name, value in arguments.items()
            }
            trained, _, _ = fused(case, cast(copies, first.dtype, c_0=torch.float32))
            assert torch.equal(first, trained)
    finally:
        _C.tune()


def test_kept_weights_are_bounded() -> None:
    """However many models a process runs, 64 MiB are the most that stays."""
    x = torch.zeros(1, 1, 1, 1, 1)
    for number in range(80):
        weight = torch.full((256, 64, 3, 3), float(number))
        fused_arguments = (x, torch.zeros(256, 1, 1, 1), weight, None, None, None, None)
        torch.ops.memx_fast.conv_lstm(*fused_arguments, (0, 0), False, False, 0)
    kept = _C.kept_weights()
    assert 1 < kept["entries"] < 80
    assert kept["bytes"] <= 64 << 20


def test_unknown_instruction_set() -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(ValueError, match="got 'sse9', this processor runs baseline"):
        _C.select_instruction_set("sse9")

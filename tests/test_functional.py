"""conv_lstm as users call it: the engines agree, and wrong arguments are refused by name."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from memx_fast import functional
from memx_fast.geometry import InputConvolution, Padding, Sizes

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")
STEPS, BATCH, INPUT_CHANNELS, HIDDEN = 3, 2, 3, 5
FRAME = (7, 6)
DRAWS = 16

Arguments = dict[str, Tensor | None]


@dataclass(frozen=True)
class Geometry:
    """An input convolution over FRAME; no kernel: ready-made gates."""

    kernel: Sizes | None
    padding: Padding = "same"
    stride: int | Sizes = 1
    dilation: int | Sizes = 1

    def options(self) -> dict[str, Padding]:
        return {"padding": self.padding, "stride": self.stride, "dilation": self.dilation}

    def size(self) -> Sizes:
        """Of the states."""
        return InputConvolution.of(self.kernel or (1, 1), **self.options()).output_size(*FRAME)


GEOMETRIES = {
    "same": Geometry((3, 5)),
    "same_even": Geometry((2, 4)),
    "same_even_rows": Geometry((2, 3)),
    "same_dilated": Geometry((3, 2), dilation=2),
    "valid": Geometry((3, 2), "valid"),
    "valid_even": Geometry((4, 4), "valid"),
    "number": Geometry((3, 2), 1),
    "pair": Geometry((3, 3), (2, 0)),
    "pair_even": Geometry((4, 2), (3, 1)),
    "as_much_as_kernel": Geometry((2, 2), 2),
    "more_than_kernel": Geometry((1, 3), (2, 1)),
    "more_than_kernel_bias_border": Geometry((1, 1), 1),
    "stride": Geometry((3, 3), 1, stride=2),
    "stride_pair": Geometry((2, 1), "valid", stride=(1, 3)),
    "dilation": Geometry((2, 2), "valid", dilation=2),
    "dilation_of_one_pixel": Geometry((1, 3), "valid", dilation=(4, 1)),
    "stride_and_dilation": Geometry((3, 2), (1, 2), stride=2, dilation=(1, 2)),
    "ready_made_gates": Geometry(None),
}
SAME = GEOMETRIES["same"]
STRIDE = GEOMETRIES["stride"]

fused_or_not = pytest.mark.parametrize("geometry", [SAME, STRIDE], ids=["fused", "conv2d"])
every_engine = pytest.mark.parametrize("backend", ["cpp", "reference"])
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def drawn(
    geometry: Geometry = SAME,
    peephole: str | None = "channel",
    optional: bool = True,
    seed: int = 0,
) -> Arguments:
    """Float64 arguments at the scale of a freshly initialised network; optional: bias, states."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

    gates, state = 4 * HIDDEN, (BATCH, HIDDEN, *geometry.size())
    kernel = geometry.kernel
    peephole_size = {None: None, "channel": (), "spatial": geometry.size()}[peephole]
    return {
        "x": draw(STEPS, BATCH, INPUT_CHANNELS if kernel else gates, *FRAME),
        "weight_ih": draw(gates, INPUT_CHANNELS, *kernel, scale=0.3) if kernel else None,
        "weight_hh": draw(gates, HIDDEN, 3, 3, scale=0.2),
        "bias": draw(gates, scale=0.5) if optional else None,
        "weight_ch": None if peephole_size is None else draw(3, HIDDEN, *peephole_size, scale=0.3),
        "h_0": draw(*state, scale=0.5) if optional else None,
        "c_0": draw(*state, scale=0.5) if optional else None,
    }


def cast(arguments: Arguments, dtype: torch.dtype, c_0: torch.dtype | None = None) -> Arguments:
    """Leaves of another dtype that need gradients."""
    return {
        name: None
        if value is None
        else value.detach().to(c_0 if name == "c_0" and c_0 else dtype).requires_grad_()
        for name, value in arguments.items()
    }


def run(arguments: Arguments, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    *others, h_0, c_0 = (arguments[name] for name in NAMES)
    state = None if h_0 is None else (h_0, c_0)
    output, (h_n, c_n) = functional.conv_lstm(*others, state, **options)
    return output, h_n, c_n


def results_and_gradients(
    arguments: Arguments, function=run, layout=None, **options: object
) -> dict[str, Tensor]:
    """Everything a call gives: the three results and the gradient of every argument."""
    results = function(arguments, **options)
    generator = torch.Generator().manual_seed(1)
    incoming = [
        torch.randn(result.shape, dtype=torch.float64, generator=generator).to(result.dtype)
        for result in results
    ]
    incoming = incoming if layout is None else [layout(grad) for grad in incoming]
    leaves = {name: value for name, value in arguments.items() if value is not None}
    grads = torch.autograd.grad(results, tuple(leaves.values()), incoming)
    found = dict(zip(("output", "h_n", "c_n"), results, strict=True))
    found |= {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach() for name, value in found.items()}


def assert_same(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@every_geometry
@pytest.mark.parametrize("recompute", [0, 0.5, True], ids=["saved", "half", "recompute"])
@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
def test_engines_agree_over_input_geometry(
    geometry: Geometry, recompute: float, peephole: str | None
) -> None:
    """Results and all gradients in float64, whether the input convolution is fused or not."""
    arguments = cast(drawn(geometry, peephole), torch.float64)
    options = {**geometry.options(), "recompute": recompute}
    exact = results_and_gradients(arguments, backend="reference", **options)
    assert exact["h_n"].shape[2:] == geometry.size()
    assert_same(results_and_gradients(arguments, backend="cpp", **options), exact)


@fused_or_not
@pytest.mark.parametrize("output_peephole", ["previous", "current"])
@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
@pytest.mark.parametrize("optional", [True, False], ids=["states_and_bias", "bare"])
def test_engines_agree_over_equations(
    geometry: Geometry, output_peephole: str, peephole: str | None, optional: bool
) -> None:
    """Every kind of peephole, with and without states and bias."""
    arguments = cast(drawn(geometry, peephole, optional), torch.float64)
    options = {**geometry.options(), "output_peephole": output_peephole}
    exact = results_and_gradients(arguments, backend="reference", **options)
    assert_same(results_and_gradients(arguments, backend="cpp", **options), exact)


@fused_or_not
@pytest.mark.parametrize("slope", [1 / 6, 0.2, 0.5])
@pytest.mark.parametrize("recompute", [0, True], ids=["saved", "recompute"])
def test_engines_agree_on_the_hard_sigmoid(
    geometry: Geometry, slope: float, recompute: bool
) -> None:
    """Each of the slopes in use; the slope without the hard sigmoid means nothing."""
    arguments = cast(drawn(geometry), torch.float64)
    options = {**geometry.options(), "recompute": recompute, "hard_sigmoid_slope": slope}
    hard = {**options, "recurrent_activation": "hard_sigmoid"}
    exact = results_and_gradients(arguments, backend="reference", **hard)
    assert_same(results_and_gradients(arguments, backend="cpp", **hard), exact)
    usual = run(arguments, backend="cpp", **geometry.options())[0]
    assert torch.equal(run(arguments, backend="cpp", **options)[0], usual)
    assert not torch.allclose(exact["output"], usual, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["same", "valid", "stride", "ready_made_gates"])
@pytest.mark.parametrize("recompute", [0, True], ids=["saved", "recompute"])
def test_engines_agree_on_a_masked_hidden_state(name: str, recompute: bool) -> None:
    """At every step, the first too; the mask of any strides, and no part of the saved state."""
    geometry = GEOMETRIES[name]
    arguments = cast(drawn(geometry), torch.float64)
    mask = strewn(drawn(geometry, seed=3)["h_0"].detach().clamp_min(0))
    options = {**geometry.options(), "recompute": recompute, "hidden_mask": mask}
    exact = results_and_gradients(arguments, backend="reference", **options)
    assert_same(results_and_gradients(arguments, backend="cpp", **options), exact)
    first = {**arguments, "x": arguments["x"][:1]}
    masked_by_hand = {**first, "h_0": arguments["h_0"] * mask}
    found = run(first, backend="cpp", **options)
    expected = run(masked_by_hand, backend="cpp", **geometry.options())
    assert_same({"output": found[0]}, {"output": expected[0]})


def strewn(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order, with NaN between the elements."""
    order = tuple(reversed(range(tensor.dim())))
    mirrored = tensor.permute(order)
    return torch.stack([mirrored, torch.full_like(mirrored, torch.nan)], -1)[..., 0].permute(order)


@every_engine
@pytest.mark.parametrize(
    "name", ["same", "same_even", "pair", "more_than_kernel", "stride", "ready_made_gates"]
)
def test_any_strides(backend: str, name: str) -> None:
    """Arguments and incoming gradients of any layout give what dense ones do."""
    geometry = GEOMETRIES[name]
    dense = cast(drawn(geometry, "spatial"), torch.float64)
    strided = {
        name: None if value is None else strewn(value.detach()).requires_grad_()
        for name, value in dense.items()
    }
    exact = results_and_gradients(dense, backend="reference", **geometry.options())
    found = results_and_gradients(strided, layout=strewn, backend=backend, **geometry.options())
    assert_same(found, exact)


@every_geometry
@pytest.mark.parametrize("recompute", [0, 0.5, True], ids=["saved", "half", "recompute"])
def test_error_in_single_precision(geometry: Geometry, recompute: float) -> None:
    """At most twice the error that the reference, plain PyTorch, has in float32.

    The error is a mean square over several draws: in a single one of so few numbers, the error of
    either engine can be small by luck.
    """
    options = {**geometry.options(), "recompute": recompute}
    usual, found = Counter(), Counter()
    for seed in range(DRAWS):
        rounded = cast(cast(drawn(geometry, "spatial", seed=seed), torch.float32), torch.float64)
        single = cast(rounded, torch.float32)
        exact = results_and_gradients(rounded, backend="reference", **options)
        for errors, backend in ((usual, "reference"), (found, "cpp")):
            for name, value in results_and_gradients(single, backend=backend, **options).items():
                errors[name] += (value.double() - exact[name]).square().sum().item()
    for name, error in usual.items():
        assert found[name] ** 0.5 <= 2 * error**0.5, name


@fused_or_not
def test_auto_is_the_fused_engine(geometry: Geometry) -> None:
    """On the CPU the default gives the bits of backend="cpp"."""
    arguments = cast(drawn(geometry), torch.float32)
    exact = results_and_gradients(arguments, backend="cpp", **geometry.options())
    found = results_and_gradients(arguments, **geometry.options())
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_engine
@fused_or_not
def test_half_types(dtype: torch.dtype, backend: str, geometry: Geometry) -> None:
    """c_n is float32; c_0 may be of either type, with the same bits; gradients as the arguments."""
    halves = cast(drawn(geometry), dtype)
    options = {**geometry.options(), "backend": backend}
    found = results_and_gradients(halves, **options)
    assert (found["output"].dtype, found["c_n"].dtype) == (dtype, torch.float32)
    for name, value in halves.items():
        assert found[f"grad of {name}"].dtype == dtype, name
        assert found[f"grad of {name}"].shape == value.shape, name
    wide = results_and_gradients(
        {**halves, **cast({"c_0": halves["c_0"]}, torch.float32)}, **options
    )
    assert wide["grad of c_0"].dtype == torch.float32
    for name, value in found.items():
        assert torch.equal(wide[name].to(value.dtype), value), name


@fused_or_not
def test_no_double_backward_of_the_fused_engine(geometry: Geometry) -> None:
    """A second derivative is refused with the remedy, and the remedy works."""
    arguments = cast(drawn(geometry), torch.float64)
    weight = arguments["weight_hh"]

    def penalty(backend: str) -> Tensor:
        output, _, _ = run(arguments, backend=backend, **geometry.options())
        (grad,) = torch.autograd.grad(output.square().sum(), arguments["x"], create_graph=True)
        return grad.square().sum()

    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.autograd.grad(penalty("cpp"), weight)
    (found,) = torch.autograd.grad(penalty("reference"), weight)
    assert found.shape == weight.shape
    assert found.norm() > 0


@every_engine
@fused_or_not
def test_no_grad(backend: str, geometry: Geometry) -> None:
    """Without gradients: the same bits, and no graph."""
    arguments = cast(drawn(geometry), torch.float32)
    options = {**geometry.options(), "backend": backend}
    expected = run(arguments, **options)
    with torch.no_grad():
        found = run(arguments, **options)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad
        assert not one.requires_grad


@every_engine
@fused_or_not
def test_autocast(backend: str, geometry: Geometry) -> None:
    """The bits of a call with bfloat16 arguments and c_0 float32; float64 is left alone."""
    single = cast(drawn(geometry), torch.float32)
    halves = cast(drawn(geometry), torch.bfloat16, c_0=torch.float32)
    double = cast(drawn(geometry), torch.float64)
    options = {**geometry.options(), "backend": backend}
    exact = results_and_gradients(halves, **options)
    untouched = results_and_gradients(double, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results_and_gradients(single, **options)
        in_double = results_and_gradients(double, **options)
    assert (found["output"].dtype, found["c_n"].dtype) == (torch.bfloat16, torch.float32)
    for name, value in exact.items():
        assert torch.equal(found[name].to(value.dtype), value), name
        if name.startswith("grad"):
            assert found[name].dtype == torch.float32, name
    assert_same(in_double, untouched)


@every_engine
@fused_or_not
def test_compile(backend: str, geometry: Geometry) -> None:
    """torch.compile(fullgraph=True) traces through, checks included, forward and backward."""
    arguments = cast(drawn(geometry), torch.float64)
    options = {**geometry.options(), "backend": backend}
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    exact = results_and_gradients(arguments, **options)
    assert_same(results_and_gradients(arguments, compiled, **options), exact)


def test_transforms_of_the_reference() -> None:
    """torch.func.grad, jvp and vmap go through, with the values autograd and a loop give."""
    arguments = drawn()
    x, direction = arguments["x"], torch.ones_like(arguments["x"])

    def loss(x: Tensor) -> Tensor:
        return run({**arguments, "x": x}, backend="reference")[0].square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected, rtol=1e-10, atol=1e-10)
    _, slope = torch.func.jvp(loss, (x,), (direction,))
    torch.testing.assert_close(slope, expected.sum(), rtol=1e-10, atol=1e-10)
    several = torch.stack([x, -x])
    losses = torch.stack([loss(x), loss(-x)])
    torch.testing.assert_close(torch.func.vmap(loss)(several), losses, rtol=1e-10, atol=1e-10)


@every_geometry
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_shapes_on_the_meta_device(geometry: Geometry, backend: str) -> None:
    """Without data the reference still gives shapes and dtypes, and so does "auto"."""
    arguments = {
        name: None if value is None else value.to("meta", torch.bfloat16)
        for name, value in drawn(geometry, "spatial").items()
    }
    output, h_n, c_n = run(arguments, backend=backend, **geometry.options())
    state = (BATCH, HIDDEN, *geometry.size())
    assert (output.shape, h_n.shape, c_n.shape) == ((STEPS, *state), state, state)
    assert (output.dtype, h_n.dtype, c_n.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert output.device.type == h_n.device.type == c_n.device.type == "meta"


def test_fused_engine_refuses_other_devices() -> None:
    """A known engine on a device that it does not serve: the message has both."""
    arguments = {
        name: None if value is None else value.to("meta") for name, value in drawn().items()
    }
    with pytest.raises(RuntimeError, match=r"backend 'cpp' runs .* on cpu, got .* on meta"):
        run(arguments, backend="cpp")


def scalar_of(x: Tensor, backend: str) -> Tensor:
    """A number that depends on all of a layer over x."""
    output, _, c_n = run({**drawn(), "x": x}, backend=backend)
    return (output * output).sum() + c_n.sum()


@pytest.mark.parametrize("backend", ["auto", "cpp"])
def test_torch_func_and_forward_mode(backend: str) -> None:
    """ "auto" takes the reference and is right; "cpp" says so, and never returns zeros."""
    x, direction = (drawn(seed=seed)["x"].detach() for seed in (0, 1))

    def reverse(backend: str) -> Tensor:
        return torch.func.grad(lambda value: scalar_of(value, backend))(x)

    def forward(backend: str) -> Tensor:
        return torch.func.jvp(lambda value: scalar_of(value, backend), (x,), (direction,))[1]

    def dual(backend: str) -> Tensor:
        with torch.no_grad(), forward_ad.dual_level():
            return forward_ad.unpack_dual(
                scalar_of(forward_ad.make_dual(x, direction), backend)
            ).tangent

    for derivative in (reverse, forward, dual):
        if backend == "cpp":
            with pytest.raises(RuntimeError, match="only plain PyTorch supports"):
                derivative(backend)
        else:
            exact = derivative("reference")
            assert exact.abs().sum() > 0
            torch.testing.assert_close(derivative(backend), exact, rtol=1e-10, atol=1e-10)

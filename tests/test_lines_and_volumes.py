"""The layers over lines and volumes: what they compute, in every type, and what they refuse."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from memx_fast import (
    ConvLSTM,
    ConvLSTM1d,
    ConvLSTM1dCell,
    ConvLSTM3d,
    ConvLSTM3dCell,
    conv_lstm,
    info,
    reference_backward,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {1: ConvLSTM1d, 2: ConvLSTM, 3: ConvLSTM3d}
FRAMES = {1: (9,), 3: (4, 5, 3)}
KERNELS = {1: (5,), 3: (3, 1, 5)}
every_axes = pytest.mark.parametrize("axes", [1, 3])
NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments_of(axes: int, peephole: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Float64 arguments of conv_lstm: 4 steps, 2 sequences, 2 channels, 3 hidden ones."""
    frame, kernel = FRAMES[axes], KERNELS[axes]
    pixels = {None: None, "channel": (), "spatial": frame}[peephole]
    return {
        "x": drawn(4, 2, 2, *frame, seed=seed),
        "weight_ih": drawn(12, 2, *kernel, seed=seed + 1, scale=0.3),
        "weight_hh": drawn(12, 3, *kernel, seed=seed + 2, scale=0.2),
        "bias": drawn(12, seed=seed + 3),
        "weight_ch": None if pixels is None else drawn(3, 3, *pixels, seed=seed + 4),
        "h_0": drawn(2, 3, *frame, seed=seed + 5),
        "c_0": drawn(2, 3, *frame, seed=seed + 6),
    }


def everything(arguments: dict[str, Any], layout=lambda t: t, **options: Any) -> dict[str, Tensor]:
    """The three results and the gradient of every argument."""
    leaves = {name: value for name, value in arguments.items() if value is not None}
    *others, h_0, c_0 = (arguments[name] for name in NAMES)
    output, (h_n, c_n) = conv_lstm(*others, None if h_0 is None else (h_0, c_0), **options)
    results = (output, h_n, c_n)
    incoming = [
        layout(drawn(*result.shape, seed=20 + index).to(result.dtype))
        for index, result in enumerate(results)
    ]
    gradients = torch.autograd.grad(results, tuple(leaves.values()), incoming)
    return {
        **dict(zip(("output", "h_n", "c_n"), results, strict=True)),
        **{f"grad of {name}": grad for name, grad in zip(leaves, gradients, strict=True)},
    }


def leaves_of(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: None if value is None else value.detach().to(dtype).requires_grad_()
        for name, value in arguments.items()
    }


def assert_same(found: Any, exact: Any) -> None:
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


def strewn(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order, with NaN between the elements."""
    order = tuple(reversed(range(tensor.dim())))
    mirrored = tensor.permute(order)
    return torch.stack([mirrored, torch.full_like(mirrored, torch.nan)], -1)[..., 0].permute(order)


@every_axes
@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
@pytest.mark.parametrize("output_peephole", ["previous", "current"])
@pytest.mark.parametrize(
    ("recompute", "activation", "masked"),
    [
        (0, "sigmoid", False),
        (0.5, "sigmoid", False),
        (1, "sigmoid", False),
        (0.5, "hard_sigmoid", False),
        (0.5, "sigmoid", True),
    ],
)
def test_fused_is_the_reference(
    axes: int,
    peephole: str | None,
    output_peephole: str,
    recompute: float,
    activation: str,
    masked: bool,
) -> None:
    """Results and all gradients in float64."""
    arguments = leaves_of(arguments_of(axes, peephole), torch.float64)
    options = {
        "output_peephole": output_peephole,
        "recompute": recompute,
        "recurrent_activation": activation,
        "hidden_mask": drawn(2, 3, *FRAMES[axes], seed=9).clamp_min(0) if masked else None,
    }
    exact = everything(arguments, backend="reference", **options)
    assert_same(everything(arguments, backend="cpp", **options), exact)


@every_axes
@pytest.mark.parametrize("optional", [True, False], ids=["states_and_bias", "bare"])
@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": "valid"},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2},
        {"kernel": 2},
        {"gates": True},
    ],
    ids=str,
)
def test_input_geometry(axes: int, geometry: dict[str, Any], optional: bool) -> None:
    """Padding, stride, dilation, even kernels and ready-made gates; with and without states."""
    options = dict(geometry)
    kernel, gates = options.pop("kernel", 3), options.pop("gates", False)
    arguments = arguments_of(axes)
    arguments["weight_ih"] = None if gates else drawn(12, 2, *(kernel,) * axes)
    if gates:
        arguments["x"] = drawn(4, 2, 12, *FRAMES[axes])
    if not optional or options:
        arguments |= {"h_0": None, "c_0": None}
    arguments["bias"] = arguments["bias"] if optional else None
    if options:
        arguments["x"] = drawn(4, 2, 2, *(8, 9, 7)[-axes:])
    arguments = leaves_of(arguments, torch.float64)
    exact = everything(arguments, backend="reference", **options)
    assert_same(everything(arguments, backend="cpp", **options), exact)


@every_axes
@pytest.mark.parametrize("output_peephole", ["previous", "current"])
def test_backward_by_hand(axes: int, output_peephole: str) -> None:
    """The reference's own derivative is autograd's, over lines and volumes too."""
    arguments = leaves_of(arguments_of(axes, "spatial"), torch.float64)
    exact = everything(arguments, backend="reference", output_peephole=output_peephole)
    incoming = [
        drawn(*exact[name].shape, seed=20 + index)
        for index, name in enumerate(("output", "h_n", "c_n"))
    ]
    *others, h_0, c_0 = arguments.values()
    found = reference_backward.conv_lstm_backward(
        *incoming, *others, (h_0, c_0), output_peephole=output_peephole
    )
    for name, value in found._asdict().items():
        assert_same(value, exact[f"grad of {name}"])


@every_axes
def test_reference_is_the_one_of_images(axes: int) -> None:
    """A line is an image of one row; a kernel of depth 1 makes a volume a batch of images."""
    arguments = arguments_of(axes)
    if axes == 3:
        for name in ("weight_ih", "weight_hh"):
            arguments[name] = arguments[name][:, :, 1:2]
    *others, h_0, c_0 = arguments.values()
    output, _ = conv_lstm(*others, (h_0, c_0), backend="reference")

    def image(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.dim() < 3:
            return tensor
        return tensor.unsqueeze(-2) if axes == 1 else tensor.squeeze(2)

    if axes == 1:
        *others, h_0, c_0 = (image(value) for value in arguments.values())
        expected, _ = conv_lstm(*others, (h_0, c_0), backend="reference")
        assert_same(output, expected.squeeze(-2))
        return
    x, weight_ih, weight_hh, *others, h_0, c_0 = arguments.values()
    for depth in range(x.shape[3]):
        expected, _ = conv_lstm(
            x[:, :, :, depth],
            image(weight_ih),
            image(weight_hh),
            *others,
            (h_0[:, :, depth], c_0[:, :, depth]),
            backend="reference",
        )
        assert_same(output[:, :, :, depth], expected)


@every_axes
def test_gradcheck(axes: int) -> None:
    """Finite differences of every argument, through the fused kernels."""
    arguments = arguments_of(axes, "channel")
    small = (..., *(slice(3),) * axes)
    for name in ("x", "h_0", "c_0"):
        arguments[name] = arguments[name][small]
    arguments["x"] = arguments["x"][:2]
    leaves = leaves_of(arguments, torch.float64)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        *others, h_0, c_0 = values
        output, (h_n, c_n) = conv_lstm(*others, (h_0, c_0), backend="cpp")
        return output, h_n, c_n

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


@every_axes
def test_any_strides(axes: int) -> None:
    """Arguments and incoming gradients of any layout give what dense ones do."""
    dense = leaves_of(arguments_of(axes, "spatial"), torch.float64)
    strided = {name: strewn(value.detach()).requires_grad_() for name, value in dense.items()}
    assert_same(everything(strided, strewn, backend="cpp"), everything(dense, backend="cpp"))


@every_axes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_of_other_types(axes: int, dtype: torch.dtype) -> None:
    """At most twice that of plain PyTorch, as a mean square over several draws; c_n is float32."""
    usual, found = Counter(), Counter()
    for seed in range(16):
        rounded = leaves_of(leaves_of(arguments_of(axes, "spatial", seed), dtype), torch.float64)
        typed = leaves_of(rounded, dtype)
        exact = everything(rounded, backend="reference")
        for errors, backend in ((usual, "reference"), (found, "cpp")):
            results = everything(typed, backend=backend)
            assert results["output"].dtype == results["h_n"].dtype == dtype
            assert results["c_n"].dtype == torch.float32
            for name, value in results.items():
                errors[name] += (value.double() - exact[name]).square().sum().item()
    for name, error in usual.items():
        assert found[name] ** 0.5 <= 2 * error**0.5, name


@every_axes
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_autocast(axes: int, backend: str) -> None:
    """The bits of a call with bfloat16 arguments; float64 is left alone."""
    single = leaves_of(arguments_of(axes, "channel"), torch.float32)
    halves = leaves_of(single, torch.bfloat16)
    halves["c_0"] = single["c_0"].detach().requires_grad_()
    double = leaves_of(single, torch.float64)
    exact, untouched = (everything(each, backend=backend) for each in (halves, double))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, still = (everything(each, backend=backend) for each in (single, double))
    assert torch.equal(found["output"], exact["output"])
    assert found["c_n"].dtype == found["grad of weight_hh"].dtype == torch.float32
    assert_same(still, untouched)


@every_axes
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_stack_and_turn(axes: int, bidirectional: bool) -> None:
    """The layer's parts are conv_lstm's; batch_first, unbatched and carried states are views."""
    torch.manual_seed(0)
    frame = FRAMES[axes]
    options = {"num_layers": 2, "bidirectional": bidirectional, "dtype": torch.float64}
    layer = LAYERS[axes](2, 3, peephole="spatial", spatial_size=frame, **options)
    kernel = (3,) * axes
    assert layer.weight_ih_l0.shape == (12, 2, *kernel)
    assert layer.weight_hh_l1.shape == (12, 3, *kernel)
    assert layer.weight_ch_l0.shape == (3, 3, *frame)
    x = drawn(4, 2, 2, *frame)
    output, (h_n, c_n) = layer(x)
    directions = 2 if bidirectional else 1
    assert output.shape == (4, 2, 3 * directions, *frame)
    assert h_n.shape == c_n.shape == (2 * directions, 2, 3, *frame)

    expected = x
    for index in range(2):
        parts = []
        for suffix in (f"_l{index}", f"_l{index}_reverse")[:directions]:
            names = ("weight_ih", "weight_hh", "bias", "weight_ch")
            turned = expected.flip(0) if suffix.endswith("reverse") else expected
            part, _ = conv_lstm(turned, *(getattr(layer, name + suffix) for name in names))
            parts.append(part.flip(0) if suffix.endswith("reverse") else part)
        expected = torch.cat(parts, 2)
    assert_same(output, expected)

    first = LAYERS[axes](2, 3, batch_first=True, peephole="spatial", spatial_size=frame, **options)
    first.load_state_dict(layer.state_dict())
    assert_same(first(x.transpose(0, 1))[0].transpose(0, 1), output)
    assert_same(layer(x[:, 1])[0], output[:, 1])
    if not bidirectional:
        head, state = layer(x[:1])
        tail, _ = layer(x[1:], state)
        assert_same(torch.cat([head, tail]), output)


@pytest.mark.parametrize(("axes", "make"), [(1, ConvLSTM1dCell), (3, ConvLSTM3dCell)])
def test_cells_step_through_a_layer(axes: int, make: Any) -> None:
    """Cell after cell with the same weights gives the layer's output, batched and not."""
    frame = FRAMES[axes]
    layer = LAYERS[axes](2, 3, dtype=torch.float64)
    cell = make(2, 3, dtype=torch.float64)
    for name, parameter in cell.named_parameters():
        parameter.data = getattr(layer, f"{name}_l0").data
    x = drawn(3, 2, 2, *frame)
    output, _ = layer(x)
    state = alone = None
    for t in range(3):
        state = cell(x[t], state)
        alone = cell(x[t, 0], alone)
        assert_same(state[0], output[t])
        assert_same(alone[0], output[t, 0])


@every_axes
def test_empty_batch_and_compile(axes: int) -> None:
    """No sequences in, none out; torch.compile traces the layer in one graph."""
    layer = LAYERS[axes](2, 3)
    output, _ = layer(torch.zeros(3, 0, 2, *FRAMES[axes]))
    assert output.shape == (3, 0, 3, *FRAMES[axes])
    x = drawn(3, 2, 2, *FRAMES[axes]).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])


def test_lines_are_views() -> None:
    """The channels-last result of a line is that of its image of one row: nothing was copied."""
    layer = ConvLSTM1d(2, 3)
    output, _ = layer(torch.zeros(4, 2, 2, 9))
    assert output.stride() == (2 * 9 * 3, 9 * 3, 1, 3)


WRONG = [
    (1, {"kernel_size": 4}, None, r"kernel_size: got 4, expected odd sizes"),
    (1, {"kernel_size": (3, 3)}, None, r"kernel_size: got \(3, 3\), expected one whole number$"),
    (3, {"kernel_size": (3, 3)}, None, r"got \(3, 3\), expected one whole number or three"),
    (3, {"stride": (1, 2)}, None, r"stride: got \(1, 2\), expected one whole number or three"),
    (3, {"padding": "same", "stride": 2}, None, r'got "same" with stride \(2, 2, 2\)'),
    (1, {"peephole": "spatial", "spatial_size": (4, 4)}, None, r"spatial_size: got \(4, 4\)"),
    (1, {}, (4, 2, 2, 5, 6), r"x: got shape .* expected \(T, B, C, L\) or \(T, C, L\)"),
    (3, {}, (2, 2, 5, 6), r"expected \(T, B, C, D, H, W\) or \(T, C, D, H, W\)"),
    (3, {"batch_first": True}, (4,), r"expected \(B, T, C, D, H, W\) or \(T, C, D, H, W\)"),
    (1, {}, (4, 2, 3, 6), "x: got 3 channels .* expected 2 = input_channels"),
    (1, {"padding": "valid"}, (4, 2, 2, 2), "x: got frames of 2 pixels, too small for a kernel"),
    (
        3,
        {"peephole": "spatial", "spatial_size": 4},
        (4, 2, 2, 4, 4, 5),
        "x: got frames of 4 x 4 x 5 pixels, expected 4 x 4 x 4 = spatial_size",
    ),
]


@pytest.mark.parametrize(("axes", "options", "shape", "message"), WRONG)
def test_errors_name_the_argument(axes: int, options: Any, shape: Any, message: str) -> None:
    """As the layer over images, with the names of these axes."""
    with pytest.raises(ValueError, match=message):
        LAYERS[axes](2, 3, **options)(torch.zeros(shape))


def test_errors_of_the_function() -> None:
    """The recurrent kernel says how many axes there are; the others have to have as many."""
    x, weight_ih, weight_hh, *_ = arguments_of(1).values()
    with pytest.raises(ValueError, match=r"x: got shape .*, expected \(T, B, channels, L\)"):
        conv_lstm(x[..., None], weight_ih, weight_hh)
    with pytest.raises(ValueError, match=r"weight_ih: .*, expected \(4 C, Cin, k\), none"):
        conv_lstm(x, weight_ih[..., None], weight_hh)
    with pytest.raises(ValueError, match=r"weight_hh: got shape \(12, 3\), expected \(4 C, C, kh"):
        conv_lstm(x, weight_ih, weight_hh[..., 0])


def test_info_says_how_each_layer_runs() -> None:
    """As tables and as JSON: all of them fused, but for the convolutions of volumes."""
    facts = info.collect()
    assert facts["layers"].keys() == {"ConvLSTM1d", "ConvLSTM", "ConvLSTM3d"}
    assert "convolutions of PyTorch" in facts["layers"]["ConvLSTM3d"]
    text = info.render(facts)
    for layer, how in facts["layers"].items():
        assert f"{layer:<16}{how}" in text

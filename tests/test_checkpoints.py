"""Weights of other implementations: the originals run beside ours on the same weights."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

from memx_fast import ConvLSTM, ConvLSTM1d, ConvLSTM3d, ConvLSTMCell, checkpoints
from memx_fast.checkpoint_formats import FORMATS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def random(*shape: int) -> Tensor:
    return torch.randn(shape) / 2


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(np.array(expected)).float())


def weights_of(layer: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of them."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_unchanged(layer: torch.nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# The originals.


def test_conv_lstm_of_pypi() -> None:
    """A stack of three layers of two sizes and kernels, and back into the original."""
    from conv_lstm import ConvLSTM as Original

    original = Original(2, [3, 4, 4], [3, 3, 1], 3, batch_first=True, return_all_layers=True)
    x = random(2, 5, 2, 6, 7)
    outputs, states = original(x)
    layer = checkpoints.load(None, original.state_dict(), batch_first=True)
    assert repr(layer) == (
        "ConvLSTM(2, [3, 4, 4], [(3, 3), (3, 3), (1, 1)], num_layers=3, batch_first=True)"
    )
    output, (h_n, c_n) = layer(x)
    assert_close(output, outputs[-1].detach())
    for (h, c), ours_h, ours_c in zip(states, h_n, c_n, strict=True):
        assert_close(ours_h, h.detach())
        assert_close(ours_c, c.detach())
    exported = checkpoints.export(layer, "ndrplz")
    assert list(exported) == list(original.state_dict())
    for name, tensor in original.state_dict().items():
        assert torch.equal(exported[name], tensor)


@pytest.mark.parametrize("bias", [True, False])
def test_snntorch(bias: bool) -> None:
    from snntorch import SConv2dLSTM

    original = SConv2dLSTM(2, 3, (3, 5), bias=bias)
    x, h, c = random(4, 2, 6, 7), random(4, 3, 6, 7), random(4, 3, 6, 7)
    _, c_1, h_1 = original(x, c, h)
    cell = ConvLSTMCell(2, 3, (3, 5), bias=bias)
    assert checkpoints.load(cell, original.state_dict()) is cell
    found_h, found_c = cell(x, (h, c))
    assert_close(found_h, h_1.detach())
    assert_close(found_c, c_1.detach())


KERAS = {
    "plain": (2, {"kernel_size": 3, "padding": "same"}, {}),
    "valid": (2, {"kernel_size": (3, 5)}, {"padding": "valid"}),
    "even": (2, {"kernel_size": (2, 4), "padding": "same"}, {}),
    "strided": (2, {"kernel_size": 3, "strides": 2}, {"padding": "valid", "stride": 2}),
    "dilated": (
        2,
        {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
        {"dilation": 2},
    ),
    "no_bias": (2, {"kernel_size": 3, "padding": "same", "use_bias": False}, {}),
    "hard": (
        2,
        {"kernel_size": 3, "padding": "same", "recurrent_activation": "hard_sigmoid"},
        {"recurrent_activation": "hard_sigmoid"},
    ),
    "lines": (1, {"kernel_size": 3, "padding": "same"}, {}),
    "volumes": (3, {"kernel_size": (1, 3, 3), "padding": "same"}, {}),
}


@pytest.mark.parametrize(("axes", "theirs", "ours"), KERAS.values(), ids=KERAS)
def test_keras(axes: int, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    import keras

    original = getattr(keras.layers, f"ConvLSTM{axes}D")(
        3, return_sequences=True, return_state=True, **theirs
    )
    x = random(2, 4, *(7, 9, 5)[:axes], 2)
    with torch.no_grad():
        original(x)
        weights = [random(*weight.shape).numpy() for weight in original.get_weights()]
        original.set_weights(weights)
        output, h, c = original(x)
    layer = checkpoints.load(None, weights, batch_first=True, **ours)
    assert type(layer) is {1: ConvLSTM1d, 2: ConvLSTM, 3: ConvLSTM3d}[axes]
    found, (h_n, c_n) = layer(x.movedim(-1, 2))
    assert_close(found.movedim(2, -1), output)
    assert_close(h_n[0].movedim(1, -1), h)
    assert_close(c_n[0].movedim(1, -1), c)
    if theirs["kernel_size"] != (2, 4):
        for given, back in zip(weights, checkpoints.export(layer, "keras").values(), strict=True):
            np.testing.assert_array_equal(given, back.numpy())


def test_keras_file(tmp_path: Any) -> None:
    """The HDF5 file of Keras 3 numbers the variables of a layer."""
    import h5py
    import keras

    model = keras.Sequential(
        [keras.Input((3, 5, 5, 1)), keras.layers.ConvLSTM2D(2, 3, padding="same")]
    )
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: (
                arrays.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
            )
        )
    layer = checkpoints.load(None, arrays, batch_first=True)
    x = random(1, 3, 5, 5, 1)
    with torch.no_grad():
        expected = model(x)
    assert_close(layer(x.movedim(-1, 2))[0][:, -1].movedim(1, -1), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_flax(bias: bool) -> None:
    import jax
    from flax import linen

    original = linen.RNN(linen.ConvLSTMCell(3, (3, 3), use_bias=bias))
    x = random(2, 4, 6, 7, 2)
    params = original.init(jax.random.PRNGKey(0), x.numpy())
    params = jax.tree.map(lambda leaf: random(*leaf.shape).numpy(), params)
    expected = original.apply(params, x.numpy())
    layer = checkpoints.load(None, params, batch_first=True)
    assert_close(layer(x.movedim(-1, 2))[0].movedim(2, -1), expected)

    exported = jax.tree.map(Tensor.numpy, checkpoints.export(layer, "flax"))
    again = linen.RNN(linen.ConvLSTMCell(3, (3, 3))).apply(
        {"params": {"cell": exported}}, x.numpy()
    )
    assert_close(torch.from_numpy(np.array(again)), expected)


def test_haiku() -> None:
    import haiku
    import jax

    def run(x: Any) -> Any:
        core = haiku.Conv2DLSTM((6, 7), 3, 3)
        return haiku.dynamic_unroll(core, x, core.initial_state(2))[0]

    original = haiku.without_apply_rng(haiku.transform(run))
    x = random(4, 2, 6, 7, 2)
    params = original.init(jax.random.PRNGKey(0), x.numpy())
    params = jax.tree.map(lambda leaf: random(*leaf.shape).numpy(), params)
    expected = original.apply(params, x.numpy())
    layer = checkpoints.load(None, params)
    assert_close(layer(x.movedim(-1, 2))[0].movedim(2, -1), expected)
    ours = checkpoints.export(layer, "haiku")
    renamed = {name: jax.tree.map(Tensor.numpy, ours[name.rsplit("/", 1)[1]]) for name in params}
    assert_close(torch.from_numpy(np.array(original.apply(renamed, x.numpy()))), expected)


# Independent loops after the documented layouts.

Cell = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def run_cells(cells: list[Cell], x: Tensor, sizes: list[int]) -> Tensor:
    """Cells stacked, over (T, B, C, H, W)."""
    for cell, size in zip(cells, sizes, strict=True):
        h = c = x.new_zeros(x.shape[1], size, *x.shape[3:])
        outputs = []
        for frame in x:
            h, c = cell(frame, h, c)
            outputs.append(h)
        x = torch.stack(outputs)
    return x


def state_of(c: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def test_openstl() -> None:
    sizes = {0: (2, 3), 1: (3, 4)}
    weights = {}
    for layer, (channels, hidden) in sizes.items():
        cell = f"cell_list.{layer}"
        weights[f"{cell}.conv_x.0.weight"] = random(4 * hidden, channels, 5, 5)
        weights[f"{cell}.conv_h.0.weight"] = random(4 * hidden, hidden, 5, 5)
        weights[f"{cell}.conv_o.0.weight"] = random(hidden, 2 * hidden, 5, 5)
        weights[f"{cell}.conv_last.weight"] = random(hidden, 2 * hidden, 1, 1)
    weights["conv_last.weight"] = random(2, 4, 1, 1)

    def cell_of(layer: int) -> Cell:
        def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            z = F.conv2d(x, weights[f"cell_list.{layer}.conv_x.0.weight"], padding=2)
            z = z + F.conv2d(h, weights[f"cell_list.{layer}.conv_h.0.weight"], padding=2)
            return state_of(c, *z.chunk(4, 1))

        return cell

    x = random(3, 2, 2, 6, 7)
    layer = checkpoints.load(None, weights, "openstl")
    assert layer.bias is False
    assert_close(layer(x)[0], run_cells([cell_of(0), cell_of(1)], x, [3, 4]))
    for name, tensor in checkpoints.export(layer, "openstl").items():
        assert torch.equal(tensor, weights[name])


def test_automan000() -> None:
    weights = {}
    for gate in "ifco":
        weights[f"cell0.Wx{gate}.weight"] = random(4, 2, 3, 3)
        weights[f"cell0.Wx{gate}.bias"] = random(4)
        weights[f"cell0.Wh{gate}.weight"] = random(4, 4, 3, 3)

    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = (
            F.conv2d(x, weights[f"cell0.Wx{gate}.weight"], weights[f"cell0.Wx{gate}.bias"], 1, 1)
            + F.conv2d(h, weights[f"cell0.Wh{gate}.weight"], None, 1, 1)
            for gate in "ifco"
        )
        return state_of(c, *z)

    x = random(3, 2, 2, 6, 7)
    layer = checkpoints.load(None, weights)
    assert_close(layer(x)[0], run_cells([cell], x, [4]))
    exported = checkpoints.export(layer, "automan000")
    assert exported.keys() == weights.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize(
    ("source", "name", "order", "size"),
    [("e2vid", "Gates", "ifog", 3), ("rvt", "conv1x1", "fiog", 1)],
)
def test_cells_of_one_convolution(source: str, name: str, order: str, size: int) -> None:
    weights = {f"a.{name}.weight": random(12, 6, size, size), f"a.{name}.bias": random(12)}

    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = F.conv2d(torch.cat([x, h], 1), *weights.values(), padding=size // 2)
        gates = dict(zip(order, z.chunk(4, 1), strict=True))
        return state_of(c, *(gates[gate] for gate in "ifgo"))

    x = random(3, 2, 3, 6, 7)
    layer = checkpoints.load(None, weights)
    assert_close(layer(x)[0], run_cells([cell], x, [3]))
    for key, tensor in checkpoints.export(layer, source).items():
        assert torch.equal(tensor, weights[f"a.{key}"])


def test_openeb_without_norm() -> None:
    """An input kernel of its own size, and two biases."""
    weights = {
        "conv_x2h.module.0.weight": random(12, 2, 1, 1),
        "conv_x2h.module.0.bias": random(12),
        "timepool.conv_h2h.weight": random(12, 3, 3, 3),
        "timepool.conv_h2h.bias": random(12),
    }

    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        to_input, bias_input, to_hidden, bias_hidden = weights.values()
        z = F.conv2d(x, to_input, bias_input) + F.conv2d(h, to_hidden, bias_hidden, 1, 1)
        i, f, o, g = z.chunk(4, 1)
        return state_of(c, i, f, g, o)

    x = random(3, 2, 2, 6, 7)
    layer = checkpoints.load(None, weights)
    assert layer.kernel_size == [(3, 3)]
    assert_close(layer(x)[0], run_cells([cell], x, [3]))


# Every way in and out.


@pytest.mark.parametrize("target", [name for name, form in FORMATS.items() if form.write])
def test_exported_weights_load_again(target: str) -> None:
    """Into another layer: the same outputs, the same bits where nothing is added at run time."""
    size = 1 if target == "rvt" else 3
    layer = ConvLSTM(2, 2, size, bias=target != "openstl")
    torch.nn.init.normal_(layer.get_parameter("weight_hh_l0"))
    exported = checkpoints.export(layer, target)
    again = ConvLSTM(2, 2, size, bias=target != "openstl")
    checkpoints.load(again, exported, target)
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=1e-7)
    before = weights_of(layer)
    for value in exported.values():
        for tensor in value.values() if isinstance(value, dict) else (value,):
            assert not tensor.requires_grad
            tensor.fill_(7)
    assert_unchanged(layer, before)  # an export shares no memory with the layer


def test_several_cells_become_layers_and_directions() -> None:
    weights = {}
    for name, channels in (("encoder_1", 2), ("encoder_2", 2), ("decoder_1", 6), ("decoder_2", 6)):
        weights[f"{name}_convlstm.conv.weight"] = random(12, channels + 3, 3, 3)
        weights[f"{name}_convlstm.conv.bias"] = random(12)
    prefixes = [
        f"{name}_convlstm." for name in ("encoder_1", "encoder_2", "decoder_1", "decoder_2")
    ]
    layer = checkpoints.load(None, weights, prefix=prefixes, bidirectional=True)
    assert (layer.num_layers, layer.input_channels, layer.hidden_channels) == (2, 2, 3)
    exported = checkpoints.export(layer, "cell", suffix="l1_reverse")
    assert torch.equal(exported["conv.weight"], weights["decoder_2_convlstm.conv.weight"])
    with pytest.raises(ValueError, match=r"prefix: got None, but .* 'encoder_1_convlstm.'"):
        checkpoints.load(None, weights)


def test_what_the_source_lacks_is_zero() -> None:
    """No bias, no peepholes, a smaller kernel: the layer computes what the source does."""
    small = ConvLSTM(2, 3, 3, bias=False)
    large = ConvLSTM(2, 3, 5, peephole="channel")
    torch.nn.init.ones_(large.get_parameter("weight_ch_l0"))
    checkpoints.load(large, checkpoints.export(small, "ndrplz"))
    x = random(3, 2, 2, 6, 7)
    torch.testing.assert_close(large(x)[0], small(x)[0])


def test_dtypes_and_wrappers() -> None:
    """JAX's bfloat16, a prefix of wrappers, and other parts of the model around it."""
    import jax.numpy as jnp

    kernel, recurrent = random(3, 3, 2, 12), random(3, 3, 3, 12)
    arrays = {"ih": {"kernel": jnp.asarray(kernel, jnp.bfloat16)}}
    arrays["hh"] = {"kernel": jnp.asarray(recurrent, jnp.bfloat16)}
    layer = checkpoints.load(None, {"params": {"cell": arrays, "head": jnp.zeros(3)}}, "flax")
    assert layer.weight_ih_l0.dtype == torch.bfloat16
    expected = kernel.movedim((-1, -2), (0, 1)).bfloat16().chunk(4)
    assert torch.equal(torch.cat([expected[gate] for gate in (0, 2, 1, 3)]), layer.weight_ih_l0)

    state = {"module.net.cell_list.0.conv.weight": random(12, 5, 3, 3), "module.fc.weight": kernel}
    assert checkpoints.load(None, state, dtype=torch.float64).weight_hh_l0.dtype == torch.float64


# What cannot be.

GOOD = {"cell_list.0.conv.weight": torch.ones(12, 5, 3, 3), "cell_list.0.conv.bias": torch.ones(12)}
PAIR = {"ih": {"kernel": torch.ones(3, 3, 2, 12)}, "hh": {"kernel": torch.ones(3, 3, 3, 12)}}
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing": ({}, {}, "state_dict: got no tensors, expected a ConvLSTM's weights"),
    "strange": ({"fc.weight": torch.ones(3)}, {}, "got 'fc.weight', expected a ConvLSTM"),
    "source": (GOOD, {"source": "keras2"}, "source: got 'keras2', expected one of openstl"),
    "wrong source": (GOOD, {"source": "flax"}, "got 'cell_list.0.* expected Flax"),
    "prefix": (GOOD, {"prefix": "a."}, "with prefix='a.', expected"),
    "prefix and source": (
        GOOD,
        {"prefix": "a.", "source": "ndrplz"},
        "got no recurrences under the prefix 'a.'",
    ),
    "unread": ({**GOOD, "cell_list.0.norm": torch.ones(1)}, {}, "'cell_list.0.norm' not expected"),
    "gap": (
        {**GOOD, "cell_list.2.conv.weight": torch.ones(12, 6, 3, 3)},
        {},
        "'cell_list.1.conv.weight' is missing",
    ),
    "rows": (
        {"cell_list.0.conv.weight": torch.ones(10, 5, 3, 3)},
        {},
        r"\(10, 5, 3, 3\), expected",
    ),
    "no input": ({"cell_list.0.conv.weight": torch.ones(12, 3, 3, 3)}, {}, "which leaves none"),
    "bias": (
        {**GOOD, "cell_list.0.conv.bias": torch.ones(3)},
        {},
        r"'cell_list.0.conv.bias' has shape \(3,\), expected \(12\)",
    ),
    "flat": ({**PAIR, "ih": {"kernel": torch.ones(12)}}, {}, r"'ih/kernel' has shape \(12,\)"),
    "half a cell": ({"ih": PAIR["ih"]}, {}, "'hh/kernel' is missing"),
    "hidden": (
        {**PAIR, "hh": {"kernel": torch.ones(3, 3, 2, 12)}},
        {},
        r"recurrence 0 has weights .* \(12, 2, 3, 3\) and",
    ),
    "openstl": (
        {"cell_list.0.conv_x.0.weight": torch.ones(12, 2, 3, 3)},
        {},
        'say source="openstl" for the later',
    ),
    "openstl 2023": (
        {"cell_list.0.conv_x.0.weight": torch.ones(12, 2, 3, 3)},
        {"source": "openstl-2023"},
        r"H = o \* g",
    ),
    "layer norm": (
        {
            "cell_list.0.conv_x.0.weight": torch.ones(12, 2, 3, 3),
            "cell_list.0.conv_x.1.weight": torch.ones(12, 3, 3),
        },
        {"source": "openstl"},
        "LayerNorm inside the cell",
    ),
    "group norm": (
        {"conv.0.weight": torch.ones(32, 9, 3, 3), "conv.1.weight": torch.ones(32)},
        {},
        "GroupNorm",
    ),
    "batch norm": (
        {
            "timepool.conv_h2h.weight": torch.ones(12, 3, 3, 3),
            "conv_x2h.module.1.weight": torch.ones(12),
        },
        {},
        "BatchNorm",
    ),
    "peepholes": ({"weight_pi_l0": torch.ones(3, 3, 3, 3)}, {}, "convolutional peephole"),
    "depthwise": (
        {
            "conv1x1.weight": torch.ones(12, 6, 1, 1),
            "conv3x3_dws.weight": torch.ones(6, 1, 3, 3),
        },
        {},
        "depthwise convolution",
    ),
    "list": ([torch.ones(1)], {}, "got a list of 1, expected two or three arrays"),
}


@pytest.mark.parametrize(("weights", "arguments", "message"), BAD.values(), ids=BAD)
def test_bad_checkpoints(weights: Any, arguments: dict[str, Any], message: str) -> None:
    layer = ConvLSTM(2, 3)
    before = weights_of(layer)
    for into in (None, layer):
        with pytest.raises(ValueError, match=message):
            checkpoints.load(into, weights, **arguments)
    assert_unchanged(layer, before)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ConvLSTM(1, 3), r"got shape \(12, 2, 3, 3\) for weight_ih_l0, expected \(12, 1, 3, 3\)"),
        (ConvLSTM(2, 3, 1), r"got shape \(12, 2, 3, 3\) for weight_ih_l0, expected \(12, 2, 1, 1"),
        (ConvLSTM(2, 3, 5, padding="valid"), 'only enlarged with padding="same"'),
        (ConvLSTM(2, 3, bias=False), "has a bias, but the layer's bias_l0 is None"),
        (ConvLSTM(2, 3, num_layers=2), "got 1 recurrences, expected 2: the layer's _l0, _l1"),
        (ConvLSTM1d(2, 3), "for weight_ih_l0"),
    ],
)
def test_layers_that_do_not_fit(layer: ConvLSTM, message: str) -> None:
    before = weights_of(layer)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(layer, GOOD)
    assert_unchanged(layer, before)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="layer: got 'a'"):
        checkpoints.load("a", GOOD)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batch_first: got an option of a new layer"):
        checkpoints.load(ConvLSTM(2, 3), GOOD, batch_first=True)
    with pytest.raises(TypeError, match="kernel_size: comes from the checkpoint"):
        checkpoints.load(None, GOOD, kernel_size=3)
    with pytest.raises(TypeError, match="state_dict: got 3"):
        checkpoints.load(None, 3)  # type: ignore[arg-type]
    mixed = {**GOOD, "cell_list.0.conv.bias": torch.ones(12, dtype=torch.float64)}
    with pytest.raises(TypeError, match=r"got torch.float32, torch.float64, expected .* one"):
        checkpoints.load(None, mixed)
    whole = {name: tensor.int() for name, tensor in GOOD.items()}
    with pytest.raises(TypeError, match=r"got torch\.int32, expected"):
        checkpoints.load(None, whole)
    with pytest.raises(TypeError, match="layer: got None"):
        checkpoints.export(None, "ndrplz")  # type: ignore[arg-type]


def test_parametrised_weights_are_not_written() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(ConvLSTM(2, 3), "weight_hh_l0")
    with pytest.raises(ValueError, match="layer: weight_hh_l0 is parametrised"):
        checkpoints.load(layer, GOOD)


@pytest.mark.parametrize(
    ("options", "target", "suffix", "message"),
    [
        ({}, "torch", None, "target: got 'torch', expected one of"),
        ({}, "openeb", None, "can only be read"),
        ({"peephole": "channel"}, "ndrplz", None, "peephole='channel'"),
        ({"recurrent_activation": "hard_sigmoid"}, "ndrplz", None, "logistic gates"),
        ({"padding": "valid", "stride": 2}, "flax", None, "stride=2"),
        ({"num_layers": 2}, "keras", None, "say which by suffix, one of l0, l1"),
        ({"num_layers": 2}, "keras", "l2", "suffix: got 'l2', expected one of l0, l1"),
        ({"bidirectional": True}, "ndrplz", None, "has no reverse direction"),
        ({}, "openstl", None, "has no biases"),
        ({}, "rvt", None, "kernels of 1 x 1"),
    ],
)
def test_what_cannot_be_exported(
    options: dict[str, Any], target: str, suffix: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoints.export(ConvLSTM(2, 2, **options), target, suffix=suffix)

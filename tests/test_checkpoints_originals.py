"""Weights of other implementations: the originals run beside ours on the same weights."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

from memx_fast import ConvLSTM, ConvLSTM1d, ConvLSTM3d, ConvLSTMCell, checkpoints

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


def test_torchgeo(original_torchgeo: Any) -> None:
    """Its initial states, of every layer, are the layer's."""
    original = original_torchgeo.ConvLSTM(2, [3, 4], [(3, 3), 1], 2, return_all_layers=True)
    x = random(2, 5, 2, 6, 7)
    states = [(random(2, size, 6, 7), random(2, size, 6, 7)) for size in (3, 4)]
    outputs, last = original(x, hidden_state=states)
    layer = checkpoints.load(None, original.state_dict(), batch_first=True)
    output, found = layer(x, tuple(map(list, zip(*states, strict=True))))
    assert_close(output, outputs[-1].detach())
    for parts, expected in zip(found, zip(*last, strict=True), strict=True):
        for one, other in zip(parts, expected, strict=True):
            assert_close(one, other.detach())


@pytest.mark.parametrize("layers", [1, 2])
def test_utae_paps(layers: int) -> None:
    """Its stacks lie under names of their own; of two directions, each is a whole stack."""
    from conv_lstm import ConvLSTM as Original

    forward, backward = (
        Original(2, 3, 3, layers, batch_first=True, return_all_layers=False) for _ in range(2)
    )
    weights = {f"convlstm_forward.{name}": value for name, value in forward.state_dict().items()}
    weights |= {f"convlstm_backward.{name}": value for name, value in backward.state_dict().items()}
    x = random(2, 5, 2, 6, 7)
    there = forward(x)[0][0]
    back = backward(x.flip(1))[0][0].flip(1)
    names = ["convlstm_forward.", "convlstm_backward."]
    for name, expected, frames in zip(names, (there, back.flip(1)), (x, x.flip(1)), strict=True):
        layer = checkpoints.load(None, weights, prefix=name, batch_first=True)
        assert_close(layer(frames)[0], expected.detach())
    if layers == 1:
        both = checkpoints.load(None, weights, prefix=names, bidirectional=True, batch_first=True)
        assert_close(both(x)[0], torch.cat([there, back], 2).detach())
    else:  # in ours, the second layer sees both directions of the first
        with pytest.raises(ValueError, match="for weight_ih_l0_reverse, expected"):
            checkpoints.load(None, weights, prefix=names, bidirectional=True)


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


@pytest.mark.parametrize("slope", [0.2, 0.5], ids=["Keras 2", "OpenEB"])
def test_other_hard_sigmoids(slope: float) -> None:
    """The slopes that were in use beside 1/6, in Keras's own layer."""
    import keras

    def hard_sigmoid(z: Any) -> Any:
        return keras.ops.clip(slope * z + 0.5, 0.0, 1.0)

    original = keras.layers.ConvLSTM2D(
        3, 3, padding="same", return_sequences=True, recurrent_activation=hard_sigmoid
    )
    x = 3 * random(2, 4, 7, 9, 2)
    with torch.no_grad():
        expected = original(x)
    layer = checkpoints.load(
        None,
        original.get_weights(),
        batch_first=True,
        recurrent_activation="hard_sigmoid",
        hard_sigmoid_slope=slope,
    )
    assert_close(layer(x.movedim(-1, 2))[0].movedim(2, -1), expected)


def arrays_of(file: Any) -> dict[str, Any]:
    """Everything in a HDF5 file, as docs/coming-from.md reads it."""
    import h5py

    arrays: dict[str, Any] = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, node: (
                arrays.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
            )
        )
    return arrays


@pytest.mark.filterwarnings("ignore:You are saving your model")
@pytest.mark.parametrize("kind", ["weights.h5", "keras", "h5"])
def test_keras_files(kind: str, tmp_path: Path) -> None:
    """Of trained models: other layers and the optimizer's state have names like a ConvLSTM's."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((3, 5, 5, 1)),
            keras.layers.ConvLSTM2D(2, 3, padding="same", recurrent_dropout=0.1),
            keras.layers.Conv2D(4, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    model.fit(random(2, 3, 5, 5, 1).numpy(), random(2, 2).numpy(), verbose=0)
    path = tmp_path / f"model.{kind}"
    if kind == "weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    if kind == "keras":
        with zipfile.ZipFile(path) as archive:
            path = Path(archive.extract("model.weights.h5", tmp_path))
    layer = checkpoints.load(None, arrays_of(path), batch_first=True)
    x = random(1, 3, 5, 5, 1)
    with torch.no_grad():
        expected = model.layers[0](x)
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


@pytest.mark.parametrize("prefix", ["", "model."], ids=["holmdk", "satflow"])
def test_encoder_and_decoder(prefix: str) -> None:
    """Two cells read and two go on from their states, feeding the decoder's h back to it."""
    from snntorch import SConv2dLSTM

    names = ("encoder_1", "encoder_2", "decoder_1", "decoder_2")
    cells = [SConv2dLSTM(size, 3, 3) for size in (2, 3, 3, 3)]
    weights = {
        f"{prefix}{name}_convlstm.conv.{part}": value
        for name, cell in zip(names, cells, strict=True)
        for part, value in cell.conv.state_dict().items()
    }
    encoder = checkpoints.load(
        None, weights, prefix=[f"{prefix}{name}_convlstm." for name in names[:2]]
    )
    decoder = checkpoints.load(
        None, weights, prefix=[f"{prefix}{name}_convlstm." for name in names[2:]]
    )
    x = random(4, 2, 2, 6, 7)
    states = [(torch.zeros(2, 3, 6, 7), torch.zeros(2, 3, 6, 7))] * 4

    def stepped(which: tuple[int, int], frame: Tensor) -> Tensor:
        for index in which:
            h, c = states[index]
            _, c, frame = cells[index](frame, c, h)
            states[index] = frame, c
        return frame

    for frame in x:
        read = stepped((0, 1), frame)
    expected = []
    for _ in range(3):
        read = stepped((2, 3), read)
        expected.append(read)

    _, state = encoder(x)
    frame, found, decoded = state[0][-1], [], None
    for _ in range(3):
        output, decoded = decoder(frame[None], decoded)
        frame = output[0]
        found.append(frame)
    assert_close(torch.stack(found), torch.stack(expected).detach())

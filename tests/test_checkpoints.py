"""Weights of other implementations, after their documented layouts, and every way in and out.

Those whose originals can be installed are in test_checkpoints_originals.py, what is refused in
test_checkpoints_refused.py.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memx_fast import ConvLSTM, checkpoints
from memx_fast.checkpoint_formats import FORMATS
from memx_fast.openstl import OpenSTL2023


def random(*shape: int) -> Tensor:
    return torch.randn(shape) / 2


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected)


def weights_of(layer: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of them."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_unchanged(layer: torch.nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Independent loops.

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


@pytest.mark.parametrize("source", ["openstl", "openstl-2023"])
def test_openstl(source: str) -> None:
    """Both equations, each where it is asked for; the weights look the same."""
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
            i, f, g, o = z.chunk(4, 1)
            h, c = state_of(c, i, f, g, o)
            return (h if source == "openstl" else torch.sigmoid(o) * torch.tanh(g)), c

        return cell

    x = random(3, 2, 2, 6, 7)
    layer = checkpoints.load(None, weights, source)
    assert layer.bias is False
    assert_close(layer(x)[0], run_cells([cell_of(0), cell_of(1)], x, [3, 4]))
    for name, tensor in checkpoints.export(layer, source).items():
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
    # Prefixes as in the models that they are part of.
    prefix = {"e2vid": "unetrecurrent.encoders.0.recurrent_block.", "rvt": "stages.1.lstm."}[source]
    weights = {f"{prefix}{name}.weight": random(12, 6, size, size)}
    weights[f"{prefix}{name}.bias"] = random(12)

    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = F.conv2d(torch.cat([x, h], 1), *weights.values(), padding=size // 2)
        gates = dict(zip(order, z.chunk(4, 1), strict=True))
        return state_of(c, *(gates[gate] for gate in "ifgo"))

    x = random(3, 2, 3, 6, 7)
    layer = checkpoints.load(None, weights)
    assert_close(layer(x)[0], run_cells([cell], x, [3]))
    for key, tensor in checkpoints.export(layer, source).items():
        assert torch.equal(tensor, weights[prefix + key])


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
    make = OpenSTL2023 if target == "openstl-2023" else ConvLSTM
    layer = make(2, 2, size, bias=not target.startswith("openstl"))
    torch.nn.init.normal_(layer.get_parameter("weight_hh_l0"))
    exported = checkpoints.export(layer, target)
    again = make(2, 2, size, bias=layer.bias)
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


def test_other_parts_of_a_model_with_such_names() -> None:
    """What cannot be a recurrence by its shape does not stand in the way of one that can."""
    weights = {"stem.conv.weight": random(12, 3, 7, 7), "stem.conv.bias": random(12)}
    weights |= {"head.conv.0.weight": random(5, 4, 1, 1), "head.conv.1.weight": random(4)}
    weights["lstm.conv.weight"] = random(12, 5, 3, 3)
    weights["decoder.rnn._conv.weight"] = random(12, 5, 3, 3)  # Hzzone's, of another gate order
    layer = checkpoints.load(None, weights)
    assert (layer.input_channels, layer.hidden_channels, layer.bias) == (2, 3, False)


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

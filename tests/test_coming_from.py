"""The code of docs/coming-from.md is run, and what it moves computes what it did before."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

from memx_fast import ConvLSTM, ConvLSTMCell, checkpoints, compat

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PAGE = (Path(__file__).parents[1] / "docs" / "coming-from.md").read_text()
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(page: str) -> dict[str, list[str]]:
    """The blocks of code under each heading; a comment in them is none."""
    found: dict[str, list[str]] = {}
    parts = [*FENCED.split(page), ""]
    for text, block in zip(parts[::2], parts[1::2], strict=True):
        for heading in re.findall(r"^##? (.*)$", text, re.MULTILINE):
            found[heading] = []
        if block:
            found[list(found)[-1]].append(block)
    return found


SECTIONS = sections(PAGE)

Names = dict[str, Any]
Prepared = tuple[Names, Callable[[Names, int], None]]
"""What the code of a section finds, and what has to hold after each of its blocks."""


@pytest.fixture(autouse=True)
def seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach(), torch.as_tensor(np.array(expected)))


class Holder(nn.Module):
    """A model whose weights have the names of another implementation."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.weights = weights
        self.conv_last = nn.Conv2d(3, 2, 1)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return dict(self.weights)


def exported(target: str, *arguments: Any, prefix: str = "", **options: Any) -> tuple[Any, Holder]:
    """A layer of ours, and a model with its weights under the target's names."""
    layer = ConvLSTM(*arguments, **options)
    weights = checkpoints.export(layer, target)
    return layer, Holder({prefix + name: value for name, value in weights.items()})


def introduction() -> Prepared:
    layer, holder = exported("ndrplz", 2, 3)

    def check(names: Names, block: int) -> None:
        assert names["state_dict"].keys() == holder.weights.keys()
        assert torch.equal(names["layer"].weight_ih_l0, layer.weight_ih_l0)

    return {"state_dict": holder.weights}, check


def ndrplz() -> Prepared:
    from conv_lstm import ConvLSTM as Original

    theirs = Original(2, [4, 4, 8], [3, 3, 3], 3)
    torch.save(theirs.state_dict(), "theirs.pt")
    x = torch.randn(2, 4, 2, 6, 5)
    (output,), ((h, c),) = theirs(x)

    def check(names: Names, block: int) -> None:
        if block == 0:
            assert [part.shape for part in names["layer_output_list"]] == [output.shape]
            close(names["model"](x)[0][0], output.detach())
        else:
            for found, expected in zip(
                (names["y"], names["h"], names["c"]), (output, h, c), strict=True
            ):
                close(found, expected.detach())

    return {"x": x, "theirs": theirs}, check


def utae_paps() -> Prepared:
    layer, model = exported("ndrplz", 2, 3, prefix="convlstm_encoder.", batch_first=True)
    x = torch.randn(2, 4, 2, 6, 5)
    pad_mask = torch.tensor([[False, False, False, True], [False, False, True, True]])

    def check(names: Names, block: int) -> None:
        for b, length in enumerate((3, 2)):
            output, (_, c_n) = layer(x[b : b + 1, :length])
            close(names["y"][b, :length], output[0].detach())
            close(names["embedding"][b], c_n[0, 0].detach())

    return {"x": x, "model": model, "pad_mask": pad_mask}, check


def snntorch() -> Prepared:
    from snntorch import SConv2dLSTM

    theirs = SConv2dLSTM(8, 16, 3)
    x, syn, mem = torch.randn(2, 8, 6, 5), torch.randn(2, 16, 6, 5), torch.randn(2, 16, 6, 5)
    expected = theirs(x, syn, mem)

    def check(names: Names, block: int) -> None:
        # The section runs the original first, so that ours is the second step.
        again = theirs(x, *expected[1:])
        for name, value in zip(("spk", "syn", "mem"), again, strict=True):
            close(names[name], value.detach())

    return {"theirs": theirs, "x": x, "syn": syn, "mem": mem}, check


def holmdk() -> Prepared:
    layer, _ = exported("ndrplz", 2, 3, num_layers=2, batch_first=True)
    weights = {}
    for suffix, name in (("l0", "encoder_1"), ("l1", "encoder_2")):
        cell = checkpoints.export(layer, "cell", suffix=suffix)
        weights |= {f"{name}_convlstm.{key}": value for key, value in cell.items()}
    x = torch.randn(2, 4, 2, 6, 5)
    _, (h_n, _) = layer(x)

    def check(names: Names, block: int) -> None:
        close(names["h_t"], h_n[0].detach())
        close(names["h_t2"], h_n[1].detach())

    return {"weights": weights, "x": x}, check


def openstl() -> Prepared:
    layer, model = exported("openstl", 2, 3, bias=False)
    frames = torch.randn(4, 2, 2, 6, 5)
    hidden, _ = layer(frames)

    def check(names: Names, block: int) -> None:
        if block == 0:
            close(names["next_frame"], model.conv_last(hidden[-1]).detach())
        else:  # test_checkpoints.py has the loop
            assert type(names["layer"]).__name__ == "OpenSTL2023"
            assert not torch.allclose(names["hidden"], hidden)

    return {"model": model, "frames": frames}, check


def automan000() -> Prepared:
    layer, theirs = exported("automan000", 2, 3)
    frame = torch.randn(2, 2, 6, 5)

    def check(names: Names, block: int) -> None:
        _, (h_n, c_n) = layer(frame.expand(3, *frame.shape))
        close(names["x"], h_n[0].detach())
        close(names["new_c"], c_n[0].detach())

    return {"theirs": theirs, "frame": frame, "step": 3}, check


def keras_layers() -> Prepared:
    import h5py
    import keras

    x = torch.randn(2, 4, 6, 5, 2)
    model = keras.Sequential([keras.Input((4, 6, 5, 2)), keras.layers.ConvLSTM2D(3, 3)])
    model.save_weights("model.weights.h5")

    def check(names: Names, block: int) -> None:
        if block == 0:
            close(names["y"].movedim(2, -1), names["keras_layer"](x).detach())
        else:
            close(names["layer"].bias_l0, model.get_weights()[2])

    return {"x": x, "keras": keras, "h5py": h5py}, check


def flax() -> Prepared:
    import jax
    from flax import linen

    x = torch.randn(2, 4, 6, 5, 2).numpy()
    params = linen.RNN(linen.ConvLSTMCell(16, (3, 3))).init(jax.random.PRNGKey(0), x)
    expected = linen.RNN(linen.ConvLSTMCell(16, (3, 3))).apply(params, x)

    def check(names: Names, block: int) -> None:
        close(names["y"].movedim(2, -1), expected)

    return {"x": x, "params": params, "nn": linen}, check


def haiku() -> Prepared:
    layer = ConvLSTM(2, 3)
    params = {
        f"conv2_d_lstm/~/{name}": {key: part.numpy() for key, part in parts.items()}
        for name, parts in checkpoints.export(layer, "haiku").items()
    }
    x = torch.randn(4, 2, 6, 5, 2)

    def check(names: Names, block: int) -> None:
        close(names["y"], layer(x.movedim(-1, 2))[0].detach())

    return {"x": x.numpy(), "params": params}, check


def of_a_cell(target: str, channels: int, size: int) -> Callable[[], Prepared]:
    def prepared() -> Prepared:
        cell = ConvLSTMCell(channels, channels, size)
        holder = Holder(checkpoints.export(cell, target))
        x, h, c = torch.randn(3, 2, channels, 6, 5)
        expected = cell(x, (h, c))

        def check(names: Names, block: int) -> None:
            close(names["h"], expected[0].detach())
            close(names["c"], expected[1].detach())

        return {"theirs": holder, "weights": holder.weights, "x": x, "h": h, "c": c}, check

    return prepared


def openeb() -> Prepared:
    layer = ConvLSTM(8, 16)
    order = [0, 1, 3, 2]
    ih, hh, bias = (
        torch.cat([getattr(layer, name).detach().chunk(4)[gate] for gate in order])
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0")
    )
    weights = {"conv_x2h.module.0.weight": ih, "conv_x2h.module.0.bias": bias / 2}
    weights |= {"timepool.conv_h2h.weight": hh, "timepool.conv_h2h.bias": bias / 2}
    x = torch.randn(4, 2, 8, 6, 5)

    def check(names: Names, block: int) -> None:
        close(names["y"], layer(x)[0].detach())

    return {"theirs": Holder(weights), "x": x}, check


PREPARED: dict[str, Callable[[], Prepared]] = {
    "Coming from another ConvLSTM": introduction,
    "ndrplz/ConvLSTM_pytorch, conv-lstm, TorchGeo": ndrplz,
    "utae-paps": utae_paps,
    "snnTorch": snntorch,
    "holmdk/Video-Prediction-using-PyTorch, satflow": holmdk,
    "OpenSTL": openstl,
    "automan000/Convolutional_LSTM_PyTorch": automan000,
    "Keras": keras_layers,
    "Flax": flax,
    "Haiku": haiku,
    "RVT": of_a_cell("rvt", 64, 1),
    "Prophesee OpenEB": openeb,
    "rpg_e2vid": of_a_cell("e2vid", 16, 3),
}


def test_every_section_is_run() -> None:
    assert SECTIONS.keys() == PREPARED.keys()
    assert all(SECTIONS.values())


@pytest.mark.parametrize("heading", PREPARED)
def test_code_of_the_page(heading: str) -> None:
    """Block after block, each finding what the one before it left."""
    names, check = PREPARED[heading]()
    names |= {"torch": torch, "checkpoints": checkpoints, "ConvLSTMCell": ConvLSTMCell}
    for number, block in enumerate(SECTIONS[heading]):
        exec(compile(block, f"{heading}, block {number}", "exec"), names)
        check(names, number)
    assert names.get("ConvLSTM", compat.ConvLSTM) is compat.ConvLSTM

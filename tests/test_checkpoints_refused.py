"""Checkpoints, layers and targets that do not go together: named, and nothing is changed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memx_fast import ConvLSTM, ConvLSTM1d, ConvLSTMCell, checkpoints
from memx_fast.openstl import OpenSTL2023


def weights_of(layer: nn.Module) -> dict[str, Tensor]:
    """A copy of them."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_unchanged(layer: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


GOOD = {"cell_list.0.conv.weight": torch.ones(12, 5, 3, 3), "cell_list.0.conv.bias": torch.ones(12)}
PAIR = {"ih": {"kernel": torch.ones(3, 3, 2, 12)}, "hh": {"kernel": torch.ones(3, 3, 3, 12)}}
AUTOMAN_CONVOLUTIONS = [source + gate for source in "xh" for gate in "ifco"]
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
        r"got weights of shapes .*, \(12, 2, 3, 3\) and \(12,\) for recurrence 0, expected",
    ),
    "openstl": (
        {"cell_list.0.conv_x.0.weight": torch.ones(12, 2, 3, 3)},
        {},
        'say source="openstl" for the later ones, source="openstl-2023" for the earlier',
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
    "batch norm of czifan": (
        {
            "conv.0.weight": torch.ones(32, 9, 3, 3),
            "conv.1.weight": torch.ones(32),
            "conv.1.running_mean": torch.ones(32),
        },
        {},
        "'conv.1.weight' is a BatchNorm",
    ),
    "tsugumi": (
        {"ConvLSTMCell.conv.weight": torch.ones(12, 5, 3, 3)},
        {},
        "checkpoints lack what it takes",
    ),
    "Hzzone": ({"rnn1._conv.weight": torch.ones(12, 5, 3, 3)}, {}, "got 'rnn1._conv.weight'"),
    "no prefixes": (GOOD, {"prefix": []}, "prefix: got a list of 0, expected at least one"),
    "meta": (
        {"cell_list.0.conv.weight": torch.ones(12, 5, 3, 3, device="meta")},
        {},
        "'cell_list.0.conv.weight' is on meta",
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


def test_the_two_equations_of_openstl() -> None:
    """Weights of one are not read into a layer of the other, nor written as such."""
    weights = {
        "cell_list.0.conv_x.0.weight": torch.ones(12, 2, 3, 3),
        "cell_list.0.conv_h.0.weight": torch.ones(12, 3, 3, 3),
    }
    usual, defect = ConvLSTM(2, 3, bias=False), OpenSTL2023(2, 3, bias=False)
    for layer, source, expected in (
        (usual, "openstl-2023", r"an OpenSTL2023: H = o \* g"),
        (defect, "openstl", r"a ConvLSTM or a cell: H = o \* tanh"),
        (ConvLSTMCell(2, 3), "openstl-2023", "an OpenSTL2023"),
    ):
        before = weights_of(layer)
        message = f"layer: got {type(layer).__name__} with source='{source}', expected {expected}"
        with pytest.raises(ValueError, match=message):
            checkpoints.load(layer, weights, source)
        assert_unchanged(layer, before)
    with pytest.raises(ValueError, match="layer: got OpenSTL2023 with target='ndrplz'"):
        checkpoints.export(defect, "ndrplz")
    with pytest.raises(ValueError, match="layer: got OpenSTL2023 with source='ndrplz'"):
        checkpoints.load(defect, GOOD)


def test_layers_without_memory() -> None:
    with pytest.raises(ValueError, match="layer: weight_ih_l0 is on meta, expected one with"):
        checkpoints.load(ConvLSTM(2, 3, device="meta"), GOOD)
    with pytest.raises(ValueError, match="layer: weight_ih_l0 is on meta"):
        checkpoints.load(None, GOOD, device="meta")


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"source: got a list of 1, expected a name"):
        checkpoints.load(None, GOOD, ["ndrplz"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"source: got None, expected a name"):
        checkpoints.load(None, GOOD, None)  # type: ignore[arg-type]
    for prefix in (3, ["a", None], {"a"}):
        with pytest.raises(TypeError, match=r"prefix: got .*, expected a text or several"):
            checkpoints.load(None, GOOD, prefix=prefix)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bidirectional: got 'yes', expected True or False"):
        checkpoints.load(None, GOOD, bidirectional="yes")
    with pytest.raises(TypeError, match="layer: got 'a'"):
        checkpoints.load("a", GOOD)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batch_first: got an option of a new layer"):
        checkpoints.load(ConvLSTM(2, 3), GOOD, batch_first=True)
    with pytest.raises(TypeError, match="kernel_size: comes from the checkpoint"):
        checkpoints.load(None, GOOD, kernel_size=3)
    with pytest.raises(TypeError, match="state_dict: got 3"):
        checkpoints.load(None, 3)  # type: ignore[arg-type]
    mixed = {**GOOD, "cell_list.0.conv.bias": torch.ones(12, dtype=torch.float64)}
    with pytest.raises(
        TypeError, match=r"got 'cell_list.0.conv.bias' of torch.float64, 'cell_.*one"
    ):
        checkpoints.load(None, mixed)
    gates = {f"cell0.W{part}.weight": torch.ones(2, 2, 1, 1) for part in AUTOMAN_CONVOLUTIONS}
    gates |= {f"cell0.Wx{gate}.bias": torch.ones(2) for gate in "ifco"}
    gates["cell0.Whf.weight"] = gates["cell0.Whf.weight"].half()
    with pytest.raises(TypeError, match=r"'cell0.Whf.weight' of torch.float16"):
        checkpoints.load(None, gates)
    whole = {name: tensor.int() for name, tensor in GOOD.items()}
    with pytest.raises(TypeError, match=r"got 'cell_list.0.conv.bias' of torch.int32, expected"):
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

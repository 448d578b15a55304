"""Wrong arguments of conv_lstm: every one is refused, by name, whatever the engine."""

import pytest
import torch
from torch import Tensor

from memx_fast import functional

pytestmark = pytest.mark.usefixtures("one_thread")

every_engine = pytest.mark.parametrize("backend", ["cpp", "reference"])


def zeros(*shape: int, **kind: object) -> Tensor:
    return torch.zeros(shape, **kind)


# A valid call: 3 steps, 2 sequences, 3 channels, 5 x 6 pixels, 2 hidden channels.
VALID = {
    "x": zeros(3, 2, 3, 5, 6),
    "weight_ih": zeros(8, 3, 3, 3),
    "weight_hh": zeros(8, 2, 3, 3),
    "bias": zeros(8),
    "weight_ch": zeros(3, 2, 5, 6),
    "state": (zeros(2, 2, 5, 6), zeros(2, 2, 5, 6)),
}
H_0, C_0 = VALID["state"]
GATES = {"x": zeros(3, 2, 8, 5, 6), "weight_ih": None}
META, DOUBLE = {"device": torch.device("meta")}, {"dtype": torch.float64}
HALF = {
    name: tuple(t.bfloat16() for t in value) if name == "state" else value.bfloat16()
    for name, value in VALID.items()
}
ODD = r"expected odd sizes"
DEFAULTS = "expected the defaults: without weight_ih there is no input convolution"
NOT_ZERO = "none of them 0"

REFUSED = (
    # choices
    ({"output_peephole": "next"}, ValueError, "output_peephole: got 'next', expected \"previous\""),
    ({"recompute": 2}, ValueError, "recompute: got 2, expected a number from 0 to 1"),
    ({"recompute": "all"}, TypeError, "recompute: got 'all', expected a number from 0 to 1"),
    ({"backend": "fast"}, ValueError, "backend: got 'fast', expected one of 'auto', 'cpp', 'tri"),
    # types
    ({"x": None}, TypeError, "x: got None, expected a tensor"),
    ({"weight_ih": 3}, TypeError, "weight_ih: got 3, expected a tensor"),
    ({"weight_hh": None}, TypeError, "weight_hh: got None, expected a tensor"),
    ({"bias": True}, TypeError, "bias: got True, expected a tensor"),
    ({"weight_ch": "no"}, TypeError, "weight_ch: got 'no', expected a tensor"),
    ({"state": H_0}, TypeError, r"state: got a tensor of shape \(2, 2, 5, 6\), expected two te"),
    ({"state": (H_0,)}, TypeError, r"state: got a tuple of 1, expected two tensors \(h_0, c_0\)"),
    ({"state": (None, C_0)}, TypeError, "h_0: got None, expected a tensor"),
    ({"state": (H_0, 0.0)}, TypeError, "c_0: got 0.0, expected a tensor"),
    # dtypes
    ({"x": zeros(1, dtype=torch.int64)}, TypeError, "x: got torch.int64, expected float32, float"),
    ({"weight_ih": zeros(8, 3, 3, 3, **DOUBLE)}, TypeError, "weight_ih: got torch.float64, expec"),
    ({"weight_hh": VALID["weight_hh"].half()}, TypeError, "got torch.float16, expected torch.flo"),
    ({"bias": zeros(8, **DOUBLE)}, TypeError, "bias: got torch.float64, expected torch.float32"),
    ({"weight_ch": zeros(3, 2, **DOUBLE)}, TypeError, "weight_ch: got torch.float64, expected to"),
    ({"state": (H_0.half(), C_0)}, TypeError, "h_0: got torch.float16, expected torch.float32"),
    ({"state": (H_0, C_0.double())}, TypeError, "c_0: got torch.float64, expected torch.float32"),
    ({**HALF, "bias": zeros(8)}, TypeError, "bias: got torch.float32, expected torch.bfloat16"),
    ({**HALF, "state": (H_0, C_0)}, TypeError, "h_0: got torch.float32, expected torch.bfloat16"),
    # devices
    ({"weight_ih": zeros(8, 3, 3, 3, **META)}, ValueError, "weight_ih: got a tensor on meta, expe"),
    ({"weight_hh": zeros(8, 2, 3, 3, **META)}, ValueError, "weight_hh: got a tensor on meta, expe"),
    ({"state": (H_0, C_0.to("meta"))}, ValueError, "c_0: got a tensor on meta, expected cpu as x"),
    ({"x": VALID["x"].to("meta")}, ValueError, "weight_hh: got a tensor on cpu, expected meta as"),
    # shapes of frames and weights
    ({"x": zeros(2, 3, 5, 6)}, ValueError, r"x: got shape \(2, 3, 5, 6\), expected \(T, B, chann"),
    ({"x": zeros(0, 2, 3, 5, 6)}, ValueError, r"x: got shape \(0, 2, 3, 5, 6\).*only B may be 0"),
    ({"x": zeros(3, 2, 3, 5, 0)}, ValueError, r"x: got shape \(3, 2, 3, 5, 0\).*only B may be 0"),
    ({"x": zeros(3, 2, 4, 5, 6)}, ValueError, "x: got 4 channels, expected 3 as in weight_ih"),
    ({"weight_ih": None}, ValueError, "x: got 3 channels, expected 8: without weight_ih they are"),
    ({"weight_ih": zeros(8, 3, 3)}, ValueError, r"weight_ih: got shape \(8, 3, 3\), expected \(4"),
    ({"weight_ih": zeros(8, 3, 0, 3)}, ValueError, rf"weight_ih: got shape .*{NOT_ZERO}"),
    ({"weight_ih": zeros(12, 3, 3, 3)}, ValueError, "weight_ih: got 12 rows, expected 8 as in we"),
    ({"weight_hh": zeros(8, 3, 3, 3)}, ValueError, r"weight_hh: got shape \(8, 3, 3, 3\), expect"),
    ({"weight_hh": zeros(0, 0, 3, 3)}, ValueError, rf"weight_hh: got shape \(0, 0.*{NOT_ZERO}"),
    ({"weight_hh": zeros(8, 2, 2, 3)}, ValueError, rf"weight_hh: got a kernel of \(2, 3\), {ODD}"),
    ({"weight_hh": zeros(8, 2, 3, 4)}, ValueError, rf"weight_hh: got a kernel of \(3, 4\), {ODD}"),
    ({"bias": zeros(2)}, ValueError, r"bias: got shape \(2,\), expected \(8,\)"),
    ({"hidden_mask": H_0[0]}, ValueError, r"hidden_mask: got shape \(2, 5, 6\), expected \(2, 2, "),
    ({"hidden_mask": 0.5}, TypeError, "hidden_mask: got 0.5, expected a tensor"),
    ({"hidden_mask": H_0.half()}, TypeError, "hidden_mask: got torch.float16, expected torch.floa"),
    (
        {"hidden_mask": torch.ones_like(H_0).requires_grad_()},
        ValueError,
        "hidden_mask: got a tensor that needs a gradient, expected a constant",
    ),
    # equations
    (
        {"recurrent_activation": "relu"},
        ValueError,
        "recurrent_activation: got 'relu', expected \"s",
    ),
    ({"hard_sigmoid_slope": 0}, ValueError, "hard_sigmoid_slope: got 0, expected a number above 0"),
    ({"hard_sigmoid_slope": float("inf")}, ValueError, "hard_sigmoid_slope: got inf, expected a n"),
    ({"hard_sigmoid_slope": "1/6"}, TypeError, "hard_sigmoid_slope: got '1/6', expected a number"),
    # input convolution
    ({"padding": "full"}, ValueError, 'padding: got \'full\', expected "same", "valid" or whole'),
    ({"padding": 0.5}, TypeError, "padding: got 0.5, expected a whole number"),
    ({"stride": 2}, ValueError, r'padding: got "same" with stride \(2, 2\), expected "valid"'),
    ({"dilation": (1, 2, 3)}, ValueError, r"dilation: got \(1, 2, 3\), expected one whole number"),
    (
        {"weight_ih": zeros(8, 3, 6, 3), "padding": "valid"},
        ValueError,
        r"x: got frames of 5 x 6 pixels, too small for a kernel of \(6, 3\)",
    ),
    ({**GATES, "padding": 1}, ValueError, rf"padding, stride, dilation: got 1, 1, 1, {DEFAULTS}"),
    ({**GATES, "padding": 0, "stride": 2}, ValueError, rf"got 0, 2, 1, {DEFAULTS}"),
    ({**GATES, "dilation": 3}, ValueError, rf"got 'same', 1, 3, {DEFAULTS}"),
    # shapes of states
    ({"weight_ch": zeros(3, 2, 6, 5)}, ValueError, r"\(3, 2, 6, 5\), expected .* \(3, 2, 5, 6\)"),
    ({"padding": 0}, ValueError, r"weight_ch: got shape .* or \(3, 2, 3, 4\)"),
    ({"state": (H_0[:1], C_0)}, ValueError, r"h_0: got shape \(1, 2.*, expected \(2, 2, 5, 6\)"),
    ({"state": (H_0, C_0[0])}, ValueError, r"c_0: got shape \(2, 5, 6\), expected \(2, 2, 5, 6\)"),
)


@pytest.mark.parametrize(("change", "error", "message"), REFUSED, ids=[case[2] for case in REFUSED])
@every_engine
def test_wrong_arguments(
    change: dict[str, object], error: type[Exception], message: str, backend: str
) -> None:
    """The message names the argument, what came and what was expected, whatever the engine."""
    functional.conv_lstm(**{**VALID, "backend": backend})
    with pytest.raises(error, match=message):
        functional.conv_lstm(**{**VALID, "backend": backend, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh": zeros(8, 2, 3, 3, **DOUBLE)}, "weight_hh: got torch.float64, .*bfloat16"),
        ({"bias": zeros(8, dtype=torch.int32)}, "bias: got torch.int32, .* torch.bfloat16"),
        ({"state": (H_0, C_0.double())}, "c_0: got torch.float64, .* torch.bfloat16"),
    ],
    ids=["weight_hh", "bias", "c_0"],
)
def test_what_autocast_does_not_cast(change: dict[str, object], message: str) -> None:
    """Under autocast dtypes may be mixed, but only those that it casts."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = functional.conv_lstm(**{**VALID, "weight_hh": HALF["weight_hh"]})
        with pytest.raises(TypeError, match=message):
            functional.conv_lstm(**{**VALID, **change})
    assert output.dtype == torch.bfloat16


def test_lists_are_pairs() -> None:
    """A list of two does as state, padding, stride and dilation."""
    options = {"padding": [1, 1], "stride": [1, 1], "dilation": [1, 1]}
    output, state = functional.conv_lstm(**{**VALID, "state": [H_0, C_0]}, **options)
    assert output.shape == (3, 2, 2, 5, 6)
    assert [part.shape for part in state] == [(2, 2, 5, 6)] * 2

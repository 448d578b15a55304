"""Wrong arguments of the layers and wrong calls of them: every one is refused, by name."""

from typing import Any

import pytest
import torch

from memx_fast import ConvLSTM, ConvLSTMCell

WRONG_LAYERS = [
    ({"input_channels": 0}, ValueError, "input_channels: got 0, expected at least 1"),
    ({"input_channels": 2.0}, TypeError, "input_channels: got 2.0, expected a whole number"),
    ({"hidden_channels": -1}, ValueError, "hidden_channels: got -1"),
    ({"hidden_channels": [3, 4]}, ValueError, "hidden_channels: got 2 entries, expected 1"),
    ({"kernel_size": 4}, ValueError, "kernel_size: got 4, expected odd sizes"),
    ({"kernel_size": (3, 3, 3)}, ValueError, r"kernel_size: got \(3, 3, 3\)"),
    ({"kernel_size": [3, 3]}, ValueError, "kernel_size: got 2 entries, expected 1 = num_layers"),
    ({"num_layers": 0}, ValueError, "num_layers: got 0"),
    ({"num_layers": True}, TypeError, "num_layers: got True"),
    ({"bias": 1}, TypeError, "bias: got 1, expected True or False"),
    ({"batch_first": "yes"}, TypeError, "batch_first: got 'yes'"),
    ({"bidirectional": None}, TypeError, "bidirectional: got None"),
    ({"recompute": 1.5}, ValueError, "recompute: got 1.5, expected a number from 0 to 1"),
    ({"recompute": None}, TypeError, "recompute: got None"),
    ({"dropout": 1.5}, ValueError, "dropout: got 1.5, expected a number from 0 to 1"),
    ({"dropout": "0.5"}, TypeError, "dropout: got '0.5'"),
    ({"recurrent_dropout": -0.1}, ValueError, "recurrent_dropout: got -0.1, expected a number"),
    ({"recurrent_dropout": True}, TypeError, "recurrent_dropout: got True, expected a number"),
    ({"peephole": "full"}, ValueError, "peephole: got 'full', expected None"),
    ({"peephole": "spatial"}, ValueError, "spatial_size: got None with peephole='spatial'"),
    ({"spatial_size": (5, 5)}, ValueError, r"spatial_size: got \(5, 5\) with peephole=None"),
    (
        {"peephole": "spatial", "spatial_size": (5, 0)},
        ValueError,
        "spatial_size: got 0, expected at least 1",
    ),
    (
        {"peephole": "spatial", "spatial_size": 2, "padding": "valid"},
        ValueError,
        "too small for a kernel",
    ),
    ({"output_peephole": "next"}, ValueError, "output_peephole: got 'next'"),
    ({"recurrent_activation": "hard"}, ValueError, "recurrent_activation: got 'hard', expected"),
    ({"hard_sigmoid_slope": -0.2}, ValueError, "hard_sigmoid_slope: got -0.2, expected a number"),
    ({"hard_sigmoid_slope": True}, TypeError, "hard_sigmoid_slope: got True, expected a number"),
    ({"padding": "full"}, ValueError, "padding: got 'full'"),
    ({"padding": -1}, ValueError, "padding: got -1"),
    ({"stride": 2}, ValueError, 'padding: got "same" with stride'),
    ({"stride": 0}, ValueError, "stride: got 0"),
    ({"dilation": 1.5}, TypeError, "dilation: got 1.5"),
    ({"forget_bias": "1"}, TypeError, "forget_bias: got '1', expected a number"),
    ({"forget_bias": float("nan")}, ValueError, "forget_bias: got nan, expected a finite number"),
    (
        {"backend": "fast"},
        ValueError,
        "backend: got 'fast', expected one of 'auto', 'cpp', 'triton', 'cuda', 'reference'$",
    ),
    ({"dtype": torch.int32}, TypeError, "dtype: got torch.int32, expected float32"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_LAYERS)
def test_wrong_arguments_are_named(wrong: dict[str, Any], error: type, message: str) -> None:
    """What came and what was expected; the cell, where it has the argument, says the same."""
    with pytest.raises(error, match=message):
        ConvLSTM(**{"input_channels": 1, "hidden_channels": 2, **wrong})
    layers_only = {"num_layers", "batch_first", "bidirectional", "recompute"}
    layers_only |= {"dropout", "recurrent_dropout"}
    if not layers_only & set(wrong) and not any(
        isinstance(value, list) for value in wrong.values()
    ):
        with pytest.raises(error, match=message):
            ConvLSTMCell(**{"input_channels": 1, "hidden_channels": 2, **wrong})


STATE = torch.zeros(1, 2, 3, 5, 6)
WRONG_CALLS = [
    ((None,), TypeError, "x: got None, expected a tensor"),
    ((torch.zeros(4, 2, 2, 5, 6).numpy(),), TypeError, "x: got a ndarray, expected a tensor"),
    ((torch.zeros(4, 2, 2, 5, 6).to_sparse(),), TypeError, "x: got a tensor of layout"),
    ((torch.zeros(2, 5, 6),), ValueError, r"x: got shape \(2, 5, 6\), expected \(T, B, C, H, W\)"),
    ((torch.zeros(0, 2, 2, 5, 6),), ValueError, r"x: got shape \(0, 2, 2, 5, 6\)"),
    ((torch.zeros(4, 2, 1, 5, 6),), ValueError, "x: got 1 channels .* expected 2"),
    ((torch.zeros(4, 2, 2, 5, 5),), ValueError, "x: got frames of 5 x 5 pixels, expected 5 x 6"),
    ((torch.zeros(4, 2, 2, 5, 6, dtype=torch.int64),), TypeError, "x: got torch.int64"),
    ((torch.zeros(4, 2, 2, 5, 6).double(),), TypeError, "weight_hh: got torch.float32"),
    ((torch.zeros(4, 2, 2, 5, 6), STATE), TypeError, "state: got a tensor of shape"),
    ((torch.zeros(4, 2, 2, 5, 6), (STATE,)), TypeError, "state: got a tuple of 1"),
    ((torch.zeros(4, 2, 2, 5, 6), (STATE, STATE[0])), ValueError, r"c_0: got shape \(2, 3, 5, 6\)"),
    ((torch.zeros(4, 1, 2, 5, 6), (STATE, STATE)), ValueError, r"h_0: .* expected \(1, 1, 3, 5, 6"),
    ((torch.zeros(4, 2, 5, 6), (STATE, STATE)), ValueError, r"h_0: .* expected \(1, 3, 5, 6\)"),
    ((torch.zeros(4, 2, 2, 5, 6), ([STATE], [STATE])), TypeError, "h_0: got a list of 1"),
    ((torch.zeros(4, 2, 2, 5, 6), (STATE, STATE.half())), TypeError, "c_0: got torch.float16"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG_CALLS)
def test_wrong_calls_are_named(arguments: tuple[Any, ...], error: type, message: str) -> None:
    """Wrong frames and states are refused before anything is computed."""
    layer = ConvLSTM(2, 3, peephole="spatial", spatial_size=(5, 6))
    with pytest.raises(error, match=message):
        layer(*arguments)


def test_wrong_lists_of_states_are_named() -> None:
    """Layers of different width take lists, and the entry that does not fit is named."""
    layer = ConvLSTM(2, [3, 4], num_layers=2)
    x, first, second = (torch.zeros(3, 2, size, 5, 6) for size in (2, 3, 4))
    with pytest.raises(TypeError, match=r"h_0: got a tensor .* expected a list of 2 tensors"):
        layer(x, (first, second))
    with pytest.raises(ValueError, match=r"c_0\[1\]: got shape \(2, 3, 5, 6\), expected \(2, 4"):
        layer(x, ([first[0], second[0]], [first[0], first[0]]))


def test_wrong_calls_of_a_cell_are_named() -> None:
    """As the layer's, with the shapes of one frame."""
    cell = ConvLSTMCell(2, 3)
    x, state = torch.zeros(2, 2, 5, 6), torch.zeros(2, 3, 5, 6)
    with pytest.raises(
        ValueError, match=r"x: got shape .*, expected \(B, C, H, W\) or \(C, H, W\)"
    ):
        cell(x[None])
    with pytest.raises(TypeError, match="state: got a tensor"):
        cell(x, state)
    with pytest.raises(ValueError, match=r"h_0: got shape \(3, 5, 6\), expected \(2, 3, 5, 6\)"):
        cell(x, (state[0], state))

"""The interface of ndrplz/ConvLSTM_pytorch, beside the package that has its code."""

from typing import Any

import pytest
import torch
from conv_lstm import ConvLSTM as Original
from torch import Tensor

from memx_fast import compat


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("hidden", "kernels", "layers", "options"),
    [
        (3, 3, 1, {}),
        ([3, 4], [3, 1], 2, {"batch_first": True, "return_all_layers": True}),
        (2, 5, 2, {"bias": False}),
    ],
)
def test_everything_is_as_in_the_original(
    hidden: Any, kernels: Any, layers: int, options: dict[str, Any]
) -> None:
    """Initial weights, names, outputs, states, gradients: from the same seed, the same."""
    options = {"batch_first": False, **options}
    torch.manual_seed(0)
    original = Original(2, hidden, kernels, layers, **options)
    torch.manual_seed(0)
    ours = compat.ConvLSTM(2, hidden, kernels, layers, **options)
    assert list(ours.state_dict()) == list(original.state_dict())
    for one, other in zip(ours.parameters(), original.parameters(), strict=True):
        assert torch.equal(one, other)

    x = random(4, 3, 2, 6, 7)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = ours(xs[0]), original(xs[1])
    torch.testing.assert_close(found[0], expected[0])
    assert [len(part) for part in found] == [len(part) for part in expected]
    for state, wanted in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(state, list(wanted))
    for outcome in (found, expected):
        loss = sum(output.square().sum() for output in outcome[0])
        (loss + sum(part.sum() for state in outcome[1] for part in state)).backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad)
    for one, other in zip(ours.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    assert all(output.is_contiguous() for output in found[0])


def test_states_are_carried_over() -> None:
    """TorchGeo's ``hidden_state``: a sequence in two parts, and a cell step by step."""
    layer = compat.ConvLSTM(2, [3, 4], (3, 3), 2, batch_first=True, return_all_layers=True)
    x = random(2, 5, 2, 6, 7)
    outputs, states = layer(x)
    first, carried = layer(x[:, :2])
    second, last = layer(x[:, 2:], hidden_state=carried)
    for whole, *parts in zip(outputs, first, second, strict=True):
        torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(last, states)
    state = None
    for t in range(5):
        state = layer.cell_list[0](x[:, t], state)
    assert state is not None
    torch.testing.assert_close(list(state), states[0])


def test_cells_are_those_of_torchgeo(original_torchgeo: Any) -> None:
    """Code that steps through cells by itself, from ``init_hidden`` on."""
    torch.manual_seed(0)
    original = original_torchgeo.ConvLSTMCell(2, 3, (3, 5))
    ours = compat.ConvLSTMCell(2, 3, (3, 5))
    ours.load_state_dict(original.state_dict())
    x = random(4, 2, 2, 6, 7)
    expected, found = (cell.init_hidden(2, (6, 7)) for cell in (original, ours))
    for frame in x:
        torch.testing.assert_close(found, expected)
        expected = original(input_tensor=frame, cur_state=list(expected))
        found = ours(input_tensor=frame, cur_state=list(found))
    torch.testing.assert_close(found, expected)
    assert ours.double().init_hidden(2, (6, 7))[1].dtype == torch.float64


@pytest.mark.parametrize("batch_first", [True, False])
def test_states_are_those_of_torchgeo(original_torchgeo: Any, batch_first: bool) -> None:
    """Weights as they are, initial states of every layer by its name for them."""
    sizes = (2, [3, 4], [(3, 3), 1], 2)
    options = {"batch_first": batch_first, "return_all_layers": True}
    original, ours = (
        original_torchgeo.ConvLSTM(*sizes, **options),
        compat.ConvLSTM(*sizes, **options),
    )
    ours.load_state_dict(original.state_dict())
    x = random(2, 5, 2, 6, 7) if batch_first else random(5, 2, 2, 6, 7)
    states = [(random(2, size, 6, 7), random(2, size, 6, 7) / 2) for size in (3, 4)]
    expected, last = original(x, hidden_state=states)
    found, found_last = ours(x, hidden_state=states)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_last, [list(state) for state in last])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2, 3, 2, 1), ValueError, "kernel_size: got 2, expected odd"),
        ((2, [3], 3, 2), ValueError, "hidden_dim: got 1 entries, expected 2 = num_layers"),
        ((0, 3, 3, 1), ValueError, "input_dim: got 0"),
        ((2, 3, 3, 1.5), TypeError, "num_layers: got 1.5"),
        ((2, 3, 3, 1, 1), TypeError, "batch_first: got 1"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compat.ConvLSTM(*arguments)


@pytest.mark.parametrize(
    ("x", "state", "error", "message"),
    [
        (random(2, 1, 3, 4, 4), None, ValueError, r"input_tensor: got shape .* with C = 2"),
        (random(2, 2, 4, 4), None, ValueError, r"expected \(T, B, C, H, W\)"),
        (3, None, TypeError, "input_tensor: got 3"),
        (random(2, 1, 2, 4, 4), 3, TypeError, "hidden_state: got 3, expected a list of 1"),
        (random(2, 1, 2, 4, 4), [3], TypeError, r"hidden_state\[0\]: got 3, expected \(h, c\)"),
        (
            random(2, 1, 2, 4, 4),
            [(random(1, 3, 4, 4), random(1, 3, 4, 5))],
            ValueError,
            r"hidden_state\[0\], c: got shape",
        ),
    ],
)
def test_bad_inputs(x: Any, state: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compat.ConvLSTM(2, 3, 3, 1)(x, state)

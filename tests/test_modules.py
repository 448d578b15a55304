"""The layers: shapes, states, parameters, and that they compute what their parts compute."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memx_fast import ConvLSTM, ConvLSTMCell, conv_lstm, modules

FLOAT64 = {"dtype": torch.float64}


def frames(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def randomised(layer: nn.Module, seed: int = 1) -> Any:
    """The layer with every parameter, peepholes too, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * drawn)
    return layer


def parameters(layer: ConvLSTM, suffix: str) -> tuple[Tensor | None, ...]:
    return tuple(
        getattr(layer, name + suffix) for name in ("weight_ih", "weight_hh", "bias", "weight_ch")
    )


def assert_same(found: Any, expected: Any) -> None:
    """Equal to 1e-10, through tuples and lists."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_one_layer_is_the_function() -> None:
    """One layer hands its parameters, states and options to conv_lstm."""
    options = {
        "output_peephole": "current",
        "recurrent_activation": "hard_sigmoid",
        "hard_sigmoid_slope": 0.5,
    }
    layer = randomised(ConvLSTM(2, 3, (3, 5), peephole="channel", **options))
    x, h_0, c_0 = frames(4, 2, 2, 6, 7), frames(1, 2, 3, 6, 7), frames(1, 2, 3, 6, 7, seed=2)
    layer.double()
    output, (h_n, c_n) = layer(x, (h_0, c_0))
    expected, (h, c) = conv_lstm(x, *parameters(layer, "_l0"), (h_0[0], c_0[0]), **options)
    assert_same((output, h_n[0], c_n[0]), (expected, h, c))


@pytest.mark.parametrize("lists", [False, True], ids=["tensors", "lists"])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_stacked_bidirectional_layers(backend: str, lists: bool) -> None:
    """Layer after layer, both directions concatenated; states and gradients reach each of them."""
    hidden = [3, 4] if lists else [3, 3]
    layer = randomised(
        ConvLSTM(
            2,
            hidden if lists else 3,
            [3, (1, 3)],
            2,
            bidirectional=True,
            peephole="spatial",
            spatial_size=(5, 6),
            backend=backend,
            **FLOAT64,
        )
    )
    x = frames(3, 2, 2, 5, 6).requires_grad_()
    h_0 = [frames(2, hidden[index // 2], 5, 6, seed=index).requires_grad_() for index in range(4)]
    c_0 = [frames(2, hidden[index // 2], 5, 6, seed=9 + index) for index in range(4)]
    state = (h_0, c_0) if lists else (torch.stack(h_0), torch.stack(c_0))
    output, (h_n, c_n) = layer(x, state)

    expected, states = x, []
    for index in (0, 1):
        forwards, ahead = conv_lstm(
            expected, *parameters(layer, f"_l{index}"), (h_0[2 * index], c_0[2 * index])
        )
        backwards, back = conv_lstm(
            expected.flip(0),
            *parameters(layer, f"_l{index}_reverse"),
            (h_0[2 * index + 1], c_0[2 * index + 1]),
        )
        expected = torch.cat([forwards, backwards.flip(0)], 2)
        states += [ahead, back]
    expected_h, expected_c = (list(part) for part in zip(*states, strict=True))
    assert type(h_n) is (list if lists else Tensor)
    assert_same(output, expected)
    assert_same(list(h_n), expected_h)
    assert_same(list(c_n), expected_c)

    leaves = (x, *h_0, *layer.parameters())
    weights = frames(*output.shape, seed=3)
    losses = [
        (result * weights).sum() + sum(part.sum() for part in last)
        for result, last in ((output, c_n), (expected, expected_c))
    ]
    found, exact = (torch.autograd.grad(loss, leaves) for loss in losses)
    assert_same(found, exact)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_and_unbatched(bidirectional: bool) -> None:
    """Both are views of the same computation; the states' layout does not depend on batch_first."""
    options = {"num_layers": 2, "bidirectional": bidirectional, **FLOAT64}
    layer = randomised(ConvLSTM(2, 3, **options))
    batch_first = randomised(ConvLSTM(2, 3, batch_first=True, **options))
    x, count = frames(3, 2, 2, 5, 4), 4 if bidirectional else 2
    state = (frames(count, 2, 3, 5, 4), frames(count, 2, 3, 5, 4, seed=5))
    output, states = layer(x, state)
    swapped, swapped_states = batch_first(x.transpose(0, 1), state)
    assert_same((swapped.transpose(0, 1), swapped_states), (output, states))
    for index in range(2):
        alone, (h_n, c_n) = layer(x[:, index], tuple(part[:, index] for part in state))
        assert_same((alone, h_n, c_n), (output[:, index], states[0][:, index], states[1][:, index]))


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        ({"padding": "valid"}, (7, 6)),
        ({"padding": 0}, (7, 6)),
        ({"padding": (2, 1)}, (11, 8)),
        ({"padding": 1, "stride": 2}, (5, 4)),
        ({"padding": "valid", "dilation": 2}, (5, 4)),
        ({"padding": "same", "dilation": (2, 1)}, (9, 8)),
    ],
)
def test_geometry_of_the_first_layer(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    """It is the input convolution's of layer 0; deeper layers and the recurrence keep the size."""
    layer = randomised(
        ConvLSTM(2, 3, num_layers=2, peephole="spatial", spatial_size=(9, 8), **geometry, **FLOAT64)
    )
    x = frames(2, 2, 2, 9, 8)
    output, (h_n, c_n) = layer(x)
    assert output.shape == (2, 2, 3, *size)
    assert h_n.shape == c_n.shape == (2, 2, 3, *size)
    assert layer.weight_ch_l0.shape == layer.weight_ch_l1.shape == (3, 3, *size)
    first, _ = conv_lstm(x, *parameters(layer, "_l0"), **geometry)
    second, _ = conv_lstm(first, *parameters(layer, "_l1"))
    assert_same(output, second)
    zeros = torch.zeros_like(h_n)
    assert_same(layer(x, (zeros, zeros))[0], output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cutting_a_sequence_changes_nothing(dtype: torch.dtype) -> None:
    """States carried over give bitwise the same frames, in half types too: c_n is float32."""
    layer = randomised(ConvLSTM(2, 5, num_layers=2, peephole="channel")).to(dtype)
    x = frames(5, 2, 2, 6, 7, dtype=dtype)
    output, (h_n, c_n) = layer(x)
    first, state = layer(x[:2])
    second, (h_last, c_last) = layer(x[2:], state)
    assert output.dtype == h_n.dtype == dtype
    assert c_n.dtype == torch.float32
    assert torch.equal(torch.cat([first, second]), output)
    assert torch.equal(h_last, h_n)
    assert torch.equal(c_last, c_n)


def test_dropout_between_layers_in_training_only() -> None:
    """The first layer's output loses elements, the last layer's does not; evaluation has none."""
    layer = randomised(ConvLSTM(1, 2, num_layers=2, dropout=0.5, **FLOAT64))
    plain = randomised(ConvLSTM(1, 2, num_layers=2, **FLOAT64))
    x = frames(2, 1, 1, 6, 6)
    assert_same(layer.eval()(x), plain(x))
    torch.manual_seed(0)
    output, _ = layer.train()(x)
    torch.manual_seed(0)
    first, _ = conv_lstm(x, *parameters(plain, "_l0"))
    expected, _ = conv_lstm(nn.functional.dropout(first, 0.5), *parameters(plain, "_l1"))
    assert_same(output, expected)
    with pytest.warns(UserWarning, match=r"dropout: got 0.5 with num_layers=1"):
        ConvLSTM(1, 2, dropout=0.5)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_recurrent_dropout_holds_its_mask_over_time(backend: str) -> None:
    """One mask a recurrence and call, drawn by PyTorch's generator; none in evaluation."""
    options = {"num_layers": 2, "bidirectional": True, "padding": "valid", **FLOAT64}
    layer = randomised(ConvLSTM(2, 3, recurrent_dropout=0.4, backend=backend, **options))
    plain = randomised(ConvLSTM(2, 3, **options))
    x = frames(3, 2, 2, 6, 5)
    assert_same(layer.eval()(x), plain(x))
    layer.train()
    torch.manual_seed(0)
    output, (h_n, c_n) = layer(x)
    assert not torch.allclose(output, plain(x)[0])
    torch.manual_seed(0)
    expected, states = x, []
    for index in range(2):
        parts = []
        for suffix in (f"_l{index}", f"_l{index}_reverse"):
            mask = nn.functional.dropout(torch.ones(2, 3, 4, 3, **FLOAT64), 0.4)
            assert set(mask.unique().tolist()) == {0.0, 1 / 0.6}
            turned = expected.flip(0) if suffix.endswith("reverse") else expected
            padding = "valid" if index == 0 else "same"
            part, state = conv_lstm(
                turned, *parameters(plain, suffix), padding=padding, hidden_mask=mask
            )
            parts.append(part.flip(0) if suffix.endswith("reverse") else part)
            states.append(state)
        expected = torch.cat(parts, 2)
    assert_same(output, expected)
    assert_same((list(h_n), list(c_n)), tuple(list(part) for part in zip(*states, strict=True)))


def test_recurrent_dropout_in_half_types_and_under_autocast() -> None:
    """The mask takes the type of the computation; a probability of one leaves no recurrence."""
    x = frames(3, 1, 2, 5, 5, dtype=torch.float32)
    layer = randomised(ConvLSTM(2, 3, recurrent_dropout=0.5))
    half = copy.deepcopy(layer).bfloat16()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x)
    torch.manual_seed(0)
    assert torch.equal(output, half(x.bfloat16())[0])
    none = randomised(ConvLSTM(2, 3, recurrent_dropout=1.0))
    weight_ih, weight_hh, bias, _ = parameters(none, "_l0")
    expected, _ = conv_lstm(x, weight_ih, torch.zeros_like(weight_hh), bias)
    torch.testing.assert_close(none(x)[0], expected)


def test_recompute_changes_memory_not_gradients() -> None:
    """The gates are not kept, and the gradients are the same."""
    layer = randomised(ConvLSTM(2, 3, num_layers=2, recompute=True))
    usual = randomised(ConvLSTM(2, 3, num_layers=2, recompute=False))
    x = frames(4, 2, 2, 6, 7, dtype=torch.float32)

    def saved_bytes(model: ConvLSTM) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(x)[0].square().sum().backward()
        return sum(sizes.values())

    gates = layer.num_layers * 4 * 4 * 2 * 3 * 6 * 7 * 4
    assert saved_bytes(usual) - saved_bytes(layer) >= gates
    for one, other in zip(layer.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_parameter_names_and_shapes() -> None:
    """Those that nn.LSTM would have, gates and peepholes stacked in the first dimension."""
    layer = ConvLSTM(2, [3, 4], [3, (1, 5)], 2, bidirectional=True, peephole="channel")
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    for reverse in ("", "_reverse"):
        assert shapes.pop(f"weight_ih_l0{reverse}") == (12, 2, 3, 3)
        assert shapes.pop(f"weight_hh_l0{reverse}") == (12, 3, 3, 3)
        assert shapes.pop(f"bias_l0{reverse}") == (12,)
        assert shapes.pop(f"weight_ch_l0{reverse}") == (3, 3)
        assert shapes.pop(f"weight_ih_l1{reverse}") == (16, 6, 1, 5)
        assert shapes.pop(f"weight_hh_l1{reverse}") == (16, 4, 1, 5)
        assert shapes.pop(f"bias_l1{reverse}") == (16,)
        assert shapes.pop(f"weight_ch_l1{reverse}") == (3, 4)
    assert not shapes
    bare = ConvLSTM(2, 3, bias=False)
    assert bare.bias_l0 is None
    assert bare.weight_ch_l0 is None
    assert set(bare.state_dict()) == {"weight_ih_l0", "weight_hh_l0"}


@pytest.mark.parametrize("make", [ConvLSTM, ConvLSTMCell])
def test_initialisation(make: Callable[..., nn.Module]) -> None:
    """Weights fill (-k, k) evenly, k = 1/sqrt of the joint fan-in; forget gates are open."""
    torch.manual_seed(0)
    layer = make(4, 16, 3, peephole="channel", forget_bias=2.0)
    suffix = "_l0" if make is ConvLSTM else ""
    weight_ih, weight_hh, bias, weight_ch = parameters(layer, suffix)
    bound = ((4 + 16) * 9) ** -0.5
    for weight in (weight_ih, weight_hh):
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.99 * bound
        # The mean of n numbers uniform in (-k, k) has the standard deviation k / sqrt(3 n).
        assert weight.mean().abs() < 5 * bound / (3 * weight.numel()) ** 0.5
    gates = bias.view(4, 16)
    assert (gates[1] == 2).all()
    assert (gates[[0, 2, 3]] == 0).all()
    assert (weight_ch == 0).all()
    before = weight_ih.clone()
    layer.reset_parameters()
    assert not torch.equal(before, weight_ih)


def test_state_dict_copy_and_pickle() -> None:
    """Each gives a layer that computes the same; a copy shares no memory with its original."""
    layer = randomised(ConvLSTM(1, 3, num_layers=2, peephole="spatial", spatial_size=5))
    x = frames(2, 1, 1, 5, 5, dtype=torch.float32)
    output, _ = layer(x)
    restored = ConvLSTM(1, 3, num_layers=2, peephole="spatial", spatial_size=5)
    restored.load_state_dict(layer.state_dict())
    copied = copy.deepcopy(layer)
    pickled = pickle.loads(pickle.dumps(layer))
    for other in (restored, copied, pickled):
        assert torch.equal(other(x)[0], output)
        assert repr(other) == repr(layer)
    with torch.no_grad():
        copied.weight_hh_l1.zero_()
    assert torch.equal(layer(x)[0], output)


def test_moving_between_types() -> None:
    """.to(dtype) moves all parameters; the result then has that type."""
    layer = randomised(ConvLSTM(1, 3, peephole="channel"))
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        output, (h_n, _) = layer.to(dtype)(frames(2, 1, 1, 5, 5, dtype=dtype))
        assert output.dtype == h_n.dtype == dtype
    assert ConvLSTM(1, 3, dtype=torch.float64).weight_hh_l0.dtype == torch.float64
    assert ConvLSTM(1, 3, device="meta")(torch.zeros(2, 1, 1, 5, 5, device="meta"))[0].is_meta


def test_repr_names_what_differs_from_the_defaults() -> None:
    """As nn.LSTM's: the sizes, then only what was chosen."""
    assert repr(ConvLSTM(1, 32)) == "ConvLSTM(1, 32, 3)"
    chosen = ConvLSTM(1, [2, 3], (3, 5), 2, batch_first=True, padding="valid", recompute=True)
    expected = (
        "ConvLSTM(1, [2, 3], (3, 5), num_layers=2, batch_first=True, padding='valid', "
        "recompute=1.0)"
    )
    assert repr(chosen) == expected
    assert repr(ConvLSTMCell(1, 2, bias=False)) == "ConvLSTMCell(1, 2, 3, bias=False)"
    hard = ConvLSTMCell(1, 2, recurrent_activation="hard_sigmoid", hard_sigmoid_slope=0.2)
    expected = "1, 2, 3, recurrent_activation='hard_sigmoid', hard_sigmoid_slope=0.2"
    assert repr(hard) == f"ConvLSTMCell({expected})"


def test_parametrised_weights_are_used() -> None:
    """torch.nn.utils.parametrize replaces a weight by a computed one, which gets the gradient."""
    layer = ConvLSTM(1, 2, **FLOAT64)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    x = frames(3, 1, 1, 5, 5)
    expected, _ = conv_lstm(x, *parameters(layer, "_l0"))
    output, _ = layer(x)
    assert_same(output, expected)
    output.square().sum().backward()
    assert layer.parametrizations.weight_hh_l0.original0.grad.abs().sum() > 0


def test_compiled_in_one_graph() -> None:
    """torch.compile traces through the layer without a break, backward included."""
    layer = randomised(ConvLSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True))
    x = frames(2, 3, 2, 6, 5, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for model in (layer, compiled):
        layer.zero_grad()
        output, (_, c_n) = model(x)
        (output.square().sum() + c_n.sum()).backward()
        results.append([output.detach(), *(value.grad.clone() for value in layer.parameters())])
    torch.testing.assert_close(*results)


def test_exported_with_any_number_of_steps() -> None:
    """torch.export with a dynamic time axis, in training mode; the program runs other lengths."""
    layer = randomised(ConvLSTM(2, 3, recompute=0.29))
    steps = torch.export.Dim("steps", min=2)
    x = frames(4, 1, 2, 5, 5, dtype=torch.float32)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: steps},)).module()
    longer = frames(7, 1, 2, 5, 5, dtype=torch.float32)
    assert torch.equal(program(longer)[0], layer(longer)[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_empty_batch(batch_first: bool) -> None:
    """As nn.LSTM's: no sequences in, none out, and gradients of zero."""
    layer = ConvLSTM(2, 3, num_layers=2, batch_first=batch_first, padding="valid")
    shape = (0, 4) if batch_first else (4, 0)
    output, (h_n, c_n) = layer(torch.zeros(*shape, 2, 6, 7))
    assert output.shape == (*shape, 3, 4, 5)
    assert h_n.shape == c_n.shape == (2, 0, 3, 4, 5)
    output.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in layer.parameters())


@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
def test_cell_steps_through_a_layer(peephole: str | None) -> None:
    """Cell after cell with the same weights gives the layer's output, batched and not."""
    options: dict[str, Any] = {
        "peephole": peephole,
        "spatial_size": (7, 6) if peephole == "spatial" else None,
        "padding": "valid",
        "output_peephole": "current",
        "recurrent_activation": "hard_sigmoid",
        **FLOAT64,
    }
    layer = randomised(ConvLSTM(2, 3, **options))
    cell = ConvLSTMCell(2, 3, **options)
    names = {name: name.removesuffix("_l0") for name in layer.state_dict()}
    cell.load_state_dict({names[name]: value for name, value in layer.state_dict().items()})
    x = frames(3, 2, 2, 7, 6)
    output, (h_n, c_n) = layer(x)
    state = alone = None
    for t, frame in enumerate(x):
        state = cell(frame, state)
        alone = cell(frame[1], alone)
        assert_same(state[0], output[t])
        assert_same(alone[0], output[t, 1])
    assert_same(state, (h_n[0], c_n[0]))


def test_no_warning_in_ordinary_use() -> None:
    """A layer that is built and used as documented is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = modules.ConvLSTM(1, 2, num_layers=2, dropout=0.1)
        layer(torch.zeros(2, 1, 1, 4, 4))

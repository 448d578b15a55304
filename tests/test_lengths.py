"""Sequences of different length in one batch: each gets what it would get alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from memx_fast import ConvLSTM, ConvLSTM1d, ConvLSTM3d, reference, reference_backward
from memx_fast.functional import conv_lstm
from tests.operator_cases import NAMES, Case, cast, fused, plain, results_and_gradients

LENGTHS = [3, 5, 1, 4]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def made(make: Any = ConvLSTM, **options: Any) -> ConvLSTM:
    torch.manual_seed(0)
    layer = make(2, 3, dtype=torch.float64, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def everything(layer: ConvLSTM, x: Tensor, state: Any, run: Any) -> list[Tensor]:
    """Output, h_n, c_n and the gradients of parameters, x and states, whatever ``run`` calls."""
    leaves = [*layer.parameters(), x, *state]
    output, (h_n, c_n) = run(x, state)
    loss = sum(
        (part * drawn(*part.shape, seed=seed)).sum()
        for seed, part in enumerate((output, h_n, c_n), start=7)
    )
    return [output, h_n, c_n, *torch.autograd.grad(loss, leaves)]


def alone(layer: ConvLSTM, x: Tensor, state: Any) -> Any:
    """Every sequence by itself; x is (T, B, C, ..)."""
    results = []
    for b, length in enumerate(LENGTHS):
        one = slice(b, b + 1)
        output, (h_n, c_n) = layer(x[:length, one], tuple(part[:, one] for part in state))
        padding = output.new_zeros(len(x) - length, *output.shape[1:])
        results.append((torch.cat([output, padding]), h_n, c_n))
    output, h_n, c_n = (torch.cat(parts, 1) for parts in zip(*results, strict=True))
    return output, (h_n, c_n)


LAYERS = {
    "plain": (ConvLSTM, {}),
    "stacked": (ConvLSTM, {"num_layers": 2, "bidirectional": True, "peephole": "channel"}),
    "reference": (ConvLSTM, {"backend": "reference", "bidirectional": True}),
    "strided": (ConvLSTM, {"padding": 1, "stride": 2, "recurrent_activation": "hard_sigmoid"}),
    "recompute": (ConvLSTM, {"recompute": True, "peephole": "spatial", "spatial_size": (6, 4)}),
    "lines": (ConvLSTM1d, {"bidirectional": True}),
    "volumes": (ConvLSTM3d, {"peephole": "channel"}),
    "strided_volumes": (ConvLSTM3d, {"padding": 1, "stride": 2, "backend": "reference"}),
}


def problem(layer: ConvLSTM) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """x, NaN after the end of every sequence, and states."""
    frame = (6, 4, 2)[: layer.axes]
    x = drawn(5, len(LENGTHS), 2, *frame)
    recurrences = layer.num_layers * (2 if layer.bidirectional else 1)
    size = layer._convolution.output_size(*frame)
    shape = (recurrences, len(LENGTHS), 3, *size)
    for b, length in enumerate(LENGTHS):
        x[length:, b] = torch.nan
    state = drawn(*shape, seed=1).requires_grad_(), drawn(*shape, seed=2).requires_grad_()
    return x.requires_grad_(), state


@pytest.mark.parametrize("name", LAYERS)
def test_layer_runs_every_sequence_as_alone(name: str) -> None:
    """Results and all gradients to 1e-10; what x has after a sequence's end is never read."""
    make, options = LAYERS[name]
    layer = made(make, **options)
    x, state = problem(layer)
    exact = everything(layer, x, state, lambda x, state: alone(layer, x, state))
    found = everything(layer, x, state, lambda x, state: layer(x, state, LENGTHS))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    after = torch.arange(5)[:, None] >= torch.tensor(LENGTHS)
    assert not found[0][after].any()


@pytest.mark.parametrize("lengths", [tuple(LENGTHS), torch.tensor(LENGTHS, dtype=torch.int32)])
def test_batch_first(lengths: Any) -> None:
    """The steps are found in their other place; lengths may be a tuple or a tensor."""
    layer, batch_first = made(bidirectional=True), made(bidirectional=True, batch_first=True)
    x, state = problem(layer)
    output, states = layer(x, state, LENGTHS)
    found, found_states = batch_first(x.transpose(0, 1), state, lengths=lengths)
    assert torch.equal(found, output.transpose(0, 1))
    for one, other in zip(found_states, states, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sort", [False, True], ids=["unsorted", "sorted"])
def test_packed_sequence(sort: bool) -> None:
    """As nn.LSTM: packed in, packed alike out, states in the order before packing."""
    layer = made(num_layers=2, bidirectional=True, batch_first=True)
    x, state = problem(layer)
    order = sorted(range(len(LENGTHS)), key=lambda b: -LENGTHS[b]) if sort else [0, 1, 2, 3]
    x, lengths = x.detach()[:, order].nan_to_num().requires_grad_(), torch.tensor(LENGTHS)[order]

    def packed(x: Tensor, state: Any) -> Any:
        given = pack_padded_sequence(x, lengths, enforce_sorted=sort)
        output, states = layer(given, state)
        assert isinstance(output, PackedSequence)
        for found, expected in zip(output[1:], given[1:], strict=True):
            assert found is expected is None or torch.equal(found, expected)
        return pad_packed_sequence(output)[0], states

    def padded(x: Tensor, state: Any) -> Any:
        output, states = layer(x.transpose(0, 1), state, lengths)
        return output.transpose(0, 1), states

    exact = everything(layer, x, state, padded)
    for one, other in zip(everything(layer, x, state, packed), exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sort", [False, True], ids=["unsorted", "sorted"])
@pytest.mark.parametrize("states", [False, True])
def test_packed_sequence_is_that_of_nn_lstm(batch_first: bool, sort: bool, states: bool) -> None:
    """On images of one pixel: outputs, packing, states and gradients of two layers, both ways."""
    sizes = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    theirs = torch.nn.LSTM(2, 3, dtype=torch.float64, **sizes)
    ours = ConvLSTM(2, 3, 1, dtype=torch.float64, **sizes)
    given = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.startswith("bias"):
                value = (
                    given[name.replace("bias", "bias_ih")] + given[name.replace("bias", "bias_hh")]
                )
            else:
                value = given[name]
            parameter.copy_(value.reshape(parameter.shape))
    lengths = sorted(LENGTHS, reverse=True) if sort else LENGTHS
    x = drawn(4, 5, 2) if batch_first else drawn(5, 4, 2)
    start = [drawn(4, 4, 3, seed=seed) for seed in (1, 2)]

    def everything_of(run: Any, frame: tuple[int, ...], layer: torch.nn.Module) -> list[Tensor]:
        leaf = x.reshape(*x.shape, *frame).requires_grad_()
        packed = pack_padded_sequence(leaf, torch.tensor(lengths), batch_first, sort)
        state = tuple(part.reshape(*part.shape, *frame) for part in start) if states else None
        output, (h_n, c_n) = run(packed, state)
        for found, expected in zip(output[1:], packed[1:], strict=True):
            assert found is expected is None or torch.equal(found, expected)
        padded, ends = pad_packed_sequence(output, batch_first)
        assert ends.tolist() == lengths
        loss = padded.square().sum() + h_n.sin().sum() + c_n.cos().sum()
        weights = [getattr(layer, name) for name in ("weight_ih_l0", "weight_hh_l1_reverse")]
        return [padded, h_n, c_n, *torch.autograd.grad(loss, [leaf, *weights])]

    exact = everything_of(theirs, (), theirs)
    for one, other in zip(everything_of(ours, (1, 1), ours), exact, strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recompute", [0.0, 0.5, 1.0])
def test_padding_of_gradients_is_not_read(recompute: float) -> None:
    """NaN in x and in the incoming gradient after the end, gates saved or computed again."""
    case = Case(4, 5, 3, 9, 8, 7, peephole="spatial", masked=True, ragged=True)
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    after = torch.arange(case.steps)[:, None] >= case.lengths()
    incoming = case.incoming()
    incoming[0][after] = torch.nan
    with torch.no_grad():
        arguments["x"][after] = torch.nan

    def run(case: Case, arguments: dict[str, Tensor | None]) -> Any:
        return fused(case, arguments, recompute)

    found = results_and_gradients(run, case, arguments, incoming)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_inference_gives_the_results_of_training() -> None:
    """Without saved cells, C_t is updated in place and stays as the last step left it."""
    case = Case(4, 5, 3, 8, 9, 7, peephole="channel", ragged=True)
    arguments = cast(case.arguments(), torch.float32)
    with torch.no_grad():
        found = fused(case, arguments)
    for one, other in zip(found, fused(case, arguments), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("output_peephole", ["previous", "current"])
@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
def test_reference(peephole: str | None, output_peephole: str) -> None:
    """The reference, and its derivative written by hand."""
    case = Case(
        *(3, 4, 2, 3, 4, 5),
        peephole=peephole,
        output_peephole=output_peephole,
        masked=True,
        ragged=True,
    )
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    given = (
        *(arguments[name] for name in NAMES[:5]),
        (arguments["h_0"], arguments["c_0"]),
        case.hidden_mask(arguments["x"]),
        case.lengths(),
    )
    output, (h_n, c_n) = reference.conv_lstm(*given, output_peephole=output_peephole)
    grads = reference_backward.conv_lstm_backward(
        *case.incoming(), *given, output_peephole=output_peephole
    )
    leaves = [leaf for leaf in arguments.values() if leaf is not None]
    automatic = torch.autograd.grad((output, h_n, c_n), leaves, case.incoming())
    by_hand = [grad for grad in grads if grad is not None]
    for found in ((output, h_n, c_n, *automatic), (output, h_n, c_n, *by_hand)):
        for one, (name, value) in zip(found, exact.items(), strict=True):
            torch.testing.assert_close(one, value, rtol=1e-10, atol=1e-10, msg=name)


def test_full_lengths_change_no_bit() -> None:
    """T for every sequence is what no lengths are."""
    layer = made(bidirectional=True)
    x = drawn(5, 2, 2, 6, 4)
    for one, other in zip(layer(x, None, [5, 5])[1], layer(x)[1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiled(backend: str) -> None:
    """fullgraph and dynamic: the lengths are data, and no value of theirs is compiled in."""
    layer = made(bidirectional=True, backend=backend)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([3, 5, 1, 4], [5, 2, 2, 1]):
        x = drawn(5, 4, 2, 6, 4)
        found, (h_n, _) = compiled(x, None, torch.tensor(lengths))
        expected, (h, _) = layer(x, None, lengths)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(h_n, h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2, 3], ValueError, r"lengths: got shape \(3,\), expected \(2,\) = \(B,\)"),
        (torch.ones(2, 1).long(), ValueError, r"lengths: got shape \(2, 1\)"),
        ([0, 3], ValueError, "lengths: got 0, expected at least 1"),
        ([-2, 3], ValueError, "lengths: got -2, expected at least 1"),
        (torch.tensor([-2, 3]), ValueError, "lengths: got -2, expected 1 to 5 = T steps"),
        ([2**70, 3], ValueError, "lengths: got 1180591620717411303424, expected 1 to 5 = T steps"),
        (
            torch.ones(2, device="meta").long(),
            ValueError,
            "lengths: got a tensor on meta, expected",
        ),
        (np.array([3, 3]), TypeError, r"lengths: got array\(\[3, 3\]\), expected 2 whole numbers"),
        (torch.tensor([0, 3]), ValueError, "lengths: got 0, expected 1 to 5 = T steps"),
        ([6, 3], ValueError, "lengths: got 6, expected 1 to 5 = T steps"),
        ([1.0, 3], TypeError, "lengths: got 1.0, expected a whole number"),
        (torch.tensor([1.0, 3.0]), TypeError, "lengths: got a tensor of torch.float32"),
        (torch.tensor([True, True]), TypeError, "lengths: got a tensor of torch.bool"),
        (4, TypeError, "lengths: got 4, expected 2 whole numbers"),
    ],
)
def test_wrong_lengths(lengths: Any, error: type[Exception], message: str) -> None:
    """The message names the argument, what came and what was expected."""
    layer = made()
    x = drawn(5, 2, 2, 6, 4)
    with pytest.raises(error, match=message):
        layer(x, None, lengths)
    with pytest.raises(error, match=message):
        conv_lstm(x, layer.weight_ih_l0, layer.weight_hh_l0, lengths=lengths)


def test_where_lengths_have_no_place() -> None:
    """One sequence has one length, and a packed batch has its own."""
    layer, x = made(), drawn(5, 2, 2, 6, 4)
    with pytest.raises(ValueError, match=r"lengths: got a list of 1 with one sequence x of shape"):
        layer(x[:, 0], None, [3])
    packed = pack_padded_sequence(x, torch.tensor([5, 2]))
    with pytest.raises(ValueError, match="lengths: got a list of 2 with a PackedSequence"):
        layer(packed, None, [5, 2])
    with pytest.raises(ValueError, match=r"h_0: got shape .* expected \(1, 2, 3, 6, 4\)"):
        layer(packed, (drawn(1, 3, 3, 6, 4), drawn(1, 3, 3, 6, 4)))
    with pytest.raises(ValueError, match="x: got 3 channels"):
        layer(pack_padded_sequence(drawn(5, 2, 3, 6, 4), torch.tensor([5, 2])))

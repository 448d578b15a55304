"""The Triton kernels against the float64 reference: forward and every gradient."""

import pytest
import torch
from torch import Tensor

from tests.accuracy import worse_than_plain
from tests.interpreted.kernel_calls import forward, kernels
from tests.operator_cases import (
    ENGINE_CASES,
    HALF_TYPES,
    NAMES,
    Case,
    cast,
    plain,
    results_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", ENGINE_CASES, ids=str)
def test_float64_agrees_with_the_reference(case: Case) -> None:
    """Results and all gradients to 1e-10, with the gates of half of the steps saved."""
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    found = kernels(case, arguments, case.incoming(), case.steps // 2)
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


ACCURACY_CASES = (
    Case(3, 1, 1, 17, 13, 11, peephole="spatial"),
    Case(3, 2, 5, 16, 9, 7, peephole="channel", output_peephole="current"),
    Case(2, 1, 17, 33, 9, 8, states=False),
    Case(3, 1, 3, 12, 11, 9, (5, 5), (5, 5), bias=False),
    Case(3, 1, 0, 16, 12, 9),
    Case(3, 2, 5, 16, 9, 7, peephole="channel", hard_slope=0.5),
    Case(3, 2, 5, 16, 9, 7, masked=True),
    Case(3, 2, 5, 16, 9, 7, ragged=True),
)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES], ids=str)
@pytest.mark.parametrize("case", ACCURACY_CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(case: Case, dtype: torch.dtype) -> None:
    """In every other dtype: twice the error plain PyTorch makes in it."""

    def run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        given = cast(arguments, dtype, c_0=torch.float32)
        return kernels(case, given, incoming, case.steps - 1)

    assert worse_than_plain(case, dtype, run) is None


def every_second(tensor: Tensor) -> Tensor:
    """The tensor cut out of a twice as wide one, whose rest is NaN."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides(dtype: torch.dtype) -> None:
    """Arguments and incoming gradients that are not dense give bitwise the dense ones' results."""
    case = Case(2, 2, 3, 9, 5, 4, peephole="spatial")
    dense = cast(case.arguments(), dtype, c_0=torch.float32)
    exact = kernels(case, dense, case.incoming())
    strided = {name: every_second(value.detach()) for name, value in dense.items()}
    found = kernels(case, strided, [every_second(grad) for grad in case.incoming()])
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


def test_expanded_gradients() -> None:
    """The gradient of a sum has zero strides everywhere; it is read as it is."""
    case = Case(2, 1, 2, 5, 4, 3)
    arguments = cast(case.arguments(), torch.float32)
    shapes = [grad.shape for grad in case.incoming()]
    expanded = [torch.tensor(float(n + 1)).expand(shape) for n, shape in enumerate(shapes)]
    exact = kernels(case, arguments, [grad.clone() for grad in expanded])
    found = kernels(case, arguments, expanded)
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("part", [0, 1, 2], ids=["output", "h_n", "c_n"])
def test_one_incoming_gradient(part: int) -> None:
    """Results that take no part in the loss need no gradient of zeros."""
    case = Case(2, 1, 3, 5, 4, 5, peephole="channel", output_peephole="current")
    arguments = cast(case.arguments(), torch.float64)
    full = case.incoming()
    zeros = [grad if n == part else torch.zeros_like(grad) for n, grad in enumerate(full)]
    exact = results_and_gradients(plain, case, arguments, zeros)
    found = kernels(case, arguments, [grad if n == part else None for n, grad in enumerate(full)])
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("wanted", [(name,) for name in NAMES])
def test_only_wanted_gradients(wanted: tuple[str, ...]) -> None:
    """Each gradient is the same whichever others are asked for, and the others are empty."""
    case = Case(2, 1, 3, 5, 4, 5, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    exact = kernels(case, arguments, case.incoming())
    found = kernels(case, arguments, case.incoming(), needs=wanted)
    assert torch.equal(found[f"grad of {wanted[0]}"], exact[f"grad of {wanted[0]}"])


def test_same_bits_every_time_and_nothing_saved_is_changed() -> None:
    """A second run and a second backward give the same bits."""
    case = Case(3, 2, 5, 9, 7, 5, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    first = kernels(case, arguments, case.incoming(), saved_gates=1)
    second = kernels(case, arguments, case.incoming(), saved_gates=1)
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_computing_gates_again_changes_nothing() -> None:
    """Gradients have the same bits whether the gates were saved or not."""
    case = Case(3, 1, 3, 9, 5, 6, peephole="spatial", masked=True)
    arguments = cast(case.arguments(), torch.bfloat16, c_0=torch.float32)
    saved = kernels(case, arguments, case.incoming())
    again = kernels(case, arguments, case.incoming(), saved_gates=0)
    for name, value in saved.items():
        assert torch.equal(again[name], value), name


def test_what_follows_the_end_is_not_read() -> None:
    """NaN in x and in incoming gradients after a sequence's end changes no bit, saved or not."""
    case = Case(3, 4, 3, 5, 4, 6, peephole="channel", ragged=True)
    arguments = cast(case.arguments(), torch.float32)
    exact = kernels(case, arguments, case.incoming(), saved_gates=1)
    after = torch.arange(case.steps)[:, None] >= case.lengths()
    with_nan = {name: value.detach().clone() for name, value in arguments.items()}
    incoming = [grad.clone() for grad in case.incoming()]
    with_nan["x"][after] = torch.nan
    incoming[0][after] = torch.nan
    found = kernels(case, with_nan, incoming, saved_gates=1)
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("ragged", [False, True])
def test_inference_gives_the_results_of_training(ragged: bool) -> None:
    """Without cells, C_t is updated in place."""
    from memx_fast import triton_kernels

    case = Case(3, 2, 3, 5, 4, 6, peephole="channel", ragged=ragged)
    arguments = {name: value.float() for name, value in case.arguments().items()}
    trained = forward(case, arguments)
    ordered = [arguments[name] for name in NAMES]
    untrained = triton_kernels.conv_lstm(
        *ordered, [1, 1], False, False, 0, 0.0, None, case.lengths()
    )
    for found, expected in zip(untrained[:3], trained[:3], strict=True):
        assert torch.equal(found, expected)
    assert untrained[3].shape == (0,)
    assert untrained[4].shape == (0, 2, 4, 6, 4, 5)


def test_nan_reaches_what_it_should() -> None:
    """A NaN pixel makes its neighbourhood NaN and nothing else."""
    case = Case(1, 1, 2, 3, 7, 9, states=False)
    arguments = {
        name: None if value is None else value.float() for name, value in case.arguments().items()
    }
    arguments["x"][0, 0, 1, 3, 4] = torch.nan
    output = forward(case, arguments)[0]
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(output.isnan()[0, 0].all(0), expected)
    assert torch.equal(output.isnan()[0, 0].any(0), expected)


def test_weight_gradient_in_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the pixels into more parts, the last of them shorter, changes only the rounding."""
    from memx_fast.triton_kernels import weight_gradient

    case = Case(3, 2, 2, 5, 9, 7)
    arguments = cast(case.arguments(), torch.float64)
    whole = kernels(case, arguments, case.incoming(), needs=("weight_ih", "weight_hh"))
    monkeypatch.setattr(weight_gradient, "_SHORTEST_RUN", 20)
    parts = kernels(case, arguments, case.incoming(), needs=("weight_ih", "weight_hh"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-12, msg=name)
    assert not torch.equal(parts["grad of weight_hh"], whole["grad of weight_hh"])


def test_sums_over_many_images_are_rounded_like_few() -> None:
    """Gradients of bias and peepholes of one pixel: their error does not grow with T B.

    Compensated sums of numbers of one sign are right to one epsilon, and rounded products to one
    more. Plain sums of so many are off by several.
    """
    from memx_fast.triton_kernels.parameter_sums import parameter_sums

    images, hidden = 200, 16
    generator = torch.Generator().manual_seed(0)
    gradients = torch.rand(images, 1, 1, 1, 4, hidden, generator=generator)
    cells = torch.rand(images, 1, 1, 1, hidden, generator=generator)
    found = parameter_sums(
        gradients, cells, None, torch.zeros(4 * hidden), torch.zeros(3, hidden), sees_current=True
    )
    gates, current = gradients.double().flatten(0, 3), cells.double().flatten(0, 3)
    previous = torch.cat([torch.zeros(1, hidden), current[:-1]])
    i, f, _, o = gates.unbind(1)
    eps = torch.finfo(torch.float32).eps
    exact = gates.sum(0).flatten()
    torch.testing.assert_close(found.bias.double(), exact, rtol=eps, atol=0)
    exact = torch.stack([i * previous, f * previous, o * current]).sum(1)
    torch.testing.assert_close(found.peepholes.double(), exact, rtol=2 * eps, atol=0)


def test_weights_are_rounded_to_the_nearest_tf32() -> None:
    """Ties go away from 0; infinity, NaN of any bits and zeros of both signs stay what they are."""
    from memx_fast.triton_kernels.packing import rounded

    spacing = 2**-10  # of TF32 from 1 to 2
    weight = torch.tensor([1.0, -1 - 0.499 * spacing, 1 + 0.5 * spacing, -1 - 1.5 * spacing])
    nearest = torch.tensor([1.0, -1, 1 + spacing, -1 - 2 * spacing])
    assert torch.equal(rounded(weight, "tf32"), nearest)
    assert torch.equal(rounded(weight, "ieee"), weight)
    kept = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    assert torch.equal(rounded(kept, "tf32").view(torch.int32), kept.view(torch.int32))
    bits = torch.tensor([0x7FFFFFFF, 0x7FC00000, -1, -0x400000], dtype=torch.int32)
    assert rounded(bits.view(torch.float32), "tf32").isnan().all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinite_gradients_stay_infinite() -> None:
    """What overflowed is infinite in the sums as well, not NaN, also with finite numbers after."""
    from memx_fast.triton_kernels.parameter_sums import parameter_sums

    gradients = torch.ones(5, 1, 2, 2, 4, 3)
    gradients[1, 0, 0, 0, 0], gradients[2, 0, 1, 1, 2] = torch.inf, -torch.inf
    gradients[3, 0, 1, 0, 3] = torch.nan
    cells = torch.ones(5, 1, 2, 2, 3)
    found = parameter_sums(gradients, cells, None, torch.zeros(12), None, sees_current=False).bias
    exact = gradients.sum((0, 1, 2, 3)).flatten()
    torch.testing.assert_close(found, exact, rtol=0, atol=0, equal_nan=True)

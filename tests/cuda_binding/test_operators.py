"""conv_lstm_cuda on CPU tensors, through autograd: numbers, layouts, what it refuses."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from memx_fast import ops
from tests.accuracy import rounded_problem, worse_than_plain
from tests.operator_cases import (
    ENGINE_CASES,
    HALF_TYPES,
    NAMES,
    Case,
    cast,
    distance,
    float32_multiplied_in,
    fused,
    plain,
    results_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")

OPERATOR = torch.ops.memx_fast.conv_lstm_cuda
BACKWARD = torch.ops.memx_fast.conv_lstm_cuda_backward

in_cuda = partial(fused, operator="conv_lstm_cuda")


def sliced(tensor: Tensor) -> Tensor:
    """Every other element of a twice as wide NaN-filled tensor."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


def misaligned(tensor: Tensor) -> Tensor:
    """Dense with channels last, one element after where the kernels could read whole pieces."""
    memory = tensor.new_full((tensor.numel() + 1,), torch.nan)[1:]
    shape = tensor.movedim(-3, -1).shape
    return memory.view(shape).copy_(tensor.movedim(-3, -1)).movedim(-1, -3)


def batch_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("case", ENGINE_CASES, ids=str)
def test_float64_agrees_with_the_reference(case: Case) -> None:
    """Results and all gradients to 1e-10, with the gates of half of the steps computed again."""
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    found = results_and_gradients(
        lambda *given: in_cuda(*given, recompute=0.5), case, arguments, case.incoming()
    )
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, "ieee"), (torch.float32, "tf32"), *((dtype, "ieee") for dtype in HALF_TYPES)],
    ids=str,
)
def test_error_is_at_most_twice_that_of_plain_pytorch(dtype: torch.dtype, precision: str) -> None:
    """In every other dtype. TF32 is used where cuDNN may, and has the mantissa of float16."""
    as_exact_as = torch.float16 if precision == "tf32" else dtype
    case = Case(3, 2, 5, 16, 9, 7, peephole="channel", ragged=True)

    def run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        return results_and_gradients(in_cuda, case, cast(arguments, dtype, torch.float32), incoming)

    with float32_multiplied_in(precision):
        assert worse_than_plain(case, as_exact_as, run) is None
        if precision == "tf32":
            arguments, _ = rounded_problem(case, as_exact_as)
            found = in_cuda(case, cast(arguments, dtype, torch.float32))[0]
            exact = plain(case, arguments)[0]
            assert distance(found, exact) > 1e-5


@pytest.mark.parametrize("layout", [sliced, channels_last, misaligned, batch_first])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides_in(layout: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Inputs, states and incoming gradients of any layout give bitwise the dense ones' results."""
    case = Case(3, 2, 8, 16, 5, 4, peephole="spatial", masked=True)
    dense = cast(case.arguments(), dtype, c_0=torch.float32)
    exact = results_and_gradients(in_cuda, case, dense, case.incoming())
    strided = {
        name: layout(value.detach()).requires_grad_()
        if name in ("x", "h_0", "c_0", "weight_ch", "weight_hh", "weight_ih")
        else value
        for name, value in dense.items()
    }
    results = in_cuda(case, strided)
    incoming = [
        layout(grad.to(result.dtype)) for grad, result in zip(case.incoming(), results, strict=True)
    ]
    grads = torch.autograd.grad(results, tuple(strided.values()), incoming)
    for found, (name, value) in zip((*results, *grads), exact.items(), strict=True):
        assert torch.equal(found, value), name


def test_what_autograd_asks_for() -> None:
    """Some results in the loss, zero strides in their gradients, some arguments that need none."""
    case = Case(3, 2, 3, 5, 4, 6, peephole="channel")
    arguments = cast(case.arguments(), torch.float64)
    wanted = {"weight_hh", "c_0"}
    for name, value in arguments.items():
        value.requires_grad_(name in wanted)
    leaves = [arguments[name] for name in NAMES if name in wanted]
    for part in range(3):
        losses = (function(case, arguments)[part].sum() for function in (in_cuda, plain))
        found, exact = (torch.autograd.grad(loss, leaves, allow_unused=True) for loss in losses)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_inference_gives_the_results_of_training() -> None:
    """Without a backward pass nothing is kept, C_t is updated in place, and lengths count."""
    for ragged in (False, True):
        case = Case(3, 2, 3, 5, 4, 6, peephole="channel", ragged=ragged)
        arguments = cast(case.arguments(), torch.bfloat16, torch.float32)
        trained = in_cuda(case, arguments)
        with torch.no_grad():
            found = in_cuda(case, arguments)
        for one, other in zip(found, trained, strict=True):
            assert torch.equal(one, other)


def test_second_backward_over_one_graph() -> None:
    """Saved tensors are never overwritten: a second backward gives the same bits."""
    case = Case(3, 2, 3, 9, 4, 7, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    leaves = [value for value in arguments.values() if value is not None]
    results = in_cuda(case, arguments)
    incoming = [grad.float() for grad in case.incoming()]
    first = torch.autograd.grad(results, leaves, incoming, retain_graph=True)
    second = torch.autograd.grad(results, leaves, incoming)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ready_made", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_results_are_what_the_fake_kernels_say(
    dtype: torch.dtype, batch: int, ready_made: bool, ragged: bool
) -> None:
    """Shapes, dtypes and strides of results and gradients, whatever was asked for; no views."""
    case = Case(2, batch, 0 if ready_made else 1, 3, 4, 1, peephole="spatial", ragged=ragged)
    leaves = cast(case.arguments(), dtype, c_0=torch.float32)
    given = [None if leaves[name] is None else leaves[name].detach() for name in NAMES]
    padding = [0, 0] if ready_made else [1, 1]
    options = (0.0, None, case.lengths())
    for saves, gates in ((True, 1), (False, 0)):
        call = (*given, padding, False, saves, gates, *options)
        same_layout(OPERATOR(*call), ops._fake_forward(*call))
    found = OPERATOR(*given, padding, False, True, 1, *options)
    present = [value is not None for value in given]
    for needs in (present, [False] * 7, [not ready_made] * 7):
        backward = (*found[:3], *given, found[0], *found[3:], padding, False, needs, *options)
        same_layout(BACKWARD(*backward), ops._fake_backward(*backward))


def same_layout(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert not one._is_view()


def test_opcheck() -> None:
    """Schema, fake kernels with exact strides, autograd registration."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="spatial", masked=True, ragged=True)
    arguments = cast(case.arguments(), torch.bfloat16, torch.float32)
    options = (0.2, case.hidden_mask(arguments["x"]), case.lengths())
    inputs = (*(arguments[name] for name in NAMES), (1, 1), False, True, 2, *options)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(OPERATOR, inputs, test_utils=tests)


def test_no_double_backward() -> None:
    """A second derivative is refused with the remedy, never silently zero."""
    case = Case(2, 1, 2, 3, 4, 4)
    arguments = cast(case.arguments(), torch.float64)
    output, _, _ = in_cuda(case, arguments)
    (grad,) = torch.autograd.grad(output.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 1, 2, 0, 4)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 2, 4, 4, dtype=torch.int64)}, "x has dtype Long, expected float"),
        ({"weight_ih": torch.zeros(12, 5, 3, 3)}, "weight_ih has shape"),
        ({"weight_hh": torch.zeros(12, 3, 3, 3, dtype=torch.float64)}, "weight_hh has dtype"),
        ({"c_0": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}, "c_0 has dtype"),
        ({"saved_gates": 3}, "saved_gates is 3, expected 0 to 2 steps"),
        ({"lengths": torch.tensor([3])}, "expected numbers from 1 to 2"),
    ],
)
def test_operator_refuses_what_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    """The checks are those of the operators on the CPU."""
    arguments = {
        "x": torch.zeros(2, 1, 2, 4, 4),
        "weight_ih": torch.zeros(12, 2, 3, 3),
        "weight_hh": torch.zeros(12, 3, 3, 3),
        **dict.fromkeys(NAMES[3:]),
    }
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(
            *({**arguments, **change}[name] for name in NAMES),
            (1, 1),
            *(False, True, change.get("saved_gates", 0), 0.0, None, change.get("lengths")),
        )

"""Calls of the Triton kernels' operators on CPU tensors, as autograd would make them."""

from torch import Tensor

from memx_fast import triton_kernels
from tests.operator_cases import NAMES, Case

RESULTS = ("output", "h_n", "c_n")


def padding_of(case: Case) -> list[int]:
    if case.padding is not None:
        return list(case.padding)
    kernel = case.input_kernel if case.input_channels else (1, 1)
    return [size // 2 for size in kernel]


def forward(case: Case, arguments: dict[str, Tensor | None], saved_gates: int | None = None):
    """What the forward operator gives, as for training."""
    return triton_kernels.conv_lstm(
        *(arguments[name] for name in NAMES),
        padding_of(case),
        case.output_peephole == "current",
        True,
        case.steps if saved_gates is None else saved_gates,
        case.hard_slope,
        case.hidden_mask(arguments["x"]),
        case.lengths(),
    )


def kernels(
    case: Case,
    arguments: dict[str, Tensor | None],
    incoming,
    saved_gates: int | None = None,
    needs: tuple[str, ...] | None = None,
) -> dict[str, Tensor]:
    """As operator_cases.results_and_gradients; with ``needs`` only the gradients it names."""
    arguments = {
        name: None if value is None else value.detach() for name, value in arguments.items()
    }
    *results, cells, gates = forward(case, arguments, saved_gates)
    present = [name for name in NAMES if arguments[name] is not None]
    wanted = present if needs is None else needs
    grads = triton_kernels.conv_lstm_backward(
        *(
            None if grad is None else grad.to(result.dtype)
            for grad, result in zip(incoming, results, strict=True)
        ),
        *(arguments[name] for name in NAMES),
        *(results[0], cells, gates),
        padding_of(case),
        case.output_peephole == "current",
        [name in wanted for name in NAMES],
        case.hard_slope,
        case.hidden_mask(arguments["x"]),
        case.lengths(),
    )
    found = dict(zip(RESULTS, results, strict=True))
    for name, grad in zip(NAMES, grads, strict=True):
        if name in wanted:
            found[f"grad of {name}"] = grad
        else:
            assert grad.numel() == 0, name
    return found

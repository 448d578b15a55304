"""The promise of every type but float64: at most twice the error of plain PyTorch in that type."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.operator_cases import Case, cast, distance, plain, results_and_gradients

DOUBTFUL, MOST, HOPELESS = 1.5, 2.0, 10.0  # times the error of plain PyTorch
DRAWS = 8

Run = Callable[[dict[str, Tensor | None], list[Tensor]], dict[str, Tensor]]
"""What `results_and_gradients` gives, of arguments and incoming gradients in float64."""


def rounded_problem(
    case: Case, dtype: torch.dtype, draw: int = 0
) -> tuple[dict[str, Tensor | None], list[Tensor]]:
    """Arguments and incoming gradients in float64 whose numbers the dtype has."""
    arguments = {
        name: None if value is None else value.to(dtype).double()
        for name, value in case.arguments(2 * draw).items()
    }
    return arguments, [grad.to(dtype).double() for grad in case.incoming(2 * draw + 1)]


def worse_than_plain(
    case: Case, dtype: torch.dtype, run: Run, least: float | None = None, device: str = "cpu"
) -> str | None:
    """What of `run` errs by more than twice what plain PyTorch does in the dtype; None: nothing.

    Errors are relative, against float64. Those up to `least`, the dtype's epsilon, are always
    allowed: PyTorch happens to get some tensors right to the last bit.

    The error of a few numbers is much a matter of luck, PyTorch's as well, whose order of summation
    depends on the processor. If one draw of the numbers leaves a doubt, what decides is the root
    mean square over several, the first among them. Doubt begins below what is allowed, so that luck
    hides as little as it feigns, and ends where no luck would help.
    """
    least = torch.finfo(dtype).eps if least is None else least
    draws = [_errors(case, dtype, run, 0, device)]
    if _above(DOUBTFUL, draws, least) and not _above(HOPELESS, draws, least):
        draws += [_errors(case, dtype, run, draw, device) for draw in range(1, DRAWS)]
    return "; ".join(_above(MOST, draws, least)) or None


_Errors = dict[str, tuple[float, float]]  # of run and of plain PyTorch


def _errors(case: Case, dtype: torch.dtype, run: Run, draw: int, device: str) -> _Errors:
    arguments, incoming = rounded_problem(case, dtype, draw)
    arguments = {
        name: None if value is None else value.to(device) for name, value in arguments.items()
    }
    incoming = [grad.to(device) for grad in incoming]
    exact = results_and_gradients(plain, case, cast(arguments, torch.float64), incoming)
    usual = results_and_gradients(plain, case, cast(arguments, dtype), incoming)
    found = run(arguments, incoming)
    return {
        name: (distance(found[name], value), distance(usual[name], value))
        for name, value in exact.items()
    }


def _above(times: float, draws: list[_Errors], least: float) -> list[str]:
    """Tensors that err by more than so many times what plain PyTorch does, or are NaN."""
    above = []
    for name in draws[0]:
        errors = torch.tensor([draw[name] for draw in draws], dtype=torch.float64)
        found, usual = errors.square().mean(0).sqrt().tolist()
        allowed = times * max(usual, least / MOST)
        if not found <= allowed:
            above.append(f"{name}: {found:.3g}, allowed {allowed:.3g} (draws: {len(draws)})")
    return above

"""The measure of accuracy itself: what it finds, and what it puts down to luck."""

import pytest
import torch
from torch import Tensor

from tests.accuracy import DRAWS, rounded_problem, worse_than_plain
from tests.operator_cases import Case, cast, plain, results_and_gradients

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = Case(2, 1, 2, 3, 4, 5)


class Disturbed:
    """Plain PyTorch in float32 whose errors are ``times`` as large in the first ``draws``."""

    def __init__(self, times: float, draws: int) -> None:
        self.times, self.draws, self.calls = times, draws, 0

    def __call__(
        self, arguments: dict[str, Tensor | None], incoming: list[Tensor]
    ) -> dict[str, Tensor]:
        exact = results_and_gradients(plain, CASE, cast(arguments, torch.float64), incoming)
        usual = results_and_gradients(plain, CASE, cast(arguments, torch.float32), incoming)
        times = self.times if self.calls < self.draws else 1
        self.calls += 1
        return {
            name: value + times * (usual[name].double() - value) for name, value in exact.items()
        }


@pytest.mark.parametrize(("times", "draws"), [(1.4, 1), (1.9, DRAWS)])
def test_errors_up_to_twice_those_of_plain_pytorch_pass(times: float, draws: int) -> None:
    """Where there is no doubt after one draw."""
    run = Disturbed(times, DRAWS)
    assert worse_than_plain(CASE, torch.float32, run, least=0) is None
    assert run.calls == draws


def test_larger_errors_are_named() -> None:
    """With what they are and what would be allowed."""
    run = Disturbed(2.1, DRAWS)
    found = worse_than_plain(CASE, torch.float32, run, least=0)
    assert found is not None
    assert "grad of bias: " in found
    assert f"(draws: {DRAWS})" in found
    assert run.calls == DRAWS


def test_one_unlucky_draw_is_not_the_kernels_fault() -> None:
    """It is one of several."""
    run = Disturbed(2.5, 1)
    assert worse_than_plain(CASE, torch.float32, run, least=0) is None
    assert run.calls == DRAWS


@pytest.mark.parametrize(("times", "error"), [(50.0, ""), (torch.nan, "nan")])
def test_one_draw_is_enough_where_luck_explains_nothing(times: float, error: str) -> None:
    """Neither an error as large nor NaN becomes right by other draws."""
    run = Disturbed(times, 1)
    found = worse_than_plain(CASE, torch.float32, run, least=0)
    assert found is not None
    assert f"output: {error}" in found
    assert run.calls == 1


def test_draws_differ_and_have_only_numbers_of_the_type() -> None:
    """What is measured is rounding on the way, not that of the arguments."""
    (first, grads), (second, others) = (rounded_problem(CASE, torch.bfloat16, n) for n in (0, 1))
    for one, other in zip((*first.values(), *grads), (*second.values(), *others), strict=True):
        if one is not None:
            assert torch.equal(one.bfloat16().double(), one)
            assert not torch.equal(one, other)

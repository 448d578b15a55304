"""The kernels as they try out configurations: run with MEMX_FAST_AUTOTUNE=1."""

import json
from collections.abc import Callable

import pytest
import torch

from memx_fast import triton_kernels
from memx_fast.triton_kernels.backward import backward_step
from memx_fast.triton_kernels.forward import forward_step
from memx_fast.triton_kernels.image_gradient import transposed_convolution
from tests.interpreted.kernel_calls import kernels, padding_of
from tests.operator_cases import NAMES, Case, cast, plain, results_and_gradients

pytestmark = pytest.mark.usefixtures("one_thread")

KERNELS = (forward_step, backward_step, transposed_convolution)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes every trial run twice, as a benchmark would; later ones count as faster."""
    made: list[int] = []

    def bench(kernel_call: Callable[[], None], quantiles: tuple[float, ...]) -> list[float]:
        kernel_call()
        kernel_call()
        made.append(len(made))
        return [1.0 / len(made)] * len(quantiles)

    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "_do_bench", bench)
        kernel.cache.clear()
        kernel.__dict__.pop("do_bench", None)
        monkeypatch.setattr(kernel, "configs", kernel.configs[::5])
    return made


def test_trials_leave_no_trace(trials: list[int]) -> None:
    """Results and gradients are right although every launch was tried many times before."""
    case = Case(3, 2, 3, 5, 4, 5, peephole="spatial")
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    found = kernels(case, arguments, case.incoming(), saved_gates=1)
    assert len(trials) > len(KERNELS)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_inference_updates_its_cell_state_once_a_step(trials: list[int]) -> None:
    """Without saved cells C_t takes the place of C_{t-1}, also in the launch that was tried."""
    case = Case(3, 1, 2, 4, 3, 3)
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    given = (None if arguments[name] is None else arguments[name].detach() for name in NAMES)
    _, _, c_n, _, _ = triton_kernels.conv_lstm(*given, padding_of(case), False, False, 0)
    assert len(trials) > 1
    torch.testing.assert_close(c_n, exact["c_n"], rtol=1e-10, atol=1e-10)


def test_other_sizes_are_not_tried_again(trials: list[int]) -> None:
    """What was found for a layer holds for any T, B, H and W."""
    made = []
    for case in (Case(2, 1, 2, 3, 3, 3), Case(3, 2, 2, 3, 5, 1), Case(2, 1, 2, 3, 1, 4)):
        kernels(case, cast(case.arguments(), torch.float32), case.incoming())
        made.append(len(trials))
    assert made[0] > 0
    assert made == [made[0]] * 3


def test_findings_can_be_written_to_disk(
    trials: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton writes a key as JSON; what is in the keys of all kernels can be written so."""
    case = Case(2, 1, 2, 3, 3, 3, peephole="channel")
    kernels(case, cast(case.arguments(), torch.float32), case.incoming())
    keys = [key for kernel in KERNELS for key in kernel.cache]
    assert len(keys) >= len(KERNELS)
    assert json.loads(json.dumps(keys)) == [list(key) for key in keys]

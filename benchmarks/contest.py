"""One workload, one pass, one type: every contender checked, then timed in interleaved rounds."""

from __future__ import annotations

import gc
import random
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from memx_fast import reference

from . import memory
from .devices import synchronise
from .rivals import CHAMPION, Contender, Runner
from .workloads import Problem, Workload

# Errors allowed, in errors of plain PyTorch in the same type. memx_fast has its contract to keep;
# the others only have to do the same work.
CHAMPION_ALLOWANCE = 2.0
RIVAL_ALLOWANCE = 10.0

SETTLING = 0.03
"""Seconds of a contender's own passes that go before one that is timed."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: at least this many rounds; each times every contender once.
        seconds: more rounds follow until this time is used up.
        preparation: seconds that building, compiling and the first pass of a contender may take.
    """

    rounds: int
    seconds: float
    preparation: float


@dataclass
class Entry:
    """A contender's result.

    Attributes:
        absent: why it did not take part (not installed, too slow to prepare), or None.
        failure: why its numbers must not be believed, or None.
        error: relative error against float64.
        times: seconds, one a round; the rounds of all entries of a contest belong together.
        gpu_bytes: memory of a GPU that a pass needs beyond what it is given; None on the CPU,
            where only a fresh process can tell.
    """

    contender: Contender
    absent: str | None = None
    failure: str | None = None
    error: float = float("nan")
    times: list[float] = field(default_factory=list)
    gpu_bytes: int | None = None


class TooSlow(BaseException):
    """The time allowed for preparation is used up. Compilers catch what is a mere Exception."""


def hold(
    workload: Workload,
    work: str,
    dtype: str,
    contenders: Sequence[Contender],
    effort: Effort,
    device: str = "cpu",
) -> list[Entry]:
    """Prepare, check and time the contenders on one workload.

    Args:
        work: "forward" or "training".
        dtype: "float32" or "bfloat16".
        device: "cpu" or "cuda".

    Returns:
        An entry for each contender that offers this pass on this device. Rounds are interleaved,
        so that a machine that slows down slows everybody down, and each round has another order.
    """
    torch.compiler.reset()  # compiled code of earlier contests counts towards a limit
    torch.backends.cudnn.benchmark = True  # the fastest convolutions that PyTorch can find
    problem = Problem.of(workload, device)
    expected = {peephole: Expectation.of(problem, work, dtype, peephole) for peephole in (0, 1)}
    entries = [
        Entry(contender)
        for contender in contenders
        if work in contender.passes and device in contender.devices
    ]
    runners: list[tuple[Entry, Runner]] = []
    for entry in entries:
        entry.absent = entry.contender.missing()
        if entry.absent is None:
            runner = prepare(entry, problem, work, dtype, expected, effort.preparation)
            if runner is not None:
                runners.append((entry, runner))
    time_rounds(runners, work, effort, device)
    if device == "cuda":
        for entry, runner in runners:
            if entry.contender.graphed:
                continue
            entry.gpu_bytes = memory.peak_on_gpu(partial(call, runner, work, device))
    return entries


def prepare(
    entry: Entry,
    problem: Problem,
    work: str,
    dtype: str,
    expected: dict[int, Expectation],
    seconds: float,
) -> Runner | None:
    """Build, warm up and check one contender; what goes wrong is noted in its entry."""
    contender = entry.contender
    expectation = expected[contender.peephole and problem.workload.peephole is not None]
    try:
        with time_limit(seconds):
            runner = contender.build(problem, dtype)
            entry.error = expectation.error_of(runner)
    except TooSlow:
        entry.absent = f"not ready after {seconds:.0f} s"
        return None
    except Exception as error:
        entry.failure = f"{type(error).__name__}: {error}"
        return None
    ours = contender.name.startswith(CHAMPION)
    allowed = expectation.plain_error * (CHAMPION_ALLOWANCE if ours else RIVAL_ALLOWANCE)
    if not entry.error <= allowed:
        entry.failure = f"relative error {entry.error:.1e}, allowed {allowed:.1e}"
        return None
    return runner


def time_rounds(
    runners: list[tuple[Entry, Runner]], work: str, effort: Effort, device: str = "cpu"
) -> None:
    """Fill in the times, round by round, each round in another order.

    Passes that are not timed go before each that is: whoever comes after another contender finds
    caches filled and memory taken by that one, and its threads still turning, which no training
    loop does.
    """
    if not runners:
        return
    orders = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        done = 0
        while done < effort.rounds or time.perf_counter() - begin < effort.seconds:
            for entry, runner in orders.sample(runners, len(runners)):
                settle(runner, work, device)
                entry.times.append(call(runner, work, device))
            done += 1
    finally:
        gc.enable()


def settle(runner: Runner, work: str, device: str) -> None:
    """Passes until those before are forgotten: one at least."""
    begin = time.perf_counter()
    call(runner, work, device)
    while time.perf_counter() - begin < SETTLING:
        call(runner, work, device)


def call(runner: Runner, work: str, device: str) -> float:
    """Seconds of one pass."""
    function = runner.forward if work == "forward" else runner.training
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Expectation:
    """What is right, in float64, and how far from it plain PyTorch is.

    Only the first sequence of the batch is looked at: the others do not influence its output, nor,
    with an output gradient that is zero elsewhere, the gradients. So the float64 pass is short.

    Attributes:
        tensors: the first sequence's output and, for a training pass, the weights' gradients.
        plain_error: relative error of the reference implementation in the contest's type.
    """

    problem: Problem
    work: str
    tensors: list[Tensor]
    plain_error: float

    @staticmethod
    def of(problem: Problem, work: str, dtype: str, peephole: int) -> Expectation:
        """Both, from the reference implementation, with peepholes or without."""
        exact = reference_results(problem, work, torch.float64, peephole)
        enabled = dtype == "bfloat16"
        with torch.autocast(problem.x.device.type, torch.bfloat16, enabled=enabled):
            plain = reference_results(problem, work, torch.float32, peephole)
        return Expectation(problem, work, exact, relative_error(plain, exact))

    def error_of(self, runner: Runner) -> float:
        """Relative error of a contender's full-size pass."""
        output = runner.forward() if self.work == "forward" else runner.training()
        results = [output[:, :1].clone()]  # a graph overwrites its output when it runs again
        if self.work == "training":
            results += runner.gradients(self.problem.grad_of_first_sample)
        return relative_error(results, self.tensors)


def reference_results(
    problem: Problem, work: str, dtype: torch.dtype, peephole: int
) -> list[Tensor]:
    """Output and gradients of the first sequence, by the reference implementation."""
    x = problem.x[:, :1].to(dtype)
    leaves: list[Tensor] = []
    with torch.set_grad_enabled(work == "training"):
        for index, layer in enumerate(problem.layers):
            weights = [
                weight.to(dtype, copy=True).requires_grad_(work == "training")
                for weight in (layer.input, layer.hidden, layer.bias)
            ]
            leaves += weights
            state = None
            if problem.states is not None:
                h_0, c_0 = problem.states[index]
                state = (h_0[:1].to(dtype), c_0[:1].to(dtype))
            weight_ch = (
                layer.peephole.to(dtype) if peephole and layer.peephole is not None else None
            )
            x, _ = reference.conv_lstm(x, *weights, weight_ch, state)
    if work == "forward":
        return [x]
    x.backward(problem.grad_output[:, :1].to(x.dtype))
    return [x.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def relative_error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest, over the tensors, of the norm of the difference over the norm of what is right."""
    pairs = zip(results, expected, strict=True)
    errors = [(result.double() - right).norm() / right.norm() for result, right in pairs]
    return float(torch.stack(errors).max())


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block once the time is over. For the main thread."""

    def interrupt(signal_number: int, frame: object) -> None:
        raise TooSlow

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

"""``pytest benchmarks``: every contender on every workload, forward and training, both types.

A contest measures all its contenders in interleaved rounds. Each contender's times are then played
back to pytest-benchmark, so that its tables, its JSON and its comparisons work as ever.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from . import contest, machine, memory
from .contest import Effort, Entry
from .devices import has_bfloat16
from .results import Circumstances, Row, champion_of, row_of
from .rivals import CONTENDERS, Contender
from .workloads import DTYPES, PASSES, WORKLOADS, Workload

QUICK = Effort(rounds=2, seconds=1.0, preparation=60.0)
ROUNDS = 5  # at least, of a contest that is not quick
MEMORY_LIMIT = 300.0


class PlaybackClock:
    """Stands still but for :meth:`advance`, which moves it by the next of the recorded times."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pending: Iterator[float] = iter(())

    def load(self, durations: Iterable[float]) -> None:
        self.pending = iter(durations)

    def advance(self) -> None:
        self.time += next(self.pending)

    def now(self) -> float:
        return self.time


CLOCK = PlaybackClock()


class Contest:
    """The measured entries of one workload, pass and type."""

    def __init__(
        self,
        workload: Workload,
        work: str,
        dtype: str,
        device: str,
        effort: Effort,
        compiled: bool,
    ) -> None:
        self.quick = quick = effort == QUICK
        self.device = device
        self.at = Circumstances(
            machine=machine.measure(device),
            torch=str(torch.__version__),
            date=datetime.date.today().isoformat(),
            quick=quick,
            workload=workload.quick() if quick else workload,
            work=work,
            dtype=dtype,
        )
        taking_part = [one for one in CONTENDERS if compiled or not one.compiled]
        self.entries = contest.hold(self.at.workload, work, dtype, taking_part, effort, device)

    def entry(self, contender: Contender) -> Entry:
        """The contender's entry; one that is left out has the reason in it."""
        for entry in self.entries:
            if entry.contender is contender:
                return entry
        return Entry(contender, absent="nothing is compiled in this run")

    def row(self, entry: Entry) -> Row:
        """The entry's line of the results, with its peak memory measured now."""
        at = self.at
        peak = entry.gpu_bytes
        most = at.workload.name == "samm" and at.work == "training"
        if self.device == "cpu" and (most or not self.quick):
            peak = memory.measure(
                at.workload,
                entry.contender.name,
                at.dtype,
                at.work,
                quick=self.quick,
                limit=MEMORY_LIMIT,
            )
        return row_of(entry, champion_of(self.entries), at, peak)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((workload, work, dtype), id=f"{workload.name}-{work}-{dtype}")
        for workload in WORKLOADS
        for work in PASSES
        for dtype in DTYPES
    ],
)
def held(request: pytest.FixtureRequest) -> Contest:
    """The contest that the following tests report on, one contender each."""
    workload, work, dtype = request.param
    device = request.config.getoption("device")
    if device not in workload.devices:
        pytest.skip(f"{workload.name} is not run on {device}")
    emulated = request.config.getoption("emulated")
    if dtype == "bfloat16" and not (has_bfloat16(device) or emulated):
        pytest.skip(
            f"this {device} has no bfloat16 instructions (--emulated measures all the same)"
        )
    quick = request.config.getoption("quick")
    effort = Effort(
        ROUNDS, request.config.getoption("seconds"), request.config.getoption("preparation")
    )
    compiled = not (quick or request.config.getoption("uncompiled"))
    return Contest(workload, work, dtype, device, QUICK if quick else effort, compiled)


@pytest.mark.benchmark(timer=CLOCK.now)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_contender(
    held: Contest, contender: Contender, benchmark: BenchmarkFixture, rows: list[Row]
) -> None:
    """The contender is right, and this is how long it takes."""
    if held.at.work not in contender.passes:
        pytest.skip(f"{contender.name} does not do {held.at.work}")
    if held.device not in contender.devices:
        pytest.skip(f"{contender.name} does not run on {held.device}")
    entry = held.entry(contender)
    if entry.absent is not None:
        pytest.skip(entry.absent)
    assert entry.failure is None, entry.failure
    row = held.row(entry)
    rows.append(row)
    benchmark.group = f"{row.workload}, {row.work}, {row.dtype}"
    benchmark.extra_info.update(asdict(row))
    CLOCK.load(entry.times)
    benchmark.pedantic(CLOCK.advance, rounds=len(entry.times))

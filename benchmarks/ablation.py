"""``python -m benchmarks.ablation``: what each optimisation is worth, each switched off alone.

Rounds are interleaved, as in the suite: each round runs every variant once, and the ratios are
medians over rounds of a variant's time over that with everything on.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from memx_fast import _C
from memx_fast.samm.files import replacing

from .devices import device_name, has_bfloat16
from .report import RESULTS_FOLDER, file_stem
from .rivals import Runner, build_fused
from .workloads import PASSES, Problem, Workload, workload_named

DEFAULT_WORKLOADS = ("samm", "openstl", "pointwise")


@dataclass(frozen=True)
class Variant:
    """One way to run: settings that hold while it does, and the share of gates not kept."""

    name: str
    setting: Callable[[], None] = lambda: None
    recompute: float = 0.5
    passes: tuple[str, ...] = PASSES


def variants() -> list[Variant]:
    """Everything on, then each optimisation that this machine has without it."""
    found = [
        Variant("all optimisations"),
        Variant("direct convolution, no Winograd", partial(_C.tune, winograd=False)),
        Variant("small pages", partial(_C.tune, huge_pages=False)),
        Variant("gates of all steps kept", recompute=0.0, passes=("training",)),
        Variant("gates of no step kept", recompute=1.0, passes=("training",)),
    ]
    slower = _C.build_info()["instruction_sets"][:-1]
    for name in reversed(slower):
        found.append(Variant(f"instruction set {name}", partial(_C.select_instruction_set, name)))
    return found


@contextmanager
def applied(setting: Callable[[], None]) -> Iterator[None]:
    """The setting, for a while."""
    instruction_set = _C.instruction_set()
    setting()
    try:
        yield
    finally:
        _C.tune()
        _C.select_instruction_set(instruction_set)


@dataclass(frozen=True)
class Line:
    """A variant on a workload; ``ratio`` above 1: slower than with everything on."""

    device: str
    workload: str
    dtype: str
    work: str
    variant: str
    rounds: int
    median_ms: float
    ratio: float


def measure(workload: Workload, dtype: str, work: str, rounds: int) -> list[Line]:
    """Times of every variant."""
    problem = Problem.of(workload)
    taking_part = [variant for variant in variants() if work in variant.passes]
    runners = [build_fused(problem, dtype, variant.recompute) for variant in taking_part]
    times: list[list[float]] = [[] for _ in taking_part]
    for number in range(rounds + 1):
        for variant, runner, record in zip(taking_part, runners, times, strict=True):
            with applied(variant.setting):
                seconds = timed(runner, work)
            if number > 0:
                record.append(seconds)
    return [
        Line(
            device_name("cpu"),
            workload.name,
            dtype,
            work,
            variant.name,
            rounds,
            1e3 * statistics.median(record),
            statistics.median(one / best for one, best in zip(record, times[0], strict=True)),
        )
        for variant, record in zip(taking_part, times, strict=True)
    ]


def timed(runner: Runner, work: str) -> float:
    """Seconds of one pass."""
    start = time.perf_counter()
    if work == "forward":
        runner.forward()
    else:
        runner.training()
    return time.perf_counter() - start


def markdown(lines: Sequence[Line]) -> str:
    """A table with one column a workload, type and pass: time over that with everything on."""
    columns = list(dict.fromkeys((line.workload, line.dtype, line.work) for line in lines))
    ratios = {(line.variant, line.workload, line.dtype, line.work): line.ratio for line in lines}
    head = " | ".join(", ".join(column) for column in columns)
    table = [f"| time, relative | {head} |", "|---|" + "---|" * len(columns)]
    for name in dict.fromkeys(line.variant for line in lines):
        cells = [ratios.get((name, *column)) for column in columns]
        shown = " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells)
        table.append(f"| {name} | {shown} |")
    return "\n".join(table)


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write the lines as CSV, in place of what was there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Line.__dataclass_fields__)
    for line in lines:
        writer.writerow(
            (
                line.device,
                line.workload,
                line.dtype,
                line.work,
                line.variant,
                line.rounds,
                f"{line.median_ms:.4g}",
                f"{line.ratio:.3g}",
            )
        )
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def main() -> int:
    """The command: prints the table and writes the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=DEFAULT_WORKLOADS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    lines = [
        line
        for dtype in ("float32", "bfloat16")[: 1 + has_bfloat16("cpu")]
        for workload in options.workloads
        for work in PASSES
        for line in measure(workload_named(workload), dtype, work, options.rounds)
    ]
    RESULTS_FOLDER.mkdir(exist_ok=True)
    write(RESULTS_FOLDER / f"{file_stem(device_name('cpu'))}-ablation.csv", lines)
    print(markdown(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

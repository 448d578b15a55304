"""``python -m benchmarks.ablation``: what each optimisation is worth, each switched off alone.

On a GPU (``--device cuda``) these are the CUDA C++ kernels, and Triton's stand beside them. Rounds
are interleaved, as in the suite: each round runs every variant once, and the ratios are medians
over rounds of a variant's time over that with everything on.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from memx_fast import _C
from memx_fast.files import replacing

from .contest import call, settle
from .devices import DEVICES, device_name, has_bfloat16
from .report import RESULTS_FOLDER, file_stem
from .rivals import build_fused
from .workloads import DTYPES, PASSES, Problem, Workload, workload_named

DEFAULT_WORKLOADS = ("samm", "openstl", "pointwise")
BEST, TRITON = "all optimisations", "Triton"  # variants; on a GPU the best is CUDA C++


@dataclass(frozen=True)
class Variant:
    """One way to run: settings that hold while it does, the engine, the share of gates not kept."""

    name: str
    setting: Callable[[], None] = lambda: None
    recompute: float = 0.5
    passes: tuple[str, ...] = PASSES
    dtypes: tuple[str, ...] = tuple(DTYPES)
    backend: str = "auto"


def variants(device: str) -> list[Variant]:
    """Everything on, then each optimisation that this machine has without it."""
    return _variants_on_gpu() if device == "cuda" else _variants_on_cpu()


def _variants_on_gpu() -> list[Variant]:
    def without_tf32() -> None:
        torch.backends.cudnn.conv.fp32_precision = "ieee"

    return [
        Variant(BEST, backend="cuda"),
        Variant(TRITON, backend="triton"),
        Variant("no TF32", without_tf32, dtypes=("float32",), backend="cuda"),
        Variant("gates of all steps kept", recompute=0.0, passes=("training",), backend="cuda"),
        Variant("gates of no step kept", recompute=1.0, passes=("training",), backend="cuda"),
    ]


def _variants_on_cpu() -> list[Variant]:
    found = [
        Variant(BEST),
        Variant("direct convolution, no Winograd", partial(_C.tune, winograd=False)),
        Variant("step by step, no strips", partial(_C.tune, strips=False)),
        Variant("small pages", partial(_C.tune, huge_pages=False, keep_memory=False)),
        Variant("memory not kept", partial(_C.tune, keep_memory=False)),
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
    convolutions = torch.backends.cudnn.conv
    precision = convolutions.fp32_precision
    setting()
    try:
        yield
    finally:
        _C.tune()
        _C.select_instruction_set(instruction_set)
        convolutions.fp32_precision = precision


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


def measure(
    workload: Workload, dtype: str, work: str, rounds: int, device: str = "cpu"
) -> list[Line]:
    """Times of every variant."""
    problem = Problem.of(workload, device)
    taking_part = [
        variant
        for variant in variants(device)
        if work in variant.passes and dtype in variant.dtypes
    ]
    runners = [
        build_fused(problem, dtype, variant.recompute, variant.backend) for variant in taking_part
    ]
    times: list[list[float]] = [[] for _ in taking_part]
    for _ in range(rounds):
        for variant, runner, record in zip(taking_part, runners, times, strict=True):
            with applied(variant.setting):
                settle(runner, work, device)
                record.append(call(runner, work, device))
    return [
        Line(
            device_name(device),
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


def read(path: Path) -> list[Line]:
    """The lines of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Line(
                *(record[name] for name in ("device", "workload", "dtype", "work", "variant")),
                rounds=int(record["rounds"]),
                median_ms=float(record["median_ms"]),
                ratio=float(record["ratio"]),
            )
            for record in csv.DictReader(stream)
        ]


def main() -> int:
    """The command: prints the table and writes the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=DEFAULT_WORKLOADS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--into", type=Path, default=RESULTS_FOLDER, help="folder of the CSV file")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    csv_file = options.into / f"{file_stem(device_name(options.device))}-ablation.csv"
    dtypes = ("float32", "bfloat16")[: 1 + has_bfloat16(options.device)]
    lines: list[Line] = []
    for name in options.workloads:
        for dtype, work in itertools.product(dtypes, PASSES):
            lines += measure(workload_named(name), dtype, work, options.rounds, options.device)
        write(csv_file, lines)  # whoever has to stop it keeps the workloads that are done
    print(markdown(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

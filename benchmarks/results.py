"""One line of the results, and the CSV file of a device that holds them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from memx_fast.files import replacing

from .contest import Entry, percentiles
from .machine import Machine
from .rivals import CHAMPION, CONTENDERS
from .workloads import DTYPES, PASSES, WORKLOADS, Workload

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Row:
    """A contender on a workload.

    Attributes:
        device, torch, date: on what, with what, when (ISO date) this was measured.
        quick: on short sequences: an impression, not a result.
        work: "forward" or "training".
        peephole: whether the contender computed peepholes.
        rounds, median_ms, p20_ms, p80_ms: number and percentiles of the measured times.
        ratio, ratio_p20, ratio_p80: percentiles of its time over that of memx_fast in the same
            round; above 1 memx_fast is faster. None if memx_fast did not run.
        gflops: 10^9 floating-point operations of the convolutions a second, at the median.
        gemm_share: that rate over the device's best rate of matrix products.
        copy_share: unavoidable bytes a second over the device's copy bandwidth (forward only).
        peak_mib: memory needed beyond inputs and weights, in MiB; None if not measured.
        error: relative error against float64.
    """

    device: str
    torch: str
    date: str
    quick: bool
    workload: str
    work: str
    dtype: str
    contender: str
    peephole: bool
    rounds: int
    median_ms: float
    p20_ms: float
    p80_ms: float
    ratio: float | None
    ratio_p20: float | None
    ratio_p80: float | None
    gflops: float
    gemm_share: float
    copy_share: float | None
    peak_mib: float | None
    error: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a device has one line of."""
        return self.workload, self.work, self.dtype, self.contender


@dataclass(frozen=True)
class Circumstances:
    """What the rows of one contest have in common."""

    machine: Machine
    torch: str
    date: str
    quick: bool
    workload: Workload
    work: str
    dtype: str


def row_of(entry: Entry, champion: Entry | None, at: Circumstances, peak_bytes: int | None) -> Row:
    """The line for an entry with measured times, compared with memx_fast's of the same contest."""
    low, median, high = percentiles(entry.times)
    ratios: tuple[float | None, float | None, float | None] = (None, None, None)
    if champion is not None and champion.times:
        pairs = zip(entry.times, champion.times, strict=True)
        ratios = percentiles([theirs / ours for theirs, ours in pairs])
    rate = at.workload.operations(at.work) / median
    traffic = at.workload.traffic(BYTES_PER_NUMBER[at.dtype]) / median
    forward = at.work == "forward"
    return Row(
        device=at.machine.device,
        torch=at.torch,
        date=at.date,
        quick=at.quick,
        workload=at.workload.name,
        work=at.work,
        dtype=at.dtype,
        contender=entry.contender.name,
        peephole=entry.contender.peephole and at.workload.peephole is not None,
        rounds=len(entry.times),
        median_ms=1e3 * median,
        p20_ms=1e3 * low,
        p80_ms=1e3 * high,
        ratio=ratios[1],
        ratio_p20=ratios[0],
        ratio_p80=ratios[2],
        gflops=rate / 1e9,
        gemm_share=rate / at.machine.limit(at.dtype),
        copy_share=traffic / at.machine.copy_bandwidth if forward else None,
        peak_mib=None if peak_bytes is None else peak_bytes / 2**20,
        error=entry.error,
    )


def champion_of(entries: Iterable[Entry]) -> Entry | None:
    """memx_fast's entry."""
    return next((entry for entry in entries if entry.contender.name == CHAMPION), None)


def read(path: Path) -> list[Row]:
    """The rows of a CSV file; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [_parsed(record) for record in csv.DictReader(stream)]


def merge(path: Path, new: Iterable[Row]) -> list[Row]:
    """Write rows into a CSV file, replacing those of the same key and keeping all others.

    Returns:
        What the file holds now, in the order of the suite.
    """
    by_key = {row.key: row for row in read(path)}
    by_key.update({row.key: row for row in new})
    rows = sorted(by_key.values(), key=_place)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_printed(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return rows


def _place(row: Row) -> list[int]:
    """Where the suite has this row; names that it no longer has come last."""
    lists: tuple[list[str], ...] = (
        [workload.name for workload in WORKLOADS],
        list(PASSES),
        list(DTYPES),
        [contender.name for contender in CONTENDERS],
    )
    return [
        names.index(name) if name in names else len(names)
        for names, name in zip(lists, row.key, strict=True)
    ]


def _printed(row: Row) -> dict[str, Any]:
    """Four significant digits: more would be noise, and noise would fill the history."""
    return {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }


def _parsed(record: dict[str, str]) -> Row:
    values: dict[str, Any] = {}
    for field in fields(Row):
        text = record[field.name]
        if field.type == "bool":
            values[field.name] = text == "True"
        elif field.type == "int":
            values[field.name] = int(text)
        elif field.type == "str":
            values[field.name] = text
        else:
            values[field.name] = float(text) if text else None
    return Row(**values)

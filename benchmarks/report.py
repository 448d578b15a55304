"""``python -m benchmarks.report RESULTS.json``: the CSV of this device, a table and a chart.

Reads what ``pytest benchmarks --benchmark-json=RESULTS.json`` wrote.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from memx_fast.files import replacing

from . import chart, results
from .results import Row
from .rivals import CHAMPION
from .workloads import DTYPES, PASSES

RESULTS_FOLDER = Path(__file__).with_name("results")
POPULAR = "eager"


def load(path: Path) -> list[Row]:
    """The rows in a JSON file of pytest-benchmark; ValueError if it holds none of ours."""
    benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    rows = [Row(**one["extra_info"]) for one in benchmarks if "contender" in one["extra_info"]]
    if not rows:
        raise ValueError(f"{path} holds no result of this suite: run pytest benchmarks")
    return rows


def text_table(rows: Sequence[Row]) -> str:
    """All that was measured, one line a contender, for the screen."""
    head = (
        f"{'':<24}{'median ms':>11}{'p20':>10}{'p80':>10}  {'x memx_fast':>11}{'p20':>7}{'p80':>7}"
        f"{'GFLOP/s':>10}{'of GEMM':>9}{'of copy':>9}{'peak MiB':>10}{'error':>9}"
    )
    lines = [head]
    for (workload, work, dtype), group in groupby(rows, key=lambda row: row.key[:3]):
        lines += ["", f"{workload}, {work}, {dtype}"]
        lines += [_text_line(row) for row in group]
    lines += ["", *_geometric_means(rows)]
    if any(row.quick for row in rows):
        lines += ["", "Short sequences (--quick): an impression, not a result."]
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """The tables for people: one for each pass and type, one line a workload."""
    first = rows[0]
    lines = [f"Measured on {first.device}, PyTorch {first.torch}, {first.date}.", ""]
    if any(row.quick for row in rows):
        lines += ["**Short sequences (`--quick`): an impression, not a result.**", ""]
    for work in PASSES:
        for dtype in DTYPES:
            chosen = [row for row in rows if (row.work, row.dtype) == (work, dtype)]
            if any(row.contender == CHAMPION for row in chosen):
                lines += [*_markdown_section(work, dtype, chosen), ""]
    peephole = sorted({row.workload for row in rows if row.peephole})
    if peephole:
        lines += [
            f"On {', '.join(peephole)}, memx_fast alone computes a peephole for each channel and "
            "pixel; no other contender has one.",
            "",
        ]
    return "\n".join(lines)


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Merge rows into the folder's CSV of their device and draw its table and chart anew.

    Quick results go to files of their own. Returns the files, the CSV first.
    """
    stem = file_stem(rows[0].device) + ("-quick" if rows[0].quick else "")
    files = [folder / f"{stem}.{suffix}" for suffix in ("csv", "md", "png")]
    merged = results.merge(files[0], rows)
    with replacing(files[1]) as file:
        file.write(markdown(merged).encode())
    with replacing(files[2]) as file:
        chart.draw(merged, file)
    return files


def file_stem(device: str) -> str:
    """What the names of a device's files begin with."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", type=Path, help="written by pytest benchmarks --benchmark-json")
    parser.add_argument(
        "--into", type=Path, default=RESULTS_FOLDER, help="folder (default: benchmarks/results)"
    )
    options = parser.parse_args(arguments)
    rows = load(options.json)
    print(text_table(rows))
    for path in write(rows, options.into):
        print(f"wrote {path}")
    return 0


def _text_line(row: Row) -> str:
    peak = f"{row.peak_mib:.0f}" if row.peak_mib is not None else "-"
    copied = f"{row.copy_share:.0%}" if row.copy_share is not None else "-"
    ratios = [
        f"{ratio:.2f}" if ratio is not None else "-"
        for ratio in (row.ratio, row.ratio_p20, row.ratio_p80)
    ]
    return (
        f"  {row.contender:<22}{row.median_ms:>11.2f}{row.p20_ms:>10.2f}{row.p80_ms:>10.2f}  "
        f"{ratios[0]:>11}{ratios[1]:>7}{ratios[2]:>7}{row.gflops:>10.1f}{row.gemm_share:>9.0%}"
        f"{copied:>9}{peak:>10}{row.error:>9.1e}"
    )


def _geometric_means(rows: Sequence[Row]) -> list[str]:
    """How many times faster than each rival over all workloads of a pass and type."""
    lines = ["Geometric mean over workloads of the rival's time over that of memx_fast"]
    for work in PASSES:
        for dtype in DTYPES:
            chosen = [row for row in rows if (row.work, row.dtype) == (work, dtype)]
            for rival in dict.fromkeys(row.contender for row in chosen if not _ours(row)):
                mean = _geometric_mean(row.ratio for row in chosen if row.contender == rival)
                if mean is not None:
                    lines.append(f"  {work:<10}{dtype:<10}{rival:<26}{mean:6.2f}")
    return lines


def _markdown_section(work: str, dtype: str, rows: Sequence[Row]) -> list[str]:
    precision = "bfloat16 autocast" if dtype == "bfloat16" else dtype
    lines = [
        f"### {work.capitalize()}, {precision}",
        "",
        "| workload | memx_fast, ms (p20 to p80) | of the GEMM rate | eager, times ours "
        "| best rival, times ours | memory, MiB | memory of eager, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload, group in groupby(rows, key=lambda row: row.workload):
        entries = {row.contender: row for row in group}
        if CHAMPION in entries:
            lines.append(_markdown_line(workload, entries))
    return lines


def _markdown_line(workload: str, entries: dict[str, Row]) -> str:
    ours = entries[CHAMPION]
    popular = entries.get(POPULAR)
    rivals = [row for row in entries.values() if not _ours(row)]
    best = min(rivals, key=lambda row: row.ratio or math.inf, default=None)
    cells = [
        workload,
        f"{ours.median_ms:.4g} ({ours.p20_ms:.4g} to {ours.p80_ms:.4g})",
        f"{ours.gemm_share:.0%}",
        _times(popular),
        f"{_times(best)}, {best.contender}" if best is not None else "-",
        _mebibytes(ours),
        _mebibytes(popular),
    ]
    return f"| {' | '.join(cells)} |"


def _times(row: Row | None) -> str:
    return "-" if row is None or row.ratio is None else f"{row.ratio:.2f}"


def _mebibytes(row: Row | None) -> str:
    return "-" if row is None or row.peak_mib is None else f"{row.peak_mib:.0f}"


def _ours(row: Row) -> bool:
    return row.contender.startswith(CHAMPION)


def _geometric_mean(ratios: Iterable[float | None]) -> float | None:
    known = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(sum(known) / len(known)) if known else None


if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m benchmarks.gpu_engines RESULTS.csv --into TABLE``: the engine that "auto" is to take.

Makes the lines of :mod:`memx_fast.gpu_engines` from those of a device that has run both engines.
Lines of GPUs of another compute capability stay in the table.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from memx_fast import gpu_engines
from memx_fast.files import replacing
from memx_fast.gpu_engines import Measured

from . import results
from .rivals import CUDA, TRITON
from .workloads import workload_named


def lines_of(rows: Iterable[results.Row], capability: str) -> list[Measured]:
    """One line for each workload of one layer, pass and type that both engines have run."""
    medians = {row.key: row.median_ms for row in rows}
    found = []
    for (name, work, dtype, contender), median in medians.items():
        triton = medians.get((name, work, dtype, TRITON))
        workload = workload_named(name)
        if contender == CUDA and triton is not None and len(workload.layers) == 1:
            sizes = (*workload.layers[0], workload.kernel_size**2)
            found.append(Measured(capability, dtype, work, *sizes, median / triton))
    return found


def write(path: Path, lines: Iterable[Measured]) -> None:
    """Write a table in place of what was there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Measured._fields)
    for line in sorted(lines):
        writer.writerow((*line[:-1], f"{line.ratio:.3g}"))
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status.

    Raises:
        ValueError: the results have no workload that both engines have run.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_engines", description=__doc__)
    parser.add_argument("results", type=Path, help="a CSV file of benchmarks/results")
    parser.add_argument("--into", type=Path, required=True, help="the table")
    parser.add_argument(
        "--capability",
        help="compute capability of the GPU of the results, as 9.0 (default: of the one here)",
    )
    options = parser.parse_args(arguments)
    capability = options.capability
    if capability is None:
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
    new = lines_of(results.read(options.results), capability)
    if not new:
        raise ValueError(f"{options.results} has no workload on which both engines ran")
    old = gpu_engines.read(options.into) if options.into.is_file() else ()
    write(options.into, [*(line for line in old if line.capability != capability), *new])
    print(f"wrote {options.into}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

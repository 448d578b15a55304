"""``python -m benchmarks.gpu_engines CSV.. --into TABLE``: the engine that "auto" is to take.

Makes the lines of :mod:`memx_fast.gpu_engines` from those that ``python -m benchmarks.ablation
--device cuda`` wrote, in which both engines took turns. Lines of GPUs of another compute capability
stay in the table.
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

from . import ablation
from .workloads import workload_named


def lines_of(lines: Iterable[ablation.Line], capability: str) -> list[Measured]:
    """One line for each workload of one layer, pass and type, of Triton beside CUDA C++."""
    found = []
    for line in lines:
        workload = workload_named(line.workload)
        if line.variant == ablation.TRITON and len(workload.layers) == 1:
            sizes = (*workload.layers[0], workload.kernel_size**2)
            found.append(Measured(capability, line.dtype, line.work, *sizes, 1 / line.ratio))
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
        ValueError: the files have no workload that both engines have run.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_engines", description=__doc__)
    parser.add_argument("measured", type=Path, nargs="+", help="CSV files of benchmarks.ablation")
    parser.add_argument("--into", type=Path, required=True, help="the table")
    parser.add_argument(
        "--capability",
        help="compute capability of the GPU that they are of, as 9.0 (default: of the one here)",
    )
    options = parser.parse_args(arguments)
    capability = options.capability
    if capability is None:
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
    new = lines_of([line for path in options.measured for line in ablation.read(path)], capability)
    if not new:
        names = ", ".join(map(str, options.measured))
        raise ValueError(f"measured: got {names}, expected one on which both engines have run")
    old = gpu_engines.read(options.into) if options.into.is_file() else ()
    write(options.into, [*(line for line in old if line.capability != capability), *new])
    print(f"wrote {options.into}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

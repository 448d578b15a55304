"""Peak memory of one pass, in a process of its own: ``python -m benchmarks.memory WORKLOAD ...``.

The process makes the pass once, so that libraries have loaded what they need, returns what is free
to the system, what memx_fast keeps included, and then measures how far a second pass raises the
resident set above that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import memx_fast

from .rivals import contender_named
from .workloads import DTYPES, PASSES, Problem, Workload, workload_named

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"


def measure(
    workload: Workload, contender: str, dtype: str, work: str, *, quick: bool, limit: float
) -> int | None:
    """Bytes that a pass needs beyond inputs and weights, measured in a fresh process.

    Returns:
        None where the system keeps no resettable peak (other than Linux), or after ``limit``
        seconds.
    """
    if not _RESET.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.memory", workload.name, contender, dtype, work]
    try:
        child = subprocess.run(
            command + ["--quick"] * quick,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{child.stderr}")
    return int(child.stdout.split()[-1])


def peak_of(function: Callable[[], object]) -> int:
    """Bytes by which the second call of a function raises the resident set at its peak."""
    function()
    gc.collect()
    memx_fast.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text(_RESET_PEAK)
    before = _status_bytes("VmRSS")
    function()
    return _status_bytes("VmHWM") - before


def peak_on_gpu(function: Callable[[], object]) -> int:
    """Bytes of GPU memory that a call needs at its peak beyond those in use before it.

    PyTorch counts what is allocated, so that no process of its own is needed.
    """
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{_STATUS} has no field {field}")


def main() -> int:
    """The command: prints a number of bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("contender")
    parser.add_argument("dtype", choices=DTYPES)
    parser.add_argument("work", choices=PASSES)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    workload = workload_named(options.workload)
    problem = Problem.of(workload.quick() if options.quick else workload)
    runner = contender_named(options.contender).build(problem, options.dtype)
    work = runner.forward if options.work == "forward" else runner.training

    def once() -> None:
        work()

    print(peak_of(once))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

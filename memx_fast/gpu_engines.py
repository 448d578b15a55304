"""Which of the two engines for GPUs "auto" takes for a layer: that which was measured to be faster.

``gpu_engines.csv`` says of layers that were measured how many times as long CUDA C++ takes as
Triton. A layer gets the engine that was faster for the most similar of them, on a GPU of the same
generation, in the same type and the same pass. Where nothing like it was measured it gets Triton.
The committed lines are of an H200. ``benchmarks/gpu.sh OUT`` measures both engines on another GPU
and writes the table to OUT/gpu_engines.csv (:mod:`benchmarks.gpu_engines`), to be committed in
place of this one.

Neither the number of steps nor the sizes of batch and frames count: a layer keeps its engine
whatever it is given.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch

TABLE = Path(__file__).with_suffix(".csv")

DEFAULT = "triton"


class Measured(NamedTuple):
    """A line of the table.

    Attributes:
        capability: of the GPU, as "9.0".
        dtype: what the layer computed in, as "bfloat16".
        work: "forward" or "training".
        input_channels, hidden_channels: of the layer.
        taps: pixels under its recurrent kernel.
        ratio: time of CUDA C++ over that of Triton.
    """

    capability: str
    dtype: str
    work: str
    input_channels: int
    hidden_channels: int
    taps: int
    ratio: float


# In which type a layer is looked up: half types are multiplied and moved alike.
_ALIKE = {torch.float16: "bfloat16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


def read(path: Path) -> tuple[Measured, ...]:
    """The lines of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Measured(
                *(line["capability"], line["dtype"], line["work"]),
                *(int(line["input_channels"]), int(line["hidden_channels"]), int(line["taps"])),
                float(line["ratio"]),
            )
            for line in csv.DictReader(file)
        )


_MEASURED = read(TABLE)


def fastest(
    device: torch.device,
    dtype: torch.dtype,
    trains: bool,
    input_channels: int,
    hidden_channels: int,
    taps: int,
) -> str:
    """The engine that "auto" takes for a layer where both can run it.

    Args:
        device: the GPU.
        dtype: what the layer computes in.
        trains: whether there will be a backward pass.
        input_channels, hidden_channels: of the layer; 0 for ready-made input gates.
        taps: pixels under its recurrent kernel.

    Returns:
        ``"triton"`` or ``"cuda"``.
    """
    if not _MEASURED:
        return DEFAULT
    engine, least = DEFAULT, math.inf
    for sizes, ratio in _alike(device, dtype, trains):
        distance = _distance((input_channels, hidden_channels, taps), sizes)
        if distance < least:
            engine, least = ("cuda" if ratio < 1 else "triton"), distance
    return engine


def all_chosen(device: torch.device) -> tuple[str, ...]:
    """The engines that "auto" takes on a GPU for one layer or another, where both can run."""
    faster = any(
        ratio < 1
        for dtype in _ALIKE
        for trains in (False, True)
        for _, ratio in _alike(device, dtype, trains)
    )
    return (DEFAULT, "cuda") if faster else (DEFAULT,)


@torch.compiler.assume_constant_result
def _alike(
    device: torch.device, dtype: torch.dtype, trains: bool
) -> list[tuple[tuple[int, int, int], float]]:
    """Sizes and ratios of the layers that were measured in the same way."""
    major, _ = torch.cuda.get_device_capability(device)
    work = "training" if trains else "forward"
    return [
        ((line.input_channels, line.hidden_channels, line.taps), line.ratio)
        for line in _MEASURED
        if line.capability.partition(".")[0] == str(major)
        and (line.dtype, line.work) == (_ALIKE.get(dtype), work)
    ]


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Of sizes: by which factor they differ, multiplied."""
    factor = 1.0
    for a, b in zip(one, other, strict=True):
        factor *= (1 + a) / (1 + b) if a > b else (1 + b) / (1 + a)
    return factor

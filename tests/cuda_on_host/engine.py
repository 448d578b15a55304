"""Compiles the CUDA engine for the CPU, with sanitizers, and runs problems on it."""

import os
import struct
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from tests.operator_cases import NAMES, Case

HERE = Path(__file__).parent
SOURCES = Path(__file__).parents[2] / "csrc"
FLAGS = (
    *("-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *("-march=native", "-ffp-contract=fast"),  # fused multiply-adds, as on a GPU
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
)

# In the order of NumberType in csrc/cuda/layer.h.
TYPES = ("float32", "tf32", "float64", "bfloat16", "float16")
DTYPES = {name: torch.float32 if name == "tf32" else getattr(torch, name) for name in TYPES}

GRADIENTS = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0")


class EngineFailedError(Exception):
    """The process ended with an error: what it said."""


def compile_engine(folder: Path, sources: Path = SOURCES, harness: tuple[str, ...] = ()) -> Path:
    """Compile the kernels of `sources`, and the harness unless its objects are given.

    Two files at a time. Gives the program.
    """
    units = [sources / "cuda" / name for name in ("backward.cu", "forward.cu")]
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda unit: compile_unit(unit, folder, sources), units)
        harness = harness or compile_harness(folder)
        objects = (*compiled, *harness)
    program = folder / "engine"
    run_compiler(*objects, "-o", str(program))
    return program


def compile_harness(folder: Path) -> tuple[str, ...]:
    """Compile what the kernels are run by; gives the objects."""
    units = [HERE / name for name in ("engine.cpp", "fibres.cpp")]
    return tuple(compile_unit(unit, folder, SOURCES) for unit in units)


def compile_unit(unit: Path, folder: Path, sources: Path, flags: tuple[str, ...] = ()) -> str:
    """Compile one file; gives the object."""
    result = str(folder / f"{unit.stem}.o")
    include = (f"-I{sources / 'cuda'}", f"-I{HERE}")
    run_compiler(*flags, *include, "-c", "-x", "c++", str(unit), "-o", result)
    return result


def run_compiler(*arguments: str) -> str:
    """What the compiler says; its errors are the test's."""
    command = (os.environ.get("CXX", "g++"), *FLAGS, *arguments)
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@dataclass(frozen=True)
class Device:
    """The GPU that the program plays: its size, the order of its warps, and when copies land."""

    multiprocessors: int = 132
    seed: int = 0
    copies_land_at_once: bool = False


@dataclass(frozen=True)
class Engine:
    """A compiled program."""

    program: Path
    type_name: str = "float32"
    device: Device = Device()

    def run(
        self,
        case: Case,
        arguments: dict[str, Tensor | None],
        incoming: tuple[Tensor | None, ...] | None,
        saved_gates: int | None = None,
        needs: tuple[str, ...] = NAMES,
    ) -> dict[str, Tensor]:
        """As operator_cases.results_and_gradients, of the gradients that `needs` names.

        Without incoming gradients nothing is kept for a backward pass.
        """
        problem = _Problem(case, self.type_name, self.device.multiprocessors, arguments)
        trains = incoming is not None
        saved = (case.steps if saved_gates is None else saved_gates) if trains else 0
        message = _Message()
        message.numbers(self.device.seed, self.device.copies_land_at_once)
        problem.describe(message)
        message.numbers(trains, saved)
        results = problem.forward_results(trains, saved)
        message.sizes(results.values())
        message.numbers(trains)
        if incoming is not None:
            gradients = problem.describe_backward(message, incoming, needs)
            results |= gradients
        self._fill(results, bytes(message.content))
        return problem.by_name(results, needs if trains else ())

    def _fill(self, results: dict[str, Tensor | None], message: bytes) -> None:
        finished = subprocess.run((str(self.program),), input=message, capture_output=True)
        if finished.returncode != 0:
            raise EngineFailedError(finished.stderr.decode())
        wanted = {name: result for name, result in results.items() if result is not None}
        sizes = [result.nbytes for result in wanted.values()]
        assert len(finished.stdout) == sum(sizes)
        for result, size, end in zip(wanted.values(), sizes, accumulate(sizes), strict=True):
            found = torch.frombuffer(
                bytearray(finished.stdout[end - size : end]), dtype=result.dtype
            )
            result.copy_(found.view(result.shape))


class _Message:
    """What the program reads: 64-bit numbers, and arrays after their size in bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def numbers(self, *numbers: int) -> None:
        self.content += struct.pack(f"={len(numbers)}q", *map(int, numbers))

    def array(self, tensor: Tensor | None) -> None:
        if tensor is None:
            self.numbers(-1)
            return
        self.numbers(tensor.nbytes)
        dense = tensor.detach().clone(memory_format=torch.contiguous_format)
        self.content += dense.flatten().view(torch.uint8).numpy().tobytes()

    def sizes(self, tensors: Iterable[Tensor | None]) -> None:
        self.numbers(*(-1 if tensor is None else tensor.nbytes for tensor in tensors))

    def strided(self, tensor: Tensor | None) -> None:
        """The memory that a tensor spans, and its strides for step, image, channel, row, column."""
        strides = (0,) * 5 if tensor is None else (0,) * (5 - tensor.dim()) + tensor.stride()
        if tensor is not None:
            shape = tensor.shape
            span = 1 + sum((n - 1) * by for n, by in zip(shape, tensor.stride(), strict=True))
            tensor = tensor.as_strided((span,), (1,))
        self.array(tensor)
        self.numbers(*strides)


@dataclass(frozen=True)
class _Problem:
    case: Case
    type_name: str
    multiprocessors: int
    arguments: dict[str, Tensor | None]

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.type_name]

    @property
    def cell_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def state(self) -> tuple[int, int, int, int]:
        case = self.case
        return case.batch, case.height, case.width, case.hidden

    def describe(self, message: _Message) -> None:
        case = self.case
        ready_made = not case.input_channels
        input_kernel = (1, 1) if ready_made else case.input_kernel
        padding = case.padding or tuple(size // 2 for size in input_kernel)
        message.numbers(TYPES.index(self.type_name), case.steps, case.batch)
        message.numbers(4 * case.hidden if ready_made else case.input_channels, *case.frame())
        message.numbers(case.hidden, case.height, case.width)
        message.numbers(*case.kernel, *input_kernel, *padding)
        message.numbers(case.peephole == "spatial", case.output_peephole == "current")
        message.content += struct.pack("=d", case.hard_slope)
        message.numbers(self.multiprocessors)
        for name in NAMES:
            value = self.arguments[name]
            if value is not None and name in ("x", "h_0", "c_0"):
                value = value.movedim(-3, -1)
            message.array(value)
        mask = case.hidden_mask(self.arguments["x"])
        message.array(None if mask is None else mask.movedim(-3, -1))
        message.array(case.lengths())

    def forward_results(self, trains: bool, saved_gates: int) -> dict[str, Tensor | None]:
        steps = (self.case.steps,)
        gates = (saved_gates, *self.state[:3], 4, self.case.hidden)
        return {
            "output": torch.empty(steps + self.state, dtype=self.dtype),
            "cells": torch.empty((steps if trains else (1,)) + self.state, dtype=self.cell_dtype),
            "gates": torch.empty(gates, dtype=self.dtype) if saved_gates else None,
        }

    def describe_backward(
        self, message: _Message, incoming: tuple[Tensor | None, ...], needs: tuple[str, ...]
    ) -> dict[str, Tensor | None]:
        output, h_n, c_n = incoming
        message.strided(None if output is None else output.to(self.dtype))
        message.strided(None if h_n is None else h_n.to(self.dtype))
        cell = torch.zeros(self.state, dtype=self.cell_dtype)
        if c_n is not None:
            cell.copy_(c_n.movedim(-3, -1))
        message.array(cell)
        case = self.case
        results: dict[str, Tensor | None] = {"grad of c_0": cell}
        shape = (case.steps, *self.state[:3], 4 * case.hidden)
        results["gate gradients"] = torch.empty(shape, dtype=self.dtype)
        for name in GRADIENTS:
            value = self.arguments[name]
            # The gradient of ready-made input gates is that of the gates.
            absent = value is None or name not in needs or (name == "x" and not case.input_channels)
            channels_last = name in ("x", "h_0")
            results[f"grad of {name}"] = (
                None
                if absent
                else torch.empty_like(
                    value.movedim(-3, -1) if channels_last else value,
                    dtype=self.dtype,
                    memory_format=torch.contiguous_format,
                )
            )
        message.sizes([result for name, result in results.items() if name != "grad of c_0"])
        return results

    def at_ends(self, of_steps: Tensor) -> Tensor:
        """What every sequence's last step left in (T, B, ...), or in (1, B, ...) of the last."""
        lengths = self.case.lengths()
        if lengths is None or len(of_steps) == 1:
            return of_steps[-1]
        return of_steps[lengths - 1, torch.arange(len(lengths))]

    def by_name(
        self, results: dict[str, Tensor | None], needs: tuple[str, ...]
    ) -> dict[str, Tensor]:
        output, cells = results["output"], results["cells"]
        found = {"output": output, "h_n": self.at_ends(output), "c_n": self.at_ends(cells)}
        if "x" in needs and not self.case.input_channels:
            results["grad of x"] = results["gate gradients"]
        found |= {
            f"grad of {name}": results[f"grad of {name}"]
            for name in NAMES
            if name in needs and self.arguments[name] is not None
        }
        last = ("output", "h_n", "c_n", "grad of x", "grad of h_0", "grad of c_0")
        return {
            name: value.movedim(-1, -3) if name in last else value for name, value in found.items()
        }

"""What the CUDA kernels become: they compile for every GPU, spill nothing, and grow no fatter.

Registers are compared with cuda_resources.csv where the compiler is the one that it was written
with: another allots them differently. After a change that is meant: python -m tests.cuda_compiler.
"""

import csv
import re
import shutil

import pytest

from tests.cuda_compiler import (
    GPUS,
    TABLE,
    Compiled,
    Kernel,
    compiled_for_all,
    loads_at_once,
    release,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the path"),
]

MOST_REGISTERS = 255
STEPS = ("forward_step", "backward_step", "image_gradient", "weight_gradient", "parameter_sums")
TYPES = ("float32", "tf32", "float64", "bfloat16", "float16")


@pytest.fixture(scope="module")
def found() -> dict[str, Compiled]:
    return compiled_for_all()


@pytest.mark.parametrize("gpu", GPUS)
def test_every_kernel_is_there_for_every_type(gpu: str, found: dict[str, Compiled]) -> None:
    """In one shape or several."""
    there = {(kernel.name, kernel.type_name) for kernel in found[gpu].kernels}
    assert {(step, type_name) for step in STEPS for type_name in TYPES} <= there


@pytest.mark.parametrize("gpu", GPUS)
def test_nothing_is_spilled(gpu: str, found: dict[str, Compiled]) -> None:
    """All that a thread holds is in registers, and shared memory is what the launch asks for."""
    for kernel, needed in found[gpu].kernels.items():
        assert needed.in_memory == 0, kernel
        assert needed.shared == 0, kernel
        assert needed.registers < MOST_REGISTERS, kernel


@pytest.mark.parametrize("gpu", GPUS)
def test_instructions_are_those_that_were_meant(gpu: str, found: dict[str, Compiled]) -> None:
    """Matrix instructions for every type that has them, asynchronous copies, and no subroutines.

    Nothing is divided, nor a reciprocal taken, with the last bit right in single precision.
    """
    for instruction in (
        *(f"mma.sync.aligned.m16n8k16.row.col.f32.{half}" for half in ("bf16.bf16", "f16.f16")),
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32",
        "ldmatrix.sync.aligned.m8n8.x4.shared",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared",
        "cp.async.cg.shared.global",
        "ex2.approx.ftz.f32",
        "rcp.approx.ftz.f32",
    ):
        assert instruction in found[gpu].ptx, instruction
    assert not re.findall(r"(?:div|rcp|sqrt)\.rn\.f32", found[gpu].ptx)
    assert "call.uni" not in found[gpu].ptx


def test_what_a_step_reads_is_asked_for_at_once() -> None:
    """Three peepholes and C_{t-1}; backward C_t, its gradient and four gates, too."""
    found = loads_at_once()
    assert found["forward"] >= 4
    assert found["backward"] >= 10


@pytest.mark.parametrize("gpu", GPUS)
def test_registers_are_as_recorded(gpu: str, found: dict[str, Compiled]) -> None:
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    if f"nvcc {release()}" not in rows[0]:
        pytest.skip(f"the table is of {list(rows[0])[-1]}, this is nvcc {release()}")
    recorded = {Kernel(row["kernel"], row["numbers"], row["warps"]): int(row[gpu]) for row in rows}
    assert {kernel: needed.registers for kernel, needed in found[gpu].kernels.items()} == recorded

"""What the CUDA kernels become: they compile for every GPU, spill nothing, and grow no fatter.

Registers are compared with cuda_resources.csv where the compiler is the one that it was written
with: another allots them differently. After a change that is meant: python -m tests.cuda_compiler.
"""

import csv
import shutil

import pytest

from tests.cuda_compiler import GPUS, TABLE, Kernel, Resources, all_resources, release

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the path"),
]

MOST_REGISTERS = 255
STEPS = ("forward_step", "backward_step", "image_gradient", "weight_gradient", "parameter_sums")
TYPES = ("float32", "tf32", "float64", "bfloat16", "float16")


@pytest.fixture(scope="module")
def found() -> dict[str, dict[Kernel, Resources]]:
    return all_resources()


@pytest.mark.parametrize("gpu", GPUS)
def test_every_kernel_is_there_for_every_type(gpu: str, found: dict) -> None:
    """In one shape or several."""
    there = {(kernel.name, kernel.type_name) for kernel in found[gpu]}
    assert {(step, type_name) for step in STEPS for type_name in TYPES} <= there


@pytest.mark.parametrize("gpu", GPUS)
def test_nothing_is_spilled(gpu: str, found: dict) -> None:
    """All that a thread holds is in registers, and shared memory is what the launch asks for."""
    for kernel, needed in found[gpu].items():
        assert needed.spilled == 0, kernel
        assert needed.shared == 0, kernel
        assert needed.registers < MOST_REGISTERS, kernel


@pytest.mark.parametrize("gpu", GPUS)
def test_registers_are_as_recorded(gpu: str, found: dict) -> None:
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    if f"nvcc {release()}" not in rows[0]:
        pytest.skip(f"the table is of {list(rows[0])[-1]}, this is nvcc {release()}")
    recorded = {Kernel(row["kernel"], row["numbers"], row["warps"]): int(row[gpu]) for row in rows}
    assert {kernel: needed.registers for kernel, needed in found[gpu].items()} == recorded

"""What the Triton compiler makes of every configuration, for GPUs that need not be there."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ARTEFACT = ROOT / "build" / "triton-kernels.csv"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux"),
]

# Bytes that one program may have on the device.
SHARED_MEMORY = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}

MATRIX_INSTRUCTION = {
    "sm_80": "mma.sync",
    "sm_90": "wgmma.mma_async",
    "sm_100": "tcgen05.mma",
    "gfx942": "v_mfma",
}


@pytest.fixture(scope="module")
def compilation() -> dict[str, Any]:
    """Everything compiled, and the table of it written to build/triton-kernels.csv."""
    ARTEFACT.parent.mkdir(exist_ok=True)
    result = ARTEFACT.with_suffix(".json")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(ARTEFACT.parent / "triton-cache"),
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("offline_compiler.py")
    finished = subprocess.run(
        (sys.executable, str(script), str(result)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    with ARTEFACT.open("w", newline="") as file:
        table = csv.DictWriter(file, found["kernels"][0])
        table.writeheader()
        table.writerows(found["kernels"])
    return found


def described(kernel: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in kernel.items())


def test_every_kernel_is_compiled_for_every_target(compilation: dict[str, Any]) -> None:
    """All five kernels, for all four targets."""
    names = {"forward_step", "backward_step", "transposed_convolution", "partial_products"}
    names |= {"sum_over_images"}
    found = {(kernel["kernel"], kernel["target"]) for kernel in compilation["kernels"]}
    assert found == {(name, target) for name in names for target in SHARED_MEMORY}


def test_nothing_is_spilled(compilation: dict[str, Any]) -> None:
    """Every program's values fit into its registers."""
    spilled = [described(kernel) for kernel in compilation["kernels"] if kernel["spilled"]]
    assert not spilled, "\n".join(spilled)


def test_shared_memory_suffices(compilation: dict[str, Any]) -> None:
    """No configuration needs more than the device has."""
    for kernel in compilation["kernels"]:
        assert kernel["shared"] <= SHARED_MEMORY[kernel["target"]], described(kernel)


def test_half_types_use_the_matrix_units(compilation: dict[str, Any]) -> None:
    """Convolutions run on the device's own matrix instruction, weight gradients on any."""
    checked = 0
    for kernel in compilation["kernels"]:
        if kernel["dtype"] not in ("bfloat16", "float16") or kernel["stands_alone"]:
            continue
        if kernel["kernel"] == "partial_products":
            # Up to 32 rows are too few for the widest instructions.
            assert any(kernel[name] for name in MATRIX_INSTRUCTION.values()), described(kernel)
        elif kernel["kernel"] != "sum_over_images":
            assert kernel[MATRIX_INSTRUCTION[kernel["target"]]], described(kernel)
        checked += 1
    assert checked > 50


def test_tf32_operands_are_rounded(compilation: dict[str, Any]) -> None:
    """Nearest TF32, not cut off by the matrix units; weights were rounded as they were packed."""
    checked = 0
    for kernel in compilation["kernels"]:
        multiplies = kernel["kernel"] != "sum_over_images" and not kernel["stands_alone"]
        if kernel["precision"] == "tf32" and multiplies:
            assert any(kernel[name] for name in MATRIX_INSTRUCTION.values()), described(kernel)
            assert kernel["roundings"], described(kernel)
            checked += 1
        else:
            assert not kernel["roundings"], described(kernel)
    assert checked == 3 * 3 * 4


def test_float32_products_are_added_up_by_themselves(compilation: dict[str, Any]) -> None:
    """A block's products are a sum of their own, added to the total: an addition an element.

    Of the two kernels that add nothing else. Triton's compiler would gladly go on with the total.
    """
    sides = {
        "transposed_convolution": ("BLOCK_M", "BLOCK_C"),
        "partial_products": ("BLOCK_R", "BLOCK_N"),
    }
    checked = 0
    for kernel in compilation["kernels"]:
        is_exact = (kernel["dtype"], kernel["precision"]) == ("float32", "ieee")
        if is_exact and kernel["kernel"] in sides and kernel["target"] != "gfx942":
            rows, columns = (kernel["tile"][side] for side in sides[kernel["kernel"]])
            elements = rows * columns // (32 * kernel["warps"])
            assert kernel["additions"] == elements, described(kernel)
            checked += 1
    assert checked == 3 * 2 * 2


def test_nothing_is_compiled_again_for_other_sizes(compilation: dict[str, Any]) -> None:
    """T, B, H and W, whether 1, multiples of 16 or neither, need no other binary."""
    assert compilation["compiled_again"] == []

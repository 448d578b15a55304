"""Compiles the CUDA kernels with nvcc and says what each of them needs on each GPU.

``python -m tests.cuda_compiler`` writes the table that test_cuda_compile.py compares with.
"""

import csv
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "csrc" / "cuda" / "backward.cu"  # has the forward step too
TABLE = Path(__file__).with_name("cuda_resources.csv")
GPUS = ("sm_80", "sm_90", "sm_100")

_TYPES = {
    "TensorFloat32": "tf32",
    "Bfloat16": "bfloat16",
    "Float16": "float16",
    "double": "float64",
    "float": "float32",
}
_PROPERTIES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '\w+'.*?"
    r"(?P<spilled>\d+) bytes spill stores, (?P<reloaded>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True, order=True)
class Kernel:
    """A kernel, the numbers it is for, and how its warps share a tile: down x across x quads."""

    name: str
    type_name: str
    warps: str


@dataclass(frozen=True)
class Resources:
    """Registers of a thread, bytes it spills, and bytes of static shared memory of a block."""

    registers: int
    spilled: int
    shared: int


def release() -> str:
    """Which nvcc this is."""
    said = subprocess.run(("nvcc", "--version"), capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", said)[1]


def resources(gpu: str) -> dict[Kernel, Resources]:
    """What ptxas says about every kernel."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("nvcc", "-std=c++20", "-O3", "-cubin", f"-arch={gpu}", "-Xptxas", "-v")
        finished = subprocess.run(
            (*command, "-o", f"{folder}/kernels.cubin", str(SOURCE)), capture_output=True, text=True
        )
    assert finished.returncode == 0, finished.stderr
    found = list(_PROPERTIES.finditer(finished.stderr))
    names = "\n".join(match["name"] for match in found)
    readable = subprocess.run(("c++filt",), input=names, capture_output=True, text=True, check=True)
    table = {}
    for match, name in zip(found, readable.stdout.splitlines(), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        table[_kernel(name)] = Resources(
            int(match["registers"]),
            int(match["spilled"]) + int(match["reloaded"]),
            int(shared[1]) if shared else 0,
        )
    assert len(table) == len(found)
    return table


def _kernel(name: str) -> Kernel:
    """`void memx::cuda::forward_step<memx::cuda::Shape<..., 4, 2, 2> >(...)` in short."""
    kernel = re.match(r"void memx::cuda::(\w+)<(.*?)>\(", name)
    warps = re.search(r"(\d+), (\d+), (\d+)", kernel[2])
    type_name = next(short for long, short in _TYPES.items() if long in kernel[2])
    return Kernel(kernel[1], type_name, "x".join(warps.groups()) if warps else "")


def all_resources() -> dict[str, dict[Kernel, Resources]]:
    """Of every GPU, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(GPUS, pool.map(resources, GPUS), strict=True))


def main() -> None:
    found = all_resources()
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("kernel", "numbers", "warps", *GPUS, f"nvcc {release()}"))
        for kernel in sorted(found[GPUS[0]]):
            registers = (found[gpu][kernel].registers for gpu in GPUS)
            writer.writerow((kernel.name, kernel.type_name, kernel.warps, *registers, ""))


if __name__ == "__main__":
    main()

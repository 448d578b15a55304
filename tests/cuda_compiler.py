"""Compiles the CUDA kernels with nvcc and says what each of them needs on each GPU.

``python -m tests.cuda_compiler`` writes the table that test_cuda_compile.py compares with.
"""

import ast
import csv
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import triton

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "csrc" / "cuda" / "backward.cu"  # has the forward step too
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
    r"(?P<stack>\d+) bytes stack frame, (?P<spilled>\d+) bytes spill stores, "
    r"(?P<reloaded>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True, order=True)
class Kernel:
    """A kernel, its numbers, and how its warps share a tile: down x across x quads x shares.

    Of a transposition, to which type it is.
    """

    name: str
    type_name: str
    warps: str


@dataclass(frozen=True)
class Resources:
    """Of a thread: registers, and bytes that are not in them. Bytes of static shared memory."""

    registers: int
    in_memory: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """What the kernels become on a GPU."""

    kernels: dict[Kernel, Resources]
    ptx: str


def flags() -> list[str]:
    """What setup.py compiles the kernels with."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "CUDA_FLAGS":
            return ast.literal_eval(statement.value)
    raise AssertionError("setup.py has no CUDA_FLAGS")


def release() -> str:
    """Which nvcc this is."""
    said = subprocess.run(("nvcc", "--version"), capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", said)[1]


def compiled(gpu: str) -> Compiled:
    """Of every kernel, for one GPU."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("nvcc", *flags(), "-cubin", f"-arch={gpu}", "-Xptxas", "-v", "-keep")
        into = ("--keep-dir", folder, "-o", f"{folder}/kernels.cubin")
        finished = subprocess.run((*command, *into, str(SOURCE)), capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        ptx = Path(folder, "backward.ptx").read_text()
    return Compiled(_resources(finished.stderr), ptx)


LOADS = """
#include "backward_pass.h"

namespace memx::cuda {
using Numbers = Bfloat16Numbers;
template __global__ void forward_step<WideForward<Numbers>>(
    const __grid_constant__ ForwardStep<Numbers>);
template __global__ void backward_step<TallBackward<Numbers>>(
    const __grid_constant__ BackwardStep<Numbers>);
}
"""


def loads_at_once() -> dict[str, int]:
    """How many fours of channels a step asks for one after the other, at most: sm_90, bfloat16.

    Nothing waits between them, nor decides whether there is to be another.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "loads.cu"), Path(folder, "loads.cubin")
        source.write_text(LOADS)
        command = ("nvcc", *flags(), "-cubin", "-arch=sm_90", f"-I{SOURCE.parent}", "-o")
        subprocess.run((*command, str(cubin), str(source)), check=True)
        disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        said = subprocess.run(
            (str(disassembler), "-c", str(cubin)), capture_output=True, text=True, check=True
        ).stdout
    found = {}
    for kernel in said.split(".section\t.text.")[1:]:
        name = re.match(r"\w*?(forward|backward)_step", kernel)[1]
        parts = re.split(r"\b(?:BRA|BSSY|BSYNC|STG)\b", kernel)
        found[name] = max(len(re.findall(r" LDG\.E\.(?:64|128) ", part)) for part in parts)
    return found


def _resources(said: str) -> dict[Kernel, Resources]:
    """What ptxas says about every kernel."""
    found = list(_PROPERTIES.finditer(said))
    names = "\n".join(match["name"] for match in found)
    readable = subprocess.run(("c++filt",), input=names, capture_output=True, text=True, check=True)
    table = {}
    for match, name in zip(found, readable.stdout.splitlines(), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        table[_kernel(name)] = Resources(
            int(match["registers"]),
            sum(int(match[part]) for part in ("stack", "spilled", "reloaded")),
            int(shared[1]) if shared else 0,
        )
    assert len(table) == len(found)
    return table


def _kernel(name: str) -> Kernel:
    """`void memx::cuda::forward_step<memx::cuda::Shape<..., 4, 2, 2, 1> >(...)` in short."""
    kernel = re.match(r"void memx::cuda::(\w+)<(.*?)>\(", name)
    if kernel[1] == "transpose":
        from_type, to_type = kernel[2].split(", ")
        return Kernel(kernel[1], _type(from_type), f"to {_type(to_type)}")
    warps = re.search(r"(\d+), (\d+), (\d+), (\d+)", kernel[2])
    return Kernel(kernel[1], _type(kernel[2]), "x".join(warps.groups()) if warps else "")


def _type(readable: str) -> str:
    """The short name of the first known type in what c++filt made readable."""
    return next(short for long, short in _TYPES.items() if long in readable)


def compiled_for_all() -> dict[str, Compiled]:
    """For every GPU, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(GPUS, pool.map(compiled, GPUS), strict=True))


def main() -> None:
    found = {gpu: made.kernels for gpu, made in compiled_for_all().items()}
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("kernel", "numbers", "warps", *GPUS, f"nvcc {release()}"))
        for kernel in sorted(found[GPUS[0]]):
            registers = (found[gpu][kernel].registers for gpu in GPUS)
            writer.writerow((kernel.name, kernel.type_name, kernel.warps, *registers, ""))


if __name__ == "__main__":
    main()

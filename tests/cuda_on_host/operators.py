"""Compiles the operators of the CUDA engine, as they are, for tensors on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

from tests.cuda_on_host.engine import HERE, SOURCES, compile_unit, run_compiler

UNITS = (
    *(SOURCES / "cuda" / name for name in ("backward.cu", "forward.cu", "operators.cpp")),
    SOURCES / "arguments.cpp",
    *(HERE / name for name in ("device.cpp", "fibres.cpp")),
)


def compile_operators(folder: Path) -> Path:
    """A library that registers ``torch.ops.memx_fast.conv_lstm_cuda`` for the CPU."""
    headers = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    flags = ("-fPIC", "-DAT_PER_OPERATOR_HEADERS", *headers)
    with ThreadPoolExecutor(2) as pool:
        objects = tuple(pool.map(lambda unit: compile_unit(unit, folder, SOURCES, flags), UNITS))
    library = folder / "operators.so"
    of_torch = Path(torch.__file__).parent / "lib"
    links = (f"-L{of_torch}", f"-Wl,-rpath,{of_torch}", "-lc10", "-ltorch_cpu")
    run_compiler("-shared", *objects, *links, "-o", str(library))
    return library


def sanitizer_libraries() -> str:
    """What a process must have loaded before anything else for the library to run in it."""
    names = ("libasan.so", "libstdc++.so")
    return " ".join(run_compiler(f"-print-file-name={name}").strip() for name in names)

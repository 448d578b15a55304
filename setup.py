"""Build of the C++ extension. Everything else about the package is in pyproject.toml.

The extension is compiled against the PyTorch that is already installed:
``pip install --no-build-isolation .`` Where that is a CUDA build and nvcc is there, the CUDA
kernels are compiled too, for the GPUs in TORCH_CUDA_ARCH_LIST; no GPU is needed.
MEMX_FAST_NO_CUDA=1 leaves them out. MEMX_FAST_NO_EXTENSION=1 installs the pure Python package,
which runs on plain PyTorch.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import find_packages, setup

WITH_EXTENSION = os.environ.get("MEMX_FAST_NO_EXTENSION", "") in ("", "0")
WITH_CUDA = os.environ.get("MEMX_FAST_NO_CUDA", "") in ("", "0")
PURE_PYTHON = (
    "set MEMX_FAST_NO_EXTENSION=1 to install the package without it (slower, plain PyTorch)"
)

# -fopenmp belongs to compiling alone: without it at::parallel_for is serial, while linking with it
# could bring a second OpenMP runtime into the process beside the one of PyTorch.
COMPILE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    *(["-fopenmp"] if sys.platform.startswith("linux") else []),
]
# Quotients of single precision are within two units in the last place. With the last bit right they
# would be a test and a subroutine each, and there are five of them to every number of a state.
CUDA_FLAGS = ["-std=c++20", "-O3", "-prec-div=false", "-Xcompiler=-fvisibility=hidden"]
# Of the GPUs that the kernels are compiled for unless TORCH_CUDA_ARCH_LIST says otherwise, those
# that nvcc knows; the last one's PTX is for all that come after it.
CUDA_ARCHITECTURES = ("8.0", "9.0", "10.0")


@dataclass
class Cuda:
    """The CUDA compiler, or the reason why there is none to use."""

    problem: str | None = None
    compiler: str = ""
    architectures: tuple[str, ...] = ()

    def facts(self) -> dict:
        """For the build record."""
        if self.problem is not None:
            return {"without_cuda": self.problem}
        return {
            "without_cuda": None,
            "cuda_compiler": self.compiler,
            "cuda_architectures": self.architectures,
            "cuda_flags": CUDA_FLAGS,
        }


def find_cuda() -> Cuda:
    """What the CUDA kernels can be compiled with, for the PyTorch that is installed."""
    import torch

    if not WITH_CUDA:
        return Cuda("MEMX_FAST_NO_CUDA was set when it was built")
    if torch.version.cuda is None:
        return Cuda(f"PyTorch {torch.__version__}, which it was built with, is one without CUDA")
    home = cuda_home()
    if home is None:
        return Cuda(
            f"no nvcc was found when it was built: install the CUDA toolkit {torch.version.cuda} "
            "or name its folder in CUDA_HOME"
        )
    nvcc = str(home / "bin" / "nvcc")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release ([\d.]+)", said)[1]
    if release.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        return Cuda(
            f"nvcc {release} was found when it was built, where PyTorch {torch.__version__} needs "
            f"that of CUDA {torch.version.cuda}: name its folder in CUDA_HOME"
        )
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";")
    architectures = [one for one in wanted.split(";") if one and not is_too_old(one)]
    if wanted and not architectures:
        return Cuda(f"TORCH_CUDA_ARCH_LIST was {wanted} when it was built, the kernels need 8.0")
    if not wanted:
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        architectures = [one for one in CUDA_ARCHITECTURES if f"_{one.replace('.', '')}\n" in known]
        architectures[-1] += "+PTX"
    os.environ["CUDA_HOME"] = str(home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(architectures)
    return Cuda(None, f"nvcc {release}", tuple(architectures))


def is_too_old(architecture: str) -> bool:
    """Whether an entry of TORCH_CUDA_ARCH_LIST is below 8.0; names, as Hopper, are PyTorch's."""
    version = re.match(r"(\d+)\.\d+", architecture)
    return version is not None and int(version[1]) < 8


def cuda_home() -> Path | None:
    """The folder of the CUDA toolkit. An nvcc on the path may be a mere wrapper of the real one."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    candidates = [named] if named else [on_path and Path(on_path).parents[1], "/usr/local/cuda"]
    homes = (Path(candidate) for candidate in candidates if candidate)
    return next((home for home in homes if (home / "nvvm").is_dir()), None)


def extension_arguments() -> dict:
    """The arguments of setup() that describe the extension: none for the pure Python package."""
    if not WITH_EXTENSION:
        return {}
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise SystemExit(
            "memx_fast compiles its extension against the installed PyTorch: there is none.\n"
            "Install torch first, then run:  pip install --no-build-isolation .\n"
            f"Or {PURE_PYTHON}."
        ) from None
    cuda = find_cuda()
    # Imported now because it looks for CUDA as soon as it is.
    from torch.utils.cpp_extension import (
        BuildExtension,
        CppExtension,
        CUDAExtension,
        get_cxx_compiler,
    )

    class BuildWithRecord(BuildExtension):
        """Compiles, and leaves beside the extension a record of what it was compiled with.

        What an earlier build left is used again only if its record says the same.
        """

        def run(self) -> None:
            compiler = get_cxx_compiler()
            if shutil.which(shlex.split(compiler)[0]) is None:
                raise SystemExit(
                    "memx_fast needs a C++20 compiler to build its extension, "
                    f"and {compiler!r} was not found.\n"
                    f"Install one (Debian: apt install g++), name it in CXX, or {PURE_PYTHON}."
                )
            version = subprocess.run(
                [*shlex.split(compiler), "--version"], capture_output=True, text=True
            )
            facts = {
                "torch": str(torch.__version__),
                "extension_suffix": sysconfig.get_config_var("EXT_SUFFIX"),
                "compiler": version.stdout.partition("\n")[0],
                "flags": COMPILE_FLAGS,
                **cuda.facts(),
                "environment": {
                    name: os.environ[name]
                    for name in ("CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")
                    if name in os.environ
                },
            }
            record = json.dumps(facts, indent=1) + "\n"
            built = Path(self.build_lib, "memx_fast", "_build.json")
            if not built.is_file() or built.read_text() != record:
                self.force = True
                shutil.rmtree(self.build_temp, ignore_errors=True)
            super().run()
            installed = Path(self.get_ext_fullpath(self.extensions[0].name))
            for path in {built, installed.with_name(built.name)}:
                path.write_text(record)

    sources = [*map(str, Path("csrc").glob("*.cpp")), *map(str, Path("csrc/cpu").glob("*.cpp"))]
    if cuda.problem is None:
        sources += map(str, Path("csrc/cuda").glob("*.c*"))
    extension = (CppExtension if cuda.problem else CUDAExtension)(
        "memx_fast._C",
        sorted(sources),
        depends=sorted(str(path) for path in Path("csrc").rglob("*") if path.is_file()),
        include_dirs=[str(Path("csrc").resolve())],
        define_macros=[("AT_PER_OPERATOR_HEADERS", None)],
        extra_compile_args={"cxx": COMPILE_FLAGS, "nvcc": CUDA_FLAGS},
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildWithRecord}}


setup(
    # The folder beside the package, installed inside it: other projects own the name at top level.
    packages=[*find_packages(include=["memx_fast", "memx_fast.*"]), "memx_fast.triton_kernels"],
    package_dir={"memx_fast.triton_kernels": "triton_kernels"},
    **extension_arguments(),
)

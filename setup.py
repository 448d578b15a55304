"""Build of the C++ extension. Everything else about the package is in pyproject.toml.

The extension is compiled against the PyTorch that is already installed:
``pip install --no-build-isolation .`` MEMX_FAST_NO_EXTENSION=1 installs the pure Python package,
which runs on plain PyTorch.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup

WITH_EXTENSION = os.environ.get("MEMX_FAST_NO_EXTENSION", "") in ("", "0")
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


def extension_arguments() -> dict:
    """The arguments of setup() that describe the extension: none for the pure Python package."""
    if not WITH_EXTENSION:
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, get_cxx_compiler
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise SystemExit(
            "memx_fast compiles its extension against the installed PyTorch: there is none.\n"
            "Install torch first, then run:  pip install --no-build-isolation .\n"
            f"Or {PURE_PYTHON}."
        ) from None

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

    extension = CppExtension(
        "memx_fast._C",
        ["csrc/arguments.cpp", "csrc/ops.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
        depends=sorted(str(path) for path in Path("csrc").rglob("*") if path.is_file()),
        include_dirs=[str(Path("csrc").resolve())],
        define_macros=[("AT_PER_OPERATOR_HEADERS", None)],
        extra_compile_args=COMPILE_FLAGS,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildWithRecord}}


setup(
    # The folder beside the package, installed inside it: other projects own the name at top level.
    packages=[*find_packages(include=["memx_fast", "memx_fast.*"]), "memx_fast.triton_kernels"],
    package_dir={"memx_fast.triton_kernels": "triton_kernels"},
    **extension_arguments(),
)

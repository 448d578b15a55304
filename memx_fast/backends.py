"""Which engines can run the layer on this machine, why the others cannot, and which one is used.

An *engine* executes the recurrence: ``"cpp"`` is the fused C++ code for tensors on the CPU,
``"triton"`` and ``"cuda"`` the fused Triton and CUDA C++ code for tensors on GPUs, ``"reference"``
plain PyTorch for tensors anywhere. ``"auto"`` is not an engine but the request for the fastest one
available.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import re
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BUILD_RECORD = Path(__file__).with_name("_build.json")
"""What the build wrote beside the compiled extension: see :func:`build_record`."""

TRITON_DEVICES = ("cuda", "xpu")
"""Types of device that the Triton engine serves; PyTorch calls AMD's GPUs cuda as well."""

_REINSTALL = "reinstall memx_fast in this environment: pip install --no-build-isolation ."


@dataclass(frozen=True)
class Backend:
    """One engine as this machine sees it.

    Attributes:
        name: what to pass as ``backend=``.
        available: whether it can be used in this process.
        reason: what it runs on; if it is not available, why not and what to do about it.
    """

    name: str
    available: bool
    reason: str


@dataclass(frozen=True)
class _Engine:
    """An engine, the device types it serves (none listed: all), and what stands in its way."""

    name: str
    devices: tuple[str, ...]
    description: str
    problem: Callable[[], str | None]

    def serves(self, device: torch.device) -> bool:
        return not self.devices or device.type in self.devices


def build_record() -> dict[str, Any] | None:
    """Facts that the build of the extension left beside it, or None if no extension was built.

    Keys: ``torch`` (version compiled against), ``extension_suffix`` (which interpreter it is for),
    ``compiler``, ``flags``; ``without_cuda`` (why the CUDA kernels were left out, or None) and, if
    they were not, ``cuda_compiler``, ``cuda_architectures`` (as in TORCH_CUDA_ARCH_LIST),
    ``cuda_flags``. They are read from here, not from the extension, because importing an extension
    that was compiled against another PyTorch can end the process.
    """
    if not BUILD_RECORD.is_file():
        return None
    record: dict[str, Any] = json.loads(BUILD_RECORD.read_text(encoding="utf-8"))
    return record


def load_extension() -> bool:
    """Import the extension, once, which registers ``torch.ops.memx_fast.*`` for its devices.

    Returns:
        True if the kernels are there. False if no extension fits this interpreter and this
        PyTorch; :func:`available` tells why. Never warns and never raises.
    """
    return _extension_problem() is None


def available() -> tuple[Backend, ...]:
    """Every engine that memx_fast knows, plain PyTorch last, and what can be said about it here."""
    found = []
    for engine in _ENGINES:
        problem = engine.problem()
        found.append(Backend(engine.name, problem is None, problem or engine.description))
    return tuple(found)


def check_name(backend: str) -> None:
    """Raise a ``ValueError`` unless ``backend`` is ``"auto"`` or an engine's name."""
    names = ("auto", *(engine.name for engine in _ENGINES))
    if backend not in names:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, names))}")


@torch.compiler.assume_constant_result
def resolve(backend: str, device: torch.device) -> str:
    """Name of the engine that runs tensors on ``device`` when the caller asks for ``backend``.

    Args:
        backend: ``"auto"`` for the fastest engine that can, or an engine's name.
        device: where the tensors are.

    Returns:
        The engine's name. If ``"auto"`` comes down to plain PyTorch because the engines made for
        this kind of device cannot be used, a ``RuntimeWarning`` says so and why, once in a process.

    Raises:
        ValueError: ``backend`` is no known name.
        RuntimeError: ``backend`` is known but cannot be used here, or not on this device.
    """
    check_name(backend)
    if backend == "auto":
        return _fastest(device)
    engine = next(engine for engine in _ENGINES if engine.name == backend)
    if not engine.serves(device):
        raise RuntimeError(
            f"backend {backend!r} runs tensors on {' or '.join(engine.devices)}, "
            f"got tensors on {device}"
        )
    problem = engine.problem()
    if problem is not None:
        raise RuntimeError(f"backend {backend!r} is not available: {problem}")
    return engine.name


@torch.compiler.assume_constant_result
def has_both_for_gpus(device: torch.device) -> bool:
    """Whether both engines for GPUs can run tensors on ``device``: see :mod:`.gpu_engines`."""
    return device.type == "cuda" and _triton_problem() is None and _cuda_problem() is None


def _fastest(device: torch.device) -> str:
    problems = []
    for engine in _ENGINES:
        if engine.devices and engine.serves(device):
            problem = engine.problem()
            if problem is None:
                return engine.name
            problems.append(f"without its {engine.name!r} engine: {problem}")
    if problems:
        _warn_once(f"memx_fast runs on plain PyTorch, slowly, {'; '.join(problems)}")
    return "reference"


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@functools.cache
def _extension_problem() -> str | None:
    """Import the extension if it fits; otherwise the reason why it cannot be used."""
    record = build_record()
    if record is None:
        return (
            "it was installed without its C++ extension; with a C++ compiler on this machine and "
            f"MEMX_FAST_NO_EXTENSION unset, {_REINSTALL}"
        )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if record["extension_suffix"] != suffix:
        return (
            "its C++ extension was built for another interpreter "
            f"({record['extension_suffix']}, this one loads {suffix}); {_REINSTALL}"
        )
    if _major_minor(record["torch"]) != _major_minor(torch.__version__):
        return (
            f"its C++ extension was built with PyTorch {record['torch']}, "
            f"this is PyTorch {torch.__version__}; {_REINSTALL}"
        )
    try:
        importlib.import_module("memx_fast._C")
    except ImportError as error:
        return f"its C++ extension cannot be loaded ({error}); {_REINSTALL}"
    return None


def _major_minor(version: str) -> tuple[str, ...]:
    """The part of a PyTorch version within which its C++ interface is stable: ``("2", "13")``."""
    return tuple(str(version).split(".")[:2])


@functools.cache
def _triton_problem() -> str | None:
    """The reason why Triton cannot be used, found without importing it."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; on Linux: pip install 'memx_fast[triton]'"
    if not (torch.cuda.is_available() or torch.xpu.is_available()):
        return "this PyTorch sees no GPU"
    if torch.cuda.is_available() and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability()
        if major < 8:
            return f"this GPU has compute capability {major}.{minor}, Triton needs 8.0"
    return None


@functools.cache
def _cuda_problem() -> str | None:
    """The reason why the CUDA kernels of the extension cannot be used."""
    problem = _extension_problem()
    if problem is not None:
        return problem
    record = build_record() or {}
    if record["without_cuda"] is not None:
        return f"its extension has no CUDA kernels: {record['without_cuda']}"
    if not torch.cuda.is_available():
        return "this PyTorch sees no GPU"
    capability = torch.cuda.get_device_capability()
    if not any(_runs_on(compiled, capability) for compiled in record["cuda_architectures"]):
        return (
            f"this GPU has compute capability {capability[0]}.{capability[1]}, the CUDA kernels "
            f"were compiled for {' '.join(record['cuda_architectures'])}: with another "
            f"TORCH_CUDA_ARCH_LIST, and nothing below 8.0, {_REINSTALL}"
        )
    return None


def _runs_on(compiled: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU runs what was compiled for one entry of TORCH_CUDA_ARCH_LIST.

    Machine code is for all later GPUs of one major version, or for one alone (9.0a); PTX is for all
    later ones. A name like Hopper stands for some that PyTorch knows.
    """
    entry = re.fullmatch(r"(\d+)\.(\d+)(a?)(\+PTX)?", compiled)
    if entry is None:
        return capability >= (8, 0)
    target = int(entry[1]), int(entry[2])
    if entry[3]:
        return target == capability
    return target <= capability and (target[0] == capability[0] or entry[4] is not None)


def _no_problem() -> str | None:
    return None


# The order in which "auto" tries them. Of two that serve one device, measurements may prefer the
# second: see gpu_engines.py.
_ENGINES = (
    _Engine("cpp", ("cpu",), "fused C++ code for tensors on cpu", _extension_problem),
    _Engine(
        "triton", TRITON_DEVICES, "fused Triton code for tensors on cuda and xpu", _triton_problem
    ),
    _Engine("cuda", ("cuda",), "fused CUDA C++ code for tensors on cuda", _cuda_problem),
    _Engine("reference", (), "plain PyTorch for tensors on any device", _no_problem),
)

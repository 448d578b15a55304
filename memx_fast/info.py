"""``python -m memx_fast.info``: what is installed, what this machine can do, and what will run.

The first thing to read, or to attach to a report, when something is slow or missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from memx_fast import backends, gpu_engines

_PACKAGES = ("memx_fast", "torch", "numpy", "triton", "opencv-contrib-python-headless")
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni"),
    *("avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16"),
    *("asimd", "bf16", "sve"),
)
_CPUINFO = Path("/proc/cpuinfo")
_LAYERS = {
    "ConvLSTM1d": "fused, as images of one row",
    "ConvLSTM": "fused",
    "ConvLSTM3d": "convolutions of PyTorch, fused gates",
}


def versions() -> dict[str, str | None]:
    """Version of the interpreter and of each package that matters; None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def processor() -> dict[str, Any]:
    """The CPU: ``name``, ``cores`` this process may use, ``instruction_sets`` that matter here."""
    fields = _first_processor()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": _usable_cores(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
    }


def collect() -> dict[str, Any]:
    """Everything that the command prints, as plain values that JSON can hold.

    Keys: ``versions``, ``system``, ``processor``, ``threads``, ``devices`` (one entry a device:
    ``device``, ``name``, ``backend`` that "auto" chooses, or those that it chooses from layer by
    layer), ``layers`` (how each runs in an engine with fused kernels), ``backends`` (the fields of
    :class:`memx_fast.backends.Backend`), ``extension`` (how it was built and which instruction set
    it uses; None if it is not loaded).
    """
    return {
        "versions": versions(),
        "system": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "devices": _devices(),
        "layers": _LAYERS,
        "backends": [asdict(backend) for backend in backends.available()],
        "extension": _extension(),
    }


def render(facts: dict[str, Any]) -> str:
    """The text of the command for what :func:`collect` returned."""
    cpu = facts["processor"]
    sections = {
        "Versions": [
            f"{name:<32}{version or 'not installed'}" for name, version in facts["versions"].items()
        ],
        "Machine": [
            f"{'system':<32}{facts['system']}",
            f"{'processor':<32}{cpu['name']}, {cpu['cores']} cores for this process",
            f"{'instruction sets':<32}{' '.join(cpu['instruction_sets']) or 'unknown'}",
            f"{'threads of PyTorch':<32}{facts['threads']}",
        ],
        "Backends": [
            f"{backend['name']:<16}{'yes' if backend['available'] else 'no':<16}{backend['reason']}"
            for backend in facts["backends"]
        ],
        'Chosen by backend="auto"': [
            f"{device['device']:<16}{device['backend']:<16}{device['name']}"
            for device in facts["devices"]
        ],
        'Layers, in an engine other than "reference"': [
            f"{layer:<16}{how}" for layer, how in facts["layers"].items()
        ],
        "C++ extension": _extension_lines(facts["extension"]),
    }
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; ``arguments`` are those after its name. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m memx_fast.info",
        description="Versions, this machine, and which backends of memx_fast can run on it.",
    )
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    options = parser.parse_args(arguments)
    facts = collect()
    print(json.dumps(facts, indent=2) if options.json else render(facts))
    return 0


def _first_processor() -> dict[str, str]:
    """The fields of the first processor that the kernel lists; empty where it lists none."""
    if not _CPUINFO.is_file():
        return {}
    block = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices() -> list[dict[str, str]]:
    named = {"cpu": processor()["name"]}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            named[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    with warnings.catch_warnings():
        # What "auto" passes over, and why, stands in the list of backends.
        warnings.simplefilter("ignore", RuntimeWarning)
        return [
            {
                "device": device,
                "name": name,
                "backend": " or ".join(_chosen(torch.device(device))),
            }
            for device, name in named.items()
        ]


def _chosen(device: torch.device) -> tuple[str, ...]:
    if backends.has_both_for_gpus(device):
        return gpu_engines.all_chosen(device)
    return (backends.resolve("auto", device),)


def _extension() -> dict[str, Any] | None:
    if not backends.load_extension():
        return None
    extension = importlib.import_module("memx_fast._C")
    record = backends.build_record() or {}
    in_use = {"instruction_set_in_use": extension.instruction_set()}
    return {**record, **extension.build_info(), **in_use}


def _extension_lines(extension: dict[str, Any] | None) -> list[str]:
    if extension is None:
        return ["not loaded; the backends above say why"]
    lines = []
    for name, value in extension.items():
        if value is None:
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"{name.replace('_', ' '):<32}{text}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())

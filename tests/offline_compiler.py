"""Compiles what the Triton engine would launch, for GPUs that are not there; writes JSON.

A script, because a process that interprets kernels cannot compile them::

    python tests/offline_compiler.py RESULT.json

The launchers run as they are, on CPU tensors. In place of a driver stands one that names the
target; a launch becomes a compilation. The result has two lists: ``kernels``, what came out, and
``compiled_again``, launches that needed a new binary though only T, B, H or W had changed.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from memx_fast import triton_kernels
from memx_fast.triton_kernels import configurations

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

# The number of channels picks the line of the table: one number a line. The last reads images so
# narrow that taps and channels together form K.
LAYERS = (
    *((torch.bfloat16, "ieee", channels, channels) for channels in (16, 32, 64)),
    (torch.float16, "ieee", 64, 64),
    *((torch.float32, "tf32", channels, channels) for channels in (16, 32, 64)),
    *((torch.float32, "ieee", channels, channels) for channels in (16, 64)),
    (torch.float64, "ieee", 16, 16),
    (torch.bfloat16, "ieee", 32, 1),
)


class NamedTarget:
    """A driver of a GPU that is not there."""

    def __init__(self, name: str):
        self.name = name

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.name]

    def get_current_device(self) -> int:
        return list(TARGETS).index(self.name)

    def get_current_stream(self, device: int) -> int:
        return 0


def run_layer(
    dtype: torch.dtype,
    hidden: int,
    channels: int,
    sizes: tuple[int, int, int, int],
    *variant: float | Tensor,
) -> None:
    """Forward and backward of a layer that uses everything, over T, B, H, W.

    ``variant`` is nothing, or the slope of a hard sigmoid and a mask of the hidden state.
    """
    steps, batch, height, width = sizes

    def zeros(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=of)

    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    layer = (
        zeros(steps, batch, channels, height, width),
        zeros(4 * hidden, channels, 3, 3),
        zeros(4 * hidden, hidden, 3, 3),
        zeros(4 * hidden),
        zeros(3, hidden, height, width),
        zeros(batch, hidden, height, width),
        zeros(batch, hidden, height, width, of=accumulate),
    )
    output, _, _, cells, gates = triton_kernels.conv_lstm(
        *layer, [1, 1], False, True, steps, *variant
    )
    grads = (zeros(*output.shape), zeros(*output[0].shape), zeros(*output[0].shape, of=accumulate))
    saved = (output, cells, gates)
    triton_kernels.conv_lstm_backward(*grads, *layer, *saved, [1, 1], False, [True] * 7, *variant)


def resources(kernel: Any) -> dict[str, int]:
    """Registers and bytes of spilled registers that the assembler gave a kernel."""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        fields = {"registers": "vgpr_count", "spilled": "private_segment_fixed_size"}
        return {
            name: int(re.findall(rf"\.{field}:\s+(\d+)", text)[-1])
            for name, field in fields.items()
        }
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = (str(CUOBJDUMP), "--dump-resource-usage", file.name)
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "spilled": int(found[2])}


def matrix_instructions(kernel: Any) -> dict[str, int]:
    """How often the assembly names each kind of matrix instruction."""
    text = kernel.asm["amdgcn"] if "amdgcn" in kernel.asm else kernel.asm["ptx"]
    names = ("wgmma.mma_async", "tcgen05.mma", "mma.sync", "v_mfma")
    return {name: text.count(name) for name in names}


def arithmetic(kernel: Any) -> dict[str, int]:
    """How often NVIDIA's assembly rounds to TF32 and adds two float32, also two pairs at once."""
    text = kernel.asm.get("ptx", "")
    singles, pairs = (re.findall(rf"\badd[.a-z]*\.{kind}\b", text) for kind in ("f32", "f32x2"))
    return {"roundings": text.count("cvt.rna.tf32"), "additions": len(singles) + 2 * len(pairs)}


def main(result: Path) -> None:
    launch = JITFunction.run
    compiled: list[tuple[str, dict[str, Any], Any]] = []

    def compile_only(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any):
        binary = launch(kernel, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((kernel.__name__, kwargs, binary))

    JITFunction.run = compile_only
    records: list[dict[str, Any]] = []
    again: list[str] = []
    for target in TARGETS:
        driver.set_active(NamedTarget(target))
        configurations.is_amd = lambda target=target: target == "gfx942"
        for dtype, precision, hidden, channels in LAYERS:
            if precision == "tf32" and target == "gfx942":
                continue
            configurations.precision = lambda *_, precision=precision: precision
            compiled.clear()
            run_layer(dtype, hidden, channels, (2, 2, 6, 5))
            seen: dict[str, Any] = {}
            for name, constants, binary in compiled:
                if binary.hash in seen:
                    continue
                seen[binary.hash] = binary
                records.append(
                    {
                        **{"kernel": name, "target": target, "dtype": str(dtype)[6:]},
                        **{"precision": precision, "hidden": hidden, "channels": channels},
                        "stands_alone": bool(constants.get("IS_LAST", False)),
                        "warps": constants["num_warps"],
                        "stages": constants["num_stages"],
                        "tile": {k: v for k, v in constants.items() if k.startswith("BLOCK_")},
                        "shared": binary.metadata.shared,
                        **resources(binary),
                        **matrix_instructions(binary),
                        **arithmetic(binary),
                    }
                )
            if target == "sm_90" and (hidden, precision) == (64, "ieee"):
                mask = torch.zeros(2, hidden, 6, 5, dtype=dtype)
                run_layer(dtype, hidden, channels, (2, 2, 6, 5), 0.2, mask)
                compiled.clear()
                for sizes in ((2, 1, 1, 1), (3, 1, 16, 16), (17, 4, 1, 33), (2, 16, 5, 1)):
                    run_layer(dtype, hidden, channels, sizes)
                again += sorted({name for name, _, one in compiled if one.hash not in seen})
    result.write_text(json.dumps({"kernels": records, "compiled_again": again}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

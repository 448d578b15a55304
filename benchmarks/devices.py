"""Where the suite runs: on the CPU or on a GPU, which works behind the back of the clock."""

from __future__ import annotations

import torch

from memx_fast import info

DEVICES = ("cpu", "cuda")


def synchronise(device: str) -> None:
    """Wait until the device has done all it was asked to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    """The GPU's name; or the CPU's, and the number of threads that PyTorch uses on it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{info.processor()['name']}, {threads} thread{'s' if threads > 1 else ''}"


def has_bfloat16(device: str) -> bool:
    """Whether the device computes in bfloat16; otherwise libraries emulate it, very slowly."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    sets = info.processor()["instruction_sets"]
    return any(name in sets for name in ("avx512_bf16", "amx_bf16", "bf16"))

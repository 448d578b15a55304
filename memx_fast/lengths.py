"""Sequences of different length in one batch: their lengths checked, turned round, packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from .arguments import described, whole

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def checked(value: Any, steps: int, batch: int, device: torch.device) -> Tensor:
    """``lengths`` as a tensor ``(B,)`` of int64 on ``device``.

    What lies on a GPU already is not read, which would wait for it, nor is anything while
    ``torch.compile`` traces: there the engines see to it that a wrong length reads nothing that is
    not there.

    Raises:
        TypeError: it is no tensor, list or tuple of whole numbers.
        ValueError: there are not B of them, one is not from 1 to T, or they are on the meta device
            and x is not.
    """
    if isinstance(value, tuple | list):
        numbers = [whole("lengths", length, 1) for length in value]
        if numbers and not torch.compiler.is_compiling():
            _check_range(min(numbers), max(numbers), steps)
        value = torch.tensor(numbers, dtype=torch.int64)
    if not isinstance(value, Tensor):
        raise TypeError(f"lengths: got {described(value)}, expected {batch} whole numbers")
    if value.dtype not in _INTEGERS:
        raise TypeError(f"lengths: got a tensor of {value.dtype}, expected whole numbers")
    if value.dim() != 1 or value.shape[0] != batch:
        raise ValueError(f"lengths: got shape {tuple(value.shape)}, expected ({batch},) = (B,)")
    if value.is_meta and device.type != "meta":
        raise ValueError(f"lengths: got a tensor on meta, expected one with values, for {device}")
    if value.device.type == "cpu" and batch > 0 and not torch.compiler.is_compiling():
        shortest, longest = (int(length) for length in value.aminmax())
        _check_range(shortest, longest, steps)
    return value.to(device, torch.int64)


def _check_range(shortest: int, longest: int, steps: int) -> None:
    if shortest < 1 or longest > steps:
        raise ValueError(
            f"lengths: got {shortest if shortest < 1 else longest}, expected 1 to {steps} = T steps"
        )


def running(lengths: Tensor, t: int, like: Tensor) -> Tensor:
    """Which sequences have a step t: ``(B, 1, ..)``, to go with a state ``(B, C, H, W)``."""
    return (lengths > t).reshape(-1, *(1,) * (like.dim() - 1))


def cleared(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """``(T, B, C, H, W)`` with zeros in the place of all steps after the end of a sequence."""
    if lengths is None:
        return sequences
    steps = torch.arange(sequences.shape[0], device=lengths.device)
    inside = (steps[:, None] < lengths).reshape(*sequences.shape[:2], *(1,) * (sequences.dim() - 2))
    return torch.where(inside, sequences, sequences.new_zeros(()))


def reversed_steps(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """``(T, B, C, H, W)`` from each sequence's last step to its first; what follows stays."""
    if lengths is None:
        return sequences.flip(0)
    steps = torch.arange(sequences.shape[0], device=lengths.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequences[source, torch.arange(sequences.shape[1], device=lengths.device)]


def packed_like(output: Tensor, lengths: Tensor, x: PackedSequence) -> PackedSequence:
    """``output`` ``(T, B, C, H, W)`` as x is packed."""
    if x.sorted_indices is not None:
        output = output.index_select(1, x.sorted_indices)
        lengths = lengths.to(x.sorted_indices.device)[x.sorted_indices]
    data = pack_padded_sequence(output, lengths.cpu()).data
    return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)

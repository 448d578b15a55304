"""The tensors of a checkpoint by name, and the weights of recurrences that are found in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """One recurrence without peepholes, canonical; the two kernels may differ in size."""

    weight_ih: Tensor  # (4C, Cin, *kernel)
    weight_hh: Tensor  # (4C, C, *kernel)
    bias: Tensor | None  # (4C,)


def reordered(tensor: Tensor, order: str, into: str = "ifgo") -> Tensor:
    """The four blocks of rows, one a gate, which lie in ``order``, put into another order."""
    blocks = dict(zip(order, tensor.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in into])


def summed(*biases: Tensor | None) -> Tensor | None:
    """The sum of those that there are; None if there are none."""
    present = [bias for bias in biases if bias is not None]
    return torch.stack(present).sum(0) if present else None


class Entries:
    """The tensors of a checkpoint whose names begin with a prefix; names are without it."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str):
        self._prefix = prefix
        self._tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor of this name; of ``shape``, where None is any size, if that is given.

        Raises:
            ValueError: it is missing, or of another shape.
        """
        if name not in self._tensors:
            known = ", ".join(map(repr, sorted(self._tensors)[:8])) or "no keys"
            raise ValueError(
                f"state_dict: {self._prefix + name!r} is missing; under the prefix "
                f"{self._prefix!r} there are {known}"
            )
        tensor = self._tensors[name]
        if shape and (
            tensor.dim() != len(shape)
            or any(size not in (None, got) for size, got in zip(shape, tensor.shape, strict=True))
        ):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"state_dict: {self._prefix + name!r} has shape {tuple(tensor.shape)}, "
                f"expected ({expected})"
            )
        self._taken.add(name)
        return tensor

    def optional(self, name: str, *shape: int | None) -> Tensor | None:
        """As :meth:`take`, or None if there is none."""
        return self.take(name, *shape) if name in self else None

    def kernel(self, name: str) -> Tensor:
        """A convolution's weight whose rows are four gates: (4C, anything, *kernel).

        Raises:
            ValueError: it is missing, or cannot be that.
        """
        tensor = self.take(name)
        if tensor.dim() not in (3, 4, 5) or len(tensor) == 0 or len(tensor) % 4 != 0:
            raise ValueError(
                f"state_dict: {self._prefix + name!r} has shape {tuple(tensor.shape)}, expected "
                "(4C, channels, *kernel) with one to three sizes of the kernel"
            )
        return tensor

    def kernel_with_gates_last(self, name: str) -> Tensor:
        """The same of a weight (*kernel, anything, 4C), brought into (4C, anything, *kernel).

        Raises:
            ValueError: it is missing, or cannot be that.
        """
        tensor = self.take(name)
        if tensor.dim() not in (3, 4, 5) or 0 in tensor.shape or tensor.shape[-1] % 4 != 0:
            raise ValueError(
                f"state_dict: {self._prefix + name!r} has shape {tuple(tensor.shape)}, expected "
                "(*kernel, channels, 4C) with one to three sizes of the kernel"
            )
        return tensor.movedim((-1, -2), (0, 1))

    def taken(self) -> dict[str, Tensor]:
        """What was taken, by its whole name."""
        return {self._prefix + name: self._tensors[name] for name in sorted(self._taken)}

    def left(self, scope: str) -> list[str]:
        """Names that match the pattern ``scope`` from their beginning on and were not taken."""
        return [
            self._prefix + name
            for name in self._tensors
            if name not in self._taken and re.match(scope, name)
        ]

    def layers(self, pattern: str) -> int:
        """How many layers there are: one more than the highest number that ``pattern`` finds."""
        numbers = [int(found[1]) for name in self._tensors if (found := re.match(pattern, name))]
        return max(numbers, default=-1) + 1

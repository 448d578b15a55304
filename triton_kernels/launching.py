"""Launching one kernel many times over, at little cost in Python."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .autotuning import REQUESTED, Programs


class Launches:
    """Launches of a kernel over one grid that differ in numbers and in which tensors there are.

    To find the binary for a launch, Triton looks at each of its arguments, which takes several
    times as long as the launch itself. Here it does so for the first launch of a kind, and the
    others go to the same binary. That is right where what stands at one place is always of one
    dtype and on 16 bytes (:func:`.packing.aligned`), and a number always needs 32 bits or always
    64: for the steps of one pass, not for more.
    """

    def __init__(self, kernel: Any, grid: Programs, constants: dict[str, Any]) -> None:
        self._kernel = kernel
        self._grid = grid
        self._constants = constants
        self._known: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}

    def __call__(self, *arguments: Tensor | int | None, **constants: Any) -> None:
        """Launch with the kernel's arguments, in its order, and constants of this launch alone."""
        kind = (*[argument is None for argument in arguments], *constants.values())
        known = self._known.get(kind)
        if known is not None:
            launch, values = known
            launch(*arguments, *values)
            return
        constants |= self._constants
        binary = self._kernel[self._grid](*arguments, **constants)
        # The interpreter has no binary, and what is being tuned may have many.
        if binary is not None and not REQUESTED:
            values = [constants[name] for name in self._kernel.arg_names[len(arguments) :]]
            self._known[kind] = binary[self._grid], values

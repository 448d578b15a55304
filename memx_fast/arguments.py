"""Checks of arguments: each error names the argument, what came and what was expected."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

Sizes = tuple[int, ...]
"""One whole number a spatial axis: depth before rows before columns."""

_OR_SEVERAL = {1: "", 2: " or two", 3: " or three"}


def whole_numbers(name: str, value: object, minimum: int, axes: int) -> Sizes:
    """``value`` as one number an axis: one for all of them, or as many as there are axes.

    Raises:
        TypeError: it is neither; the message names the argument ``name``.
        ValueError: a number is below ``minimum``, or there are not ``axes`` of them.
    """
    numbers = value if isinstance(value, tuple | list) else (value,) * axes
    if len(numbers) != axes:
        raise ValueError(f"{name}: got {value!r}, expected one whole number{_OR_SEVERAL[axes]}")
    return tuple(whole(name, number, minimum) for number in numbers)


def odd_kernel(value: object, axes: int) -> Sizes:
    """``kernel_size`` of a recurrence as one odd number an axis.

    Raises:
        TypeError: it is not made of whole numbers.
        ValueError: one of them is even or below 1, or there are not ``axes`` of them.
    """
    kernel = whole_numbers("kernel_size", value, 1, axes)
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(
            f"kernel_size: got {value!r}, expected odd sizes "
            "(an even kernel would shift the hidden state at every step)"
        )
    return kernel


def whole(name: str, value: object, minimum: int) -> int:
    """``value`` if it is a whole number of at least ``minimum``.

    Raises:
        TypeError: it is no int; the message names the argument ``name``.
        ValueError: it is below ``minimum``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    if value < minimum:
        raise ValueError(f"{name}: got {value}, expected at least {minimum}")
    return value


def described(value: object) -> str:
    """What an error message calls a wrong argument: short, whatever its size."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def check_shape(name: str, value: object, shape: tuple[int, ...]) -> None:
    """Raise unless ``value`` is a tensor of this shape.

    Raises:
        TypeError: it is no tensor; the message names the argument ``name``.
        ValueError: it has another shape.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {described(value)}, expected a tensor of shape {shape}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {shape}")


def flag(name: str, value: object) -> bool:
    """``value`` if it is True or False.

    Raises:
        TypeError: it is not; the message names the argument ``name``.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, expected True or False")
    return value


def positive(name: str, value: object) -> float:
    """``value`` if it is a finite number above 0.

    Raises:
        TypeError: it is no number; the message names the argument ``name``.
        ValueError: it is 0, negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: got {value!r}, expected a number above 0")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, expected a number above 0")
    return float(value)


def share_or_flag(name: str, value: object) -> float:
    """As :func:`share`; True is 1, False is 0."""
    return float(value) if isinstance(value, bool) else share(name, value)


def share(name: str, value: object) -> float:
    """``value`` if it is a number from 0 to 1, but not True or False.

    Raises:
        TypeError: it is no number; the message names the argument ``name``.
        ValueError: it is outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: got {value!r}, expected a number from 0 to 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value!r}, expected a number from 0 to 1")
    return float(value)


def per_layer(name: str, value: Any, sequences: Any, layers: int) -> list[Any]:
    """One entry for every layer, from one for all or from one of the types ``sequences``.

    Raises:
        ValueError: the number of entries is another; the message names the argument ``name``.
    """
    if not isinstance(value, sequences):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(f"{name}: got {len(value)} entries, expected {layers} = num_layers")
    return list(value)

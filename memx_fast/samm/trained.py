"""A checkpoint of any method, ready to be asked: the method that its card names, with its settings.

What the card says is checked before anything is computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from memx_fast.samm import checkpoints
from memx_fast.samm.checkpoints import Card, card_path
from memx_fast.samm.methods import METHODS, Machine, Method, create

_PATHS = ("weights",)
"""Settings that are files of this machine; what is in them has a digest of its own."""


def restore(
    path: Path, machine: Machine | None = None, *, paths: Mapping[str, str] | None = None
) -> tuple[Method, Card]:
    """Read a checkpoint and give its method what it has learnt.

    Args:
        path: the file of weights; its card lies beside it.
        machine: where to compute.
        paths: settings that are files, such as ``weights``, and have moved since training.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged, comes from another version, or does not belong to the others.
    """
    weights, card = checkpoints.read(path)
    try:
        method = _method(card, machine, paths or {})
        method.load_state(weights)
        _refuse_difference(method, card)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"checkpoint: {path} needs a file that is not there ({error}); say where it is "
            "now with --weights"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint: {card_path(path)} does not fit memx_fast or its weights: {error}"
        ) from error
    return method, card


def _method(card: Card, machine: Machine | None, paths: Mapping[str, str]) -> Method:
    """The method of a card, which has learnt nothing yet."""
    for name, kind in (("classes", list), ("settings", dict), ("test", dict), ("data", str)):
        if not isinstance(getattr(card, name), kind):
            raise TypeError(f"{name}: got {getattr(card, name)!r}")
    if card.method not in METHODS:
        raise ValueError(f"method: got {card.method!r}, expected one of {', '.join(METHODS)}")
    if len(card.classes) < 2:
        raise ValueError(f"classes: got {card.classes}, expected at least two")
    names = [field.name for field in fields(METHODS[card.method].Settings)]
    missing = [name for name in names if name not in card.settings]
    if missing:
        raise ValueError(f"settings: {', '.join(missing)} missing; another version wrote it")
    unknown = [name for name in paths if name not in names]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: {card.method} has no such setting")
    settings = {**{name: card.settings[name] for name in names}, **paths}
    return create(card.method, len(card.classes), settings, machine)


def _refuse_difference(method: Method, card: Card) -> None:
    """Whatever decides what the method does must be as the card has it."""
    wanted: dict[str, Any] = {**method.identity(), **asdict(method.input)}
    said = {**card.settings, "size": card.size, "frames": card.frames, "channels": card.channels}
    for name, value in wanted.items():
        if name not in _PATHS and said.get(name) != value:
            raise ValueError(f"{name}: the card says {said.get(name)!r}, the method {value!r}")

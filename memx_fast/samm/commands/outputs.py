"""Files that a command writes: never into the data, nor over something without being asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def add_overwrite(group: Any) -> None:
    """The option that :func:`refuse_clashes` is told of."""
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="write over files that are there; without it they are refused",
    )


def refuse_clashes(
    outputs: Mapping[str, Path | None], inputs: Sequence[Path], *, overwrite: bool
) -> None:
    """Refuse, before any work is done, to write where that would cost something.

    Args:
        outputs: files to write, by the name of their option; None if it was not given.
        inputs: files and folders that are read; nothing is ever written over or into them.
        overwrite: whether other files may be replaced.

    Raises:
        ValueError: a file exists, is no file, is an input or another output, or has no folder.
    """
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if place in seen:
            raise ValueError(f"{name}: got {path}, which {seen[place]} is to be written to as well")
        seen[place] = name
        if any(place.is_relative_to(source.resolve()) for source in inputs):
            raise ValueError(f"{name}: got {path}, which belongs to the data; choose another place")
        if place.is_dir():
            raise ValueError(f"{name}: got {path}, which is a folder; expected the name of a file")
        if place.exists() and not overwrite:
            raise ValueError(
                f"{name}: {path} exists; choose another name, or add --overwrite to replace it"
            )
        if not place.parent.is_dir():
            raise ValueError(f"{name}: got {path}, but {path.parent} is no folder; make it first")

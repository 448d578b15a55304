"""Folders of a data set, each listed once and found whatever the case of its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path


class Tree:
    """The folders below a root.

    Args:
        root: folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[str, dict[str, str]] = {}
        self._bases: dict[tuple[tuple[str, ...], str], str | None] = {}

    def folders(self, place: str) -> list[str]:
        """Names of the folders in a place below the root, sorted; none if there is no such place.

        Args:
            place: below the root, with ``/``; empty for the root itself.
        """
        return list(self._listing(place).values())

    def find(self, place: str, *names: str) -> str | None:
        """The folder ``<place>/<name>/<name>...``, or None if there is none."""
        for name in names:
            found = self._listing(place).get(name.casefold())
            if found is None:
                return None
            place = joined(place, found)
        return place

    def base(self, places: Sequence[str], pattern: str) -> str | None:
        """The first of some places in which a folder's whole name matches, or None.

        Args:
            places: below the root.
            pattern: a regular expression; case does not matter.
        """
        key = (tuple(places), pattern)
        if key not in self._bases:
            expression = re.compile(pattern, re.IGNORECASE)
            self._bases[key] = next(
                (place for place in places if any(map(expression.fullmatch, self.folders(place)))),
                None,
            )
        return self._bases[key]

    def below(self, place: str, *patterns: str) -> Iterator[str]:
        """The folders ``<place>/<name>/<name>...`` whose names match, hidden ones left out.

        Args:
            place: below the root.
            patterns: a regular expression for each whole name; case does not matter.
        """
        if not patterns:
            yield place
            return
        expression = re.compile(patterns[0], re.IGNORECASE)
        for name in self.folders(place):
            if expression.fullmatch(name) and not name.startswith("."):
                yield from self.below(joined(place, name), *patterns[1:])

    def _listing(self, place: str) -> dict[str, str]:
        """Folders by their names in lower case; of two alike, the first in alphabetical order."""
        if place not in self._listings:
            folder = self._root / place
            paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
            self._listings[place] = {
                path.name.casefold(): path.name for path in paths if path.is_dir()
            }
        return self._listings[place]


def joined(*names: str) -> str:
    """A place below the root from its parts, of which some may be empty."""
    return "/".join(filter(None, names))

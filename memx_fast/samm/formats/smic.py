"""SMIC-HS, extended: ``<root>/s20/s20_ne_01/image581039.jpg``, 100 frames a second.

The short release, whose folders are named after the emotion, has no workbook, and labels are never
taken from folders: what is read is SMIC-E.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from memx_fast.samm.annotations import LEFT_OUT, Defect
from memx_fast.samm.formats.interface import Entry, Format
from memx_fast.samm.formats.tree import Tree, joined
from memx_fast.samm.tables import text

_PLACES = ("", "SMIC-HS-E", "HS", "SMIC-HS-E/HS")
_SUBJECT = r"s\d+"
_FILE_NAME = re.compile(r"s(\d+)_[a-z]+_\d+")
_EXPRESSIONS = ("", "2", "3")


class Smic(Format):
    """Li et al. (2013), Li et al. (2017).

    The subject is a number in the workbook and ``s01`` on disk. A folder holds a long recording
    with one to three expressions of one emotion: columns OnsetF and OffsetF, Onset2F and Offset2F,
    Onset3F and Offset3F. The first keeps the name of the folder, the others are called
    ``s3_ne_02#2``. Nobody has marked the apex: it is the middle between onset and offset. There are
    no action units. Two more rules:

    - *clip name*: not like s3_ne_02: the clip is left out.
    - *subject*: not the one in the clip's name: the name is right.
    """

    name = "smic"
    title = "SMIC-HS"
    layout = "s<subject>/<clip>/image<number>.jpg"
    workbooks = ("SMIC-HS-E_annotation*",)
    workbook_folders = ("", "SMIC-HS-E")
    sheet = "HS"
    columns: ClassVar[Mapping[str, str]] = {
        "subject": "Subject",
        "filename": "Filename",
        "onset": "OnsetF",
        "offset": "OffsetF",
        "emotion": "Emotion",
    }
    optional: ClassVar[Mapping[str, str]] = {
        "onset2": "Onset2F",
        "offset2": "Offset2F",
        "onset3": "Onset3F",
        "offset3": "Offset3F",
    }
    emotions: ClassVar[Mapping[str, str]] = {
        "negative": "Negative",
        "positive": "Positive",
        "surprise": "Surprise",
    }
    has_apex = False

    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """Every clip of every subject, in the place that is read."""
        return tree.below(_place(tree), _SUBJECT, ".+")

    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """As many clips as pairs of onset and offset, at least one."""
        name = text(row["filename"]).strip()
        match = _FILE_NAME.fullmatch(name)
        if not match:
            message = f"{name!r} in row {position} is no name such as 's3_ne_02'"
            yield Defect(name or f"row {position}", "clip name", message, LEFT_OUT)
            return
        subject = f"s{int(match[1]):02d}"
        given = text(row["subject"]).strip()
        defects: tuple[Defect, ...] = ()
        if not given.isdecimal() or int(given) != int(match[1]):
            message = f"the column Subject says {given!r}"
            defects = (Defect(name, "subject", message, f"{subject!r} is used"),)
        place = _place(tree)
        folder = tree.find(place, subject, name) or joined(place, subject, name)
        for number in _EXPRESSIONS:
            cells = row[f"onset{number}"], row[f"offset{number}"]
            if number and not any(text(cell).strip() for cell in cells):
                continue
            part = name + (f"#{number}" if number else "")
            yield self.entry(row, subject, part, folder, expression=number, defects=defects)
            defects = ()


def _place(tree: Tree) -> str:
    """Where the folders of the subjects are."""
    return tree.base(_PLACES, _SUBJECT) or ""

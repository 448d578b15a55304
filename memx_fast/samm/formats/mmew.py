"""MMEW: ``<root>/Micro_Expression/<emotion>/S13-07-001/1.jpg``, 90 frames a second, colour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from memx_fast.samm.annotations import LEFT_OUT, Defect
from memx_fast.samm.formats.interface import Entry, Format
from memx_fast.samm.formats.tree import Tree, joined
from memx_fast.samm.tables import text

_PLACES = ("", "Micro_Expression")
_FILE_NAME = re.compile(r"S(\d+)-\d+-\d+")


class Mmew(Format):
    """Ben et al. (2022).

    A clip's name is made of its subject, a number of the emotion, and its own; frames are numbered
    from 1. Folders are sorted by emotion, but the emotion is the workbook's: a clip is found in
    whichever folder it lies. Two more rules:

    - *clip name*: not like S13-07-001: the clip is left out.
    - *subject*: not the one in the clip's name: the name is right.
    """

    name = "mmew"
    title = "MMEW"
    layout = "Micro_Expression/<emotion>/<clip>/<number>.jpg"
    workbooks = ("MMEW_Micro_Exp*",)
    columns: ClassVar[Mapping[str, str]] = {
        "subject": "Subject",
        "filename": "Filename",
        "onset": "OnsetFrame",
        "apex": "ApexFrame",
        "offset": "OffsetFrame",
        "action_units": "Action Units",
        "emotion": "Estimated Emotion",
    }
    emotions: ClassVar[Mapping[str, str]] = {
        "anger": "Anger",
        "disgust": "Disgust",
        "fear": "Fear",
        "happiness": "Happiness",
        "others": "Other",
        "sadness": "Sadness",
        "surprise": "Surprise",
    }
    folder_is_clip = True

    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """Every folder in one of an emotion."""
        return tree.below(_place(tree), ".+", ".+")

    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """One clip a row, its subject in its name."""
        name = text(row["filename"]).strip()
        match = _FILE_NAME.fullmatch(name)
        if not match:
            message = f"{name!r} in row {position} is no name such as 'S13-07-001'"
            yield Defect(name or f"row {position}", "clip name", message, LEFT_OUT)
            return
        given = text(row["subject"]).strip().removeprefix("S")
        defects: tuple[Defect, ...] = ()
        if not given.isdecimal() or int(given) != int(match[1]):
            message = f"the column Subject says {text(row['subject'])!r}"
            defects = (Defect(name, "subject", message, f"'S{match[1]}' is used"),)
        yield self.entry(
            row,
            f"S{match[1]}",
            name,
            _folder(tree, name, text(row["emotion"]).strip()),
            defects=defects,
        )


def _place(tree: Tree) -> str:
    """Where the folders of the emotions are."""
    place = tree.base(_PLACES, "|".join(Mmew.emotions))
    return "Micro_Expression" if place is None else place


def _folder(tree: Tree, name: str, emotion: str) -> str:
    """Where a clip is: preferably where its emotion's clips are."""
    place = _place(tree)
    found = [tree.find(place, folder, name) for folder in (emotion, *tree.folders(place))]
    return next(filter(None, found), joined(place, emotion, name))

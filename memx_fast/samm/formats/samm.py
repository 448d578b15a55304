"""SAMM: ``<root>/006/006_1_2/006_05562.jpg``, 200 frames a second, greys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from memx_fast.samm.annotations import EMOTIONS, LEFT_OUT, Defect
from memx_fast.samm.formats.interface import Entry, Format
from memx_fast.samm.formats.tree import Tree
from memx_fast.samm.tables import text

_CLIP_NAME = re.compile(r"(\d{3})_\d+_\d+")
_SUBJECT_DIGITS = 3


class Samm(Format):
    """Davison et al. (2018).

    The workbook has 13 lines of text above its header, or none, depending on who handed it on.
    Frames are numbered as in the recording that the clip was cut from. Two more rules:

    - *clip name*: not of the form ``<subject>_<inducement>_<number>``: the clip is left out.
    - *subject*: missing, or not the one in the clip's name: the name is right. (Zeros lost in
      front, as in a CSV export, are put back silently.)
    """

    name = "samm"
    title = "SAMM"
    layout = "<subject>/<clip>/<subject>_<number>.jpg"
    workbooks = ("*Micro_FACS_Codes*",)
    columns: ClassVar[Mapping[str, str]] = {
        "subject": "Subject",
        "filename": "Filename",
        "onset": "Onset Frame",
        "apex": "Apex Frame",
        "offset": "Offset Frame",
        "action_units": "Action Units",
        "emotion": "Estimated Emotion",
    }
    emotions: ClassVar[Mapping[str, str]] = {
        emotion.casefold(): emotion for emotion in EMOTIONS
    } | {"others": "Other"}
    folder_ends_with_clip = True

    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """Every clip of every subject."""
        return tree.below("", ".+", ".+")

    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """One clip a row, its subject in its name."""
        name = text(row["filename"]).strip()
        if not _CLIP_NAME.fullmatch(name):
            message = f"{name!r} in row {position} is no name such as '006_1_2'"
            yield Defect(name or f"row {position}", "clip name", message, LEFT_OUT)
            return
        subject = name[:_SUBJECT_DIGITS]
        given = text(row["subject"]).strip()
        # A spreadsheet takes the zeros from the front of a number.
        given = given.zfill(_SUBJECT_DIGITS) if given.isdecimal() else given
        defects: tuple[Defect, ...] = ()
        if given != subject:
            message = f"the column Subject says {given!r}"
            defects = (Defect(name, "subject", message, f"{subject!r} is used"),)
        yield self.entry(row, subject, name, "", defects=defects)

"""CASME II: ``<root>/CASME2_RAW_selected/sub01/EP02_01f/img46.jpg``, 200 frames a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from memx_fast.samm.annotations import LEFT_OUT, Defect
from memx_fast.samm.formats.interface import Entry, Format
from memx_fast.samm.formats.tree import Tree, joined
from memx_fast.samm.tables import text

_PLACES = ("", "CASME2_RAW_selected", "CASME2-RAW", "CASME2_RAW", "Cropped")
_SUBJECT = r"sub\d+"
_FILE_NAME = re.compile(r"EP\d+\w*")


class Casme2(Format):
    """Yan et al. (2014).

    The subject is a number in the workbook and ``sub01`` on disk. Names such as EP02_01f occur with
    several subjects, so that a clip is called ``sub01_EP02_01f``. Of the original frames and the
    authors' crops (``Cropped``, ``reg_img46.jpg``) the former are read if both are there. Two more
    rules:

    - *subject*: no number; *clip name*: not like EP02_01f: the clip is left out.
    """

    name = "casme2"
    title = "CASME II"
    layout = "CASME2_RAW_selected/sub<subject>/<clip>/img<number>.jpg"
    workbooks = ("CASME2*coding*", "CASME2_label*")
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
        "disgust": "Disgust",
        "fear": "Fear",
        "happiness": "Happiness",
        "others": "Other",
        "other": "Other",
        "repression": "Repression",
        "sadness": "Sadness",
        "surprise": "Surprise",
    }
    folder_is_clip = True

    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """Every clip of every subject, in the place that is read."""
        return tree.below(_place(tree), _SUBJECT, ".+")

    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """One clip a row."""
        number, name = text(row["subject"]).strip(), text(row["filename"]).strip()
        if not number.isdecimal():
            message = f"{number!r} in row {position} is no number of a subject"
            yield Defect(name or f"row {position}", "subject", message, LEFT_OUT)
            return
        subject = f"sub{int(number):02d}"
        if not _FILE_NAME.fullmatch(name):
            message = f"{name!r} in row {position} is no name such as 'EP02_01f'"
            yield Defect(f"row {position}", "clip name", message, LEFT_OUT)
            return
        place = _place(tree)
        yield self.entry(
            row,
            subject,
            f"{subject}_{name}",
            tree.find(place, subject, name) or joined(place, subject, name),
        )


def _place(tree: Tree) -> str:
    """Where the folders of the subjects are."""
    return tree.base(_PLACES, _SUBJECT) or ""

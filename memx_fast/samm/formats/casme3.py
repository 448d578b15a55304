"""CAS(ME)^3, part A: ``<root>/spNo.1/a/color/355.jpg``, 30 frames a second, colour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from memx_fast.samm.annotations import LEFT_OUT, Defect
from memx_fast.samm.formats.interface import Entry, Format
from memx_fast.samm.formats.tree import Tree, joined
from memx_fast.samm.tables import text, whole_number

_SUBJECT = re.compile(r"spno\.(\d+)", re.IGNORECASE)
_FILE_NAME = re.compile(r"[A-Za-z]\w*")
_RECORDINGS = ("", "ME_A", "data", "data/ME_A", "part_A/data", "part_A/data/ME_A")
_CUT_CLIP = r"spno\.\d+_\w+_\d+"
_CUT_CLIPS = ("", "frame", "Part_A_ME_clip/frame")


class Casme3(Format):
    """Li et al. (2023).

    The workbook spells subjects spNO.1, the folders spNo.1: case does not matter. A recording,
    called by a letter, holds several clips, so that a clip is called ``spNO.1_a_355`` after its
    onset. Frames are found in the recordings (``spNo.1/a/color``), or else in the clips that were
    cut from them (``Part_A_ME_clip/frame/spNo.1_a_355``). Action units may have T (upper) or B
    (lower) in front. Two more rules:

    - *subject*: not like spNO.1; *clip name*: no letter: the clip is left out.
    """

    name = "casme3"
    title = "CAS(ME)^3"
    layout = "spNo.<subject>/<letter>/color/<number>.jpg"
    workbooks = ("cas(me)3_part_A_ME_label*",)
    workbook_folders = ("", "annotation", "part_A/annotation")
    sheet = "label"
    columns: ClassVar[Mapping[str, str]] = {
        "subject": "Subject",
        "filename": "Filename",
        "onset": "Onset",
        "apex": "Apex",
        "offset": "Offset",
        "action_units": "AU",
        "emotion": "emotion",
    }
    emotions: ClassVar[Mapping[str, str]] = {
        "anger": "Anger",
        "disgust": "Disgust",
        "fear": "Fear",
        "happy": "Happiness",
        "others": "Other",
        "sad": "Sadness",
        "surprise": "Surprise",
    }

    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """The clips that were cut; a recording need not have any row."""
        clips = tree.base(_CUT_CLIPS, _CUT_CLIP)
        return iter(()) if clips is None else tree.below(clips, _CUT_CLIP)

    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """One clip a row."""
        given, letter = text(row["subject"]).strip(), text(row["filename"]).strip()
        match = _SUBJECT.fullmatch(given)
        if not match:
            message = f"{given!r} is no subject such as 'spNO.1'"
            yield Defect(f"row {position}", "subject", message, LEFT_OUT)
            return
        if not _FILE_NAME.fullmatch(letter):
            message = f"{letter!r} is no name of a recording such as 'a'"
            yield Defect(f"row {position}", "clip name", message, LEFT_OUT)
            return
        subject = f"spNO.{int(match[1])}"
        onset = whole_number(row["onset"])
        name = f"{subject}_{letter}_" + (f"row {position}" if onset is None else f"{onset}")
        yield self.entry(row, subject, name, _folder(tree, subject, letter, name))


def _folder(tree: Tree, subject: str, letter: str, name: str) -> str:
    """The recording, or else the clip that was cut from it."""
    place = tree.base(_RECORDINGS, r"spno\.\d+") or ""
    clips = tree.base(_CUT_CLIPS, _CUT_CLIP)
    found = tree.find(place, subject, letter, "color")
    if found is None and clips is not None:
        found = tree.find(clips, name)
    return found or joined(place, subject, letter, "color")

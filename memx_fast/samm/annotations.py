"""What is known of a clip, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EMOTIONS = (
    "Anger",
    "Contempt",
    "Disgust",
    "Fear",
    "Happiness",
    "Other",
    "Sadness",
    "Surprise",
)
"""The eight emotions of SAMM. CASME II has *Repression* beside them; SMIC knows only *Positive*,
*Negative* and *Surprise*."""

LEFT_OUT = "the clip is left out"
"""The repair of every defect that costs the clip."""


@dataclass(frozen=True)
class Clip:
    """One annotated micro-expression.

    Attributes:
        subject: the participant, as the folders of the data set call him: ``"006"``.
        name: of the clip; no two clips of a data set have the same: ``"006_1_2"``.
        onset: number of the first frame, counted as in the names of the frame files.
        apex: number of the strongest frame; ``onset <= apex <= offset``.
        offset: number of the last frame.
        emotion: one of :data:`EMOTIONS`, or another that the format of the data set knows.
        action_units: the FACS codes exactly as the workbook has them, blanks and all.
        dataset: which data set it is from, a key of :data:`memx_fast.samm.formats.FORMATS`.
        folder: where its frames are, below the root of the data set, with ``/``; empty for
            ``<subject>/<name>``.
    """

    subject: str
    name: str
    onset: int
    apex: int
    offset: int
    emotion: str
    action_units: str
    dataset: str = "samm"
    folder: str = ""


@dataclass(frozen=True)
class Defect:
    """Something wrong with the data, and what was done about it.

    Attributes:
        clip: name of the clip; for a row without a usable name, the row: ``"row 17"``.
        kind: a short name for this sort of defect, such as ``"apex outside"``.
        message: what was found, where, and how a person can mend it.
        repair: what was done instead, or :data:`LEFT_OUT`.
    """

    clip: str
    kind: str
    message: str
    repair: str

    def __str__(self) -> str:
        return f"{self.clip}: {self.kind}: {self.message}; {self.repair}"


def refuse(defects: Sequence[Defect]) -> None:
    """Raise a ``ValueError`` that lists every defect, if there is any."""
    if defects:
        listing = "\n".join(f"  {defect}" for defect in defects)
        raise ValueError(f"strict: the data has {len(defects)} defects:\n{listing}")

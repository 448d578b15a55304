"""The annotations of the built-in data set: which clips there are, and the workbook about them.

Made from what has been published about SAMM as a whole: how many clips of each emotion each of its
29 subjects has, how long clips are, where their apex lies. No clip of it is anyone's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openpyxl

from memx_fast.samm.annotations import EMOTIONS, Clip
from memx_fast.samm.synthetic_muscles import EXPRESSIONS, Expression

WORKBOOK = "SAMM_Micro_FACS_Codes_v2.xlsx"

PREAMBLE = (
    "Built-in data set of memx_fast, in the format of the SAMM micro-expression release",
    None,
    "Every face in it is drawn and every clip invented; only the counts of clips for each subject",
    "and emotion, and how long clips are, follow what is published about SAMM.",
    "Do not report results on it as results on SAMM.",
    None,
    "Frames are counted from the start of a recording at 200 frames a second",
    "Symbols: '/' or, '?' end of the movement not clear",
    None,
    "Action units (Facial Action Coding System):",
    "L or R: left or right half of the face only",
    "A: one half moves more than the other; A to E behind a number: its strength",
    None,
)
"""The lines above the header of the workbook."""

HEADER = (
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
)

_COUNTS = {
    # Anger, Contempt, Disgust, Fear, Happiness, Other, Sadness, Surprise: the order of EMOTIONS.
    "006": (7, 0, 0, 1, 0, 0, 1, 2),
    "007": (0, 0, 0, 1, 5, 2, 0, 2),
    "009": (2, 0, 0, 1, 0, 0, 0, 1),
    "010": (4, 0, 0, 0, 0, 0, 0, 0),
    "011": (5, 3, 5, 0, 7, 0, 0, 0),
    "012": (0, 0, 0, 2, 0, 0, 0, 1),
    "013": (6, 0, 0, 0, 0, 0, 0, 0),
    "014": (0, 1, 0, 1, 7, 1, 0, 1),
    "015": (0, 1, 0, 0, 0, 0, 1, 1),
    "016": (2, 0, 0, 0, 1, 0, 0, 2),
    "017": (1, 2, 0, 0, 0, 2, 0, 1),
    "018": (0, 0, 1, 0, 0, 1, 1, 1),
    "019": (0, 0, 0, 0, 1, 2, 0, 0),
    "020": (1, 1, 0, 0, 2, 5, 0, 0),
    "021": (2, 0, 0, 0, 0, 0, 0, 0),
    "022": (3, 0, 0, 0, 2, 0, 0, 0),
    "023": (1, 0, 0, 0, 0, 0, 0, 0),
    "024": (0, 0, 1, 0, 0, 0, 0, 0),
    "025": (0, 0, 0, 0, 0, 4, 0, 0),
    "026": (6, 2, 1, 0, 0, 4, 0, 0),
    "028": (0, 1, 0, 0, 0, 0, 0, 2),
    "030": (3, 0, 0, 0, 0, 0, 0, 0),
    "031": (1, 0, 0, 0, 0, 0, 0, 0),
    "032": (3, 0, 0, 0, 0, 2, 1, 0),
    "033": (3, 0, 0, 0, 1, 0, 1, 0),
    "034": (3, 0, 0, 0, 0, 0, 0, 0),
    "035": (3, 1, 0, 2, 0, 1, 1, 1),
    "036": (0, 0, 1, 0, 0, 0, 0, 0),
    "037": (1, 0, 0, 0, 0, 2, 0, 0),
}

_LENGTH_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_LENGTHS = (30, 45, 59, 78, 90, 98, 101)
"""Quantiles of the number of frames of a clip."""

_RECORDING = (83, 12256)
"""Between which frames of a recording clips begin."""

_INDUCEMENTS = 7

_SPOILT = {"028_4_1": "Contempt", "032_3_1": "Anger"}
"""The clips, and their emotions, whose apex is wrong in the released workbook, as it is in this."""

_OBJECTIVE_CLASSES = {
    "Happiness": 1,
    "Surprise": 2,
    "Anger": 3,
    "Disgust": 4,
    "Sadness": 5,
    "Fear": 6,
    "Contempt": 7,
    "Other": 7,
}


@dataclass(frozen=True)
class PlannedClip:
    """One row of the workbook, and what is drawn for it.

    Attributes:
        clip: the true annotation.
        written_apex: what the workbook says about the apex, wrong in two clips.
        expression: which muscles move.
        strength: how much they move, around 1.
        digits: to how many digits the numbers in its file names are padded.
        blink, glance, head_movement: what else happens, and is noted.
    """

    clip: Clip
    written_apex: int
    expression: Expression
    strength: float
    digits: int
    blink: bool
    glance: bool
    head_movement: bool

    def note(self) -> str | None:
        """The cell of the column Notes."""
        notes = (
            (self.head_movement, "Large head movement"),
            (self.blink, "Blinks"),
            (self.glance, "Eye movement"),
        )
        return next((text for happens, text in notes if happens), None)


def plan(seed: int) -> list[PlannedClip]:
    """All 159 clips, by subject and name.

    Lengths, apex positions and everything else are drawn without a look at the emotion; only the
    action units depend on it.

    Args:
        seed: decides every chance.
    """
    # Two streams: what is drawn for the muscles must not shift what is drawn for anything else.
    chance, muscles = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    timings = iter(_timings(sum(map(sum, _COUNTS.values())), chance))
    planned = []
    for subject in _COUNTS:
        scenes = _scenes(subject, chance)
        slot = (_RECORDING[1] - _RECORDING[0]) // len(scenes)
        for position, (name, emotion) in enumerate(scenes):
            length, apex = next(timings)
            onset = _RECORDING[0] + position * slot + int(chance.integers(slot - length))
            expression = EXPRESSIONS[emotion][int(muscles.integers(len(EXPRESSIONS[emotion])))]
            clip = Clip(
                subject=subject,
                name=name,
                onset=onset,
                apex=onset + apex,
                offset=onset + length - 1,
                emotion=emotion,
                action_units=expression.codes,
            )
            row = PlannedClip(
                clip=clip,
                written_apex=clip.apex,
                expression=expression,
                strength=float(muscles.uniform(0.8, 1.2)),
                digits=5 if chance.random() < 0.25 else 4,
                blink=bool(chance.random() < 0.1),
                glance=bool(chance.random() < 0.14),
                head_movement=bool(chance.random() < 0.015),
            )
            planned.append(_spoil(row))
    return planned


def write_workbook(path: Path, planned: Sequence[PlannedClip]) -> None:
    """Write the annotations as the release has them: sheet, preamble, header in row 14, types."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "MICRO_ONLY"
    for line in PREAMBLE:
        sheet.append([line])
    sheet.append(list(HEADER))
    for row in planned:
        clip = row.clip
        codes = clip.action_units
        sheet.append(
            [
                clip.subject,
                clip.name,
                int(clip.name.split("_")[1]),
                clip.onset,
                row.written_apex,
                clip.offset,
                clip.offset - clip.onset + 1,
                "Micro - 1/2",
                int(codes) if codes.isdecimal() else codes,
                clip.emotion,
                _OBJECTIVE_CLASSES[clip.emotion],
                row.note(),
            ]
        )
    book.save(path)


def _timings(count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Number of frames and index of the apex of every clip, in any order.

    The lengths have the published quantiles, the distances to the apex the published extremes.
    """
    shares = np.linspace(0, 1, count)
    lengths = np.rint(np.interp(shares, _LENGTH_SHARES, _LENGTHS)).astype(int)
    last = lengths - 1
    apexes = np.rint(random.beta(2.2, 2.75, count) * last).astype(int)
    apexes = np.clip(apexes, np.maximum(2, last - 80), np.minimum(last - 2, 95))
    middle = count // 2
    apexes[middle] = 1
    apexes[middle + 1] = last[middle + 1] - 1
    apexes[-1] = 96
    apexes[-2] = last[-2] - 81
    order = random.permutation(count)
    return [(int(lengths[k]), int(apexes[k])) for k in order]


def _scenes(subject: str, random: np.random.Generator) -> list[tuple[str, str]]:
    """Name and emotion of every clip of a subject, by name."""
    emotions = [
        emotion
        for emotion, count in zip(EMOTIONS, _COUNTS[subject], strict=True)
        for _ in range(count)
    ]
    emotions = [emotions[k] for k in random.permutation(len(emotions))]
    inducements = random.integers(1, _INDUCEMENTS + 1, len(emotions))
    fixed = {name: emotion for name, emotion in _SPOILT.items() if name.startswith(subject)}
    for name, emotion in fixed.items():
        # That clip has its inducement for itself, which makes it number 1.
        inducement = int(name.split("_")[1])
        inducements[inducements == inducement] += 1
        inducements[emotions.index(emotion)] = inducement
    scenes = []
    numbers: Counter[int] = Counter()
    for position in np.argsort(inducements, kind="stable"):
        inducement = int(inducements[position])
        numbers[inducement] += 1
        scenes.append((f"{subject}_{inducement}_{numbers[inducement]}", emotions[position]))
    return scenes


def _spoil(row: PlannedClip) -> PlannedClip:
    """The two wrong apexes of the release: one beyond the offset, one with a digit wrong."""
    clip = row.clip
    length = clip.offset - clip.onset
    if clip.name == "028_4_1":
        # No frame of the clip is one digit away from the number written.
        moved = replace(clip, onset=8979 - length, apex=8979 - (length + 1) // 2, offset=8979)
        return replace(row, clip=moved, written_apex=9003)
    if clip.name == "032_3_1":
        moved = replace(clip, onset=5212, apex=5212 + clip.apex - clip.onset, offset=5212 + length)
        return replace(row, clip=moved, written_apex=moved.apex - 4000)
    return row

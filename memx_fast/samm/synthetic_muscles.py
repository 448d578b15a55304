"""Facial action units as movements of skin, lids and lips, and the emotions they belong to.

A muscle moves the skin around a landmark of the face, smoothly less with distance, and deepens or
flattens folds. The codes and what they move are those of the Facial Action Coding System.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from memx_fast.samm.synthetic_canvas import Floats
from memx_fast.samm.synthetic_identity import Identity

REACH = 0.08
"""How far a full action unit moves skin, in face units: about 3 pixels of a 90x90 crop."""

FOLD = 0.3
"""How much a full action unit darkens the folds it deepens."""


@dataclass(frozen=True)
class Pull:
    """Movement of the skin around a landmark.

    Attributes:
        landmark: a key of :meth:`memx_fast.samm.synthetic_identity.Identity.landmarks`.
        out: movement away from the midline, as a share of :data:`REACH`.
        down: movement downwards.
        width, height: standard deviations of the region that moves, face units.
        fold: change of shade there, as a share of :data:`FOLD`; negative darkens.
    """

    landmark: str
    out: float
    down: float
    width: float = 0.16
    height: float = 0.16
    fold: float = 0.0


@dataclass(frozen=True)
class Muscle:
    """What one action unit does.

    Attributes:
        pulls: movements of the skin, each on both halves unless the action is one-sided.
        lids: change of the opening of the eyes; -1 closes them.
        lips: change of the gap between the lips, face units at full action.
        thickness: change of the thickness of the lips, as a share.
    """

    pulls: tuple[Pull, ...] = ()
    lids: float = 0.0
    lips: float = 0.0
    thickness: float = 0.0


MUSCLES = {
    1: Muscle((Pull("inner brow", 0, -1, 0.15, 0.18, -0.3),), lids=0.05),
    2: Muscle((Pull("outer brow", 0, -1, 0.17, 0.18, -0.2),), lids=0.05),
    4: Muscle((Pull("inner brow", -0.5, 0.9, 0.2, 0.16, -0.7),), lids=-0.08),
    5: Muscle(lids=0.4),
    6: Muscle((Pull("cheek", 0, -0.9, 0.2, 0.15, 0.3),), lids=-0.2),
    7: Muscle((Pull("eye", 0, 0.35, 0.18, 0.1, -0.2),), lids=-0.4),
    9: Muscle((Pull("nose root", 0, 0.5, 0.2, 0.12, -0.8), Pull("nose wing", 0, -0.9, 0.12, 0.14))),
    10: Muscle(
        (Pull("upper lip", 0, -0.9, 0.15, 0.1), Pull("nose wing", 0.2, -0.5, 0.1, 0.1, -0.7))
    ),
    12: Muscle(
        (
            Pull("lip corner", 0.8, -0.9, 0.14, 0.14, -0.3),
            Pull("cheek", 0.1, -0.6, 0.2, 0.16, 0.4),
        )
    ),
    14: Muscle((Pull("lip corner", 1.0, -0.2, 0.11, 0.11, -1.0),), thickness=-0.1),
    15: Muscle((Pull("lip corner", 0, 1.1, 0.13, 0.14, -0.4),)),
    17: Muscle((Pull("chin", 0, -0.9, 0.2, 0.13, -0.7), Pull("lower lip", 0, -0.5, 0.2, 0.08))),
    18: Muscle((Pull("lip corner", -1.0, 0, 0.13, 0.13),), thickness=0.2),
    20: Muscle((Pull("lip corner", 1.1, 0.3, 0.16, 0.12, -0.2),), thickness=-0.15),
    23: Muscle((Pull("lip corner", -0.4, 0, 0.12, 0.1),), thickness=-0.35),
    24: Muscle((Pull("lower lip", 0, -0.5, 0.25, 0.08, -0.3),), thickness=-0.45),
    25: Muscle(lips=0.05),
    26: Muscle((Pull("chin", 0, 0.8, 0.35, 0.16), Pull("lower lip", 0, 0.5, 0.2, 0.09)), lips=0.07),
    39: Muscle((Pull("nose wing", -0.8, 0, 0.08, 0.1),)),
    43: Muscle(lids=-1.0),
}
"""Action units by their number. A pull at the midline acts whole whatever the side."""

SIDES = {"": (-1, 1), "L": (1,), "R": (-1,)}
"""Which halves of the image an action takes: the person's left is on the right."""

_ACTION = re.compile(r"([LR]?)(\d+)")


@dataclass(frozen=True)
class Expression:
    """An emotion's action units.

    Attributes:
        codes: the text for the workbook, which may be as odd as coders' notes are.
        actions: what is drawn: numbers joined by ``+``, each with ``L`` or ``R`` in front if it is
            one-sided. Empty: the same as ``codes``.
    """

    codes: str
    actions: str = ""

    def parts(self) -> list[tuple[str, int]]:
        """Side ("", "L" or "R") and number of every action drawn."""
        found = []
        for part in (self.actions or self.codes).split("+"):
            action = _ACTION.fullmatch(part.strip())
            if action is None:
                raise ValueError(f"actions: got {part!r}, expected a number, L or R in front")
            found.append((action[1], int(action[2])))
        return found


EXPRESSIONS = {
    "Anger": [
        Expression("4"),
        Expression("4+7"),
        Expression("4A/B", "4"),
        Expression("4+23"),
        Expression("4C+7B", "4+7"),
        Expression("4+24"),
    ],
    "Contempt": [
        Expression("L14"),
        Expression("R14"),
        Expression("R12 or R14", "R14"),
        Expression("L14B or 17A or 24A", "L14"),
        Expression("L14+17+soft focus", "L14+17"),
    ],
    "Disgust": [
        Expression("9"),
        Expression("10A/B", "10"),
        Expression("9+10"),
        Expression("4+9"),
        Expression("10+17 ", "10+17"),
    ],
    "Fear": [
        Expression("20"),
        Expression("1+4+20"),
        Expression("4+20"),
        Expression("20B+ref(7A)", "20"),
    ],
    "Happiness": [
        Expression("12"),
        Expression("6+12"),
        Expression("12B+ref(24)", "12"),
        Expression("6A+12C", "6+12"),
        Expression("12+25"),
        Expression("(L6 or L12)+12", "6+12"),
    ],
    "Other": [
        Expression("18"),
        Expression("24"),
        Expression("T24", "24"),
        Expression("T18+25", "18+25"),
        Expression("B18+39", "18+39"),
        Expression("ref(7A)+43B", "43"),
        Expression("A/R12", "R12"),
        Expression("23+39"),
    ],
    "Sadness": [
        Expression("15"),
        Expression("1+15"),
        Expression("15+17 ", "15+17"),
        Expression("1A+4A+15", "1+4+15"),
    ],
    "Surprise": [
        Expression("1+2"),
        Expression("1+2+5"),
        Expression("1B+2B", "1+2"),
        Expression("1+2+25"),
        Expression("1A+2A+5B+26", "1+2+5+26"),
    ],
}
"""What an emotion of the workbook looks like."""


@dataclass
class Movement:
    """Sum of several actions at full strength.

    Attributes:
        right, down: displacement of the skin in face units, (height, width) of the grid.
        shade: relative change of brightness, same shape.
        lids, lips, thickness: as in :class:`Muscle`.
    """

    right: Floats
    down: Floats
    shade: Floats
    lids: float = field(default=0.0)
    lips: float = field(default=0.0)
    thickness: float = field(default=0.0)


def contract(
    expression: Expression, strength: float, person: Identity, x: Floats, y: Floats
) -> Movement:
    """What an expression does to a face, at a strength (1: as coders see it; 0: nothing).

    Args:
        expression: the actions.
        strength: factor of every movement.
        person: whose landmarks.
        x, y: face coordinates of the grid, both (height, width).
    """
    total = Movement(np.zeros_like(x), np.zeros_like(x), np.zeros_like(x))
    landmarks = person.landmarks()
    for side, number in expression.parts():
        muscle = MUSCLES[number]
        total.lids += strength * muscle.lids
        total.lips += strength * muscle.lips
        total.thickness += strength * muscle.thickness
        for pull in muscle.pulls:
            centre_x, centre_y = landmarks[pull.landmark]
            for half in SIDES[side] if centre_x else (1,):
                across = ((x - half * centre_x) / pull.width) ** 2
                bell = strength * np.exp(-0.5 * (across + ((y - centre_y) / pull.height) ** 2))
                total.right += half * pull.out * REACH * bell
                total.down += pull.down * REACH * bell
                total.shade += pull.fold * FOLD * bell
    return total

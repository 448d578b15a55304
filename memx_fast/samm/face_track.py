"""The face of a whole clip: one box for all frames, and whether the face stays there.

Faces are looked for in at most :data:`LOOKS` frames, evenly from the first to the last. Findings of
one look and the next that overlap are one face. Of all faces that are seen nearly as often and as
surely as any, the largest counts, and its box is where it is first found: that of the onset, as in
:func:`memx_fast.samm.dataset.load`.

A face that is not found once, between looks that find it, has blinked or turned. One that is not
found twice running has vanished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from memx_fast.samm.faces import Box, Detector, Finding, overlap
from memx_fast.samm.films import Film
from memx_fast.samm.progress import bar

LOOKS = 256
"""Frames of a clip in which faces are looked for, at most; a clip up to that long: all."""

_SAME = 0.3
"""Overlap from which on two findings are one face."""

_NEARLY = 0.5
"""Share of the most sightings, and of the most certainty, that a face needs to count."""

_SHOWN_FROM = 40
"""Fewer looks than this are done before anybody looks for a progress bar."""


@dataclass(frozen=True)
class Track:
    """Where the face of a clip is.

    Attributes:
        box: of all its frames.
        looks: in how many frames it was looked for.
        seen: in how many of those it was found.
        drift: how far its middle moves away from the box's, as a share of the side of the box.
        others: number of other faces that were found as often and as surely, and are smaller.
    """

    box: Box
    looks: int
    seen: int
    drift: float
    others: int


@dataclass
class _Face:
    """A face as it is seen from look to look."""

    findings: dict[int, Finding] = field(default_factory=dict)

    @property
    def last(self) -> Box:
        return list(self.findings.values())[-1].box

    @property
    def side(self) -> float:
        return float(np.median([finding.box.side for finding in self.findings.values()]))

    @property
    def certainty(self) -> float:
        return float(np.mean([finding.certainty for finding in self.findings.values()]))


def follow(film: Film, numbers: Sequence[int], *, progress: bool = False) -> Track:
    """Find the face of a clip.

    Args:
        film: the clip.
        numbers: its frames.
        progress: show a bar.

    Raises:
        ValueError: there is no face, or it is not there all the time; the message names the frames.
    """
    step = -(-len(numbers) // LOOKS)
    looks = sorted({*numbers[::step], numbers[-1]})
    detector = Detector()
    faces: list[_Face] = []
    hidden = not progress or len(looks) < _SHOWN_FROM
    with bar("looking for the face", len(looks), "frame", hidden=hidden) as done:
        for number, image in film.read(looks):
            _assign(faces, number, detector.find_all(image))
            done.update()
    if not faces:
        raise ValueError(
            f"video: no face is found in {film.path}, of which {len(looks)} frames were looked at; "
            "give its place with --face-box, or the frames that show it with --onset and --offset"
        )
    often = max(len(face.findings) for face in faces)
    known = [face for face in faces if len(face.findings) >= _NEARLY * often]
    surest = max(face.certainty for face in known)
    known = [face for face in known if face.certainty >= _NEARLY * surest]
    chosen = max(known, key=lambda face: face.side)
    _refuse_vanishing(film, looks, chosen, step)
    box = next(iter(chosen.findings.values())).box
    drift = max(_distance(box, finding.box) for finding in chosen.findings.values())
    return Track(box, len(looks), len(chosen.findings), drift, len(known) - 1)


def _assign(faces: list[_Face], number: int, found: Sequence[Finding]) -> None:
    """Give each finding of a frame to the face it overlaps most with, or make it a new one."""
    for finding in sorted(found, key=lambda finding: -finding.certainty):
        free = [face for face in faces if number not in face.findings]
        nearest = max(free, key=lambda face: overlap(face.last, finding.box), default=None)
        if nearest is None or overlap(nearest.last, finding.box) < _SAME:
            nearest = _Face()
            faces.append(nearest)
        nearest.findings[number] = finding


def _refuse_vanishing(film: Film, looks: Sequence[int], face: _Face, step: int) -> None:
    """Refuse a clip that shows its face only for a time, and say when that is."""
    runs = [
        (there, [looks[place] for place in places])
        for there, group in groupby(range(len(looks)), lambda place: looks[place] in face.findings)
        for places in [list(group)]
    ]
    if all(there or len(run) == 1 for there, run in runs):
        return
    without = ", ".join(f"{run[0]} to {run[-1]}" for there, run in runs if not there and run[1:])
    longest = max((run for there, run in runs if there), key=len)
    places = "" if step == 1 else f" (every {step}th was looked at)"
    raise ValueError(
        f"video: the face of {film.path} vanishes: it is not found in frames {without}{places}; "
        f"the longest part that shows it is --onset {longest[0]} --offset {longest[-1]}; if it is "
        "there all the time, give its place with --face-box"
    )


def _distance(one: Box, other: Box) -> float:
    """Between the middles of two boxes, as a share of the side of the first."""
    x = (other.left + other.side / 2) - (one.left + one.side / 2)
    y = (other.top + other.side / 2) - (one.top + one.side / 2)
    return float(np.hypot(x, y)) / one.side

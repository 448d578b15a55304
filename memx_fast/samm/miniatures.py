"""Small drawn data sets in the formats of CASME II, SMIC-HS, MMEW and CAS(ME)^3, errors and all.

Six drawn people each, with clips shorter than real ones. Folders, file names, sheets and titles are
those of the releases, and so are their oddities: a missing apex, an offset before its onset, two
expressions in one recording, text below the table, names that are spelt differently on disk. They
are for trying, teaching and testing; results on them say nothing about the data sets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl

from memx_fast.samm.synthetic import check_drawing, write_frame, write_once
from memx_fast.samm.synthetic_muscles import EXPRESSIONS, Expression
from memx_fast.samm.synthetic_scene import Course, Person

VERSION = 1
"""Raised whenever the same settings draw other frames."""

_PEOPLE = 6
_STREAM = 4  # of random numbers; the built-in data in the format of SAMM has the first four
_DRAWN_AS = {
    "happy": "Happiness",
    "positive": "Happiness",
    "negative": "Anger",
    "others": "Other",
    "sad": "Sadness",
}
_REPRESSION = [Expression("15+24"), Expression("17+24")]


@dataclass(frozen=True)
class _Shot:
    """One expression in a recording: numbers of its frames, what the workbook calls it."""

    onset: int
    apex: int
    offset: int
    emotion: str
    expression: Expression


@dataclass(frozen=True)
class _Recording:
    """A folder of frames.

    Attributes:
        person: who is in it, from 1.
        folder: below the root.
        file: name of a frame by its number.
        shots: in the order of time; between them the face is at rest.
    """

    person: int
    folder: str
    file: str
    shots: tuple[_Shot, ...]


@dataclass(frozen=True)
class _Release:
    """What is handed out: recordings, and the workbook with its sheets."""

    recordings: list[_Recording]
    workbook: str
    sheets: dict[str, list[list[Any]]]


def generate(
    root: str | os.PathLike[str],
    dataset: str,
    *,
    frame_size: tuple[int, int] = (170, 136),
    motion: float = 1.0,
    seed: int = 0,
) -> None:
    """Write a miniature; a folder that already holds it is left as it is.

    Args:
        root: folder to make; what is above it is made as well.
        dataset: one of :data:`MINIATURES`.
        frame_size: width and height of the frames, pixels, both at least 96.
        motion: strength of the facial movement, as in :func:`memx_fast.samm.synthetic.generate`.
        seed: other people, clips and noise for every number.

    Raises:
        ValueError: a setting is out of range, or ``root`` holds something else.
    """
    if dataset not in MINIATURES:
        raise ValueError(f"dataset: got {dataset!r}, expected one of {', '.join(MINIATURES)}")
    check_drawing(frame_size, motion, seed)
    facts = {
        "version": VERSION,
        "dataset": dataset,
        "frame_size": frame_size,
        "motion": float(motion),
        "seed": seed,
    }

    def write(folder: Path) -> None:
        number = list(MINIATURES).index(dataset)
        release = MINIATURES[dataset](np.random.default_rng([seed, _STREAM, number]))
        _write_workbook(folder, release)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            jobs = [
                pool.submit(_draw, folder, release, person, frame_size, motion, [seed, number])
                for person in range(1, _PEOPLE + 1)
            ]
            for job in jobs:
                job.result()

    write_once(Path(root), json.dumps(facts, indent=2) + "\n", write)


def _write_workbook(root: Path, release: _Release) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in release.sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    path = root / release.workbook
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def _draw(
    root: Path,
    release: _Release,
    number: int,
    frame_size: tuple[int, int],
    motion: float,
    seed: list[int],
) -> None:
    """Write the frames of everything a person is in."""
    person = Person(frame_size, [*seed, _STREAM, number])
    for position, recording in enumerate(release.recordings):
        if recording.person != number:
            continue
        folder = root / recording.folder
        folder.mkdir(parents=True)
        frame = recording.shots[0].onset - _REST
        for part, (shot, after) in enumerate(_with_next(recording.shots)):
            chances = [*seed, _STREAM, number, position, part]
            for length, apex, strength in (
                (shot.onset - frame, 1, 0.0),
                (shot.offset - shot.onset + 1, shot.apex - shot.onset, motion),
                (_REST if after is None else 0, 1, 0.0),
            ):
                if not length:
                    continue
                course = Course(length, apex, shot.expression, strength, False, False, False)
                for image in person.film(course, chances):
                    write_frame(folder / recording.file.format(frame), image)
                    frame += 1


def _with_next(shots: Sequence[_Shot]) -> list[tuple[_Shot, _Shot | None]]:
    return list(zip(shots, [*shots[1:], None], strict=True))


_REST = 2
"""Frames before and after the expressions of a recording, and between them."""


def _shots(first: int, emotions: Sequence[str], random: np.random.Generator) -> tuple[_Shot, ...]:
    """Expressions one after the other in a recording whose first frame is ``first``."""
    found = []
    for emotion in emotions:
        onset = first + _REST
        length = int(random.integers(10, 15))
        apex = onset + int(random.integers(4, 7))
        name = _DRAWN_AS.get(emotion, emotion.capitalize())
        expressions = _REPRESSION if name == "Repression" else EXPRESSIONS[name]
        expression = expressions[int(random.integers(len(expressions)))]
        found.append(_Shot(onset, apex, onset + length - 1, emotion, expression))
        first = onset + length
    return tuple(found)


def _casme2(random: np.random.Generator) -> _Release:
    """Names that several subjects share, two columns without a title, an apex '/', an offset
    before its onset.
    """
    header = ["Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None]
    rows: list[list[Any]] = [[*header, "Action Units", "Estimated Emotion", "Objective Class"]]
    recordings = []
    rare = ("others", "fear", "others", "sadness", "others", "others")
    for person in range(1, _PEOPLE + 1):
        emotions = ("happiness", "disgust", "repression", "surprise", rare[person - 1])
        names = ("EP02_01f", "EP03_02", "EP09f", "EP12_03f", "EP19_05f")
        for name, emotion in zip(names, emotions, strict=True):
            (shot,) = _shots(int(random.integers(1, 60)), [emotion], random)
            folder = f"CASME2_RAW_selected/sub{person:02d}/{name}"
            recordings.append(_Recording(person, folder, "img{}.jpg", (shot,)))
            apex: Any = "/" if (person, name) == (4, "EP12_03f") else shot.apex
            offset = shot.onset - 5 if (person, name) == (5, "EP03_02") else shot.offset
            cells = [f"{person:02d}", name, None, shot.onset, apex, offset, None]
            rows.append([*cells, shot.expression.codes, emotion, 7])
    return _Release(recordings, "CASME2-coding-20190701.xlsx", {"Sheet1": rows})


def _smic(random: np.random.Generator) -> _Release:
    """Long recordings, one with two expressions; no apex; text below the table."""
    header = ["Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F"]
    header += ["Offset3F", None, "FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL"]
    rows: list[list[Any]] = [[*header, "Emotion"]]
    recordings = []
    for person in range(1, _PEOPLE + 1):
        counts: dict[str, int] = {}
        for emotion in ("negative", "positive", "surprise", "negative"):
            counts[emotion] = counts.get(emotion, 0) + 1
            short = {"negative": "ne", "positive": "po", "surprise": "sur"}[emotion]
            name = f"s{person}_{short}_{counts[emotion]:02d}"
            expressions = 2 if name == "s3_ne_02" else 1
            first = int(random.integers(10_000, 200_000))
            shots = _shots(first, [emotion] * expressions, random)
            recordings.append(_Recording(person, f"s{person:02d}/{name}", "image{:06d}.jpg", shots))
            absent: list[Any] = [None] * (3 - expressions)
            spans = [number for shot in shots for number in (shot.onset, shot.offset)]
            lengths = [shot.offset - shot.onset + 1 for shot in shots]
            last = shots[-1].offset + _REST
            cells = [person, name, None, *spans, *absent, *absent, None, first, last, *lengths]
            rows.append([*cells, *absent, last - first + 1, emotion])
    rows += [[], ["F: number of a frame; M: micro-expression; VL: length of the recording"]]
    return _Release(recordings, "SMIC-HS-E_annotation.xlsx", {"NIR": [], "HS": rows})


def _mmew(random: np.random.Generator) -> _Release:
    """Folders by emotion, one clip in the wrong one; a row without apex and offset."""
    header = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units"]
    rows: list[list[Any]] = [[*header, "Estimated Emotion", "remarks"]]
    recordings = []
    rare = ("others", "fear", "sadness", "others", "fear", "sadness")
    for person in range(1, _PEOPLE + 1):
        emotions = ("happiness", "anger", "disgust", "surprise", rare[person - 1])
        for number, emotion in enumerate(emotions, start=1):
            name = f"S{person:02d}-{number:02d}-001"
            (shot,) = _shots(1, [emotion], random)
            place = "others" if name == "S02-01-001" else emotion
            recordings.append(
                _Recording(person, f"Micro_Expression/{place}/{name}", "{}.jpg", (shot,))
            )
            marks = [shot.apex, shot.offset] if name != "S05-02-001" else [None, None]
            rows.append([person, name, shot.onset, *marks, shot.expression.codes, emotion, None])
    return _Release(recordings, "MMEW_Micro_Exp.xlsx", {"Sheet1": rows})


def _casme3(random: np.random.Generator) -> _Release:
    """Recordings with several clips, subjects spelt in two ways, an apex that is the onset, and a
    sheet of something else in front.
    """
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
    rows: list[list[Any]] = [header]
    recordings = []
    rare = ("anger", "fear", "sad", "others", "anger", "others")
    for person in range(1, _PEOPLE + 1):
        letters = {"a": ("happy", "disgust"), "b": ("surprise",), "e": (rare[person - 1],)}
        for letter, emotions in letters.items():
            shots = _shots(int(random.integers(1, 900)), emotions, random)
            folder = f"spNo.{person}/{letter}/color"
            recordings.append(_Recording(person, folder, "{}.jpg", shots))
            for shot in shots:
                apex = shot.onset if (person, letter) == (2, "b") else shot.apex
                cells = [f"spNO.{person}", letter, shot.onset, apex, shot.offset]
                rows.append([*cells, shot.expression.codes, 1, shot.emotion])
    name = "annotation/cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    return _Release(recordings, name, {"statistics": [["clips", len(rows) - 1]], "label": rows})


MINIATURES: dict[str, Callable[[np.random.Generator], _Release]] = {
    "casme2": _casme2,
    "smic": _smic,
    "mmew": _mmew,
    "casme3": _casme3,
}
"""What draws the plan of each, by the name of the format."""

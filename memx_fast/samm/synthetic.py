"""The built-in data set: drawn faces in exactly the format of the SAMM release.

159 clips of 29 drawn people with the published counts of subjects and emotions, a workbook with its
preamble and its two wrong apexes, one folder of JPEG frames a clip. It is for trying, teaching and
testing; results on it say nothing about SAMM.

With ``motion=0`` the muscles keep still and everything else stays as it was: whoever still
recognises an emotion then has found a leak.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm import synthetic_table
from memx_fast.samm.progress import bar
from memx_fast.samm.synthetic_cast import cast
from memx_fast.samm.synthetic_scene import Course, Person
from memx_fast.samm.synthetic_table import PlannedClip

VERSION = 1
"""Raised whenever the same settings draw other frames."""

MARKER = "memx_fast_built_in.json"
"""File in the folder of a finished data set that says how it was made."""

FULL_SIZE = (2040, 1088)
"""Width and height of SAMM's frames, pixels."""

_SMALLEST_FRAME = 96
_STRONGEST_MOTION = 2.0
_JPEG_QUALITY = 90

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Settings:
    """All that decides what the files contain."""

    frame_size: tuple[int, int]
    motion: float
    seed: int
    full_size_clips: int

    def __post_init__(self) -> None:
        check_drawing(self.frame_size, self.motion, self.seed)
        _check_count("full_size_clips", self.full_size_clips)

    def marker(self) -> str:
        """The text of the marker file."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"


def check_drawing(frame_size: tuple[int, int], motion: float, seed: int) -> None:
    """Refuse with a ``ValueError`` what no person can be drawn with."""
    whole = all(isinstance(side, int) for side in frame_size)
    if not whole or len(frame_size) != 2 or min(frame_size) < _SMALLEST_FRAME:
        raise ValueError(
            f"frame_size: got {frame_size}, expected (width, height), "
            f"both whole numbers of at least {_SMALLEST_FRAME} pixels"
        )
    if not 0 <= motion <= _STRONGEST_MOTION:
        raise ValueError(f"motion: got {motion}, expected a number from 0 to {_STRONGEST_MOTION}")
    _check_count("seed", seed)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}: got {value!r}, expected a whole number >= 0")


def generate(
    root: str | os.PathLike[str],
    *,
    frame_size: tuple[int, int] = (340, 272),
    motion: float = 1.0,
    seed: int = 0,
    full_size_clips: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> None:
    """Write the built-in data set.

    The same settings give the same files, however many threads write them. A folder that already
    holds the data set with these settings is left as it is. The data is written beside ``root`` and
    moved there when complete, so that ``root`` is never half a data set.

    Args:
        root: folder to make; what is above it is made as well.
        frame_size: width and height of the frames, pixels, both at least 96.
        motion: strength of the facial movement: at 1 the apex is 1 to 3.5 pixels of a 90x90 crop
            away from rest, at 0 not at all; at most 2.
        seed: other people, clips and noise for every number.
        full_size_clips: so many of the clips, the first ones, have frames of 2040x1088 pixels.
        workers: threads; by default one a processor this process may use.
        progress: show a bar.

    Raises:
        ValueError: a setting is out of range, or ``root`` holds something else.
    """
    settings = _Settings(frame_size, float(motion), seed, full_size_clips)
    if workers is not None and workers < 1:
        raise ValueError(f"workers: got {workers}, expected at least 1")
    jobs = workers or len(os.sched_getaffinity(0))
    write_once(
        Path(root), settings.marker(), lambda folder: _write(folder, settings, jobs, progress)
    )


def write_once(root: Path, marker: str, write: Callable[[Path], None]) -> None:
    """Make a folder of data, whole or not at all; one that is there already is left as it is.

    Args:
        root: folder to make.
        marker: all that decides what is in it; kept there as :data:`MARKER`.
        write: fills the folder that it is given.

    Raises:
        ValueError: ``root`` holds something else.
    """
    root = root.absolute()
    if _is_finished(root, marker):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}-{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir()
        write(unfinished)
        (unfinished / MARKER).write_text(marker, encoding="utf-8")
        try:
            os.replace(unfinished, root)
        except OSError:
            # Another process may have finished the same data set in the meantime.
            if not _is_finished(root, marker):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _log.info("wrote the built-in data set to %s", root)


def write_frame(path: Path, frame: npt.NDArray[np.uint8]) -> None:
    """Write a frame as JPEG."""
    encoded, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise RuntimeError(f"OpenCV cannot encode a frame of {frame.shape}")
    # Not data.tofile(): it does not notice a full disk.
    path.write_bytes(data.tobytes())


def _is_finished(root: Path, marker: str) -> bool:
    """Whether ``root`` holds the data set already; an error if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    path = root / MARKER
    if not path.is_file():
        raise ValueError(
            f"root: {root} exists and is not the built-in data set; choose another folder"
        )
    if path.read_text(encoding="utf-8") != marker:
        raise ValueError(
            f"root: {root} holds the built-in data set with other settings (see {path}); "
            "delete it or choose another folder"
        )
    return True


def _write(root: Path, settings: _Settings, workers: int, progress: bool) -> None:
    planned = synthetic_table.plan(settings.seed)
    synthetic_table.write_workbook(root / synthetic_table.WORKBOOK, planned)
    full_size = planned[: settings.full_size_clips]
    people = cast(settings.seed, [row.clip for row in planned])
    jobs = [
        (people[subject], size, [row for row in rows if row.clip.subject == subject])
        for size, rows in (
            (FULL_SIZE, full_size),
            (settings.frame_size, planned[len(full_size) :]),
        )
        for subject in people
    ]
    # The longest first, so that no thread is left alone with a long one at the end.
    jobs.sort(key=lambda job: -job[1][0] * job[1][1] * len(job[2]))
    with (
        ThreadPoolExecutor(workers) as pool,
        bar("drawing clips", len(planned), "clip", hidden=not progress) as drawn,
    ):
        tasks = [pool.submit(_write_subject, root, settings, *job) for job in jobs]
        try:
            for task in as_completed(tasks):
                drawn.update(task.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_subject(
    root: Path,
    settings: _Settings,
    looks: list[int],
    size: tuple[int, int],
    rows: list[PlannedClip],
) -> int:
    """Write some clips of one person, and return how many."""
    if not rows:
        return 0
    person = Person(size, looks)
    for row in rows:
        clip = row.clip
        folder = root / clip.subject / clip.name
        folder.mkdir(parents=True)
        course = Course(
            frames=clip.offset - clip.onset + 1,
            apex=clip.apex - clip.onset,
            expression=row.expression,
            strength=settings.motion * row.strength,
            blink=row.blink,
            glance=row.glance,
            head_movement=row.head_movement,
        )
        # A seed that names the clip: nothing may depend on the order of work.
        film = person.film(course, [settings.seed, 3, *map(int, clip.name.split("_"))])
        for number, frame in enumerate(film, start=clip.onset):
            write_frame(folder / f"{clip.subject}_{number:0{row.digits}d}.jpg", frame)
    return len(rows)

"""A data set in memory: clips, the frames that stand for them, what was wrong with them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm import cache, faces
from memx_fast.samm import frames as image_files
from memx_fast.samm.annotations import Clip, Defect, refuse
from memx_fast.samm.formats import open_format
from memx_fast.samm.progress import bar
from memx_fast.samm.sampling import sample

_VERSION = 2
"""Part of every cache key: to be raised whenever the same files and settings give other frames."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipSet:
    """Clips with their frames.

    Attributes:
        clips: N annotations, in the order of the workbook.
        frames: uint8 (N, T, C, H, W), values 0 to 255, time ascending; C is 1 (grey) or 3 (red,
            green, blue).
        defects: everything found wrong with the data, those clips included that were left out.
    """

    clips: list[Clip]
    frames: npt.NDArray[np.uint8]
    defects: list[Defect]

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Settings:
    """All that decides, beside the files, what the frames look like."""

    size: int
    frames: int
    channels: int
    crop: bool

    def __post_init__(self) -> None:
        for name, least in (("size", 8), ("frames", 3)):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"{name}: got {value!r}, expected a whole number")
            if value < least:
                raise ValueError(f"{name}: got {value}, expected at least {least}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels: got {self.channels!r}, expected 1 (grey) or 3 (colour)")


def load(
    root: str | os.PathLike[str],
    *,
    size: int = 90,
    frames: int = 9,
    channels: int = 1,
    crop: bool = True,
    strict: bool = False,
    dataset: str | None = None,
    workbook: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> ClipSet:
    """Read a data set in one of the formats of :data:`memx_fast.samm.formats.FORMATS`.

    The frames that :func:`memx_fast.samm.sampling.sample` chooses from each clip are decoded,
    cropped to one square box around the face, and resized.

    Defects in the data are logged, repaired by the rules of
    :meth:`memx_fast.samm.formats.Format.read` and :func:`memx_fast.samm.frames.read`, and never
    stop other clips. One more rule, *no face*: if no face is found in any of the chosen frames, the
    largest square in the middle is used.

    The result is kept in ``cache_dir``; it is used again as long as the workbook's content, the
    names, sizes and times of the frame files, and the settings are the same.

    Args:
        root: folder of the data set.
        size: height and width of the result, pixels.
        frames: frames a clip, at least 3.
        channels: 1 for greys, 3 for red, green, blue.
        crop: False resizes the whole frame instead of the face.
        strict: refuse data with any defect.
        dataset: its format; by default it is recognised by the workbook.
        workbook: the annotations, if they are not directly in ``root`` under their usual name.
        cache_dir: where to keep the result; by default ``$XDG_CACHE_HOME/memx_fast`` or
            ``~/.cache/memx_fast``.
        progress: show a bar while decoding.

    Returns:
        Every clip that could be read.

    Raises:
        FileNotFoundError: ``root`` or its workbook does not exist.
        ValueError: a setting is out of range; or not one clip can be read; or ``strict`` and there
            are defects.
    """
    settings = Settings(size, frames, channels, crop)
    root = Path(root)
    form, book = open_format(root, dataset, None if workbook is None else Path(workbook))
    clips, defects = form.read(root, book, strict=strict)

    entry = Path(cache_dir) if cache_dir is not None else cache.default_folder()
    entry /= f"{form.name}-{_key(book, root, clips, settings)}.frames"
    found = _from_cache(entry)
    if found is None:
        found = _decode(root, clips, settings, progress)
        cache.write(entry, found.frames, _record(found))
    found = ClipSet(found.clips, found.frames, [*defects, *found.defects])

    for defect in found.defects:
        _log.warning("%s", defect)
    if strict:
        refuse(found.defects)
    if not found.clips:
        first = "; ".join(map(str, found.defects[:3]))
        raise ValueError(
            f"root: not one clip of {root} can be read: {first or 'no rows'}; frames of "
            f"{form.title} are expected in {form.layout}"
        )
    return found


def _decode(root: Path, clips: Sequence[Clip], settings: Settings, progress: bool) -> ClipSet:
    """The frames of every clip that can be read, and the defects of the files."""
    detector = faces.Detector() if settings.crop else None
    kept: list[Clip] = []
    stacks: list[npt.NDArray[np.uint8]] = []
    defects: list[Defect] = []
    read = bar("reading clips", len(clips), "clip", hidden=not progress)
    for clip in clips:
        read.update()
        stack, found = read_clip(root, clip, settings, detector)
        defects.extend(found)
        if stack is not None:
            stacks.append(stack)
            kept.append(clip)
    read.close()
    shape = (len(kept), settings.frames, settings.size, settings.size, settings.channels)
    stacked = np.asarray(stacks, dtype=np.uint8).reshape(shape)
    return ClipSet(kept, np.ascontiguousarray(np.moveaxis(stacked, -1, 2)), defects)


def read_clip(
    root: Path, clip: Clip, settings: Settings, detector: faces.Detector | None
) -> tuple[npt.NDArray[np.uint8] | None, list[Defect]]:
    """The chosen frames of one clip, (T, H, W) or (T, H, W, 3), by the rules of :func:`load`.

    Args:
        root: folder of the data set.
        clip: whose frames.
        settings: which frames, and what they look like.
        detector: finds the face; None takes whole frames.

    Returns:
        The frames, or None if the clip is left out; and the defects.
    """
    numbers = sample(clip.onset, clip.apex, clip.offset, settings.frames)
    images, defects = image_files.read(root, clip, numbers, channels=settings.channels)
    if images is None:
        return None, defects
    box = None
    if detector is not None:
        box = detector.find_in_any(images)
        if box is None:
            box = faces.centre(images[0])
            message = f"no face is found in {image_files.folder(root, clip)}"
            repair = "the middle of the frame is used"
            defects.append(Defect(clip.name, "no face", message, repair))
    return np.stack([faces.cut(image, box, settings.size) for image in images]), defects


def _key(book: Path, root: Path, clips: Sequence[Clip], settings: Settings) -> str:
    """Changes whenever the frames might: with the code, the settings, the workbook or a file."""
    digest = hashlib.sha256()
    facts = [_VERSION, cv2.__version__, faces.MARGIN, image_files.REACH, asdict(settings)]
    facts.append(str(root.resolve()))  # messages name files by it
    digest.update(json.dumps(facts).encode())
    digest.update(hashlib.sha256(book.read_bytes()).digest())
    listings = {folder: _listing(folder) for folder in {image_files.folder(root, c) for c in clips}}
    for clip in clips:
        folder = image_files.folder(root, clip)
        digest.update(json.dumps([clip.name, listings[folder]]).encode())
    return digest.hexdigest()[:32]


def _listing(folder: Path) -> list[tuple[str, int, int, int]] | None:
    """Name, size in bytes and times of last change of every file in a folder; None for none."""
    if not folder.is_dir():
        return None
    return sorted(_state(path) for path in folder.iterdir())


def _state(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, for example
        return path.name, -1, 0, 0
    return path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _record(found: ClipSet) -> dict[str, Any]:
    return {
        "clips": [asdict(clip) for clip in found.clips],
        "defects": [asdict(defect) for defect in found.defects],
    }


def _from_cache(entry: Path) -> ClipSet | None:
    stored = cache.read(entry)
    if stored is None:
        return None
    array, record = stored
    return ClipSet(
        [Clip(**fields) for fields in record["clips"]],
        array,
        [Defect(**fields) for fields in record["defects"]],
    )

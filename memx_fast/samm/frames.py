"""The image files of a clip: in SAMM ``<root>/<subject>/<clip>/<subject>_<number>.jpg``.

The number counts the frames of the recording that the clip was cut from, or those of the clip. In
SAMM it is padded with zeros to four digits in some files and to five in others. Names are therefore
never built, only listed and read: the last run of digits in a name is its frame number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm.annotations import LEFT_OUT, Clip, Defect

Image = npt.NDArray[np.uint8]
"""One decoded frame, (H, W) in greys or (H, W, 3) in red, green and blue, values 0 to 255."""

REACH = 3
"""How far away (15 ms at 200 frames a second) another frame may stand in for a missing one."""

_SUFFIXES = (".jpg", ".jpeg", ".bmp", ".png")
_LAST_DIGITS = re.compile(r"(\d+)\D*$")
_FLAGS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB}


def folder(root: Path, clip: Clip) -> Path:
    """Where the frames of a clip are."""
    return root / (clip.folder or f"{clip.subject}/{clip.name}")


def index(path: Path) -> dict[int, Path]:
    """The frames in a folder by their numbers; empty if it has none or does not exist.

    Hidden files and other files than images are passed over. Of two files with the same number
    (padded differently) the first in alphabetical order counts.
    """
    found: dict[int, Path] = {}
    for number, file in _numbered(path):
        found.setdefault(number, file)
    return found


def _numbered(path: Path) -> Iterator[tuple[int, Path]]:
    """The frames in a folder with their numbers, in alphabetical order."""
    if not path.is_dir():
        return
    for file in sorted(path.iterdir()):
        number = _LAST_DIGITS.search(file.stem)
        if not file.name.startswith(".") and file.suffix.lower() in _SUFFIXES and number:
            yield int(number[1]), file


def decode(path: Path, channels: int = 1) -> Image:
    """Read one image file.

    Args:
        path: a file in any format that OpenCV knows; the name may hold any characters.
        channels: 1 for greys, whatever the file stores, or 3 for red, green, blue.

    Returns:
        uint8 (H, W), or (H, W, 3).

    Raises:
        ValueError: ``channels`` is neither, or the file is no whole image.
        OSError: the file cannot be opened.
    """
    if channels not in _FLAGS:
        raise ValueError(f"channels: got {channels}, expected 1 (grey) or 3 (colour)")
    # Not cv2.imread: it cannot open every name on every system, and does not say why it failed.
    encoded = np.fromfile(path, dtype=np.uint8)
    image: Any = cv2.imdecode(encoded, _FLAGS[channels]) if encoded.size else None
    if image is None:
        raise ValueError(f"{path} ({encoded.size} bytes) is no readable image")
    return np.asarray(image, dtype=np.uint8)


def stand_in(number: int, serves: Callable[[int], bool]) -> int | None:
    """The nearest frame that serves instead of a missing one, or None.

    Of two equally near ones the earlier; none further away than :data:`REACH`.

    Args:
        number: of the missing frame.
        serves: whether another frame can be used.
    """
    nearby = [number + side * distance for distance in range(1, REACH + 1) for side in (-1, 1)]
    return next(filter(serves, nearby), None)


def read(
    root: Path, clip: Clip, numbers: list[int], *, channels: int = 1
) -> tuple[list[Image] | None, list[Defect]]:
    """Decode chosen frames of a clip; one that is missing is replaced by its nearest neighbour.

    The rules, by kind of defect:

    - *no frames*: the folder of the clip is missing or holds no frame: the clip is left out.
    - *missing frame*, *unreadable frame*: the nearest readable frame at most :data:`REACH` away (of
      two equally near ones, the earlier) is used; if there is none, the clip is left out.
    - *frame size*: the frames differ in size: the clip is left out.

    Args:
        root: folder of the data set.
        clip: whose frames.
        numbers: frame numbers; may repeat.
        channels: 1 for greys, 3 for red, green, blue.

    Returns:
        One image a number, all of one size, or None if the clip is left out; and the defects.
    """
    return _collect(root, clip, numbers, partial(decode, channels=channels))


def survey(
    root: Path, clip: Clip, numbers: Sequence[int], *, quick: bool
) -> tuple[bool, list[Defect]]:
    """What :func:`read` would say of these frames, without keeping them.

    Args:
        root: folder of the data set.
        clip: whose frames.
        numbers: frame numbers.
        quick: a file that is there counts as readable; otherwise it is decoded.

    Returns:
        Whether the clip is kept, and the defects.
    """
    images, defects = _collect(root, clip, numbers, _listed if quick else _measured)
    return images is not None, defects


def surplus(root: Path, clip: Clip, *, ends: bool) -> list[Defect]:
    """Files in the folder of a clip that should not be there.

    The rules, by kind of defect:

    - *same number*: two files have one number from onset to offset: the first in alphabetical order
      is used.
    - *extra frames*: numbers before the onset or after the offset: they are passed over. They are
      a defect only where the folder should end with the clip.

    Args:
        root: folder of the data set.
        clip: whose folder.
        ends: whether the folder should begin with the onset and end with the offset, see
            :attr:`memx_fast.samm.formats.Format.folder_ends_with_clip`.
    """
    path = folder(root, clip)
    numbered = list(_numbered(path))
    counts = Counter(number for number, _ in numbered)
    defects = [
        Defect(
            clip.name,
            "same number",
            f"{count} files in {path} have the number {number}; keep the right one",
            "the first in alphabetical order is used",
        )
        for number, count in sorted(counts.items())
        if count > 1 and clip.onset <= number <= clip.offset
    ]
    outside = sorted(number for number in counts if not clip.onset <= number <= clip.offset)
    if outside and ends:
        message = (
            f"{len(outside)} frames in {path}, numbers {outside[0]} to {outside[-1]}, are outside "
            f"onset {clip.onset} to offset {clip.offset}; take them away, or correct the row"
        )
        defects.append(Defect(clip.name, "extra frames", message, "they are passed over"))
    return defects


def _collect(
    root: Path, clip: Clip, numbers: Sequence[int], look: Callable[[Path], Image]
) -> tuple[list[Image] | None, list[Defect]]:
    """What ``look`` makes of the file of every number, by the rules of :func:`read`."""
    path = folder(root, clip)
    files = index(path)
    if not files:
        return None, [_no_frames(clip, path)]

    reader = _Reader(clip, path, files, look)
    images = [reader.read(number) for number in numbers]
    whole = [image for image in images if image is not None]
    if len(whole) < len(images):
        return None, reader.defects
    sizes = {image.shape for image in whole}
    if len(sizes) > 1:
        listing = " and ".join(f"{shape[1]}x{shape[0]}" for shape in sorted(sizes))
        message = f"frames in {path} differ in size: {listing}; restore the original files"
        return None, [*reader.defects, Defect(clip.name, "frame size", message, LEFT_OUT)]
    return whole, reader.defects


def _no_frames(clip: Clip, path: Path) -> Defect:
    state = "has no frames" if path.is_dir() else "does not exist"
    message = f"{path} {state}; copy the clip's frames there"
    return Defect(clip.name, "no frames", message, LEFT_OUT)


def _no_frame(clip: Clip, path: Path, number: int, replaced_by: int | None) -> Defect:
    message = f"frame {number} is not in {path}; copy it again"
    return Defect(clip.name, "missing frame", *_replacement(message, replaced_by))


def _replacement(message: str, replaced_by: int | None) -> tuple[str, str]:
    """Message and repair."""
    if replaced_by is None:
        return f"{message} (nor is any frame within {REACH} of it readable)", LEFT_OUT
    return message, f"frame {replaced_by} is used"


def _measured(path: Path) -> Image:
    """As large as the image in a file, and of no weight: all its pixels are one and the same."""
    return np.broadcast_to(np.uint8(0), decode(path).shape)


def _listed(path: Path) -> Image:
    """Stands for a file that is not looked into."""
    return np.zeros((1, 1), np.uint8)


class _Reader:
    """Looks at frames of one clip, at each at most once, and collects what is wrong with them."""

    def __init__(
        self, clip: Clip, path: Path, files: dict[int, Path], look: Callable[[Path], Image]
    ) -> None:
        self.defects: list[Defect] = []
        self._clip = clip
        self._path = path
        self._files = files
        self._look = look
        self._decoded: dict[int, Image | None] = {}
        self._problems: dict[int, Exception] = {}
        self._substitutes: dict[int, Image | None] = {}

    def read(self, number: int) -> Image | None:
        """The frame, or the one that stands in for it; None if there is neither."""
        image = self._decode(number)
        if image is not None:
            return image
        if number not in self._substitutes:
            self._substitutes[number] = self._substitute(number)
        return self._substitutes[number]

    def _decode(self, number: int) -> Image | None:
        if number not in self._decoded:
            try:
                self._decoded[number] = self._look(self._files[number])
            except KeyError:
                self._decoded[number] = None
            except (OSError, ValueError) as error:
                self._decoded[number] = None
                self._problems[number] = error
        return self._decoded[number]

    def _substitute(self, number: int) -> Image | None:
        other = stand_in(number, lambda near: self._decode(near) is not None)
        if number in self._files:
            message = f"{self._files[number]} cannot be read ({self._problems[number]}); restore it"
            replacement = _replacement(message, other)
            self.defects.append(Defect(self._clip.name, "unreadable frame", *replacement))
        else:
            self.defects.append(_no_frame(self._clip, self._path, number, other))
        return None if other is None else self._decoded[other]

"""One clip as numbered frames, decoded one after the other and never held all at once.

A clip is a video file or a folder of image files. The frames of a video are numbered from 0 as they
are decoded, those of a folder as :func:`memx_fast.samm.frames.index` reads their names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from memx_fast.samm import containers
from memx_fast.samm import frames as image_files
from memx_fast.samm.frames import Image

_CONVERT = "convert it, for example with: ffmpeg -i FILE -c:v libx264 -crf 0 NEW.mp4"
_COPY = "copy it again"
_LISTED = 5
"""So many files are named in a message."""

_HIDDEN_SHARE = 0.1
"""Share of the announced frames that a whole file may keep back, because it was trimmed."""


class Film(ABC):
    """A clip that is read from its first frame to its last, as often as is needed.

    Attributes:
        path: the file or folder.
        rate: frames a second as the file says, or None. High-speed video often says the rate at
            which it is to be shown.
        notes: what a reader of results has to know about the files.
    """

    def __init__(self, path: Path, rate: float | None) -> None:
        self.path = path
        self.rate = rate
        self.notes: list[str] = []

    @abstractmethod
    def numbers(self, onset: int | None, offset: int | None) -> Sequence[int]:
        """The frames there are from ``onset`` to ``offset``, ascending; None: from end to end.

        Raises:
            ValueError: ``onset`` or ``offset`` is no frame of the clip; a video has to be read to
                its end and cannot be.
        """

    @abstractmethod
    def read(self, numbers: Sequence[int], channels: int = 1) -> Iterator[tuple[int, Image]]:
        """Decode frames.

        Args:
            numbers: some of :meth:`numbers`, ascending.
            channels: 1 for greys, 3 for red, green, blue.

        Yields:
            A number and its frame, uint8 (H, W) or (H, W, 3), all of one size.

        Raises:
            ValueError: one of them cannot be decoded.
        """

    def closest(self, number: int, there: Sequence[int]) -> int:
        """The frame that is read as frame ``number``: itself, or what stands in for it.

        Raises:
            ValueError: it is not there, nor is any frame near enough.
        """
        if number in there:
            return number
        other = image_files.stand_in(number, there.__contains__)
        if other is None:
            raise ValueError(
                f"video: frame {number} is not in {self.path}, nor is any within "
                f"{image_files.REACH} of it; {_COPY}"
            )
        self.notes.append(f"Frame {number} is missing; frame {other} is used.")
        return other


def open_film(path: Path) -> Film:
    """A video file or a folder of image files.

    Raises:
        FileNotFoundError: there is nothing at ``path``, or a folder without frames.
        ValueError: the file is no video that can be decoded.
    """
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"video: {path} does not exist; expected a video file or a folder of frames"
        )
    return Video(path)


class ImageFolder(Film):
    """A folder of image files, one a frame."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, None)
        self._files = image_files.index(path)
        if not self._files:
            raise FileNotFoundError(
                f"video: {path} holds no frames; expected image files such as frame_0001.jpg"
            )

    def numbers(self, onset: int | None, offset: int | None) -> Sequence[int]:
        """Gaps are left out; onset and offset must be there."""
        everything = sorted(self._files)
        for name, number in (("onset", onset), ("offset", offset)):
            if number is not None and number not in self._files:
                raise ValueError(
                    f"{name}: got {number}, but {self.path} has no frame of that number; its files "
                    f"are numbered from {everything[0]} to {everything[-1]}"
                )
        first = everything[0] if onset is None else onset
        last = everything[-1] if offset is None else offset
        return [number for number in everything if first <= number <= last]

    def read(self, numbers: Sequence[int], channels: int = 1) -> Iterator[tuple[int, Image]]:
        """Every file is decoded for itself."""
        size = None
        for place, number in enumerate(numbers):
            try:
                image = image_files.decode(self._files[number], channels)
            except (OSError, ValueError):
                self._refuse(numbers[place:])
            size = size or image.shape
            if image.shape != size:
                raise ValueError(
                    f"video: {self._files[number]} has {image.shape[1]}x{image.shape[0]} pixels, "
                    f"the frames before it {size[1]}x{size[0]}; restore the original files"
                )
            yield number, image

    def _refuse(self, numbers: Sequence[int]) -> None:
        """Name all files that cannot be read; the first one is known not to be."""
        unreadable = []
        for number in numbers:
            try:
                image_files.decode(self._files[number])
            except (OSError, ValueError):
                unreadable.append(self._files[number].name)
        more = f" and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        raise ValueError(
            f"video: {len(unreadable)} of the frames in {self.path} cannot be read: "
            f"{', '.join(unreadable[:_LISTED])}{more}; restore them, or take them away"
        )


class Video(Film):
    """A video file, decoded by the FFmpeg inside OpenCV; rotated as the file asks for."""

    def __init__(self, path: Path) -> None:
        self._count: int | None = None
        with self._decoder(path) as decoder:
            rate = decoder.get(cv2.CAP_PROP_FPS)
            self._announced = max(0, round(decoder.get(cv2.CAP_PROP_FRAME_COUNT)))
            if not decoder.grab():
                raise ValueError(f"video: {path} holds no frame that can be decoded; {_CONVERT}")
        super().__init__(path, rate if 0 < rate < float("inf") else None)

    def numbers(self, onset: int | None, offset: int | None) -> Sequence[int]:
        """With an offset it is taken for granted, until :meth:`read` finds that it is not there."""
        first = 0 if onset is None else onset
        if first < 0 or (offset is not None and offset < first):
            raise ValueError(
                f"onset, offset: got {onset} and {offset}, expected frames counted from 0, the "
                "onset first"
            )
        if offset is None:
            offset = self._read_to_the_end() - 1
            if first > offset:
                raise ValueError(
                    f"onset: got {onset}, but the frames of {self.path} are 0 to {offset}"
                )
        return range(first, offset + 1)

    def read(self, numbers: Sequence[int], channels: int = 1) -> Iterator[tuple[int, Image]]:
        """Frames between those asked for are decoded as well, because others build on them."""
        to = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
        with self._decoder(self.path) as decoder:
            place = -1
            for number in numbers:
                while place < number:
                    if not decoder.grab():
                        self._refuse_end(place + 1, number)
                    place += 1
                decoded, image = decoder.retrieve()
                if not decoded:
                    raise ValueError(f"video: frame {number} of {self.path} cannot be decoded")
                yield number, np.asarray(cv2.cvtColor(image, to), dtype=np.uint8)

    def _read_to_the_end(self) -> int:
        """Number of frames, counted: what the file announces is often an estimate."""
        if self._count is None:
            with self._decoder(self.path) as decoder:
                count = 0
                while decoder.grab():
                    count += 1
            hidden = self._announced - count
            if containers.missing_bytes(self.path) or hidden > _HIDDEN_SHARE * self._announced:
                self._refuse_end(count, None)
            if hidden > 0:
                self.notes.append(
                    f"The file announces {self._announced} frames, of which {count} are shown."
                )
            self._count = count
        return self._count

    def _refuse_end(self, count: int, wanted: int | None) -> None:
        """Say why there are only ``count`` frames where frame ``wanted``, or all, are needed."""
        found = f"{self.path} ends after {count} of {self._announced} frames"
        remedy = f"or give an offset of at most {count - 1}, if the frames up to there will do"
        missing = containers.missing_bytes(self.path)
        if missing:
            raise ValueError(
                f"video: {found}: it is cut short, {missing:,} bytes or more are missing; {_COPY}, "
                f"{remedy}"
            )
        if count < (1 - _HIDDEN_SHARE) * self._announced:
            raise ValueError(
                f"video: {found}: it is damaged, or was trimmed in place; {_COPY}, {_CONVERT}, "
                f"{remedy}"
            )
        raise ValueError(
            f"video: got frame {wanted}, but the frames of {self.path} are 0 to {count - 1}"
        )

    @contextmanager
    def _decoder(self, path: Path) -> Iterator[Any]:
        """From the first frame on."""
        # Only FFmpeg: other readers of OpenCV take names with digits for series of files.
        decoder = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        try:
            if not decoder.isOpened():
                raise ValueError(f"video: {path} {_why_not(path)}")
            yield decoder
        finally:
            decoder.release()


def _why_not(path: Path) -> str:
    """What keeps a file from being opened, and what can be done."""
    size = path.stat().st_size
    kind = containers.recognised(path)
    missing = containers.missing_bytes(path)
    if missing:
        return f"is cut short: {missing:,} bytes or more are missing after {size:,}; {_COPY}"
    if kind is None:
        return (
            f"({size:,} bytes) is no video of a kind that is known here; expected a file such as "
            f"MP4, MOV, AVI, MKV; {_CONVERT}"
        )
    return (
        f"is an {kind} file, but OpenCV {cv2.__version__} knows no codec for what is in it, or it "
        f"is damaged; {_CONVERT}"
    )

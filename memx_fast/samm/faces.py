"""Where the face is: one square box a clip, so that cropping adds no motion of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from memx_fast.samm.frames import Image

MARGIN = 0.05
"""Added on each side of a detected face, as a share of its side."""

_DETECTION_HEIGHT = 360
"""Frames are shrunk to this height for detection, whose time grows with their area."""

_SMALLEST_FACE = 0.2
"""Smallest face looked for, as a share of the shorter side of the frame."""


@dataclass(frozen=True)
class Box:
    """A square of pixels, wholly inside its image.

    Attributes:
        left: first column.
        top: first row.
        side: columns and rows.
    """

    left: int
    top: int
    side: int


@dataclass(frozen=True)
class Finding:
    """A face, or what looks like one.

    Attributes:
        box: around it, with :data:`MARGIN`.
        certainty: of the detector; the larger the surer.
    """

    box: Box
    certainty: float


class Detector:
    """Finds frontal faces, with the Haar cascade that is part of the OpenCV package."""

    def __init__(self) -> None:
        model = Path(cv2.__file__).with_name("data") / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(model))
        if self._cascade.empty():
            raise RuntimeError(
                f"OpenCV {cv2.__version__} cannot load its face detector {model}; "
                "install opencv-contrib-python-headless>=4.13,<5"
            )

    def find(self, image: Image) -> Box | None:
        """The face the detector is surest of, or None.

        Not the largest: hair and shadows now and then look like a faint, larger face. See
        :meth:`find_all`.
        """
        found = self.find_all(image)
        return max(found, key=lambda finding: finding.certainty).box if found else None

    def find_all(self, image: Image) -> list[Finding]:
        """Every face, and whatever looks like one.

        Args:
            image: uint8 (H, W), or (H, W, 3) in red, green, blue.

        Returns:
            Boxes inside the image: one that would reach over an edge is moved inwards.
        """
        grey: Any = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, _DETECTION_HEIGHT / grey.shape[0])
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = round(min(grey.shape) * _SMALLEST_FACE)
        faces, _, certainties = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=1.1,
            minNeighbors=4,
            minSize=(smallest, smallest),
            outputRejectLevels=True,
        )
        boxes = (around((face / scale).tolist(), image, MARGIN) for face in np.asarray(faces))
        return [
            Finding(box, float(certainty))
            for box, certainty in zip(boxes, certainties, strict=True)
        ]

    def find_in_any(self, images: Sequence[Image]) -> Box | None:
        """The face in the first of several images in which one is found, or None."""
        return next((box for box in map(self.find, images) if box is not None), None)


def centre(image: Image) -> Box:
    """The largest square in the middle of an image."""
    height, width = image.shape[:2]
    return _square(width / 2, height / 2, min(height, width), image)


def around(rectangle: Sequence[float], image: Image, margin: float = 0.0) -> Box:
    """The square around a rectangle, shrunk to what the image can hold and moved inside.

    Args:
        rectangle: left, top, width and height, pixels.
        image: what it is a part of.
        margin: so much more on each side, as a share of the longer side.
    """
    left, top, width, height = rectangle
    side = max(width, height) * (1 + 2 * margin)
    return _square(left + width / 2, top + height / 2, side, image)


def overlap(one: Box, other: Box) -> float:
    """Area that two boxes share, as a share of the area that either covers: 0 to 1."""
    width = min(one.left + one.side, other.left + other.side) - max(one.left, other.left)
    height = min(one.top + one.side, other.top + other.side) - max(one.top, other.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (one.side**2 + other.side**2 - shared)


def _square(x: float, y: float, side: float, image: Image) -> Box:
    """The square around (x, y), shrunk to what the image can hold and moved inside."""
    height, width = image.shape[:2]
    whole_side = min(round(side), height, width)
    left = min(max(round(x - whole_side / 2), 0), width - whole_side)
    top = min(max(round(y - whole_side / 2), 0), height - whole_side)
    return Box(left, top, whole_side)


def cut(image: Image, box: Box | None, size: int) -> Image:
    """Resize a part of an image, or all of it, to a square.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        box: the part; None for the whole image, whose sides then change their proportion.
        size: columns and rows of the result.

    Returns:
        uint8 (size, size) or (size, size, 3).
    """
    if box is not None:
        image = image[box.top : box.top + box.side, box.left : box.left + box.side]
    # Averaging keeps fine detail from turning into false patterns, but makes steps when enlarging.
    shrinks = min(image.shape[:2]) >= size
    resized = cv2.resize(
        image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(resized, dtype=np.uint8)

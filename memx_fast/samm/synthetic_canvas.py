"""Drawing in greys with soft edges, in the coordinates of a face."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Point = tuple[float, float]

_SUBPIXEL_BITS = 4


class Canvas:
    """A grey image (float32, 0 to 255) that is drawn on in face units.

    Attributes:
        image: (height, width).
        scale: pixels a face unit.
        origin: column and row of the middle of the face.
    """

    def __init__(self, image: Floats, scale: float, origin: Point) -> None:
        self.image = image
        self.scale = scale
        self.origin = origin

    def grid(self) -> tuple[Floats, Floats]:
        """x (1, width) and y (height, 1) of every pixel."""
        height, width = self.image.shape
        x = (np.arange(width, dtype=np.float32) - self.origin[0]) / self.scale
        y = (np.arange(height, dtype=np.float32) - self.origin[1]) / self.scale
        return x[None, :], y[:, None]

    def polygon(self, points: Sequence[Point] | Floats, softness: float = 0.0) -> Floats:
        """How much of each pixel a polygon covers, 0 to 1, its edge blurred over ``softness``."""
        mask = np.zeros(self.image.shape, np.uint8)
        cv2.fillPoly(mask, [self._pixels(points)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._softened(mask, softness)

    def stroke(
        self, points: Sequence[Point] | Floats, width: float, softness: float = 0.0
    ) -> Floats:
        """How much of each pixel an open line covers, 0 to 1."""
        mask = np.zeros(self.image.shape, np.uint8)
        thickness = max(1, round(width * self.scale))
        pixels = [self._pixels(points)]
        cv2.polylines(mask, pixels, False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._softened(mask, softness)

    def blob(self, x: float, y: float, width: float, height: float) -> Floats:
        """A bell of height 1 around (x, y) with standard deviations ``width`` and ``height``."""
        columns, rows = self.grid()
        across = np.exp(-0.5 * ((columns - x) / width) ** 2)
        down = np.exp(-0.5 * ((rows - y) / height) ** 2)
        return np.asarray(across * down, dtype=np.float32)

    def paint(self, mask: Floats, value: float | Floats, opacity: float = 1.0) -> None:
        """Cover with a shade where ``mask`` says, as much as it says."""
        self.image += (value - self.image) * (mask * opacity)

    def shade(self, mask: Floats, gain: float) -> None:
        """Brighten (``gain`` > 0) or darken by a share of what is there."""
        self.image *= 1 + gain * mask

    def _pixels(self, points: Sequence[Point] | Floats) -> npt.NDArray[np.int32]:
        placed = np.asarray(points, dtype=np.float64) * self.scale + self.origin
        return np.rint(placed * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def _softened(self, mask: npt.NDArray[np.uint8], softness: float) -> Floats:
        covered: Floats = mask.astype(np.float32) / np.float32(255)
        if softness > 0:
            blurred = cv2.GaussianBlur(covered, (0, 0), softness * self.scale)
            covered = np.asarray(blurred, dtype=np.float32)
        return covered

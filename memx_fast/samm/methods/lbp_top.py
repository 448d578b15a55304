"""LBP-TOP: histograms of local binary patterns on three orthogonal planes, and a linear SVM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_svm import SvmMethod, SvmSettings, face_blocks
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.training import check_count

_PLANES = (("x", "y"), ("x", "t"), ("y", "t"))
_AXES = {"t": 0, "y": 1, "x": 2}
_ROUNDING = 1e-6
"""By how much an interpolated grey may fall short of the centre's and still count as equal."""


@dataclass(frozen=True)
class Settings(SvmSettings):
    """Of the patterns, beside those of the support vector machine.

    Attributes:
        size: height and width of the frames, pixels.
        frames: a clip.
        blocks: the face is cut into so many rows and columns of blocks.
        radius_x: of the circle of neighbours, pixels.
        radius_y: the same.
        radius_t: frames.
        neighbours: on the circle, 4 or 8: 16 or 256 patterns.
    """

    size: int = 128
    frames: int = 10
    blocks: int = 5
    radius_x: int = 1
    radius_y: int = 1
    radius_t: int = 4
    neighbours: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blocks", "radius_x", "radius_y", "radius_t"):
            check_count(name, getattr(self, name))
        if self.neighbours not in (4, 8):
            raise ValueError(f"neighbours: got {self.neighbours!r}, expected 4 or 8")
        if self.frames <= 2 * self.radius_t:
            raise ValueError(
                f"frames: got {self.frames}, expected more than {2 * self.radius_t} for a radius_t "
                f"of {self.radius_t}"
            )


class LbpTop(SvmMethod):
    """Zhao and Pietikainen (2007): what each pixel looks like against a circle of neighbours.

    A neighbour at least as bright as the centre sets its bit. Neighbour k of P is at the angle
    2 pi k / P in each of the planes xy, xt and yt, and is interpolated bilinearly. Each block has
    one histogram a plane, over the centres whose neighbours are all in the clip, of sum 1.
    """

    name = "lbp-top"
    title = "LBP-TOP + SVM"
    source = "[11] of the paper; patterns and radii as the DSSN authors' baseline on SAMM"
    deviations = (
        "The ten frames are frames of the clip, onset, apex and offset among them, not "
        "interpolated by TIM; no motion is magnified.",
        "C of the SVM is chosen on the validation clips.",
    )
    Settings = Settings

    @property
    def input(self) -> Input:
        """Ten grey frames."""
        return Input(self.settings.size, self.settings.frames)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """Histograms (N, 3 * blocks * blocks * 2 ** neighbours), planes first, then blocks."""
        return torch.stack([torch.from_numpy(self._histograms(clip)) for clip in frames.numpy()])

    def _histograms(self, clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        settings = self.settings
        radii = (settings.radius_t, settings.radius_y, settings.radius_x)
        cube = clip[:, 0]
        histograms = []
        for first, second in _PLANES:
            codes = patterns(cube, (_AXES[first], _AXES[second]), radii, settings.neighbours)
            histograms += block_histograms(codes, settings.blocks, 2**settings.neighbours)
        return np.concatenate(histograms).astype(np.float32)


def patterns(
    cube: npt.NDArray[np.uint8], plane: tuple[int, int], radii: Sequence[int], neighbours: int
) -> Integers:
    """Local binary patterns on one plane through every centre.

    Args:
        cube: greys (T, H, W).
        plane: the two axes of the circle; the first is that of the cosine.
        radii: along the axes t, y, x; centres keep that far from the borders.
        neighbours: on the circle.

    Returns:
        Codes (T - 2 radius_t, H - 2 radius_y, W - 2 radius_x).
    """
    greys = cube.astype(np.float64)
    centre = _shifted(greys, (0, 0, 0), radii)
    codes = np.zeros(centre.shape, dtype=np.int64)
    for bit in range(neighbours):
        angle = 2 * math.pi * bit / neighbours
        offset = [0.0, 0.0, 0.0]
        offset[plane[0]] = radii[plane[0]] * math.cos(angle)
        offset[plane[1]] = radii[plane[1]] * math.sin(angle)
        codes |= (_interpolated(greys, offset, radii) >= centre - _ROUNDING).astype(np.int64) << bit
    return codes


def block_histograms(codes: Integers, blocks: int, patterns: int) -> list[npt.NDArray[np.float64]]:
    """Shares of every pattern in each block of (T, H, W) codes, row by row of blocks."""
    return [
        np.bincount(block.ravel(), minlength=patterns) / max(block.size, 1)
        for block in face_blocks(codes, blocks)
    ]


def _interpolated(
    greys: npt.NDArray[np.float64], offset: Sequence[float], radii: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Greys at all centres plus an offset, interpolated linearly along every axis."""
    lower = [math.floor(value + _ROUNDING) for value in offset]
    shares = [max(value - low, 0.0) for value, low in zip(offset, lower, strict=True)]
    result = np.zeros(tuple(n - 2 * r for n, r in zip(greys.shape, radii, strict=True)))
    for corner in product((0, 1), repeat=3):
        weight = math.prod(
            share if step else 1 - share for step, share in zip(corner, shares, strict=True)
        )
        if weight > _ROUNDING:
            steps = [low + step for low, step in zip(lower, corner, strict=True)]
            result += weight * _shifted(greys, steps, radii)
    return result


def _shifted(
    greys: npt.NDArray[np.float64], steps: Sequence[int], radii: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Greys at all centres plus a whole offset."""
    cuts = tuple(
        slice(radius + step, length - radius + step)
        for length, radius, step in zip(greys.shape, radii, steps, strict=True)
    )
    return greys[cuts]

"""Clips of a drawn person: face, eyes and head move, and the sensor is noisy.

Only the movement of the muscles has to do with the emotion. Everything else is drawn by chance,
from a stream of random numbers that does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm.synthetic_canvas import Canvas, Floats, Point
from memx_fast.samm.synthetic_identity import (
    Identity,
    Light,
    draw_face,
    draw_identity,
    draw_light,
)
from memx_fast.samm.synthetic_muscles import Expression, contract

_FACE_SHARE = 0.27
"""Pixels of a face unit, as a share of the shorter side of the frame."""

_BORDER = 0.12
"""How much further than the frame the drawing of a person reaches on each side, as a share."""

_DETAIL = 2
"""Eyes and mouth are drawn so many times larger and shrunk, so that edges move smoothly."""

_BLINK_FRAMES = (30, 50)
"""Shortest and longest blink: 150 to 250 ms."""

_NOISE = 2.0
"""Standard deviation of the noise of the sensor, greys."""


@dataclass(frozen=True)
class Pose:
    """How a face lies in the frame: its middle (face units off the frame's), size and tilt."""

    x: float
    y: float
    size: float
    tilt: float


@dataclass(frozen=True)
class Course:
    """The outline of one clip.

    Attributes:
        frames: how many.
        apex: index of the strongest frame.
        expression: which actions.
        strength: of the movement at the apex; 0 leaves the face at rest.
        blink: whether the eyes close and open during the clip.
        glance: whether they look elsewhere.
        head_movement: whether the head moves more than it always does.
    """

    frames: int
    apex: int
    expression: Expression
    strength: float
    blink: bool
    glance: bool
    head_movement: bool


@dataclass(frozen=True)
class _Features:
    """State of eyes and mouth.

    Attributes:
        opening: of the eyes; 1 at rest, 0 shut.
        gaze: where the irises are, off the middle of the eyes, face units.
        gap: between the lips, face units.
        thickness: of the lips; 1 at rest.
    """

    opening: float
    gaze: Point
    gap: float
    thickness: float


class Person:
    """A drawn participant, in one frame size.

    Attributes:
        identity: what the person looks like.
    """

    def __init__(self, frame_size: tuple[int, int], seed: list[int]) -> None:
        """Draw a person.

        Args:
            frame_size: width and height of the frames, pixels.
            seed: decides everything about the person; the frame size only how finely it is drawn.
        """
        self._frame_size = frame_size
        random = np.random.default_rng(seed)
        self.identity: Identity = draw_identity(random)
        self._light: Light = draw_light(random)
        self._pose = Pose(
            x=float(random.uniform(-0.2, 0.2)),
            y=float(random.uniform(0.05, 0.15)),
            size=float(random.uniform(0.9, 1.08)),
            tilt=float(random.uniform(-0.06, 0.06)),
        )
        width, height = frame_size
        border_x, border_y = round(width * _BORDER), round(height * _BORDER)
        blank = np.zeros((height + 2 * border_y, width + 2 * border_x), np.float32)
        origin = (blank.shape[1] / 2, blank.shape[0] / 2)
        self._canvas = Canvas(blank, min(width, height) * _FACE_SHARE, origin)
        draw_face(self._canvas, self.identity, self._light, random)

    def portrait(self) -> npt.NDArray[np.uint8]:
        """The person at rest, without noise: grey, (height, width)."""
        drawing = self._drawing(_Features(opening=1.0, gaze=(0.0, 0.0), gap=0.0, thickness=1.0))
        columns, rows = self._source(self._pose)
        return _developed(_photograph(drawing, columns, rows) * np.float32(self._light.gain))

    def film(self, course: Course, seed: list[int]) -> Iterator[npt.NDArray[np.uint8]]:
        """The frames of one clip, grey, (height, width).

        Args:
            course: what happens.
            seed: decides what happens by chance.
        """
        random = np.random.default_rng(seed)
        nudge_x, nudge_y = random.normal(0, 0.02, 2)
        pose = replace(self._pose, x=self._pose.x + nudge_x, y=self._pose.y + nudge_y)
        poses = _drift(pose, course, random)
        strengths = _rise_and_fall(course, random)
        openings = _blink(course, random)
        gazes = _gaze(course, random)
        gain = np.float32(self._light.gain * random.uniform(0.97, 1.03))

        columns, rows = self._source(pose)
        scale, (middle_column, middle_row) = self._canvas.scale, self._canvas.origin
        movement = contract(
            course.expression,
            course.strength,
            self.identity,
            (columns - middle_column) / scale,
            (rows - middle_row) / scale,
        )
        shift_columns, shift_rows = movement.right * scale, movement.down * scale
        features, drawing = None, self._canvas.image
        for index, strength in enumerate(strengths.astype(np.float32)):
            wanted = _Features(
                opening=max(0.0, _stepped((1 + strength * movement.lids) * openings[index], 0.025)),
                gaze=(_stepped(gazes[index][0], 0.002), _stepped(gazes[index][1], 0.002)),
                gap=_stepped(strength * movement.lips, 0.002),
                thickness=_stepped(1 + strength * movement.thickness, 0.025),
            )
            if wanted != features:
                features, drawing = wanted, self._drawing(wanted)
            columns, rows = self._source(poses[index])
            columns -= strength * shift_columns
            rows -= strength * shift_rows
            frame = _photograph(drawing, columns, rows)
            frame *= gain + (gain * strength) * movement.shade
            frame += _NOISE * random.standard_normal(frame.shape, dtype=np.float32)
            yield _developed(frame)

    def _source(self, pose: Pose) -> tuple[Floats, Floats]:
        """Column and row of the drawing that each pixel of the frame shows, (height, width)."""
        width, height = self._frame_size
        scale, (middle_column, middle_row) = self._canvas.scale, self._canvas.origin
        across = np.arange(width) - width / 2 - pose.x * scale
        down = np.arange(height) - height / 2 - pose.y * scale
        cosine, sine = np.cos(pose.tilt) / pose.size, np.sin(pose.tilt) / pose.size
        columns = np.add.outer(
            (sine * down + middle_column).astype(np.float32), (cosine * across).astype(np.float32)
        )
        rows = np.add.outer(
            (cosine * down + middle_row).astype(np.float32), (-sine * across).astype(np.float32)
        )
        return columns, rows

    def _drawing(self, features: _Features) -> Floats:
        """The person with eyes and mouth."""
        drawing = self._canvas.image.copy()
        self._draw_eyes(drawing, features.opening, features.gaze)
        self._draw_mouth(drawing, features.gap, features.thickness)
        return drawing

    def _draw_eyes(self, drawing: Floats, opening: float, gaze: Point) -> None:
        face = self.identity
        for side in (-1, 1):
            middle = (side * face.eye_x, face.eye_y)
            patch = self._open_patch(drawing, middle, (face.eye_width * 1.35, 0.2))
            _draw_eye(patch, face, opening, gaze, side)
            self._close_patch(drawing, patch, middle)

    def _draw_mouth(self, drawing: Floats, gap: float, thickness: float) -> None:
        face = self.identity
        middle = (0.0, face.mouth_y)
        patch = self._open_patch(drawing, middle, (face.mouth_width * 1.3, 0.26))
        _draw_lips(patch, face, gap, thickness)
        self._close_patch(drawing, patch, middle)

    def _corner(self, middle: Point, patch_width: int, patch_height: int) -> tuple[int, int]:
        """First column and row of a patch around a point of the face."""
        column = self._canvas.origin[0] + middle[0] * self._canvas.scale - patch_width / 2
        row = self._canvas.origin[1] + middle[1] * self._canvas.scale - patch_height / 2
        return round(column), round(row)

    def _open_patch(self, drawing: Floats, middle: Point, half: Point) -> Canvas:
        """A magnified copy of a part of the drawing, with its origin at the middle of the part."""
        scale = self._canvas.scale
        width, height = round(2 * half[0] * scale), round(2 * half[1] * scale)
        left, top = self._corner(middle, width, height)
        part = drawing[top : top + height, left : left + width]
        size = (width * _DETAIL, height * _DETAIL)
        origin = (
            (self._canvas.origin[0] + middle[0] * scale - left + 0.5) * _DETAIL - 0.5,
            (self._canvas.origin[1] + middle[1] * scale - top + 0.5) * _DETAIL - 0.5,
        )
        magnified = np.asarray(cv2.resize(part, size), dtype=np.float32)
        return Canvas(magnified, scale * _DETAIL, origin)

    def _close_patch(self, drawing: Floats, patch: Canvas, middle: Point) -> None:
        height, width = (side // _DETAIL for side in patch.image.shape)
        left, top = self._corner(middle, width, height)
        part = cv2.resize(patch.image, (width, height), interpolation=cv2.INTER_AREA)
        drawing[top : top + height, left : left + width] = part


def _stepped(value: float, step: float) -> float:
    """Rounded to steps too small to see: most frames then share the drawing of the one before."""
    return round(float(value) / step) * step


def _photograph(drawing: Floats, columns: Floats, rows: Floats) -> Floats:
    seen = cv2.remap(drawing, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, dtype=np.float32)


def _developed(frame: Floats) -> npt.NDArray[np.uint8]:
    """Rounded to whole greys, 0 to 255."""
    return np.clip(np.rint(frame, out=frame), 0, 255, out=frame).astype(np.uint8)


def _draw_eye(patch: Canvas, face: Identity, opening: float, gaze: Point, side: int) -> None:
    along = np.linspace(-1, 1, 17)
    arch = 1 - along**2
    upper_y = -1.15 * face.eye_height * opening * arch - 0.012 * side * along
    lower_y = 0.75 * face.eye_height * min(1.0, 0.35 + 0.65 * opening) * arch
    # A closed upper lid rests on the lower one, so the two never cross.
    upper_y = np.minimum(upper_y + (1 - min(opening, 1)) * lower_y, lower_y)
    x = face.eye_width * along
    upper, lower = np.stack([x, upper_y], axis=1), np.stack([x, lower_y], axis=1)
    opened = patch.polygon(np.concatenate([upper, lower[::-1]]).astype(np.float32))
    patch.paint(opened, min(face.skin * 1.15, 225))
    radius = face.eye_height * 1.12
    for share, value in ((1.0, face.iris), (0.45, 12.0)):
        disc = _disc(gaze[0], gaze[1], radius * share)
        patch.paint(patch.polygon(disc) * opened, value)
    glint = _disc(gaze[0] + 0.02, gaze[1] - 0.025, radius * 0.16)
    patch.paint(patch.polygon(glint) * opened, 235.0)
    patch.paint(patch.stroke(upper.astype(np.float32), 0.022), face.skin * 0.25, 0.9)
    patch.paint(patch.stroke(lower.astype(np.float32), 0.01), face.skin * 0.5, 0.5)
    crease = np.stack([x, upper_y - 0.05 - 0.02 * arch], axis=1).astype(np.float32)
    patch.shade(patch.stroke(crease, 0.014), -0.25)


def _draw_lips(patch: Canvas, face: Identity, gap: float, thickness: float) -> None:
    along = np.linspace(-1, 1, 25)
    x = face.mouth_width * along
    arch = 1 - along**2
    full = face.lip_thickness * thickness
    bow = 1 - 0.25 * np.exp(-((along / 0.16) ** 2))
    seam = 0.012 * np.cos(np.pi * along)
    inner_upper, inner_lower = seam - 0.35 * gap * arch, seam + 0.65 * gap * arch
    outer_upper = inner_upper - 0.85 * full * arch**0.8 * bow
    outer_lower = inner_lower + 1.15 * full * arch**0.7

    def between(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> Floats:
        there, back = np.stack([x, first], axis=1), np.stack([x, second], axis=1)[::-1]
        return patch.polygon(np.concatenate([there, back]).astype(np.float32), 0.006)

    patch.shade(between(outer_upper, inner_upper), -0.32)
    patch.shade(between(inner_lower, outer_lower), -0.2)
    patch.paint(between(inner_upper, inner_lower), 25.0)
    line = np.stack([x, (inner_upper + inner_lower) / 2], axis=1).astype(np.float32)
    patch.paint(patch.stroke(line, 0.016, 0.005), face.skin * 0.3, 0.85)


def _disc(x: float, y: float, radius: float) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    return points.astype(np.float32)


def _smooth_step(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    clipped = np.clip(share, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def _rise_and_fall(course: Course, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """0 at the first frame, 1 at the apex; at the last frame a part of the movement is left."""
    rest = random.uniform(0.2, 0.4)
    index = np.arange(course.frames, dtype=np.float64)
    last = course.frames - 1
    rise = _smooth_step(index / max(course.apex, 1))
    fall = 1 - (1 - rest) * _smooth_step((index - course.apex) / max(last - course.apex, 1))
    return np.where(index <= course.apex, rise, fall)


def _drift(pose: Pose, course: Course, random: np.random.Generator) -> list[Pose]:
    """A head never keeps still: a slow sway, stronger where the clip says so."""
    size = 0.05 if course.head_movement else 0.012
    share = np.linspace(0, 1, course.frames)
    swing = np.sin(2 * np.pi * (0.5 * share + random.random()))
    slopes, bends = size * random.normal(0, 1, (2, 4))
    paths = np.outer(share, slopes) + np.outer(swing, bends)
    return [
        Pose(pose.x + x, pose.y + y, pose.size * (1 + 0.3 * closer), pose.tilt + 0.5 * tilt)
        for x, y, closer, tilt in paths.tolist()
    ]


def _blink(course: Course, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """How open the eyes are, 1 to 0, apart from what muscles do."""
    length = random.integers(*_BLINK_FRAMES)
    middle = random.uniform(0, course.frames)
    if not course.blink:
        return np.ones(course.frames)
    away = np.abs(np.arange(course.frames) - middle) / (length / 2)
    return _smooth_step(away * 1.4 - 0.2)


def _gaze(course: Course, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Where the irises are, off the middle of the eyes, (frames, 2); a glance takes 6 frames."""
    start = random.normal(0, 0.01, 2)
    away = random.choice([-1, 1]) * np.array([random.uniform(0.04, 0.08), 0.01])
    middle = random.uniform(0.2, 0.8) * course.frames
    if not course.glance:
        away *= 0
    moved = _smooth_step((np.arange(course.frames) - middle) / 6 + 0.5)
    return np.asarray(start + moved[:, None] * away)

"""Drawn people: what a face looks like at rest, before its muscles move.

All positions are in *face units*: the origin is the middle of the face, x points to the right of
the image, y down, and the face reaches from about -1 to 1 either way. What belongs to both halves
of the face is described once, for x > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from memx_fast.samm.synthetic_canvas import Canvas, Floats, Point


@dataclass(frozen=True)
class Identity:
    """Shapes (face units) and shades (0 black to 255 white) of one person."""

    head_width: float
    head_top: float
    jaw: float
    chin_y: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    brow_y: float
    brow_arch: float
    brow_tilt: float
    brow_thickness: float
    nose_y: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip_thickness: float
    hairline: float
    long_hair: bool
    skin: float
    hair: float
    brow: float
    iris: float
    stubble: float
    clothes: float
    background: float

    def landmarks(self) -> dict[str, Point]:
        """Where muscles take hold, on the half with x > 0 or on the midline."""
        return {
            "inner brow": (self.eye_x * 0.5, self.brow_y),
            "outer brow": (self.eye_x * 1.35, self.brow_y),
            "eye": (self.eye_x, self.eye_y),
            "cheek": (self.eye_x * 1.15, (self.eye_y + self.nose_y) * 0.5 + 0.1),
            "nose root": (0.0, self.eye_y),
            "nose wing": (self.nose_width, self.nose_y),
            "upper lip": (self.mouth_width * 0.4, self.mouth_y - self.lip_thickness),
            "lip corner": (self.mouth_width, self.mouth_y),
            "lower lip": (0.0, self.mouth_y + self.lip_thickness),
            "chin": (0.0, (self.mouth_y + self.chin_y) * 0.5 + 0.08),
        }


def draw_identity(random: np.random.Generator) -> Identity:
    """A person by chance."""

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    skin = between(125, 200)
    hair = between(20, 105)
    eye_y = between(-0.27, -0.2)
    return Identity(
        head_width=between(0.78, 0.9),
        head_top=between(-1.5, -1.35),
        jaw=between(0.42, 0.6),
        chin_y=between(1.0, 1.13),
        eye_x=between(0.36, 0.42),
        eye_y=eye_y,
        eye_width=between(0.15, 0.18),
        eye_height=between(0.055, 0.08),
        brow_y=eye_y - between(0.2, 0.26),
        brow_arch=between(0.02, 0.07),
        brow_tilt=between(-0.03, 0.03),
        brow_thickness=between(0.035, 0.06),
        nose_y=between(0.2, 0.28),
        nose_width=between(0.13, 0.18),
        mouth_y=between(0.52, 0.6),
        mouth_width=between(0.27, 0.34),
        lip_thickness=between(0.05, 0.085),
        hairline=between(-1.02, -0.82),
        long_hair=bool(random.random() < 0.45),
        skin=skin,
        hair=hair,
        brow=min(hair + 10, skin * 0.55),
        iris=between(35, 85),
        stubble=max(0.0, between(-0.2, 0.18)),
        clothes=between(30, 190),
        background=between(80, 170),
    )


@dataclass(frozen=True)
class Light:
    """Where the light comes from, and how much of it falls on the side turned away.

    Attributes:
        x, y: direction to the light across the image, -1 to 1 (y < 0: from above).
        ambient: brightness of a surface that faces away, as a share of a lit one.
        gain: factor for the whole image.
    """

    x: float
    y: float
    ambient: float
    gain: float


def draw_light(random: np.random.Generator) -> Light:
    """A lamp by chance, in front of the person and above."""
    return Light(
        x=float(random.uniform(-0.7, 0.7)),
        y=float(random.uniform(-0.6, -0.1)),
        ambient=float(random.uniform(0.5, 0.75)),
        gain=float(random.uniform(0.85, 1.1)),
    )


def draw_face(canvas: Canvas, person: Identity, light: Light, random: np.random.Generator) -> None:
    """Draw a person with everything but eyes and mouth, which change from frame to frame."""
    _draw_surroundings(canvas, person)
    _draw_head(canvas, person, light, random)
    _draw_relief(canvas, person, light)
    _draw_brows(canvas, person, random)
    _draw_nose(canvas, person)
    _draw_hair(canvas, person, random)


def _draw_surroundings(canvas: Canvas, person: Identity) -> None:
    columns, rows = canvas.grid()
    canvas.image[:] = person.background * (1 + 0.06 * columns - 0.04 * rows)
    if person.long_hair:
        canvas.paint(
            canvas.polygon(_ellipse(0, -0.15, person.head_width * 1.25, 1.45), 0.04), person.hair
        )
    neck = person.head_width * 0.62
    canvas.paint(
        canvas.polygon([(-neck, 0.4), (neck, 0.4), (neck * 1.1, 2.2), (-neck * 1.1, 2.2)], 0.03),
        person.skin * 0.62,
    )
    shoulders = [(-0.5, 1.42), (0.5, 1.42), (1.5, 1.68), (2.2, 2.6), (-2.2, 2.6), (-1.5, 1.68)]
    canvas.paint(canvas.polygon(shoulders, 0.04), person.clothes)
    canvas.paint(canvas.polygon(_ellipse(0, 1.36, neck * 0.95, 0.3), 0.03), person.skin * 0.66)


def _draw_head(canvas: Canvas, person: Identity, light: Light, random: np.random.Generator) -> None:
    for side in (-1, 1):
        ear = _ellipse(side * person.head_width * 1.0, person.eye_y + 0.22, 0.11, 0.24)
        canvas.paint(canvas.polygon(ear, 0.02), person.skin * 0.78)
    columns, rows = canvas.grid()
    normal_x = np.clip(columns / (person.head_width * 1.12), -1, 1)
    normal_y = np.clip(rows / (person.chin_y * 1.3), -1, 1)
    depth = np.sqrt(np.clip(1 - normal_x**2 - normal_y**2, 0.02, None))
    length = np.sqrt(light.x**2 + light.y**2 + 1)
    lit = np.clip((normal_x * light.x + normal_y * light.y + depth) / length, 0, 1)
    skin = person.skin * (light.ambient + (1.08 - light.ambient) * lit)
    skin *= 1 + 0.025 * _grain(canvas, random, 0.03) + 0.02 * _grain(canvas, random, 0.09)
    head = canvas.polygon(_head_outline(person), 0.015)
    canvas.paint(head, skin.astype(np.float32))
    if person.stubble:
        beard = canvas.blob(0, person.chin_y, person.head_width * 0.6, 0.35)
        grain = 1 + 0.2 * _grain(canvas, random, 0.015)
        canvas.shade((head * beard * grain).astype(np.float32), -person.stubble)


def _draw_relief(canvas: Canvas, person: Identity, light: Light) -> None:
    """Hollows and ridges: eye sockets, the bridge of the nose, cheeks, the folds by the mouth."""
    for side in (-1, 1):
        canvas.shade(canvas.blob(side * person.eye_x, person.eye_y - 0.05, 0.2, 0.12), -0.28)
        canvas.shade(canvas.blob(side * person.eye_x, person.eye_y + 0.14, 0.17, 0.05), -0.1)
        canvas.shade(canvas.blob(side * person.eye_x * 1.15, 0.12, 0.2, 0.14), 0.08)
        flank = -0.14 + 0.1 * side * light.x
        canvas.shade(canvas.blob(side * 0.13, person.eye_y + 0.2, 0.06, 0.22), flank)
        fold = [
            (side * (person.nose_width + 0.06), person.nose_y),
            (side * (person.nose_width + 0.16), (person.nose_y + person.mouth_y) / 2),
            (side * (person.mouth_width + 0.1), person.mouth_y + 0.02),
        ]
        canvas.shade(canvas.stroke(fold, 0.025, 0.025), -0.2)
        canvas.shade(canvas.blob(side * person.head_width * 0.8, 0.5, 0.12, 0.4), -0.15)
    canvas.shade(canvas.blob(0, person.eye_y + 0.2, 0.05, 0.25), 0.12)
    canvas.shade(canvas.blob(0, person.nose_y - 0.04, 0.07, 0.06), 0.14)
    canvas.shade(canvas.blob(0, person.mouth_y + 0.16, 0.16, 0.04), -0.18)
    canvas.shade(canvas.blob(0, person.chin_y - 0.17, 0.15, 0.09), 0.08)
    canvas.shade(canvas.blob(0, person.brow_y - 0.25, 0.4, 0.13), 0.06)


def _draw_brows(canvas: Canvas, person: Identity, random: np.random.Generator) -> None:
    grain = np.clip(0.85 + 0.15 * _grain(canvas, random, 0.015), 0, 1)
    along = np.linspace(-1, 1, 15)
    for side in (-1, 1):
        x = person.eye_x + 0.21 * along
        ridge = person.brow_y - person.brow_arch * (1 - (along - 0.25) ** 2)
        ridge += person.brow_tilt * along
        half = person.brow_thickness * np.sqrt(np.clip(1 - (0.45 + 0.5 * along) ** 2, 0.02, None))
        upper = np.stack([side * x, ridge - half], axis=1)
        lower = np.stack([side * x, ridge + half], axis=1)[::-1]
        mask = canvas.polygon(np.concatenate([upper, lower]).astype(np.float32), 0.012)
        canvas.paint((mask * grain).astype(np.float32), person.brow, 0.9)


def _draw_nose(canvas: Canvas, person: Identity) -> None:
    for side in (-1, 1):
        wing = _ellipse(side * person.nose_width * 0.95, person.nose_y, 0.05, 0.07)
        canvas.shade(canvas.stroke(wing[6:20] if side < 0 else wing[:12], 0.02, 0.018), -0.3)
        nostril = _ellipse(side * person.nose_width * 0.5, person.nose_y + 0.065, 0.045, 0.022)
        canvas.paint(canvas.polygon(nostril, 0.012), person.skin * 0.3, 0.85)
    canvas.shade(canvas.blob(0, person.nose_y + 0.1, person.nose_width * 0.8, 0.03), -0.2)
    canvas.shade(canvas.blob(0, person.mouth_y - 0.15, 0.03, 0.06), -0.1)


def _draw_hair(canvas: Canvas, person: Identity, random: np.random.Generator) -> None:
    """Everything of the head above the hairline, which is lower at the temples."""
    along = np.linspace(-1, 1, 31)
    width = person.head_width * 1.08
    temples = person.eye_y - 0.05 if person.long_hair else person.eye_y - 0.3
    edge = person.hairline + (temples - person.hairline) * np.abs(along) ** 3.5
    lower = np.stack([width * along, edge], axis=1)
    top = person.head_top - 0.12
    crown = np.linspace(0, np.pi, 31)
    upper = np.stack([width * np.cos(crown), edge[0] + (top - edge[0]) * np.sin(crown)], axis=1)
    mask = canvas.polygon(np.concatenate([lower, upper]).astype(np.float32), 0.03)
    strands = 1 + 0.12 * _grain(canvas, random, 0.025)
    sheen = 1 + 0.5 * canvas.blob(-0.2, person.hairline - 0.3, 0.4, 0.12)
    canvas.paint(mask, (person.hair * strands * sheen).astype(np.float32))


def _head_outline(person: Identity) -> Floats:
    """A half ellipse above, a rounded jaw below: square for ``jaw`` < 0.5, pointed for > 0.5."""
    middle = -0.15
    up = np.linspace(0, np.pi, 40)
    skull = np.stack(
        [person.head_width * np.cos(up), middle + (person.head_top - middle) * np.sin(up)], axis=1
    )
    down = np.sin(np.linspace(0, np.pi / 2, 40))
    right_x = person.head_width * np.clip(1 - down**2.3, 0, None) ** person.jaw
    right_y = middle + (person.chin_y - middle) * down
    left = np.stack([-right_x, right_y], axis=1)
    right = np.stack([right_x, right_y], axis=1)[::-1]
    return np.concatenate([skull, left, right]).astype(np.float32)


def _ellipse(x: float, y: float, width: float, height: float) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)
    return points.astype(np.float32)


def _grain(canvas: Canvas, random: np.random.Generator, size: float) -> Floats:
    """Smooth noise, standard deviation 1, whose specks are about ``size`` face units wide."""
    noise = random.standard_normal(canvas.image.shape, dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), max(size * canvas.scale, 0.6))
    smooth = np.asarray(blurred, dtype=np.float32)
    return np.asarray(smooth / smooth.std(), dtype=np.float32)

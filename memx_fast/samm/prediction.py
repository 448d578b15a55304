"""What a trained method says of one clip: where it looked, how sure it is, what that is worth.

The clip is read several times from its first frame to its last, once a question: how long is it,
where is the face, where is the apex, what do the frames look like that the method wants. One frame
is held at a time, and of the last question the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from memx_fast.samm import apex as apex_search
from memx_fast.samm import face_track
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.face_track import Track
from memx_fast.samm.faces import Box, around, cut
from memx_fast.samm.films import Film
from memx_fast.samm.frames import Image
from memx_fast.samm.methods import Input, Method
from memx_fast.samm.sampling import sample

_SURROUNDINGS = 0.35
"""Shown around the face in a picture, on each side, as a share of its side."""

_SHOWN_WIDTH = 360
"""Frames for a picture are shrunk to this width, pixels."""


@dataclass(frozen=True)
class Wanted:
    """What is known of the clip beforehand; None is found out.

    Attributes:
        onset: number of its first frame; None takes the first there is.
        apex: of its strongest; None searches it by optical flow.
        offset: of its last; None takes the last there is.
        face_box: left, top, width and height of the face, pixels.
        crop: cut the face out; None does as in training.
        rate: frames a second, if the file does not say it or is wrong.
    """

    onset: int | None = None
    apex: int | None = None
    offset: int | None = None
    face_box: tuple[int, int, int, int] | None = None
    crop: bool | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Shown:
    """A chosen frame as a picture shows it.

    Attributes:
        number: of the frame.
        image: greys around the face, or all of the frame, uint8 (H, W).
        face: left, top and side of the box in the image, or None.
    """

    number: int
    image: Image
    face: tuple[float, float, float] | None


@dataclass(frozen=True)
class Prediction:
    """The answer.

    Attributes:
        probabilities: by the name of the class, in the card's order.
        onset: first frame.
        apex: strongest frame.
        offset: last frame.
        given: which of the three were given, not found.
        chosen: the frames the method has seen, one may be there twice.
        rate: frames a second, or None.
        box: what was cut out of every frame, or None if nothing was.
        track: how the face was found, or None if it was not looked for.
        strains: of the flow from the onset to other frames, if the apex was searched.
        shown: the chosen frames for a picture, each once.
    """

    probabilities: dict[str, float]
    onset: int
    apex: int
    offset: int
    given: tuple[str, ...]
    chosen: list[int]
    rate: float | None
    box: Box | None
    track: Track | None
    strains: dict[int, float]
    shown: list[Shown]

    @property
    def answer(self) -> str:
        """The likeliest class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def seconds(self) -> float | None:
        """From onset to offset, both included."""
        return None if self.rate is None else (self.offset - self.onset + 1) / self.rate

    def as_json(self) -> dict[str, Any]:
        """Plain values; all but the pictures."""
        return {
            "probabilities": self.probabilities,
            "answer": self.answer,
            "onset": self.onset,
            "apex": self.apex,
            "offset": self.offset,
            "given": list(self.given),
            "chosen_frames": self.chosen,
            "frames_a_second": self.rate,
            "face_box": asdict(self.box) if self.box else None,
            "face": self._found(),
            "strain_since_onset": {str(number): value for number, value in self.strains.items()},
        }

    def _found(self) -> dict[str, Any] | None:
        """How the face was found; the box is said already."""
        if self.track is None:
            return None
        return {name: value for name, value in asdict(self.track).items() if name != "box"}


def predict(
    method: Method, card: Card, film: Film, wanted: Wanted, *, progress: bool = False
) -> Prediction:
    """Ask a trained method about a clip.

    Args:
        method: as :func:`memx_fast.samm.trained.restore` gives it.
        card: of its checkpoint.
        film: the clip.
        wanted: what is known of it.
        progress: show bars.

    Raises:
        ValueError: the method was trained on ready pictures of the flow; the clip is too short or
            cannot be decoded, the numbers do not fit it, or its face is not found or vanishes.
    """
    if method.input.frames == 1:
        raise ValueError(
            f"checkpoint: {method.title} was trained on ready pictures of the flow, which cannot "
            "be made from the frames of a clip as they were made; expected one trained on frames"
        )
    crop = card.crop if wanted.crop is None else wanted.crop
    if wanted.face_box is not None and not crop:
        raise ValueError("face_box: got a place, but whole frames are wanted (no-crop)")
    numbers = film.numbers(wanted.onset, wanted.offset)
    onset, offset = numbers[0], numbers[-1]
    if len(numbers) < 3:
        raise ValueError(
            f"video: {film.path} has {len(numbers)} frames from {onset} to {offset}, expected at "
            "least 3: onset, apex and offset"
        )
    if wanted.apex is not None and not onset <= wanted.apex <= offset:
        raise ValueError(
            f"apex: got {wanted.apex}, expected a frame from onset {onset} to offset {offset}"
        )

    box, track = None, None
    if crop and wanted.face_box is not None:
        box = _given_box(film, onset, wanted.face_box)
    elif crop:
        track = face_track.follow(film, numbers, progress=progress)
        box = track.box
    apex, strains = wanted.apex, {}
    if apex is None:
        found = apex_search.search(film, numbers, box, progress=progress)
        apex, strains = found.apex, found.strains

    needed = method.input
    chosen = sample(onset, apex, offset, needed.frames)
    there = {number: film.closest(number, numbers) for number in dict.fromkeys(chosen)}
    images, shown = _gather(film, sorted(set(there.values())), needed, box)
    frames = np.stack([images[there[number]] for number in chosen])
    planes = frames.reshape(1, needed.frames, needed.size, needed.size, needed.channels)
    features = method.features(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(planes, -1, 2))),
        np.array([chosen.index(apex)], dtype=np.int64),
    )
    shares = method.predict(features)[0].tolist()
    return Prediction(
        dict(zip(card.classes, shares, strict=True)),
        onset,
        apex,
        offset,
        tuple(name for name in ("onset", "apex", "offset") if getattr(wanted, name) is not None),
        [there[number] for number in chosen],
        wanted.rate or film.rate,
        box,
        track,
        strains,
        shown,
    )


def _given_box(film: Film, number: int, place: tuple[int, int, int, int]) -> Box:
    """The square around a given rectangle."""
    left, top, width, height = place
    _, image = next(iter(film.read([number])))
    rows, columns = image.shape
    inside = 0 <= left < left + width <= columns and 0 <= top < top + height <= rows
    if not inside:
        raise ValueError(
            f"face_box: got {left},{top},{width},{height}, expected left, top, width and height of "
            f"a rectangle inside the frames, which have {columns}x{rows} pixels"
        )
    return around(place, image)


def _gather(
    film: Film, numbers: Sequence[int], needed: Input, box: Box | None
) -> tuple[dict[int, Image], list[Shown]]:
    """Frames as the method wants them, and as a picture shows them."""
    images, shown = {}, []
    for number, image in film.read(numbers, needed.channels):
        images[number] = cut(image, box, needed.size)
        shown.append(_shown(number, image, box))
    return images, shown


def _shown(number: int, image: Image, box: Box | None) -> Shown:
    """The surroundings of the face in greys, small."""
    grey: Any = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    left = top = 0
    if box is not None:
        margin = round(box.side * _SURROUNDINGS)
        left, top = max(0, box.left - margin), max(0, box.top - margin)
        grey = grey[top : box.top + box.side + margin, left : box.left + box.side + margin]
    scale = min(1.0, _SHOWN_WIDTH / grey.shape[1])
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    face = None
    if box is not None:
        face = ((box.left - left) * scale, (box.top - top) * scale, box.side * scale)
    return Shown(number, np.asarray(small, dtype=np.uint8), face)

"""The apex of a clip that nobody has annotated: the frame whose face is strained most.

For every frame between onset and offset the optical flow from the onset is computed (TV-L1, see
:mod:`memx_fast.samm.flow`) on the face, cut out and shrunk to :data:`SIDE` pixels. The apex is the
frame whose flow has the largest mean strain, the first of several. Onset and offset themselves are
never it.

Strain and not the flow's magnitude, because a head that drifts moves all of the face and strains
none. On 27 clips of the built-in data the strain's maximum is 6 % of the clip away from the apex in
the mean, the magnitude's 34 %; the middle of the clip would be 13 % away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memx_fast.samm.faces import Box, cut
from memx_fast.samm.films import Film
from memx_fast.samm.flow import flow, strain
from memx_fast.samm.progress import bar

SIDE = 64
"""Height and width of the greys between which flow is computed, pixels."""

LOOKS = 64
"""Of a longer clip so many frames are tried, evenly, then all between the best one's neighbours."""

_SHOWN_FROM = 20
"""Fewer frames than this are done before anybody looks for a progress bar."""


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        apex: number of the frame.
        strains: mean strain of the flow from the onset to every frame that was tried, by its
            number: pixels a pixel, whatever the size of the face; of the onset 0.
    """

    apex: int
    strains: dict[int, float]


def search(
    film: Film, numbers: Sequence[int], box: Box | None, *, progress: bool = False
) -> Search:
    """Find the apex.

    One frame is held at a time, and the onset.

    Args:
        film: the clip.
        numbers: its frames from onset to offset, at least three.
        box: where the face is; None looks at the whole frame.
        progress: show a bar.

    Raises:
        ValueError: there are fewer than three frames, or one of them cannot be decoded.
    """
    if len(numbers) < 3:
        raise ValueError(f"numbers: got {len(numbers)} frames, expected at least 3")
    step = -(-len(numbers) // LOOKS)
    coarse = [*numbers[1:-1:step], numbers[-1]]
    strains = {numbers[0]: 0.0} | _strains(film, numbers[0], coarse, box, progress)
    if step > 1:
        place = coarse[:-1].index(_strongest(strains, coarse[:-1])) * step + 1
        fine = numbers[max(1, place - step + 1) : min(place + step, len(numbers) - 1)]
        strains |= _strains(film, numbers[0], fine, box, progress)
    inner = [number for number in sorted(strains) if numbers[0] < number < numbers[-1]]
    return Search(_strongest(strains, inner), dict(sorted(strains.items())))


def _strongest(strains: dict[int, float], numbers: Sequence[int]) -> int:
    """The first of the frames with the largest strain."""
    return max(numbers, key=strains.__getitem__)


def _strains(
    film: Film, onset: int, numbers: Sequence[int], box: Box | None, progress: bool
) -> dict[int, float]:
    """Mean strain from the onset to some later frames, by their numbers."""
    found = {}
    frames = film.read([onset, *numbers])
    first = cut(next(frames)[1], box, SIDE)
    hidden = not progress or len(numbers) < _SHOWN_FROM
    with bar("looking for the apex", len(numbers), "frame", hidden=hidden) as done:
        for number, image in frames:
            found[number] = float(strain(flow(first, cut(image, box, SIDE))).mean())
            done.update()
    return found

"""Which drawn person plays which subject.

Most happy clips belong to three subjects. Were these three fair-haired by chance, hair would tell
the emotion, and a classifier could do without the movement. So people are dealt out in such a way
that the average picture of every emotion is as much the same as can be.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm.annotations import EMOTIONS, Clip
from memx_fast.samm.synthetic_scene import Person

Doubles = npt.NDArray[np.float64]

_PORTRAIT = (120, 96)
_THUMBNAIL = (15, 12)
_DEALS = 2000
_STREAM = 2


def cast(seed: int, clips: Sequence[Clip]) -> dict[str, list[int]]:
    """Seeds of the people who play the subjects, by subject.

    Of 2000 random deals, the one taken has the least sum over emotions of n |m - M|^2, where n is
    the number of clips of the emotion, m the average of their portraits (thumbnails) and M that of
    all clips.

    Args:
        seed: decides which people there are, and which deals are tried.
        clips: all clips of the data set.
    """
    subjects = sorted({clip.subject for clip in clips})
    counts = np.zeros((len(subjects), len(EMOTIONS)))
    for clip in clips:
        counts[subjects.index(clip.subject), EMOTIONS.index(clip.emotion)] += 1
    looks = [[seed, _STREAM, number] for number in range(len(subjects))]
    portraits = np.stack(
        [
            cv2.resize(Person(_PORTRAIT, look).portrait(), _THUMBNAIL, interpolation=cv2.INTER_AREA)
            for look in looks
        ]
    ).reshape(len(subjects), -1)
    random = np.random.default_rng([seed, _STREAM])
    deals = [random.permutation(len(subjects)) for _ in range(_DEALS)]
    best = min(deals, key=lambda deal: _scatter(portraits[deal].astype(np.float64), counts))
    return {subject: looks[number] for subject, number in zip(subjects, best, strict=True)}


def _scatter(portraits: Doubles, counts: Doubles) -> float:
    """Sum over emotions of n |m - M|^2, from (subjects, pixels) and clips (subjects, emotions)."""
    clips = counts.sum(axis=0)
    emotions = counts.T @ portraits / np.maximum(clips, 1)[:, None]
    everyone = counts.sum(axis=1) @ portraits / counts.sum()
    return float(clips @ np.square(emotions - everyone).sum(axis=1))

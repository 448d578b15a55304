"""Confidence intervals by bootstrap over people.

The clips of one person are no independent evidence: a method that knows one face knows all its
clips. So people are drawn with replacement, as many as there are, each with all clips; the interval
holds the middle 95 % of what the figures are in such draws (the percentile interval of Efron 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memx_fast.samm.labels import Integers
from memx_fast.samm.metrics import confusion

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The bounds of a figure, shares from 0 to 1."""

    low: float
    high: float


def intervals(
    subjects: npt.NDArray[np.str_],
    truth: Integers,
    predicted: Integers,
    classes: int,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the figures of :class:`memx_fast.samm.metrics.Scores`, by their names.

    The same subjects and the same seed give the same draws, whatever was predicted.

    Args:
        subjects: who is in each clip, (N,).
        truth: true labels, (N,).
        predicted: labels given, (N,).
        classes: number of classes.
        seed: of the draws.
    """
    people = np.unique(subjects)
    counts = np.stack(
        [
            confusion(truth[subjects == person], predicted[subjects == person], classes)
            for person in people
        ]
    )
    shares = np.full(len(people), 1 / len(people))
    times = np.random.default_rng(seed).multinomial(len(people), shares, size=DRAWS)
    figures = _figures(np.tensordot(times, counts, axes=1))
    bounds = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        name: Interval(*map(float, np.quantile(values, bounds))) for name, values in figures.items()
    }


def _figures(counts: Integers) -> dict[str, npt.NDArray[np.float64]]:
    """Of confusion matrices (..., classes, classes); a class without a clip takes no part."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    truth, given = counts.sum(-1), counts.sum(-2)
    present = truth > 0
    recall = right / np.maximum(truth, 1)
    f1 = 2 * right / np.maximum(truth + given, 1)
    return {
        "accuracy": right.sum(-1) / truth.sum(-1),
        "uar": np.where(present, recall, 0).sum(-1) / present.sum(-1),
        "uf1": np.where(present, f1, 0).sum(-1) / present.sum(-1),
        "weighted_f1": (truth * f1).sum(-1) / truth.sum(-1),
    }

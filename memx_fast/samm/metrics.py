"""Figures of merit of a classifier, under the names that papers give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from memx_fast.samm.labels import Integers


@dataclass(frozen=True)
class Scores:
    """How well predictions agree with the truth; all but ``clips`` are shares from 0 to 1.

    A class without a clip, in the truth of one fold for example, takes no part in means over
    classes.

    Attributes:
        clips: number of predictions.
        accuracy: share that is right; also called WAR.
        uar: unweighted average recall: mean over classes of the share of its clips that is
            recognised; also called balanced accuracy. Guessing gives one over the classes.
        uf1: unweighted F1: mean over classes of 2 TP / (2 TP + FP + FN); also called macro F1.
        weighted_f1: the same mean, each class weighted with its clips.
    """

    clips: int
    accuracy: float
    uar: float
    uf1: float
    weighted_f1: float


def score(truth: Integers, predicted: Integers) -> Scores:
    """Compare predicted labels with the true ones, both (N,)."""
    present = np.unique(truth)
    common = {"labels": present, "zero_division": 0.0}
    return Scores(
        clips=len(truth),
        accuracy=float(accuracy_score(truth, predicted)),
        uar=float(recall_score(truth, predicted, average="macro", **common)),
        uf1=float(f1_score(truth, predicted, average="macro", **common)),
        weighted_f1=float(f1_score(truth, predicted, average="weighted", **common)),
    )


def confusion(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """Number of clips of every true class (row) that were given every class (column)."""
    return np.asarray(confusion_matrix(truth, predicted, labels=range(classes)), dtype=np.int64)

"""Figures of merit of a classifier, under the names that papers give them."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class CompositeScores:
    """The figures of the MEGC 2019 challenge, shares from 0 to 1.

    Attributes:
        clips: number of predictions.
        uf1: mean over classes of 2 TP / (2 TP + FP + FN).
        uar: mean over classes of TP / N, where N is the number of clips of the class.
    """

    clips: int
    uf1: float
    uar: float


def composite_score(folds: Sequence[Integers]) -> CompositeScores:
    """Score leave-one-subject-out folds as the MEGC 2019 challenge does.

    The counts of every class are summed over all folds first; F1 and recall come from the sums and
    are averaged over classes, each counting the same. (A mean over folds would be another figure:
    most subjects have clips of one or two classes only.)

    Args:
        folds: the confusion matrix of every fold, (classes, classes), rows are the truth.

    Raises:
        ValueError: there is no fold, a matrix differs in shape or is not square, or a class has no
            clip in any fold, so that it has no recall.
    """
    shapes = {np.shape(fold) for fold in folds}
    if len(shapes) != 1 or any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise ValueError(
            f"folds: got matrices of shapes {sorted(shapes)}, expected square ones of one size"
        )
    counts = np.sum(folds, axis=0)
    right, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    if not truth.all():
        missing = np.flatnonzero(truth == 0).tolist()
        raise ValueError(f"folds: got no clip of class {missing}, expected some of each")
    return CompositeScores(
        clips=int(counts.sum()),
        uf1=float(np.mean(2 * right / (truth + predicted))),
        uar=float(np.mean(right / truth)),
    )


def confusion(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """Number of clips of every true class (row) that were given every class (column)."""
    return np.asarray(confusion_matrix(truth, predicted, labels=range(classes)), dtype=np.int64)

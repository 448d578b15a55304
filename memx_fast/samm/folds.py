"""Splits that keep every subject on one side and the classes as even as that allows.

Both cannot hold exactly: in SAMM eight people share all happy clips, seven of them in one person
alone. The split taken is the most even of many.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from memx_fast.samm.labels import Integers

PROTOCOLS = ("folds", "loso", "paper-like")
"""How clips can be dealt out.

- ``folds``: five, say, without a subject in two of them.
- ``loso``: every subject is a fold of its own.
- ``paper-like``: what the tables of the paper imply, to show what that does to the figures:
  training stops where the *test* clips are recognised best, and copies of the smaller classes,
  altered as for training, make the test clips of a fold as balanced as they can be.
"""

_CAVEATS = {
    "paper-like": (
        "paper-like protocol: the epoch, or the C of a machine, is chosen on the very clips that "
        "are judged, and altered copies of them are judged too. These figures are inflated on "
        "purpose.",
    )
}

_ATTEMPTS = 30
_INNER = 5


@dataclass(frozen=True)
class Fold:
    """Indices of clips; no subject is in two of the parts.

    Under the paper-like protocol, ``validation`` and ``test`` are the same, and an index that is
    there before stands for an altered copy of the clip.

    Attributes:
        training: what the network learns from.
        validation: what decides when it stops.
        test: what it is judged by.
    """

    training: Integers
    validation: Integers
    test: Integers


def split(
    labels: Integers,
    subjects: npt.NDArray[np.str_],
    count: int = 5,
    seed: int = 0,
    protocol: str = "folds",
) -> list[Fold]:
    """Deal all clips out to ``count`` folds, each the test part once.

    What is not in the test part is dealt out again in the same way, to at most five, and one of
    the parts becomes the validation part.

    Args:
        labels: class of every clip, (N,).
        subjects: who is in it, (N,).
        count: number of folds, at least 2; of no meaning for ``"loso"``.
        seed: which splits are tried.
        protocol: one of :data:`PROTOCOLS`.

    Raises:
        ValueError: there are fewer subjects than folds, or only two, or ``seed`` is below 0, or
            there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    people = len(np.unique(subjects))
    if protocol == "loso":
        count = people
    if not 2 <= count <= people or people < 3:
        raise ValueError(f"folds: got {count} for {people} subjects, expected from 2 to {people}")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected a whole number of at least 0")
    folds = []
    for number, test in enumerate(_deal(labels, subjects, count, seed)):
        rest = np.setdiff1d(np.arange(len(labels)), test)
        if protocol == "paper-like":
            balanced = np.concatenate([test, _copies(labels, test)])
            folds.append(Fold(rest, balanced, balanced))
            continue
        people = len(np.unique(subjects[rest]))
        inner = _deal(labels[rest], subjects[rest], min(count, people, _INNER), seed)
        validation = rest[inner[number % len(inner)]]
        folds.append(Fold(np.setdiff1d(rest, validation), validation, test))
    return folds


def caveats(protocol: str) -> tuple[str, ...]:
    """What has to stand beside every figure that a protocol gives; nothing for a clean one."""
    return _CAVEATS.get(protocol, ())


def _copies(labels: Integers, clips: Integers) -> Integers:
    """Clips of the smaller classes, in turn, as many as make all classes equally large."""
    members = [clips[labels[clips] == label] for label in np.unique(labels[clips])]
    largest = max(map(len, members))
    return np.concatenate([np.resize(indices, largest)[len(indices) :] for indices in members])


def _deal(
    labels: Integers, subjects: npt.NDArray[np.str_], count: int, seed: int
) -> list[Integers]:
    """``count`` groups of clips, the most even of some attempts."""
    attempts = []
    for state in np.random.default_rng(seed).integers(2**31, size=_ATTEMPTS):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=int(state))
        with warnings.catch_warnings():
            # It warns of classes smaller than the number of folds; nothing can be done about them.
            warnings.simplefilter("ignore", UserWarning)
            attempts.append([test for _, test in splitter.split(labels, labels, subjects)])
    return min(attempts, key=lambda groups: _unevenness(labels, groups))


def _unevenness(labels: Integers, groups: list[Integers]) -> float:
    """Chi-squared distance of the classes' counts in the groups from equal shares."""
    counts = np.stack([np.bincount(labels[group], minlength=labels.max() + 1) for group in groups])
    expected = np.maximum(counts.sum(axis=0) / len(groups), np.finfo(float).tiny)
    return float((np.square(counts - expected) / expected).sum())

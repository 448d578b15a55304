"""What a study of several data sets amounts to: the figures of MEGC 2019, for all and for each.

The counts of every class are summed over all folds of the one run before anything is divided. The
figures of a data set come from its clips alone; what was learnt, from all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memx_fast.samm.labels import Integers
from memx_fast.samm.metrics import CompositeScores, composite_score, confusion

ALL = "all data sets"
"""The name of the part with every clip."""


@dataclass(frozen=True)
class FoldLabels:
    """The test clips of a fold.

    Attributes:
        clips: their indices, (N,).
        predicted: labels given to them, (N,).
        majority: the label most frequent among the training clips, for each of them, (N,).
    """

    clips: Integers
    predicted: Integers
    majority: Integers


@dataclass(frozen=True)
class Part:
    """The clips of one data set, or of all.

    Attributes:
        name: of the data set, or :data:`ALL`.
        clips: how many predictions.
        scores: of the method; None if the data set has no clip of some class.
        majority: of the classifier that names the most frequent class of the training clips.
        missing: names of the classes without a clip.
    """

    name: str
    clips: int
    scores: CompositeScores | None
    majority: CompositeScores | None
    missing: tuple[str, ...]


def parts(
    classes: Sequence[str], labels: Integers, datasets: Sequence[str], folds: Sequence[FoldLabels]
) -> list[Part]:
    """Everything first, then one data set after the other.

    Args:
        classes: names of the classes.
        labels: of all clips, (N,).
        datasets: where each is from, N names.
        folds: what came out.
    """
    names = np.array(datasets)

    def part(name: str, belongs: np.ndarray) -> Part:
        chosen = [belongs[fold.clips] for fold in folds]

        def counts(given: Callable[[FoldLabels], Integers]) -> list[Integers]:
            return [
                confusion(labels[fold.clips[mask]], given(fold)[mask], len(classes))
                for fold, mask in zip(folds, chosen, strict=True)
                if mask.any()
            ]

        found = counts(lambda fold: fold.predicted)
        truth = np.sum(found, axis=(0, 2))
        missing = tuple(title for title, count in zip(classes, truth, strict=True) if not count)
        return Part(
            name,
            int(truth.sum()),
            None if missing else composite_score(found),
            None if missing else composite_score(counts(lambda fold: fold.majority)),
            missing,
        )

    everything = part(ALL, np.ones(len(names), dtype=bool))
    return [everything, *(part(name, names == name) for name in dict.fromkeys(datasets))]


def text(found: Sequence[Part]) -> str:
    """A table, percentages."""
    lines = ["counts summed over the folds (MEGC 2019)", f"{'':28}{'clips':>6}{'UF1':>8}{'UAR':>8}"]
    for part in found:
        if part.scores is None or part.majority is None:
            lines.append(f"{part.name:28}{part.clips:6}   no clip of {', '.join(part.missing)}")
            continue
        lines.append(_line(part.name, part.scores))
        lines.append(_line("  majority class", part.majority))
    return "\n".join(lines)


def as_json(found: Sequence[Part]) -> dict[str, Any]:
    """The same as plain values; shares from 0 to 1."""
    return {
        part.name: {
            "clips": part.clips,
            "scores": part.scores and asdict(part.scores),
            "majority_class": part.majority and asdict(part.majority),
            "missing_classes": list(part.missing),
        }
        for part in found
    }


def _line(name: str, scores: CompositeScores) -> str:
    return f"{name:28}{scores.clips:6}{100 * scores.uf1:8.2f}{100 * scores.uar:8.2f}"

"""What a run amounts to: tables on the screen and the same, in full, as JSON.

Beside every table stands the line of the classifier that always names the class most frequent in
its training clips: without it no accuracy on SAMM can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from memx_fast.samm import composite
from memx_fast.samm.composite import FoldLabels
from memx_fast.samm.folds import Fold
from memx_fast.samm.labels import Integers, Task
from memx_fast.samm.metrics import Scores, confusion, score
from memx_fast.samm.training import Epoch


@dataclass(frozen=True)
class Published:
    """Figures of a method as printed in the paper, in percent, None where it gives none.

    ``name`` is that of our own version of it.
    """

    name: str
    method: str
    accuracy: float
    f1: float | None
    note: str = ""


PAPER = "Shukla, Rai and Verlekar 2023, doi:10.1007/978-3-031-27066-6_2"

_ITS_FIGURES = (
    "its accuracy is the mean of the recalls (UAR) and its F1 the weighted one, over clips that "
    "include augmented copies"
)

_ITSELF = "shallow ConvLSTM (the paper)"
_SWAPPED = "a result on CASME II, the two figures swapped"

PUBLISHED: dict[int, tuple[Published, ...]] = {
    3: (
        Published("convlstm", _ITSELF, 78.33, 78.92, _ITS_FIGURES),
        Published("bi-woof", "Bi-WOOF", 58.30, 39.70, "leave one subject out"),
        Published("off-apexnet", "OFF-ApexNet", 68.18, 54.23, "leave one subject out"),
    ),
    5: (
        Published("convlstm", _ITSELF, 67.64, 67.69, _ITS_FIGURES),
        Published("lbp-top", "LBP-TOP", 39.68, 35.89, "a result on CASME II"),
        Published("dssn", "truncated AlexNet", 57.35, 46.44, "leave one subject out"),
        Published("elrcn", "CNN + LSTM", 50.00, 52.44, _SWAPPED),
    ),
    7: (Published("convlstm", _ITSELF, 72.64, None, "presumably UAR, as the others"),),
}
"""The tables of the paper by the number of classes, and what its figures really are."""


@dataclass(frozen=True)
class Outcome:
    """What came out of one fold.

    Attributes:
        history: all epochs; empty for a method without any.
        best_epoch: number of the one whose weights are kept; 0 without epochs.
        probabilities: of the classes, for every test clip, (N, classes).
        chosen: what the method decided on the validation clips, by name.
    """

    history: list[Epoch]
    best_epoch: int
    probabilities: list[list[float]]
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What was decided on the validation clips, for a line of a table."""
        chosen = [f"{name} {value:g}" for name, value in self.chosen.items()]
        if self.history:
            chosen.append(f"best of {len(self.history)} epochs: {self.best_epoch}")
        return ", ".join(chosen)


@dataclass(frozen=True)
class FoldResult:
    """A fold and what came out of it."""

    fold: Fold
    outcome: Outcome

    @property
    def predicted(self) -> Integers:
        """Label given to every test clip."""
        predicted: Integers = np.argmax(np.array(self.outcome.probabilities), axis=1)
        return predicted

    def majority(self, labels: Integers) -> Integers:
        """The label most frequent among training clips, for every test clip."""
        most_frequent = np.bincount(labels[self.fold.training]).argmax()
        return np.full(len(self.fold.test), most_frequent, dtype=np.int64)


class Report:
    """All folds of one run.

    Args:
        task: the classes.
        labels: of all clips, (N,).
        results: one a fold.
        datasets: where each clip is from; by default SAMM.
        caveats: what has to stand beside every figure, one sentence or a few each.
    """

    def __init__(
        self,
        task: Task,
        labels: Integers,
        results: Sequence[FoldResult],
        datasets: Sequence[str] = (),
        caveats: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.caveats = list(caveats)
        self.labels = labels
        self.results = list(results)
        self.truth = labels[np.concatenate([result.fold.test for result in results])]
        self.predicted = np.concatenate([result.predicted for result in results])
        self.majority_predicted = np.concatenate([result.majority(labels) for result in results])
        self.pooled = score(self.truth, self.predicted)
        self.majority = score(self.truth, self.majority_predicted)
        self.confusion = confusion(self.truth, self.predicted, len(task.classes))
        self.parts: list[composite.Part] = []
        if len(set(datasets)) > 1:
            found = [
                FoldLabels(result.fold.test, result.predicted, result.majority(labels))
                for result in self.results
            ]
            self.parts = composite.parts(task.classes, labels, datasets, found)
        self.of_the_paper = set(datasets) <= {"samm"}
        """Whether the paper's figures are about the same data set."""

    def text(self) -> str:
        """The tables for the screen, percentages."""
        tables = ["\n".join(self.caveats)] if self.caveats else []
        tables.append(self._scores_table())
        if self.parts:
            tables.append(composite.text(self.parts))
        tables.append(self._confusion_table())
        if self.of_the_paper:
            tables.append(self._paper_table())
        return "\n\n".join(tables)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; shares from 0 to 1, rows of the confusion are the truth."""
        further: dict[str, Any] = {}
        if self.parts:
            further["megc_2019"] = composite.as_json(self.parts)
        if self.of_the_paper:
            figures = [asdict(line) for line in PUBLISHED[len(self.task.classes)]]
            further["paper"] = {"source": PAPER, "figures": figures}
        return {
            "caveats": self.caveats,
            "classes": list(self.task.classes),
            "pooled": asdict(self.pooled),
            "majority_class": asdict(self.majority),
            "confusion": self.confusion.tolist(),
            "folds": [
                {
                    "scores": asdict(self._fold_scores(result)),
                    "majority_class": asdict(self._fold_majority(result)),
                    "best_epoch": result.outcome.best_epoch,
                    "history": [asdict(epoch) for epoch in result.outcome.history],
                }
                for result in self.results
            ],
            **further,
        }

    def predictions(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """One entry a test clip: its name, its label, what it was taken for and how surely.

        Args:
            names: of all clips, N.
        """
        return [
            {
                "clip": names[index],
                "fold": number,
                "label": int(self.labels[index]),
                "probabilities": probabilities,
            }
            for number, result in enumerate(self.results, start=1)
            for index, probabilities in zip(
                result.fold.test, result.outcome.probabilities, strict=True
            )
        ]

    def _fold_scores(self, result: FoldResult) -> Scores:
        return score(self.labels[result.fold.test], result.predicted)

    def _fold_majority(self, result: FoldResult) -> Scores:
        return score(self.labels[result.fold.test], result.majority(self.labels))

    def _scores_table(self) -> str:
        lines = [f"{'':28}{'clips':>6}{'accuracy':>10}{'UAR':>8}{'UF1':>8}{'weighted F1':>13}"]
        for number, result in enumerate(self.results, start=1):
            line = _scores_line(f"fold {number}", self._fold_scores(result))
            lines.append(f"{line}   {result.outcome.summary}".rstrip())
            lines.append(_scores_line("  majority class", self._fold_majority(result)))
        lines.append(_scores_line("all folds pooled", self.pooled))
        lines.append(_scores_line("  majority class", self.majority))
        return "\n".join(lines)

    def _confusion_table(self) -> str:
        """Rows are the truth; each cell: share of the row in percent, and clips."""
        classes = self.task.classes
        header = "".join(f"{name:>16}" for name in classes)
        lines = ["confusion: rows are the truth, columns the prediction", f"{'':12}{header}"]
        for name, row in zip(classes, self.confusion, strict=True):
            cells = [f"{100 * count / row.sum():.2f} % ({count})" for count in row]
            lines.append(f"{name:12}" + "".join(f"{cell:>16}" for cell in cells))
        majority = f"majority class: {100 * self.majority.accuracy:.2f} % of all clips are right"
        return "\n".join([*lines, majority])

    def _paper_table(self) -> str:
        lines = [f"as printed in the paper ({PAPER})", f"{'':32}{'accuracy':>10}{'F1':>8}"]
        for line in PUBLISHED[len(self.task.classes)]:
            f1 = "" if line.f1 is None else f"{line.f1:.2f}"
            lines.append(f"{line.method:32}{line.accuracy:10.2f}{f1:>8}   {line.note}")
        ours, majority = self.pooled, self.majority
        for name, scores in (("this run: UAR, weighted F1", ours), ("  majority class", majority)):
            lines.append(f"{name:32}{100 * scores.uar:10.2f}{100 * scores.weighted_f1:8.2f}")
        return "\n".join(lines)


def _scores_line(name: str, scores: Scores) -> str:
    shares = (scores.accuracy, scores.uar, scores.uf1, scores.weighted_f1)
    cells = [
        f"{100 * share:{width}.2f}" for share, width in zip(shares, (10, 8, 8, 13), strict=True)
    ]
    return f"{name:28}{scores.clips:6}" + "".join(cells)

"""Pictures of a run: confusion matrix and learning curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memx_fast.files import replacing
from memx_fast.samm.report import FoldResult, Report
from memx_fast.samm.training import Epoch

_DOTS_AN_INCH = 150
_LETTERS_AN_INCH = 18  # of 7 points


def draw_confusion(report: Report, path: Path) -> None:
    """Write the confusion matrix as PNG: shares of each true class, and clips."""
    classes, counts = report.task.classes, report.confusion
    shares = counts / counts.sum(axis=1, keepdims=True)
    side = 2.2 + 0.95 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in [(r, c) for r in range(len(classes)) for c in range(len(classes))]:
        axes.text(
            column,
            row,
            f"{100 * shares[row, column]:.1f} %\n{counts[row, column]}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.set_title(
        f"accuracy {100 * report.pooled.accuracy:.1f} %, UAR {100 * report.pooled.uar:.1f} %\n"
        f"(majority class: {100 * report.majority.accuracy:.1f} %, "
        f"{100 * report.majority.uar:.1f} %)",
        fontsize="medium",
    )
    _add_caveats(figure, report)
    _write(figure, path)


def draw_curves(report: Report, path: Path) -> None:
    """Write losses and validation recall over the epochs as PNG, one column a fold."""
    folds = report.results
    figure = Figure(figsize=(2.6 * len(folds), 5), layout="constrained")
    losses, recalls = figure.subplots(2, len(folds), sharex="col", sharey="row", squeeze=False)
    for number, result in enumerate(folds):
        _draw_losses(losses[number], result)
        shown = np.unique(report.labels[result.fold.validation])
        _draw_recall(recalls[number], result, 1 / len(shown))
        losses[number].set_title(f"fold {number + 1}")
        recalls[number].set_xlabel("epoch")
    losses[0].set_ylabel("cross-entropy, nats")
    recalls[0].set_ylabel("UAR")
    losses[0].legend(fontsize="small")
    recalls[0].legend(fontsize="small")
    _add_caveats(figure, report)
    _write(figure, path)


def _add_caveats(figure: Figure, report: Report) -> None:
    """What has to stand beside every figure, in small letters at the foot."""
    if report.caveats:
        width = int(figure.get_figwidth() * _LETTERS_AN_INCH)
        lines = [line for caveat in report.caveats for line in textwrap.wrap(caveat, width)]
        figure.supxlabel("\n".join(lines), fontsize=7)


def _draw_losses(axes: Axes, result: FoldResult) -> None:
    history = result.outcome.history
    numbers = [epoch.number for epoch in history]
    for name, losses in (
        ("training", [epoch.training_loss for epoch in history]),
        ("validation", [epoch.validation_loss for epoch in history]),
    ):
        axes.plot(numbers, losses, marker=_marker(history), label=name)
    axes.axvline(result.outcome.best_epoch, color="grey", linestyle=":", label="weights kept")


def _draw_recall(axes: Axes, result: FoldResult, chance: float) -> None:
    history = result.outcome.history
    numbers = [epoch.number for epoch in history]
    recalls = [epoch.validation_uar for epoch in history]
    axes.plot(numbers, recalls, marker=_marker(history), color="tab:orange", label="validation")
    axes.axvline(result.outcome.best_epoch, color="grey", linestyle=":")
    axes.axhline(chance, color="black", linewidth=0.8, linestyle="--", label="majority class")
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _marker(history: Sequence[Epoch]) -> str:
    """A line through one point cannot be seen."""
    return "." if len(history) == 1 else ""


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DOTS_AN_INCH)

"""What a comparison amounts to, as plain values: the one source of its page, table and JSON.

Nothing in it depends on when, where or how fast it was computed, so that the same command gives
the same files, byte for byte.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memx_fast.samm import composite, folds
from memx_fast.samm.bootstrap import DRAWS, intervals
from memx_fast.samm.comparison import Comparison, Entry
from memx_fast.samm.labels import Integers
from memx_fast.samm.metrics import Scores, score
from memx_fast.samm.report import PAPER, PUBLISHED, FoldResult, Report
from memx_fast.samm.study import Study

FIGURES = ("uar", "weighted_f1", "accuracy", "uf1")
"""Of the tables, in the order of their columns."""


def facts(comparison: Comparison) -> dict[str, Any]:
    """Everything, when all runs are done; shares from 0 to 1, rows of a confusion are the truth."""
    return {
        "data": comparison.source.place,
        "drawn": comparison.source.drawn,
        "crop": comparison.crop,
        "protocol": asdict(comparison.protocol),
        "caveats": list(folds.caveats(comparison.protocol.kind)),
        "bootstrap_draws": DRAWS,
        "versions": comparison.versions,
        "paper": PAPER,
        "defects": _defects(comparison),
        "tasks": [_task(comparison, classes) for classes in comparison.classes],
    }


def as_csv(found: Mapping[str, Any]) -> str:
    """The scores of :func:`facts`, a line for every entry of every task."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    bounds = [f"{figure}_{bound}" for figure in FIGURES for bound in ("low", "high")]
    writer.writerow(["classes", "protocol", "entry", "clips", *FIGURES, *bounds])
    for task in found["tasks"]:
        named = [entry for entry in task["entries"] if entry["name"] != "majority"]
        for entry in [*named, {"name": "majority", **task["majority"]}]:
            scores, limits = entry["scores"], entry["intervals"]
            writer.writerow(
                [task["classes"], found["protocol"]["kind"], entry["name"], scores["clips"]]
                + [f"{scores[figure]:.6f}" for figure in FIGURES]
                + [f"{limits[figure][b]:.6f}" for figure in FIGURES for b in ("low", "high")]
            )
    return lines.getvalue()


def as_lines(found: Mapping[str, Any]) -> str:
    """The scores of :func:`facts` for the screen, percentages."""
    tables = found["caveats"][:]
    for task in found["tasks"]:
        lines = [
            f"{task['classes']} classes, {task['clips']} clips of {task['people']} subjects",
            f"{'':42}{'UAR':>7} {'95 % of draws':>15}{'weighted F1':>13}{'accuracy':>10}{'UF1':>8}",
        ]
        lines_of = [entry for entry in task["entries"] if entry["name"] != "majority"]
        for entry in [*lines_of, {"title": "majority class", **task["majority"]}]:
            scores, uar = entry["scores"], entry["intervals"]["uar"]
            spread = f"{100 * uar['low']:.1f} to {100 * uar['high']:.1f}"
            lines.append(
                f"{entry['title']:42}{100 * scores['uar']:7.2f} {spread:>15}"
                f"{100 * scores['weighted_f1']:13.2f}{100 * scores['accuracy']:10.2f}"
                f"{100 * scores['uf1']:8.2f}"
            )
        lines += [f"{entry['title']}: {said}" for entry in lines_of for said in entry["caveats"]]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _defects(comparison: Comparison) -> list[str]:
    found = [
        str(defect)
        for classes in comparison.classes
        for defect in comparison.study(classes).defects
    ]
    return list(dict.fromkeys(found))


def _task(comparison: Comparison, classes: int) -> dict[str, Any]:
    study = comparison.study(classes)
    reports = comparison.reports(classes)
    any_report = next(iter(reports.values()))
    published = PUBLISHED[classes] if any_report.of_the_paper else ()
    return {
        "classes": classes,
        "names": list(study.task.classes),
        "clips": len(study.labels),
        "people": len(np.unique(study.subjects)),
        "counts": np.bincount(study.labels, minlength=classes).tolist(),
        "folds": [_fold(study, result) for result in any_report.results],
        "majority": _judged(study, any_report.results, any_report.majority_predicted),
        "published": [asdict(line) for line in published],
        "entries": [
            _entry(comparison, study, entry, reports[entry.name]) for entry in comparison.entries
        ],
    }


def _fold(study: Study, result: FoldResult) -> dict[str, Any]:
    """Who is judged in a fold, and by how many clips."""
    subjects = study.subjects[result.fold.test]
    return {"clips": len(subjects), "subjects": sorted(set(map(str, subjects)))}


def _entry(comparison: Comparison, study: Study, entry: Entry, report: Report) -> dict[str, Any]:
    classes = len(study.task.classes)
    method = comparison.method(classes, entry)
    comparison.run(classes, entry).restore(1, method)
    return {
        "name": entry.name,
        "title": entry.title,
        "method": entry.method,
        "source": method.source,
        "ablates": entry.ablates,
        "parameters": sum(method.parameters().values()),
        "notes": list(method.notes()),
        "caveats": list(method.caveats()),
        "settings": method.identity(),
        **_judged(study, report.results, report.predicted),
        "confusion": report.confusion.tolist(),
        "megc_2019": composite.as_json(report.parts),
        "subjects": _by_subject(study, report),
        "folds": [_learnt(study, result) for result in report.results],
        "predictions": report.predictions([clip.name for clip in study.clips]),
    }


def _judged(study: Study, results: Sequence[FoldResult], predicted: Integers) -> dict[str, Any]:
    """Scores over all folds and their intervals."""
    clips = np.concatenate([result.fold.test for result in results])
    truth = study.labels[clips]
    bounds = intervals(
        study.subjects[clips], truth, predicted, len(study.task.classes), study.protocol.seed
    )
    return {
        "scores": asdict(score(truth, predicted)),
        "intervals": {name: asdict(interval) for name, interval in bounds.items()},
    }


def _by_subject(study: Study, report: Report) -> dict[str, dict[str, int]]:
    """Clips and right ones of every person."""
    clips = np.concatenate([result.fold.test for result in report.results])
    subjects, right = study.subjects[clips], report.truth == report.predicted
    return {
        str(person): {
            "clips": int((subjects == person).sum()),
            "right": int(right[subjects == person].sum()),
        }
        for person in np.unique(subjects)
    }


def _learnt(study: Study, result: FoldResult) -> dict[str, Any]:
    """Scores of a fold, what was decided in it, and its learning curve."""
    scores: Scores = score(study.labels[result.fold.test], result.predicted)
    history = [
        {name: value for name, value in asdict(epoch).items() if name != "seconds"}
        for epoch in result.outcome.history
    ]
    return {
        "scores": asdict(scores),
        "chosen": result.outcome.chosen,
        "best_epoch": result.outcome.best_epoch,
        "history": history,
    }

"""The folder of a run: what was asked for, folds as they get done, and the report.

settings.json                what decides the outcome; a folder holds one run, never two
fold-1.checkpoint            while fold 1 is trained: all that is needed to go on
fold-1.json                  when it is done: its outcome,
fold-1.safetensors           the weights that were kept,
fold-1.card.json             and what they are
report.json, report.txt, confusion.png, and for methods that learn in epochs curves.png
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from memx_fast.files import replacing
from memx_fast.samm import checkpoints, plots
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.methods.interface import Method, Progress
from memx_fast.samm.metrics import score
from memx_fast.samm.report import FoldResult, Outcome, Report
from memx_fast.samm.study import Study
from memx_fast.samm.training import Epoch


def settings_of(study: Study, method: Method, crop: bool) -> dict[str, Any]:
    """All that decides what a method makes of a study, as plain values."""
    return {
        "data_sha256": study.digest(method.input),
        "method": method.name,
        "classes": len(study.task.classes),
        "crop": crop,
        **asdict(study.protocol),
        **method.identity(),
    }


def card_of(
    study: Study, method: Method, settings: dict[str, Any], versions: dict[str, str]
) -> Card:
    """What goes with the weights of a run with :func:`settings_of`."""
    return Card(
        method=method.name,
        classes=list(study.task.classes),
        **asdict(method.input),
        crop=settings["crop"],
        settings=settings,
        versions=versions,
        data=study.place,
    )


class Run:
    """One run in its folder.

    Args:
        folder: where; made if it does not exist.
        settings: all that decides the outcome, as plain values.

    Raises:
        ValueError: the folder holds a run with other settings, or something that is no run.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        record = folder / "settings.json"
        if record.is_file():
            found = _read_json(record, "choose another folder")
            names = [name for name in settings if found.get(name) != settings[name]]
            if names or len(found) != len(settings):
                raise ValueError(
                    f"out: {folder} holds a run with other settings ({', '.join(names)}; see "
                    f"{record}); choose another folder"
                )
            return
        if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise ValueError(f"out: {folder} exists and is no run; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(record, as_text(settings))

    def outcome(self, number: int) -> Outcome | None:
        """What came out of a fold, or None if it is not done. Folds count from 1.

        Raises:
            ValueError: the file that says so is damaged.
        """
        path = self._path(number, "json")
        if not path.is_file():
            return None
        remedy = "delete it to train this fold anew"
        stored = _read_json(path, remedy)
        try:
            history = [Epoch(**fields) for fields in stored.pop("history")]
            return Outcome(history=history, **stored)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; {remedy}") from error

    def train(
        self, number: int, study: Study, method: Method, card: Card, progress: Progress
    ) -> Outcome:
        """Fit a method to one fold, from where that was left; judge it, and keep what came out."""
        checkpoint = self._path(number, "checkpoint")
        training, validation, test = study.parts(method, number)
        fit = method.fit(
            training,
            validation,
            seed=(study.protocol.seed, number),
            checkpoint=checkpoint,
            progress=progress,
        )
        probabilities = method.predict(test.features).tolist()
        outcome = Outcome(fit.history, fit.best_epoch, probabilities, fit.chosen)
        if not method.machine.writes:
            return outcome
        card = replace(card, test=_test_scores(study, number, outcome))
        checkpoints.write(self._path(number, "safetensors"), method.state(), card)
        write_text(self._path(number, "json"), as_text(asdict(outcome)))
        checkpoint.unlink(missing_ok=True)
        return outcome

    def restore(self, number: int, method: Method) -> None:
        """Give a method what it learnt in a fold that is done."""
        weights, _ = checkpoints.read(self._path(number, "safetensors"))
        method.load_state(weights)

    def write_report(self, report: Report, facts: Mapping[str, Any]) -> None:
        """Write the report as text, as JSON with ``facts`` about the run, and as pictures."""
        write_text(self.folder / "report.txt", report.text() + "\n")
        write_text(self.folder / "report.json", as_text({**facts, **report.as_json()}))
        plots.draw_confusion(report, self.folder / "confusion.png")
        if any(result.outcome.history for result in report.results):
            plots.draw_curves(report, self.folder / "curves.png")

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"fold-{number}.{suffix}"


def short_name(settings: Mapping[str, Any]) -> str:
    """Eight letters that differ for different settings."""
    return hashlib.sha256(as_text(settings).encode()).hexdigest()[:8]


def _test_scores(study: Study, number: int, outcome: Outcome) -> dict[str, float]:
    """What a card says of the test clips."""
    result = FoldResult(study.split[number - 1], outcome)
    truth = study.labels[result.fold.test]
    scores = score(truth, result.predicted)
    return {
        "clips": scores.clips,
        "accuracy": scores.accuracy,
        "uar": scores.uar,
        "majority_accuracy": score(truth, result.majority(study.labels)).accuracy,
    }


def _is_foreign(path: Path) -> bool:
    """Whether a file is anything but what was left of an unfinished settings file."""
    return not path.name.startswith(".settings.json-")


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged; {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged; {remedy}")
    return found


def as_text(values: Mapping[str, Any]) -> str:
    """JSON for people."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())

"""The folder of a run: what was asked for, folds as they get done, and the report.

settings.json                what decides the outcome; a folder holds one run, never two
fold-1.checkpoint            while fold 1 is trained: all that is needed to go on
fold-1.json                  when it is done: its outcome,
fold-1.safetensors           the weights that were kept,
fold-1.card.json             and what they are
report.json, report.txt, confusion.png, curves.png
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memx_fast.samm import checkpoints, plots
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.files import replacing
from memx_fast.samm.report import Report
from memx_fast.samm.training import Epoch, Outcome, Trainer


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
        _write_text(record, _as_text(settings))

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

    def resume(self, number: int, trainer: Trainer) -> None:
        """Bring a trainer to where the fold was left, if it was begun."""
        checkpoint = self._path(number, "checkpoint")
        if checkpoint.is_file():
            trainer.load(checkpoint)

    def keep(self, number: int, trainer: Trainer) -> None:
        """Keep what has been trained so far of a fold."""
        trainer.save(self._path(number, "checkpoint"))

    def finish(self, number: int, trainer: Trainer, card: Card) -> Outcome:
        """Judge a trained fold, and keep its outcome and its weights with their card."""
        outcome = trainer.outcome()
        weights = self._path(number, "safetensors")
        checkpoints.write(weights, trainer.network.state_dict(), card)
        _write_text(self._path(number, "json"), _as_text(asdict(outcome)))
        self._path(number, "checkpoint").unlink(missing_ok=True)
        return outcome

    def write_report(self, report: Report, facts: Mapping[str, Any]) -> None:
        """Write the report as text, as JSON with ``facts`` about the run, and as pictures."""
        _write_text(self.folder / "report.txt", report.text() + "\n")
        _write_text(self.folder / "report.json", _as_text({**facts, **report.as_json()}))
        plots.draw_confusion(report, self.folder / "confusion.png")
        plots.draw_curves(report, self.folder / "curves.png")

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"fold-{number}.{suffix}"


def short_name(settings: Mapping[str, Any]) -> str:
    """Eight letters that differ for different settings."""
    return hashlib.sha256(_as_text(settings).encode()).hexdigest()[:8]


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


def _as_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())

"""``train-samm``: the paper's network and protocol on SAMM, from JPEG frames to a report.

"Micro-expression recognition using a shallow ConvLSTM-based network" (Shukla, Rai, Verlekar 2023).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch

import memx_fast
from memx_fast import backends
from memx_fast.samm import cache, dataset, folds, synthetic
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.labels import TASKS, taking_part
from memx_fast.samm.progress import bar
from memx_fast.samm.report import FoldResult, Report
from memx_fast.samm.runs import Run, short_name
from memx_fast.samm.training import Clips, Outcome, Recipe, Trainer, seconds_a_step

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _train(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"train-samm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ntrain-samm: interrupted; finished data and epochs are kept, and the same command "
            "goes on after them",
            file=sys.stderr,
        )
        return _INTERRUPTED
    return 0


def _train(options: argparse.Namespace) -> None:
    """Data, folds, report."""
    recipe = _recipe(options)
    _prepare_machine(options)
    found = _load(options)
    task = TASKS[options.classes]
    chosen, labels = taking_part(task, found.clips)
    frames = found.frames[chosen]
    clips = Clips(torch.from_numpy(frames), labels, len(task.classes))
    subjects = np.array([found.clips[index].subject for index in chosen])
    split = folds.split(labels, subjects, options.folds, options.seed)

    settings = {
        "data_sha256": _digest(
            frames, [found.clips[index].name for index in chosen], labels, split
        ),
        "classes": options.classes,
        "size": options.size,
        "frames": options.frames,
        "channels": options.channels,
        "crop": options.crop,
        "folds": options.folds,
        "seed": options.seed,
        **asdict(recipe),
    }
    source = "built-in" if options.data is None else options.data.resolve().name
    name = f"{source}-{options.classes}-classes-{short_name(settings)}"
    run = Run(options.out or Path("runs", name), settings)
    _introduce(options, clips, split[0], recipe, subjects, run)

    results = []
    for number, fold in enumerate(split, start=1):
        outcome = run.outcome(number)
        if outcome is None:
            trainer = _trainer(options, clips, fold, recipe, number)
            outcome = _train_fold(run, trainer, number, options, _card(options, settings))
        results.append(FoldResult(fold, outcome))

    report = Report(task, labels, results)
    facts = {
        "data": "built-in" if options.data is None else str(options.data.resolve()),
        "settings": settings,
        "versions": _versions(),
        "backend": backends.resolve(options.backend, torch.device(options.device)),
        "parameters": _trainer(options, clips, split[0], recipe, 1).network.parameter_counts(),
        "defects": [str(defect) for defect in found.defects],
        "predictions": _predictions(found.clips, chosen, labels, results),
    }
    run.write_report(report, facts)
    print(f"\n{report.text()}\n\nwritten to {run.folder}: report.txt, report.json, confusion.png,")
    print("curves.png, and for every fold its outcome (.json) and weights (.safetensors)")


def _prepare_machine(options: argparse.Namespace) -> None:
    """Threads, device and engine; what is wrong with them is said before any work is done."""
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads: got {options.threads}, expected at least 1")
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {options.device}, but PyTorch finds no CUDA device here")
    backends.resolve(options.backend, device)


def _digest(
    frames: np.ndarray, names: list[str], labels: np.ndarray, split: list[folds.Fold]
) -> str:
    """Changes whenever a clip, its label, or the part it plays in a fold does."""
    digest = hashlib.sha256(frames.tobytes())
    parts = [[part.tolist() for part in astuple(fold)] for fold in split]
    digest.update(json.dumps([names, labels.tolist(), parts]).encode())
    return digest.hexdigest()


def _load(options: argparse.Namespace) -> dataset.ClipSet:
    """The data set that was asked for; the built-in one is drawn first, if need be."""
    root = options.data
    if root is None:
        width, height = options.frame_size
        root = options.cache_dir / f"built-in-{width}x{height}-motion-{options.motion:g}"
        synthetic.generate(
            root, frame_size=options.frame_size, motion=options.motion, progress=True
        )
        print(f"built-in data (drawn faces, motion {options.motion:g}): {root}")
    return dataset.load(
        root,
        size=options.size,
        frames=options.frames,
        channels=options.channels,
        crop=options.crop,
        strict=options.strict,
        workbook=options.workbook,
        cache_dir=options.cache_dir,
        progress=True,
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    return Recipe(
        padding=options.padding,
        peephole=None if options.peephole == "none" else options.peephole,
        output_peephole=options.output_peephole,
        pool_stride=options.pool_stride,
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.learning_rate,
        plateau=options.plateau,
        patience=options.patience,
    )


def _trainer(
    options: argparse.Namespace, clips: Clips, fold: folds.Fold, recipe: Recipe, number: int
) -> Trainer:
    return Trainer(
        clips,
        fold,
        recipe,
        seed=options.seed,
        number=number,
        device=options.device,
        backend=options.backend,
    )


def _introduce(
    options: argparse.Namespace,
    clips: Clips,
    fold: folds.Fold,
    recipe: Recipe,
    subjects: np.ndarray,
    run: Run,
) -> None:
    """Say what will be done, and how long it may take."""
    task = TASKS[options.classes]
    counts = ", ".join(
        f"{name} {count}"
        for name, count in zip(task.classes, np.bincount(clips.labels), strict=True)
    )
    print(f"{len(clips.labels)} clips of {len(np.unique(subjects))} subjects: {counts}")
    trainer = _trainer(options, clips, fold, recipe, 1)
    parts = trainer.network.parameter_counts()
    listing = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    print(f"{sum(parts.values()):,} parameters: {listing}")
    engine = backends.resolve(options.backend, torch.device(options.device))
    print(f"seed {options.seed}; engine {engine} on {options.device}; results in {run.folder}")
    remaining = sum(run.outcome(number) is None for number in range(1, options.folds + 1))
    steps = remaining * recipe.epochs * trainer.steps_an_epoch
    if steps:
        minutes = math.ceil(steps * seconds_a_step(trainer, clips, recipe.batch) / 60)
        print(
            f"at most {minutes} minute{'s' * (minutes > 1)} for {remaining} "
            f"fold{'s' * (remaining > 1)}; less if training stops early"
        )


def _versions() -> dict[str, str]:
    return {"memx_fast": memx_fast.__version__, "torch": torch.__version__}


def _card(options: argparse.Namespace, settings: dict[str, Any]) -> Card:
    return Card(
        method="convlstm",
        classes=list(TASKS[options.classes].classes),
        size=options.size,
        frames=options.frames,
        channels=options.channels,
        crop=options.crop,
        settings=settings,
        versions=_versions(),
    )


def _train_fold(
    run: Run, trainer: Trainer, number: int, options: argparse.Namespace, card: Card
) -> Outcome:
    """Train one fold from where it was left to its end."""
    run.resume(number, trainer)
    steps = trainer.steps_an_epoch
    with bar(
        f"fold {number} of {options.folds}",
        options.epochs * steps,
        "batch",
        done=len(trainer.history) * steps,
    ) as done:
        while not trainer.finished:
            epoch = trainer.run_epoch(done.update)
            run.keep(number, trainer)
            done.set_postfix(
                epoch=epoch.number,
                loss=f"{epoch.training_loss:.3f}",
                validation_uar=f"{100 * epoch.validation_uar:.0f}%",
            )
    return run.finish(number, trainer, card)


def _predictions(
    clips: Sequence[Any], chosen: np.ndarray, labels: np.ndarray, results: Sequence[FoldResult]
) -> list[dict[str, Any]]:
    """One entry a test clip: its name, its label, what it was taken for and how surely."""
    return [
        {
            "clip": clips[chosen[index]].name,
            "fold": number,
            "label": int(labels[index]),
            "probabilities": probabilities,
        }
        for number, result in enumerate(results, start=1)
        for index, probabilities in zip(result.fold.test, result.outcome.probabilities, strict=True)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train-samm",
        description=(
            "Train the shallow ConvLSTM network for micro-expressions on SAMM, in five folds that "
            "share no subject, and report what it is worth beside the majority class. The defaults "
            "are the paper's protocol, where it gives one. A run that was interrupted goes on when "
            "the same command is given again."
        ),
        formatter_class=_Help,
    )
    _add_data_options(parser.add_argument_group("data"))
    _add_network_options(parser.add_argument_group("network"))
    _add_training_options(parser.add_argument_group("training"))
    _add_running_options(parser.add_argument_group("running"))
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def _add_data_options(group: Any) -> None:
    group.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="the SAMM release: workbook and <subject>/<clip>/*.jpg; without it, built-in drawn "
        "faces in the same format",
    )
    group.add_argument(
        "--workbook", type=Path, metavar="FILE", help="annotations, if not found in the folder"
    )
    group.add_argument("--classes", type=int, choices=sorted(TASKS), default=3, help="task")
    group.add_argument("--size", type=int, default=90, help="height and width, pixels")
    group.add_argument("--frames", type=int, default=9, help="frames a clip")
    group.add_argument("--channels", type=int, choices=(1, 3), default=1, help="1: greys")
    group.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut the face out, or resize the whole frame (default: crop)",
    )
    group.add_argument("--strict", action="store_true", help="refuse data with any defect")
    group.add_argument(
        "--motion",
        type=float,
        default=1.0,
        help="built-in data: strength of the movement; 0 leaves nothing to recognise",
    )
    group.add_argument(
        "--frame-size",
        type=_frame_size,
        default="340x272",
        metavar="WIDTHxHEIGHT",
        help="built-in data: pixels of its frames",
    )


def _add_network_options(group: Any) -> None:
    group.add_argument("--padding", choices=("valid", "same"), default="valid", help="of frames")
    group.add_argument(
        "--peephole", choices=("none", "channel", "spatial"), default="none", help="of the gates"
    )
    group.add_argument(
        "--output-peephole",
        choices=("previous", "current"),
        default="previous",
        help="the cell state the output gate sees",
    )
    group.add_argument("--pool-stride", type=int, default=1, help="of the max-pooling")


def _add_training_options(group: Any) -> None:
    group.add_argument("--folds", type=int, default=5, help="folds, without a subject in two")
    group.add_argument("--epochs", type=int, default=50, help="at most so many")
    group.add_argument("--batch", type=int, default=16, help="clips a step")
    group.add_argument("--learning-rate", type=float, default=1e-4, help="of Adam, at the start")
    group.add_argument(
        "--plateau",
        type=int,
        default=5,
        help="epochs without a better validation loss before the learning rate is halved",
    )
    group.add_argument(
        "--patience",
        type=int,
        default=10,
        help="epochs without as good a validation recall before training stops",
    )
    group.add_argument("--seed", type=int, default=0, help="of folds, weights and epochs")


def _add_running_options(group: Any) -> None:
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="results; by default a new folder in runs/"
    )
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="FOLDER",
        default=cache.default_folder(),
        help="where decoded frames and the built-in data are kept",
    )
    group.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train"
    )
    group.add_argument("--backend", default="auto", help="engine of the ConvLSTM")
    group.add_argument("--threads", type=int, help="threads; by default one a core")


def _frame_size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        message = f"got {text!r}, expected width and height in pixels, such as 340x272"
        raise argparse.ArgumentTypeError(message) from None
    return width, height


if __name__ == "__main__":
    sys.exit(main())

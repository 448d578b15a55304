"""``train-samm`` by itself: one method under one protocol, from JPEG frames to a report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from memx_fast import backends
from memx_fast.samm import folds
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.commands import shared
from memx_fast.samm.labels import TASKS
from memx_fast.samm.methods import METHODS, Machine, Method, create
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.methods.convlstm import Settings
from memx_fast.samm.report import FoldResult, Outcome, Report
from memx_fast.samm.runs import Run, card_of, settings_of, short_name
from memx_fast.samm.sources import FlowPictures
from memx_fast.samm.study import AnySource, Protocol, Study, open_study
from memx_fast.samm.training import seconds_a_step


def run(options: argparse.Namespace) -> int:
    """Data, folds, report. Returns the exit status."""
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads: got {options.threads}, expected at least 1")
        torch.set_num_threads(options.threads)
    machine = shared.machine(options)
    method = _method(options, machine)
    source = _source(options)
    protocol = Protocol(options.protocol or source.protocols[0], options.folds, options.seed)
    study = open_study(source, options.classes, protocol, [method.input])

    settings = settings_of(study, method, options.crop)
    name = f"{source.name}-{options.classes}-classes-{short_name(settings)}"
    place = Run(options.out or Path("runs", name), settings)
    _introduce(study, method, place)

    card = card_of(study, method, settings, shared.versions())
    results = []
    for number, fold in enumerate(study.split, start=1):
        outcome = place.outcome(number) or _train_fold(place, number, study, method, card)
        results.append(FoldResult(fold, outcome))

    place.restore(1, method)  # of all folds: numbers of parameters are told by what was learnt
    datasets = [clip.dataset for clip in study.clips]
    caveats = (*folds.caveats(protocol.kind), *method.caveats())
    report = Report(study.task, study.labels, results, datasets, caveats)
    facts = {
        "data": source.place,
        "settings": settings,
        "versions": shared.versions(),
        "backend": backends.resolve(options.backend, torch.device(options.device)),
        "parameters": method.parameters(),
        "notes": method.notes(),
        "defects": [str(defect) for defect in study.defects],
        "predictions": report.predictions([clip.name for clip in study.clips]),
    }
    place.write_report(report, facts)
    files = ", ".join(
        path.name for path in sorted(place.folder.iterdir()) if "fold-" not in path.name
    )
    print(f"\n{report.text()}\n\nwritten to {place.folder}: {files},")
    print("and for every fold its outcome (.json) and what was learnt (.safetensors)")
    return 0


def _method(options: argparse.Namespace, machine: Machine) -> Method:
    """The method with the settings that were given; the others are its defaults."""
    given: dict[str, Any] = dict(shared.assignments(options.set))
    for field in fields(Settings):
        value = getattr(options, field.name)
        if value is not None:
            given[field.name] = value
    if options.weights is not None:
        given["weights"] = str(options.weights)
    if options.flow_images is not None:
        reason = METHODS[options.method].needs_frames
        if reason:
            able = ", ".join(name for name, kind in METHODS.items() if not kind.needs_frames)
            raise ValueError(
                f"flow-images: got {options.flow_images} for {options.method}, expected --method "
                f"{able}; of {options.method}, {reason}"
            )
        given["flow"] = "ready"
    elif given.get("flow") == "ready":
        raise ValueError("flow: got ready, expected the folder with it as well (--flow-images)")
    return create(options.method, options.classes, given, machine)


def _source(options: argparse.Namespace) -> AnySource:
    """The data that was asked for: frames, or ready flow."""
    if options.flow_images is None:
        return shared.source(options)
    for name in ("data", "dataset", "workbook"):
        if getattr(options, name) is not None:
            raise ValueError(f"flow-images: got --{name} as well, expected one or the other")
    return FlowPictures(options.flow_images, options.strict)


def _introduce(study: Study, method: Method, run: Run) -> None:
    """Say what will be done, and how long it may take."""
    classes = len(study.task.classes)
    people = len(set(study.subjects))
    counts = shared.count_classes(classes, study.labels)
    print(f"{len(study.labels)} clips of {people} subjects: {counts}")
    print(": ".join(filter(None, (method.title, shared.describe_parameters(method)))))
    for note in method.notes():
        print(f"  {note}")
    engine = backends.resolve(method.machine.backend, torch.device(method.machine.device))
    print(
        f"seed {study.protocol.seed}; engine {engine} on {method.machine.device}; "
        f"results in {run.folder}"
    )
    for caveat in folds.caveats(study.protocol.kind):
        print(caveat)
    remaining = sum(run.outcome(number) is None for number in range(1, len(study.split) + 1))
    if not remaining or not isinstance(method, NetworkMethod):
        return
    training, validation, _ = study.parts(method, 1)
    trainer = method.trainer(training, validation)
    steps = remaining * method.settings.epochs * trainer.steps_an_epoch
    minutes = math.ceil(steps * seconds_a_step(trainer, training, method.settings.batch) / 60)
    print(
        f"at most {minutes} minute{'s' * (minutes > 1)} for {remaining} "
        f"fold{'s' * (remaining > 1)}; less if training stops early"
    )


def _train_fold(run: Run, number: int, study: Study, method: Method, card: Card) -> Outcome:
    """Train one fold from where it was left to its end."""
    with closing(shared.Bar(f"fold {number} of {len(study.split)}")) as progress:
        return run.train(number, study, method, card, progress)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="train-samm",
        description=(
            "Train the shallow ConvLSTM network, or another method, for micro-expressions on SAMM "
            "or other data sets, in five folds that share no subject, and report what it is worth "
            "beside the majority class. The defaults are the paper's protocol, where it gives one. "
            "A run that was interrupted goes on when the same command is given again."
        ),
        formatter_class=shared.Help,
    )
    data = parser.add_argument_group("data")
    shared.add_data_options(data)
    data.add_argument(
        "--flow-images",
        type=Path,
        metavar="FOLDER",
        help="instead of frames, ready pictures of u, v and strain, 28x28 pixels, in the layout of "
        "STSTNet: <subject>/u_test/<class>/*.png, or *.png and a table; off-apexnet only",
    )
    data.add_argument("--classes", type=int, choices=sorted(TASKS), default=3, help="task")
    _add_setting(data, "size", "height and width, pixels")
    _add_setting(data, "frames", "frames a clip")
    _add_setting(data, "channels", "1: greys", choices=(1, 3))
    _add_method_options(parser.add_argument_group("method"))
    _add_network_options(parser.add_argument_group("network"))
    _add_training_options(parser.add_argument_group("training"))
    running = parser.add_argument_group("running")
    shared.add_running_options(running)
    running.add_argument("--threads", type=int, help="threads; by default one a core")
    return parser


def _add_method_options(group: Any) -> None:
    group.add_argument("--method", choices=list(METHODS), default="convlstm", help="what to train")
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="pretrained ones of VGG-16 as safetensors, for elrcn",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that has no option of its own; a wrong name lists them all",
    )


def _add_network_options(group: Any) -> None:
    _add_setting(group, "padding", "of frames", choices=("valid", "same"))
    _add_setting(group, "peephole", "of the gates", choices=("none", "channel", "spatial"))
    _add_setting(
        group,
        "output_peephole",
        "the cell state the output gate sees",
        choices=("previous", "current"),
    )
    _add_setting(group, "gates", "activation of the gates", choices=("sigmoid", "hard_sigmoid"))
    _add_setting(group, "pool_stride", "of the max-pooling")


def _add_training_options(group: Any) -> None:
    group.add_argument(
        "--protocol",
        choices=folds.PROTOCOLS,
        help="loso leaves one subject out at a time; paper-like decides on the test clips, and "
        "shows how much that adds (default: folds; of several data sets, loso)",
    )
    group.add_argument("--folds", type=int, default=5, help="folds, without a subject in two")
    _add_setting(group, "epochs", "at most so many")
    _add_setting(group, "batch", "clips a step")
    _add_setting(group, "learning_rate", "of Adam, at the start")
    _add_setting(
        group,
        "plateau",
        "epochs without a better validation loss before the learning rate is halved",
    )
    _add_setting(
        group, "patience", "epochs without as good a validation recall before training stops"
    )
    group.add_argument("--seed", type=int, default=0, help="of folds, weights and epochs")


def _add_setting(group: Any, name: str, text: str, choices: Sequence[Any] | None = None) -> None:
    """An option for a setting of convlstm; not given, every method has its own default."""
    default = getattr(Settings, name)
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=type(default),
        choices=choices,
        help=f"{text} (default: {default})",
    )

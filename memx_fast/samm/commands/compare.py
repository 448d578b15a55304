"""``train-samm compare``: many methods on the same clips and folds, and one report of all."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from memx_fast.samm import comparison_facts, comparison_page
from memx_fast.samm.commands import shared
from memx_fast.samm.comparison import Comparison, Job, carry_out, entries
from memx_fast.samm.folds import PROTOCOLS
from memx_fast.samm.labels import TASKS
from memx_fast.samm.methods import METHODS
from memx_fast.samm.progress import bar
from memx_fast.samm.ranks import Ranks, joined
from memx_fast.samm.runs import as_text, short_name, write_text
from memx_fast.samm.study import Protocol
from memx_fast.samm.workers import keep_quiet


def run(options: argparse.Namespace) -> int:
    """Runs, then report. Returns the exit status."""
    with joined() as ranks, shared.warnings_once():
        if options.ddp and not ranks.launched:
            raise ValueError("ddp: it shares batches among the processes of torchrun; use torchrun")
        if not ranks.first:
            keep_quiet()
        processes = _processes(options)
        comparison = planned(options, ranks)
        if ranks.first:
            comparison.open()
            _introduce(comparison)
        ranks.wait()  # by now frames are decoded and folders are there
        if not ranks.first:
            comparison.open()
        _carry_out(comparison, ranks, processes)
        if ranks.first:
            _report(comparison)
    return 0


def planned(options: argparse.Namespace, ranks: Ranks) -> Comparison:
    """What was asked for, nothing of it done."""
    machine = shared.machine(options, shards=options.ddp)
    lines = entries(_methods(options.methods), _settings(options), options.ablate)
    source = shared.source(options)
    protocol = Protocol(options.protocol or source.protocols[0], options.folds, options.seed)
    comparison = Comparison(
        options.out or Path(),
        source,
        options.crop,
        protocol,
        sorted(set(options.classes)),
        lines,
        replace(machine, device=ranks.device(machine.device)),
        shared.versions(),
    )
    if options.out is None:
        kind = {"data": source.place, "crop": options.crop, **asdict(protocol)}
        comparison.folder = Path("runs", f"{source.name}-compared-{short_name(kind)}")
    return comparison


def _methods(names: Sequence[str]) -> list[str]:
    if "all" in names:
        return list(METHODS)
    for name in names:
        if name not in METHODS:
            raise ValueError(f"methods: got {name!r}, expected all, or {', '.join(METHODS)}")
    return list(names)


def _settings(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of each method: the epochs where it has any, and what ``--set`` says."""
    found: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    for name, method in METHODS.items():
        known = {field.name for field in fields(method.Settings)}
        if options.epochs is not None and "epochs" in known:
            found[name]["epochs"] = options.epochs
    for key, value in shared.assignments(options.set).items():
        name, dot, setting = key.partition(".")
        if not dot or name not in METHODS:
            raise ValueError(
                f"set: got {key!r}, expected METHOD.NAME=VALUE with one of {', '.join(METHODS)}"
            )
        found[name][setting] = value
    return found


def _processes(options: argparse.Namespace) -> int:
    if options.workers is None:
        return len(os.sched_getaffinity(0))
    if options.workers < 1:
        raise ValueError(f"workers: got {options.workers}, expected at least 1")
    return int(options.workers)


def _introduce(comparison: Comparison) -> None:
    """Say what will be done."""
    for classes in comparison.classes:
        study = comparison.study(classes)
        people = len(set(study.subjects))
        counts = shared.count_classes(classes, study.labels)
        print(f"{len(study.labels)} clips of {people} subjects: {counts}")
    print(f"{len(comparison.entries)} lines: {', '.join(e.title for e in comparison.entries)}")
    print(f"{len(comparison.jobs())} folds to do; results in {comparison.folder}", flush=True)


def _carry_out(comparison: Comparison, ranks: Ranks, processes: int) -> None:
    folds = comparison.jobs()
    with bar("folds", len(folds), "fold", hidden=not folds) as progress:

        def done(job: Job) -> None:
            progress.set_postfix_str(str(job))
            progress.update(job.fold > 0)

        carry_out(comparison, ranks, processes, done)


def _report(comparison: Comparison) -> None:
    found = comparison_facts.facts(comparison)
    folder = comparison.folder
    write_text(folder / "report.json", as_text(found))
    write_text(folder / "scores.csv", comparison_facts.as_csv(found))
    write_text(folder / "report.html", comparison_page.page(found))
    print(f"\n{comparison_facts.as_lines(found)}\n")
    print(f"written to {folder}: report.html, report.json, scores.csv,")
    print("and every run with what was learnt in it in a folder of its own")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="train-samm compare",
        description=(
            "Train methods on the same clips and folds, and write one report: the tables of the "
            "paper with its figures and ours, confidence intervals, confusion matrices, learning "
            "curves, results by subject. Folds run in parallel. What was interrupted goes on when "
            "the same command is given again; methods and tasks can be added later."
        ),
        epilog=_listing(),
        formatter_class=shared.Help,
    )
    data = parser.add_argument_group("data")
    shared.add_data_options(data)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--methods", nargs="+", default=["all"], metavar="METHOD", help="all, or some of the below"
    )
    group.add_argument(
        "--classes", type=int, nargs="+", choices=sorted(TASKS), default=[3], help="tasks"
    )
    group.add_argument(
        "--ablate", action="store_true", help="also the paper's network with one thing changed"
    )
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="see train-samm (default: folds; of several data sets, loso)",
    )
    group.add_argument("--folds", type=int, default=5, help="folds, without a subject in two")
    group.add_argument("--seed", type=int, default=0, help="of folds, weights and epochs")
    group.add_argument("--epochs", type=int, help="of every network, at most; by default its own")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a setting of a method; a wrong name lists them all",
    )
    running = parser.add_argument_group("running")
    shared.add_running_options(running)
    running.add_argument(
        "--workers",
        type=int,
        help="processes, each with one thread; by default one for each core they may use",
    )
    running.add_argument(
        "--ddp",
        action="store_true",
        help="under torchrun: share batches instead of folds among its processes",
    )
    return parser


def _listing() -> str:
    names: Mapping[str, str] = {name: method.title for name, method in METHODS.items()}
    return "methods: " + "; ".join(f"{name} ({title})" for name, title in names.items())

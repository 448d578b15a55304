"""Many methods on the same clips and folds: which runs that takes, where they lie, who does them.

A comparison is a folder:

comparison.json              what is compared, and under which protocol
3-classes/convlstm/...       a run of every entry for every task, see :mod:`memx_fast.samm.runs`
report.html, report.json, scores.csv
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memx_fast.samm import folds, workers
from memx_fast.samm.methods import METHODS, Machine, Method, Progress, create
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.ranks import Ranks
from memx_fast.samm.report import FoldResult, Report
from memx_fast.samm.runs import Run, as_text, card_of, settings_of, write_text
from memx_fast.samm.study import AnySource, Protocol, Study, open_study

RECORD = "comparison.json"


@dataclass(frozen=True)
class Entry:
    """A line of the tables: a method with its settings.

    Attributes:
        name: of its folder.
        title: for people.
        method: one of :data:`memx_fast.samm.methods.METHODS`.
        settings: those that differ from the method's defaults.
        ablates: whether it is there to show what one change does to the paper's network.
    """

    name: str
    title: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ablates: bool = False


_ABLATIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("frames padded with zeros", {"padding": "same"}),
    ("peephole a channel", {"peephole": "channel"}),
    ("peephole a pixel", {"peephole": "spatial"}),
    (
        "peephole a pixel, output gate sees C_t",
        {"peephole": "spatial", "output_peephole": "current"},
    ),
    ("hard-sigmoid gates", {"gates": "hard_sigmoid"}),
    ("red, green, blue", {"channels": 3}),
    ("pooling of stride 2", {"pool_stride": 2}),
)


def entries(
    methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]], ablate: bool = False
) -> list[Entry]:
    """The lines of a comparison.

    Args:
        methods: by name.
        settings: of each method, those that differ from its defaults.
        ablate: also the paper's network with one thing changed at a time.
    """
    found = [
        Entry(name, METHODS[name].title, name, dict(settings.get(name, {})))
        for name in METHODS
        if name in methods
    ]
    if ablate:
        own = settings.get("convlstm", {})
        found += [
            Entry(_folder_name(changes), title, "convlstm", {**own, **changes}, ablates=True)
            for title, changes in _ABLATIONS
        ]
    return found


def _folder_name(changes: Mapping[str, Any]) -> str:
    words = [f"{name}-{value}" for name, value in changes.items()]
    return "-".join(["convlstm", *words]).replace("_", "-")


@dataclass(frozen=True)
class Job:
    """Something that one process does: a fold, or before all folds a share of the features.

    Attributes:
        classes: the task.
        entry: by its name.
        fold: from 1; 0 for features, which are kept on disk.
        share: which clips: every one of ``shares``, from this one on.
    """

    classes: int
    entry: str
    fold: int = 0
    share: int = 0
    shares: int = 1

    def __str__(self) -> str:
        part = f"fold {self.fold}" if self.fold else f"features {self.share + 1}/{self.shares}"
        return f"{self.classes} classes, {self.entry}, {part}"


@dataclass
class Comparison:
    """Entries under one protocol; every process has a copy, and opens what it needs.

    Attributes:
        folder: of the comparison.
        source: of the clips.
        crop: whether faces are cut out, or whole frames seen.
        protocol: of all runs.
        classes: the tasks.
        entries: what is compared.
        machine: where to compute.
        versions: for the cards.
    """

    folder: Path
    source: AnySource
    crop: bool
    protocol: Protocol
    classes: Sequence[int]
    entries: Sequence[Entry]
    machine: Machine
    versions: dict[str, str]
    _studies: dict[int, Study] = field(default_factory=dict, repr=False)
    _methods: dict[tuple[int, str], Method] = field(default_factory=dict, repr=False)
    _runs: dict[tuple[int, str], Run] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what a process opens for itself."""
        return {**vars(self), "_studies": {}, "_methods": {}, "_runs": {}}

    def study(self, classes: int) -> Study:
        """The clips and folds of a task, the same for every entry."""
        if classes not in self._studies:
            inputs = [self.method(classes, entry).input for entry in self.entries]
            self._studies[classes] = open_study(self.source, classes, self.protocol, inputs)
        return self._studies[classes]

    def method(self, classes: int, entry: Entry) -> Method:
        """What an entry trains."""
        key = classes, entry.name
        if key not in self._methods:
            self._methods[key] = create(entry.method, classes, entry.settings, self.machine)
        return self._methods[key]

    def run(self, classes: int, entry: Entry) -> Run:
        """Its folder.

        Raises:
            ValueError: it holds a run with other settings.
        """
        key = classes, entry.name
        if key not in self._runs:
            settings = settings_of(self.study(classes), self.method(classes, entry), self.crop)
            self._runs[key] = Run(self.folder / f"{classes}-classes" / entry.name, settings)
        return self._runs[key]

    def open(self) -> None:
        """Make the folder and those of all runs, or go on with what is there.

        What the folder compares already stays part of it: a method can be added later, and costs
        no more than itself.

        Raises:
            ValueError: something else is there, or runs with other settings.
        """
        path = self.folder / RECORD
        if path.is_file():
            self._take_in(_read_record(path))
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(
                f"out: {self.folder} exists and is no comparison; choose another folder"
            )
        for classes in self.classes:  # what is wrong with data or settings is said before writing
            self.study(classes)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, as_text(self.record()))
        for classes in self.classes:
            for entry in self.entries:
                self.run(classes, entry)

    def record(self) -> dict[str, Any]:
        """What is compared, as plain values."""
        return {
            "crop": self.crop,
            **asdict(self.protocol),
            "classes": list(self.classes),
            "entries": [asdict(entry) for entry in self.entries],
        }

    def _take_in(self, earlier: dict[str, Any]) -> None:
        """Add what an earlier comparison in the same folder has."""
        known = {entry.name: entry for entry in self.entries}
        own = self.record()
        differing = [name for name in own if name not in ("classes", "entries")]
        differing = [name for name in differing if earlier.get(name) != own[name]]
        for fields in earlier["entries"]:
            entry = Entry(**fields)
            if known.setdefault(entry.name, entry) != entry:
                differing.append(f"settings of {entry.name}")
        if differing:
            raise ValueError(
                f"out: {self.folder} holds a comparison that differs in {', '.join(differing)} "
                f"(see {self.folder / RECORD}); choose another folder"
            )
        self.classes = sorted({*self.classes, *earlier["classes"]})
        self.entries = sorted(known.values(), key=_place)

    def jobs(self) -> list[Job]:
        """The folds that are not done, in an order that leaves no process idle for long."""
        networks_first = sorted(
            self.entries, key=lambda entry: not issubclass(METHODS[entry.method], NetworkMethod)
        )
        return [
            Job(classes, entry.name, number)
            for entry in networks_first
            for classes in self.classes
            for number in range(1, len(self.study(classes).split) + 1)
            if self.run(classes, entry).outcome(number) is None
        ]

    def preparations(self, jobs: Sequence[Job], shares: int) -> list[Job]:
        """Jobs that compute the features of these folds; in shares, so that none is done twice."""
        keeping = {e.name for e in self.entries if METHODS[e.method].keeps_features}
        kinds = dict.fromkeys((job.classes, job.entry) for job in jobs if job.entry in keeping)
        return [Job(*kind, share=share, shares=shares) for kind in kinds for share in range(shares)]

    def __call__(self, job: Job) -> None:
        """Do a job."""
        entry = next(entry for entry in self.entries if entry.name == job.entry)
        study, method = self.study(job.classes), self.method(job.classes, entry)
        if not job.fold:
            study.compute_features(method, slice(job.share, None, job.shares))
            return
        run = self.run(job.classes, entry)
        if run.outcome(job.fold) is None:
            card = card_of(study, method, dict(run.settings), self.versions)
            run.train(job.fold, study, method, card, Progress())

    def reports(self, classes: int) -> dict[str, Report]:
        """What came out, by the names of the entries, when all is done."""
        study = self.study(classes)
        found = {}
        for entry in self.entries:
            run = self.run(classes, entry)
            results = []
            for number, fold in enumerate(study.split, start=1):
                outcome = run.outcome(number)
                assert outcome is not None, f"{run.folder}: fold {number} is not done"
                results.append(FoldResult(fold, outcome))
            datasets = [clip.dataset for clip in study.clips]
            caveats = (
                *folds.caveats(self.protocol.kind),
                *self.method(classes, entry).caveats(),
            )
            found[entry.name] = Report(study.task, study.labels, results, datasets, caveats)
        return found


def carry_out(
    comparison: Comparison,
    ranks: Ranks,
    processes: int,
    done: Callable[[Job], object] = lambda job: None,
) -> None:
    """Do all that is not done.

    By itself, in some processes of this machine; under ``torchrun``, the ranks share the jobs, or
    do them one after the other together where the machine shares batches.

    Args:
        comparison: what to do; its folders are open.
        ranks: this process among others.
        processes: how many to start, where ``torchrun`` has started none.
        done: told of every job that this process has done, or started others to do.
    """
    trainings = comparison.jobs()
    features = comparison.preparations(trainings, ranks.count if ranks.launched else processes)
    if not ranks.launched:
        workers.spread(comparison, features, processes, done)
        workers.spread(comparison, trainings, processes, done)
        return
    workers.compute_alone()
    _do_mine(comparison, features, ranks, done)
    if not comparison.machine.shards:
        _do_mine(comparison, trainings, ranks, done)
        return
    for job in trainings:
        comparison(job)
        done(job)
        ranks.wait()


def _do_mine(
    comparison: Comparison, jobs: Sequence[Job], ranks: Ranks, done: Callable[[Job], object]
) -> None:
    """Every rank does its share; they go on together."""
    for job in jobs[ranks.rank :: ranks.count]:
        comparison(job)
        done(job)
    ranks.wait()


def _place(entry: Entry) -> tuple[bool, int]:
    """Order of the lines; those of one ablation keep theirs."""
    return entry.ablates, 0 if entry.ablates else list(METHODS).index(entry.method)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for fields in found["entries"]:
            Entry(**fields)
        found["classes"] = [int(classes) for classes in found["classes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"out: {path} is damaged; choose another folder") from error
    return found

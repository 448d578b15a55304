"""One task on one data set under one protocol: the same clips and folds for every method."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from memx_fast.samm import augmentation, dataset, folds, miniatures, synthetic
from memx_fast.samm.annotations import Clip, Defect
from memx_fast.samm.dataset import ClipSet
from memx_fast.samm.folds import Fold
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.labels import TASKS, Integers, Task, taking_part
from memx_fast.samm.methods.interface import Input, Method
from memx_fast.samm.sampling import sample
from memx_fast.samm.training import Examples

BUILT_IN = "built-in drawn faces"
"""What the built-in data is called, for people."""

_log = logging.getLogger(__name__)


class AnySource(ABC):
    """Where clips come from.

    Attributes:
        tasks: the numbers of classes that there can be.
        protocols: how its clips can be dealt out, the usual way first.
    """

    tasks: ClassVar[Collection[int]] = tuple(TASKS)
    protocols: ClassVar[Sequence[str]] = folds.PROTOCOLS

    @property
    @abstractmethod
    def name(self) -> str:
        """For the names of folders."""

    @property
    @abstractmethod
    def place(self) -> str:
        """For people."""

    @property
    def drawn(self) -> bool:
        """Whether its faces are drawn, and say nothing about people."""
        return False

    @abstractmethod
    def load(self, wanted: Input) -> ClipSet:
        """All clips, their frames as a method wants them."""


@dataclass(frozen=True)
class Source(AnySource):
    """One data set; everything but ``cache_dir`` and ``progress`` decides what its clips are.

    Attributes:
        root: folder of the release, or None for the built-in data.
        cache_dir: where decoded frames and the built-in data are kept.
        workbook: the annotations, if not found in ``root``.
        crop: cut the face out, or resize the whole frame.
        strict: refuse data with any defect.
        motion: of the built-in data: strength of the movement.
        frame_size: of the built-in data: width and height of its frames, pixels.
        progress: show bars.
        dataset: its format; None recognises that of a folder, and draws built-in data like SAMM.
    """

    root: Path | None
    cache_dir: Path
    workbook: Path | None = None
    crop: bool = True
    strict: bool = False
    motion: float = 1.0
    frame_size: tuple[int, int] = (340, 272)
    progress: bool = True
    dataset: str | None = None

    @property
    def name(self) -> str:
        """For the names of folders."""
        if self.root is not None:
            return self.root.resolve().name
        return f"built-in-{self.dataset}" if self._miniature else "built-in"

    @property
    def place(self) -> str:
        """For people."""
        if self.root is not None:
            return str(self.root.resolve())
        like = f" in the format of {FORMATS[self._miniature].title}" if self._miniature else ""
        return f"{BUILT_IN}{like}, motion {self.motion:g}"

    @property
    def drawn(self) -> bool:
        """Whether it is the built-in data."""
        return self.root is None

    def folder(self) -> Path:
        """Where the data is; the built-in one is drawn first, if need be."""
        if self.root is not None:
            return self.root
        width, height = self.frame_size
        root = self.cache_dir / f"{self.name}-{width}x{height}-motion-{self.motion:g}"
        if self._miniature:
            miniatures.generate(
                root, self._miniature, frame_size=self.frame_size, motion=self.motion
            )
        else:
            synthetic.generate(
                root, frame_size=self.frame_size, motion=self.motion, progress=self.progress
            )
        return root

    def load(self, wanted: Input) -> ClipSet:
        """All clips, their frames as a method wants them."""
        return dataset.load(
            self.folder(),
            size=wanted.size,
            frames=wanted.frames,
            channels=wanted.channels,
            crop=self.crop,
            strict=self.strict,
            dataset=self.dataset,
            workbook=self.workbook,
            cache_dir=self.cache_dir,
            progress=self.progress,
        )

    @property
    def _miniature(self) -> str:
        """The format that is drawn small; empty for that of SAMM."""
        wanted = self.dataset or ""
        return wanted if wanted in miniatures.MINIATURES else ""


@dataclass(frozen=True)
class Protocol:
    """How clips are dealt out, and what is decided on which of them.

    Attributes:
        kind: one of :data:`memx_fast.samm.folds.PROTOCOLS`.
        count: number of folds; leave-one-subject-out has as many as subjects instead.
        seed: start of all random numbers.
    """

    kind: str = "folds"
    count: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """Clips, labels and folds, the same for every method.

    Attributes:
        task: the classes.
        protocol: how the folds were made.
        clips: annotations of the clips that take part, N.
        labels: their classes, (N,).
        subjects: who is in them, (N,).
        split: the folds.
        frames: what the methods see, uint8 (N, T, C, H, W), by the input they want.
        defects: everything found wrong with the data.
        place: where the clips come from, for people.
    """

    task: Task
    protocol: Protocol
    clips: list[Clip]
    labels: Integers
    subjects: np.ndarray
    split: list[Fold]
    frames: dict[Input, Tensor]
    defects: list[Defect]
    place: str
    _features: dict[Method, Tensor] = field(default_factory=dict, repr=False)

    def apexes(self, wanted: Input) -> Integers:
        """Index of the apex among the frames of each clip, (N,); 0 where a picture is all."""
        if wanted.frames == 1:
            return np.zeros(len(self.clips), dtype=np.int64)
        numbers = [
            sample(clip.onset, clip.apex, clip.offset, wanted.frames).index(clip.apex)
            for clip in self.clips
        ]
        return np.array(numbers, dtype=np.int64)

    def features(self, method: Method) -> Tensor:
        """What a method computes from each clip, (N, ...); computed once."""
        if method not in self._features:
            wanted = method.input
            self._features[method] = method.features(self.frames[wanted], self.apexes(wanted))
        return self._features[method]

    def compute_features(self, method: Method, clips: slice) -> None:
        """Have the features of some clips computed by a method that keeps them on disk."""
        wanted = method.input
        method.features(self.frames[wanted][clips], self.apexes(wanted)[clips])

    def parts(self, method: Method, number: int) -> tuple[Examples, Examples, Examples]:
        """What a method learns from, decides by, and is judged by in a fold; folds count from 1."""
        fold = self.split[number - 1]
        training, validation = (
            self._examples(method, part, number) for part in (fold.training, fold.validation)
        )
        if fold.test is fold.validation:
            return training, validation, validation
        return training, validation, self._examples(method, fold.test, number)

    def digest(self, wanted: Input) -> str:
        """Changes whenever a clip, its label, or the part it plays in a fold does."""
        digest = hashlib.sha256(self.frames[wanted].numpy().tobytes())
        parts = [[part.tolist() for part in astuple(fold)] for fold in self.split]
        names = [clip.name for clip in self.clips]
        digest.update(json.dumps([names, self.labels.tolist(), parts]).encode())
        return digest.hexdigest()

    def _examples(self, method: Method, indices: Integers, number: int) -> Examples:
        """Clips by their indices; each that is there before is an altered copy."""
        features = self.features(method)[torch.from_numpy(indices)]
        copies = np.setdiff1d(np.arange(len(indices)), np.unique(indices, return_index=True)[1])
        if len(copies):
            wanted = method.input
            altered = self._altered(wanted, indices[copies], number)
            own = method.features(altered, self.apexes(wanted)[indices[copies]])
            features = features.index_copy(0, torch.from_numpy(copies), own)
        return Examples(features, self.labels[indices])

    def _altered(self, wanted: Input, indices: Integers, number: int) -> Tensor:
        """Frames as augmentation alters them, the same ones whenever asked for."""
        random = np.random.default_rng([self.protocol.seed, number, len(indices)])
        frames = self.frames[wanted][torch.from_numpy(indices)].float() / 255
        altered = torch.stack([augmentation.alter(clip, random) for clip in frames])
        return (altered * 255).round().byte()


def open_study(
    source: AnySource, classes: int, protocol: Protocol, inputs: Sequence[Input]
) -> Study:
    """Read the clips and deal them out.

    Clips that cannot be read for one of the inputs take no part for any.

    Args:
        source: where the clips come from.
        classes: number of classes, a key of :data:`memx_fast.samm.labels.TASKS`.
        protocol: how to deal them out.
        inputs: what the methods want to see.

    Raises:
        FileNotFoundError, ValueError: the data cannot be used, or task or protocol do not fit it.
    """
    for name, value, expected in (
        ("classes", classes, source.tasks),
        ("protocol", protocol.kind, source.protocols),
    ):
        if value not in expected:
            choice = " or ".join(map(str, expected))
            raise ValueError(f"{name}: got {value}, expected {choice} for {source.place}")
    task = TASKS[classes]
    found = {wanted: source.load(wanted) for wanted in dict.fromkeys(inputs)}
    readable = set.intersection(*({clip.name for clip in clips.clips} for clips in found.values()))
    frames = {}
    clips: list[Clip] = []
    labels = np.empty(0, dtype=np.int64)
    for wanted, everything in found.items():
        kept = [index for index, clip in enumerate(everything.clips) if clip.name in readable]
        clips = [everything.clips[index] for index in kept]
        chosen, labels = taking_part(task, clips)
        clips = [clips[index] for index in chosen]
        frames[wanted] = torch.from_numpy(everything.frames[np.array(kept)[chosen]])
    subjects = np.array([clip.subject for clip in clips])
    split = folds.split(labels, subjects, protocol.count, protocol.seed, protocol.kind)
    defects = dict.fromkeys(defect for clips in found.values() for defect in clips.defects)
    return Study(
        task, protocol, clips, labels, subjects, split, frames, list(defects), source.place
    )

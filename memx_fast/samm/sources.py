"""Clips from elsewhere than one data set of frames: several at once, or ready flow pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memx_fast.samm import flow_images
from memx_fast.samm.annotations import Clip, Defect, refuse
from memx_fast.samm.dataset import ClipSet
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.study import AnySource, Source

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Composite(AnySource):
    """Several data sets in one study, as in the MEGC 2019 challenge: three classes, and usually one
    subject of all of them left out at a time.

    Subjects and clips have the name of their data set in front (``casme2/sub01``), so that the same
    number is not taken for the same person.

    Attributes:
        sources: the data sets, each of another format.
    """

    sources: tuple[Source, ...]

    tasks = (3,)
    protocols = ("loso", "folds", "paper-like")

    @property
    def name(self) -> str:
        """For the names of folders."""
        return "+".join(source.name for source in self.sources)

    @property
    def place(self) -> str:
        """For people."""
        return " and ".join(source.place for source in self.sources)

    @property
    def drawn(self) -> bool:
        """Whether any of it is."""
        return any(source.drawn for source in self.sources)

    def load(self, wanted: Input) -> ClipSet:
        """All clips of all data sets, one set after the other.

        Raises:
            FileNotFoundError, ValueError: one of them cannot be used, or two are of one format.
        """
        parts = [source.load(wanted) for source in self.sources]
        names = [part.clips[0].dataset for part in parts]
        clips: list[Clip] = []
        defects: list[Defect] = []
        for name, part in zip(names, parts, strict=True):
            if names.count(name) > 1:
                raise ValueError(
                    f"data: got {names.count(name)} data sets of the format {name}, expected one; "
                    "copy them into one folder if they are one"
                )
            clips.extend(
                replace(clip, subject=f"{name}/{clip.subject}", name=f"{name}/{clip.name}")
                for clip in part.clips
            )
            defects.extend(replace(defect, clip=f"{name}/{defect.clip}") for defect in part.defects)
        return ClipSet(clips, np.concatenate([part.frames for part in parts]), defects)


@dataclass(frozen=True)
class FlowPictures(AnySource):
    """Ready pictures of the flow instead of frames; their classes are matched by name.

    They cannot be altered as frames are, so the paper-like protocol does not apply.

    Attributes:
        root: a folder that :mod:`memx_fast.samm.flow_images` reads.
        strict: refuse a folder with any defect.
    """

    root: Path
    strict: bool = False

    tasks = (3,)
    protocols = ("folds", "loso")

    @property
    def name(self) -> str:
        """For the names of folders."""
        return self.root.resolve().name

    @property
    def place(self) -> str:
        """For people."""
        return f"flow pictures in {self.root.resolve()}"

    def load(self, wanted: Input) -> ClipSet:
        """All pictures, uint8 (N, 1, 3, 28, 28), as clips of one frame.

        Raises:
            FileNotFoundError, ValueError: they cannot be read, ``strict`` and there are defects, or
                something else than such pictures is wanted.
        """
        if wanted != Input(flow_images.SIZE, 1, 3):
            raise ValueError(f"flow-images: {self.root} has no frames, and {wanted} is wanted")
        found = flow_images.load(self.root)
        for defect in found.defects:
            _log.warning("%s", defect)
        if self.strict:
            refuse(found.defects)
        datasets = found.datasets or [""] * len(found)
        clips = [
            Clip(subject, f"{subject}/{name}", 0, 0, 0, flow_images.CLASSES[label], "", dataset)
            for subject, name, label, dataset in zip(
                found.subjects, found.names, found.labels, datasets, strict=True
            )
        ]
        return ClipSet(clips, found.images[:, None], found.defects)

"""Clips from elsewhere than one data set of frames: several at once, or ready flow pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from memx_fast.samm.annotations import Clip, Defect
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

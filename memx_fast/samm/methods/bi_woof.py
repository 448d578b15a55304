"""Bi-WOOF: histograms of flow orientation, weighted twice, and a linear SVM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memx_fast.samm import flow
from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_svm import SvmMethod, SvmSettings, face_blocks
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.training import check_count

_TURN = 360.0


@dataclass(frozen=True)
class Settings(SvmSettings):
    """Of the histograms, beside those of the support vector machine.

    Attributes:
        size: height and width of the frames, pixels.
        blocks: the face is cut into so many rows and columns of blocks.
        orientations: bins of a histogram, evenly from -180 degrees on.
    """

    size: int = 128
    blocks: int = 5
    orientations: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("blocks", self.blocks)
        check_count("orientations", self.orientations)


class BiWoof(SvmMethod):
    """Liong et al. (2018): the flow from onset to apex, each pixel and each block by its weight.

    In each block every pixel votes for its orientation with its magnitude; the histogram, made of
    sum 1, is multiplied with the sum of the block's optical strain. All histograms together are of
    Euclidean length 1. A block that does not move gives zeros.
    """

    name = "bi-woof"
    title = "Bi-WOOF + SVM"
    source = "[16] of the paper"
    needs_frames = "it needs flow in pixels, and such pictures are scaled, each by itself"
    deviations = (
        "Blocks do not overlap (in the authors' code, by one pixel).",
        "C of the SVM is chosen on the validation clips.",
    )
    Settings = Settings
    keeps_features = True

    @property
    def input(self) -> Input:
        """Onset, apex and offset, the last one unused."""
        return Input(self.settings.size, 3)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """Histograms (N, blocks * blocks * orientations), row by row of blocks."""
        motion = flow.onset_to_apex(frames, apexes, self.machine.cache_dir).numpy()
        found = [
            weighted_histograms(image, self.settings.blocks, self.settings.orientations)
            for image in motion
        ]
        return torch.from_numpy(np.stack(found).astype(np.float32))


def weighted_histograms(
    motion: npt.NDArray[np.float32], blocks: int, orientations: int
) -> npt.NDArray[np.float64]:
    """The feature of one clip, (blocks * blocks * orientations,), from u, v, strain (3, H, W)."""
    u, v, strain = motion.astype(np.float64)
    magnitude = np.hypot(u, v)
    share = (np.degrees(np.arctan2(v, u)) + _TURN / 2) / _TURN
    bins = np.floor(share * orientations).astype(np.int64) % orientations
    histograms = []
    for votes, weights, stretched in zip(
        *(face_blocks(image, blocks) for image in (bins, magnitude, strain)), strict=True
    ):
        histogram = np.bincount(votes.ravel(), weights.ravel(), minlength=orientations)
        total = histogram.sum()
        histograms.append(histogram * (stretched.sum() / total if total else 0.0))
    feature = np.concatenate(histograms)
    length = np.linalg.norm(feature)
    return feature / length if length else feature

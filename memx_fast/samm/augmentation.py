"""Copies of the clips of smaller classes, each altered at random: the paper's augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memx_fast.samm.labels import Integers

_BRIGHTNESS = 0.2
_NOISE = (0.01, 0.02)


@dataclass(frozen=True)
class Epoch:
    """The clips of one epoch in the order in which they are shown.

    Attributes:
        clips: indices, (M,).
        altered: whether each is to be altered, (M,): copies are, originals are not.
    """

    clips: Integers
    altered: np.ndarray


def balanced_epoch(labels: Integers, random: np.random.Generator) -> Epoch:
    """Every clip once, and copies of those of smaller classes until all classes are of one size.

    Args:
        labels: class of every training clip, (N,).
        random: decides which clips are copied once more than others, and the order.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    largest = max(map(len, members))
    clips, altered = [], []
    for indices in members:
        missing = largest - len(indices)
        whole_rounds, rest = divmod(missing, len(indices))
        copies = [np.tile(indices, whole_rounds), random.choice(indices, rest, replace=False)]
        clips += [indices, *copies]
        altered += [np.zeros(len(indices), bool), np.ones(missing, bool)]
    order = random.permutation(largest * len(members))
    return Epoch(np.concatenate(clips)[order], np.concatenate(altered)[order])


def alter(clip: Tensor, random: np.random.Generator) -> Tensor:
    """A clip mirrored, brighter or darker, and with specks: each with probability one half.

    All frames are mirrored and lit alike, by a factor of 0.8 to 1.2; black and white specks fall on
    1 to 2 % of the pixels of each frame.

    Args:
        clip: (T, C, H, W), values in [0, 1].
        random: decides.

    Returns:
        A clip of the same shape, values in [0, 1].
    """
    if random.random() < 0.5:
        clip = clip.flip(-1)
    if random.random() < 0.5:
        clip = (clip * random.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS)).clamp(0, 1)
    if random.random() < 0.5:
        steps, _, height, width = clip.shape
        drawn = torch.from_numpy(random.random((steps, 1, height, width), dtype=np.float32))
        share = random.uniform(*_NOISE)
        clip = torch.where(drawn < share / 2, torch.zeros(()), clip)
        clip = torch.where(drawn > 1 - share / 2, torch.ones(()), clip)
    return clip

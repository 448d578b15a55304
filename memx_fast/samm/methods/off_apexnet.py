"""OFF-ApexNet: a shallow network on the horizontal and the vertical flow from onset to apex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memx_fast.samm import flow
from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.training import Schedule

SIDE = 28
"""Height and width of the network's input, pixels."""


@dataclass(frozen=True)
class Settings(Schedule):
    """Of the schedule, and the size at which flow is computed before it is made small.

    Attributes:
        size: height and width of the frames, pixels.
        flow: ``"computed"`` from frames, or ``"ready"``: what comes are no frames but the pictures
            of :mod:`memx_fast.samm.flow_images`.
    """

    epochs: int = 100
    patience: int = 25
    plateau: int = 10
    size: int = 128
    flow: str = "computed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow not in ("computed", "ready"):
            raise ValueError(f"flow: got {self.flow!r}, expected computed or ready")


class OffApexNet(NetworkMethod):
    """Gan et al. (2019): two streams of two convolutions, two dense layers."""

    name = "off-apexnet"
    title = "OFF-ApexNet"
    source = "[21] of the paper"
    deviations = (
        "At most 100 epochs instead of a fixed 3000: the epoch is chosen on the validation clips.",
        "Classes are made even by mirrored copies; the rate of dropout, not found, is 0.5.",
    )
    needs_frames = ""
    Settings = Settings
    keeps_features = True

    @property
    def input(self) -> Input:
        """Onset, apex and offset, the last one unused; or one picture of u, v and strain."""
        if self.settings.flow == "ready":
            return Input(SIDE, 1, 3)
        return Input(self.settings.size, 3)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """u, v and strain (N, 3, 28, 28), each image's channels to 0..1; the network uses u, v."""
        if self.settings.flow == "ready":
            return flow.scaled(frames[:, 0].float())
        motion = flow.onset_to_apex(frames, apexes, self.machine.cache_dir)
        return flow.scaled(F.interpolate(motion, (SIDE, SIDE), mode="area"))

    def build(self) -> nn.Module:
        """2,664,475 weights for three classes."""
        return _Network(self.classes)

    def alter(self, example: Tensor, random: np.random.Generator) -> Tensor:
        """Mirrored with probability one half."""
        return mirrored(example) if random.random() < 0.5 else example


def mirrored(example: Tensor) -> Tensor:
    """Left and right exchanged in scaled channels (C, H, W), of which the first is u.

    Scaling turns the change of sign of u into 1 - u.
    """
    flipped = example.flip(-1)
    return torch.cat([1 - flipped[:1], flipped[1:]])


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.horizontal = _stream()
        self.vertical = _stream()
        self.dense = nn.Sequential(
            nn.Linear(2 * 16 * (SIDE // 4) ** 2, 1024),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1024, classes),
        )

    def forward(self, motion: Tensor) -> Tensor:
        """(B, 3, 28, 28) of u, v, strain to logits (B, classes)."""
        streams = [self.horizontal(motion[:, :1]), self.vertical(motion[:, 1:2])]
        logits: Tensor = self.dense(torch.cat(streams, dim=1))
        return logits


def _stream() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )

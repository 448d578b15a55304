"""DSSN: two truncated AlexNets, one on flow with its magnitude, one on flow with its strain."""

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
from memx_fast.samm.methods.off_apexnet import mirrored
from memx_fast.samm.training import Schedule
from memx_fast.samm.vgg import initialise

PAPER_SIDE = 227
_SMALLEST_SIDE = 67
_MEAN = (123.68, 116.779, 103.939)  # of ImageNet's red, green and blue, as the authors subtract it
_BRIGHTEST = 255.0


@dataclass(frozen=True)
class Settings(Schedule):
    """Of the schedule and the input.

    Attributes:
        side: height and width of the network's input, pixels; the paper's is 227.
        size: of the frames whose flow is enlarged or made small to that.
    """

    epochs: int = 30
    side: int = 115
    size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < _SMALLEST_SIDE:
            raise ValueError(f"side: got {self.side}, expected at least {_SMALLEST_SIDE}")


class Dssn(NetworkMethod):
    """Khor et al. (2019): the element-wise product of both streams, and one dense layer."""

    name = "dssn"
    title = "DSSN (truncated AlexNet)"
    source = "[20] of the paper"
    needs_frames = "it needs flow of 227 x 227 pixels and its magnitude"
    deviations = (
        "Classes are made even by mirrored copies; batches of 16, not 60; clips are shuffled.",
    )
    Settings = Settings
    keeps_features = True

    @property
    def input(self) -> Input:
        """Onset, apex and offset, the last one unused."""
        return Input(self.settings.size, 3)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """u, v, magnitude and strain (N, 4, side, side), each image's channels to 0..1."""
        motion = flow.onset_to_apex(frames, apexes, self.machine.cache_dir)
        u, v, strain = motion.unbind(1)
        channels = torch.stack([u, v, torch.hypot(u, v), strain], dim=1)
        side = self.settings.side
        return flow.scaled(F.interpolate(channels, (side, side), mode="bilinear"))

    def build(self) -> nn.Module:
        """57,600 features before the dense layer at 227 x 227 pixels."""
        return _Network(self.classes, self.settings.side)

    def alter(self, example: Tensor, random: np.random.Generator) -> Tensor:
        """Mirrored with probability one half."""
        return mirrored(example) if random.random() < 0.5 else example

    def caveats(self) -> tuple[str, ...]:
        """Where its weights come from."""
        return ("No ImageNet weights: the convolutions start as He et al. (2015) have it.",)

    def notes(self) -> tuple[str, ...]:
        """With the size, if it is not the paper's."""
        side = self.settings.side
        if side == PAPER_SIDE:
            return super().notes()
        return (*super().notes(), f"Input of {side} x {side} pixels, not {PAPER_SIDE}.")


class _Network(nn.Module):
    mean: Tensor

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.magnitude = _stream()
        self.strain = _stream()
        with torch.no_grad():
            count = self.magnitude(torch.zeros(1, 3, side, side)).numel()
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(count, classes)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        mean = torch.tensor(_MEAN)[:, None, None] / _BRIGHTEST
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, motion: Tensor) -> Tensor:
        """(B, 4, side, side) of u, v, magnitude, strain to logits (B, classes)."""
        magnitude = self.magnitude(motion[:, :3] - self.mean)
        strain = self.strain(motion[:, [0, 1, 3]] - self.mean)
        logits: Tensor = self.output(self.dropout((magnitude * strain).flatten(1)))
        return logits


def _stream() -> nn.Sequential:
    """AlexNet to the end of its second block, with the zeros around it that conv3 would see."""
    stream = nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(5),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(5),
        nn.ZeroPad2d(1),
    )
    for layer in stream:
        if isinstance(layer, nn.Conv2d):
            initialise(layer)
    return stream

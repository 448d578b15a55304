"""Controls: what every method has to beat, and what can be seen without any motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memx_fast.samm import augmentation
from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.methods.interface import Fit, Input, Method, Progress
from memx_fast.samm.training import Examples, Schedule, as_numbers


@dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


class Majority(Method):
    """Names the class most frequent among the training clips, whatever it is shown."""

    name = "majority"
    title = "majority class"
    source = "a control"
    needs_frames = "it looks at nothing, and its line is in every report"
    Settings = NoSettings
    _shares: Tensor

    @property
    def input(self) -> Input:
        """The frames that other methods read anyway; it looks at none."""
        return Input(128, 3)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """Nothing, (N, 0)."""
        return torch.zeros(len(frames), 0)

    def fit(
        self,
        training: Examples,
        validation: Examples,
        *,
        seed: tuple[int, ...] = (0,),
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Counts."""
        counts = np.bincount(training.labels, minlength=self.classes)
        self._shares = torch.from_numpy(counts / counts.sum())
        return Fit()

    def predict(self, features: Tensor) -> Tensor:
        """The shares of the classes among the training clips."""
        return self._shares.expand(len(features), -1)

    def state(self) -> dict[str, Tensor]:
        """``shares`` (classes,)."""
        return {"shares": self._shares}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Shares by the name of :meth:`state`."""
        if set(state) != {"shares"} or state["shares"].shape != (self.classes,):
            raise ValueError(f"state: got {set(state)}, expected shares ({self.classes},)")
        self._shares = state["shares"]

    def parameters(self) -> dict[str, int]:
        """Counts are not parameters."""
        return {}


@dataclass(frozen=True)
class ApexSettings(Schedule):
    """Of the single-frame network, beside its schedule.

    Attributes:
        size: height and width of its input, pixels.
    """

    learning_rate: float = 1e-3
    size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 8:
            raise ValueError(f"size: got {self.size}, expected a multiple of 8")


class ApexCnn(NetworkMethod):
    """A small network that sees the apex frame alone: who cannot see motion must not do better."""

    name = "apex-cnn"
    title = "single-frame CNN (apex)"
    source = "a control"
    Settings = ApexSettings

    @property
    def input(self) -> Input:
        """Onset, apex and offset, of which it uses the apex."""
        return Input(128, 3)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """The apex frame, smaller: uint8 (N, 1, 1, size, size)."""
        apex = frames[torch.arange(len(frames)), torch.from_numpy(apexes)].float()
        small = F.interpolate(
            apex, (self.settings.size,) * 2, mode="bilinear", antialias=True, align_corners=False
        )
        return small.round().clamp(0, 255).byte()[:, None]

    def build(self) -> nn.Module:
        """Three convolutions with pooling, one dense layer: 16, 32, 64 channels."""
        channels = (1, 16, 32, 64)
        layers: list[nn.Module] = [nn.Flatten(1, 2)]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side = self.settings.size // 8
        layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * side**2, self.classes)]
        return nn.Sequential(*layers)

    def alter(self, example: Tensor, random: np.random.Generator) -> Tensor:
        """Mirrored, lit otherwise, specked."""
        return augmentation.alter(as_numbers(example), random)

"""ELRCN: VGG-16 features of the flow and the strain of every frame, and an LSTM over the frames."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memx_fast.samm import cache, flow, vgg
from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.progress import bar
from memx_fast.samm.training import Examples, Schedule, check_count

PAPER_SIDE, PAPER_UNITS = 224, 3000
_SMALLEST_SIDE = 32
_VERSION = 1
"""Part of every cache key: to be raised whenever the same flow would give other features."""


@dataclass(frozen=True)
class Settings(Schedule):
    """Of the schedule and the network.

    Attributes:
        weights: file of weights for VGG-16, see :func:`memx_fast.samm.vgg.load`; without one they
            are random, as He et al. (2015) have it.
        side: height and width of VGG's input, pixels; the paper's is 224.
        units: of the LSTM; the paper has 3000.
        size: height and width of the frames whose flow is made that large.
        frames: a clip; one more than there are flow images.
    """

    epochs: int = 40
    weights: str = ""
    side: int = 96
    units: int = 256
    size: int = 96
    frames: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("side", self.side, _SMALLEST_SIDE)
        check_count("units", self.units)


class Elrcn(NetworkMethod):
    """Khor et al. (2018), enriched in time (TE): 8192 features a frame, LSTM, two dense layers."""

    name = "elrcn"
    title = "ELRCN (VGG-16 + LSTM)"
    source = "[23] of the paper"
    needs_frames = "it needs the flow from every frame to the next"
    deviations = (
        "VGG-16 is not trained on the flow images; one network serves flow and strain.",
        "Features are standardised with the training clips' mean and deviation, and the classes "
        "made even by repetition.",
        "Softmax, not sigmoid; learning rate 1e-4 for at most 40 epochs, not 1e-5 for 100.",
    )
    Settings = Settings
    keeps_features = True

    @property
    def input(self) -> Input:
        """Ten grey frames."""
        return Input(self.settings.size, self.settings.frames)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """VGG's features of flow and of strain, (N, T - 1, 8192).

        The images of flow are u, v and magnitude, those of strain the strain three times, each
        channel from its least to its greatest value in the whole clip, to 0..1.
        """
        motion = flow.frame_to_frame(frames, self.machine.cache_dir)
        network = self._vgg().to(self.machine.device).eval()
        facts = f"{_VERSION} {self.settings.side} {self._digest()} {self._arithmetic()}"
        found = []
        with bar("VGG-16", len(motion), "clip", hidden=len(motion) < 2) as done:
            for clip in motion:
                compute = partial(self._of_clip, network, clip)
                found.append(
                    cache.kept(self.machine.cache_dir, "vgg", facts, clip.numpy(), compute)
                )
                done.update()
        return torch.from_numpy(np.stack(found))

    def build(self) -> nn.Module:
        """The part that learns."""
        return _Network(self.classes, self.settings.units)

    def begin(self, network: nn.Module, training: Examples) -> None:
        """Standardises features as the training clips need it."""
        cast(_Network, network).standardise(training.features)

    def identity(self) -> dict[str, Any]:
        """With the digest of the weights, so that other weights are another run."""
        return {**super().identity(), "weights_sha256": self._digest()}

    def caveats(self) -> tuple[str, ...]:
        """Where VGG's weights come from."""
        if self.settings.weights:
            return (f"Weights of VGG-16: {Path(self.settings.weights).name}.",)
        return ("No pretrained weights: VGG-16 is random, as He et al. (2015) have it.",)

    def notes(self) -> tuple[str, ...]:
        """With what is smaller than in the paper."""
        settings = self.settings
        sizes = []
        if settings.side != PAPER_SIDE:
            sizes.append(f"Images of {settings.side} x {settings.side} pixels, not {PAPER_SIDE}.")
        if settings.units != PAPER_UNITS:
            sizes.append(f"An LSTM of {settings.units} units, not {PAPER_UNITS}.")
        return (*self.caveats(), *sizes, *self.deviations)

    def _arithmetic(self) -> str:
        """All that may round differently: what one device has kept is not another's result."""
        kind = torch.device(self.machine.device).type
        return f"{torch.__version__} {kind} {torch.get_num_threads()}"

    def _digest(self) -> str:
        """Of the weights; empty without any.

        Raises:
            FileNotFoundError: they are not there.
        """
        if not self.settings.weights:
            return ""
        path = Path(self.settings.weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"weights: got {path}, which is no file, expected one of VGG-16"
            )
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @torch.no_grad()
    def _of_clip(self, network: nn.Module, motion: Tensor) -> npt.NDArray[np.float32]:
        """(T - 1, 8192) from u, v, strain (T - 1, 3, H, W)."""
        u, v, strain = motion.unbind(1)
        images = _scaled_over_time(
            torch.stack([u, v, torch.hypot(u, v), strain, strain, strain], dim=1)
        )
        side = (self.settings.side,) * 2
        images = F.interpolate(images, side, mode="bilinear").to(self.machine.device)
        streams = [network(images[:, :3]), network(images[:, 3:])]
        found: npt.NDArray[np.float32] = torch.cat(streams, dim=1).cpu().numpy()
        return found

    def _vgg(self) -> vgg.Vgg16:
        if self.settings.weights:
            return vgg.load(Path(self.settings.weights))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return vgg.Vgg16()


def _scaled_over_time(images: Tensor) -> Tensor:
    """Channels of (T, C, H, W) to 0..1, each from its least to its greatest value in all frames."""
    steps, _, height, width = images.shape
    stacked = images.transpose(0, 1).reshape(-1, steps * height, width)
    return flow.scaled(stacked).reshape(-1, steps, height, width).transpose(0, 1)


class _Network(nn.Module):
    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, units: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * vgg.FEATURES))
        self.register_buffer("deviation", torch.ones(2 * vgg.FEATURES))
        self.recurrent = nn.LSTM(2 * vgg.FEATURES, units, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(units, 128), nn.ReLU(), nn.Linear(128, classes))

    def standardise(self, features: Tensor) -> None:
        """Make the mean of these features 0 and their deviation 1; constant ones become 0."""
        flat = features.flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        deviation = flat.std(0)
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones(())))

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, 8192) to logits (B, classes)."""
        output, _ = self.recurrent((features - self.mean) / self.deviation)
        logits: Tensor = self.dense(output[:, -1])
        return logits

"""The paper's network: ConvLSTM over the frames, last hidden state pooled, two dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from torch import Tensor, nn

from memx_fast.samm import augmentation
from memx_fast.samm.labels import Integers
from memx_fast.samm.methods.by_network import NetworkMethod
from memx_fast.samm.methods.interface import Input
from memx_fast.samm.network import ShallowConvLSTM
from memx_fast.samm.training import Schedule, check_count


@dataclass(frozen=True)
class Settings(Schedule):
    """The network, and its schedule. The defaults are the paper's, where it gives one.

    Attributes:
        size: height and width of the frames.
        frames: a clip.
        channels: 1 for greys, 3 for red, green, blue.
        padding: of the ConvLSTM's convolution over the frames, ``"valid"`` or ``"same"``.
        peephole: of the ConvLSTM: ``"none"``, ``"channel"`` or ``"spatial"``.
        output_peephole: the cell state its output gate sees, ``"previous"`` or ``"current"``.
        gates: of the ConvLSTM: ``"sigmoid"``, or the ``"hard_sigmoid"`` of Keras 2, 0.2 x + 0.5.
        pool_stride: of the pooling after it.
    """

    size: int = 90
    frames: int = 9
    channels: int = 1
    padding: str = "valid"
    peephole: str = "none"
    output_peephole: str = "previous"
    gates: str = "sigmoid"
    pool_stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("pool_stride", self.pool_stride)
        for name, choices in (
            ("padding", ("valid", "same")),
            ("peephole", ("none", "channel", "spatial")),
            ("output_peephole", ("previous", "current")),
            ("gates", ("sigmoid", "hard_sigmoid")),
        ):
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {expected}")


class ShallowConvLSTMMethod(NetworkMethod):
    """See :class:`memx_fast.samm.network.ShallowConvLSTM`."""

    name = "convlstm"
    title = "shallow ConvLSTM"
    source = "Shukla, Rai and Verlekar 2023"
    Settings = Settings

    @property
    def input(self) -> Input:
        """90 x 90 pixels, nine frames."""
        return Input(self.settings.size, self.settings.frames, self.settings.channels)

    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """The frames themselves."""
        return frames

    def build(self) -> nn.Module:
        """The network at its start."""
        settings = self.settings
        return ShallowConvLSTM(
            self.classes,
            settings.size,
            settings.channels,
            padding=cast(Literal["valid", "same"], settings.padding),
            peephole=None if settings.peephole == "none" else settings.peephole,
            output_peephole=settings.output_peephole,
            gates=settings.gates,
            pool_stride=settings.pool_stride,
            backend=self.machine.backend,
        )

    def alter(self, example: Tensor, random: np.random.Generator) -> Tensor:
        """Mirrored, lit otherwise, specked."""
        return augmentation.alter(example, random)

    def parameters(self) -> dict[str, int]:
        """Number of weights of each part."""
        return cast(ShallowConvLSTM, self.network).parameter_counts()

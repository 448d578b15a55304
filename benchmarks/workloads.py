"""The fixed list of workloads, and the numbers that a contender gets to work on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .devices import DEVICES

PASSES = ("forward", "training")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """A stack of ConvLSTM layers and the sequence that goes through it.

    Attributes:
        hidden_channels: one entry a layer.
        kernel_size: of both convolutions, which keep the image size.
        peephole: "spatial" or None, for contenders that have peepholes.
        carries_state: starts from a given state, not from zeros.
        audience: who runs it.
        devices: the kinds of device it is run on.
    """

    name: str
    batch: int
    time: int
    input_channels: int
    hidden_channels: tuple[int, ...]
    height: int
    width: int
    kernel_size: int
    audience: str
    peephole: str | None = None
    carries_state: bool = False
    devices: tuple[str, ...] = DEVICES

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(input channels, hidden channels) of each layer."""
        inputs = (self.input_channels, *self.hidden_channels)
        return list(zip(inputs, self.hidden_channels, strict=False))

    def quick(self) -> Workload:
        """The same images and channels, at most 2 sequences of at most 2 frames."""
        return replace(self, batch=min(self.batch, 2), time=min(self.time, 2))

    def operations(self, work: str) -> float:
        """Floating-point operations of the convolutions in a "forward" or a "training" pass.

        A training pass also has the gradients of both weights, of the hidden state and, except in
        the first layer, of the input.
        """
        pixels = self.time * self.batch * self.height * self.width
        total = 0.0
        for index, (inputs, hidden) in enumerate(self.layers):
            per_channel = 2.0 * pixels * 4 * hidden * self.kernel_size**2
            input_passes = 1 if work == "forward" else 2 + (index > 0)
            hidden_passes = 1 if work == "forward" else 3
            total += per_channel * (inputs * input_passes + hidden * hidden_passes)
        return total

    def traffic(self, bytes_per_number: int) -> float:
        """Bytes a forward pass cannot avoid: inputs and weights read, outputs written."""
        numbers = 0.0
        pixels = self.time * self.batch * self.height * self.width
        for inputs, hidden in self.layers:
            numbers += pixels * (inputs + hidden)
            numbers += 4 * hidden * (inputs + hidden) * self.kernel_size**2
        return numbers * bytes_per_number


WORKLOADS = (
    Workload("samm", 16, 9, 1, (32,), 90, 90, 3, "micro-expressions", peephole="spatial"),
    Workload(
        *("samm1", 1, 9, 1, (32,), 90, 90, 3, "micro-expressions"),
        peephole="spatial",
        devices=("cuda",),
    ),
    Workload("moving-mnist", 16, 10, 1, (64, 64), 64, 64, 3, "most tutorials"),
    Workload("openstl", 16, 19, 16, (128,), 16, 16, 5, "OpenSTL, PredRNN"),
    Workload("radar", 2, 10, 8, (64,), 96, 96, 3, "HKO-7 nowcasting"),
    Workload("satellite", 2, 24, 10, (64,), 128, 128, 3, "PASTIS, TorchGeo"),
    Workload("streaming", 1, 1, 32, (64,), 64, 64, 3, "frame by frame", carries_state=True),
    Workload("pointwise", 8, 21, 64, (64,), 60, 76, 1, "event cameras (RVT)"),
)


def workload_named(name: str) -> Workload:
    """The workload of the list; ValueError names what there is."""
    for workload in WORKLOADS:
        if workload.name == name:
            return workload
    known = ", ".join(workload.name for workload in WORKLOADS)
    raise ValueError(f"workload: got {name!r}, expected one of {known}")


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer; gates in the order i, f, g, o and peepholes in the order i, f, o."""

    input: Tensor  # (4C, C_in, k, k)
    hidden: Tensor  # (4C, C, k, k)
    bias: Tensor  # (4C,)
    peephole: Tensor | None  # (3, C, H, W)


@dataclass(frozen=True)
class Problem:
    """The numbers of a workload, identical for every contender. All float32."""

    workload: Workload
    x: Tensor  # (T, B, C_in, H, W)
    layers: tuple[LayerWeights, ...]
    states: tuple[tuple[Tensor, Tensor], ...] | None  # a layer: h_0 and c_0 (B, C, H, W)
    grad_output: Tensor  # (T, B, C, H, W), of the last layer's output

    @property
    def grad_of_first_sample(self) -> Tensor:
        """An output gradient that makes the weights' gradients those of the first sample alone."""
        only_first = torch.zeros_like(self.grad_output)
        only_first[:, :1] = self.grad_output[:, :1]
        return only_first

    @staticmethod
    def of(workload: Workload, device: str = "cpu", seed: int = 0) -> Problem:
        """Normally distributed data, weights scaled to keep the gates out of saturation.

        The same numbers on every device.
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * scale).to(device)

        size = (workload.height, workload.width)
        kernel = (workload.kernel_size, workload.kernel_size)
        layers = []
        for inputs, hidden in workload.layers:
            scale = 1.0 / math.sqrt((inputs + hidden) * workload.kernel_size**2)
            layers.append(
                LayerWeights(
                    input=normal(4 * hidden, inputs, *kernel, scale=scale),
                    hidden=normal(4 * hidden, hidden, *kernel, scale=scale),
                    bias=normal(4 * hidden, scale=0.1),
                    peephole=normal(3, hidden, *size, scale=0.1) if workload.peephole else None,
                )
            )
        sequence = (workload.time, workload.batch)
        states = tuple(
            (normal(workload.batch, hidden, *size).tanh(), normal(workload.batch, hidden, *size))
            for _, hidden in workload.layers
        )
        return Problem(
            workload=workload,
            x=normal(*sequence, workload.input_channels, *size),
            layers=tuple(layers),
            states=states if workload.carries_state else None,
            grad_output=normal(*sequence, workload.hidden_channels[-1], *size),
        )

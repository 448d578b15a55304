"""Who competes: memx_fast, and the ways in which ConvLSTMs are written in plain PyTorch.

Every contender is built from the same weights and offers the same few calls, so that the contest
treats all alike. bfloat16 means float32 data and weights under autocast, for everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

import memx_fast
from memx_fast import backends

from . import jax_rivals
from .devices import DEVICES
from .graphs import GraphedRunner
from .workloads import LayerWeights, Problem


class Runner(Protocol):
    """A contender with the numbers of one problem in its hands."""

    def forward(self) -> Tensor:
        """Inference. Returns the last layer's output, (T, B, C, H, W)."""

    def training(self) -> Tensor:
        """Forward and backward for the problem's output gradient. Returns the output."""

    def gradients(self, grad_output: Tensor) -> list[Tensor]:
        """Gradients for this output gradient: input weights, hidden weights, bias, a layer each."""


@dataclass(frozen=True)
class Contender:
    """A competitor.

    Attributes:
        build: makes its runner for a problem and a type, "float32" or "bfloat16".
        peephole: whether it computes peepholes where the workload has them.
        compiled: whether its first call compiles, which takes long.
        devices: the kinds of device it runs on.
        graphed: whether its passes are CUDA graphs, whose memory is not allocated when they run.
        passes: what it can do.
        missing: the reason why it cannot take part here, or None.
    """

    name: str
    description: str
    build: Callable[[Problem, str], Runner]
    peephole: bool = False
    compiled: bool = False
    devices: tuple[str, ...] = DEVICES
    graphed: bool = False
    passes: tuple[str, ...] = ("forward", "training")
    missing: Callable[[], str | None] = lambda: None


class PopularLayer(nn.Module):
    """The cell that most people copy: one convolution over x and h together, gates split off."""

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([weights.input, weights.hidden], dim=1))
        self.bias = nn.Parameter(weights.bias.clone())
        self.inputs = weights.input.shape[1]

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> Tensor:
        h, c = state if state is not None else zero_state(x, self.weight)
        outputs = []
        for frame in x:
            gates = nn.functional.conv2d(
                torch.cat([frame, h], dim=1), self.weight, self.bias, padding="same"
            )
            h, c = update(gates, c)
            outputs.append(h)
        return torch.stack(outputs)

    def gradients(self) -> list[Tensor]:
        return [*split_at(self.weight.grad, self.inputs), self.bias.grad]


class BatchedInputLayer(nn.Module):
    """The input convolution over all frames at once, then a loop with the hidden convolution."""

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(weights.input.clone())
        self.weight_hh = nn.Parameter(weights.hidden.clone())
        self.bias = nn.Parameter(weights.bias.clone())

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> Tensor:
        h, c = state if state is not None else zero_state(x, self.weight_ih)
        frames = nn.functional.conv2d(x.flatten(0, 1), self.weight_ih, self.bias, padding="same")
        outputs = []
        for frame in frames.unflatten(0, x.shape[:2]):
            h, c = update(frame + nn.functional.conv2d(h, self.weight_hh, padding="same"), c)
            outputs.append(h)
        return torch.stack(outputs)

    def gradients(self) -> list[Tensor]:
        return [self.weight_ih.grad, self.weight_hh.grad, self.bias.grad]


class FusedCellLayer(BatchedInputLayer):
    """The same with PyTorch's fused LSTM cell for all that comes after the convolutions.

    The cell wants rows of gates: for images in channels_last those are the pixels, without a copy.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> Tensor:
        h, c = state if state is not None else zero_state(x, self.weight_ih)
        frames = nn.functional.conv2d(x.flatten(0, 1), self.weight_ih, self.bias, padding="same")
        frames = frames.contiguous(memory_format=torch.channels_last)  # is not if C_in is 1
        rows = c.movedim(1, -1)
        image = rows.shape
        cell = rows.flatten(0, -2).to(frames.dtype)
        outputs = []
        for frame in frames.unflatten(0, x.shape[:2]):
            recurrent = nn.functional.conv2d(h, self.weight_hh, padding="same")
            hidden, cell, _ = torch.ops.aten._thnn_fused_lstm_cell(
                frame.movedim(1, -1).flatten(0, -2), recurrent.movedim(1, -1).flatten(0, -2), cell
            )
            h = hidden.view(image).movedim(-1, 1)
            outputs.append(h)
        return torch.stack(outputs)


Layer = PopularLayer | BatchedInputLayer | FusedCellLayer


def zero_state(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """h_0 and c_0 for x (T, B, C_in, H, W) and a weight (4C, ...)."""
    zeros = x.new_zeros(x.shape[1], weight.shape[0] // 4, *x.shape[3:])
    return zeros, zeros


def update(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step from the four pre-activations (B, 4C, H, W) and the cell state (B, C, H, W)."""
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def split_at(weight: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """The parts of a joint weight (4C, C_in + C, k, k) that belong to x and to h."""
    return weight[:, :inputs], weight[:, inputs:]


class LoopStack(nn.Module):
    """Layers of one of the two kinds above, one after the other."""

    def __init__(self, layer: type[Layer], problem: Problem) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(weights) for weights in problem.layers)

    def forward(self, x: Tensor, states: tuple[tuple[Tensor, Tensor], ...] | None) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, states[index] if states is not None else None)
        return x

    def gradients(self) -> list[Tensor]:
        """In the order that :class:`Runner` asks for."""
        return [gradient for layer in self.layers for gradient in layer.gradients()]


class FusedStack(nn.Module):
    """memx_fast.ConvLSTM with the problem's weights and peepholes."""

    def __init__(self, problem: Problem, recompute: float, backend: str) -> None:
        super().__init__()
        workload = problem.workload
        (hidden_channels,) = set(workload.hidden_channels)
        self.layer = memx_fast.ConvLSTM(
            workload.input_channels,
            hidden_channels,
            workload.kernel_size,
            num_layers=len(problem.layers),
            peephole=workload.peephole,
            spatial_size=(workload.height, workload.width) if workload.peephole else None,
            recompute=recompute,
            backend=backend,
            device=problem.x.device,
        )
        with torch.no_grad():
            for index, weights in enumerate(problem.layers):
                self.parameter("weight_ih", index).copy_(weights.input)
                self.parameter("weight_hh", index).copy_(weights.hidden)
                self.parameter("bias", index).copy_(weights.bias)
                if weights.peephole is not None:
                    self.parameter("weight_ch", index).copy_(weights.peephole)

    def parameter(self, name: str, index: int) -> nn.Parameter:
        return self.layer.get_parameter(f"{name}_l{index}")

    def forward(self, x: Tensor, states: tuple[tuple[Tensor, Tensor], ...] | None) -> Tensor:
        if states is None:
            return self.layer(x)[0]
        h_0, c_0 = zip(*states, strict=True)
        return self.layer(x, (torch.stack(h_0), torch.stack(c_0)))[0]

    def gradients(self) -> list[Tensor]:
        """In the order that :class:`Runner` asks for."""
        return [
            self.parameter(name, index).grad
            for index in range(self.layer.num_layers)
            for name in ("weight_ih", "weight_hh", "bias")
        ]


class TorchRunner:
    """Runs a module on a problem; ``call`` is the module or what torch.compile made of it."""

    def __init__(
        self,
        module: LoopStack | FusedStack,
        problem: Problem,
        dtype: str,
        *,
        channels_last: bool = False,
        compile_mode: str | None = None,
    ) -> None:
        self.module = module
        self.call: nn.Module | Callable[..., Tensor] = module
        if compile_mode is not None:
            # fullgraph makes it fail where it would otherwise fall back to plain PyTorch.
            self.call = torch.compile(module, fullgraph=True, dynamic=False, mode=compile_mode)
        self.problem = problem
        self.dtype = dtype
        self.x = problem.x
        self.upstream: Tensor | None = None
        if channels_last:
            module.to(memory_format=torch.channels_last)
            frames = problem.x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            self.x = frames.unflatten(0, problem.x.shape[:2])

    def forward(self) -> Tensor:
        with torch.no_grad(), self._precision():
            return self.call(self.x, self.problem.states)

    def training(self) -> Tensor:
        self.module.zero_grad(set_to_none=True)
        with self._precision():
            output = self.call(self.x, self.problem.states)
        if self.upstream is None:
            self.upstream = self.problem.grad_output.to(output.dtype)
        output.backward(self.upstream)
        return output.detach()

    def gradients(self, grad_output: Tensor) -> list[Tensor]:
        self.module.zero_grad(set_to_none=True)
        with self._precision():
            output = self.call(self.x, self.problem.states)
        output.backward(grad_output.to(output.dtype))
        return self.module.gradients()

    @contextmanager
    def _precision(self) -> Iterator[None]:
        enabled = self.dtype == "bfloat16"
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=enabled):
            yield


def build_fused(
    problem: Problem, dtype: str, recompute: float = 0.5, backend: str = "auto"
) -> TorchRunner:
    """memx_fast."""
    return TorchRunner(FusedStack(problem, recompute, backend), problem, dtype)


def missing_engine(name: str) -> str | None:
    """The reason why an engine of memx_fast cannot run here, or None."""
    engine = next(engine for engine in backends.available() if engine.name == name)
    return None if engine.available else engine.reason


def build_loop(
    layer: type[Layer],
    problem: Problem,
    dtype: str,
    channels_last: bool = False,
    compile_mode: str | None = None,
) -> TorchRunner:
    """A loop over time in plain PyTorch."""
    stack = LoopStack(layer, problem)
    return TorchRunner(
        stack, problem, dtype, channels_last=channels_last, compile_mode=compile_mode
    )


def build_graphed(
    build: Callable[[Problem, str], TorchRunner], problem: Problem, dtype: str
) -> Runner:
    """Another contender in CUDA graphs."""
    return GraphedRunner(build(problem, dtype))


CHAMPION = "memx_fast"
TRITON, CUDA = "memx_fast, Triton", "memx_fast, CUDA C++"

CONTENDERS = (
    Contender(CHAMPION, "memx_fast.ConvLSTM", build_fused, peephole=True),
    Contender(
        "memx_fast recompute=0",
        "the same, keeping the gates of all steps",
        partial(build_fused, recompute=0.0),
        peephole=True,
        passes=("training",),
    ),
    Contender(
        "memx_fast recompute=1",
        "the same, keeping the gates of none",
        partial(build_fused, recompute=1.0),
        peephole=True,
        passes=("training",),
    ),
    *(
        Contender(
            name,
            f'the same with backend="{engine}"',
            partial(build_fused, backend=engine),
            peephole=True,
            devices=("cuda",),
            missing=partial(missing_engine, engine),
        )
        for name, engine in ((TRITON, "triton"), (CUDA, "cuda"))
    ),
    Contender("eager", "loop, one convolution on cat([x, h])", partial(build_loop, PopularLayer)),
    Contender(
        "eager channels_last",
        "the same in channels_last",
        partial(build_loop, PopularLayer, channels_last=True),
    ),
    Contender(
        "eager batched input",
        "input convolution over all frames at once, then a loop",
        partial(build_loop, BatchedInputLayer),
    ),
    Contender(
        "compiled eager",
        "torch.compile of eager",
        partial(build_loop, PopularLayer, compile_mode="default"),
        compiled=True,
    ),
    Contender(
        "compiled batched input",
        "torch.compile of eager batched input",
        partial(build_loop, BatchedInputLayer, compile_mode="default"),
        compiled=True,
    ),
    Contender(
        "compiled eager, autotuned",
        "torch.compile of eager, mode max-autotune",
        partial(build_loop, PopularLayer, channels_last=True, compile_mode="max-autotune"),
        compiled=True,
        devices=("cuda",),
        graphed=True,
    ),
    Contender(
        "fused cell",
        "batched input in channels_last, then PyTorch's fused LSTM cell",
        partial(build_loop, FusedCellLayer, channels_last=True),
        devices=("cuda",),
    ),
    Contender(
        "memx_fast, graph",
        "memx_fast in a CUDA graph",
        partial(build_graphed, build_fused),
        peephole=True,
        devices=("cuda",),
        graphed=True,
    ),
    Contender(
        "eager channels_last, graph",
        "eager channels_last in a CUDA graph",
        partial(build_graphed, partial(build_loop, PopularLayer, channels_last=True)),
        devices=("cuda",),
        graphed=True,
    ),
    Contender(
        "fused cell, graph",
        "fused cell in a CUDA graph",
        partial(build_graphed, partial(build_loop, FusedCellLayer, channels_last=True)),
        devices=("cuda",),
        graphed=True,
    ),
    Contender(
        "flax",
        "flax.linen RNN(ConvLSTMCell) under jax.jit",
        jax_rivals.build_flax,
        compiled=True,
        devices=("cpu",),
        passes=("forward",),
        missing=partial(jax_rivals.missing, "flax"),
    ),
    Contender(
        "keras",
        "keras.layers.ConvLSTM2D on JAX, under jax.jit",
        jax_rivals.build_keras,
        compiled=True,
        devices=("cpu",),
        passes=("forward",),
        missing=partial(jax_rivals.missing, "keras"),
    ),
)


def contender_named(name: str) -> Contender:
    """The contender of the list; ValueError names what there is."""
    for contender in CONTENDERS:
        if contender.name == name:
            return contender
    known = ", ".join(contender.name for contender in CONTENDERS)
    raise ValueError(f"contender: got {name!r}, expected one of {known}")

"""Problems for the fused operator, and plain PyTorch to compare with: shared by its tests."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memx_fast import ops

NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One problem. ``input_channels`` 0 means ready-made input gates."""

    steps: int
    batch: int
    input_channels: int
    hidden: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    input_kernel: tuple[int, int] = (3, 3)
    padding: tuple[int, int] | None = None  # of the input convolution; None keeps the size
    peephole: str | None = None
    output_peephole: str = "previous"
    states: bool = True
    bias: bool = True
    hard_slope: float = 0.0  # of the hard sigmoid; 0: the logistic one
    masked: bool = False  # the hidden state, on its way into the recurrent convolution
    ragged: bool = False  # sequences of different length

    def arguments(self, seed: int = 0) -> dict[str, Tensor | None]:
        """Float64 arguments at the scale of a freshly initialised network."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

        gates, image = 4 * self.hidden, (self.height, self.width)
        fan_in = self.input_channels * self.input_kernel[0] * self.input_kernel[1]
        fan_hidden = self.hidden * self.kernel[0] * self.kernel[1]
        peephole = {None: None, "channel": (), "spatial": image}[self.peephole]
        return {
            "x": draw(self.steps, self.batch, self.input_channels or gates, *self.frame()),
            "weight_ih": draw(gates, self.input_channels, *self.input_kernel, scale=fan_in**-0.5)
            if self.input_channels
            else None,
            "weight_hh": draw(gates, self.hidden, *self.kernel, scale=fan_hidden**-0.5),
            "bias": draw(gates, scale=0.5) if self.bias else None,
            "weight_ch": None if peephole is None else draw(3, self.hidden, *peephole, scale=0.3),
            "h_0": draw(self.batch, self.hidden, *image, scale=0.5) if self.states else None,
            "c_0": draw(self.batch, self.hidden, *image, scale=0.5) if self.states else None,
        }

    def hidden_mask(self, like: Tensor) -> Tensor | None:
        """Zeros and twos, as a dropout of one half draws, of the dtype and device of another."""
        if not self.masked:
            return None
        shape = (self.batch, self.hidden, self.height, self.width)
        mixed = torch.arange(math.prod(shape), device=like.device) * 40503 // 64
        return (mixed % 2 * 2).to(like.dtype).view(shape)

    def lengths(self) -> Tensor | None:
        """T, 1, T - 1, 2, .. steps: the first sequence has all of them."""
        if not self.ragged:
            return None
        order = [n for step in range(self.steps) for n in (self.steps - step, step + 1)]
        return torch.tensor([order[b % len(order)] for b in range(self.batch)])

    def frame(self) -> tuple[int, int]:
        """The size of x for states of height x width."""
        if not self.input_channels or self.padding is None:
            return self.height, self.width
        return (
            self.height - 2 * self.padding[0] + self.input_kernel[0] - 1,
            self.width - 2 * self.padding[1] + self.input_kernel[1] - 1,
        )

    def incoming(self, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of output, h_n and c_n."""
        generator = torch.Generator().manual_seed(seed)
        state = (self.batch, self.hidden, self.height, self.width)
        return tuple(
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((self.steps, *state), state, state)
        )


# For every GPU engine: every value of every property, and most pairs of them.
ENGINE_CASES = (
    Case(1, 1, 1, 1, 1, 1, (1, 1), (1, 1), states=False, bias=False),
    Case(1, 2, 3, 5, 7, 4, peephole="channel"),
    Case(1, 1, 17, 3, 3, 2, (5, 5), (1, 1), peephole="spatial", output_peephole="current"),
    Case(2, 1, 1, 3, 2, 3, (5, 5), (5, 5), peephole="spatial"),
    Case(3, 2, 3, 5, 8, 1, peephole="channel", output_peephole="current", states=False),
    Case(3, 1, 5, 1, 1, 9, (1, 1), (3, 3), peephole="spatial", bias=False),
    Case(2, 1, 17, 33, 3, 4, peephole="channel", output_peephole="current"),
    Case(2, 1, 33, 17, 3, 5, (3, 3), (1, 1), states=False),
    Case(2, 2, 3, 9, 5, 7, (5, 3), (1, 3), peephole="spatial", output_peephole="current"),
    Case(4, 1, 0, 12, 6, 7, bias=False, peephole="channel"),
    Case(1, 2, 0, 5, 3, 3, (5, 5), states=False, peephole="spatial"),
    Case(3, 1, 2, 7, 11, 12, (1, 1), (3, 3), output_peephole="current"),
    Case(2, 2, 8, 9, 8, 7, padding=(0, 0), peephole="channel"),
    Case(2, 2, 3, 8, 6, 9, (3, 3), (4, 2), padding=(0, 1), bias=False, states=False),
    Case(2, 1, 1, 5, 6, 5, (3, 3), (2, 3), padding=(1, 2), peephole="spatial"),
    Case(2, 1, 9, 3, 5, 13, (3, 3), (3, 3), padding=(2, 2), peephole="channel"),
    Case(3, 2, 3, 5, 4, 5, peephole="channel", hard_slope=0.2),
    Case(2, 1, 2, 3, 5, 4, peephole="spatial", output_peephole="current", hard_slope=0.7),
    Case(3, 3, 2, 5, 4, 5, (5, 3), peephole="channel", masked=True),
    Case(2, 2, 0, 17, 4, 3, masked=True),
    Case(2, 2, 3, 4, 3, 5, states=False, masked=True),
    Case(3, 3, 2, 5, 4, 5, peephole="channel", ragged=True),
    Case(3, 2, 0, 3, 2, 3, peephole="spatial", output_peephole="current", ragged=True),
    Case(2, 3, 2, 3, 2, 3, states=False, masked=True, ragged=True, hard_slope=0.5),
)


def fused(
    case: Case,
    arguments: dict[str, Tensor | None],
    recompute: float = 0.0,
    operator: str = "conv_lstm",
):
    lengths = case.lengths()
    return ops.fused_conv_lstm(
        *(arguments[name] for name in NAMES),
        case.hidden_mask(arguments["x"]),
        None if lengths is None else lengths.to(arguments["x"].device),
        padding=case.padding,
        output_peephole=case.output_peephole,
        hard_sigmoid_slope=case.hard_slope,
        recompute=recompute,
        operator=operator,
    )


def plain(case: Case, arguments: dict[str, Tensor | None]):
    """Plain PyTorch, everything in the dtype of the arguments; every sequence alone if ragged."""
    if not case.ragged:
        return _plain(case, arguments, case.hidden_mask(arguments["x"]))
    mask = case.hidden_mask(arguments["x"])
    outputs, states = [], []
    for b, length in enumerate(case.lengths().tolist()):
        one = slice(b, b + 1)
        alone = arguments | {
            "x": arguments["x"][:length, one],
            **{n: None if arguments[n] is None else arguments[n][one] for n in ("h_0", "c_0")},
        }
        output, h_n, c_n = _plain(case, alone, None if mask is None else mask[one])
        padding = output.new_zeros((case.steps - length, *output.shape[1:]))
        outputs.append(torch.cat([output, padding]))
        states.append((h_n, c_n))
    h_n, c_n = (torch.cat(parts) for parts in zip(*states, strict=True))
    return torch.cat(outputs, 1), h_n, c_n


def _plain(case: Case, arguments: dict[str, Tensor | None], mask: Tensor | None):
    """Equations (1)-(5)."""
    x, weight_ih, weight_hh, bias, weight_ch, hidden, cell = (arguments[name] for name in NAMES)
    if weight_ih is not None:
        padding = case.padding or tuple(size // 2 for size in weight_ih.shape[2:])
        gates_x = torch.nn.functional.conv2d(x.flatten(0, 1), weight_ih, bias, padding=padding)
        gates_x = gates_x.unflatten(0, x.shape[:2])
    else:
        gates_x = x if bias is None else x + bias[:, None, None]
    state = (x.shape[1], weight_hh.shape[1], *gates_x.shape[3:])
    hidden = x.new_zeros(state) if hidden is None else hidden
    cell = x.new_zeros(state) if cell is None else cell
    peepholes = (0.0, 0.0, 0.0) if weight_ch is None else weight_ch.unbind()
    if weight_ch is not None and weight_ch.dim() == 2:
        peepholes = tuple(peephole[:, None, None] for peephole in peepholes)
    same = [size // 2 for size in weight_hh.shape[2:]]

    def sigmoid(z: Tensor) -> Tensor:
        if case.hard_slope == 0:
            return torch.sigmoid(z)
        return torch.nn.functional.hardtanh(case.hard_slope * z + 0.5, 0, 1)

    output = []
    for gates_t in gates_x:
        convolved = hidden if mask is None else hidden * mask
        z = gates_t + torch.nn.functional.conv2d(convolved, weight_hh, padding=same)
        z_i, z_f, z_g, z_o = z.chunk(4, 1)
        previous = cell
        i = sigmoid(z_i + peepholes[0] * previous)
        f = sigmoid(z_f + peepholes[1] * previous)
        cell = f * previous + i * torch.tanh(z_g)
        seen = cell if case.output_peephole == "current" else previous
        hidden = sigmoid(z_o + peepholes[2] * seen) * torch.tanh(cell)
        output.append(hidden)
    return torch.stack(output), hidden, cell


def cast(arguments: dict[str, Tensor | None], dtype: torch.dtype, c_0: torch.dtype | None = None):
    """Leaves of another dtype that need gradients."""
    return {
        name: None
        if value is None
        else value.to(c_0 if name == "c_0" and c_0 else dtype).requires_grad_()
        for name, value in arguments.items()
    }


def results_and_gradients(function, case: Case, arguments, incoming) -> dict[str, Tensor]:
    """Everything a call gives: the three results and the gradient of every argument."""
    results = function(case, arguments)
    leaves = {name: value for name, value in arguments.items() if value is not None}
    grads = torch.autograd.grad(
        results,
        tuple(leaves.values()),
        [grad.to(result.dtype) for grad, result in zip(incoming, results, strict=True)],
    )
    found = dict(zip(("output", "h_n", "c_n"), results, strict=True))
    found |= {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach() for name, value in found.items()}


@contextmanager
def float32_multiplied_in(precision: str) -> Iterator[None]:
    """Products of float32 on a GPU: "ieee" or "tf32", PyTorch's own and ours."""
    convolutions = torch.backends.cudnn.conv
    usual = convolutions.fp32_precision
    convolutions.fp32_precision = precision
    yield
    convolutions.fp32_precision = usual


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((found.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()

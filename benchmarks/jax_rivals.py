"""Rivals from the JAX world, for inference: XLA's convolution gradients on a CPU take minutes.

They come with the extra ``rivals`` and are imported only when they take part. Weights are those of
the problem, brought into each library's layout and gate order.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .workloads import LayerWeights, Problem


def missing(package: str) -> str | None:
    """Why the rival of this package cannot take part, or None."""
    absent = [name for name in ("jax", package) if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed (pip install 'memx_fast[rivals]')"


class JaxRunner:
    """A compiled function of x; x and the output are time-major or batch-major, channels last."""

    def __init__(self, function: Callable[[Any], Any], x: Any, to_output: str) -> None:
        self.function = function
        self.x = x
        self.to_output = to_output

    def forward(self) -> Tensor:
        """The output as (T, B, C, H, W), a view of JAX's own memory."""
        output = torch.from_dlpack(self.function(self.x).block_until_ready())
        return torch.einsum(self.to_output, output)

    def training(self) -> Tensor:
        raise NotImplementedError("this rival takes part in inference only")

    def gradients(self, grad_output: Tensor) -> list[Tensor]:
        raise NotImplementedError("this rival takes part in inference only")


def build_flax(problem: Problem, dtype: str) -> JaxRunner:
    """``nn.RNN(nn.ConvLSTMCell)``, one a layer, compiled as a whole."""
    import jax
    from flax import linen

    kernel = (problem.workload.kernel_size,) * 2
    stack = [
        linen.RNN(linen.ConvLSTMCell(hidden, kernel, dtype=dtype), time_major=True)
        for _, hidden in problem.workload.layers
    ]
    parameters = [flax_parameters(weights) for weights in problem.layers]
    states = channels_last_states(problem)

    def run(x: Any) -> Any:
        for index, (layer, weights) in enumerate(zip(stack, parameters, strict=True)):
            carry = None if states is None else (states[index][1], states[index][0])
            x = layer.apply({"params": {"cell": weights}}, x, initial_carry=carry)
        return x

    x = to_jax(problem.x.permute(0, 1, 3, 4, 2)).astype(dtype)
    return JaxRunner(jax.jit(run), x, "tbhwc->tbchw")


def flax_parameters(weights: LayerWeights) -> dict[str, dict[str, Any]]:
    """The cell's parameters: gates in the order i, g, f, o, and a 1 that it adds to f itself."""
    i, f, g, o = weights.bias.chunk(4)
    bias = torch.cat([i, g, f - 1, o])
    order = [0, 2, 1, 3]

    def kernel(weight: Tensor) -> Any:
        gates = weight.unflatten(0, (4, -1))[order].flatten(0, 1)
        return to_jax(gates.permute(2, 3, 1, 0))

    return {
        "ih": {"kernel": kernel(weights.input), "bias": to_jax(bias)},
        "hh": {"kernel": kernel(weights.hidden), "bias": to_jax(torch.zeros_like(bias))},
    }


def build_keras(problem: Problem, dtype: str) -> JaxRunner:
    """``keras.layers.ConvLSTM2D``, one a layer, on the JAX backend, compiled as a whole."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    policy = "mixed_bfloat16" if dtype == "bfloat16" else "float32"
    stack = []
    for weights, (_, hidden) in zip(problem.layers, problem.workload.layers, strict=True):
        layer = keras.layers.ConvLSTM2D(
            hidden,
            problem.workload.kernel_size,
            padding="same",
            return_sequences=True,
            data_format="channels_last",
            dtype=policy,
        )
        layer.build((None, None, *problem.x.shape[3:], weights.input.shape[1]))
        layer.set_weights(
            [
                weights.input.permute(2, 3, 1, 0).numpy(),
                weights.hidden.permute(2, 3, 1, 0).numpy(),
                weights.bias.numpy(),
            ]
        )
        stack.append(layer)
    states = channels_last_states(problem)

    def run(x: Any) -> Any:
        for index, layer in enumerate(stack):
            x = layer(x, initial_state=None if states is None else list(states[index]))
        return x

    x = to_jax(problem.x.permute(1, 0, 3, 4, 2)).astype(dtype)
    return JaxRunner(jax.jit(run), x, "bthwc->tbchw")


def channels_last_states(problem: Problem) -> list[tuple[Any, Any]] | None:
    """h_0 and c_0 of each layer as (B, H, W, C)."""
    if problem.states is None:
        return None
    return [
        (to_jax(h_0.permute(0, 2, 3, 1)), to_jax(c_0.permute(0, 2, 3, 1)))
        for h_0, c_0 in problem.states
    ]


def to_jax(tensor: Tensor) -> Any:
    import jax.numpy

    return jax.numpy.asarray(tensor.contiguous().numpy())

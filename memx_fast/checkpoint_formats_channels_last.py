"""How Keras, Flax and Haiku store a ConvLSTM: kernels (*kernel, Cin, 4C), biases of run time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checkpoint_entries import Entries, Weights, reordered, summed


def _channels_last(weight: Tensor) -> Tensor:
    """(4C, Cin, *kernel) to (*kernel, Cin, 4C); a tensor of its own."""
    return weight.movedim((0, 1), (-1, -2)).clone(memory_format=torch.contiguous_format)


def _keras_names(entries: Entries) -> tuple[str, str, str]:
    # By name, or by position: in Keras 3's HDF5 files a layer's variables are numbered.
    return ("kernel", "recurrent_kernel", "bias") if "kernel" in entries else ("0", "1", "2")


def fits_keras(entries: Entries) -> bool:
    """Every layer with weights has a kernel, or a variable 0."""
    kernel, recurrent = _keras_names(entries)[:2]
    if recurrent not in entries:
        return False
    sizes, recurrent_sizes = entries.take(kernel).shape, entries.take(recurrent).shape
    return (
        len(sizes) == len(recurrent_sizes) in (3, 4, 5)
        and sizes[-1] == recurrent_sizes[-1] == 4 * recurrent_sizes[-2]
    )


def read_keras(entries: Entries) -> list[Weights]:
    names = _keras_names(entries)
    weight_ih = entries.kernel_with_gates_last(names[0])
    weight_hh = entries.kernel_with_gates_last(names[1])
    return [Weights(weight_ih, weight_hh, entries.optional(names[2], len(weight_ih)))]


def write_keras(layers: list[Weights]) -> dict[str, Tensor]:
    weight_ih, weight_hh, bias = layers[0]
    tensors = {"kernel": _channels_last(weight_ih), "recurrent_kernel": _channels_last(weight_hh)}
    return tensors if bias is None else {**tensors, "bias": bias.clone()}


def _forget_bias(like: Tensor, rows: int) -> Tensor:
    """What Flax and Haiku add to the forget gate at run time, in canonical order."""
    bias = like.new_zeros(rows)
    bias[rows // 4 : rows // 2] = 1
    return bias


def jax(input_name: str, hidden_name: str, kernel: str, bias: str) -> dict[str, Any]:
    """Reader and writer of Flax's and Haiku's cells, which differ in names alone."""
    order = "igfo"

    def read(entries: Entries) -> list[Weights]:
        weight_ih = reordered(entries.kernel_with_gates_last(f"{input_name}/{kernel}"), order)
        weight_hh = reordered(entries.kernel_with_gates_last(f"{hidden_name}/{kernel}"), order)
        rows = len(weight_ih)
        biases = summed(
            entries.optional(f"{input_name}/{bias}", rows),
            entries.optional(f"{hidden_name}/{bias}", rows),
        )
        run_time = _forget_bias(weight_ih, rows)
        total = run_time if biases is None else reordered(biases, order) + run_time
        return [Weights(weight_ih, weight_hh, total)]

    def write(layers: list[Weights]) -> dict[str, Any]:
        weight_ih, weight_hh, given = layers[0]
        rows = len(weight_ih)
        stored = -_forget_bias(weight_ih, rows)
        if given is not None:
            stored = given + stored
        return {
            input_name: {
                kernel: _channels_last(reordered(weight_ih, "ifgo", order)),
                bias: reordered(stored, "ifgo", order),
            },
            hidden_name: {
                kernel: _channels_last(reordered(weight_hh, "ifgo", order)),
                bias: torch.zeros_like(stored),
            },
        }

    return {"read": read, "write": write}

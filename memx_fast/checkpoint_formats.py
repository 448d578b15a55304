"""How other ConvLSTM implementations store their weights: key names and gate orders.

A :class:`Format` reads a checkpoint's tensors as the weights of recurrences, and writes them. Rows
of the canonical weights lie in the order i, f, g, o, as :class:`memx_fast.ConvLSTM` has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checkpoint_formats_channels_last as channels_last
from .checkpoint_entries import Entries, Weights, reordered, summed


@dataclass(frozen=True)
class Format:
    """How one implementation stores recurrences.

    Attributes:
        description: where it comes from, for error messages.
        anchor: pattern of the end of a name that every such checkpoint has once, by which it and
            its prefix are recognised.
        scope: pattern of the beginning of names, after the prefix, that belong to the recurrences:
            whatever is left there unread is an error.
        read: gives the recurrences, one a layer.
        write: gives the tensors of recurrences; None if what is read cannot be written.
        stacked: whether it holds any number of layers, not one.
        unclear: why it is used only if it is asked for by name.
        fits: whether the shapes are those of such recurrences, which tells them from other parts of
            a model that end in the same names.
        hidden_from_candidate: whether they are those of :class:`memx_fast.openstl.OpenSTL2023`.
    """

    description: str
    anchor: str
    scope: str
    read: Callable[[Entries], list[Weights]]
    write: Callable[[list[Weights]], dict[str, Any]] | None = None
    stacked: bool = False
    unclear: str = ""
    fits: Callable[[Entries], bool] = lambda entries: True
    hidden_from_candidate: bool = False


# One convolution over the channels of input and hidden state together.


def _read_joint(entries: Entries, name: str, order: str) -> Weights:
    weight = entries.kernel(f"{name}.weight")
    hidden = len(weight) // 4
    if weight.shape[1] <= hidden:
        raise ValueError(
            f"state_dict: {name + '.weight'!r} has shape {tuple(weight.shape)}: of "
            f"{weight.shape[1]} input channels {hidden} are the hidden state's, which leaves none"
        )
    bias = entries.optional(f"{name}.bias", len(weight))
    weight = reordered(weight, order)
    return Weights(
        weight[:, :-hidden],
        weight[:, -hidden:],
        None if bias is None else reordered(bias, order),
    )


def _write_joint(weights: Weights, name: str, order: str) -> dict[str, Tensor]:
    joint = torch.cat(weights[:2], 1)
    tensors = {f"{name}.weight": reordered(joint, "ifgo", order)}
    if weights.bias is not None:
        tensors[f"{name}.bias"] = reordered(weights.bias, "ifgo", order)
    return tensors


def _joint(name: str, order: str) -> dict[str, Any]:
    """Reader and writer of convolutions called ``name``, the layer in place of ``{}``.

    Without that there is a single one.
    """
    stacked = "{}" in name
    pattern = re.escape(name).replace(r"\{\}", r"(\d+)") + r"\."

    def read(entries: Entries) -> list[Weights]:
        count = entries.layers(pattern) if stacked else 1
        return [_read_joint(entries, name.format(layer), order) for layer in range(count)]

    def write(layers: list[Weights]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for layer, weights in enumerate(layers):
            tensors |= _write_joint(weights, name.format(layer), order)
        return tensors

    def fits(entries: Entries) -> bool:
        weight = entries.take(f"{name.format(0)}.weight")
        rows = len(weight) if weight.dim() in (3, 4, 5) else 0
        return rows > 0 and rows % 4 == 0 and weight.shape[1] > rows // 4

    return {"read": read, "write": write, "stacked": stacked, "fits": fits}


# Convolutions of their own for input and hidden state.


def _read_openstl(entries: Entries) -> list[Weights]:
    layers = []
    for layer in range(entries.layers(r"cell_list\.(\d+)\.")):
        cell = f"cell_list.{layer}"
        if f"{cell}.conv_x.1.weight" in entries:
            raise ValueError(
                f"state_dict: {cell + '.conv_x.1.weight'!r} is a LayerNorm inside the cell "
                "(layer_norm=1), which memx_fast.ConvLSTM does not have"
            )
        weight_ih = entries.kernel(f"{cell}.conv_x.0.weight")
        weight_hh = entries.kernel(f"{cell}.conv_h.0.weight")
        # Taken over from PredRNN with the code around them, and used by nothing.
        entries.optional(f"{cell}.conv_o.0.weight")
        entries.optional(f"{cell}.conv_last.weight")
        layers.append(Weights(weight_ih, weight_hh, None))
    return layers


def _write_openstl(layers: list[Weights]) -> dict[str, Tensor]:
    tensors = {}
    for layer, (weight_ih, weight_hh, bias) in enumerate(layers):
        if bias is not None and bias.count_nonzero() > 0:
            raise ValueError("target: OpenSTL has no biases, but the layer has (layer.bias)")
        tensors[f"cell_list.{layer}.conv_x.0.weight"] = weight_ih.clone()
        tensors[f"cell_list.{layer}.conv_h.0.weight"] = weight_hh.clone()
    return tensors


_AUTOMAN_GATES = "ifco"


def _read_automan(entries: Entries) -> list[Weights]:
    layers = []
    for layer in range(entries.layers(r"cell(\d+)\.")):
        name = f"cell{layer}.W"
        shape = entries.take(f"{name}xi.weight").shape
        size, *kernel = shape[:1] + shape[2:]
        inputs = [entries.take(f"{name}x{gate}.weight", *shape) for gate in _AUTOMAN_GATES]
        hidden = [
            entries.take(f"{name}h{gate}.weight", size, size, *kernel) for gate in _AUTOMAN_GATES
        ]
        biases = [entries.take(f"{name}x{gate}.bias", size) for gate in _AUTOMAN_GATES]
        layers.append(Weights(torch.cat(inputs), torch.cat(hidden), torch.cat(biases)))
    return layers


def _write_automan(layers: list[Weights]) -> dict[str, Tensor]:
    tensors = {}
    for layer, (weight_ih, weight_hh, bias) in enumerate(layers):
        if bias is None:
            bias = weight_ih.new_zeros(len(weight_ih))
        blocks = zip(_AUTOMAN_GATES, *(part.chunk(4) for part in (weight_ih, bias)), strict=True)
        for gate, weight, gate_bias in blocks:
            tensors[f"cell{layer}.Wx{gate}.weight"] = weight.clone()
            tensors[f"cell{layer}.Wx{gate}.bias"] = gate_bias.clone()
        for gate, weight in zip(_AUTOMAN_GATES, weight_hh.chunk(4), strict=True):
            tensors[f"cell{layer}.Wh{gate}.weight"] = weight.clone()
    return tensors


def _read_rvt(entries: Entries) -> list[Weights]:
    if "conv3x3_dws.weight" in entries:
        raise ValueError(
            "state_dict: 'conv3x3_dws.weight' is a depthwise convolution before the gates "
            "(dws_conv=True), which memx_fast.ConvLSTM does not have"
        )
    return [_read_joint(entries, "conv1x1", "fiog")]


def _write_rvt(layers: list[Weights]) -> dict[str, Tensor]:
    (weights,) = layers
    if weights.weight_ih.shape != weights.weight_hh.shape or weights.weight_ih[0, 0].numel() != 1:
        raise ValueError(
            'target: "rvt" has kernels of 1 x 1 and as many input channels as hidden ones, got '
            f"weight_ih of shape {tuple(weights.weight_ih.shape)} and "
            f"weight_hh of shape {tuple(weights.weight_hh.shape)}"
        )
    bias = weights.weight_ih.new_zeros(len(weights.weight_ih))
    with_bias = weights._replace(bias=bias if weights.bias is None else weights.bias)
    return _write_joint(with_bias, "conv1x1", "fiog")


def _read_openeb(entries: Entries) -> list[Weights]:
    if entries.left(r"conv_x2h\.module\.1\."):
        raise ValueError(
            "state_dict: 'conv_x2h.module.1' is a BatchNorm on the input's share of the gates, "
            "which memx_fast.ConvLSTM does not have"
        )
    weight_ih = entries.kernel("conv_x2h.module.0.weight")
    weight_hh = entries.kernel("timepool.conv_h2h.weight")
    bias = summed(
        entries.optional("conv_x2h.module.0.bias", len(weight_ih)),
        entries.optional("timepool.conv_h2h.bias", len(weight_ih)),
    )
    order = "ifog"
    return [
        Weights(
            reordered(weight_ih, order),
            reordered(weight_hh, order),
            None if bias is None else reordered(bias, order),
        )
    ]


def _refuse_convolutional_peepholes(entries: Entries) -> list[Weights]:
    raise ValueError(
        "state_dict: 'weight_pi_l0' is a convolutional peephole; memx_fast.ConvLSTM has peepholes "
        "of one weight a channel, or one a channel and pixel"
    )


def _refuse_norm(entries: Entries) -> list[Weights]:
    norm = "BatchNorm" if "conv.1.running_mean" in entries else "GroupNorm"
    raise ValueError(
        f"state_dict: 'conv.1.weight' is a {norm} between convolution and gates, which "
        "memx_fast.ConvLSTM does not have"
    )


def _fits_norm(entries: Entries) -> bool:
    """A convolution of four gates, and a weight for each of its rows."""
    rows = entries.take("conv.1.weight").shape
    return "conv.0.weight" in entries and entries.take("conv.0.weight").shape[:1] == rows


def _refuse_tsugumi(entries: Entries) -> list[Weights]:
    raise ValueError(
        "state_dict: 'ConvLSTMCell.conv.weight' is of tsugumi-sys/SA-ConvLSTM-Pytorch, whose "
        "checkpoints lack what it takes to compute the same: the activation, and the peepholes of "
        "whatever was trained on a GPU"
    )


_WHICH_OPENSTL = (
    "OpenSTL's releases of 2023 computed H = o * g, later ones H = o * tanh(C), and nothing in the "
    'weights tells; say source="openstl" for the later ones, source="openstl-2023" for the earlier'
)

FORMATS: dict[str, Format] = {
    "openstl": Format(
        "OpenSTL from December 2023 on",
        anchor=r"cell_list\.0\.conv_x\.0\.weight",
        scope=r"cell_list\.",
        read=_read_openstl,
        write=_write_openstl,
        stacked=True,
        unclear=_WHICH_OPENSTL,
    ),
    "openstl-2023": Format(
        "OpenSTL's releases of 2023, which compute H = o * g",
        anchor=r"cell_list\.0\.conv_x\.0\.weight",
        scope=r"cell_list\.",
        read=_read_openstl,
        write=_write_openstl,
        stacked=True,
        unclear=_WHICH_OPENSTL,
        hidden_from_candidate=True,
    ),
    "ndrplz": Format(
        "ndrplz/ConvLSTM_pytorch, conv-lstm, TorchGeo and their relatives",
        anchor=r"cell_list\.0\.conv\.weight",
        scope=r"cell_list\.",
        **_joint("cell_list.{}.conv", "ifog"),
    ),
    "automan000": Format(
        "automan000/Convolutional_LSTM_PyTorch",
        anchor=r"cell0\.Wxi\.weight",
        scope=r"cell\d+\.",
        read=_read_automan,
        write=_write_automan,
        stacked=True,
    ),
    "e2vid": Format(
        "rpg_e2vid and pytorch-CortexNet",
        anchor=r"Gates\.weight",
        scope=r"Gates\.",
        **_joint("Gates", "ifog"),
    ),
    "rvt": Format(
        "RVT's DWSConvLSTM2d",
        anchor=r"conv1x1\.weight",
        scope=r"conv1x1\.|conv3x3_dws\.",
        read=_read_rvt,
        write=_write_rvt,
    ),
    "openeb": Format(
        "Prophesee OpenEB's ConvRNN",
        anchor=r"timepool\.conv_h2h\.weight",
        scope=r"conv_x2h\.|timepool\.",
        read=_read_openeb,
    ),
    "flax": Format(
        "Flax's ConvLSTMCell",
        anchor=r"ih/kernel",
        scope=r"ih/|hh/",
        **channels_last.jax("ih", "hh", "kernel", "bias"),
    ),
    "haiku": Format(
        "Haiku's Conv1DLSTM, Conv2DLSTM and Conv3DLSTM",
        anchor=r"input_to_hidden/w",
        scope=r"input_to_hidden/|hidden_to_hidden/",
        **channels_last.jax("input_to_hidden", "hidden_to_hidden", "w", "b"),
    ),
    "keras": Format(
        "Keras's ConvLSTM1D, ConvLSTM2D and ConvLSTM3D",
        anchor=r"(?:kernel|(?<=vars/)0)",
        scope=r"(?:kernel|recurrent_kernel|bias|\d+)$",
        read=channels_last.read_keras,
        write=channels_last.write_keras,
        fits=channels_last.fits_keras,
    ),
    "convolutional-rnn": Format(
        "kamo-naoyuki/pytorch_convolutional_rnn with peepholes",
        anchor=r"weight_pi_l0",
        scope=r"weight_",
        read=_refuse_convolutional_peepholes,
    ),
    "jhhuang96": Format(
        "jhhuang96/ConvLSTM-PyTorch and czifan/ConvLSTM.pytorch",
        anchor=r"conv\.1\.weight",
        scope=r"conv\.",
        read=_refuse_norm,
        fits=_fits_norm,
    ),
    "tsugumi-sys": Format(
        "tsugumi-sys/SA-ConvLSTM-Pytorch",
        anchor=r"ConvLSTMCell\.conv\.weight",
        scope=r"ConvLSTMCell\.",
        read=_refuse_tsugumi,
    ),
    "cell": Format(
        "single cells as ndrplz has them: snnTorch, holmdk, satflow",
        anchor=r"conv\.weight",
        scope=r"conv\.",
        **_joint("conv", "ifog"),
    ),
}
"""By the name of the source; where several fit a checkpoint, the first of them is recognised."""

"""Weights of other ConvLSTM implementations, in and out.

    layer = checkpoints.load(None, torch.load("model.pt", weights_only=True))
    torch.save(checkpoints.export(layer, "ndrplz"), "model.pt")

What each source is called, and what to know about it, is on the page "Coming from" of the
documentation; :data:`memx_fast.checkpoint_formats.FORMATS` holds the layouts themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import Sizes, described, flag
from .cell import ConvLSTMCell
from .checkpoint_entries import Entries, Weights
from .checkpoint_formats import FORMATS, Format
from .lines_and_volumes import ConvLSTM1d, ConvLSTM3d
from .modules import ConvLSTM
from .openstl import OpenSTL2023
from .recurrence import Recurrence

_LAYERS: dict[int, type[ConvLSTM]] = {1: ConvLSTM1d, 2: ConvLSTM, 3: ConvLSTM3d}


def load(
    layer: Recurrence | None,
    state_dict: Mapping[str, Any] | Sequence[Any],
    source: str = "auto",
    *,
    prefix: str | Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Give a layer the weights of another implementation's checkpoint.

    Args:
        layer: a :class:`memx_fast.ConvLSTM`, one of its relatives or a cell, of the sizes that the
            checkpoint has; None makes a ConvLSTM of these sizes. Where the source has no bias or no
            peepholes and the layer does, they are set to 0, which computes the same; a kernel that
            is smaller than the layer's is set into its middle. Of ``source="openstl-2023"`` it is a
            :class:`memx_fast.openstl.OpenSTL2023`.
        state_dict: tensors or arrays by name, which may be nested (``{"ih": {"kernel": ...}}``), or
            Keras's list ``layer.get_weights()``. Names that do not belong to a ConvLSTM are
            ignored.
        source: one of :data:`memx_fast.checkpoint_formats.FORMATS`; ``"auto"`` recognises it by
            names and shapes. OpenSTL's, of which nothing tells what they compute, have to be named.
        prefix: what comes before the recurrence's own names, such as ``"encoder."``. None finds
            it where only one fits. Several give one recurrence each: layers in order, with
            ``bidirectional`` each one's reverse after it.
        options: of the layer that is made if ``layer`` is None, such as ``batch_first`` or
            ``recurrent_activation``; sizes come from the checkpoint, as do number of layers,
            ``bias`` and, unless given, ``dtype``.

    Returns:
        The layer.

    Raises:
        TypeError: an argument is of the wrong type, or tensors are of several dtypes.
        ValueError: names or shapes do not fit, the source is not known or not recognised, or holds
            what a ConvLSTM here cannot represent; the message names it. The layer is then as it
            was.
    """
    if layer is not None and not isinstance(layer, ConvLSTM | ConvLSTMCell):
        raise TypeError(f"layer: got {described(layer)}, expected a ConvLSTM, a cell or None")
    if layer is not None and options:
        raise TypeError(
            f"{next(iter(options))}: got an option of a new layer, but layer is not None"
        )
    tensors = _tensors_of(state_dict)
    name, prefixes = _recognised(tensors, source, _prefixes_wanted(prefix))
    form = FORMATS[name]
    recurrences = _read(form, tensors, prefixes)
    if layer is None:
        layer = _made_for(form, recurrences, options)
    _check_equations("source", name, layer)
    _copy(recurrences, layer)
    return layer


def export(layer: Recurrence, target: str, *, suffix: str | None = None) -> dict[str, Any]:
    """The weights of a layer as another implementation stores them.

    Args:
        layer: a :class:`memx_fast.ConvLSTM`, one of its relatives or a cell.
        target: one of :data:`memx_fast.checkpoint_formats.FORMATS`.
        suffix: which recurrence, such as ``"l1"`` or ``"l0_reverse"``; needed where the target
            holds one and the layer has several.

    Returns:
        Tensors by name on the layer's device, in the target's own order, so that
        ``keras_layer.set_weights([t.numpy() for t in export(layer, "keras").values()])`` works;
        for Flax and Haiku nested as there. They share no memory with the layer.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the target is not known, or has no counterpart for what the layer does; the
            message says which.
    """
    if not isinstance(layer, ConvLSTM | ConvLSTMCell):
        raise TypeError(f"layer: got {described(layer)}, expected a ConvLSTM or a cell")
    form = _format_named("target", target)
    if form.write is None:
        raise ValueError(f"target: {target!r} can only be read; it is {form.description}")
    _check_equations("target", target, layer)
    if layer.peephole is not None:
        raise ValueError(
            f"target: {target!r} has no peepholes, but the layer has (peephole={layer.peephole!r})"
        )
    if layer.recurrent_activation != "sigmoid" and target != "keras":
        raise ValueError(
            f"target: {target!r} has logistic gates, "
            f"got recurrent_activation={layer.recurrent_activation!r}"
        )
    if (layer.padding, layer.stride, layer.dilation) != ("same", 1, 1) and target != "keras":
        raise ValueError(
            f'target: {target!r} has padding="same", stride=1 and dilation=1, got '
            f"padding={layer.padding!r}, stride={layer.stride!r} and dilation={layer.dilation!r}"
        )
    suffixes = _chosen_suffixes(layer, target, form, suffix)
    with torch.no_grad():
        weights = [Weights(*layer._parameters_of(one)[:3]) for one in suffixes]
        return form.write(weights)


def _chosen_suffixes(
    layer: Recurrence, target: str, form: Format, suffix: str | None
) -> Sequence[str]:
    """Of the parameters of the recurrences that are exported."""
    suffixes = layer._suffixes()
    known = [one.removeprefix("_") for one in suffixes]
    if suffix is not None:
        if suffix not in known:
            raise ValueError(f"suffix: got {suffix!r}, expected one of {', '.join(known)}")
        return [suffixes[known.index(suffix)]]
    if len(suffixes) > 1 and not form.stacked:
        raise ValueError(
            f"target: {target!r} holds one recurrence, the layer has {len(suffixes)}; "
            f"say which by suffix, one of {', '.join(known)}"
        )
    if any(one.endswith("_reverse") for one in suffixes):
        raise ValueError(
            f"target: {target!r} has no reverse direction; say which one by suffix, "
            f"one of {', '.join(known)}"
        )
    return suffixes


def _check_equations(argument: str, name: str, layer: Recurrence) -> None:
    """Raise unless the layer's hidden state comes from where the format's does."""
    if isinstance(layer, OpenSTL2023) == FORMATS[name].hidden_from_candidate:
        return
    candidate = FORMATS[name].hidden_from_candidate
    expected = "an OpenSTL2023: H = o * g" if candidate else "a ConvLSTM or a cell: H = o * tanh(C)"
    raise ValueError(
        f"layer: got {type(layer).__name__} with {argument}={name!r}, expected {expected}"
    )


def _format_named(argument: str, name: str) -> Format:
    if not isinstance(name, str):
        raise TypeError(f"{argument}: got {described(name)}, expected a name")
    if name not in FORMATS:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _tensors_of(state_dict: Any) -> dict[str, Tensor]:
    """All tensors and arrays by name; the levels of nested names are joined by "/"."""
    if isinstance(state_dict, list | tuple):
        if len(state_dict) not in (2, 3):
            raise ValueError(
                f"state_dict: got {described(state_dict)}, expected two or three arrays: "
                "kernel, recurrent_kernel and perhaps bias"
            )
        names = ("kernel", "recurrent_kernel", "bias")
        state_dict = dict(zip(names, state_dict, strict=False))
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {described(state_dict)}, expected tensors by name")
    found: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": tensor for inner, tensor in _tensors_of(value).items()}
        elif hasattr(value, "__array__"):
            # TensorFlow ends the names of its variables in ":0".
            found[re.sub(r":\d+$", "", str(name))] = _tensor_of(value)
    return found


def _tensor_of(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # JAX's, which PyTorch does not take from numpy
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.tensor(array) if array.dtype.kind in "fiub" else torch.empty(0)


def _prefixes_wanted(prefix: object) -> list[str] | None:
    """``prefix`` of :func:`load` as a list, if it is given."""
    if prefix is None:
        return None
    wanted = [prefix] if isinstance(prefix, str) else prefix
    if not isinstance(wanted, list | tuple) or not all(isinstance(one, str) for one in wanted):
        raise TypeError(f"prefix: got {described(prefix)}, expected a text or several")
    if not wanted:
        raise ValueError(f"prefix: got {described(prefix)}, expected at least one")
    return list(wanted)


def _recognised(
    tensors: dict[str, Tensor], source: str, wanted: list[str] | None
) -> tuple[str, list[str]]:
    """Name of the format, and one prefix a recurrence or stack of them."""
    if source == "auto":
        forms = FORMATS
    else:
        forms = {source: _format_named("source", source)}
        if wanted is not None:
            return source, wanted
    # First what fits by shape too; else names alone, so that the error tells which shape is wrong.
    for by_shape in (True, False):
        for name, form in forms.items():
            found = _prefixes(form, tensors, by_shape)
            if wanted is not None:
                found = wanted if set(wanted) <= set(found) else []
            if not found:
                continue
            if source == "auto" and form.unclear:
                raise ValueError(f"source: {form.unclear}")
            if wanted is None and len(found) > 1:
                raise ValueError(
                    f"prefix: got None, but there are several recurrences ({name}), under "
                    f"{', '.join(map(repr, found))}; say which"
                )
            return name, found
    sample = ", ".join(map(repr, sorted(tensors)[:8])) or "no tensors"
    expected = "a ConvLSTM's weights" if source == "auto" else forms[source].description
    under = "" if wanted is None else f" with prefix={', '.join(map(repr, wanted))}"
    raise ValueError(f"state_dict: got {sample}{under}, expected {expected}")


def _prefixes(form: Format, tensors: dict[str, Tensor], by_shape: bool) -> list[str]:
    """What comes before the names of such a format, wherever it occurs."""
    pattern = re.compile(rf"(?P<prefix>|.*[./])(?:{form.anchor})")
    matches = (pattern.fullmatch(name) for name in tensors)
    found = [match["prefix"] for match in matches if match]
    return [one for one in found if not by_shape or form.fits(Entries(tensors, one))]


def _read(form: Format, tensors: dict[str, Tensor], prefixes: list[str]) -> list[Weights]:
    recurrences: list[Weights] = []
    taken: dict[str, Tensor] = {}
    for prefix in prefixes:
        entries = Entries(tensors, prefix)
        found = form.read(entries)
        taken |= entries.taken()
        if not found:
            raise ValueError(
                f"state_dict: got no recurrences under the prefix {prefix!r}, "
                f"expected {form.description}"
            )
        recurrences += found
        if left := entries.left(form.scope):
            raise ValueError(
                f"state_dict: {', '.join(map(repr, left[:8]))} not expected in a checkpoint of "
                f"{form.description}"
            )
    _check_numbers(taken)
    _check_shapes(recurrences)
    return recurrences


def _check_numbers(taken: dict[str, Tensor]) -> None:
    """Raise unless the tensors have one floating dtype, and values."""
    first: dict[torch.dtype, str] = {}
    for name, tensor in taken.items():
        first.setdefault(tensor.dtype, name)
        if tensor.is_meta:
            raise ValueError(f"state_dict: {name!r} is on meta, expected one with values")
    if len(first) != 1 or not next(iter(first)).is_floating_point:
        found = ", ".join(f"{name!r} of {dtype}" for dtype, name in first.items())
        raise TypeError(f"state_dict: got {found}, expected weights of one floating dtype")


def _check_shapes(recurrences: list[Weights]) -> None:
    """Raise unless shapes are those of recurrences."""
    for number, (weight_ih, weight_hh, bias) in enumerate(recurrences):
        rows, axes = len(weight_ih), weight_ih.dim() - 2
        good = (
            rows % 4 == 0
            and axes in _LAYERS
            and weight_hh.dim() == axes + 2
            and weight_hh.shape[:2] == (rows, rows // 4)
            and (bias is None or bias.shape == (rows,))
        )
        if not good:
            shapes = [None if part is None else tuple(part.shape) for part in recurrences[number]]
            raise ValueError(
                f"state_dict: got weights of shapes {shapes[0]}, {shapes[1]} and {shapes[2]} for "
                f"recurrence {number}, expected (4C, Cin, *kernel), (4C, C, *kernel) and (4C,)"
            )


def _made_for(form: Format, recurrences: list[Weights], options: dict[str, Any]) -> ConvLSTM:
    """A layer of the sizes that these have."""
    taken = {"input_channels", "hidden_channels", "kernel_size", "num_layers", "bias"} & set(
        options
    )
    if taken:
        raise TypeError(f"{min(taken)}: comes from the checkpoint, and cannot be given")
    directions = 2 if flag("bidirectional", options.get("bidirectional", False)) else 1
    if len(recurrences) % directions:
        raise ValueError(
            f"bidirectional: got True with {len(recurrences)} recurrences, expected two a layer"
        )
    first = recurrences[0].weight_ih
    hidden = [len(weights.weight_ih) // 4 for weights in recurrences[::directions]]
    kernels: list[int | Sizes] = [_common_kernel(weights) for weights in recurrences[::directions]]
    alike = len(set(hidden)) == 1
    options.setdefault("dtype", first.dtype)
    made = OpenSTL2023 if form.hidden_from_candidate else _LAYERS[first.dim() - 2]
    return made(
        first.shape[1],
        hidden[0] if alike else hidden,
        kernels,
        len(hidden),
        bias=any(weights.bias is not None for weights in recurrences),
        **options,
    )


def _common_kernel(weights: Weights) -> Sizes:
    """The smallest odd kernel that both kernels of a recurrence fit into."""
    sizes = zip(weights.weight_ih.shape[2:], weights.weight_hh.shape[2:], strict=True)
    return tuple(max(pair) // 2 * 2 + 1 for pair in sizes)


def _copy(recurrences: list[Weights], layer: Recurrence) -> None:
    """Into the layer's parameters: all of them, or none if anything does not fit."""
    suffixes = layer._suffixes()
    if len(recurrences) != len(suffixes):
        raise ValueError(
            f"state_dict: got {len(recurrences)} recurrences, expected {len(suffixes)}: "
            f"the layer's {', '.join(suffixes)}"
        )
    parameters = dict(layer.named_parameters())
    copies: list[tuple[Tensor, Tensor]] = []
    for suffix, weights in zip(suffixes, recurrences, strict=True):
        for name, given in (*zip(Weights._fields, weights, strict=True), ("weight_ch", None)):
            wanted = getattr(layer, name + suffix)
            if wanted is None and given is not None:
                raise ValueError(f"state_dict: has a bias, but the layer's {name + suffix} is None")
            if wanted is None:
                continue
            if name + suffix not in parameters:
                raise ValueError(f"layer: {name + suffix} is parametrised; remove that first")
            if wanted.is_meta:
                raise ValueError(f"layer: {name + suffix} is on meta, expected one with memory")
            if given is None:
                given = torch.zeros_like(wanted)
            copies.append((wanted, _fitted(name + suffix, given, wanted, layer)))
    with torch.no_grad():
        for wanted, fitted in copies:
            wanted.copy_(fitted)


def _fitted(name: str, given: Tensor, wanted: Tensor, layer: Recurrence) -> Tensor:
    """``given`` with its kernel in the middle of one of the size of ``wanted``."""
    shapes = f"got shape {tuple(given.shape)} for {name}, expected {tuple(wanted.shape)}"
    if given.shape == wanted.shape:
        return given
    if given.dim() != wanted.dim() or given.shape[:2] != wanted.shape[:2]:
        raise ValueError(f"state_dict: {shapes}")
    if name.startswith("weight_ih") and layer.padding != "same":
        raise ValueError(f'state_dict: {shapes}; a kernel is only enlarged with padding="same"')
    # Centre on centre; "same" pads even kernels, which have none, more at the end.
    before = [
        size // 2 - (old - 1) // 2
        for old, size in zip(given.shape[2:], wanted.shape[2:], strict=True)
    ]
    fitted = torch.zeros_like(wanted, dtype=given.dtype, device=given.device)
    inside = fitted
    for axis, (start, old) in enumerate(zip(before, given.shape[2:], strict=True), start=2):
        if start < 0 or start + old > wanted.shape[axis]:
            raise ValueError(f"state_dict: {shapes}")
        inside = inside.narrow(axis, start, old)
    inside.copy_(given)
    return fitted

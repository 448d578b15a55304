"""The fused operators as PyTorch sees them: schemas, shapes for tracing, gradients, autocast.

There are two of each, with the same schemas, shapes and gradients, because GPUs have two engines:
``conv_lstm`` is C++ on the CPU and Triton on GPUs, ``conv_lstm_cuda`` is CUDA C++ on GPUs. Kernels
register themselves for the device they run on: those of the extension when it is loaded
(``csrc/ops.cpp`` gives every argument's shape), those of Triton from here. Whatever is installed,
the operators exist. What is registered here makes them differentiable and traceable;
:func:`fused_conv_lstm` is the function the rest of the package calls.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import backends

OPERATORS = ("conv_lstm", "conv_lstm_cuda")
"""Names in ``torch.ops.memx_fast``; that of the gradients is followed by ``_backward``."""

_SCHEMA = (
    "(Tensor x, Tensor? weight_ih, Tensor weight_hh, Tensor? bias, Tensor? weight_ch, "
    "Tensor? h_0, Tensor? c_0, int[2] padding, bool output_sees_current, bool save_cells, "
    "SymInt saved_gates, float hard_sigmoid_slope=0.0, Tensor? hidden_mask=None, "
    "Tensor? lengths=None) -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor gates)"
)

_BACKWARD_SCHEMA = (
    "(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor x, "
    "Tensor? weight_ih, Tensor weight_hh, Tensor? bias, Tensor? weight_ch, Tensor? h_0, "
    "Tensor? c_0, Tensor output, Tensor cells, Tensor gates, int[2] padding, "
    "bool output_sees_current, bool[7] needs, float hard_sigmoid_slope=0.0, "
    "Tensor? hidden_mask=None, Tensor? lengths=None) -> (Tensor x, Tensor weight_ih, "
    "Tensor weight_hh, Tensor bias, Tensor weight_ch, Tensor h_0, Tensor c_0)"
)

_GRADIENTS = 7  # x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0

_CONSTANTS = 7  # arguments that get no gradient: padding to lengths

_NO_DOUBLE_BACKWARD = (
    "memx_fast: the fused ConvLSTM kernels have no second derivative; "
    'use backend="reference", which supports double backward'
)


def fused_conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    padding: tuple[int, int] | None = None,
    output_peephole: str = "previous",
    hard_sigmoid_slope: float = 0.0,
    recompute: float = 0.5,
    operator: str = "conv_lstm",
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one ConvLSTM layer over a sequence with the fused kernels.

    Equivalent to :func:`memx_fast.reference.conv_lstm` with stride and dilation 1. The arguments
    are taken to be valid: :func:`memx_fast.functional.conv_lstm` is the function that checks them.

    Args:
        x: ``(T, B, Cin, Hx, Wx)``, any strides; or, when ``weight_ih`` is None, ready-made input
            gates ``(T, B, 4C, H, W)``.
        weight_ih: ``(4C, Cin, kh, kw)`` or None.
        weight_hh: ``(4C, C, kh, kw)``, odd kernel.
        bias: ``(4C,)`` or None.
        weight_ch: peepholes ``(3, C)`` or ``(3, C, H, W)`` in order i, f, o, or None.
        h_0: ``(B, C, H, W)`` or None for zeros.
        c_0: ``(B, C, H, W)`` or None for zeros.
        hidden_mask: ``(B, C, H, W)``, multiplies H_{t-1} on its way into the recurrent
            convolution, or None. It gets no gradient.
        lengths: ``(B,)`` of int64 on the device of x, from 1 to T: the steps of every sequence; or
            None for T.
        padding: rows and columns of zeros around x, less than the kernel: the states have
            ``H = Hx + 2 rows - kh + 1`` rows. None keeps the size, for an odd kernel.
        output_peephole: ``"previous"`` or ``"current"``.
        hard_sigmoid_slope: 0 for the logistic sigmoid in the gates i, f and o; above 0, that of
            ``clamp(slope z + 1/2, 0, 1)`` in its place.
        recompute: share of the steps, from 0 to 1, to three places and rounded down to whole steps,
            whose gates are computed again in the backward pass instead of being saved: the first
            ones.
        operator: one of :data:`OPERATORS`.

    Returns:
        ``(output, h_n, c_n)`` of shapes ``(T, B, C, H, W)``, ``(B, C, H, W)``, ``(B, C, H, W)``,
        all with channels-last strides. ``c_n`` is float32 where x is bfloat16 or float16.

    Under autocast, single-precision arguments are cast to its dtype first, except ``c_0``.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, weight_hh = x.to(dtype), weight_hh.to(dtype)
        weight_ih, bias, weight_ch, h_0, hidden_mask = (
            None if tensor is None else tensor.to(dtype)
            for tensor in (weight_ih, bias, weight_ch, h_0, hidden_mask)
        )
    if c_0 is not None:
        c_0 = c_0.to(accumulate_dtype(x.dtype))
    if padding is None:
        kernel = (1, 1) if weight_ih is None else weight_ih.shape[2:]
        padding = (kernel[0] // 2, kernel[1] // 2)
    differentiable = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad
        for tensor in (x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0)
    )
    output, h_n, c_n, _, _ = getattr(torch.ops.memx_fast, operator)(
        x,
        weight_ih,
        weight_hh,
        bias,
        weight_ch,
        h_0,
        c_0,
        padding,
        output_peephole == "current",
        differentiable,
        kept_steps(x.shape[0], recompute) if differentiable else 0,
        hard_sigmoid_slope,
        hidden_mask,
        lengths,
    )
    return output, h_n, c_n


def operator_of(engine: str) -> str:
    """The one of :data:`OPERATORS` with which a fused engine of :mod:`.backends` runs."""
    return "conv_lstm_cuda" if engine == "cuda" else "conv_lstm"


def kept_steps(steps: int, recompute: float) -> int:
    """Number of steps whose gates are kept, in whole numbers so that tracing can follow them."""
    if torch.compiler.is_exporting():
        return 0  # mostly exported for inference; and torch.export accepts no other for any steps
    return steps - steps * round(1000 * recompute) // 1000


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of cell states and of all arithmetic for tensors of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _channels_first(channels_last: Tensor) -> Tensor:
    return channels_last.movedim(-1, -3)


def _state_size(x: Tensor, weight_ih: Tensor | None, padding: list[int]) -> tuple[int, int]:
    kernel = (1, 1) if weight_ih is None else weight_ih.shape[2:]
    return (
        x.shape[3] + 2 * padding[0] - kernel[0] + 1,
        x.shape[4] + 2 * padding[1] - kernel[1] + 1,
    )


def _fake_forward(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    padding: list[int],
    output_sees_current: bool,
    save_cells: bool,
    saved_gates: int,
    hard_sigmoid_slope: float = 0.0,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    height, width = _state_size(x, weight_ih, padding)
    image = (batch, height, width, hidden)
    accumulate = accumulate_dtype(x.dtype)
    cells = (steps, *image) if save_cells else (0,)
    return (
        _channels_first(x.new_empty((steps, *image))),
        _channels_first(x.new_empty(image)),
        _channels_first(x.new_empty(image, dtype=accumulate)),
        x.new_empty(cells, dtype=accumulate),
        x.new_empty((saved_gates, batch, height, width, 4, hidden)),
    )


def _fake_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    output: Tensor,
    cells: Tensor,
    gates: Tensor,
    padding: list[int],
    output_sees_current: bool,
    needs: list[bool],
    hard_sigmoid_slope: float = 0.0,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    steps, batch, channels, *frame = x.shape
    states = (batch, *_state_size(x, weight_ih, padding), weight_hh.shape[1])
    accumulate = accumulate_dtype(x.dtype)

    def parameter(tensor: Tensor | None, wanted: bool) -> Tensor:
        return x.new_empty(tuple(tensor.shape) if tensor is not None and wanted else (0,))

    def images(shape: tuple[int, ...], wanted: bool, dtype: torch.dtype) -> Tensor:
        if not wanted:
            return x.new_empty((0,), dtype=dtype)
        return _channels_first(x.new_empty(shape, dtype=dtype))

    return (
        images((steps, batch, *frame, channels), needs[0], x.dtype),
        parameter(weight_ih, needs[1]),
        parameter(weight_hh, needs[2]),
        parameter(bias, needs[3]),
        parameter(weight_ch, needs[4]),
        images(states, needs[5], x.dtype),
        images(states, needs[6], accumulate),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.padding, ctx.output_sees_current, save_cells, _ = inputs[:-3]
    ctx.hard_sigmoid_slope, hidden_mask, lengths = inputs[-3:]
    hidden, _, _, cells, gates = output
    if not save_cells:
        raise RuntimeError(
            "memx_fast: conv_lstm was called with save_cells=False on arguments that need gradients"
        )
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(cells, gates)
    ctx.save_for_backward(*tensors, hidden, cells, gates, hidden_mask, lengths)


def _backward(operator: str, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_output, grad_h_n, grad_c_n, _, _ = grads
    needs = list(ctx.needs_input_grad[:_GRADIENTS])
    *tensors, hidden_mask, lengths = ctx.saved_tensors
    found = getattr(torch.ops.memx_fast, f"{operator}_backward")(
        grad_output,
        grad_h_n,
        grad_c_n,
        *tensors,
        ctx.padding,
        ctx.output_sees_current,
        needs,
        ctx.hard_sigmoid_slope,
        hidden_mask,
        lengths,
    )
    wanted = tuple(grad if need else None for grad, need in zip(found, needs, strict=True))
    return (*wanted, *(None,) * _CONSTANTS)


def _refuse_double_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(_NO_DOUBLE_BACKWARD)


def _triton_forward(*arguments: Any) -> tuple[Tensor, ...]:
    results: tuple[Tensor, ...] = _triton_kernels().conv_lstm(*arguments)
    return results


def _triton_backward(*arguments: Any) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = _triton_kernels().conv_lstm_backward(*arguments)
    return gradients


def _triton_kernels() -> Any:
    """Imported by the first call on a GPU: Triton may be missing, and takes a moment."""
    return importlib.import_module("memx_fast.triton_kernels")


def _register() -> torch.library.Library:
    """Define the operators; they last as long as the library that is returned."""
    library = torch.library.Library("memx_fast", "DEF")
    for operator in OPERATORS:
        _define(library, operator, _SCHEMA, _fake_forward)
        _define(library, f"{operator}_backward", _BACKWARD_SCHEMA, _fake_backward)
        torch.library.register_autograd(
            f"memx_fast::{operator}",
            functools.partial(_backward, operator),
            setup_context=_save_for_backward,
        )
        torch.library.register_autograd(f"memx_fast::{operator}_backward", _refuse_double_backward)
    for device in backends.TRITON_DEVICES:
        library.impl("conv_lstm", _triton_forward, device.upper())
        library.impl("conv_lstm_backward", _triton_backward, device.upper())
    return library


def _define(
    library: torch.library.Library, name: str, schema: str, fake: Callable[..., Any]
) -> None:
    library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"memx_fast::{name}", fake)


if not hasattr(torch.ops.memx_fast, "conv_lstm"):  # a reloaded module finds them registered
    _LIBRARY = _register()
backends.load_extension()

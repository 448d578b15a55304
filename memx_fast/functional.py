"""One ConvLSTM layer over a sequence as a function: checks its arguments, chooses the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, fused, gpu_engines, onnx, ops, reference
from . import lengths as variable
from .arguments import Sizes, described, positive, share_or_flag
from .geometry import InputConvolution, Padding
from .reference import State

OUTPUT_PEEPHOLES = ("previous", "current")
"""Which cell state the output gate can see."""

RECURRENT_ACTIVATIONS = ("sigmoid", "hard_sigmoid")
"""What the gates i, f and o go through."""

AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
"""Names of the spatial axes of lines, images and volumes, as shapes in messages have them."""

_KERNELS = {1: "k", 2: "kh, kw", 3: "kd, kh, kw"}

_SCAN = "scan"
_EQUATIONS: dict[str, Callable[..., tuple[Tensor, State]]] = {
    "reference": reference.conv_lstm,
    _SCAN: onnx.conv_lstm,
}
"""What runs on plain PyTorch: with a loop in Python, and with one that exporters keep."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""What the layer computes in."""


def conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
    state: State | None = None,
    *,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    output_peephole: str = "previous",
    recurrent_activation: str = "sigmoid",
    hard_sigmoid_slope: float = 1 / 6,
    padding: Padding = "same",
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
    recompute: float = 0.5,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Run one ConvLSTM layer over a sequence.

    Equivalent to: :func:`memx_fast.reference.conv_lstm`, which gives the equations.

    Frames are lines, images or volumes, as the recurrent kernel has one, two or three spatial axes.
    Shapes are written for images; with one axis they are ``(T, B, C, L)`` and ``(4C, C, k)``, with
    three ``(T, B, C, D, H, W)`` and ``(4C, C, kd, kh, kw)``. Lines run in the fused kernels, as
    images of one row; of volumes the gates are fused, and the convolutions are PyTorch's.

    T steps, B sequences, frames of H x W pixels and Cin channels, C hidden channels; H' x W' is the
    size of a frame after the input convolution, H x W unless ``padding``, ``stride`` or
    ``dilation`` say otherwise. Rows of the weights lie in gate order i, f, g, o. All tensors may
    have any strides, and are of one device and one dtype: float32, float64, bfloat16 or float16.

    Args:
        x: frames ``(T, B, Cin, H, W)``. If ``weight_ih`` is None, the caller's own input gates
            ``(T, B, 4C, H, W)``, for input convolutions of another kind.
        weight_ih: input kernel ``(4C, Cin, kh, kw)``, odd or even, or None.
        weight_hh: recurrent kernel ``(4C, C, kh, kw)``, odd.
        bias: ``(4C,)``, or None for none.
        weight_ch: peepholes in the order i, f, o: one weight a channel ``(3, C)``, one a channel
            and pixel ``(3, C, H', W')``, or None for none.
        state: ``(h_0, c_0)``, both ``(B, C, H', W')``, or None for zeros. ``c_0`` may be float32
            where the rest is a half type.
        hidden_mask: ``(B, C, H', W')``, a factor of H_{t-1} on its way into the recurrent
            convolution, the same at every step, or None for none. With elements that are 0 with
            probability p and else 1 / (1 - p) it is recurrent dropout with the mask held over time
            (Gal & Ghahramani 2016). A constant: it gets no gradient.
        lengths: the steps of every sequence, B whole numbers from 1 to T, or None for T. What x has
            after them is not read, and nothing is computed: the output there is 0, gradients that
            come in there are ignored, and those of x are 0. ``(h_n, c_n)`` are the states after
            each sequence's own last step. A tensor on a GPU is used as it is, without a look at
            its values; all else is checked, and copied to the device of x.
        output_peephole: the cell state that the output gate sees: that before the step,
            ``"previous"``, or that after it, ``"current"`` (Shi et al. 2015).
        recurrent_activation: what the gates i, f and o go through: ``"sigmoid"``, the logistic
            function, or ``"hard_sigmoid"``, ``clamp(hard_sigmoid_slope * z + 0.5, 0, 1)``. In half
            types a gate that rounds to 0 or 1 has the derivative of one that is clamped.
        hard_sigmoid_slope: 1/6 as in PyTorch, JAX and Keras 3; Keras up to 2 has 0.2. Unused with
            ``"sigmoid"``.
        padding: of the input convolution: ``"same"`` keeps the size, ``"valid"`` pads nothing; a
            number, or one for rows and one for columns, pads that much on both sides.
        stride: of the input convolution; ``"same"`` needs 1.
        dilation: of the input convolution.
        recompute: share of the steps, from 0 to 1, whose gates are computed a second time in the
            backward pass instead of being kept: less memory for more time. True is 1, False 0. The
            reference, which is plain PyTorch, ignores it.
        backend: ``"auto"`` for the fastest engine on the device of x, or the name of one:
            :func:`memx_fast.backends.available` lists them. Only ``"reference"`` can be
            differentiated twice. Under ``torch.func`` and in forward-mode differentiation
            ``"auto"`` is the reference. ``torch.onnx.export`` makes one Scan of it, and of
            ``"reference"`` as many copies as there are steps.

    Returns:
        ``output`` of shape ``(T, B, C, H', W')``, the hidden state of every step, and
        ``(h_n, c_n)``, the states after the last. ``c_n`` is float32 for half types, so that a
        sequence can be cut in two and the state carried over without loss.

    Under autocast, x, weights and h_0 are cast to its dtype first; c_0 and c_n stay float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: an argument does not fit the others; the message names it, what came and what
            was expected.
        RuntimeError: ``backend`` is known, but cannot run here; the message says why.
    """
    check_equations(output_peephole, recurrent_activation, hard_sigmoid_slope)
    slope = slope_of(recurrent_activation, hard_sigmoid_slope)
    recompute = share_or_flag("recompute", recompute)
    convolution = check_tensors(
        *(x, weight_ih, weight_hh, bias, weight_ch, state, hidden_mask, padding, stride, dilation)
    )
    if lengths is not None:
        lengths = variable.checked(lengths, x.shape[0], x.shape[1], x.device)

    h_0, c_0 = (None, None) if state is None else state
    engine = _engine(backend, x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask)
    if engine in _EQUATIONS:
        return _EQUATIONS[engine](
            x,
            weight_ih,
            weight_hh,
            bias,
            weight_ch,
            state,
            hidden_mask,
            lengths,
            output_peephole=output_peephole,
            hard_sigmoid_slope=slope,
            padding=padding,
            stride=stride,
            dilation=dilation,
        )
    output, h_n, c_n = fused.conv_lstm(
        fused.Arguments(x, weight_ih, weight_hh, bias, weight_ch, h_0, c_0, hidden_mask, lengths),
        convolution,
        fused.Options(output_peephole, slope, recompute, ops.operator_of(engine)),
    )
    return output, (h_n, c_n)


def _engine(
    backend: str,
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    *others: Tensor | None,
) -> str:
    """Name of the engine, which is the reference where only plain PyTorch knows what to do."""
    engine: str = backends.resolve(backend, x.device)
    if backend == "auto" and backends.has_both_for_gpus(x.device):
        engine = _fastest_for_gpus(x, weight_ih, weight_hh, *others)
    if torch.onnx.is_in_onnx_export():
        # The older exporter traces, and unrolls every loop.
        return "reference" if backend == "reference" or torch.jit.is_tracing() else _SCAN
    if engine == "reference" or x.shape[1] == 0:
        return "reference"
    if not _is_transformed(x, weight_ih, weight_hh, *others):
        return engine
    if backend != "auto":
        raise RuntimeError(
            f"backend: got {backend!r} under torch.func or forward-mode differentiation, which "
            'only plain PyTorch supports; use backend="auto" or "reference"'
        )
    return "reference"


def _fastest_for_gpus(
    x: Tensor, weight_ih: Tensor | None, weight_hh: Tensor, *others: Tensor | None
) -> str:
    tensors = (x, weight_ih, weight_hh, *others)
    trains = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
    return gpu_engines.fastest(
        x.device,
        reference.autocast_dtype(x) or x.dtype,
        trains,
        0 if weight_ih is None else weight_ih.shape[1],
        weight_hh.shape[1],
        math.prod(weight_hh.shape[2:]),
    )


def _is_transformed(*tensors: Tensor | None) -> bool:
    """Whether torch.func or forward-mode differentiation is at work on the tensors."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    return any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )


def check_equations(
    output_peephole: str, recurrent_activation: str, hard_sigmoid_slope: float
) -> None:
    """Raise unless these name a variant of the equations: see :func:`conv_lstm`."""
    if output_peephole not in OUTPUT_PEEPHOLES:
        raise ValueError(
            f'output_peephole: got {output_peephole!r}, expected "previous" or "current"'
        )
    if recurrent_activation not in RECURRENT_ACTIVATIONS:
        raise ValueError(
            f"recurrent_activation: got {recurrent_activation!r}, "
            'expected "sigmoid" or "hard_sigmoid"'
        )
    positive("hard_sigmoid_slope", hard_sigmoid_slope)


def slope_of(recurrent_activation: str, hard_sigmoid_slope: float) -> float:
    """The slope as the engines take it: 0 stands for the logistic sigmoid."""
    return float(hard_sigmoid_slope) if recurrent_activation == "hard_sigmoid" else 0.0


def check_tensors(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    state: State | None,
    hidden_mask: Tensor | None,
    padding: Padding,
    stride: int | Sizes,
    dilation: int | Sizes,
) -> InputConvolution:
    """Raise unless these go together as :func:`conv_lstm` takes them.

    Returns:
        The geometry of the input convolution.
    """
    _check_kinds(x, weight_ih, weight_hh, bias, weight_ch, state, hidden_mask)
    _check_weights(x, weight_ih, weight_hh, bias)
    convolution = _input_convolution(weight_ih, weight_hh.dim() - 2, padding, stride, dilation)
    _check_states(x, weight_hh, weight_ch, state, hidden_mask, convolution)
    return convolution


def _check_kinds(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    state: State | None,
    hidden_mask: Tensor | None,
) -> None:
    """All are tensors on one device, and of one dtype or, under autocast, castable to one."""
    _check_tensor("x", x)
    if x.dtype not in DTYPES:
        raise TypeError(f"x: got {x.dtype}, expected float32, float64, bfloat16 or float16")
    autocast = reference.autocast_dtype(x)
    _check_belongs("weight_hh", weight_hh, x, autocast)
    for name, tensor in (("weight_ih", weight_ih), ("bias", bias), ("weight_ch", weight_ch)):
        if tensor is not None:
            _check_belongs(name, tensor, x, autocast)
    if state is not None:
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError(f"state: got {described(state)}, expected two tensors (h_0, c_0)")
        _check_belongs("h_0", state[0], x, autocast)
        _check_belongs("c_0", state[1], x, autocast)
    if hidden_mask is not None:
        _check_belongs("hidden_mask", hidden_mask, x, autocast)
        if hidden_mask.requires_grad:
            raise ValueError(
                "hidden_mask: got a tensor that needs a gradient, expected a constant: it gets none"
            )


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {described(value)}, expected a tensor")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {value.layout}, expected a dense one")


def _check_belongs(name: str, tensor: Tensor, x: Tensor, autocast: torch.dtype | None) -> None:
    _check_tensor(name, tensor)
    if tensor.device != x.device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}, expected {x.device} as x")
    expected = ops.accumulate_dtype(x.dtype) if name == "c_0" else x.dtype
    if tensor.dtype in (x.dtype, expected):
        return
    if autocast is None:
        raise TypeError(f"{name}: got {tensor.dtype}, expected {expected} to go with x")
    if tensor.dtype not in DTYPES or tensor.dtype == torch.float64:
        raise TypeError(f"{name}: got {tensor.dtype}, which autocast does not cast to {autocast}")


def _check_weights(
    x: Tensor, weight_ih: Tensor | None, weight_hh: Tensor, bias: Tensor | None
) -> None:
    """Shapes of what does not depend on the size of the frames."""
    axes = weight_hh.dim() - 2
    if axes in AXES and (x.dim() != axes + 3 or 0 in (x.shape[0], *x.shape[2:])):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (T, B, channels, {AXES[axes]}), only B may "
            f"be 0, with weight_hh of shape {tuple(weight_hh.shape)}"
        )
    gates = 4 * _check_recurrent_weight(weight_hh)
    if weight_ih is None:
        if x.shape[2] != gates:
            raise ValueError(
                f"x: got {x.shape[2]} channels, expected {gates}: without weight_ih they are the "
                "input gates, 4 for each hidden channel"
            )
    elif weight_ih.dim() != weight_hh.dim() or 0 in weight_ih.shape:
        raise ValueError(
            f"weight_ih: got shape {tuple(weight_ih.shape)}, "
            f"expected (4 C, Cin, {_KERNELS[axes]}), none of them 0"
        )
    elif weight_ih.shape[0] != gates:
        raise ValueError(
            f"weight_ih: got {weight_ih.shape[0]} rows, expected {gates} as in weight_hh"
        )
    elif weight_ih.shape[1] != x.shape[2]:
        raise ValueError(
            f"x: got {x.shape[2]} channels, expected {weight_ih.shape[1]} as in weight_ih"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != gates):
        raise ValueError(f"bias: got shape {tuple(bias.shape)}, expected ({gates},)")


def _check_recurrent_weight(weight_hh: Tensor) -> int:
    """Number of hidden channels."""
    shape = tuple(weight_hh.shape)
    if len(shape) - 2 not in AXES or 0 in shape or shape[0] != 4 * shape[1]:
        kernel = _KERNELS.get(len(shape) - 2, _KERNELS[2])
        raise ValueError(
            f"weight_hh: got shape {shape}, expected (4 C, C, {kernel}), none of them 0"
        )
    if any(size % 2 == 0 for size in shape[2:]):
        raise ValueError(
            f"weight_hh: got a kernel of {shape[2:]}, expected odd sizes "
            "(an even one would shift the hidden state at every step)"
        )
    return shape[1]


def _input_convolution(
    weight_ih: Tensor | None,
    axes: int,
    padding: Padding,
    stride: int | Sizes,
    dilation: int | Sizes,
) -> InputConvolution:
    """Geometry of the input convolution; without ``weight_ih`` one that changes no size."""
    one_pixel = (1,) * axes
    kernel = one_pixel if weight_ih is None else tuple(weight_ih.shape[2:])
    convolution = InputConvolution.of(kernel, padding, stride, dilation)
    if weight_ih is None and convolution != InputConvolution.of(one_pixel, "same"):
        raise ValueError(
            f"padding, stride, dilation: got {padding!r}, {stride!r}, {dilation!r}, expected the "
            "defaults: without weight_ih there is no input convolution"
        )
    return convolution


def _check_states(
    x: Tensor,
    weight_hh: Tensor,
    weight_ch: Tensor | None,
    state: State | None,
    hidden_mask: Tensor | None,
    convolution: InputConvolution,
) -> None:
    """Shapes of what depends on the size of the frames."""
    hidden = weight_hh.shape[1]
    image = (hidden, *convolution.output_size(*x.shape[3:]))
    peepholes = ((3, hidden), (3, *image))
    if weight_ch is not None and tuple(weight_ch.shape) not in peepholes:
        raise ValueError(
            f"weight_ch: got shape {tuple(weight_ch.shape)}, "
            f"expected {peepholes[0]} or {peepholes[1]}"
        )
    expected = (x.shape[1], *image)
    h_0, c_0 = (None, None) if state is None else state
    for name, tensor in (("h_0", h_0), ("c_0", c_0), ("hidden_mask", hidden_mask)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {expected}")

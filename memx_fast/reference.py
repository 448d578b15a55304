r"""The equations in plain PyTorch, and their derivative written out by hand: the oracle.

With ``*`` a zero-padded convolution over one, two or three spatial axes and ``o`` the product of
elements, for t = 1..T:

    i_t = sigmoid(W_xi * X_t + W_hi * H_{t-1} + W_ci o C_{t-1} + b_i)      (1)
    f_t = sigmoid(W_xf * X_t + W_hf * H_{t-1} + W_cf o C_{t-1} + b_f)      (2)
    g_t = tanh   (W_xg * X_t + W_hg * H_{t-1}                  + b_g)
    C_t = f_t o C_{t-1} + i_t o g_t                                        (3)
    o_t = sigmoid(W_xo * X_t + W_ho * H_{t-1} + W_co o C_?     + b_o)      (4)
    H_t = o_t o tanh(C_t)                                                  (5)

``C_?`` is C_{t-1} for ``output_peephole="previous"`` and C_t for ``"current"`` (Shi et al. 2015,
"Convolutional LSTM Network"). In place of the sigmoid of (1), (2) and (4) may stand a hard one,
``clamp(slope z + 1/2, 0, 1)``. The four gates lie in the order i, f, g, o along the first dimension
of the weights, the peepholes W_ci, W_cf, W_co in the order i, f, o.

Convolutions run in the dtype of x; states of cells and gate arithmetic in float32 where that is a
half type. Everything here is differentiable any number of times. Shapes are written for images; of
lines and volumes they have one axis less or more: ``(T, B, C, L)`` and ``(T, B, C, D, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad as convolution_gradient

from . import lengths as variable
from .arguments import Sizes
from .geometry import InputConvolution, Padding
from .ops import accumulate_dtype

State = tuple[Tensor, Tensor]
"""Hidden state H and cell state C, both ``(B, C, H, W)``."""


class _Convolution(NamedTuple):
    """What PyTorch has for one number of spatial axes."""

    forward: Callable[..., Tensor]
    grad_input: Callable[..., Tensor]
    grad_weight: Callable[..., Tensor]
    layout: torch.memory_format  # of the weight, with which the result is channels-last


_CONVOLUTIONS = {
    1: _Convolution(
        F.conv1d,
        convolution_gradient.conv1d_input,
        convolution_gradient.conv1d_weight,
        torch.contiguous_format,
    ),
    2: _Convolution(
        F.conv2d,
        convolution_gradient.conv2d_input,
        convolution_gradient.conv2d_weight,
        torch.channels_last,
    ),
    3: _Convolution(
        F.conv3d,
        convolution_gradient.conv3d_input,
        convolution_gradient.conv3d_weight,
        torch.channels_last_3d,
    ),
}


class Gradients(NamedTuple):
    """Gradient of every argument, None where there is no argument."""

    x: Tensor
    weight_ih: Tensor | None
    weight_hh: Tensor
    bias: Tensor | None
    weight_ch: Tensor | None
    h_0: Tensor | None
    c_0: Tensor | None


class _Step(NamedTuple):
    """What one step leaves for the backward pass, each ``(B, C, H, W)``."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    previous_cell: Tensor
    cell: Tensor
    convolved: Tensor  # H_{t-1}, times the mask if there is one


def conv_lstm(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
    state: State | None = None,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    output_peephole: str = "previous",
    hard_sigmoid_slope: float = 0.0,
    padding: Padding = "same",
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
) -> tuple[Tensor, State]:
    """Run one ConvLSTM layer over a sequence: equations (1)-(5), step after step.

    The arguments are those of :func:`memx_fast.functional.conv_lstm`, which checks them; here they
    are taken to be valid.

    Args:
        x: ``(T, B, Cin, H, W)``; or, when ``weight_ih`` is None, input gates ``(T, B, 4C, H, W)``.
        weight_ih: ``(4C, Cin, kh, kw)`` or None.
        weight_hh: ``(4C, C, kh, kw)``, odd kernel.
        bias: ``(4C,)`` or None.
        weight_ch: ``(3, C)``, ``(3, C, H', W')`` or None.
        state: ``(h_0, c_0)``, both ``(B, C, H', W')``; None for zeros.
        hidden_mask: ``(B, C, H', W')``: stands before every H_{t-1} of (1), (2), (4) and of g_t as
            a factor; None for none.
        lengths: ``(B,)``, the steps of every sequence: its state stays as it is after them, and its
            output is zero; None for T.
        output_peephole: ``"previous"`` or ``"current"``: the cell state that the output gate sees.
        hard_sigmoid_slope: 0 for the logistic sigmoid; above 0, the slope of the hard one.
        padding: of the input convolution: ``"same"``, ``"valid"``, or rows and columns of zeros.
        stride: of the input convolution.
        dilation: of the input convolution.

    Returns:
        ``output`` of shape ``(T, B, C, H', W')`` and ``(h_n, c_n)``, the states after the last
        step. ``c_n`` is float32 where x is bfloat16 or float16. H' x W' is the size of the frame
        after the input convolution.

    Under autocast, single-precision arguments are cast to its dtype first, except ``c_0``.
    """
    gates_x, weight_hh, weight_ch, state = prepared(
        variable.cleared(x, lengths),
        *(weight_ih, weight_hh, bias, weight_ch, state, padding, stride, dilation),
    )
    hidden, cell = state
    output = []
    for t, gates_t in enumerate(gates_x):
        before = hidden, cell
        hidden, step = forward_step(
            *(gates_t, hidden, cell, weight_hh, weight_ch, hidden_mask),
            output_peephole == "current",
            hard_sigmoid_slope,
        )
        cell = step.cell
        if lengths is not None:
            hidden, cell = kept_after_end((hidden, cell), before, lengths, t)
        output.append(hidden)
    return variable.cleared(torch.stack(output), lengths), (hidden, cell)


def conv_lstm_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
    state: State | None = None,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    output_peephole: str = "previous",
    hard_sigmoid_slope: float = 0.0,
    padding: Padding = "same",
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
) -> Gradients:
    """Gradient of a scalar loss with respect to every argument of :func:`conv_lstm`, by hand.

    Write d(.) for the gradient of the loss, z for what stands inside a sigmoid or tanh of
    (1), (2) and (4), and ``[p]`` for 1 if p holds and else 0. For t = T..1, with d(z_{T+1}) = 0 and
    d(C_T) starting as the incoming gradient of c_n:

        d(H_t)   = incoming d(output_t) + [t = T] incoming d(h_n) + W_h^T * d(z_{t+1})
        d(z_o)   = d(H_t) o tanh(C_t) o o_t o (1 - o_t)                                  by (5), (4)
        d(C_t)  += d(H_t) o o_t o (1 - tanh(C_t)^2) + [current] W_co o d(z_o)            by (5), (4)
        d(z_i)   = d(C_t) o g_t o i_t o (1 - i_t)                                        by (3), (1)
        d(z_f)   = d(C_t) o C_{t-1} o f_t o (1 - f_t)                                    by (3), (2)
        d(z_g)   = d(C_t) o i_t o (1 - g_t^2)                                            by (3)
        d(C_{t-1}) = d(C_t) o f_t + W_ci o d(z_i) + W_cf o d(z_f) + [previous] W_co o d(z_o)

    where ``W_h^T *`` is the transposed convolution. The derivative of the hard sigmoid is not
    ``i o (1 - i)`` but its slope where ``0 < i < 1``, and else 0. With a mask every H_{t-1} and
    every ``W_h^T * d(z)`` is multiplied by it. With ``lengths`` each sequence has a T of its own,
    after which d(z_t) = 0. All that is left is a sum over t, done at once after the loop:

        d(h_0) = W_h^T * d(z_1)        d(c_0) = d(C_0)           d(X_t) = W_x^T * d(z_t)
        d(W_h) = sum d(z_t) x H_{t-1}  d(W_x) = sum d(z_t) x X_t d(b)   = sum d(z_t)
        d(W_ci) = sum d(z_i) o C_{t-1}    d(W_cf) = sum d(z_f) o C_{t-1}
        d(W_co) = sum d(z_o) o C_?

    where ``d(z) x H`` is the correlation of the two over pixels, for every offset in the kernel.

    Args:
        grad_output: incoming gradient ``(T, B, C, H', W')``, or None for zeros.
        grad_h_n: ``(B, C, H', W')``, or None for zeros.
        grad_c_n: ``(B, C, H', W')``, or None for zeros.
        x, weight_ih, weight_hh, bias, weight_ch, state, hidden_mask, lengths, output_peephole,
            hard_sigmoid_slope, padding, stride, dilation: what :func:`conv_lstm` was called with.
            The gates are computed again from them.

    Returns:
        The gradients, of the shapes of the arguments.
    """
    sees_current = output_peephole == "current"
    convolution = _convolution_of(weight_hh)
    x = variable.cleared(x, lengths)
    gates_x, weight, peepholes, (hidden, cell) = prepared(
        x, weight_ih, weight_hh, bias, weight_ch, state, padding, stride, dilation
    )
    steps = []
    for gates_t in gates_x:
        hidden, step = forward_step(
            *(gates_t, hidden, cell, weight, peepholes, hidden_mask),
            *(sees_current, hard_sigmoid_slope),
        )
        cell = step.cell
        steps.append(step)

    grad_hidden = torch.zeros_like(cell) if grad_h_n is None else grad_h_n.to(cell.dtype)
    grad_cell = torch.zeros_like(cell) if grad_c_n is None else grad_c_n.to(cell.dtype)
    grads_z = []
    if grad_output is not None:
        grad_output = variable.cleared(grad_output, lengths)
    for t in reversed(range(len(steps))):
        if grad_output is not None:
            grad_hidden = grad_hidden + grad_output[t]
        grad_z, grad_previous = _backward_step(
            steps[t], grad_hidden, grad_cell, peepholes, sees_current, hard_sigmoid_slope
        )
        if lengths is not None:
            running = variable.running(lengths, t, grad_z)
            grad_z = torch.where(running, grad_z, grad_z.new_zeros(()))
            grad_previous = torch.where(running, grad_previous, grad_cell)
        grad_cell = grad_previous
        grads_z.append(grad_z)
        grad_convolved = convolution.grad_input(
            hidden.shape, weight, grad_z.to(weight.dtype), padding=_same(weight)
        )
        grad_previous_hidden = masked(grad_convolved, hidden_mask).to(cell.dtype)
        if lengths is not None:
            grad_previous_hidden = torch.where(running, grad_previous_hidden, grad_hidden)
        grad_hidden = grad_previous_hidden
    grads_z.reverse()
    grad_z = torch.stack(grads_z)
    grad_x, grad_weight_ih = _input_gates_backward(
        grad_z.to(gates_x.dtype), x, weight_ih, padding, stride, dilation
    )
    grad_weight_hh = convolution.grad_weight(
        torch.cat([step.convolved for step in steps]),
        weight.shape,
        grad_z.flatten(0, 1).to(weight.dtype),
        padding=_same(weight),
    )
    return Gradients(
        x=grad_x,
        weight_ih=grad_weight_ih,
        weight_hh=grad_weight_hh.to(weight_hh.dtype),
        bias=None if bias is None else grad_z.sum((0, 1, *_spatial(grad_z))).to(bias.dtype),
        weight_ch=None
        if weight_ch is None
        else _peephole_gradient(steps, grad_z, weight_ch, sees_current),
        h_0=None if state is None else grad_hidden.to(state[0].dtype),
        c_0=None if state is None else grad_cell.to(state[1].dtype),
    )


def kept_after_end(state: State, before: State, lengths: Tensor, t: int) -> State:
    """The state after step t: that of ``before`` for sequences which have no step t."""
    running = variable.running(lengths, t, state[0])
    hidden, cell = (torch.where(running, new, old) for new, old in zip(state, before, strict=True))
    return hidden, cell


def input_gates(
    x: Tensor,
    weight_ih: Tensor,
    bias: Tensor | None,
    convolution: InputConvolution,
) -> Tensor:
    """The part of the four gates that does not depend on time: ``W_x * X_t + b`` for all t at once.

    Args:
        x: ``(T, B, Cin, H, W)``.
        weight_ih: ``(4C, Cin, kh, kw)``.
        bias: ``(4C,)`` or None.
        convolution: its geometry.

    Returns:
        ``(T, B, 4C, H', W')``, of images and volumes in channels-last strides, and in the dtype of
        autocast where that is on.
    """
    kind = _convolution_of(weight_ih)
    gates = kind.forward(
        _padded(x.flatten(0, 1), convolution),
        weight_ih.contiguous(memory_format=kind.layout),
        bias,
        stride=convolution.stride,
        padding=convolution.before,
        dilation=convolution.dilation,
    )
    return gates.reshape(x.shape[0], x.shape[1], *gates.shape[1:])


def recurrent_gates(hidden: Tensor, weight_hh: Tensor) -> Tensor:
    """What the hidden state ``(B, C, H, W)`` adds to the four gates: ``W_h * H_{t-1}``."""
    return _convolution_of(weight_hh).forward(hidden, weight_hh, padding=_same(weight_hh))


def masked(hidden: Tensor, hidden_mask: Tensor | None) -> Tensor:
    """What of the hidden state, or of its gradient, passes the mask ``(B, C, H, W)``."""
    return hidden if hidden_mask is None else hidden * hidden_mask.to(hidden.dtype)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a layer whose input is x, or None where it leaves it alone."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def prepared(
    x: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    state: State | None,
    padding: Padding,
    stride: int | Sizes,
    dilation: int | Sizes,
) -> tuple[Tensor, Tensor, Tensor | None, State]:
    """Input gates, recurrent weight, peepholes and states, each in the dtype it is computed in.

    Returns:
        Gates ``(T, B, 4C, H', W')`` and recurrent weight in the computation dtype, peepholes
        ``(3, C, 1 or H', 1 or W')`` and the cell state in the accumulation dtype.
    """
    dtype = autocast_dtype(x) or x.dtype
    accumulate = accumulate_dtype(dtype)
    if weight_ih is None:
        gates_x = x if bias is None else x + bias.reshape(-1, *_ones(weight_hh))
    else:
        convolution = InputConvolution.of(_kernel(weight_ih), padding, stride, dilation)
        gates_x = input_gates(x, weight_ih, bias, convolution)
    gates_x = gates_x.to(dtype)
    if state is None:
        shape = (x.shape[1], weight_hh.shape[1], *gates_x.shape[3:])
        state = (gates_x.new_zeros(shape), gates_x.new_zeros(shape, dtype=accumulate))
    hidden, cell = state
    if weight_ch is not None:
        weight_ch = weight_ch.to(dtype).to(accumulate)
        if weight_ch.dim() == 2:
            weight_ch = weight_ch.reshape(*weight_ch.shape, *_ones(weight_hh))
    return gates_x, weight_hh.to(dtype), weight_ch, (hidden.to(dtype), cell.to(accumulate))


def forward_step(
    gates_x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_hh: Tensor,
    weight_ch: Tensor | None,
    hidden_mask: Tensor | None,
    sees_current: bool,
    hard_sigmoid_slope: float,
) -> tuple[Tensor, _Step]:
    """Equations (1)-(5): the next hidden state, in the dtype of the gates, and what led to it."""
    convolved = masked(hidden, hidden_mask)
    z = gates_x.to(cell.dtype) + recurrent_gates(convolved, weight_hh)
    z_i, z_f, z_g, z_o = z.chunk(4, 1)
    if weight_ch is not None:
        z_i = z_i + weight_ch[0] * cell
        z_f = z_f + weight_ch[1] * cell
    i, f, g = _gate(z_i, hard_sigmoid_slope), _gate(z_f, hard_sigmoid_slope), z_g.tanh()
    next_cell = f * cell + i * g
    if weight_ch is not None:
        z_o = z_o + weight_ch[2] * (next_cell if sees_current else cell)
    o = _gate(z_o, hard_sigmoid_slope)
    next_hidden = (o * next_cell.tanh()).to(gates_x.dtype)
    return next_hidden, _Step(i, f, g, o, cell, next_cell, convolved)


def _gate(z: Tensor, hard_sigmoid_slope: float) -> Tensor:
    """The sigmoid of equations (1), (2) and (4)."""
    if hard_sigmoid_slope == 0:
        return z.sigmoid()
    # Unlike clamp's, the derivative of hardtanh is 0 where the result is 0 or 1.
    return F.hardtanh(hard_sigmoid_slope * z + 0.5, 0.0, 1.0)


def _gate_derivative(gate: Tensor, hard_sigmoid_slope: float) -> Tensor:
    """Of :func:`_gate`, from what it gave."""
    if hard_sigmoid_slope == 0:
        return gate * (1 - gate)
    return hard_sigmoid_slope * ((gate > 0) & (gate < 1)).to(gate.dtype)


def _backward_step(
    step: _Step,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    weight_ch: Tensor | None,
    sees_current: bool,
    hard_sigmoid_slope: float,
) -> tuple[Tensor, Tensor]:
    """One turn of the loop in :func:`conv_lstm_backward`: ``d(z_t)`` and ``d(C_{t-1})``."""
    i, f, g, o, previous_cell, cell, _ = step
    tanh_cell = cell.tanh()
    grad_z_o = grad_hidden * tanh_cell * _gate_derivative(o, hard_sigmoid_slope)
    grad_cell = grad_cell + grad_hidden * o * (1 - tanh_cell**2)
    if weight_ch is not None and sees_current:
        grad_cell = grad_cell + weight_ch[2] * grad_z_o
    grad_z_i = grad_cell * g * _gate_derivative(i, hard_sigmoid_slope)
    grad_z_f = grad_cell * previous_cell * _gate_derivative(f, hard_sigmoid_slope)
    grad_z_g = grad_cell * i * (1 - g**2)
    grad_previous = grad_cell * f
    if weight_ch is not None:
        grad_previous = grad_previous + weight_ch[0] * grad_z_i + weight_ch[1] * grad_z_f
        if not sees_current:
            grad_previous = grad_previous + weight_ch[2] * grad_z_o
    return torch.cat([grad_z_i, grad_z_f, grad_z_g, grad_z_o], 1), grad_previous


def _input_gates_backward(
    grad_gates: Tensor,
    x: Tensor,
    weight_ih: Tensor | None,
    padding: Padding,
    stride: int | Sizes,
    dilation: int | Sizes,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of weight_ih from those of the input gates."""
    if weight_ih is None:
        return grad_gates.to(x.dtype), None
    kind = _convolution_of(weight_ih)
    convolution = InputConvolution.of(_kernel(weight_ih), padding, stride, dilation)
    frames = _padded(x.flatten(0, 1), convolution).to(grad_gates.dtype)
    grad_frames = grad_gates.flatten(0, 1)
    options = (convolution.stride, convolution.before, convolution.dilation)
    grad_weight = kind.grad_weight(frames, weight_ih.shape, grad_frames, *options)
    grad_padded = kind.grad_input(
        frames.shape, weight_ih.to(grad_gates.dtype), grad_frames, *options
    )
    for axis, size in enumerate(x.shape[3:], start=2):
        grad_padded = grad_padded.narrow(axis, 0, size)
    grad_x = grad_padded.unflatten(0, x.shape[:2])
    return grad_x.to(x.dtype), grad_weight.to(weight_ih.dtype)


def _peephole_gradient(
    steps: list[_Step], grad_z: Tensor, weight_ch: Tensor, sees_current: bool
) -> Tensor:
    """Sums over time and batch, and over pixels where a channel has one weight."""
    previous = torch.stack([step.previous_cell for step in steps])
    seen = torch.stack([step.cell for step in steps]) if sees_current else previous
    grad_i, grad_f, _, grad_o = grad_z.chunk(4, 2)
    summed = (0, 1, *_spatial(grad_z)) if weight_ch.dim() == 2 else (0, 1)
    products = (grad_i * previous, grad_f * previous, grad_o * seen)
    return torch.stack([product.sum(summed) for product in products]).to(weight_ch.dtype)


def _convolution_of(weight: Tensor) -> _Convolution:
    return _CONVOLUTIONS[weight.dim() - 2]


def _kernel(weight: Tensor) -> Sizes:
    return tuple(weight.shape[2:])


def _same(weight: Tensor) -> Sizes:
    """Padding with which an odd kernel keeps the size."""
    return tuple(size // 2 for size in weight.shape[2:])


def _ones(weight: Tensor) -> Sizes:
    """1 for every spatial axis: the shape of what all pixels share."""
    return (1,) * (weight.dim() - 2)


def _spatial(gates: Tensor) -> Sizes:
    """The spatial axes of (T, B, 4C, H, W)."""
    return tuple(range(3, gates.dim()))


def _padded(frames: Tensor, convolution: InputConvolution) -> Tensor:
    """Frames with what ``after`` has more than ``before``: convolutions pad both sides alike."""
    more = [
        after - before for before, after in zip(convolution.before, convolution.after, strict=True)
    ]
    # F.pad counts axes from the last.
    return F.pad(frames, [n for size in reversed(more) for n in (0, size)]) if any(more) else frames

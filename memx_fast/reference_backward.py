r"""The derivative of :mod:`memx_fast.reference`, written out by hand.

The backward pass of every engine computes these equations, in this order: the first place to look
when its gradients are not those of autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import grad as convolution_gradient

from . import lengths as variable
from . import reference
from .arguments import Sizes
from .geometry import InputConvolution, Padding
from .reference import State

# Of the input and of the weight, by the number of spatial axes.
_CONVOLUTION_GRADIENTS = {
    1: (convolution_gradient.conv1d_input, convolution_gradient.conv1d_weight),
    2: (convolution_gradient.conv2d_input, convolution_gradient.conv2d_weight),
    3: (convolution_gradient.conv3d_input, convolution_gradient.conv3d_weight),
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
    """Gradient of a scalar loss with respect to every argument, by hand.

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
            hard_sigmoid_slope, padding, stride, dilation: what
            :func:`memx_fast.reference.conv_lstm` was called with. The gates are computed again from
            them.

    Returns:
        The gradients, of the shapes of the arguments.
    """
    sees_current = output_peephole == "current"
    grad_of_input, grad_of_weight = _CONVOLUTION_GRADIENTS[weight_hh.dim() - 2]
    x = variable.cleared(x, lengths)
    gates_x, weight, peepholes, (hidden, cell) = reference.prepared(
        x, weight_ih, weight_hh, bias, weight_ch, state, padding, stride, dilation
    )
    steps = []
    for gates_t in gates_x:
        hidden, step = reference.forward_step(
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
        grad_convolved = grad_of_input(
            hidden.shape, weight, grad_z.to(weight.dtype), padding=reference.same_padding(weight)
        )
        grad_previous_hidden = reference.masked(grad_convolved, hidden_mask).to(cell.dtype)
        if lengths is not None:
            grad_previous_hidden = torch.where(running, grad_previous_hidden, grad_hidden)
        grad_hidden = grad_previous_hidden
    grads_z.reverse()
    grad_z = torch.stack(grads_z)
    grad_x, grad_weight_ih = _input_gates_backward(
        grad_z.to(gates_x.dtype), x, weight_ih, padding, stride, dilation
    )
    grad_weight_hh = grad_of_weight(
        torch.cat([step.convolved for step in steps]),
        weight.shape,
        grad_z.flatten(0, 1).to(weight.dtype),
        padding=reference.same_padding(weight),
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


def _gate_derivative(gate: Tensor, hard_sigmoid_slope: float) -> Tensor:
    """Of the sigmoid of equations (1), (2) and (4), logistic or hard, from what it gave."""
    if hard_sigmoid_slope == 0:
        return gate * (1 - gate)
    return hard_sigmoid_slope * ((gate > 0) & (gate < 1)).to(gate.dtype)


def _backward_step(
    step: reference.Step,
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
    grad_of_input, grad_of_weight = _CONVOLUTION_GRADIENTS[weight_ih.dim() - 2]
    convolution = InputConvolution.of(tuple(weight_ih.shape[2:]), padding, stride, dilation)
    frames = reference.padded(x.flatten(0, 1), convolution).to(grad_gates.dtype)
    grad_frames = grad_gates.flatten(0, 1)
    options = (convolution.stride, convolution.before, convolution.dilation)
    grad_weight = grad_of_weight(frames, weight_ih.shape, grad_frames, *options)
    grad_padded = grad_of_input(frames.shape, weight_ih.to(grad_gates.dtype), grad_frames, *options)
    for axis, size in enumerate(x.shape[3:], start=2):
        grad_padded = grad_padded.narrow(axis, 0, size)
    grad_x = grad_padded.unflatten(0, x.shape[:2])
    return grad_x.to(x.dtype), grad_weight.to(weight_ih.dtype)


def _peephole_gradient(
    steps: list[reference.Step], grad_z: Tensor, weight_ch: Tensor, sees_current: bool
) -> Tensor:
    """Sums over time and batch, and over pixels where a channel has one weight."""
    previous = torch.stack([step.previous_cell for step in steps])
    seen = torch.stack([step.cell for step in steps]) if sees_current else previous
    grad_i, grad_f, _, grad_o = grad_z.chunk(4, 2)
    summed = (0, 1, *_spatial(grad_z)) if weight_ch.dim() == 2 else (0, 1)
    products = (grad_i * previous, grad_f * previous, grad_o * seen)
    return torch.stack([product.sum(summed) for product in products]).to(weight_ch.dtype)


def _spatial(gates: Tensor) -> Sizes:
    """The spatial axes of (T, B, 4C, H, W)."""
    return tuple(range(3, gates.dim()))

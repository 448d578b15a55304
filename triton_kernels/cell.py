"""Equations (1)-(5) of a ConvLSTM step and their derivative, for a tile of pixels and channels.

The Triton counterpart of ``csrc/cell_math.h``, in the same order and under the same names; the
equations themselves stand in ``memx_fast/reference.py``. Arithmetic is in float32, or in float64
for float64 tensors. Gate order is i, f, g, o and peephole order i, f, o everywhere.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x, HARD_SLOPE: tl.constexpr):
    """What i, f and o go through: the logistic sigmoid, or a hard one if ``HARD_SLOPE`` is not 0.

    NaN is kept.
    """
    if HARD_SLOPE == 0.0:
        return 1.0 / (1.0 + tl.exp(-x))
    else:
        ramp = x * HARD_SLOPE + 0.5
        ramp = tl.where(ramp < 0.0, 0.0, ramp)
        return tl.where(ramp > 1.0, 1.0, ramp)


@triton.jit
def sigmoid_derivative(gate, HARD_SLOPE: tl.constexpr):
    """Of :func:`sigmoid`, from what it gave: of the hard one 0 where that is 0 or 1."""
    if HARD_SLOPE == 0.0:
        return gate * (1.0 - gate)
    else:
        return ((gate > 0.0) & (gate < 1.0)).to(gate.dtype) * HARD_SLOPE


@triton.jit
def hyperbolic_tangent(x):
    """tanh, from arithmetic that every target and the interpreter have; NaN is kept.

    In single precision the odd rational minimax approximation of ``csrc/cell_math.h``: below 5 ulp
    everywhere. In double precision by exp, and by its series where that would cancel.
    """
    if x.dtype == tl.float64:
        u = x * x
        series = x * (1.0 - u * (1.0 / 3.0 - u * (2.0 / 15.0 - u * (17.0 / 315.0))))
        shrunk = tl.exp(-2.0 * tl.abs(x))
        magnitude = (1.0 - shrunk) / (1.0 + shrunk)
        return tl.where(u < 1e-4, series, tl.where(x < 0.0, -magnitude, magnitude))
    else:
        x = tl.where(x < -8.2, -8.2, x)
        x = tl.where(x > 8.2, 8.2, x)
        u = x * x
        p = u * -1.0880397738376527e-13 + 6.137542557516085e-11
        p = p * u - 2.189732484225715e-08
        p = p * u + 1.1548119800863788e-05
        p = p * u + 0.0031407340429723263
        p = p * u + 0.13116717338562012
        p = p * u + 1.0
        q = u * 0.0002600191510282457 + 0.02464093454182148
        q = q * u + 0.4645004868507385
        q = q * u + 1.0
        return x * p / q


@triton.jit
def cell_forward(
    z_i,
    z_f,
    z_g,
    z_o,
    peephole_i,
    peephole_f,
    peephole_o,
    previous_cell,
    SEES_CURRENT: tl.constexpr,
    HARD_SLOPE: tl.constexpr,
):
    """Equations (1)-(5): pre-activations and C_{t-1} to the gates i, f, g, o, to C_t and H_t.

    The output gate looks at C_t if ``SEES_CURRENT``, else at C_{t-1}.
    """
    i = sigmoid(z_i + peephole_i * previous_cell, HARD_SLOPE)
    f = sigmoid(z_f + peephole_f * previous_cell, HARD_SLOPE)
    g = hyperbolic_tangent(z_g)
    cell = f * previous_cell + i * g
    if SEES_CURRENT:
        o = sigmoid(z_o + peephole_o * cell, HARD_SLOPE)
    else:
        o = sigmoid(z_o + peephole_o * previous_cell, HARD_SLOPE)
    return i, f, g, o, cell, o * hyperbolic_tangent(cell)


@triton.jit
def cell_backward(
    i,
    f,
    g,
    o,
    peephole_i,
    peephole_f,
    peephole_o,
    previous_cell,
    cell,
    hidden_gradient,
    cell_gradient,
    SEES_CURRENT: tl.constexpr,
    HARD_SLOPE: tl.constexpr,
):
    """The reverse of :func:`cell_forward`.

    Takes the gates after activation, C_{t-1}, C_t, the gradient of H_t and the gradient of C_t that
    came from step t+1. Gives the gradients of the four pre-activations and of C_{t-1}.
    """
    tanh_cell = hyperbolic_tangent(cell)
    d_o = hidden_gradient * tanh_cell * sigmoid_derivative(o, HARD_SLOPE)
    d_cell = cell_gradient + hidden_gradient * o * (1.0 - tanh_cell * tanh_cell)
    if SEES_CURRENT:
        d_cell += peephole_o * d_o
    d_i = d_cell * g * sigmoid_derivative(i, HARD_SLOPE)
    d_f = d_cell * previous_cell * sigmoid_derivative(f, HARD_SLOPE)
    d_g = d_cell * i * (1.0 - g * g)
    d_previous = d_cell * f + peephole_i * d_i + peephole_f * d_f
    if not SEES_CURRENT:
        d_previous += peephole_o * d_o
    return d_i, d_f, d_g, d_o, d_previous


@triton.jit
def load_peepholes(
    peephole_ptr, pixel_in_image, channel, mask, pixels, channels, SPATIAL: tl.constexpr
):
    """The three weights of every channel of every pixel of the tile.

    ``peephole_ptr`` is (3, H*W, C) if ``SPATIAL``, else (3, 1, C).
    """
    if SPATIAL:
        at = pixel_in_image[:, None] * channels + channel[None, :]
        gate = pixels * channels
    else:
        at = pixel_in_image[:, None] * 0 + channel[None, :]
        gate = channels
    weight_i = tl.load(peephole_ptr + at, mask=mask, other=0.0)
    weight_f = tl.load(peephole_ptr + gate + at, mask=mask, other=0.0)
    weight_o = tl.load(peephole_ptr + 2 * gate + at, mask=mask, other=0.0)
    return weight_i, weight_f, weight_o

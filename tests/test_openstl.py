"""OpenSTL's layer of 2023, H = o * g: everything else about it is ConvLSTM's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memx_fast import ConvLSTM
from memx_fast.openstl import OpenSTL2023

pytestmark = pytest.mark.usefixtures("one_thread")


def made(**options: object) -> OpenSTL2023:
    torch.manual_seed(0)
    return OpenSTL2023(2, 3, dtype=torch.float64, **options)


def frames(steps: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(steps, batch, 2, 5, 4, dtype=torch.float64, generator=generator)


def test_equations() -> None:
    """From states of the caller's: output, both last states, and all gradients."""
    layer, x = made(), frames(4).requires_grad_()
    h_0, c_0 = torch.randn(2, 1, 2, 3, 5, 4, dtype=torch.float64).requires_grad_()
    h, c, output = h_0[0], c_0[0], []
    for frame in x:
        z = F.conv2d(frame, layer.weight_ih_l0, layer.bias_l0, padding=1)
        i, f, g, o = (z + F.conv2d(h, layer.weight_hh_l0, padding=1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * g.tanh()
        output.append(h)
    found, (h_n, c_n) = layer(x, (h_0, c_0))
    leaves = [x, h_0, c_0, *layer.parameters()]
    results = []
    for parts in ((found, h_n[0], c_n[0]), (torch.stack(output), h, c)):
        loss = sum(part.square().sum() for part in parts)
        results.append([*parts, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_it_has_from_the_layer() -> None:
    """Two layers, both ways, lengths: every sequence gets what it would get alone."""
    layer, x = made(num_layers=2, bidirectional=True), frames(5, 3)
    lengths = [3, 5, 1]
    output, (h_n, c_n) = layer(x, None, lengths)
    for b, length in enumerate(lengths):
        alone, states = layer(x[:length, b])
        torch.testing.assert_close(output[:length, b], alone, rtol=1e-10, atol=1e-10)
        assert not output[length:, b].any()
        for found, expected in zip((h_n, c_n), states, strict=True):
            torch.testing.assert_close(found[:, b], expected, rtol=1e-10, atol=1e-10)


def test_half_types_and_autocast() -> None:
    """Types of the results are those of a ConvLSTM."""
    layer = made().to(torch.bfloat16)
    output, (_, c_n) = layer(frames(3).to(torch.bfloat16))
    assert (output.dtype, c_n.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (_, c_n) = made().float()(frames(3).float())
    assert (output.dtype, c_n.dtype) == (torch.bfloat16, torch.float32)


def test_it_is_another_layer() -> None:
    """Where weights are the same, results are not; the fused engines do not have its equation."""
    layer, usual = made(), ConvLSTM(2, 3, dtype=torch.float64)
    usual.load_state_dict(layer.state_dict())
    assert not torch.allclose(layer(frames(3))[0], usual(frames(3))[0])
    with pytest.raises(ValueError, match=r'backend: got \'cpp\', expected "auto" or "reference"'):
        made(backend="cpp")
    with pytest.raises(TypeError, match=r"weight_hh: got torch\.float64, expected torch\.float32"):
        layer(frames(3).float())

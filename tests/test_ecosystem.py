"""The layer among PyTorch's own tools for compiling, saving memory, precision and repeatability.

The README has the table; exporting to ONNX is in test_onnx.py, several processes in
test_distributed.py.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint

from memx_fast import ConvLSTM

pytestmark = pytest.mark.usefixtures("one_thread")


def frames(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(*arguments: Any, **options: Any) -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(*arguments, **options)


def gradients(layer: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(layer.parameters())))


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def compiled_and_counted(layer: ConvLSTM) -> tuple[Callable[..., Any], dict[str, int]]:
    """The layer as one dynamic graph, and how many graphs were compiled so far for each pass."""
    graphs = {"forward": 0, "backward": 0}

    def counted(name: str) -> Callable[..., Any]:
        def compiler(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            graphs[name] += 1
            return make_boxed_func(graph.forward)

        return compiler

    backend = aot_autograd(fw_compiler=counted("forward"), bw_compiler=counted("backward"))
    torch._dynamo.reset()
    return torch.compile(layer, fullgraph=True, dynamic=True, backend=backend), graphs


@pytest.mark.parametrize(
    ("activation", "recompute"),
    [("sigmoid", 0.5), ("hard_sigmoid", 0.5), ("sigmoid", 0.0), ("sigmoid", 1.0)],
)
def test_compiled_once_for_every_length(activation: str, recompute: float) -> None:
    """fullgraph and dynamic: one graph forward, one backward, however long the sequence.

    PyTorch compiles sizes of 1 apart: T = 1, and with half of the gates kept T = 2 as well.
    """
    layer = made(2, 3, num_layers=2, recurrent_activation=activation, recompute=recompute)
    compiled, graphs = compiled_and_counted(layer)

    def trained(steps: int) -> None:
        x = frames(steps, 2, 2, 5, 6)
        found, expected = compiled(x)[0], layer(x)[0]
        assert torch.equal(found, expected)
        assert_equal(
            gradients(layer, found.square().sum()), gradients(layer, expected.square().sum())
        )

    for steps in (3, 4, 7, 5, 12):
        trained(steps)
        assert graphs == {"forward": 1, "backward": 1}
    trained(2)
    assert graphs["forward"] == (2 if recompute == 0.5 else 1)
    trained(1)
    assert graphs["forward"] == (3 if recompute == 0.5 else 2)


def test_inference_compiled_once_for_every_length() -> None:
    """Nothing is kept: all lengths from 2 on run one graph."""
    layer = made(2, 3, bidirectional=True)
    compiled, graphs = compiled_and_counted(layer)
    with torch.no_grad():
        for steps in (3, 4, 7, 2, 12):
            x = frames(steps, 2, 2, 5, 6)
            assert torch.equal(compiled(x)[0], layer(x)[0])
            assert graphs == {"forward": 1, "backward": 0}


def test_recurrent_dropout_compiled() -> None:
    """The mask is drawn inside the graph, anew for every call."""
    layer = made(2, 3, recurrent_dropout=0.5)
    x = frames(3, 2, 2, 5, 6)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.manual_seed(0)
    expected, again = layer(x)[0], layer(x)[0]
    torch.manual_seed(0)
    assert torch.equal(compiled(x)[0], expected)
    assert torch.equal(compiled(x)[0], again)
    assert not torch.equal(expected, again)


def test_functional_call() -> None:
    """Other parameters for one call; gradients go to them, the layer keeps its own."""
    layer, other = made(2, 3), ConvLSTM(2, 3)
    x, own = frames(3, 2, 2, 5, 6), layer(frames(3, 2, 2, 5, 6))[0]
    parameters = {name: value.detach() for name, value in other.named_parameters()}
    found, _ = torch.func.functional_call(layer, parameters, (x,))
    assert torch.equal(found, other(x)[0])
    assert torch.equal(layer(x)[0], own)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    expected = gradients(other, other(x)[0].square().sum())
    for one, exact in zip(torch.func.grad(loss)(parameters).values(), expected, strict=True):
        torch.testing.assert_close(one, exact)


def test_autocast_and_grad_scaler() -> None:
    """A scaled step in float16 is the unscaled one; an overflow is noticed and skipped."""
    x = frames(3, 2, 2, 5, 6)

    def trained(scale: float, poison: bool = False) -> ConvLSTM:
        layer = made(2, 3)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", dtype=torch.float16):
            output, _ = layer(x)
        assert output.dtype == torch.float16
        loss = output.float().square().mean()
        scaler.scale(loss * (torch.inf if poison else 1)).backward()
        assert all(value.grad.dtype == torch.float32 for value in layer.parameters())
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == (scale / 2 if poison else scale)
        return layer

    usual, scaled, skipped = trained(64.0), trained(1024.0), trained(1024.0, poison=True)
    for one, other in zip(scaled.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert not torch.equal(one, made(2, 3).weight_ih_l0)
    assert_equal(list(skipped.parameters()), list(made(2, 3).parameters()))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed(use_reentrant: bool) -> None:
    """torch.utils.checkpoint: nothing is kept, the gradients are the same bits, masks included."""
    layer = made(2, 3, num_layers=2, recurrent_dropout=0.5)
    x = frames(3, 2, 2, 5, 6).requires_grad_()
    torch.manual_seed(1)
    output, (_, c_n) = layer(x)
    expected = gradients(layer, output.square().sum() + c_n.sum())

    def flat(x: Tensor) -> tuple[Tensor, Tensor]:
        # Of nested results, the reentrant mode loses the gradients.
        output, (_, c_n) = layer(x)
        return output, c_n

    torch.manual_seed(1)
    output, c_n = checkpoint(flat, x, use_reentrant=use_reentrant)
    (output.square().sum() + c_n.sum()).backward()
    assert_equal([value.grad for value in layer.parameters()], expected)


def test_saved_tensors_elsewhere() -> None:
    """What is saved for the backward pass may be moved, packed and unpacked."""
    layer = made(2, 3)
    x = frames(3, 2, 2, 5, 6)
    expected = gradients(layer, layer(x)[0].square().sum())
    with torch.autograd.graph.save_on_cpu():
        output, _ = layer(x)
    assert_equal(gradients(layer, output.square().sum()), expected)

    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        packed.append(tensor.detach().clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda index: packed[index]):
        output, _ = layer(x)
        loss = output.square().sum()
    assert len(packed) > 3
    assert_equal(gradients(layer, loss), expected)


def test_channels_last_pipeline() -> None:
    """Convolution, layer, convolution: every tensor between them is channels-last, none copied."""
    steps, batch = 3, 2
    before = nn.Conv2d(1, 4, 3, padding=1).to(memory_format=torch.channels_last)
    layer, after = made(4, 8), nn.Conv2d(8, 2, 3).to(memory_format=torch.channels_last)
    x = frames(steps * batch, 1, 6, 7).contiguous(memory_format=torch.channels_last)
    features = before(x)
    assert features.is_contiguous(memory_format=torch.channels_last)
    sequence = features.unflatten(0, (steps, batch))
    output, (h_n, _) = layer(sequence)
    flat = output.flatten(0, 1)
    assert flat.data_ptr() == output.data_ptr()
    assert flat.stride() == (6 * 7 * 8, 1, 7 * 8, 8)
    assert h_n[0].is_contiguous(memory_format=torch.channels_last)
    result = after(flat)
    assert result.is_contiguous(memory_format=torch.channels_last)

    leaf = sequence.detach().requires_grad_()
    output, _ = layer(leaf)
    (grad,) = torch.autograd.grad(after(output.flatten(0, 1)).square().sum(), leaf)
    assert grad.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)

    plain = layer(sequence.contiguous())[0]
    assert torch.equal(plain, layer(sequence)[0])


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_deterministic_mode(backend: str) -> None:
    """use_deterministic_algorithms(True) refuses nothing, and a repetition gives the same bits."""
    layer = made(2, 3, num_layers=2, bidirectional=True, peephole="channel", backend=backend)
    x = frames(3, 2, 2, 5, 6)
    torch.use_deterministic_algorithms(True)  # the fixture of every test puts it back
    runs = []
    for _ in range(2):
        output, _ = layer(x)
        runs.append([output.detach(), *gradients(layer, output.square().sum())])
    assert_equal(*runs)


def test_copies_made_before_and_after_training() -> None:
    """A deep copy trains on its own and loads the other's state, hooks and all."""
    layer = made(2, 3)
    copied = copy.deepcopy(layer)
    optimizer = torch.optim.AdamW(copied.parameters())
    x = frames(3, 2, 2, 5, 6)
    copied(x)[0].square().mean().backward()
    optimizer.step()
    assert not torch.equal(copied(x)[0], layer(x)[0])
    layer.load_state_dict(copied.state_dict(), assign=True)
    assert torch.equal(copied(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_for_one_length() -> None:
    """torch.jit.trace records the operator, for the shapes that it saw."""
    layer = made(2, 3).eval()
    traced = torch.jit.trace(layer, (frames(3, 2, 2, 5, 6),), check_trace=False)
    x = frames(3, 2, 2, 5, 6, seed=1)
    assert torch.equal(traced(x)[0], layer(x)[0])

"""Export to ONNX, run by onnxruntime: one Scan for any number of steps, or unrolled."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from memx_fast import ConvLSTM, ConvLSTM1d, ConvLSTM3d, ConvLSTMCell

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode"),
]


def frames(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def exported(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, **options: Any) -> Any:
    """The model as ONNX, and a function that runs it on tensors."""
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False, **options)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> list[Tensor]:
        names = [value.name for value in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, feed)]

    return [node.op_type for node in program.model.graph], run


def assert_same(found: list[Tensor], expected: Any) -> None:
    """As close as two implementations in single precision are."""
    output, (h_n, c_n) = expected
    for one, other in zip(found, (output, h_n, c_n), strict=True):
        torch.testing.assert_close(one, other.detach())


MODELS = {
    "plain": {},
    "peepholes": {"peephole": "channel", "output_peephole": "current"},
    "stacked": {"num_layers": 2, "bidirectional": True},
    "strided": {"padding": 1, "stride": 2},
    "no_bias": {"bias": False},
    "hard_sigmoid": {"recurrent_activation": "hard_sigmoid", "hard_sigmoid_slope": 0.5},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_scan_for_any_shape(options: dict[str, Any], tmp_path: Path) -> None:
    """One Scan a recurrence; steps, batch, height and width are free."""
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, **options)
    nodes, run = exported(
        layer,
        (frames(4, 2, 2, 8, 6),),
        tmp_path / "layer.onnx",
        dynamic_shapes=({0: "steps", 1: "batch", 3: "height", 4: "width"},),
    )
    assert nodes.count("Scan") == layer.num_layers * (2 if layer.bidirectional else 1)
    for shape in ((4, 2, 2, 8, 6), (7, 1, 2, 5, 9), (2, 3, 2, 6, 7)):
        x = frames(*shape)
        assert_same(run(x), layer(x))


def test_scan_with_states(tmp_path: Path) -> None:
    """States go in and come out, so that a stream can be cut anywhere."""
    layer = ConvLSTM(2, 3, peephole="spatial", spatial_size=(5, 6))
    x, h_0, c_0 = frames(4, 2, 2, 5, 6), frames(1, 2, 3, 5, 6), frames(1, 2, 3, 5, 6) / 2
    dynamic = ({0: torch.export.Dim.DYNAMIC}, (None, None))
    _, run = exported(layer, (x, (h_0, c_0)), tmp_path / "layer.onnx", dynamic_shapes=dynamic)
    for steps in (2, 4, 9):
        x = frames(steps, 2, 2, 5, 6)
        assert_same(run(x, h_0, c_0), layer(x, (h_0, c_0)))


@pytest.mark.parametrize(
    ("make", "frame"), [(ConvLSTM1d, (9,)), (ConvLSTM3d, (3, 4, 5))], ids=["lines", "volumes"]
)
def test_scan_of_lines_and_volumes(make: Any, frame: tuple[int, ...], tmp_path: Path) -> None:
    """Other numbers of spatial axes are exported the same way."""
    layer = make(2, 3)
    x = frames(3, 2, 2, *frame)
    nodes, run = exported(layer, (x,), tmp_path / "x.onnx", dynamic_shapes=({0: "steps"},))
    assert "Scan" in nodes
    longer = frames(5, 2, 2, *frame)
    assert_same(run(longer), layer(longer))


def test_unrolled(tmp_path: Path) -> None:
    """backend="reference" exports one copy a step, for runtimes without loops."""
    layer = ConvLSTM(2, 3, backend="reference")
    x = frames(3, 2, 2, 5, 6)
    nodes, run = exported(layer, (x,), tmp_path / "layer.onnx")
    assert "Scan" not in nodes
    assert nodes.count("Tanh") == 2 * 3
    assert_same(run(x), layer(x))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_lengths(backend: str, tmp_path: Path) -> None:
    """An input of the model, in a Scan and unrolled; both directions end where a sequence does."""
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, bidirectional=True, backend=backend)
    x, lengths = frames(3, 2, 2, 5, 6), torch.tensor([3, 2])
    nodes, run = exported(layer, (x, None, lengths), tmp_path / "layer.onnx")
    assert nodes.count("Scan") == (0 if backend == "reference" else 2)
    for other in (lengths, torch.tensor([1, 3])):
        assert_same(run(x, other), layer(x, None, other))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_unrolled_by_the_older_exporter(tmp_path: Path) -> None:
    """dynamo=False traces, and so gets one copy a step whatever the backend."""
    layer, path = ConvLSTM(2, 3).eval(), tmp_path / "layer.onnx"
    x = frames(3, 2, 2, 5, 6)
    torch.onnx.export(layer, (x,), path, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(result) for result in session.run(None, {"x": x.numpy()})]
    assert_same(found, layer(x))


def test_cell(tmp_path: Path) -> None:
    """One step, whose states the caller carries over."""
    cell = ConvLSTMCell(2, 3)
    x, h, c = frames(2, 2, 5, 6), frames(2, 3, 5, 6), frames(2, 3, 5, 6) / 2
    _, run = exported(cell, (x, (h, c)), tmp_path / "cell.onnx")
    found, expected = run(x, h, c), cell(x, (h, c))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_fused_again_after_export(tmp_path: Path) -> None:
    """Exporting leaves nothing behind: the same layer gives the bits that it gave before."""
    layer = ConvLSTM(2, 3)
    x = frames(3, 2, 2, 5, 6)
    before = layer(x)[0]
    exported(layer, (x,), tmp_path / "layer.onnx")
    assert torch.equal(layer(x)[0], before)

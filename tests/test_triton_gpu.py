"""The Triton engine on a GPU: numbers, streams, graphs, and its place in PyTorch."""

import pytest
import torch

from memx_fast import ConvLSTM, backends, conv_lstm, ops
from tests.operator_cases import (
    HALF_TYPES,
    NAMES,
    Case,
    cast,
    distance,
    fused,
    plain,
    results_and_gradients,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; PyTorch sees none"),
]

CASES = (
    Case(1, 1, 1, 1, 1, 1, (1, 1), (1, 1), states=False, bias=False),
    Case(1, 2, 3, 5, 7, 4, peephole="channel"),
    Case(2, 1, 1, 3, 2, 3, (5, 5), (5, 5), peephole="spatial"),
    Case(3, 2, 17, 33, 9, 11, peephole="channel", output_peephole="current"),
    Case(3, 2, 1, 32, 45, 45, peephole="spatial"),
    Case(3, 2, 16, 64, 31, 33),
    Case(2, 2, 64, 128, 16, 16, (5, 5), (3, 3), states=False),
    Case(4, 1, 0, 12, 6, 7, bias=False, peephole="channel"),
    Case(2, 2, 8, 9, 8, 7, padding=(0, 0), peephole="spatial", output_peephole="current"),
    Case(2, 2, 3, 8, 6, 9, (3, 3), (4, 2), padding=(0, 1), states=False),
    Case(3, 2, 17, 33, 9, 11, peephole="channel", hard_slope=0.2),
    Case(3, 2, 17, 33, 9, 11, peephole="channel", masked=True),
)


def on_gpu(arguments: dict, dtype: torch.dtype, c_0: torch.dtype | None = None) -> dict:
    """Leaves on the GPU."""
    moved = {name: None if v is None else v.detach().cuda() for name, v in arguments.items()}
    return cast(moved, dtype, c_0)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 means float32, for PyTorch's convolutions as for these, unless a test says so."""
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")


def test_auto_is_triton() -> None:
    """The engine is there: a missing Triton is a failure on a machine with a GPU."""
    assert backends.resolve("auto", torch.device("cuda")) == "triton"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_agrees_with_the_reference(case: Case) -> None:
    """Results and all gradients to 1e-10, with the gates of half of the steps computed again."""
    arguments = case.arguments()
    exact = results_and_gradients(plain, case, cast(arguments, torch.float64), case.incoming())
    incoming = [grad.cuda() for grad in case.incoming()]
    found = results_and_gradients(
        lambda *given: fused(*given, recompute=0.5),
        case,
        on_gpu(arguments, torch.float64),
        incoming,
    )
    for name, value in exact.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("dtype", "tf32"),
    [(torch.float32, False), (torch.float32, True), *((dtype, False) for dtype in HALF_TYPES)],
    ids=str,
)
@pytest.mark.parametrize("case", CASES[3:], ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    case: Case, dtype: torch.dtype, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every other dtype, and with tf32: twice the error of PyTorch's own convolutions."""
    precision = "tf32" if tf32 else "ieee"
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", precision)
    rounded = {
        name: None if value is None else value.to(dtype).double()
        for name, value in case.arguments().items()
    }
    incoming = [grad.to(dtype).double().cuda() for grad in case.incoming()]
    exact = results_and_gradients(plain, case, on_gpu(rounded, torch.float64), incoming)
    usual = results_and_gradients(plain, case, on_gpu(rounded, dtype), incoming)
    found = results_and_gradients(fused, case, on_gpu(rounded, dtype, torch.float32), incoming)
    smallest = 2**-10 if tf32 else torch.finfo(dtype).eps
    for name, value in exact.items():
        allowed = max(2 * distance(usual[name], value), smallest)
        assert distance(found[name], value) <= allowed, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    """Sums run in a fixed order: the same bits in every run, on a stream of its own as well."""
    case = Case(5, 3, 8, 32, 37, 41, peephole="channel")
    arguments = on_gpu(case.arguments(), dtype, torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    first = results_and_gradients(fused, case, arguments, incoming)
    for _ in range(3):
        again = results_and_gradients(fused, case, arguments, incoming)
        for name, value in first.items():
            assert torch.equal(again[name], value), name
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        aside = results_and_gradients(fused, case, arguments, incoming)
    torch.cuda.current_stream().wait_stream(stream)
    for name, value in first.items():
        assert torch.equal(aside[name], value), name


def test_no_synchronisation() -> None:
    """Neither pass waits for the GPU."""
    case = Case(3, 2, 3, 16, 9, 8, peephole="spatial")
    arguments = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    incoming = [grad.cuda().to(torch.bfloat16) for grad in case.incoming()]
    incoming[2] = incoming[2].float()
    results_and_gradients(fused, case, arguments, incoming)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results_and_gradients(fused, case, arguments, incoming)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_capture_sees_changed_weights() -> None:
    """A captured sequence replays with new frames, and with the weights as they then are."""
    case = Case(3, 2, 3, 16, 9, 8, peephole="channel")
    arguments = {
        name: value.detach()
        for name, value in on_gpu(case.arguments(), torch.bfloat16, torch.float32).items()
    }
    fused(case, arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fused(case, arguments)
    for _ in range(2):
        arguments["x"].normal_()
        arguments["weight_hh"].mul_(0.5)
        graph.replay()
        for found, expected in zip(captured, fused(case, arguments), strict=True):
            assert torch.equal(found, expected)


def test_one_binary_for_all_sizes() -> None:
    """Other T, B, H and W need no other compilation."""
    from memx_fast.triton_kernels.forward import forward_step

    layer = (torch.zeros(64, 16, 3, 3, device="cuda"), torch.zeros(64, 16, 3, 3, device="cuda"))

    def compiled() -> int:
        return len(forward_step.device_caches[torch.cuda.current_device()][0])

    ops.fused_conv_lstm(torch.zeros(3, 2, 16, 7, 5, device="cuda"), *layer, None, None, None, None)
    before = compiled()
    for shape in ((1, 1, 16, 1, 1), (2, 16, 16, 16, 16), (17, 1, 16, 33, 2)):
        ops.fused_conv_lstm(torch.zeros(shape, device="cuda"), *layer, None, None, None, None)
    assert compiled() == before


def test_compile() -> None:
    """torch.compile(fullgraph=True) traces through, forward and backward, bit for bit."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="channel")
    arguments = on_gpu(case.arguments(), torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    compiled = torch.compile(fused, fullgraph=True)
    exact = results_and_gradients(fused, case, arguments, incoming)
    found = results_and_gradients(compiled, case, arguments, incoming)
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


def test_reduced_overhead_frame_by_frame() -> None:
    """torch.compile replays a CUDA graph for every frame: new frames, states and weights count."""
    layer = ConvLSTM(3, 16, peephole="channel", device="cuda")
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    state = tuple(torch.randn(1, 2, 16, 9, 8, device="cuda") for _ in range(2))
    with torch.no_grad():
        for frame in range(6):
            if frame == 4:
                layer.weight_hh_l0.mul_(0.5)
            x = torch.randn(1, 2, 3, 9, 8, device="cuda")
            torch.compiler.cudagraph_mark_step_begin()
            output, following = compiled(x, state)
            expected, _ = layer(x, state)
            assert torch.equal(output, expected), frame
            state = tuple(tensor.clone() for tensor in following)


def test_opcheck() -> None:
    """Schema, fake kernels with exact strides, autograd registration."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="spatial")
    arguments = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    inputs = (*(arguments[name] for name in NAMES), (1, 1), False, True, 2)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.memx_fast.conv_lstm, inputs, test_utils=tests)


def test_autocast() -> None:
    """Under autocast the arguments are cast, c_0 is not, and gradients come back in their dtype."""
    case = Case(3, 2, 3, 8, 6, 7, peephole="channel")
    arguments = on_gpu(case.arguments(), torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = results_and_gradients(fused, case, arguments, incoming)
    halves = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    exact = results_and_gradients(fused, case, halves, incoming)
    assert (found["output"].dtype, found["c_n"].dtype) == (torch.bfloat16, torch.float32)
    for name, value in exact.items():
        assert torch.equal(found[name].to(value.dtype), value), name


def test_other_geometry() -> None:
    """Strided and dilated input convolutions hand their gates to the same kernels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 3, 13, 12, generator=generator).cuda()
    weight_ih = torch.randn(16, 3, 3, 3, generator=generator).mul(0.2).cuda()
    weight_hh = torch.randn(16, 4, 3, 3, generator=generator).mul(0.2).cuda()
    options = {"padding": 1, "stride": 2, "dilation": 1}
    found, _ = conv_lstm(x, weight_ih, weight_hh, **options)
    layer = (x.double(), weight_ih.double(), weight_hh.double())
    exact, _ = conv_lstm(*layer, backend="reference", **options)
    assert distance(found, exact) < 1e-5

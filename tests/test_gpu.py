"""The engines for GPUs on a GPU: numbers, streams, graphs, and their place in PyTorch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from memx_fast import ConvLSTM, backends, conv_lstm, ops
from tests.accuracy import worse_than_plain
from tests.operator_cases import (
    ENGINE_CASES,
    HALF_TYPES,
    NAMES,
    Case,
    cast,
    distance,
    float32_multiplied_in,
    fused,
    plain,
    results_and_gradients,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; PyTorch sees none"),
]

LARGE_CASES = (
    Case(3, 2, 17, 33, 9, 11, peephole="channel", output_peephole="current"),
    Case(3, 2, 1, 32, 45, 45, peephole="spatial"),
    Case(3, 2, 16, 64, 31, 33),
    Case(2, 2, 64, 128, 16, 16, (5, 5), (3, 3), states=False),
    Case(3, 2, 0, 32, 31, 33, peephole="channel"),
    Case(3, 2, 17, 33, 9, 11, peephole="channel", hard_slope=0.2),
    Case(3, 2, 17, 33, 9, 11, peephole="channel", masked=True),
    Case(5, 4, 8, 32, 17, 18, peephole="channel", ragged=True),
    # Enough pixels for the large blocks of a data-centre GPU.
    Case(2, 9, 1, 32, 62, 62, peephole="spatial"),
    Case(2, 5, 4, 64, 60, 60),
)

# Triton compiles for every layer: of the small cases it gets those that are least alike.
SMALL_CASES = {"triton": ENGINE_CASES[::4], "cuda": ENGINE_CASES}

RUNS = [
    pytest.param(engine, case, id=f"{engine}-{case}")
    for engine, small in SMALL_CASES.items()
    for case in (*small, *LARGE_CASES)
]


@pytest.fixture(params=SMALL_CASES)
def engine(request: pytest.FixtureRequest) -> str:
    """An engine; it is there, unless the build left it out and said why."""
    name: str = request.param
    record = backends.build_record()
    if name == "cuda" and record is not None and record["without_cuda"] is not None:
        pytest.skip(record["without_cuda"])
    return backends.resolve(name, torch.device("cuda"))


@pytest.fixture
def run(engine: str) -> Callable[..., Any]:
    """operator_cases.fused with this engine."""
    return partial(fused, operator=ops.operator_of(engine))


def on_gpu(arguments: dict, dtype: torch.dtype, c_0: torch.dtype | None = None) -> dict:
    """Leaves on the GPU."""
    moved = {name: None if v is None else v.detach().cuda() for name, v in arguments.items()}
    return cast(moved, dtype, c_0)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """float32 means float32, for PyTorch's convolutions as for these, unless a test says so."""
    with float32_multiplied_in("ieee"):
        yield


@pytest.mark.parametrize(("engine", "case"), RUNS, indirect=["engine"])
def test_float64_agrees_with_the_reference(case: Case, run: Callable[..., Any]) -> None:
    """Results and all gradients to 1e-10, with the gates of half of the steps computed again."""
    arguments = case.arguments()
    exact = results_and_gradients(plain, case, cast(arguments, torch.float64), case.incoming())
    incoming = [grad.cuda() for grad in case.incoming()]
    found = results_and_gradients(
        partial(run, recompute=0.5),
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
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    case: Case, dtype: torch.dtype, tf32: bool, run: Callable[..., Any]
) -> None:
    """In every other dtype, and with tf32: twice the error of PyTorch's own convolutions."""

    def fused_run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        given = cast(arguments, dtype, c_0=torch.float32)
        return results_and_gradients(run, case, given, incoming)

    with float32_multiplied_in("tf32" if tf32 else "ieee"):
        least = 2**-10 if tf32 else None
        assert worse_than_plain(case, dtype, fused_run, least, device="cuda") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_every_time(dtype: torch.dtype, run: Callable[..., Any]) -> None:
    """Sums run in a fixed order: the same bits in every run, on a stream of its own as well."""
    case = Case(5, 3, 8, 32, 37, 41, peephole="channel")
    arguments = on_gpu(case.arguments(), dtype, torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    first = results_and_gradients(run, case, arguments, incoming)
    for _ in range(3):
        again = results_and_gradients(run, case, arguments, incoming)
        for name, value in first.items():
            assert torch.equal(again[name], value), name
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        aside = results_and_gradients(run, case, arguments, incoming)
    torch.cuda.current_stream().wait_stream(stream)
    for name, value in first.items():
        assert torch.equal(aside[name], value), name


def test_more_numbers_than_an_int_counts(engine: str) -> None:
    """The last pixels of a frame of 2^31 numbers get what they get in a small frame."""
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of GPU memory")
    size, hidden, seen, spoilt = 4104, 32, 24, 4
    drawn = {"device": "cuda", "dtype": torch.bfloat16}
    x = torch.randn(1, 1, size, size, 4 * hidden, **drawn).movedim(-1, 2)
    h_0 = torch.randn(1, size, size, hidden, **drawn).movedim(-1, 1)
    weight_hh = torch.randn(4 * hidden, hidden, 3, 3, **drawn) * 0.05
    assert x.numel() > 2**31

    def corner(images: torch.Tensor) -> torch.Tensor:
        return images[..., -seen:, -seen:]

    def results(*images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, h_0 = (one.detach().requires_grad_() for one in images)
        operator = ops.operator_of(engine)
        layer = (x, None, weight_hh, None, None, h_0, None)
        output, _, _ = ops.fused_conv_lstm(*layer, recompute=1.0, operator=operator)
        grads = torch.autograd.grad(
            output, (x, h_0), torch.ones_like(output[0, 0, 0, 0, 0]).expand_as(output)
        )
        return (output.detach(), *grads)

    for found, exact in zip(results(x, h_0), results(corner(x), corner(h_0)), strict=True):
        # Where the small frame ends and the large one does not, they differ.
        found, exact = (one[..., spoilt:, spoilt:] for one in (corner(found), exact))
        assert distance(found, exact.double()) < torch.finfo(torch.bfloat16).eps


def test_no_synchronisation(run: Callable[..., Any]) -> None:
    """Neither pass waits for the GPU."""
    case = Case(3, 2, 3, 16, 9, 8, peephole="spatial")
    arguments = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    incoming = [grad.cuda().to(torch.bfloat16) for grad in case.incoming()]
    incoming[2] = incoming[2].float()
    results_and_gradients(run, case, arguments, incoming)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results_and_gradients(run, case, arguments, incoming)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_capture_sees_changed_weights(run: Callable[..., Any]) -> None:
    """A captured sequence replays with new frames, and with the weights as they then are."""
    case = Case(3, 2, 3, 16, 9, 8, peephole="channel")
    arguments = {
        name: value.detach()
        for name, value in on_gpu(case.arguments(), torch.bfloat16, torch.float32).items()
    }
    run(case, arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(case, arguments)
    for _ in range(2):
        arguments["x"].normal_()
        arguments["weight_hh"].mul_(0.5)
        graph.replay()
        for found, expected in zip(captured, run(case, arguments), strict=True):
            assert torch.equal(found, expected)


def test_training_in_a_graph(run: Callable[..., Any]) -> None:
    """Both passes are captured; replayed, they see other frames and lengths."""
    case = Case(4, 3, 3, 16, 9, 8, peephole="channel")
    arguments = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    lengths = torch.tensor([4, 2, 3], device="cuda")
    leaves = tuple(arguments.values())

    def train() -> tuple[torch.Tensor, ...]:
        results = ops.fused_conv_lstm(
            *leaves,
            lengths=lengths,
            operator=run.keywords["operator"],
        )
        grads = [grad.to(result.dtype) for grad, result in zip(incoming, results, strict=True)]
        return (*results, *torch.autograd.grad(results, leaves, grads))

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        train()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train()
    with torch.no_grad():
        arguments["x"].normal_()
    lengths.copy_(torch.tensor([1, 4, 3]))
    graph.replay()
    for found, expected in zip(captured, train(), strict=True):
        assert torch.equal(found, expected)


def test_one_binary_for_all_sizes() -> None:
    """Other T, B, H and W need no other compilation by Triton."""
    from memx_fast.triton_kernels.forward import forward_step

    layer = (torch.zeros(64, 16, 3, 3, device="cuda"), torch.zeros(64, 16, 3, 3, device="cuda"))

    def compiled() -> int:
        return len(forward_step.device_caches[torch.cuda.current_device()][0])

    ops.fused_conv_lstm(torch.zeros(3, 2, 16, 7, 5, device="cuda"), *layer, None, None, None, None)
    before = compiled()
    for shape in ((1, 1, 16, 1, 1), (2, 16, 16, 16, 16), (17, 1, 16, 33, 2)):
        ops.fused_conv_lstm(torch.zeros(shape, device="cuda"), *layer, None, None, None, None)
    assert compiled() == before


def test_compile(run: Callable[..., Any]) -> None:
    """torch.compile(fullgraph=True) traces through, forward and backward, bit for bit."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="channel")
    arguments = on_gpu(case.arguments(), torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    compiled = torch.compile(run, fullgraph=True)
    exact = results_and_gradients(run, case, arguments, incoming)
    found = results_and_gradients(compiled, case, arguments, incoming)
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


def test_reduced_overhead_frame_by_frame(engine: str) -> None:
    """torch.compile replays a CUDA graph for every frame: new frames, states and weights count."""
    layer = ConvLSTM(3, 16, peephole="channel", backend=engine, device="cuda")
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


def test_opcheck(engine: str) -> None:
    """Schema, fake kernels with exact strides, autograd registration."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="spatial")
    arguments = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    inputs = (*(arguments[name] for name in NAMES), (1, 1), False, True, 2)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = getattr(torch.ops.memx_fast, ops.operator_of(engine))
    torch.library.opcheck(operator, inputs, test_utils=tests)


def test_autocast(run: Callable[..., Any]) -> None:
    """Under autocast the arguments are cast, c_0 is not, and gradients come back in their dtype."""
    case = Case(3, 2, 3, 8, 6, 7, peephole="channel")
    arguments = on_gpu(case.arguments(), torch.float32)
    incoming = [grad.cuda() for grad in case.incoming()]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = results_and_gradients(run, case, arguments, incoming)
    halves = on_gpu(case.arguments(), torch.bfloat16, torch.float32)
    exact = results_and_gradients(run, case, halves, incoming)
    assert (found["output"].dtype, found["c_n"].dtype) == (torch.bfloat16, torch.float32)
    for name, value in exact.items():
        assert torch.equal(found[name].to(value.dtype), value), name


def test_other_geometry(engine: str) -> None:
    """Strided and dilated input convolutions hand their gates to the same kernels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 3, 13, 12, generator=generator).cuda()
    weight_ih = torch.randn(16, 3, 3, 3, generator=generator).mul(0.2).cuda()
    weight_hh = torch.randn(16, 4, 3, 3, generator=generator).mul(0.2).cuda()
    options = {"padding": 1, "stride": 2, "dilation": 1}
    found, _ = conv_lstm(x, weight_ih, weight_hh, backend=engine, **options)
    layer = (x.double(), weight_ih.double(), weight_hh.double())
    exact, _ = conv_lstm(*layer, backend="reference", **options)
    assert distance(found, exact) < 1e-5


def test_lines_and_volumes(engine: str) -> None:
    """One and three axes reach the same kernels."""
    generator = torch.Generator().manual_seed(0)
    for frame in ((13,), (4, 5, 6)):
        x = torch.randn(3, 2, 3, *frame, generator=generator).cuda()
        kernel = (3,) * len(frame)
        weight_ih = torch.randn(16, 3, *kernel, generator=generator).mul(0.2).cuda()
        weight_hh = torch.randn(16, 4, *kernel, generator=generator).mul(0.2).cuda()
        found, _ = conv_lstm(x, weight_ih, weight_hh, backend=engine)
        layer = (x.double(), weight_ih.double(), weight_hh.double())
        exact, _ = conv_lstm(*layer, backend="reference")
        assert distance(found, exact) < 1e-5


def test_arguments_on_another_device_are_refused(engine: str) -> None:
    """The operators read no memory of the CPU."""
    x, weight = torch.zeros(2, 1, 8, 5, 6, device="cuda"), torch.zeros(8, 2, 3, 3, device="cuda")
    operator = getattr(torch.ops.memx_fast, ops.operator_of(engine))
    for name, wrong in (("weight_hh", (x, None, weight.cpu())), ("bias", (x, None, weight))):
        bias = torch.zeros(8) if name == "bias" else None
        with pytest.raises((RuntimeError, ValueError), match=f"{name} is on cpu, expected cuda:0"):
            operator(*wrong, bias, None, None, None, (0, 0), False, False, 0)

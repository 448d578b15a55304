"""The fused operator as a part of PyTorch: layouts, what it keeps, tracing, and what it refuses."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from memx_fast import _C
from tests.operator_cases import (
    NAMES,
    Case,
    cast,
    fused,
    results_and_gradients,
)


def sliced(tensor: Tensor) -> Tensor:
    """Every other element of a twice as wide NaN-filled tensor."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


def batch_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def mirrored_storage(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order."""
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


@pytest.mark.parametrize("layout", [sliced, channels_last, batch_first, mirrored_storage])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides_in(layout, dtype: torch.dtype) -> None:
    """Inputs, states and incoming gradients of any layout give bitwise the dense ones' results."""
    case = Case(3, 2, 3, 9, 8, 7, peephole="spatial", ragged=True)
    dense = cast(case.arguments(), dtype, c_0=torch.float32)
    exact = results_and_gradients(fused, case, dense, case.incoming())
    strided = {
        name: layout(value.detach()).requires_grad_()
        if name in ("x", "h_0", "c_0", "weight_ch", "weight_hh", "weight_ih")
        else value
        for name, value in dense.items()
    }
    results = fused(case, strided)
    incoming = [
        layout(grad.to(result.dtype)) for grad, result in zip(case.incoming(), results, strict=True)
    ]
    grads = torch.autograd.grad(results, tuple(strided.values()), incoming)
    for found, (name, value) in zip((*results, *grads), exact.items(), strict=True):
        assert torch.equal(found, value), name


def test_expanded_gradients() -> None:
    """The gradient of a sum has zero strides everywhere; it is read as it is."""
    case = Case(3, 2, 3, 9, 8, 7)
    arguments = cast(case.arguments(), torch.float32)
    leaves = [value for value in arguments.values() if value is not None]
    output, h_n, c_n = fused(case, arguments)
    loss = output.sum() + 2 * h_n.sum() + 3 * c_n.sum()
    found = torch.autograd.grad(loss, leaves)
    dense = [
        torch.full_like(result, weight)
        for result, weight in zip((output, h_n, c_n), (1, 2, 3), strict=True)
    ]
    expected = torch.autograd.grad(fused(case, arguments), leaves, dense)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_saved() -> None:
    """Cells and the gates of the last steps, as many as asked for."""
    case = Case(3, 2, 3, 5, 4, 6)
    x, *others = (case.arguments()[name] for name in NAMES)
    for cells, gates in ((False, 0), (True, 0), (True, 1), (True, 3)):
        saved = torch.ops.memx_fast.conv_lstm(x, *others, (1, 1), False, cells, gates)[3:]
        assert saved[0].shape == ((3, 2, 4, 6, 5) if cells else (0,))
        assert saved[1].shape == (gates, 2, 4, 6, 4, 5)
    for gates in (-1, 4):
        with pytest.raises(RuntimeError, match=f"saved_gates is {gates}, expected 0 to 3 steps"):
            torch.ops.memx_fast.conv_lstm(x, *others, (1, 1), False, True, gates)


def test_second_backward_over_one_graph() -> None:
    """Saved tensors are never overwritten: a second backward gives the same bits."""
    case = Case(3, 2, 3, 9, 8, 7, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    leaves = [value for value in arguments.values() if value is not None]
    results = fused(case, arguments)
    incoming = [grad.to(torch.float32) for grad in case.incoming()]
    first = torch.autograd.grad(results, leaves, incoming, retain_graph=True)
    second = torch.autograd.grad(results, leaves, incoming)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(3, 3, 9, 16, 37, 41, peephole="channel", masked=True, ragged=True),
        Case(9, 19, 2, 5, 26, 9, peephole="spatial"),  # images that share sums of peepholes
        Case(8, 1, 3, 6, 33, 7, (5, 5), (5, 5), padding=(1, 1)),  # strips that see several others
        Case(6, 2, 3, 4, 5, 170, (3, 5), padding=(0, 2), peephole="spatial"),  # ... side by side
        Case(1, 2, 3, 6, 40, 8),
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_thread_count(case: Case, dtype: torch.dtype) -> None:
    """The same bits with one, two and five threads, and from run to run."""
    arguments = cast(case.arguments(), dtype)
    usual = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 5, 5):
            torch.set_num_threads(threads)
            runs.append(results_and_gradients(fused, case, arguments, case.incoming()))
    finally:
        torch.set_num_threads(usual)
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(run[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(9, 7, 2, 5, 26, 9, peephole="spatial"),
        Case(6, 2, 3, 4, 5, 170, (3, 5), padding=(0, 2), peephole="channel", ragged=True),
    ],
    ids=str,
)
def test_step_by_step_computes_the_same(case: Case, dtype: torch.dtype) -> None:
    """Without strips images get the same bits, and parameters the same sums in another order."""
    arguments = cast(case.arguments(), dtype)
    expected = results_and_gradients(fused, case, arguments, case.incoming())
    try:
        _C.tune(strips=False)
        found = results_and_gradients(fused, case, arguments, case.incoming())
    finally:
        _C.tune()
    summed = {f"grad of {name}" for name in NAMES if "weight" in name or name == "bias"}
    assert summed < found.keys()
    for name, value in expected.items():
        if name in summed:
            scale = value.abs().max().item()
            within = (2**-7 if dtype == torch.bfloat16 else 1e-5) * scale
            torch.testing.assert_close(found[name], value, rtol=0, atol=within)
        else:
            assert torch.equal(found[name], value), name


def test_no_double_backward() -> None:
    """A second derivative is refused with the remedy, never silently zero."""
    case = Case(2, 1, 2, 3, 4, 4)
    arguments = cast(case.arguments(), torch.float64)
    output, _, _ = fused(case, arguments)
    (grad,) = torch.autograd.grad(output.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ready_made", [False, True])
def test_opcheck(dtype: torch.dtype, ready_made: bool) -> None:
    """Schema, fake kernels with exact strides, autograd registration, AOT dispatch: all clean."""
    case = Case(
        3,
        2,
        0 if ready_made else 3,
        4,
        5,
        6,
        padding=None if ready_made else (1, 0),
        peephole="channel",
        hard_slope=0.2 if ready_made else 0.0,
        masked=ready_made,
        ragged=True,
    )
    arguments = cast(case.arguments(), dtype, c_0=torch.float32)
    padding = (0, 0) if ready_made else (1, 0)
    options = (case.hard_slope, case.hidden_mask(arguments["x"]), case.lengths())
    inputs = (*(arguments[name] for name in NAMES), padding, False, True, 2, *options)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.memx_fast.conv_lstm, inputs, test_utils=tests)
    plain_inputs = tuple(v.detach() if isinstance(v, Tensor) else v for v in inputs)
    _, _, _, cells, gates = (results := torch.ops.memx_fast.conv_lstm(*plain_inputs))
    backward = (
        *(torch.randn(r.shape).to(r.dtype) for r in results[:3]),
        *plain_inputs[:7],
        results[0],
        cells,
        gates,
        padding,
        False,
        [True, not ready_made, True, True, True, True, True],
        *options,
    )
    torch.library.opcheck(torch.ops.memx_fast.conv_lstm_backward, backward, test_utils=tests[::2])


def test_opcheck_dynamic() -> None:
    """Ahead-of-time dispatch with symbolic shapes, forward and backward."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="spatial", output_peephole="current", masked=True)
    arguments = cast(case.arguments(), torch.float64)
    options = (0.25, case.hidden_mask(arguments["x"]), torch.tensor([2, 3]))
    inputs = (*(arguments[name] for name in NAMES), (1, 1), True, True, 2, *options)
    torch.library.opcheck(
        torch.ops.memx_fast.conv_lstm, inputs, test_utils="test_aot_dispatch_dynamic"
    )


def test_compile() -> None:
    """torch.compile(fullgraph=True) traces through, forward and backward, bit for bit."""
    case = Case(3, 2, 3, 4, 5, 6, peephole="channel", hard_slope=0.2, masked=True)
    arguments = cast(case.arguments(), torch.float32)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    exact = results_and_gradients(fused, case, arguments, case.incoming())
    found = results_and_gradients(compiled, case, arguments, case.incoming())
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


def test_autocast() -> None:
    """Under autocast the arguments are cast, c_0 is not, and gradients come back in their dtype."""
    case = Case(3, 2, 3, 8, 6, 7, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results_and_gradients(fused, case, arguments, case.incoming())
    halves = cast(case.arguments(), torch.bfloat16, c_0=torch.float32)
    exact = results_and_gradients(fused, case, halves, case.incoming())
    assert found["output"].dtype == torch.bfloat16
    assert found["c_n"].dtype == torch.float32
    for name, value in exact.items():
        assert torch.equal(found[name].to(value.dtype), value), name
        if name.startswith("grad"):
            assert found[name].dtype == torch.float32, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 2, 0, 4)}, "x has shape"),
        ({"weight_ih": torch.zeros(12, 5, 3, 3)}, "weight_ih has shape"),
        ({"weight_ih": torch.zeros(12, 2, 3)}, "weight_ih has shape"),
        ({"weight_ih": torch.zeros(12, 2, 1, 3)}, "padding is"),
        ({"weight_ih": torch.zeros(12, 2, 9, 3)}, "too small for weight_ih"),
        ({"weight_hh": torch.zeros(12, 4, 3, 3)}, "weight_hh has shape"),
        ({"weight_hh": torch.zeros(12, 3, 3, 3, dtype=torch.float64)}, "weight_hh has dtype"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"weight_ch": torch.zeros(3, 4)}, "weight_ch has shape"),
        ({"weight_ch": torch.zeros(3, 3, 4, 5)}, "weight_ch has shape"),
        ({"h_0": torch.zeros(1, 3, 4, 5)}, "h_0 has shape"),
        ({"c_0": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}, "c_0 has dtype"),
        ({"weight_hh": torch.zeros(0, 0, 3, 3)}, "weight_hh has shape"),
        ({"x": torch.zeros(2, 0, 2, 4, 4)}, "x has shape"),
        ({"padding": (1,)}, "padding has 1 number"),
        ({"hidden_mask": torch.zeros(1, 1, 4, 4)}, "hidden_mask has shape"),
        ({"hidden_mask": torch.zeros(1, 3, 4, 4).double()}, "hidden_mask has dtype"),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, "lengths has shape"),
        ({"lengths": torch.ones(1)}, "lengths has dtype"),
        ({"lengths": torch.tensor([0])}, "expected numbers from 1 to 2"),
        ({"lengths": torch.tensor([3])}, "expected numbers from 1 to 2"),
        ({"slope": -0.5}, "hard_sigmoid_slope is -0.5, expected a finite number above 0"),
        ({"slope": float("nan")}, "hard_sigmoid_slope is nan"),
        ({"slope": float("inf")}, "hard_sigmoid_slope is inf"),
    ],
)
def test_operator_refuses_what_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    """The operator itself never reads out of bounds: shapes and dtypes are checked in C++ too."""
    arguments = {
        "x": torch.zeros(2, 1, 2, 4, 4),
        "weight_ih": torch.zeros(12, 2, 3, 3),
        "weight_hh": torch.zeros(12, 3, 3, 3),
        **dict.fromkeys(NAMES[3:]),
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.memx_fast.conv_lstm(
            *({**arguments, **change}[name] for name in NAMES),
            change.get("padding", (1, 1)),
            False,
            False,
            0,
            change.get("slope", 0.0),
            change.get("hidden_mask"),
            change.get("lengths"),
        )


def test_results_may_be_changed_in_place() -> None:
    """To autograd they are no views of one another; what is saved is guarded as everywhere."""
    case = Case(2, 1, 2, 3, 4, 4)
    arguments = cast(case.arguments(), torch.float64)
    expected = fused(case, arguments)
    output, h_n, c_n = fused(case, arguments)
    h_n.mul_(2)
    c_n.add_(1)
    assert torch.equal(h_n, 2 * expected[1])
    (found,) = torch.autograd.grad((h_n * c_n).sum(), arguments["x"], retain_graph=True)
    loss = (2 * expected[1] * (expected[2] + 1)).sum()
    assert torch.equal(found, torch.autograd.grad(loss, arguments["x"])[0])
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def backward_arguments() -> dict[str, object]:
    """What the backward operator gets for a tiny layer."""
    x, weight_ih, weight_hh = (
        torch.ones(2, 1, 3, 5, 5),
        torch.ones(8, 3, 3, 3),
        torch.ones(8, 2, 3, 3),
    )
    results = torch.ops.memx_fast.conv_lstm(
        x, weight_ih, weight_hh, None, None, None, None, (1, 1), False, True, 1
    )
    output, h_n, c_n, cells, gates = results
    return {
        **{"grad_output": torch.ones_like(output), "grad_h_n": h_n, "grad_c_n": c_n},
        **{"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh},
        **dict.fromkeys(("bias", "weight_ch", "h_0", "c_0")),
        **{"output": output, "cells": cells, "gates": gates, "padding": (1, 1)},
        **{"output_sees_current": False, "needs": [True] * 7},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_output": torch.ones(2, 1, 1, 5, 5)}, "grad_output has shape"),
        ({"grad_output": torch.ones(2, 1, 2, 5, 5).double()}, "grad_output has dtype"),
        ({"grad_h_n": torch.ones(1, 2, 5, 4)}, "grad_h_n has shape"),
        ({"grad_c_n": torch.ones(1, 2, 5, 5).double()}, "grad_c_n has dtype"),
        ({"output": torch.ones(1, 1, 1, 1, 1)}, "output has shape"),
        ({"cells": torch.ones(1, 1, 1, 1, 1)}, "cells has shape"),
        ({"cells": torch.ones(2, 1, 5, 2, 5).mT}, "cells and gates must be"),
        ({"gates": torch.ones(9, 1, 1, 1, 1, 1)}, "gates has shape"),
        ({"gates": torch.ones(3, 1, 5, 5, 4, 2)}, "gates has shape"),
        ({"gates": torch.ones(1)}, "gates has shape"),
        ({"padding": (1, 1, 7)}, "padding has 3 numbers"),
    ],
)
def test_backward_operator_refuses_what_does_not_fit(
    change: dict[str, object], message: str
) -> None:
    """Nor does the backward operator read out of bounds."""
    with pytest.raises(RuntimeError, match=message):
        torch.ops.memx_fast.conv_lstm_backward(*{**backward_arguments(), **change}.values())


def test_gradients_of_absent_arguments_are_empty() -> None:
    """Whoever asks for them gets what the fake kernel says: nothing."""
    found = torch.ops.memx_fast.conv_lstm_backward(*backward_arguments().values())
    assert [gradient.numel() > 0 for gradient in found] == [True] * 3 + [False] * 2 + [True] * 2


def test_inference_sees_every_change_of_the_weights() -> None:
    """Packed weights are kept between calls, and never used for others than they were made from."""
    case = Case(1, 1, 8, 16, 5, 5)
    arguments = {
        name: None if value is None else value.float() for name, value in case.arguments().items()
    }

    def changes() -> Iterator[None]:
        weight = arguments["weight_hh"]
        yield
        weight[0, 0, 0, 0] += 1
        yield
        weight.data.mul_(0.5)
        yield
        arguments["weight_hh"] = weight.clone()
        yield
        arguments["weight_hh"] = weight.flip(0).transpose(2, 3)
        yield
        arguments["weight_ih"] = arguments["weight_ih"].double().add(1e-3).float()
        yield
        _C.tune(winograd=False)
        yield
        _C.tune()
        for name in NAMES:
            arguments[name] = arguments[name] if name == "c_0" else halved(arguments[name])
        yield

    def halved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.bfloat16()

    try:
        for _ in changes():
            kept = _C.kept_weights()["hits"]
            first, again = (fused(case, arguments)[0] for _ in range(2))
            assert _C.kept_weights()["hits"] >= kept + 1
            assert torch.equal(first, again)
            copies = {
                name: None if value is None else value.clone() for name, value in arguments.items()
            }
            trained, _, _ = fused(case, cast(copies, first.dtype, c_0=torch.float32))
            assert torch.equal(first, trained)
    finally:
        _C.tune()


def test_kept_weights_are_bounded() -> None:
    """However many models a process runs, 64 MiB are the most that stays."""
    x = torch.zeros(1, 1, 1, 1, 1)
    for number in range(80):
        weight = torch.full((256, 64, 3, 3), float(number))
        fused_arguments = (x, torch.zeros(256, 1, 1, 1), weight, None, None, None, None)
        torch.ops.memx_fast.conv_lstm(*fused_arguments, (0, 0), False, False, 0)
    kept = _C.kept_weights()
    assert 1 < kept["entries"] < 80
    assert kept["bytes"] <= 64 << 20


IMPORTS = {
    "extension last": "import memx_fast",
    "extension first": """
import importlib.util, sys
specification = importlib.util.spec_from_file_location("memx_fast._C", sys.argv[1])
extension = importlib.util.module_from_spec(specification)
specification.loader.exec_module(extension)
import memx_fast""",
    "twice": """
import importlib, memx_fast
importlib.reload(memx_fast.ops)""",
}


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)
def test_schemas_and_kernels_meet_in_any_order(imports: str) -> None:
    """Schemas come from Python, kernels from the extension; neither has to be there first."""
    call = """
x, weight = torch.zeros(2, 1, 8, 3, 3), torch.zeros(8, 2, 1, 1)
print(memx_fast.conv_lstm(x, None, weight, backend="cpp")[0].shape)"""
    command = (sys.executable, "-c", f"import torch\n{imports}\n{call}", _C.__file__)
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.stdout == "torch.Size([2, 1, 2, 3, 3])\n", found.stderr


def test_unknown_instruction_set() -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(ValueError, match="got 'sse9', this processor runs baseline"):
        _C.select_instruction_set("sse9")

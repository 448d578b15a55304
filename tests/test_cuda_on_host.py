"""The CUDA kernels, run on the CPU under sanitizers, against the float64 reference.

A block's threads run one after the other between barriers; shared memory, the workspace and all
results have exactly the size asked for and are filled with NaN. What reads or writes beside them,
reads too early, or holds a matrix fragment wrongly, ends the program or changes the numbers.
"""

import sys
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.accuracy import Run, worse_than_plain
from tests.cuda_on_host.engine import DTYPES, Device, Engine, compile_engine
from tests.operator_cases import (
    ENGINE_CASES,
    NAMES,
    Case,
    cast,
    plain,
    results_and_gradients,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="the harness is for Linux"),
]

CASES = (
    *ENGINE_CASES,
    # Several tiles an image in which sequences end, and weight gradients in several parts.
    Case(5, 4, 6, 9, 17, 18, ragged=True),
    # Several tiles an image, several chunks of channels, and a kernel too large for shared memory.
    Case(2, 1, 20, 18, 9, 17, bias=False),
    Case(2, 1, 4, 1, 3, 9, (3, 3), (31, 31), padding=(15, 15)),
)

# Blocks are wide where they fill the GPU all the same; where they do not, their warps share K.
DEVICES = (Device(132, 1, copies_land_at_once=False), Device(1, 2, copies_land_at_once=True))
# One whose multiprocessors have two small blocks each, forward in one case, backward in the other.
DEVICE_FOR_TWO = Device(3, 3, copies_land_at_once=False)
CASES_FOR_TWO = (Case(3, 2, 5, 24, 9, 7, peephole="channel"), Case(2, 2, 5, 24, 12, 13))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_engine(tmp_path_factory.mktemp("cuda-on-host"))


@pytest.mark.parametrize("device", DEVICES, ids=["shared", "wide"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_agrees_with_the_reference(case: Case, device: Device, program: Path) -> None:
    """Results and all gradients to 1e-10, with the gates of half of the steps saved."""
    arguments = cast(case.arguments(), torch.float64)
    exact = results_and_gradients(plain, case, arguments, case.incoming())
    engine = Engine(program, "float64", device)
    found = engine.run(case, arguments, case.incoming(), case.steps // 2)
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


ACCURACY_CASES = (
    Case(3, 1, 1, 17, 13, 11, peephole="spatial"),
    Case(3, 2, 5, 16, 9, 7, peephole="channel", output_peephole="current"),
    Case(2, 1, 17, 33, 9, 8, states=False),
    Case(2, 1, 72, 24, 5, 5),
    Case(3, 1, 3, 12, 11, 9, (5, 5), (5, 5), bias=False),
    Case(3, 1, 0, 16, 12, 9),
    Case(3, 2, 5, 16, 9, 7, peephole="channel", hard_slope=0.5),
    Case(3, 2, 5, 16, 9, 7, masked=True),
    # Weight gradients: several groups of tiles, many runs of columns, several products in a row.
    Case(2, 1, 10, 24, 3, 40, (5, 5)),
    Case(2, 1, 4, 36, 2, 60),
)


# Each on one of the devices.
ACCURACY_RUNS = (
    *zip(ACCURACY_CASES, cycle(DEVICES)),
    *((case, DEVICE_FOR_TWO) for case in CASES_FOR_TWO),
)


def runner(case: Case, engine: Engine) -> Run:
    """The engine in its own type, with the gates of one step computed again."""

    def run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        given = cast(arguments, DTYPES[engine.type_name], c_0=torch.float32)
        return engine.run(case, given, incoming, case.steps - 1)

    return run


@pytest.mark.parametrize("type_name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("case", "device"), ACCURACY_RUNS, ids=str)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    case: Case, device: Device, type_name: str, program: Path
) -> None:
    """In every other dtype: twice the error plain PyTorch makes in it."""
    run = runner(case, Engine(program, type_name, device))
    assert worse_than_plain(case, DTYPES[type_name], run) is None


@pytest.mark.parametrize(("case", "device"), ACCURACY_RUNS, ids=str)
def test_tf32_rounds_no_worse_than_float16(case: Case, device: Device, program: Path) -> None:
    """TF32 has the mantissa of float16: its error is at most twice that of PyTorch in float16."""
    run = runner(case, Engine(program, "tf32", device))
    assert worse_than_plain(case, torch.float16, run) is None


def test_what_follows_the_end_of_a_sequence_is_not_read(program: Path) -> None:
    """NaN there, in x and in the output's gradient, reaches nothing; results there are zeros."""
    case = Case(4, 4, 3, 9, 5, 11, peephole="channel", ragged=True)
    arguments, incoming = cast(case.arguments(), torch.float32), case.incoming()
    exact = Engine(program).run(case, arguments, incoming, 2)
    after = torch.arange(case.steps)[:, None] >= case.lengths()
    with torch.no_grad():
        arguments["x"][after] = torch.nan
        incoming[0][after] = torch.nan
    found = Engine(program).run(case, arguments, incoming, 2)
    for name, value in exact.items():
        assert torch.equal(found[name], value), name
    assert not found["output"][after].any()
    assert not found["grad of x"][after].any()


def every_second(tensor: Tensor) -> Tensor:
    """The tensor cut out of a twice as wide one, whose rest is NaN."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


@pytest.mark.parametrize("layout", ["sliced", "channels last", "expanded"])
def test_incoming_gradients_of_any_strides(layout: str, program: Path) -> None:
    """They are read where they are, with the bits of dense ones."""
    case = Case(2, 2, 3, 9, 5, 4)
    arguments = cast(case.arguments(), torch.float32)
    dense = [grad.float() for grad in case.incoming()]
    if layout == "sliced":
        strided = [every_second(grad) for grad in dense]
    elif layout == "channels last":
        strided = [grad.movedim(-3, -1).contiguous().movedim(-1, -3) for grad in dense]
    else:
        strided = [torch.tensor(n + 1.0).expand(grad.shape) for n, grad in enumerate(dense)]
        dense = [grad.clone() for grad in strided]
    exact = Engine(program).run(case, arguments, tuple(dense))
    found = Engine(program).run(case, arguments, tuple(strided))
    for name, value in exact.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("part", [0, 1, 2], ids=["output", "h_n", "c_n"])
def test_one_incoming_gradient(part: int, program: Path) -> None:
    """Results that take no part in the loss need no gradient of zeros."""
    case = Case(2, 1, 3, 5, 4, 5, peephole="channel", output_peephole="current")
    arguments = cast(case.arguments(), torch.float64)
    full = case.incoming()
    zeros = [grad if n == part else torch.zeros_like(grad) for n, grad in enumerate(full)]
    exact = results_and_gradients(plain, case, arguments, zeros)
    partial = tuple(grad if n == part else None for n, grad in enumerate(full))
    found = Engine(program, "float64").run(case, arguments, partial)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_only_wanted_gradients(program: Path) -> None:
    """Each gradient has the same bits whichever others are asked for."""
    case = Case(2, 1, 3, 5, 4, 5, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    exact = Engine(program).run(case, arguments, case.incoming())
    for wanted in NAMES:
        found = Engine(program).run(case, arguments, case.incoming(), needs=(wanted,))
        assert torch.equal(found[f"grad of {wanted}"], exact[f"grad of {wanted}"]), wanted


@pytest.mark.parametrize("type_name", ["float32", "bfloat16"])
def test_same_bits_in_any_order_and_from_any_gates(type_name: str, program: Path) -> None:
    """The order of warps changes nothing, nor does computing gates again instead of saving them."""
    case = Case(3, 2, 5, 9, 7, 5, peephole="spatial")
    arguments = cast(case.arguments(), DTYPES[type_name], c_0=torch.float32)
    first = Engine(program, type_name).run(case, arguments, case.incoming())
    for seed, saved_gates in ((7, 1), (8, 0)):
        engine = Engine(program, type_name, Device(132, seed, copies_land_at_once=True))
        found = engine.run(case, arguments, case.incoming(), saved_gates)
        for name, value in first.items():
            assert torch.equal(found[name], value), name


def test_inference_gives_the_results_of_training(program: Path) -> None:
    """Without cells, C_t is updated in place."""
    case = Case(3, 2, 3, 5, 4, 6, peephole="channel")
    arguments = cast(case.arguments(), torch.float32)
    trained = Engine(program).run(case, arguments, case.incoming())
    found = Engine(program).run(case, arguments, None)
    for name in ("output", "h_n", "c_n"):
        assert torch.equal(found[name], trained[name]), name


@pytest.mark.parametrize("type_name", ["float32", "bfloat16", "float16"])
def test_nan_reaches_what_it_should(type_name: str, program: Path) -> None:
    """A NaN pixel makes its neighbourhood NaN and nothing else."""
    case = Case(1, 1, 2, 3, 7, 9, states=False)
    arguments = cast(case.arguments(), DTYPES[type_name])
    with torch.no_grad():
        arguments["x"][0, 0, 1, 3, 4] = torch.nan
    output = Engine(program, type_name).run(case, arguments, None)["output"]
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(output.isnan()[0, 0].all(0), expected)
    assert torch.equal(output.isnan()[0, 0].any(0), expected)

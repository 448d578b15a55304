"""The run of the CUDA kernels on the CPU finds what is wrong with them: every mistake made here."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memx_fast.ops import accumulate_dtype
from tests.accuracy import Run, worse_than_plain
from tests.cuda_on_host.engine import (
    DTYPES,
    SOURCES,
    Device,
    Engine,
    EngineFailedError,
    compile_engine,
    compile_harness,
)
from tests.operator_cases import Case, cast

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="the harness is for Linux"),
]

# Two chunks of channels, the last not full; two tiles an image; channels of odd number.
CASES = {
    "float64": Case(2, 2, 18, 9, 5, 11, peephole="channel", ragged=True),
    "bfloat16": Case(2, 1, 8, 5, 4, 9),
}
NUMBERS = {"float64": "Float64Numbers", "bfloat16": "Bfloat16Numbers"}
DEVICES = (Device(132, 1, copies_land_at_once=False), Device(132, 2, copies_land_at_once=True))

# What is done wrong: the type in which it is looked for, the file, and the change.
MUTANTS = {
    "no barrier before a stage is read": (
        *("float64", "convolution.h"),
        *("      barrier();\n      request(slot == 0", "      request(slot == 0"),
    ),
    "a stage is filled again before the barrier": (
        *("float64", "convolution.h"),
        "      barrier();\n      request(slot == 0 ? kStages - 1 : slot - 1);",
        "      request(slot == 0 ? kStages - 1 : slot - 1);\n      barrier();",
    ),
    "copies are not waited for": (
        *("float64", "convolution.h", "wait_copies<kStages - 2>", "wait_copies<kStages - 1>"),
    ),
    "copies are in no group": (
        *("float64", "convolution.h"),
        *("+= bytes;\n    }\n    commit_copies();", "+= bytes;\n    }"),
    ),
    "too few images in shared memory": (
        *("float64", "planning.h", "1 + int(ceil_div(kStages - 1, fewest_stages))", "1"),
    ),
    "too little shared memory": (
        *("float64", "convolution.h"),
        *("images * image_bytes + kStages", "images * image_bytes - 32 + kStages"),
    ),
    "a column beside an image is read": (
        *("float64", "images.h"),
        *("unsigned(x) < unsigned(image.width)", "unsigned(x) <= unsigned(image.width)"),
    ),
    "channels that do not exist are read": (
        *("float64", "images.h", "y, x) && channel < image.depth();", "y, x);"),
    ),
    "a channel that does not exist is written": (
        *("float64", "elements.h"),
        "      if (e < channels.count) {\n        memory[offset",
        "      if (channels.count > 0) {\n        memory[offset",
    ),
    "a channel that does not exist is read": (
        *("float64", "elements.h"),
        "      if (e < count) {\n        four",
        "      if (count > 0) {\n        four",
    ),
    "a pixel outside of an image is written": (
        *("float64", "elements.h", "pixel.exists ? channels : 0", "channels"),
    ),
    "sums are exchanged before all have read the last stage": (
        *("bfloat16", "exchange.h"),
        *("  barrier();  // all have read the last stage\n", ""),
    ),
    "exchanged sums are read before they are there": (
        *("bfloat16", "exchange.h"),
        *("    }\n  }\n  barrier();\n", "    }\n  }\n"),
    ),
    "what other warps have of a row is lost": (
        *("bfloat16", "exchange.h", "from < Shape::kShares; ++from", "from < 1; ++from"),
    ),
    "a channel of K is read in the place of another": (
        *("bfloat16", "images.h", "ends_tap ? 0 : source.channel + 1", "source.channel + 1"),
    ),
    "a chunk's pixels are read from the place of another": (
        *("float64", "convolution.h"),
        *("number & (convolution.memory.images - 1);", "number * 0;"),
    ),
    "pixels are not aligned": (
        *("float64", "convolution.h"),
        *("image.blocks * kBlockBytes + kPieceBytes;", "image.blocks * kBlockBytes + 8;"),
    ),
    "one tile of a weight gradient lies over the next": (
        *("float64", "weight_gradient.h"),
        "request(slot == 0 ? kGradientStages - 1 : slot - 1)",
        "request(following(slot, kGradientStages))",
    ),
    "a tile of a weight gradient is not waited for": (
        *("float64", "weight_gradient.h"),
        *("wait_copies<kGradientStages - 2>", "wait_copies<kGradientStages - 1>"),
    ),
    "not all threads reach a barrier": (
        *("float64", "weight_gradient.h"),
        "    wait_copies<kGradientStages - 2>();\n    barrier();",
        "    wait_copies<kGradientStages - 2>();\n    if (warp() > 0) barrier();",
    ),
    "a sequence that has ended goes on": (
        *("float64", "forward_step.h"),
        *("if (has_ended(step.lengths, tile.image, step.t))", "if (false)"),
    ),
    "frames after the end of a sequence are read": (
        *("float64", "weight_gradient.h"),
        *("step = int(work.first_step + steps)", "step = int(work.first_step)"),
    ),
    "the gradient of h_n comes at the last step of all": (
        *("float64", "backward_step.h"),
        *("step.lengths == nullptr || step.t + 1 == step.lengths[tile.image]", "step.t == 1"),
    ),
    "sums are read before they are written": (
        *("float64", "parameter_sums.h"),
        *("sum_rows<channels>(work);\n  barrier();", "sum_rows<channels>(work);"),
    ),
    "sums of a tap's other warps are lost": (
        *("bfloat16", "weight_gradient.h", "share < shares; ++share", "share < 1; ++share"),
    ),
    "sums of a tap's other warps are added before they are there": (
        *("bfloat16", "weight_gradient.h"),
        "    barrier();\n    if (warp() % shares == 0) {",
        "    if (warp() % shares == 0) {",
    ),
    "sums of a tap's other warps lie over pixels that are read": (
        *("bfloat16", "weight_gradient.h"),
        "    barrier();\n    if (warp() % shares == share) {",
        "    if (warp() % shares == share) {",
    ),
    "fragments of packed weights are swapped": (
        *("bfloat16", "numbers.h"),
        "right[n][0] = piece.bits[0];\n      right[n][1] = piece.bits[1];",
        "right[n][0] = piece.bits[1];\n      right[n][1] = piece.bits[0];",
    ),
    "fragments of pixels are swapped": (
        *(
            "bfloat16",
            "pixel_products.h",
            "lane() / 16 * 8 + lane() % 8",
            "lane() / 8 % 2 * 8 + lane() % 8",
        ),
    ),
}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return compile_harness(tmp_path_factory.mktemp("harness"))


def one_type(folder: Path, type_name: str) -> Path:
    """A copy of the sources with kernels for one type alone, which compile sooner."""
    sources = folder / "csrc"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("cpu"))
    numbers = sources / "cuda" / "numbers.h"
    dispatched = f"(void)type;\n  body({NUMBERS[type_name]}{{}});\n"
    text, count = re.subn(
        r"switch \(type\) {.*?\n  }\n", dispatched, numbers.read_text(), flags=re.S
    )
    assert count == 1
    numbers.write_text(text)
    return sources


def runner(engine: Engine) -> Run:
    """The engine on its case, with NaN where nothing is read: after the end of every sequence."""
    case, dtype = CASES[engine.type_name], DTYPES[engine.type_name]

    def run(arguments: dict[str, Tensor | None], incoming: list[Tensor]) -> dict[str, Tensor]:
        given = cast(arguments, dtype, c_0=accumulate_dtype(dtype))
        grad_output = incoming[0]
        if case.ragged:
            after = torch.arange(case.steps)[:, None] >= case.lengths()
            after = after[:, :, None, None, None]
            given["x"] = given["x"].detach().masked_fill(after, torch.nan)
            grad_output = grad_output.masked_fill(after, torch.nan)
        return engine.run(case, given, (grad_output, *incoming[1:]), 1)

    return run


def found_wrong(program: Path, type_name: str) -> str | None:
    """What the checks of test_cuda_on_host say of a program; None: nothing."""
    dtype = DTYPES[type_name]
    least = 1e-10 if dtype == torch.float64 else None
    for device in DEVICES:
        run = runner(Engine(program, type_name, device))
        try:
            found = worse_than_plain(CASES[type_name], dtype, run, least)
        except EngineFailedError as error:
            return str(error)
        if found is not None:
            return found
    return None


@pytest.mark.parametrize("type_name", CASES)
def test_nothing_is_found_where_nothing_is_wrong(
    type_name: str, harness: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_engine(tmp_path, one_type(tmp_path, type_name), harness)
    assert found_wrong(program, type_name) is None


@pytest.mark.parametrize("mistake", MUTANTS)
def test_every_mistake_is_found(mistake: str, harness: tuple[str, ...], tmp_path: Path) -> None:
    type_name, name, right, wrong = MUTANTS[mistake]
    sources = one_type(tmp_path, type_name)
    changed = sources / "cuda" / name
    text = changed.read_text()
    assert text.count(right) == 1
    changed.write_text(text.replace(right, wrong))
    found = found_wrong(compile_engine(tmp_path, sources, harness), type_name)
    assert found is not None

"""Large blocks of memory are kept for the next call, never too many, and never the wrong ones."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import memx_fast
from memx_fast import _C, backends, functional, memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Every test starts without kept memory, and leaves none."""
    memx_fast.empty_cache()
    yield
    memx_fast.empty_cache()


def held() -> int:
    """Bytes of large blocks, in use or kept."""
    found = _C.large_memory()
    return int(found["in_use"] + found["kept"])


def layer_and_frames(steps: int = 4, batch: int = 2) -> tuple[memx_fast.ConvLSTM, Tensor]:
    torch.manual_seed(0)
    return memx_fast.ConvLSTM(3, 16, 3), torch.randn(steps, batch, 3, 48, 48)


def trained(layer: memx_fast.ConvLSTM, x: Tensor) -> list[Tensor]:
    """Copies of all gradients of a step of training."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    output, (_, c_n) = layer(x)
    (output.square().sum() + c_n.square().sum()).backward()
    leaves = [x, *layer.parameters()]
    return [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("peephole", [None, "spatial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_like_the_last_one_needs_no_new_memory(
    dtype: torch.dtype, peephole: str | None
) -> None:
    """What the first steps gave back serves all others; the gradients are the same bits."""
    size = 60 if peephole else None
    layer = memx_fast.ConvLSTM(1, 32, 3, peephole=peephole, spatial_size=size, dtype=dtype)
    x = torch.randn(9, 4, 1, 60, 60, dtype=dtype)
    first = trained(layer, x)
    trained(layer, x)
    before = _C.large_memory()
    for _ in range(3):
        assert all(map(torch.equal, first, trained(layer, x)))
    assert before["kept"] > 0
    assert _C.large_memory() == before


def test_little_more_is_held_than_was_once_in_use() -> None:
    """Sequences of many sizes one after the other leave what the largest of them needed, or 5/4."""
    layer, _ = layer_and_frames()
    for steps in (2, 9, 3, 7, 5, 8, 4):
        trained(layer, torch.randn(steps, 2, 3, 48, 48))
        found = _C.large_memory()
        assert found["in_use"] + found["kept"] <= 1.25 * found["most"]
    most = found["most"]
    memx_fast.empty_cache()
    trained(layer, torch.randn(9, 2, 3, 48, 48))
    assert most == pytest.approx(_C.large_memory()["most"], rel=0.1)


def test_empty_cache_gives_back_all_that_no_tensor_needs() -> None:
    """Tensors in use keep their numbers; packed weights go as well."""
    layer, x = layer_and_frames()
    with torch.no_grad():
        output, _ = layer(x)
        copy = output.clone()
        layer(x)
    assert _C.large_memory()["kept"] > 0
    assert _C.kept_weights()["entries"] > 0
    memx_fast.empty_cache()
    found = _C.large_memory()
    assert found["kept"] == 0
    assert found["in_use"] == found["most"] >= output.nbytes
    assert _C.kept_weights() == {**_C.kept_weights(), "entries": 0, "bytes": 0}
    with torch.no_grad():
        again, _ = layer(x)
    assert torch.equal(output, copy)
    assert torch.equal(output, again)


def test_results_in_use_are_never_overwritten() -> None:
    """Every one of many results kept by the user stays what it was."""
    layer, _ = layer_and_frames()
    kept = []
    with torch.no_grad():
        for number in range(8):
            x = torch.full((4, 2, 3, 48, 48), float(number))
            output, _ = layer(x)
            kept.append((output, output.clone()))
            if number % 3 == 2:
                del kept[0]
    assert all(torch.equal(output, copy) for output, copy in kept)


def test_threads_share_the_kept_memory() -> None:
    """Training from four threads at once: everybody's gradients are those of one alone."""
    layers = [layer_and_frames() for _ in range(4)]
    expected = trained(*layers[0])
    wrong = []

    def work(layer: memx_fast.ConvLSTM, x: Tensor) -> None:
        for _ in range(5):
            if not all(map(torch.equal, trained(layer, x), expected)):
                wrong.append(layer)

    threads = [threading.Thread(target=work, args=arguments) for arguments in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = _C.large_memory()
    assert not wrong
    assert found["in_use"] + found["kept"] <= 1.25 * found["most"]


def test_results_can_be_resized_and_shared() -> None:
    """Their storage behaves as that of any tensor."""
    weight, x = torch.randn(64, 16, 3, 3), torch.randn(2, 1, 64, 64, 64)
    resized, shared = (functional.conv_lstm(x, None, weight)[0] for _ in range(2))
    numbers = resized.clone()
    storage = resized.untyped_storage()
    storage.resize_(storage.nbytes() + MIB)
    assert torch.equal(resized, numbers)
    shared.share_memory_()
    assert torch.equal(shared, numbers)


def test_profiles_of_memory_show_large_blocks() -> None:
    """``profile_memory`` counts what the operator takes, new or kept."""
    layer, x = layer_and_frames()
    for _ in range(2):
        with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
            output, _ = layer(x)
        (event,) = (e for e in profile.key_averages() if e.key == "memx_fast::conv_lstm")
        assert event.self_cpu_memory_usage >= output.nbytes


def test_large_blocks_are_filled_where_pytorch_fills_its_own() -> None:
    """In its deterministic mode new memory is NaN, on which tests with poisoned buffers rely."""
    layer, x = layer_and_frames()
    filled = {}
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            with torch.profiler.profile(record_shapes=True) as profile, torch.no_grad():
                output, _ = layer(x)
        finally:
            torch.use_deterministic_algorithms(False)
        sizes = [math.prod(e.input_shapes[0]) for e in profile.events() if e.name == "aten::fill_"]
        filled[deterministic] = output.numel() in sizes
    assert filled == {False: False, True: True}


# The C library's sysconf, for a machine of which only the number of pages differs.
SMALL_MACHINE = """
#include <dlfcn.h>
#include <unistd.h>

extern "C" long sysconf(int name) {
  static const auto real = reinterpret_cast<long (*)(int)>(dlsym(RTLD_NEXT, "sysconf"));
  return name == _SC_PHYS_PAGES ? (64l << 20) / real(_SC_PAGESIZE) : real(name);
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the machine is made small as Linux allows")
def test_no_more_is_kept_than_an_eighth_of_the_machine_has(tmp_path: Path) -> None:
    """Of 64 MiB that is 8, wherever a step needs more; a block that is larger pushes out none."""
    source, library = tmp_path / "machine.cpp", tmp_path / "machine.so"
    source.write_text(SMALL_MACHINE)
    subprocess.run(("c++", "-shared", "-fPIC", "-o", str(library), str(source)), check=True)
    command = """
import torch, memx_fast
from memx_fast import _C
layer = memx_fast.ConvLSTM(1, 32, 3)
for _ in range(3):
    layer(torch.zeros(9, 1, 1, 60, 60))[0].sum().backward()
    found = _C.large_memory()
    assert found["most"] > 16 << 20, found
    assert found["kept"] <= 8 << 20, found
with torch.no_grad():
    layer(torch.zeros(9, 1, 1, 60, 60))  # 4 MiB
    kept = _C.large_memory()["kept"]
    assert 0 < kept <= 8 << 20
    layer(torch.zeros(27, 1, 1, 60, 60))  # 12 MiB
assert _C.large_memory()["kept"] == kept
"""
    small = {**os.environ, "LD_PRELOAD": str(library)}
    found = subprocess.run(
        (sys.executable, "-c", command), env=small, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def test_memory_is_given_back_where_the_system_has_too_little() -> None:
    """Kept blocks do not stand in the way of one of another size, and too large a wish is PyTorch's
    own error.
    """
    command = """
import resource, torch, memx_fast
from memx_fast import _C
layer = memx_fast.ConvLSTM(1, 32, 3).requires_grad_(False)
frames = {steps: torch.zeros(steps, 8, 1, 64, 64) for steps in (30, 40, 400)}

outputs = [layer(frames[40]) for _ in range(2)]  # 160 MiB each
del outputs
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held - (180 << 20),) * 2)
assert _C.large_memory()["kept"] > 320 << 20

layer(frames[30])  # 120 MiB: more than a block of the two, so both have to go
assert 120 << 20 < _C.large_memory()["kept"] < 160 << 20
try:
    layer(frames[400])
except RuntimeError as error:
    assert "can't allocate memory" in str(error), error
    found = _C.large_memory()
    assert found["in_use"] == found["kept"] == 0, found
else:
    raise AssertionError
"""
    found = subprocess.run((sys.executable, "-c", command), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_without_the_extension_there_is_nothing_to_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error either."""
    monkeypatch.setattr(backends, "load_extension", lambda: False)
    with torch.no_grad():
        layer, x = layer_and_frames()
        layer(x)
    before = held()
    memory.empty_cache()
    assert held() == before

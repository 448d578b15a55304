"""Conditions under which every test runs."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Threads that wait for work sleep, here and in every process that a test starts: between operators
# as small as these they would otherwise only wait, and hold the processor that others need. The
# library of threads reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

# The benchmarks are not installed. Last on the path: an installed memx_fast wins over the sources.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests start first where pytest-xdist has workers: none is left with one at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def original_torchgeo() -> Any:
    """TorchGeo's module of the ConvLSTM, which needs PyTorch alone; the package needs much more."""
    package = importlib.util.find_spec("torchgeo")
    assert package is not None, "pip install --no-deps torchgeo"
    (folder,) = package.submodule_search_locations or ()
    spec = importlib.util.spec_from_file_location(
        "torchgeo_convlstm", Path(folder) / "models" / "convlstm.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny problems, which would only wait for their threads, and long on a busy machine."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Uninitialised tensors come filled with NaN (integers: the largest value), those of C++ too.

    Whatever reads memory that nobody wrote then shows in the result. PyTorch fills only while
    deterministic algorithms are asked for, hence both switches.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill

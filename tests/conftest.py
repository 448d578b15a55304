"""Conditions under which every test runs."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# The benchmarks are not installed. Last on the path: an installed memx_fast wins over the sources.
sys.path.append(str(Path(__file__).parents[1]))


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

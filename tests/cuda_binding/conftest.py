"""Operators of the CUDA engine for tensors on the CPU, from a library that has to be named.

``tests/test_cuda_binding.py`` compiles it, with sanitizers, and runs this folder in a process of
its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memx_fast import ops  # noqa: F401, what the library registers has to be defined
from tests.operator_cases import float32_multiplied_in

LIBRARY = os.environ.get("MEMX_FAST_TEST_OPERATORS")

if LIBRARY is None:
    collect_ignore_glob = ["test_*.py"]
else:
    torch.ops.load_library(Path(LIBRARY))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """float32 means float32 unless a test says otherwise."""
    with float32_multiplied_in("ieee"):
        yield

"""The Triton kernels under Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kernels_under_the_interpreter() -> None:
    """Every test of tests/interpreted passes, and there are some.

    Whether a kernel is interpreted is decided when Triton is imported, so that one process cannot
    do both.
    """
    folder = Path(__file__).with_name("interpreted")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder))
    finished = subprocess.run(
        command, cwd=folder.parents[1], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr

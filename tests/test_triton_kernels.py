"""The Triton kernels under Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("interpreted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "settings"),
    [(FOLDER, {}), (FOLDER / "test_autotuning.py", {"MEMX_FAST_AUTOTUNE": "1"})],
    ids=["all", "autotuning"],
)
def test_kernels_under_the_interpreter(tests: Path, settings: dict[str, str]) -> None:
    """Every test of tests/interpreted passes, and there are some.

    Whether a kernel is interpreted, and whether it tries out configurations, is decided when it is
    imported, so that one process cannot do both.
    """
    usual = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "MEMX_FAST_AUTOTUNE": "0"}
    environment = {**os.environ, **usual, **settings}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests))
    finished = subprocess.run(
        command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr

"""The operators of the CUDA engine on the CPU: their tests, in a process with sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_on_host.operators import compile_operators, sanitizer_libraries

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the harness is for Linux"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_operators(tmp_path_factory.mktemp("cuda-operators"))


# Blocks are narrow where wide ones would not fill the GPU, wide on one that is small.
@pytest.mark.parametrize("multiprocessors", [132, 1])
def test_operators(multiprocessors: int, library: Path) -> None:
    """All of tests/cuda_binding passes, and no sanitizer finds anything."""
    environment = {
        **os.environ,
        "MEMX_FAST_TEST_OPERATORS": str(library),
        "MEMX_FAST_TEST_MULTIPROCESSORS": str(multiprocessors),
        "LD_PRELOAD": sanitizer_libraries(),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    finished = subprocess.run(
        (*command, "--tb=short", str(HERE / "cuda_binding")),
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-10000:] + finished.stderr[-10000:]

"""The table that decides between the engines for GPUs: how it is read, written and followed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_engines as measured
from benchmarks import results
from benchmarks.rivals import CUDA, TRITON
from memx_fast import gpu_engines
from memx_fast.gpu_engines import Measured
from tests.test_benchmarks import row

GPU = torch.device("cuda")
ROOT = Path(__file__).parents[1]

LINES = (
    Measured("9.0", "bfloat16", "forward", 1, 32, 9, 0.5),
    Measured("9.0", "bfloat16", "forward", 16, 128, 25, 2.0),
    Measured("9.0", "bfloat16", "training", 1, 32, 9, 2.0),
    Measured("8.0", "float32", "forward", 1, 32, 9, 0.5),
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines, on a GPU of capability 9.0."""
    monkeypatch.setattr(gpu_engines, "_MEASURED", LINES)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_committed_table_can_be_read() -> None:
    """Whatever lines it has."""
    for line in gpu_engines.read(gpu_engines.TABLE):
        assert line.ratio > 0
        assert line.work in ("forward", "training")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("dtype", "trains", "layer", "engine"),
    [
        (torch.bfloat16, False, (1, 32, 9), "cuda"),
        (torch.bfloat16, False, (3, 24, 9), "cuda"),
        (torch.float16, False, (1, 32, 9), "cuda"),
        (torch.bfloat16, False, (32, 256, 25), "triton"),
        (torch.bfloat16, True, (1, 32, 9), "triton"),
        (torch.float32, False, (1, 32, 9), "triton"),  # of another generation
        (torch.float64, False, (1, 32, 9), "triton"),
    ],
)
def test_most_similar_layer_decides(
    dtype: torch.dtype, trains: bool, layer: tuple[int, int, int], engine: str
) -> None:
    """Of the same type and pass on a GPU of the same generation; Triton where there is none."""
    assert gpu_engines.fastest(GPU, dtype, trains, *layer) == engine


def test_without_measurements_no_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty table is Triton."""
    monkeypatch.setattr(gpu_engines, "_MEASURED", ())
    assert gpu_engines.fastest(GPU, torch.bfloat16, False, 1, 32, 9) == "triton"


@pytest.mark.usefixtures("table")
def test_choice_is_a_constant_to_the_compiler() -> None:
    """A function that chooses compiles into one graph, with sizes that change too."""

    @torch.compile(fullgraph=True, dynamic=True, backend="eager")
    def choose(x: Tensor, weight: Tensor) -> Tensor:
        layer = x.shape[1], weight.shape[1], weight.shape[2] * weight.shape[3]
        return x + (gpu_engines.fastest(GPU, x.dtype, x.requires_grad, *layer) == "cuda")

    for batch in (2, 3):
        x = torch.zeros(batch, 1, dtype=torch.bfloat16)
        assert choose(x, torch.zeros(128, 32, 3, 3)).sum() == batch


def test_results_become_a_table(tmp_path: Path) -> None:
    """Medians of both engines give the ratio; of other GPUs the lines stay."""
    path = tmp_path / "gpu_engines.csv"
    other = Measured("8.0", "float32", "forward", 1, 32, 9, 0.75)
    stale = Measured("9.0", "float32", "forward", 8, 64, 9, 0.5)
    measured.write(path, [other, stale])
    found = tmp_path / "h200.csv"
    results.merge(
        found,
        [
            row(contender=TRITON, median_ms=4.0),
            row(contender=CUDA, median_ms=3.0),
            row(contender=TRITON, workload="radar"),  # where CUDA C++ has failed
            row(contender=TRITON, workload="moving-mnist"),  # of two layers
            row(contender=CUDA, workload="moving-mnist"),
        ],
    )
    assert measured.main([str(found), "--capability", "9.0", "--into", str(path)]) == 0
    samm = Measured("9.0", "float32", "forward", 1, 32, 9, 0.75)
    assert set(gpu_engines.read(path)) == {other, samm}


def test_results_without_both_engines_are_refused(tmp_path: Path) -> None:
    """The table that is there stays as it is."""
    found = tmp_path / "cpu.csv"
    results.merge(found, [row()])
    table = tmp_path / "gpu_engines.csv"
    measured.write(table, LINES)
    with pytest.raises(ValueError, match="no workload on which both"):
        measured.main([str(found), "--capability", "9.0", "--into", str(table)])
    assert gpu_engines.read(table) == tuple(sorted(LINES))


ELSEWHERE = ("cv2", "flax", "jax", "keras", "onnx", "openpyxl", "safetensors", "sklearn", "tqdm")
RUN_BY_GPU_SH = (
    *("memx_fast.info", "tests.test_gpu", "benchmarks.conftest", "benchmarks.test_workloads"),
    *("benchmarks.report", "benchmarks.gpu_engines", "benchmarks.ablation"),
)


def test_machines_with_gpus_need_no_package_of_the_laboratory() -> None:
    """benchmarks/gpu.sh installs nothing: PyTorch, pytest and matplotlib have to be enough."""
    program = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({ELSEWHERE!r}))
for name in {RUN_BY_GPU_SH!r}:
    importlib.import_module(name)
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        (sys.executable, "-c", program),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr

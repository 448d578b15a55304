"""The table that decides between the engines for GPUs: how it is read, written and followed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import ablation
from benchmarks import gpu_engines as measured
from benchmarks.workloads import WORKLOADS
from memx_fast import backends, gpu_engines, info
from memx_fast.gpu_engines import Measured

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


@pytest.mark.usefixtures("table")
def test_info_names_all_that_auto_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines where each was faster for some layer; with nothing measured, Triton alone."""
    monkeypatch.setattr(backends, "has_both_for_gpus", lambda device: device.type == "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")

    def engines() -> dict[str, str]:
        return {device["device"]: device["backend"] for device in info._devices()}

    assert engines() == {"cpu": "cpp", "cuda:0": "triton or cuda"}
    monkeypatch.setattr(gpu_engines, "_MEASURED", ())
    assert engines()["cuda:0"] == "triton"


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


def line(workload: str, variant: str, ratio: float) -> ablation.Line:
    return ablation.Line("H200", workload, "float32", "forward", variant, 7, 3 * ratio, ratio)


def test_ablations_become_a_table(tmp_path: Path) -> None:
    """An ablation has the ratio of Triton to CUDA C++; of other GPUs the lines stay."""
    path = tmp_path / "gpu_engines.csv"
    other = Measured("8.0", "float32", "forward", 1, 32, 9, 0.75)
    stale = Measured("9.0", "float32", "forward", 8, 64, 9, 0.5)
    measured.write(path, [other, stale])
    found = [tmp_path / "samm.csv", tmp_path / "others.csv"]
    ablation.write(
        found[0],
        [
            line("samm", ablation.BEST, 1.0),
            line("samm", ablation.TRITON, 1.25),
            line("samm", "no TF32", 2.0),
        ],
    )
    ablation.write(
        found[1],
        [
            line("radar", ablation.BEST, 1.0),
            line("radar", ablation.TRITON, 0.5),
            line("moving-mnist", ablation.TRITON, 1.25),  # of two layers
        ],
    )
    assert measured.main([*map(str, found), "--capability", "9.0", "--into", str(path)]) == 0
    samm = Measured("9.0", "float32", "forward", 1, 32, 9, 0.8)
    radar = Measured("9.0", "float32", "forward", 8, 64, 9, 2.0)
    assert set(gpu_engines.read(path)) == {other, samm, radar}


def test_ablations_without_both_engines_are_refused(tmp_path: Path) -> None:
    """The table that is there stays as it is."""
    found = tmp_path / "cpu.csv"
    ablation.write(found, [line("samm", ablation.BEST, 1.0)])
    table = tmp_path / "gpu_engines.csv"
    measured.write(table, LINES)
    with pytest.raises(ValueError, match=r"cpu\.csv, expected one on which both"):
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


# Stands in for the interpreter: notes what it is asked for, and fails at what FAILING names.
INTERPRETER = """#!/bin/sh
case "$*" in
    *get_device_capability*) echo 9.0 ;;
    *"pip install"*) mkdir -p build/gpu/memx_fast ;;
esac
line=$(echo "$*" | tr '\\n' ' ')
echo "$line" >>calls
[ -n "$FAILING" ] && case "$*" in *"$FAILING"*) exit 1 ;; esac
exit 0
"""


@pytest.fixture
def gpu_sh(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a copy of benchmarks/gpu.sh with that interpreter, whose calls are in the file calls."""
    (tmp_path / "benchmarks").mkdir()
    script = tmp_path / "benchmarks" / "gpu.sh"
    script.write_text((ROOT / "benchmarks" / "gpu.sh").read_text())
    interpreter = tmp_path / "python3"
    interpreter.write_text(INTERPRETER)
    interpreter.chmod(0o755)

    def run(failing: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHON": str(interpreter), "FAILING": failing}
        command = ("sh", str(script), str(tmp_path / "out"))
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    return run


def test_gpu_sh_proves_and_measures_both_engines(
    gpu_sh: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Tests of both, every workload compiled for before it is measured, and the table."""
    ran = gpu_sh()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    for engine in ("-k cuda", "-k not cuda"):
        assert sum(f"pytest -m gpu {engine}" in call for call in calls) == 1
    ablated = [
        call.split("-m benchmarks.ablation ")[1].split(" --")[0].split()
        for call in calls
        if "-m benchmarks.ablation" in call
    ]
    names = sorted(workload.name for workload in WORKLOADS)
    assert sorted(ablated[:-1]) == [[name] for name in names]  # compiled for, at once
    assert sorted(ablated[-1]) == names
    (table,) = (n for n, call in enumerate(calls) if "-m benchmarks.gpu_engines" in call)
    assert all("ablation" not in call for call in calls[table + 1 :])
    assert any("-k [samm- and bfloat16" in call for call in calls[table + 1 :])
    assert "FAILED" not in ran.stdout


@pytest.mark.parametrize("step", ["memx_fast.info", "-k not cuda", "benchmarks.ablation radar"])
def test_gpu_sh_goes_on_and_fails_at_the_end(
    step: str, gpu_sh: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Whatever fails, beside the others or after them: all else is measured, the status tells."""
    ran = gpu_sh(failing=step)
    assert ran.returncode == 1
    assert "FAILED" in ran.stdout
    assert "-m benchmarks.gpu_engines" in (tmp_path / "calls").read_text()


def test_gpu_sh_needs_a_gpu(gpu_sh: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """It says what is missing, and starts nothing."""
    ran = gpu_sh(failing="is_available")
    assert ran.returncode == 1
    assert "sees no GPU" in ran.stderr
    assert not ran.stdout

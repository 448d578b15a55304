"""The benchmark suite measures what it says: checks, rounds, memory, results and report."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import ablation, contest, machine, memory, report, results
from benchmarks.contest import Effort, Entry
from benchmarks.machine import Machine
from benchmarks.results import Circumstances, Row
from benchmarks.rivals import CONTENDERS, CUDA, TRITON, Contender, contender_named
from benchmarks.test_workloads import Contest
from benchmarks.workloads import PASSES, WORKLOADS, Problem, Workload, workload_named
from memx_fast import _C, backends
from memx_fast.backends import Backend

ROOT = Path(__file__).parents[1]
BRIEF = Effort(rounds=3, seconds=0.0, preparation=60.0)
TINY = Workload("tiny", 2, 3, 3, (8, 8), 6, 7, 3, "tests", peephole="spatial")
TINY_STREAM = replace(TINY, time=1, peephole=None, kernel_size=5, carries_state=True)
IN_PYTORCH = [one for one in CONTENDERS if not one.compiled and "cpu" in one.devices]

MACHINE = Machine("Some CPU, 2 threads", {"float32": 1e11, "bfloat16": 4e11}, 1e10)
AT = Circumstances(MACHINE, "2.13.0", "2026-01-01", False, TINY, "forward", "float32")


class WrongRunner:
    """The right result of another contender, but for one number in the output."""

    def __init__(self, problem: Problem, dtype: str) -> None:
        self.right = contender_named("eager").build(problem, dtype)

    def forward(self) -> torch.Tensor:
        output = self.right.forward()
        output[0, 0, 0, 0, 0] += 0.1
        return output

    def training(self) -> torch.Tensor:
        return self.right.training()

    def gradients(self, grad_output: torch.Tensor) -> list[torch.Tensor]:
        gradients = self.right.gradients(grad_output)
        gradients[0][0, 0, 0, 0] += 1.0
        return gradients


class NotingRunner(WrongRunner):
    """Notes its name when it is called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def forward(self) -> torch.Tensor:
        self.calls.append(self.name)
        return torch.zeros(())


def slow_build(problem: Problem, dtype: str) -> WrongRunner:
    time.sleep(5)
    return WrongRunner(problem, dtype)


def row(**changes: object) -> Row:
    """A line of the results, by default the one of memx_fast on a real workload."""
    entry = Entry(contender_named("memx_fast"), error=1e-7, times=[0.01, 0.02, 0.03])
    at = replace(AT, workload=workload_named("samm"))
    return replace(results.row_of(entry, entry, at, peak_bytes=3 * 2**20), **changes)


@pytest.mark.parametrize("workload", [TINY, TINY_STREAM], ids=["peephole", "stream"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("work", ["forward", "training"])
def test_every_contender_in_pytorch_computes_the_same(
    workload: Workload, work: str, dtype: str
) -> None:
    """Two layers, odd sizes, given states: each passes the check and is timed once a round."""
    entries = contest.hold(workload, work, dtype, IN_PYTORCH, BRIEF)
    expected = [one.name for one in IN_PYTORCH if work in one.passes]
    assert [entry.contender.name for entry in entries] == expected
    for entry in entries:
        assert (entry.absent, entry.failure) == (None, None), entry.contender.name
        assert len(entry.times) == BRIEF.rounds


@pytest.mark.slow
@pytest.mark.parametrize("work", ["forward", "training"])
def test_compiled_contenders_compute_the_same(work: str) -> None:
    """torch.compile takes the loops as one graph, and its results pass the check."""
    compiled = [contender_named("compiled eager"), contender_named("compiled batched input")]
    effort = replace(BRIEF, preparation=300.0)
    for entry in contest.hold(TINY_STREAM, work, "float32", compiled, effort):
        assert (entry.absent, entry.failure) == (None, None), entry.contender.name


@pytest.mark.parametrize("work", ["forward", "training"])
def test_wrong_results_are_not_timed(work: str) -> None:
    """One wrong number in the output, or in one gradient, is a failure that states the error."""
    wrong = Contender("wrong", "", WrongRunner)
    wrong_entry, right_entry = contest.hold(
        TINY, work, "float32", [wrong, contender_named("eager")], BRIEF
    )
    assert wrong_entry.failure is not None
    assert "relative error" in wrong_entry.failure
    assert wrong_entry.times == []
    assert right_entry.failure is None
    assert len(right_entry.times) == BRIEF.rounds


def test_slow_preparation_is_cut_short() -> None:
    """A contender that is not ready in time is left out with that reason; the others go on."""
    slow = Contender("slow", "", slow_build)
    effort = replace(BRIEF, preparation=0.2)
    (entry,) = contest.hold(TINY, "forward", "float32", [slow], effort)
    assert entry.absent == "not ready after 0 s"
    assert entry.times == []


def test_missing_package_is_the_reason() -> None:
    """A contender that is not installed has the reason in its entry, and is never built."""
    gone = Contender("gone", "", slow_build, missing=lambda: "jax not installed")
    (entry,) = contest.hold(TINY, "forward", "float32", [gone], BRIEF)
    assert entry.absent == "jax not installed"


def test_contenders_of_another_device_stay_away() -> None:
    """On the CPU nothing starts that needs a GPU, and the other way round."""
    on_gpu = Contender("graph", "", slow_build, devices=("cuda",))
    assert contest.hold(TINY, "forward", "float32", [on_gpu], BRIEF) == []
    only_there = {one.name for one in CONTENDERS if "cpu" not in one.devices}
    assert only_there >= {"memx_fast, graph", "eager channels_last, graph", "fused cell, graph"}
    assert only_there >= {TRITON, CUDA}
    assert {one.name for one in CONTENDERS if "cuda" not in one.devices} == {"flax", "keras"}


@pytest.mark.parametrize("name", [TRITON, CUDA])
def test_engines_that_are_missing_say_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contender of an engine is left out with the engine's own reason."""
    engine = {TRITON: "triton", CUDA: "cuda"}[name]
    reasons = (
        Backend("triton", engine != "triton", "no triton"),
        Backend("cuda", engine != "cuda", "no cuda"),
    )
    monkeypatch.setattr(backends, "available", lambda: reasons)
    assert contender_named(name).missing() == f"no {engine}"
    assert contender_named(CUDA if name == TRITON else TRITON).missing() is None


def test_ablation_on_a_gpu_names_its_engines() -> None:
    """Everything on is CUDA C++; no line leaves the engine to the table that it may decide on."""
    found = ablation.variants("cuda")
    assert [found[0].name, found[0].backend] == ["all optimisations", "cuda"]
    assert {variant.backend for variant in found} == {"cuda", "triton"}


def test_rounds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round times everyone once, after a pass that is not timed, and not in one order."""
    monkeypatch.setattr(contest, "SETTLING", 0.0)
    calls: list[str] = []
    entries = [Entry(Contender(name, "", NotingRunner)) for name in "abc"]
    runners = [(entry, NotingRunner(entry.contender.name, calls)) for entry in entries]
    contest.time_rounds(runners, "forward", replace(BRIEF, rounds=8))
    rounds = ["".join(calls[first : first + 6]) for first in range(0, len(calls), 6)]
    assert len(rounds) == 8
    assert all(sorted(passes) == list("aabbcc") for passes in rounds)
    assert all(passes[0::2] == passes[1::2] for passes in rounds)
    assert len(set(rounds)) > 2
    assert [len(entry.times) for entry in entries] == [8, 8, 8]


def test_short_passes_are_repeated_before_one_is_timed() -> None:
    """What takes a millisecond has found its pace by then."""
    calls: list[str] = []
    entry = Entry(Contender("a", "", NotingRunner))
    contest.time_rounds([(entry, NotingRunner("a", calls))], "forward", replace(BRIEF, rounds=1))
    assert len(calls) > 10
    assert len(entry.times) == 1


def test_operations_of_a_workload() -> None:
    """One convolution product is two operations; the first layer's input needs no gradient."""
    workload = Workload("w", 1, 1, 2, (3,), 5, 7, 3, "tests")
    forward_input = 2 * 5 * 7 * (4 * 3) * 9 * 2
    forward_hidden = 2 * 5 * 7 * (4 * 3) * 9 * 3
    assert workload.operations("forward") == forward_input + forward_hidden
    assert workload.operations("training") == 2 * forward_input + 3 * forward_hidden
    stacked = replace(workload, hidden_channels=(3, 3))
    second = 3 * forward_hidden + 3 * forward_hidden
    assert stacked.operations("training") == workload.operations("training") + second


def test_list_of_workloads_is_complete() -> None:
    """The names that results are filed under do not change silently."""
    names = [
        "samm",
        "samm1",
        "moving-mnist",
        "openstl",
        "radar",
        "satellite",
        "streaming",
        "pointwise",
    ]
    assert [workload.name for workload in WORKLOADS] == names
    with pytest.raises(ValueError, match="got 'mnist', expected one of samm, samm1, moving-mnist"):
        workload_named("mnist")


def test_peak_memory_counts_what_is_freed_again() -> None:
    """A block that a call allocates and frees is in the peak; what was there before is not."""
    kept = torch.ones(16 * 2**20)
    peak = memory.peak_of(lambda: torch.ones(8 * 2**20).sum() + kept.sum())
    assert 31 <= peak / 2**20 < 36


@pytest.mark.parametrize("contender", ["eager", "memx_fast"])
def test_peak_memory_of_a_contender_in_a_fresh_process(contender: str) -> None:
    """A training step keeps at least the states of all steps: that much is found, in bytes.

    Whatever a contender keeps from the step before counts as well.
    """
    quick = workload_named("streaming").quick()
    peak = memory.measure(quick, contender, "float32", "training", quick=True, limit=120)
    assert peak is not None
    assert peak >= 4 * (64 * 64 * 64) * 6  # six tensors of the size of one state, float32


def test_row_compares_round_by_round() -> None:
    """Ratios pair the times of one round, so drift that hits both sides cancels."""
    ours = Entry(contender_named("memx_fast"), error=1e-7, times=[0.1, 0.2, 0.4])
    theirs = Entry(contender_named("eager"), error=1e-7, times=[0.2, 0.4, 0.8])
    line = results.row_of(theirs, ours, AT, peak_bytes=None)
    assert (line.ratio_p20, line.ratio, line.ratio_p80) == pytest.approx((2, 2, 2))
    assert line.median_ms == pytest.approx(400)
    rate = TINY.operations("forward") / 0.4
    assert line.gflops == pytest.approx(rate / 1e9)
    assert line.gemm_share == pytest.approx(rate / 1e11)
    assert line.peak_mib is None
    assert not line.peephole
    assert results.row_of(ours, None, AT, None).ratio is None


def test_new_results_replace_only_what_they_measured(tmp_path: Path) -> None:
    """The CSV keeps the lines of other workloads, in the suite's order, and nothing else beside."""
    path = tmp_path / "cpu.csv"
    radar = row(workload="radar", ratio=None, peak_mib=None)
    results.merge(path, [radar, row(median_ms=5.0)])
    results.merge(path, [row(median_ms=7.0)])
    samm, kept = results.read(path)
    assert (samm.workload, samm.median_ms) == ("samm", 7.0)
    assert (kept.workload, kept.ratio, kept.peak_mib) == ("radar", None, None)
    assert (samm.quick, samm.peephole, samm.rounds) == (False, True, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.csv"]


def test_tables_name_the_best_rival() -> None:
    """The line of a workload has our time, the popular loop's ratio and the strongest rival's."""
    rows = [
        row(),
        row(contender="eager", ratio=3.0, peephole=False, peak_mib=30.0),
        row(contender="compiled eager", ratio=2.0, peephole=False),
        row(contender="memx_fast recompute=1", ratio=1.1),
    ]
    text = report.markdown(rows)
    (line,) = [line for line in text.splitlines() if line.startswith("| samm ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "20 (14 to 26)"
    assert cells[3:] == ["3.00", "2.00, compiled eager", "3", "30"]
    assert "On samm, memx_fast alone computes a peephole" in text
    assert "2.00" in report.text_table(rows).splitlines()[-1]


def test_quick_results_stay_apart(tmp_path: Path) -> None:
    """An impression never overwrites a result, and says what it is."""
    full = report.write([row()], tmp_path)
    quick = report.write([row(quick=True)], tmp_path)
    assert [path.name for path in full] == [
        f"some-cpu-2-threads.{end}" for end in ("csv", "md", "png")
    ]
    assert not set(full) & set(quick)
    assert "impression" in quick[1].read_text()
    assert "impression" not in full[1].read_text()
    assert full[2].read_bytes().startswith(b"\x89PNG")


def test_report_refuses_results_of_another_suite(tmp_path: Path) -> None:
    """A JSON file without a line of ours is an error that says what to run."""
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"benchmarks": [{"extra_info": {}}]}))
    with pytest.raises(ValueError, match="run pytest benchmarks"):
        report.load(path)


@pytest.mark.slow
def test_suite_from_measurement_to_files(tmp_path: Path) -> None:
    """pytest benchmarks prints its table and writes JSON, of which the report makes its files.

    What pytest-benchmark shows is what was measured: the playback keeps the times.
    """
    measured = tmp_path / "measured.json"
    suite = [sys.executable, "-m", "pytest", "benchmarks", "--quick", "-p", "no:cacheprovider"]
    chosen = ["-k", "streaming and forward and float32", f"--benchmark-json={measured}"]
    # pytest-benchmark measures nothing in a worker of pytest-xdist, which this process may be.
    alone = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    run = subprocess.run(suite + chosen, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "streaming, forward, float32" in run.stdout
    for one in json.loads(measured.read_text())["benchmarks"]:
        median = one["extra_info"]["median_ms"] / 1e3
        assert one["stats"]["median"] == pytest.approx(median, rel=1e-6)
        assert one["stats"]["rounds"] == one["extra_info"]["rounds"]
    made = tmp_path / "results"
    command = [sys.executable, "-m", "benchmarks.report", measured, "--into", made]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True)
    assert sorted(path.suffix for path in made.iterdir()) == [".csv", ".md", ".png"]
    (table,) = made.glob("*.csv")
    assert {line.contender for line in results.read(table)} == {
        "memx_fast",
        "eager",
        "eager channels_last",
        "eager batched input",
    }


def test_contests_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """--uncompiled leaves out all that torch.compile prepares; those entries have the reason."""
    asked = []
    monkeypatch.setattr(contest, "hold", lambda *arguments: asked.append(arguments) or [])
    monkeypatch.setattr(machine, "measure", lambda device: MACHINE)
    effort = Effort(rounds=5, seconds=2.0, preparation=40.0)
    held = Contest(TINY, "forward", "float32", "cpu", effort, compiled=False)
    ((_, _, _, contenders, given, _),) = asked
    assert given == effort
    assert not held.quick
    left_out = [one for one in CONTENDERS if one not in contenders]
    assert left_out == [one for one in CONTENDERS if one.compiled]
    assert held.entry(left_out[0]).absent == "nothing is compiled in this run"


def test_ablation_switches_one_thing_at_a_time(tmp_path: Path) -> None:
    """Every variant is measured against everything on; afterwards the settings are as before."""
    in_use = _C.instruction_set()
    lines = [line for work in PASSES for line in ablation.measure(TINY, "float32", work, rounds=2)]
    assert _C.instruction_set() == in_use
    names = {work: [line.variant for line in lines if line.work == work] for work in PASSES}
    assert {"direct convolution, no Winograd", "step by step, no strips"} <= set(names["forward"])
    assert set(names["training"]) - set(names["forward"]) == {
        "gates of all steps kept",
        "gates of no step kept",
    }
    assert all(line.rounds == 2 and line.median_ms > 0 for line in lines)
    assert [line.ratio for line in lines if line.variant == "all optimisations"] == [1, 1]
    table = ablation.markdown(lines).splitlines()
    assert table[0] == "| time, relative | tiny, float32, forward | tiny, float32, training |"
    assert len(table) == 2 + len(names["training"])
    ablation.write(tmp_path / "ablation.csv", lines)
    assert len((tmp_path / "ablation.csv").read_text().splitlines()) == 1 + len(lines)

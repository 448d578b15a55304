"""``train-samm compare``: one report of many methods, however many processes compute it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memx_fast import train_samm
from memx_fast.samm import bootstrap, cache, checkpoints, folds, workers
from memx_fast.samm.commands import compare, shared
from memx_fast.samm.comparison import Job, carry_out, entries
from memx_fast.samm.methods import METHODS
from memx_fast.samm.metrics import score
from memx_fast.samm.ranks import Ranks

ROOT = Path(__file__).parents[1]
OUTPUT = ("report.html", "report.json", "scores.csv")
SMALL = (
    *("--frame-size", "120x96", "--no-crop", "--folds", "2", "--epochs", "2"),
    *("--set", "convlstm.size=12", "--set", "convlstm.frames=3"),
    *("--set", "lbp-top.size=24", "--set", "apex-cnn.size=24", "--set", "off-apexnet.size=24"),
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the built-in data is drawn, once."""
    return tmp_path_factory.mktemp("cache")


def words(cache_dir: Path, out: Path, *options: str) -> list[str]:
    return ["compare", "--cache-dir", str(cache_dir), "--out", str(out), *SMALL, *options]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUT}


@pytest.fixture(scope="module")
def compared(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three methods by two processes, and of one change."""
    out = tmp_path_factory.mktemp("runs") / "compared"
    options = ("--methods", "convlstm", "lbp-top", "off-apexnet", "--workers", "2")
    assert train_samm.main(words(cache_dir, out, *options)) == 0
    return out


def test_figures_are_those_of_the_predictions(compared: Path) -> None:
    """Every clip is judged once; scores, subjects, CSV and page come from the same predictions."""
    facts = json.loads((compared / "report.json").read_text())
    (task,) = facts["tasks"]
    assert [entry["name"] for entry in task["entries"]] == ["convlstm", "lbp-top", "off-apexnet"]
    rows = {row["entry"]: row for row in csv.DictReader((compared / "scores.csv").open())}
    page = (compared / "report.html").read_text()
    for entry in task["entries"]:
        predictions = entry["predictions"]
        assert len({line["clip"] for line in predictions}) == len(predictions) == 133
        truth = np.array([line["label"] for line in predictions])
        predicted = np.array([np.argmax(line["probabilities"]) for line in predictions])
        found = score(truth, predicted)
        assert entry["scores"]["uar"] == found.uar
        assert entry["scores"]["weighted_f1"] == found.weighted_f1
        assert np.sum(entry["confusion"]) == 133
        assert np.trace(entry["confusion"]) == (truth == predicted).sum()
        right = sum(person["right"] for person in entry["subjects"].values())
        assert right == (truth == predicted).sum()
        assert float(rows[entry["name"]]["uar"]) == pytest.approx(found.uar, abs=1e-6)
        limits = entry["intervals"]["uar"]
        assert limits["low"] <= found.uar <= limits["high"]
        assert f"<b>{100 * found.uar:.2f}</b>" in page
    assert task["majority"]["scores"]["uar"] == pytest.approx(1 / 3)
    assert float(rows["majority"]["accuracy"]) == pytest.approx(92 / 133, abs=1e-6)
    assert task["entries"][0]["parameters"] == 38144 + 32 * 81 * 48 + 48 + 48 * 3 + 3
    assert len(facts["defects"]) == 2
    assert facts["caveats"] == []
    assert '"seconds"' not in (compared / "report.json").read_text()


def test_cards_say_data_and_scores(compared: Path) -> None:
    """What each checkpoint was trained on, and how it does on the test clips of its fold."""
    facts = json.loads((compared / "report.json").read_text())
    (task,) = facts["tasks"]
    for entry in task["entries"]:
        for number in (1, 2):
            path = compared / "3-classes" / entry["name"] / f"fold-{number}.safetensors"
            _, card = checkpoints.read(path)
            assert card.data == facts["data"] == "built-in drawn faces, motion 1"
            tested = [line for line in entry["predictions"] if line["fold"] == number]
            right = [np.argmax(line["probabilities"]) == line["label"] for line in tested]
            assert card.test["clips"] == len(tested)
            assert card.test["accuracy"] == pytest.approx(np.mean(right))


def test_composite_study(cache_dir: Path, tmp_path: Path) -> None:
    """Two data sets: UF1 and UAR of each beside those of all; nothing of the paper about them."""
    out = tmp_path / "composite"
    for name in ("casme2", "smic"):
        drawn = ("--dataset", name, "--methods", "majority", "--protocol", "loso")
        assert train_samm.main(words(cache_dir, tmp_path / name, *drawn)) == 0
    folders = [str(next(cache_dir.glob(f"built-in-{name}-*"))) for name in ("casme2", "smic")]
    assert train_samm.main(words(cache_dir, out, "--data", *folders, "--methods", "lbp-top")) == 0
    (task,) = json.loads((out / "report.json").read_text())["tasks"]
    assert task["published"] == []
    parts = task["entries"][0]["megc_2019"]
    assert set(parts) == {"all data sets", "casme2", "smic"}
    page = (out / "report.html").read_text()
    scores = parts["all data sets"]["scores"]
    assert f"{100 * scores['uf1']:.2f} / {100 * scores['uar']:.2f}" in page
    assert "one subject left out" in page
    assert "paper: accuracy" not in page
    assert "Table" not in page


def test_same_bytes_from_one_process(compared: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Neither the number of processes nor what the cache holds changes a byte of the report."""
    out = tmp_path / "again"
    options = ("--methods", "convlstm", "lbp-top", "off-apexnet", "--workers", "1")
    fresh = tmp_path / "cache"
    shutil.copytree(cache_dir, fresh, ignore=shutil.ignore_patterns("*.flow"))
    assert train_samm.main(words(fresh, out, *options)) == 0
    assert contents(out) == contents(compared)
    assert train_samm.main(words(fresh, out, *options)) == 0  # finished: nothing is trained
    assert contents(out) == contents(compared)


def test_torchrun_shares_folds(compared: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Two processes of torchrun, each with half of the folds, write the same report."""
    out = tmp_path / "ranks"
    torchrun(words(cache_dir, out, "--methods", "convlstm", "lbp-top", "off-apexnet"))
    assert contents(out) == contents(compared)


@pytest.mark.slow
def test_torchrun_shares_batches(compared: Path, cache_dir: Path, tmp_path: Path) -> None:
    """With --ddp both processes do every fold together: what has no batches stays the same, and
    the same command gives the same bytes.
    """
    out, again = tmp_path / "ddp", tmp_path / "again"
    for folder in (out, again):
        torchrun(words(cache_dir, folder, "--methods", "convlstm", "lbp-top", "--ddp"))
    assert contents(again) == contents(out)
    alone, together = (
        {entry["name"]: entry for entry in facts["tasks"][0]["entries"]}
        for facts in (json.loads((place / "report.json").read_text()) for place in (compared, out))
    )
    assert together["lbp-top"]["predictions"] == alone["lbp-top"]["predictions"]
    for ours, theirs in zip(together["convlstm"]["folds"], alone["convlstm"]["folds"], strict=True):
        losses = [epoch["validation_loss"] for epoch in ours["history"]]
        # Dropout draws other numbers in each process; the course of the losses is the same.
        assert losses == pytest.approx([e["validation_loss"] for e in theirs["history"]], rel=0.05)


def torchrun(arguments: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "memx_fast.train_samm", *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr


def test_methods_can_be_added(
    cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder keeps what it compares; other settings are refused, and nothing is touched."""
    out = tmp_path / "grown"
    assert train_samm.main(words(cache_dir, out, "--methods", "majority")) == 0
    assert train_samm.main(words(cache_dir, out, "--methods", "lbp-top")) == 0
    names = [
        e["name"] for e in json.loads((out / "report.json").read_text())["tasks"][0]["entries"]
    ]
    assert names == ["lbp-top", "majority"]
    before = contents(out)
    capsys.readouterr()
    for options, message in (
        (("--methods", "lbp-top", "--set", "lbp-top.blocks=3"), "settings of lbp-top"),
        (("--methods", "majority", "--seed", "1"), "differs in seed"),
    ):
        assert train_samm.main(words(cache_dir, out, *options)) == 1
        assert message in capsys.readouterr().err
        assert contents(out) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert train_samm.main(words(cache_dir, foreign, "--methods", "majority")) == 1
    assert "is no comparison" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "convlstn"), "methods: got 'convlstn', expected all, or convlstm, lbp-top"),
        (("--set", "size=3"), "set: got 'size', expected METHOD.NAME=VALUE"),
        (("--set", "lbp-top.size=x"), "size: got 'x', expected a whole number"),
        (("--set", "lbp-top.colour=1"), "colour: lbp-top has no such setting"),
        (("--workers", "0"), "workers: got 0, expected at least 1"),
        (("--ddp",), "use torchrun"),
        (("--folds", "1"), "folds: got 1 for 28 subjects"),
    ],
)
def test_wrong_options_are_named(
    cache_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    """What is wrong is said in one line, before anything is written."""
    out = tmp_path / "out"
    assert train_samm.main(words(cache_dir, out, *options)) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_as_many_processes_as_there_are_cores_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that this process may use, however many there are; or as many as are asked for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 5}, raising=False)
    for options, count in (([], 3), (["--workers", "8"], 8)):
        assert compare._processes(compare.parser().parse_args(options)) == count


def test_paper_like_says_so_everywhere(
    cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen, on the page, in JSON, in every line of the CSV; more clips than there are."""
    out = tmp_path / "inflated"
    options = ("--protocol", "paper-like", "--methods", "lbp-top")
    assert train_samm.main(words(cache_dir, out, *options)) == 0
    (sentence,) = folds.caveats("paper-like")
    assert sentence in capsys.readouterr().out
    assert f'<p class="caveat">{sentence}</p>' in (out / "report.html").read_text()
    facts = json.loads((out / "report.json").read_text())
    assert facts["caveats"] == [sentence]
    assert facts["tasks"][0]["entries"][0]["scores"]["clips"] > 133
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [row["protocol"] for row in rows] == ["paper-like"] * 2


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """It names every method."""
    with pytest.raises(SystemExit) as ended:
        train_samm.main(["compare", "--help"])
    assert ended.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert f"{name} ({method.title})".replace(" ", "") in shown


def test_interrupted_comparison_goes_on(cache_dir: Path, tmp_path: Path, compared: Path) -> None:
    """Ctrl-C after the first fold: it stays, and the same command ends in the same report."""
    out = tmp_path / "pieces"
    options = words(cache_dir, out, "--methods", "convlstm", "lbp-top", "off-apexnet")
    comparison = compare.planned(compare.parser().parse_args(options[1:]), Ranks())
    with shared.warnings_once():
        comparison.open()

    def interrupt(job: Job) -> None:
        if job.fold:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(comparison, Ranks(), 1, interrupt)
    assert len(comparison.jobs()) == 5
    assert not (out / "report.html").exists()
    assert train_samm.main(options) == 0
    assert contents(out) == contents(compared)


def test_every_ablation_changes_one_thing() -> None:
    """Seven networks beside the paper's; each is valid, and has a folder of its own."""
    lines = entries(["convlstm"], {"convlstm": {"size": "12"}}, ablate=True)
    assert len({line.name for line in lines}) == len(lines) == 8
    for line in lines[1:]:
        method = METHODS["convlstm"]
        changed = {**line.settings}
        assert changed.pop("size") == "12"
        defaults = vars(method.Settings())
        assert all(defaults[name] != value for name, value in changed.items())
        method.Settings(**changed)


def test_shares_of_features_are_all_of_them(cache_dir: Path, tmp_path: Path) -> None:
    """Preparing in shares leaves in the cache just what fitting needs, once."""
    own = tmp_path / "cache"
    shutil.copytree(cache_dir, own, ignore=shutil.ignore_patterns("*.flow"))
    options = words(own, tmp_path / "out", "--methods", "off-apexnet", "lbp-top")
    comparison = compare.planned(compare.parser().parse_args(options[1:]), Ranks())
    comparison.open()
    jobs = comparison.preparations(comparison.jobs(), 3)
    assert [(job.entry, job.share) for job in jobs] == [("off-apexnet", n) for n in range(3)]
    for job in jobs:
        comparison(job)
    kept = sorted(own.glob("*.flow"))
    assert len(kept) == 133
    comparison(Job(3, "off-apexnet", 1))
    assert sorted(own.glob("*.flow")) == kept


def _double(job: int) -> None:
    Path(f"{job}.done").write_text(str(job))
    if job == 3:
        raise ValueError("three is refused")
    if job == 4:
        os._exit(7)


def test_failing_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error names the job; a process that dies is noticed; all else has been done."""
    monkeypatch.chdir(tmp_path)
    done: list[int] = []
    workers.spread(_double, [1, 2], 2, done.append)
    assert sorted(done) == [1, 2]
    with pytest.raises(RuntimeError, match="3: three is refused") as caught:
        workers.spread(_double, [1, 3, 2], 1)
    assert "in _double" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match=r"a worker process died \(exit status 7;"):
        workers.spread(_double, [4], 1)
    assert not (tmp_path / "5.done").exists()
    workers.spread(_double, [], 2)


FAULTS = """
import resource
import sys
import torch
from memx_fast.samm import workers

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(16_000_000) for _ in range(4)]  # 64 MB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    workers.compute_alone()
first, *_, last = (faults_of_a_step() for _ in range(8))
print(first, last)
"""


def test_memory_is_used_again() -> None:
    """What some steps of training have freed, later ones take: no page is cleared for them."""
    faults = {}
    for kind in ("usual", "kept"):
        shown = subprocess.run(
            [sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True
        ).stdout
        faults[kind] = tuple(map(int, shown.split()))
    first, last = faults["kept"]
    assert last < first / 20, faults
    assert last < faults["usual"][1] / 20, faults


def _sleep(job: int) -> None:
    Path(f"{job}.pid").write_text(str(os.getpid()))
    time.sleep(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_who_started_them(tmp_path: Path, number: signal.Signals) -> None:
    """Also in the middle of a job, and when there was no time to end them."""
    code = "from memx_fast.samm import workers; from tests import test_samm_compare as tests; "
    code += "workers.spread(tests._sleep, [1, 2], 2)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    started = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    files = [tmp_path / f"{job}.pid" for job in (1, 2)]
    assert _comes(lambda: all(file.is_file() and file.read_text() for file in files))
    started.send_signal(number)
    started.wait()
    places = [Path("/proc") / file.read_text() for file in files]
    assert _comes(lambda: not any(place.exists() for place in places))


def _comes(happened: Callable[[], bool]) -> bool:
    """Whether something happens within a minute."""
    end = time.monotonic() + 60
    while not happened() and time.monotonic() < end:
        time.sleep(0.1)
    return happened()


def test_intervals_are_those_of_drawn_people() -> None:
    """Beside people drawn one by one and judged by the usual scores."""
    random = np.random.default_rng(5)
    subjects = random.integers(0, 9, 80).astype(str)
    truth = random.integers(0, 3, 80)
    predicted = np.where(random.random(80) < 0.5, truth, random.integers(0, 3, 80))
    people = np.unique(subjects)
    shares = np.full(len(people), 1 / len(people))
    times = np.random.default_rng(2).multinomial(len(people), shares, size=bootstrap.DRAWS)
    drawn = []
    for counts in times[:200]:
        clips = np.concatenate(
            [np.tile(np.flatnonzero(subjects == p), n) for p, n in zip(people, counts, strict=True)]
        ).astype(int)
        drawn.append(score(truth[clips], predicted[clips]))
    found = bootstrap._figures(
        np.stack(
            [
                sum(
                    n * bootstrap.confusion(truth[subjects == p], predicted[subjects == p], 3)
                    for p, n in zip(people, counts, strict=True)
                )
                for counts in times[:200]
            ]
        )
    )
    for name, values in found.items():
        np.testing.assert_allclose(values, [getattr(line, name) for line in drawn], rtol=1e-12)
    limits = bootstrap.intervals(subjects, truth, predicted, 3, seed=2)
    own = score(truth, predicted)
    for name, interval in limits.items():
        assert interval.low < getattr(own, name) < interval.high
    only = bootstrap.intervals(np.full(80, "a"), truth, predicted, 3)
    assert only["uar"].low == only["uar"].high == pytest.approx(own.uar)


def test_kept_arrays(tmp_path: Path) -> None:
    """Computed once for the same content and facts, again for others, never without a folder."""
    content, calls = np.arange(4.0), []

    def compute() -> np.ndarray:
        calls.append(1)
        return content + 1

    for facts in ("a", "a", "b"):
        np.testing.assert_array_equal(
            cache.kept(tmp_path, "sum", facts, content, compute), content + 1
        )
    assert len(calls) == 2
    cache.kept(tmp_path, "sum", "a", content.reshape(2, 2), compute)
    cache.kept(None, "sum", "a", content, compute)
    assert len(calls) == 4
    assert {path.suffix for path in tmp_path.iterdir()} == {".sum"}


def test_runs_are_those_of_train_samm(compared: Path, cache_dir: Path) -> None:
    """A method's folder is what train-samm makes of it: it goes on there, and finds all done."""
    folder = compared / "3-classes" / "convlstm"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options = (
        *("--cache-dir", str(cache_dir), "--frame-size", "120x96", "--no-crop", "--folds", "2"),
        *("--epochs", "2", "--size", "12", "--frames", "3"),
    )
    copy = compared.parent / "alone"
    shutil.copytree(folder, copy)
    assert train_samm.main([*options, "--out", str(copy)]) == 0
    assert {name: (copy / name).read_bytes() for name in before} == before

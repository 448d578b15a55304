"""The command from end to end, on built-in data: report, interruption, resumption, errors."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from memx_fast import train_samm
from memx_fast.files import replacing
from memx_fast.samm import checkpoints, folds, markup, plots, report, runs
from memx_fast.samm.folds import Fold
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.labels import TASKS
from memx_fast.samm.network import ShallowConvLSTM
from memx_fast.samm.report import FoldResult, Outcome, Report
from memx_fast.samm.synthetic import MARKER
from memx_fast.samm.training import Epoch, Trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the built-in data is drawn, once."""
    return tmp_path_factory.mktemp("cache")


def train(cache: Path, *options: str | Path) -> int:
    """The command on frames of 12 x 12 pixels, two folds, two epochs; its exit status."""
    small = (
        *("--cache-dir", cache, "--frame-size", "120x96", "--no-crop", "--size", "12"),
        *("--frames", "3", "--folds", "2", "--epochs", "2", "--learning-rate", "1e-3"),
    )
    return train_samm.main([str(option) for option in (*small, *options)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_times(text: str) -> dict:
    found = json.loads(text)
    for fold in found["folds"]:
        for epoch in fold["history"]:
            del epoch["seconds"]
    return found


def test_from_data_to_report(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables with the majority line on the screen, the same as JSON, pictures, weights; and again.

    The same command on a finished run trains nothing and changes no outcome.
    """
    out = tmp_path / "run"
    assert train(cache, "--out", out) == 0
    screen = capsys.readouterr().out
    for line in (
        "133 clips of 28 subjects: Positive 26, Negative 92, Surprise 15",
        "all folds pooled 133",
        "majority class 133 69.17 33.33 27.26 56.57",
        "shallow ConvLSTM (the paper) 78.33 78.92",
        "seed 0",
    ):
        assert line in " ".join(screen.split()), line
    files = contents(out)
    assert set(files) == {
        *("settings.json", "fold-1.json", "fold-1.safetensors", "fold-1.card.json"),
        *("fold-2.json", "fold-2.safetensors", "fold-2.card.json"),
        *("report.json", "report.txt", "confusion.png", "curves.png"),
    }
    assert files["report.txt"].decode().strip() in screen
    for name in ("confusion.png", "curves.png"):
        assert cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR).min() < 128

    found = json.loads(files["report.json"])
    assert found["pooled"]["clips"] == len(found["predictions"]) == 133
    assert len({entry["clip"] for entry in found["predictions"]}) == 133
    assert np.sum(found["confusion"]) == 133
    right = [np.argmax(p["probabilities"]) == p["label"] for p in found["predictions"]]
    assert found["pooled"]["accuracy"] == pytest.approx(np.mean(right))
    assert found["majority_class"]["uar"] == pytest.approx(1 / 3)
    assert len(found["defects"]) == 2
    assert found["settings"]["seed"] == 0

    weights, card = checkpoints.read(out / "fold-2.safetensors")
    ShallowConvLSTM(3, 12).load_state_dict(weights)
    assert card.classes == ["Positive", "Negative", "Surprise"]
    assert (card.method, card.size, card.frames, card.channels) == ("convlstm", 12, 3, 1)
    assert card.settings == found["settings"]
    assert card.versions == found["versions"]
    assert card.data == "built-in drawn faces, motion 1"
    fold = found["folds"][1]
    assert card.test == {
        **{name: fold["scores"][name] for name in ("clips", "accuracy", "uar")},
        "majority_accuracy": fold["majority_class"]["accuracy"],
    }

    assert train(cache, "--out", out) == 0
    assert contents(out) == files
    tables = files["report.txt"].decode()
    assert tables.strip() in capsys.readouterr().out


def test_histograms_from_data_to_report(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method without epochs: C in the table, no curves; a finished run says the same again."""
    out = tmp_path / "run"
    options = ("--method", "lbp-top", "--size", "24", "--frames", "9", "--out", out)
    options = (*options, "--cache-dir", cache, "--frame-size", "120x96", "--no-crop")
    words = [*map(str, options), "--folds", "2"]
    assert train_samm.main(words) == 0
    screen = capsys.readouterr().out
    assert "LBP-TOP + SVM\n" in screen  # planes have no size before they are learnt
    assert "   C " in screen
    files = contents(out)
    assert "curves.png" not in files
    # A plane of 1,200 numbers and its distance for each class.
    assert json.loads(files["report.json"])["parameters"] == {"weights": 3600, "bias": 3}
    assert train_samm.main(words) == 0
    assert contents(out) == files


def test_interrupted_run_goes_on(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in the second epoch of each fold costs that epoch, and nothing of the result."""
    assert train(cache, "--out", tmp_path / "whole") == 0
    out = tmp_path / "pieces"
    run_epoch = Trainer.run_epoch

    def interrupted(trainer: Trainer, *arguments: object) -> Epoch:
        if len(trainer.history) == 1:
            raise KeyboardInterrupt
        return run_epoch(trainer, *arguments)

    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    capsys.readouterr()
    assert train(cache, "--out", out) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert set(contents(out)) == {"settings.json", "fold-1.checkpoint"}
    monkeypatch.undo()
    assert train(cache, "--out", out) == 0
    assert not list(out.glob("*.checkpoint"))
    one, other = (
        without_times((tmp_path / name / "report.json").read_text()) for name in ("whole", "pieces")
    )
    assert one == other


def test_paper_like_says_so_everywhere(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the screen, in text, JSON, card and both pictures; a clean run says nothing like it."""
    drawn = []
    write = plots._write
    monkeypatch.setattr(
        plots, "_write", lambda figure, path: (drawn.append(figure), write(figure, path))
    )
    out = tmp_path / "inflated"
    assert train(cache, "--out", out, "--protocol", "paper-like", "--epochs", "1") == 0
    files = contents(out)
    sentence = folds.caveats("paper-like")[0]
    assert capsys.readouterr().out.count(sentence) == 2  # before and after the work
    assert files["report.txt"].decode().startswith(sentence)
    assert json.loads(files["report.json"])["caveats"] == [sentence]
    assert json.loads(files["fold-1.card.json"])["settings"]["kind"] == "paper-like"
    assert [" ".join(figure.get_supxlabel().split()) for figure in drawn] == [sentence] * 2
    assert train(cache, "--out", tmp_path / "clean", "--epochs", "1") == 0
    assert "inflated" not in capsys.readouterr().out.replace(str(tmp_path), "")
    assert [figure.get_supxlabel() for figure in drawn[2:]] == ["", ""]


def test_a_single_epoch_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot where there is no line yet, and epochs are counted in whole numbers."""
    drawn = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: drawn.append(figure))
    results = [
        replace(
            result,
            outcome=replace(result.outcome, history=result.outcome.history[:1], best_epoch=1),
        )
        for result in two_folds().results
    ]
    short = Report(TASKS[3], two_folds().labels, results)
    for found, marker in ((two_folds(), ""), (short, ".")):
        plots.draw_curves(found, tmp_path / "unwritten.png")
        figure = drawn.pop()
        figure.draw_without_rendering()
        curves = [
            line
            for axes in figure.axes
            for line in axes.lines
            if line.get_label() in ("training", "validation")
        ]
        assert [line.get_marker() for line in curves] == [marker] * 6
        assert all(tick == int(tick) for axes in figure.axes for tick in axes.get_xticks())
    chart = markup.line_chart("one", [("recall", [0.5])], 1.0)
    (points,) = re.findall('points="(.*?)"', chart)
    assert points == "4.0,45.0 4.0,45.0"


def test_runs_get_folders_of_their_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out, other settings make another folder in runs/; five and seven classes work."""
    monkeypatch.chdir(tmp_path)
    for classes in ("5", "7", "5"):
        assert train(cache, "--classes", classes, "--epochs", "1") == 0
    made = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "runs").iterdir())
    assert made == ["built-in-5-classes", "built-in-7-classes"]


def test_finished_work_is_never_mixed_up(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with another run, or with something else, is refused and left alone."""
    out = tmp_path / "run"
    assert train(cache, "--out", out, "--epochs", "1") == 0
    files = contents(out)
    assert train(cache, "--out", out, "--epochs", "1", "--seed", "1") == 1
    assert f"out: {out} holds a run with other settings" in capsys.readouterr().err
    assert contents(out) == files
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    assert train(cache, "--out", other) == 1
    assert f"out: {other} exists and is no run" in capsys.readouterr().err
    assert contents(other) == {"thesis.txt": b"precious"}


def test_other_labels_are_another_run(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folds trained on old annotations are never mixed with new ones; the path does not matter."""
    data = tmp_path / "SAMM data"
    shutil.copytree(cache / "built-in-120x96-motion-1", data)
    out = tmp_path / "run"
    assert train(cache, "--data", data, "--out", out, "--epochs", "1") == 0
    monkeypatch.chdir(tmp_path)
    assert train(cache, "--data", "SAMM data", "--out", out, "--epochs", "1") == 0
    book = FORMATS["samm"].find_workbook(data)
    sheet = openpyxl.load_workbook(book)
    cells = [cell for rows in sheet.active.iter_rows() for cell in rows]
    next(cell for cell in cells if cell.value == "Anger").value = "Happiness"
    sheet.save(tmp_path / "other.xlsx")
    capsys.readouterr()
    other = ("--data", data, "--workbook", tmp_path / "other.xlsx")
    assert train(cache, *other, "--out", out, "--epochs", "1") == 1
    assert "other settings (data_sha256; see" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"history": [{}]}'])
def test_damaged_outcome_is_named(tmp_path: Path, content: str) -> None:
    """The file, and what to do about it."""
    run = runs.Run(tmp_path, {"seed": 0})
    (tmp_path / "fold-1.json").write_text(content)
    with pytest.raises(ValueError, match=r"fold-1.json is damaged; delete it to train this fold"):
        run.outcome(1)


def test_files_are_for_everybody(tmp_path: Path) -> None:
    """What is written has the permissions that the user's settings give new files."""
    mask = os.umask(0o027)
    try:
        runs.Run(tmp_path / "run", {"seed": 0})
    finally:
        os.umask(mask)
    assert (tmp_path / "run" / "settings.json").stat().st_mode & 0o777 == 0o640


def test_wrong_options_are_explained(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no traceback, and an exit status that says so."""
    for options, message in (
        (("--data", tmp_path / "nowhere"), "nowhere is no folder"),
        (("--strict",), "strict: the data has 2 defects"),
        (("--epochs", "0"), "epochs: got 0"),
        (("--folds", "40"), "folds: got 40 for 28 subjects"),
        (("--size", "4"), "size: got 4"),
        (("--motion", "9"), "motion: got 9.0"),
        (("--backend", "fast"), "backend: got 'fast'"),
        (("--threads", "0"), "threads: got 0"),
        (("--device", "cuda:99"), "device: got cuda:99"),
        (("--learning-rate", "inf"), "learning_rate: got inf"),
        (("--set", "magic=1"), "magic: convlstm has no such setting; its settings are: epochs"),
        (("--set", "epochs"), "set: got 'epochs', expected NAME=VALUE"),
        (("--method", "elrcn", "--weights", tmp_path), "which is no file, expected one of VGG-16"),
        (("--out", cache / "built-in-120x96-motion-1" / MARKER / "run"), "Not a directory"),
    ):
        assert train(cache, "--out", tmp_path / "run", *options) == 1, options
        printed = capsys.readouterr().err
        assert "train-samm: " in printed
        assert message in printed
        assert "Traceback" not in printed
    for options in (("--classes", "4"), ("--frame-size", "big"), ("--motion", "much")):
        with pytest.raises(SystemExit) as stopped:
            train(cache, *options)
        assert stopped.value.code == 2
        assert f"argument {options[0]}" in capsys.readouterr().err


def test_help_names_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Options in groups, defaults shown where there are any."""
    with pytest.raises(SystemExit):
        train_samm.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Options" not in text
    for part in (
        "data:",
        "network:",
        "training:",
        "running:",
        "(default: 0.0001)",
        "(default: 90)",
    ):
        assert part in text
    assert text.endswith("Other commands, each with its own --help: compare, predict, validate.")
    assert "default: None" not in text


def outcome(*predicted: int, classes: int = 3) -> Outcome:
    history = [
        Epoch(number, 1 / number, 1.2 - 0.1 * number, 0.1 * number, 1e-4, 1.0)
        for number in range(1, 6)
    ]
    probabilities = np.full((len(predicted), classes), 0.1)
    probabilities[np.arange(len(predicted)), predicted] = 0.8
    return Outcome(history, 5, probabilities.tolist())


def two_folds() -> Report:
    """Ten clips; fold 1 gets 3 of 5 right, fold 2 4 of 5."""
    labels = np.array([0, 1, 1, 1, 2, 0, 1, 1, 2, 2])
    first, second = np.arange(5), np.arange(5, 10)
    return Report(
        TASKS[3],
        labels,
        [
            FoldResult(Fold(second[:4], second[4:], first), outcome(0, 1, 1, 0, 1)),
            FoldResult(Fold(first[:4], first[4:], second), outcome(0, 1, 1, 2, 1)),
        ],
    )


def test_report_of_known_predictions() -> None:
    """Pooled over the folds, with the majority of each fold's training clips beside them."""
    found = two_folds()
    assert found.pooled.accuracy == pytest.approx(7 / 10)
    assert found.pooled.uar == pytest.approx((2 / 2 + 4 / 5 + 1 / 3) / 3)
    assert found.confusion.tolist() == [[2, 0, 0], [1, 4, 0], [0, 2, 1]]
    assert found.majority.accuracy == pytest.approx(5 / 10)
    text = " ".join(found.text().split())
    assert "Negative 20.00 % (1) 80.00 % (4) 0.00 % (0)" in text
    assert text.count("majority class") == 5
    assert json.loads(json.dumps(found.as_json()))["confusion"] == found.confusion.tolist()


def test_published_figures_fit_the_tasks() -> None:
    """Every task has the paper's own line first, and 7 classes no F1."""
    assert set(report.PUBLISHED) == set(TASKS)
    assert [lines[0].accuracy for lines in report.PUBLISHED.values()] == [78.33, 67.64, 72.64]
    assert report.PUBLISHED[7][0].f1 is None


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A disk that fills up while a file is written costs nothing that was there."""
    path = tmp_path / "fold-1.checkpoint"
    path.write_bytes(b"earlier")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half of")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]

"""Several data sets in one study: classes of MEGC 2019, people kept apart, figures for each set."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from memx_fast import train_samm
from memx_fast.samm import composite, miniatures
from memx_fast.samm.composite import FoldLabels
from memx_fast.samm.folds import Fold
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.labels import TASKS
from memx_fast.samm.methods import Input
from memx_fast.samm.report import FoldResult, Outcome, Report
from memx_fast.samm.sources import Composite
from memx_fast.samm.study import Protocol, Source, open_study

CLASSES = TASKS[3].classes
SMALL = Input(12, 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the miniatures are drawn, once."""
    return tmp_path_factory.mktemp("cache")


def built_in(cache: Path, *datasets: str, strict: bool = False) -> Composite:
    return Composite(
        tuple(
            Source(
                *(None, cache),
                crop=False,
                strict=strict,
                frame_size=(120, 96),
                progress=False,
                dataset=name,
            )
            for name in datasets
        )
    )


def train(cache: Path, *options: str | Path) -> int:
    """The command, with the quickest of all methods on small frames; its exit status."""
    small = ("--cache-dir", cache, "--frame-size", "120x96", "--no-crop", "--method", "majority")
    return train_samm.main([str(option) for option in (*small, *options)])


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        (
            "samm",
            {
                "Positive": ("Happiness",),
                "Negative": ("Anger", "Contempt", "Disgust", "Fear", "Sadness"),
                "Surprise": ("Surprise",),
            },
        ),
        (
            "casme2",
            {
                "Positive": ("Happiness",),
                "Negative": ("Disgust", "Repression"),
                "Surprise": ("Surprise",),
            },
        ),
        (
            "smic",
            {"Positive": ("Positive",), "Negative": ("Negative",), "Surprise": ("Surprise",)},
        ),
        *(
            (
                later,
                {
                    "Positive": ("Happiness",),
                    "Negative": ("Anger", "Disgust", "Fear", "Sadness"),
                    "Surprise": ("Surprise",),
                },
            )
            for later in ("mmew", "casme3")
        ),
    ],
)
def test_classes_of_megc_2019(dataset: str, classes: dict[str, tuple[str, ...]]) -> None:
    """Every emotion that a data set knows is in its class, or takes no part."""
    expected = {emotion: name for name, members in classes.items() for emotion in members}
    for emotion in set(FORMATS[dataset].emotions.values()):
        label = TASKS[3].label(emotion, dataset)
        assert (None if label is None else CLASSES[label]) == expected.pop(emotion, None), emotion
    assert not expected


def test_people_are_kept_apart(cache: Path) -> None:
    """Subjects and clips have their data set in front; one of them all is left out at a time."""
    source = built_in(cache, "smic", "casme2")
    study = open_study(source, 3, Protocol("loso"), [SMALL])
    assert len(study.split) == len(set(study.subjects)) == 12
    assert {subject.split("/")[0] for subject in study.subjects} == {"smic", "casme2"}
    assert len({clip.name for clip in study.clips}) == len(study.clips) == 25 + 24
    assert study.frames[SMALL].shape == (49, 3, 1, 12, 12)
    alone = open_study(source.sources[1], 3, Protocol("loso"), [SMALL])
    own = [index for index, clip in enumerate(study.clips) if clip.dataset == "casme2"]
    assert [study.clips[index].name for index in own] == [f"casme2/{c.name}" for c in alone.clips]
    assert (study.frames[SMALL][own] == alone.frames[SMALL]).all()
    assert study.labels[own].tolist() == alone.labels.tolist()
    assert [defect.clip for defect in study.defects] == [
        "casme2/sub04_EP12_03f",
        "casme2/sub05_EP03_02",
    ]
    for fold in study.split:
        assert len(set(study.subjects[fold.test])) == 1


def test_strict_and_two_of_a_kind(cache: Path, tmp_path: Path) -> None:
    """A defect in any of the sets refuses all; two folders of one format are refused."""
    with pytest.raises(ValueError, match="strict: the data has 2 defects"):
        built_in(cache, "smic", "casme2", strict=True).load(SMALL)
    with pytest.raises(ValueError, match="data: got 2 data sets of the format smic, expected one"):
        built_in(cache, "smic", "smic").load(SMALL)


def by_hand(truth: list[int], predicted: list[int]) -> tuple[float, float]:
    """UF1 and UAR of all clips at once."""
    return (
        f1_score(truth, predicted, average="macro"),
        recall_score(truth, predicted, average="macro"),
    )


def test_figures_of_every_data_set() -> None:
    """Sums over folds, of all clips and of each set, as scikit-learn has them without folds; the
    majority is that of each fold's training clips, whatever data set it is of.
    """
    random = np.random.default_rng(0)
    labels = np.tile([0, 1, 2, 1], 15)
    datasets = random.permutation(np.repeat(["a", "b"], [24, 36])).tolist()
    predicted = random.integers(0, 3, 60)
    majority = np.repeat([1, 2, 0], 20)
    folds = [
        FoldLabels(clips, predicted[clips], majority[clips])
        for clips in np.split(np.arange(60), [20, 40])
    ]
    found = composite.parts(CLASSES, labels, datasets, folds)
    assert [part.name for part in found] == [
        composite.ALL,
        datasets[0],
        *{"a", "b"} - {datasets[0]},
    ]
    for part in found:
        own = [k for k in range(60) if part.name in (composite.ALL, datasets[k])]
        assert part.scores is not None
        assert part.majority is not None
        assert part.clips == part.scores.clips == len(own)
        assert (part.scores.uf1, part.scores.uar) == pytest.approx(
            by_hand(labels[own].tolist(), predicted[own].tolist())
        )
        assert (part.majority.uf1, part.majority.uar) == pytest.approx(
            by_hand(labels[own].tolist(), majority[own].tolist())
        )


def test_a_data_set_without_a_class() -> None:
    """It has no recall of that class, and no figure is made up; the others have theirs."""
    labels, clips = np.array([0, 1, 2, 0, 2]), np.arange(5)
    folds = [FoldLabels(clips, labels, labels)]
    found = composite.parts(CLASSES, labels, ["a", "a", "a", "b", "b"], folds)
    assert [part.missing for part in found] == [(), (), ("Negative",)]
    assert found[2].scores is found[2].majority is None
    table = composite.text(found)
    assert "no clip of Negative" in table
    assert json.loads(json.dumps(composite.as_json(found)))["b"]["scores"] is None


@pytest.mark.parametrize(
    ("datasets", "composite_there", "paper_there"),
    [
        ((), False, True),
        (("samm",) * 6, False, True),
        (("smic",) * 6, False, False),
        (("samm", "samm", "samm", "smic", "smic", "smic"), True, False),
    ],
)
def test_what_a_report_has(
    datasets: tuple[str, ...], composite_there: bool, paper_there: bool
) -> None:
    """Figures of the sets where there are several; those of the paper beside SAMM alone."""
    first, second = np.arange(3), np.arange(3, 6)
    outcome = Outcome([], 0, np.eye(3).tolist())
    results = [
        FoldResult(Fold(second, second, first), outcome),
        FoldResult(Fold(first, first, second), outcome),
    ]
    report = Report(TASKS[3], np.array([0, 1, 2, 0, 1, 2]), results, datasets)
    assert ("megc_2019" in report.as_json()) == ("MEGC 2019" in report.text()) == composite_there
    assert ("paper" in report.as_json()) == ("as printed in the paper" in report.text())
    assert ("paper" in report.as_json()) == paper_there


def test_composite_from_the_command_line(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built-in miniatures by name, or folders that are recognised: the same study, left out by
    subject unless something else is said; the table on the screen is that of the JSON.
    """
    out = tmp_path / "named"
    assert train(cache, "--dataset", "mmew", "casme3", "--out", out) == 0
    screen = " ".join(capsys.readouterr().out.split())
    found = json.loads((out / "report.json").read_text())
    assert (found["settings"]["kind"], len(found["folds"])) == ("loso", 12)
    parts = found["megc_2019"]
    assert list(parts) == ["all data sets", "mmew", "casme3"]
    assert sum(parts[name]["clips"] for name in ("mmew", "casme3")) == parts[composite.ALL]["clips"]
    for name, part in parts.items():
        scores = part["scores"]
        assert scores == part["majority_class"]
        line = f"{name} {part['clips']} {100 * scores['uf1']:.2f} {100 * scores['uar']:.2f}"
        assert line in screen
    assert "paper" not in found
    assert {entry["clip"].split("/")[0] for entry in found["predictions"]} == {"mmew", "casme3"}

    folders = []
    for name in ("mmew", "casme3"):
        folders.append(tmp_path / name)
        miniatures.generate(folders[-1], name, frame_size=(120, 96))
    assert train(cache, "--data", *folders, "--out", tmp_path / "folders") == 0
    again = json.loads((tmp_path / "folders" / "report.json").read_text())
    assert again["megc_2019"] == parts
    assert again["settings"] == found["settings"]
    by_folds = ("--data", *folders, "--protocol", "folds", "--folds", "2", "--out", tmp_path / "f")
    assert train(cache, *by_folds) == 0
    assert len(json.loads((tmp_path / "f" / "report.json").read_text())["folds"]) == 2


@pytest.mark.parametrize("name", list(miniatures.MINIATURES))
def test_one_other_data_set(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A miniature alone goes the way of SAMM: five folds, three classes."""
    out = tmp_path / "run"
    assert train(cache, "--dataset", name, "--out", out) == 0
    assert "of 6 subjects" in capsys.readouterr().out
    found = json.loads((out / "report.json").read_text())
    assert (found["settings"]["kind"], len(found["folds"])) == ("folds", 5)
    assert found["data"] == f"built-in drawn faces in the format of {FORMATS[name].title}, motion 1"
    assert "megc_2019" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--dataset", "smic", "mmew", "--classes", "5"),
            "classes: got 5, expected 3 for built-in",
        ),
        (("--dataset", "smic", "ck"), "dataset: got 'ck', expected one of samm, casme2"),
        (("--data", "a", "b", "--dataset", "smic"), "dataset: got 1 for 2 data sets"),
        (("--data", "a", "--workbook", "x", "y"), "workbook: got 2 for 1 data set, expected one"),
        (("--dataset", "smic", "--classes", "7"), "got none of class Happiness"),
        (("--data", "a", "b"), "root: a is no folder"),
    ],
)
def test_what_cannot_be_a_study(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    """It is said by name, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert train(cache, *options, "--out", tmp_path / "run") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

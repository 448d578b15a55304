"""The built-in data set: the published counts, faces for a detector, and no signal but motion."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from memx_fast.samm import synthetic
from memx_fast.samm.dataset import load
from memx_fast.samm.faces import Detector, cut
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.synthetic_cast import cast
from memx_fast.samm.synthetic_muscles import EXPRESSIONS, MUSCLES, REACH, contract
from memx_fast.samm.synthetic_scene import Course, Person
from memx_fast.samm.synthetic_table import PREAMBLE, PlannedClip, plan, write_workbook

PLANNED = plan(0)
SMALL = (120, 96)


def files(root: Path) -> dict[str, bytes]:
    """Content of all JPEG files by their path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.jpg")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set in very small frames, one clip of it in full size."""
    root = tmp_path_factory.mktemp("built-in") / "data"
    synthetic.generate(root, frame_size=SMALL, full_size_clips=1)
    return root


def test_published_counts() -> None:
    """159 clips, 29 subjects, the totals of each emotion, and some cells of the table."""
    assert len(PLANNED) == 159
    assert len({row.clip.subject for row in PLANNED}) == 29
    totals = Counter(row.clip.emotion for row in PLANNED)
    assert totals == {
        "Anger": 57,
        "Contempt": 12,
        "Disgust": 9,
        "Fear": 8,
        "Happiness": 26,
        "Other": 26,
        "Sadness": 6,
        "Surprise": 15,
    }
    cells = Counter((row.clip.subject, row.clip.emotion) for row in PLANNED)
    assert (cells["011", "Happiness"], cells["014", "Happiness"], cells["007", "Happiness"]) == (
        7,
        7,
        5,
    )
    assert (cells["006", "Anger"], cells["026", "Other"], cells["035", "Fear"]) == (7, 4, 2)
    assert Counter(row.clip.subject for row in PLANNED)["011"] == 20


@pytest.mark.parametrize("seed", range(3))
def test_published_lengths(seed: int) -> None:
    """Quantiles of the lengths, extremes of the apex, for every seed."""
    clips = [row.clip for row in plan(seed)]
    lengths = [clip.offset - clip.onset + 1 for clip in clips]
    quantiles = np.quantile(lengths, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    assert np.abs(quantiles - [30, 45, 59, 78, 90, 98, 101]).max() <= 0.5
    rises = [clip.apex - clip.onset for clip in clips]
    falls = [clip.offset - clip.apex for clip in clips]
    assert (min(rises), min(falls)) == (1, 1)
    assert (max(rises), max(falls)) == (96, 81)
    assert abs(np.median(rises) - 32) <= 5
    assert abs(np.median(falls) - 40) <= 5
    assert min(clip.onset for clip in clips) >= 83
    assert max(clip.onset for clip in clips) <= 12256


def test_clips_of_a_subject_do_not_overlap() -> None:
    """Clips are cut from different stretches of a recording, in the order of their names."""
    for _, rows in itertools.groupby(
        [row.clip for row in PLANNED], key=lambda clip: clip.name.rpartition("_")[0]
    ):
        for first, second in itertools.pairwise(rows):
            assert first.offset < second.onset
            assert first.name < second.name


@pytest.mark.parametrize("seed", range(3))
def test_only_muscles_know_the_emotion(seed: int) -> None:
    """Lengths, apexes, blinks and the like differ between emotions by no more than chance does.

    Of 6 quantities in 3 large classes, none is further than 3.5 standard errors from the rest.
    """
    planned = plan(seed)
    rows = np.array(
        [
            (
                row.clip.offset - row.clip.onset,
                (row.clip.apex - row.clip.onset) / (row.clip.offset - row.clip.onset),
                row.blink,
                row.glance,
                row.digits,
                row.strength,
            )
            for row in planned
        ]
    )
    for emotion in ("Anger", "Happiness", "Surprise"):
        members = np.array([row.clip.emotion == emotion for row in planned])
        error = rows.std(axis=0) * np.sqrt(1 / members.sum() + 1 / (~members).sum())
        away = (rows[members].mean(axis=0) - rows[~members].mean(axis=0)) / error
        assert np.abs(away).max() < 3.5


def test_workbook_as_released(tmp_path: Path) -> None:
    """Sheet, preamble, header in row 14, twelve columns, and the types of their cells."""
    path = tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx"
    write_workbook(path, PLANNED)
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["MICRO_ONLY"]
    table = list(book["MICRO_ONLY"].iter_rows(values_only=True))
    assert len(table) == 173
    assert [line[0] for line in table[:13]] == list(PREAMBLE)
    assert len(table[13]) == 12
    for line in table[14:]:
        assert isinstance(line[0], str)
        assert line[6] == line[5] - line[3] + 1
        assert 1 <= line[2] <= 7
        assert 1 <= line[10] <= 7
    units = [line[8] for line in table[14:]]
    assert {type(cell) for cell in units} == {int, str}
    assert any(isinstance(cell, str) and cell.endswith(" ") for cell in units)
    notes = Counter(line[11] for line in table[14:])
    assert notes[None] > 90
    assert {"Blinks", "Eye movement"} <= set(notes)


def test_two_wrong_apexes_are_repaired(tmp_path: Path) -> None:
    """They are where the released workbook has them, and the loader's rules give the truth back."""
    path = tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx"
    write_workbook(path, PLANNED)
    clips, defects = FORMATS["samm"].read(tmp_path, path)
    assert [(defect.clip, defect.kind) for defect in defects] == [
        ("028_4_1", "apex outside"),
        ("032_3_1", "apex outside"),
    ]
    assert clips == [row.clip for row in PLANNED]
    emotions = {clip.name: clip.emotion for clip in clips}
    assert (emotions["028_4_1"], emotions["032_3_1"]) == ("Contempt", "Anger")


def test_every_expression_can_be_drawn() -> None:
    """Each names muscles that exist, and each moves something."""
    person = Person(SMALL, [0])
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    grid = x.astype(np.float32), y.astype(np.float32)
    for expression in itertools.chain(*EXPRESSIONS.values()):
        assert all(number in MUSCLES for _, number in expression.parts())
        movement = contract(expression, 1.0, person.identity, *grid)
        moved = np.hypot(movement.right, movement.down).max()
        assert (
            moved > 0.5 * REACH
            or abs(movement.lids) + movement.lips > 0.1
            or (abs(movement.thickness) > 0.2)
        )


def test_one_sided_actions_move_one_half() -> None:
    """L is the person's left: the right half of the image."""
    person = Person(SMALL, [0])
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    grid = x.astype(np.float32), y.astype(np.float32)
    left, right = (
        contract(expression, 1.0, person.identity, *grid).right
        for expression in EXPRESSIONS["Contempt"][:2]
    )
    assert np.abs(left[:, 25:]).max() > 0.5 * REACH
    assert np.abs(left[:, :15]).max() < 0.05 * REACH
    assert np.allclose(left, -right[:, ::-1], atol=1e-6)


def course(row: PlannedClip, strength: float) -> Course:
    """Three frames of a planned clip: onset, apex, offset."""
    return Course(3, 1, row.expression, strength, row.blink, row.glance, row.head_movement)


def test_without_motion_no_pixel_knows_the_emotion() -> None:
    """At strength 0 the frames are the same, bit for bit, whatever the expression."""
    person = Person(SMALL, [0, 1])
    shows = [
        np.stack(list(person.film(course(replace(PLANNED[0], expression=expression), 0.0), [7])))
        for expression in (EXPRESSIONS["Happiness"][3], EXPRESSIONS["Surprise"][4])
    ]
    assert np.array_equal(shows[0], shows[1])


def test_motion_rises_and_falls() -> None:
    """Nothing has moved at the onset, most at the apex, and a part is left at the offset."""
    person = Person((340, 272), [0, 1])
    still, moved = (
        np.stack(
            list(
                person.film(
                    Course(61, 30, EXPRESSIONS["Surprise"][1], strength, False, False, False), [7]
                )
            )
        ).astype(int)
        for strength in (0.0, 1.0)
    )
    change = np.abs(moved - still).mean(axis=(1, 2))
    assert change[0] == 0
    assert change.argmax() in range(28, 33)
    assert (np.diff(change[:29]) >= -0.02).all()
    assert 0.1 < change[-1] / change.max() < 0.7


@pytest.fixture(scope="module")
def faces() -> dict[float, tuple[np.ndarray, list[str], list[str]]]:
    """By strength of motion: onset and apex of every clip cropped to 24x24, emotions, subjects."""
    people = cast(0, [row.clip for row in PLANNED])
    detector = Detector()
    found = {}
    for motion in (0.0, 1.0):
        pairs = []
        cache = {subject: Person((170, 136), look) for subject, look in people.items()}
        for number, row in enumerate(PLANNED):
            film = cache[row.clip.subject].film(course(row, motion * row.strength), [number])
            onset, apex = itertools.islice(film, 2)
            box = detector.find(onset)
            pairs.append([cut(onset, box, 24), cut(apex, box, 24)])
        found[motion] = (
            np.asarray(pairs, dtype=np.float32) / 255,
            [row.clip.emotion for row in PLANNED],
            [row.clip.subject for row in PLANNED],
        )
    return found


def recall(pictures: np.ndarray, emotions: list[str], subjects: list[str]) -> float:
    """Mean recall of a linear classifier, three classes, on subjects it has not seen."""
    classes = np.array([{"Happiness": 1, "Surprise": 2, "Other": 3}.get(e, 0) for e in emotions])
    used = classes < 3
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=30, class_weight="balanced", max_iter=2000)
    flat = pictures.reshape(len(pictures), -1)[used]
    answers = cross_val_predict(
        model, flat, classes[used], groups=np.array(subjects)[used], cv=folds
    )
    return float(recall_score(classes[used], answers, average="macro"))


def test_motion_tells_the_emotion(faces: dict[float, tuple]) -> None:
    """A linear classifier of apex minus onset knows three classes on unseen people."""
    pictures, emotions, subjects = faces[1.0]
    assert recall(pictures[:, 1] - pictures[:, 0], emotions, subjects) > 0.8


def test_without_motion_nothing_tells_the_emotion(faces: dict[float, tuple]) -> None:
    """Neither the change nor the looks of people do: guessing has a mean recall of 1/3."""
    pictures, emotions, subjects = faces[0.0]
    assert recall(pictures[:, 1] - pictures[:, 0], emotions, subjects) < 0.45
    assert recall(pictures[:, 0], emotions, subjects) < 0.45


def test_every_face_is_found() -> None:
    """The detector finds all 29 people at the default size, as large and where they are drawn."""
    detector = Detector()
    width, height = 340, 272
    for look in cast(0, [row.clip for row in PLANNED]).values():
        box = detector.find(Person((width, height), look).portrait())
        assert box is not None
        assert 0.4 * height < box.side < 0.85 * height
        assert abs(box.left + box.side / 2 - width / 2) < 0.15 * width


def test_people_differ() -> None:
    """No two portraits are alike."""
    portraits = [
        Person(SMALL, look).portrait().astype(int)
        for look in cast(0, [row.clip for row in PLANNED]).values()
    ]
    closest = min(np.abs(a - b).mean() for a, b in itertools.combinations(portraits, 2))
    assert closest > 5


def test_folders_as_released(written: Path) -> None:
    """Every frame of every clip, in 4 and 5 digits, grey, one clip in full size."""
    padding = set()
    for row in PLANNED:
        clip = row.clip
        paths = sorted((written / clip.subject / clip.name).iterdir())
        numbers = sorted(int(path.stem.removeprefix(f"{clip.subject}_")) for path in paths)
        assert numbers == list(range(clip.onset, clip.offset + 1))
        padding |= {len(path.stem) - 4 for path in paths}
    assert padding == {4, 5}
    for row, size in ((PLANNED[0], (1088, 2040)), (PLANNED[1], SMALL[::-1])):
        path = next((written / row.clip.subject / row.clip.name).iterdir())
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == size


def test_loader_reads_it(written: Path, tmp_path: Path) -> None:
    """The loader of the real data reads all clips, and reports the two wrong apexes alone."""
    found = load(written, size=32, cache_dir=tmp_path)
    assert found.clips == [row.clip for row in PLANNED]
    assert found.frames.shape == (159, 9, 1, 32, 32)
    assert {defect.clip for defect in found.defects if defect.kind != "no face"} == {
        "028_4_1",
        "032_3_1",
    }


def test_finished_data_is_left_alone(written: Path) -> None:
    """The same settings again change no file; other settings are refused."""
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    synthetic.generate(written, frame_size=SMALL, full_size_clips=1)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    with pytest.raises(ValueError, match="other settings"):
        synthetic.generate(written, frame_size=SMALL)


def test_foreign_folder_is_never_overwritten(tmp_path: Path) -> None:
    """Whatever is in the way stays, and nothing is left beside it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("data", "file"):
        with pytest.raises(ValueError, match="is not the built-in data set"):
            synthetic.generate(tmp_path / name)
    assert (tmp_path / "data" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]


def test_same_files_whatever_the_workers(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with one thread and with three; other seeds give other pictures."""
    few = [row for row in PLANNED if row.clip.subject in ("012", "015", "023")]
    monkeypatch.setattr(synthetic.synthetic_table, "plan", lambda seed: few)
    for workers in (1, 3):
        synthetic.generate(tmp_path / str(workers), frame_size=SMALL, workers=workers)
    synthetic.generate(tmp_path / "seed", frame_size=SMALL, seed=1)
    one = files(tmp_path / "1")
    assert one
    assert files(tmp_path / "3") == one
    other = files(tmp_path / "seed")
    assert other.keys() == one.keys()
    assert all(other[path] != one[path] for path in one)


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails half-way is removed, and the folder asked for does not exist."""

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "_write_subject", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic.generate(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_size": (95, 96)}, "frame_size: got"),
        ({"frame_size": (340.0, 272)}, "frame_size: got"),
        ({"motion": -1}, "motion: got"),
        ({"motion": float("nan")}, "motion: got"),
        ({"seed": -1}, "seed: got"),
        ({"full_size_clips": -1}, "full_size_clips: got"),
        ({"workers": 0}, "workers: got"),
    ],
    ids=str,
)
def test_wrong_settings(tmp_path: Path, settings: dict, message: str) -> None:
    """The message names the argument, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        synthetic.generate(tmp_path / "data", **settings)
    assert list(tmp_path.iterdir()) == []

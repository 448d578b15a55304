"""``train-samm validate``: every kind of defect, and never another verdict than the loader's."""

import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from memx_fast import train_samm
from memx_fast.samm import dataset
from memx_fast.samm import frames as image_files
from memx_fast.samm.annotations import LEFT_OUT
from memx_fast.samm.methods import METHODS, create
from memx_fast.samm.sampling import sample
from memx_fast.samm.synthetic_scene import Person
from memx_fast.samm.synthetic_table import WORKBOOK, PlannedClip, plan, write_workbook
from memx_fast.samm.validation import KEPT, validate

ONSET, OFFSET = 9_950, 10_050  # file names get a fifth digit on the way
COUNTS = sorted({create(name, 3).input.frames for name in METHODS})
NUMBERS = range(ONSET, OFFSET + 1)
SEEN = {n for count in COUNTS for n in sample(ONSET, 10_000, OFFSET, count)}


@pytest.fixture(scope="module")
def portrait() -> bytes:
    """A face that does not move, as JPEG."""
    return cv2.imencode(".jpg", Person((170, 136), [0, 2, 1]).portrait())[1].tobytes()


@dataclass
class Data:
    """A data set of three clips on disk: happiness, anger and surprise."""

    root: Path
    rows: list[PlannedClip]

    def folder(self, index: int = 0) -> Path:
        clip = self.rows[index].clip
        return self.root / clip.subject / clip.name

    def file(self, number: int, index: int = 0) -> Path:
        return self.folder(index) / f"{self.rows[index].clip.subject}_{number:04d}.jpg"

    def write_rows(self, rows: Sequence[PlannedClip]) -> None:
        write_workbook(self.root / WORKBOOK, rows)


@pytest.fixture
def data(tmp_path: Path, portrait: bytes) -> Data:
    """Without any defect."""
    everything = plan(0)
    rows = []
    for emotion in ("Happiness", "Anger", "Surprise"):
        row = next(row for row in everything if row.clip.emotion == emotion)
        clip = replace(row.clip, onset=ONSET, apex=10_000, offset=OFFSET)
        rows.append(replace(row, clip=clip, written_apex=clip.apex))
    made = Data(tmp_path / "data", rows)
    made.root.mkdir()
    made.write_rows(rows)
    for index in range(len(rows)):
        made.folder(index).mkdir(parents=True)
        for number in NUMBERS:
            made.file(number, index).write_bytes(portrait)
    return made


def command(*options: object) -> int:
    return train_samm.main(["validate", *map(str, options)])


def unread(*, far: bool) -> int:
    """A frame that no method looks at by default, and none of its neighbours either if ``far``."""
    reach = image_files.REACH if far else 0
    return next(n for n in NUMBERS[reach + 1 :] if not SEEN & set(range(n - reach, n + reach + 1)))


def other_size() -> bytes:
    return cv2.imencode(".jpg", np.full((80, 80), 90, np.uint8))[1].tobytes()


def blank(data: Data) -> None:
    empty = cv2.imencode(".jpg", np.full((136, 170), 90, np.uint8))[1].tobytes()
    for number in NUMBERS:
        data.file(number).write_bytes(empty)


def remove(data: Data, numbers: Sequence[int]) -> None:
    for number in numbers:
        data.file(number).unlink()


def cut(data: Data, number: int) -> None:
    path = data.file(number)
    path.write_bytes(path.read_bytes()[:-30])


def end_before_the_start(data: Data) -> None:
    first = replace(data.rows[0], clip=replace(data.rows[0].clip, offset=ONSET - 1))
    data.write_rows([first, *data.rows[1:]])


def unknown_emotion(data: Data) -> None:
    book = openpyxl.load_workbook(data.root / WORKBOOK)
    cells = [cell for row in book.active.iter_rows() for cell in row]
    next(cell for cell in cells if cell.value == "Happiness").value = "Boredom"
    book.save(data.root / WORKBOOK)


def renumber(data: Data) -> None:
    """Files counted from 1, as if the clip were the recording."""
    for place, number in enumerate(NUMBERS, start=1):
        data.file(number).rename(data.file(place))


def spare_folder(data: Data) -> None:
    path = data.root / data.rows[0].clip.subject / "006_9_9"
    path.mkdir()
    (path / "006_0001.jpg").write_bytes(other_size())


FAR = unread(far=True)
GAP = range(FAR - image_files.REACH, FAR + image_files.REACH + 1)
ANYWHERE = unread(far=False)

Damage = Callable[[Data], None]
DAMAGES: dict[str, tuple[Damage, str, str, str, int]] = {
    # What is done, and of the defect: kind, words, repair; how many clips are left.
    "seen frame missing": (
        lambda data: remove(data, [10_000]),
        *("missing frame", "frame 10000 is not in", "frame 9999 is used", 3),
    ),
    "other frame missing": (
        lambda data: remove(data, [ANYWHERE]),
        *("missing frame", f"frame {ANYWHERE} is not in", f"frame {ANYWHERE - 1} is used", 3),
    ),
    "gap nobody looks into": (
        lambda data: remove(data, GAP),
        *("missing frame", f"frame {FAR} is not in", KEPT, 3),
    ),
    "gap": (
        lambda data: remove(data, range(9_990, 10_012)),
        *("missing frame", "frame 10000 is not in", LEFT_OUT, 2),
    ),
    "truncated frame": (
        lambda data: cut(data, ANYWHERE),
        *("unreadable frame", "is no readable image", f"frame {ANYWHERE - 1} is used", 3),
    ),
    "empty file": (
        lambda data: data.file(ONSET).write_bytes(b"") and None,
        *("unreadable frame", "(0 bytes)", f"frame {ONSET + 1} is used", 3),
    ),
    "seen frame of other size": (
        lambda data: data.file(10_000).write_bytes(other_size()) and None,
        *("frame size", "80x80 and 170x136", LEFT_OUT, 2),
    ),
    "other frame of other size": (
        lambda data: data.file(ANYWHERE).write_bytes(other_size()) and None,
        *("frame size", "80x80 and 170x136", KEPT, 3),
    ),
    "extra frames": (
        lambda data: data.file(OFFSET + 7).write_bytes(other_size()) and None,
        *("extra frames", f"numbers {OFFSET + 7} to {OFFSET + 7}", "they are passed over", 3),
    ),
    "same number": (
        lambda data: (data.folder() / f"z_{ONSET:06d}.jpg").write_bytes(other_size()) and None,
        *("same number", f"have the number {ONSET}", "the first in alphabetical order", 3),
    ),
    "numbers of another count": (
        renumber,
        *("extra frames", "numbers 1 to 101, are outside onset 9950 to offset 10050", "", 2),
    ),
    "no folder": (
        lambda data: data.folder().rename(data.root / "elsewhere") and None,
        *("no frames", "does not exist", LEFT_OUT, 2),
    ),
    "no frames": (
        lambda data: remove(data, NUMBERS),
        *("no frames", "has no frames", LEFT_OUT, 2),
    ),
    "no face": (blank, "no face", "no face is found in", "the middle of the frame is used", 3),
    "unknown emotion": (
        unknown_emotion,
        *("emotion", "'Boredom' is none of Anger", LEFT_OUT, 2),
    ),
    "order": (
        end_before_the_start,
        *("order", "comes before the onset", LEFT_OUT, 2),
    ),
    "row twice": (
        lambda data: data.write_rows([*data.rows, data.rows[0]]),
        *("duplicate", "annotates this clip again", "the first row is kept", 3),
    ),
    "folder without a row": (
        spare_folder,
        *("no row", "006_9_9 holds 1 frames", "it is passed over", 3),
    ),
}


def verdict_of_the_loader(data: Data, tmp_path: Path) -> tuple[set[str], set[str]]:
    """Clips that every number of frames can be read of, and all defects, as text."""
    names, defects = [], set()
    for count in COUNTS:
        loaded = dataset.load(data.root, frames=count, cache_dir=tmp_path / "cache")
        names.append({clip.name for clip in loaded.clips})
        defects |= set(map(str, loaded.defects))
    return set.intersection(*names), defects


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found(
    data: Data, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kind, place and repair; the loader says the same, and keeps the same clips."""
    damage, kind, words, repair, left = DAMAGES[name]
    damage(data)
    found = validate(data.root)
    alike = [defect for defect in found.defects if defect.kind == kind and words in defect.message]
    assert alike, found.defects
    assert any(repair in defect.repair for defect in alike), alike
    assert len(found.usable) == left

    clips, defects = verdict_of_the_loader(data, tmp_path)
    assert {clip.name for clip in found.usable} == clips
    assert defects <= set(map(str, found.defects))
    lost = {defect.clip for defect in found.defects if defect.repair == LEFT_OUT}
    assert not lost & clips

    capsys.readouterr()
    assert command(data.root) == 1
    screen = capsys.readouterr().out
    assert str(alike[0]) in screen or "more of this kind" in screen
    assert f"usable: {left} clips" in screen


def test_clean_data(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    """No defects, exit status 0, and what there is for each task."""
    assert command(data.root) == 0
    screen = capsys.readouterr().out
    for line in (
        "no defects",
        "3 clips\n",
        "usable: 3 clips of",
        "Positive 1, Negative 1, Surprise 1\n",
        "Happiness 1, Contempt 0, Anger 1, Other 0, Surprise 1; cannot be trained: a class is",
    ):
        assert line in screen
    assert command(data.root, "--quick") == 0
    assert "none was decoded (quick)" in capsys.readouterr().out


def test_quick_decodes_nothing(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing frames and folders are found by listing alone."""

    def fail(*_: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr(image_files, "decode", fail)
    cut(data, 10_001)
    remove(data, range(9_990, 10_001))
    data.folder(1).rename(data.root / "elsewhere")
    assert command(data.root, "--quick") == 1
    screen = capsys.readouterr().out
    assert "12 defects in 2 clips: missing frame 11, no frames 1" in screen
    assert "usable: 2 clips of" in screen
    assert "missing frame: 6 more of this kind (--json lists them all)" in screen


def test_faces_are_not_looked_for_in_whole_frames(data: Data) -> None:
    """As in training without cropping."""
    blank(data)
    assert [defect.kind for defect in validate(data.root).defects] == ["no face"]
    assert validate(data.root, crop=False).defects == []
    assert validate(data.root, quick=True).defects == []


def test_frames_are_not_kept(data: Data) -> None:
    """Of 101 frames looked at, no more than a few are in memory at once."""
    large = cv2.imencode(".jpg", np.full((1088, 2040), 90, np.uint8))[1].tobytes()
    for number in NUMBERS:
        data.file(number).write_bytes(large)
    tracemalloc.start()
    kept, defects = image_files.survey(data.root, data.rows[0].clip, NUMBERS, quick=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (kept, defects) == (True, [])
    assert peak < 5 * 1088 * 2040


def test_result_as_json(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every defect and every usable clip, on the screen or in a file; the data stays untouched."""
    remove(data, range(9_990, 10_012))
    before = {path: path.stat().st_mtime_ns for path in sorted(data.root.rglob("*"))}
    record = tmp_path / "defects.json"
    assert command(data.root, "--json", record) == 1
    found = json.loads(record.read_text())
    capsys.readouterr()
    assert command(data.root, "--json", "-") == 1
    assert json.loads(capsys.readouterr().out) == found
    assert len(found["defects"]) == 22
    assert set(found["defects"][0]) == {"clip", "kind", "message", "repair"}
    assert found["usable"]["clips"] == [row.clip.name for row in data.rows[1:]]
    assert found["tasks"]["3"]["classes"] == {"Positive": 0, "Negative": 1, "Surprise": 1}
    assert found["tasks"]["3"]["clips"] == 2
    assert found["quick"] is False
    assert before == {path: path.stat().st_mtime_ns for path in sorted(data.root.rglob("*"))}

    written = record.read_bytes()
    assert command(data.root, "--json", record) == 1
    assert "exists" in capsys.readouterr().err
    assert record.read_bytes() == written
    assert command(data.root, "--json", data.root / WORKBOOK, "--overwrite") == 1
    assert "belongs to the data" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in sorted(data.root.rglob("*"))}


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda data: (data.root / WORKBOOK).unlink(), "no annotation workbook"),
        (lambda data: (data.root / WORKBOOK).write_text("text"), "is no readable .xlsx"),
        (
            lambda data: (data.root / f"2_{WORKBOOK}").write_bytes(b""),
            "several annotation workbooks",
        ),
    ],
)
def test_workbook_that_cannot_be_read(
    data: Data, prepare: Callable[[Data], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to do."""
    prepare(data)
    assert command(data.root) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_other_places(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A workbook somewhere else is read; what does not exist is named."""
    other = tmp_path / "other.xlsx"
    (data.root / WORKBOOK).rename(other)
    assert command(data.root, "--workbook", other, "--quick") == 0
    capsys.readouterr()
    assert command(data.root, "--workbook", tmp_path / "no.xlsx") == 1
    assert "workbook: " in capsys.readouterr().err
    assert command(tmp_path / "nowhere") == 1
    assert "nowhere is no folder" in capsys.readouterr().err

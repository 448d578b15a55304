"""``train-samm validate``: every kind of defect, and never another verdict than the loader's."""

import json
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from memx_fast import train_samm
from memx_fast.samm import dataset, miniatures
from memx_fast.samm import frames as image_files
from memx_fast.samm.annotations import LEFT_OUT
from memx_fast.samm.formats import FORMATS, open_format
from memx_fast.samm.labels import TASKS
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


@pytest.fixture(scope="module", params=list(miniatures.MINIATURES))
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of another release, to be copied; the folder has the name of the format."""
    root: Path = tmp_path_factory.mktemp("drawn") / request.param
    miniatures.generate(root, request.param, frame_size=(170, 136))
    return root


@pytest.fixture
def other(drawn: Path, tmp_path: Path) -> Path:
    """A miniature that may be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / drawn.name))


def kinds(root: Path, clip: str, **options: object) -> set[tuple[str, str]]:
    """Kind and repair of the defects of a clip."""
    found = validate(root, quick=True, **options)
    return {(defect.kind, defect.repair) for defect in found.defects if defect.clip == clip}


def test_other_formats_as_released(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames outside onset and offset and recordings are no defects: only what the loader says."""
    form, book = open_format(drawn)
    clips, defects = form.read(drawn, book)
    found = validate(drawn)
    assert {defect for defect in found.defects if defect.kind != "no face"} == set(defects)
    assert (found.form, found.workbook, found.usable) == (form, book, clips)
    assert command(drawn, "--quick") == bool(defects)
    assert f"({form.title}): {len(clips)} clips;" in capsys.readouterr().out
    assert command(drawn, "--quick", "--dataset", drawn.name) == bool(defects)


def test_classes_of_other_formats(drawn: Path) -> None:
    """They are counted as training counts them: in CASME II fear and sadness take no part."""
    found = validate(drawn, quick=True)
    for classes, task in TASKS.items():
        labels = [task.label(clip.emotion, clip.dataset) for clip in found.usable]
        counts = [labels.count(index) for index in range(classes)]
        assert list(found.of_task(task)["classes"].values()) == counts
    if drawn.name == "casme2":
        assert found.of_task(TASKS[3])["clips"] < 30 - 4


def test_missing_folders_of_other_formats(other: Path) -> None:
    """All clips in a folder are lost with it, and no others."""
    (*_, clip) = (clips := validate(other, quick=True).usable)
    shutil.rmtree(other / clip.folder)
    lost = [one.name for one in clips if one.folder == clip.folder]
    assert all(("no frames", LEFT_OUT) in kinds(other, name) for name in lost)
    kept = [one.name for one in clips if one.name not in lost]
    assert [one.name for one in validate(other, quick=True).usable] == kept


def test_missing_frames_of_other_formats(other: Path) -> None:
    """By the rules of reading; nothing is decoded."""
    clip = validate(other, quick=True).usable[0]
    for number, path in image_files.index(other / clip.folder).items():
        path.write_bytes(b"not looked at")
        if number == clip.apex:
            path.unlink()
    assert kinds(other, clip.name) == {("missing frame", f"frame {clip.apex - 1} is used")}
    for number, path in image_files.index(other / clip.folder).items():
        if clip.onset < number < clip.offset:
            path.unlink()
    assert ("missing frame", LEFT_OUT) in kinds(other, clip.name)


def test_folders_without_a_row_in_other_formats(other: Path) -> None:
    """Named where every folder should have a row: not among the recordings of CAS(ME)^3."""
    spare, reported = {
        "casme2": ("CASME2_RAW_selected/sub02/EP77_01", True),
        "smic": ("s02/s2_ne_09", True),
        "mmew": ("Micro_Expression/fear/S02-09-001", True),
        "casme3": ("spNo.2/z/color", False),
    }[other.name]
    path = other / spare
    path.mkdir(parents=True)
    assert kinds(other, path.name) == set()  # nothing is in it
    (path / "image1.jpg").write_bytes(b"not looked at")
    (path.parent / ".hidden").mkdir()
    (path.parent / ".hidden" / "1.jpg").write_bytes(b"")
    assert kinds(other, path.name) == ({("no row", "it is passed over")} if reported else set())
    assert "no row" not in {found for found, _ in kinds(other, ".hidden")}


@pytest.mark.parametrize("drawn", ["casme3"], indirect=True)
def test_cut_clips_without_a_row(other: Path) -> None:
    """The clips that were cut from the recordings of CAS(ME)^3 each have a row."""
    named = validate(other, quick=True).usable[0].name
    for name in (named, named.lower(), "spNo.1_a_999999"):
        folder = other / "Part_A_ME_clip/frame" / name
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(b"not looked at")
    found = [
        defect.clip for defect in validate(other, quick=True).defects if defect.kind == "no row"
    ]
    assert found == ["spNo.1_a_999999"]


@pytest.mark.parametrize("drawn", ["casme2"], indirect=True)
def test_a_row_with_defects_names_its_folder(other: Path) -> None:
    """A clip that a wrong row costs is not taken for one without a row."""
    book = FORMATS["casme2"].find_workbook(other)
    sheet = (table := openpyxl.load_workbook(book)).active
    sheet.cell(2, 4).value = "?"
    sheet.cell(3, 9).value = "boredom"
    table.save(book)
    found = validate(other, quick=True)
    assert (found.rows, "no row" in {defect.kind for defect in found.defects}) == (28, False)


@pytest.mark.parametrize("drawn", ["smic"], indirect=True)
def test_same_number_in_a_recording(other: Path) -> None:
    """It concerns the expression it is in, and neither another one nor the face at rest."""
    clips = {clip.name: clip for clip in validate(other, quick=True).usable}
    second = clips["s3_ne_02#2"]
    for number in (second.apex, second.offset + 1):
        (other / second.folder / f"z_{number:08d}.jpg").write_bytes(b"not looked at")
    repair = "the first in alphabetical order is used"
    assert kinds(other, "s3_ne_02#2") == {("same number", repair)}
    assert kinds(other, "s3_ne_02") == set()


def test_format_that_has_to_be_said(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A workbook of another format is refused, and so is the name of none."""
    assert command(drawn, "--dataset", "samm") == 1
    assert "copy the one of the SAMM release there" in capsys.readouterr().err
    with pytest.raises(ValueError, match="dataset: got 'dfme', expected one of samm, casme2"):
        validate(drawn, dataset="dfme")

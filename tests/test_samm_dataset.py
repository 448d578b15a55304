"""Loading a data set: frames as the settings say, defects that stop nothing else, and the cache."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from memx_fast.samm import dataset
from memx_fast.samm.annotations import LEFT_OUT
from memx_fast.samm.dataset import ClipSet
from memx_fast.samm.faces import Detector
from memx_fast.samm.sampling import sample
from memx_fast.samm.synthetic_scene import Course, Person
from memx_fast.samm.synthetic_table import WORKBOOK, PlannedClip, plan, write_workbook

SIZE = (170, 136)
CLIPS = ("006", "007", "009")


@pytest.fixture(scope="module")
def rows() -> list[PlannedClip]:
    """The first clip of three subjects."""
    everything = plan(0)
    return [next(row for row in everything if row.clip.subject == name) for name in CLIPS]


@pytest.fixture(scope="module")
def films(rows: list[PlannedClip]) -> dict[str, np.ndarray]:
    """Nine frames, (9, H, W), by name of clip."""
    found = {}
    for number, row in enumerate(rows):
        course = Course(9, 4, row.expression, 1.0, False, False, False)
        found[row.clip.name] = np.stack(list(Person(SIZE, [0, 2, number]).film(course, [number])))
    return found


@pytest.fixture
def root(tmp_path: Path, rows: list[PlannedClip], films: dict[str, np.ndarray]) -> Path:
    """A small data set on disk: a workbook and the frames that sampling chooses."""
    path = tmp_path / "data"
    path.mkdir()
    write_workbook(path / WORKBOOK, rows)
    for row in rows:
        clip = row.clip
        (path / clip.subject / clip.name).mkdir(parents=True)
        chosen = sample(clip.onset, clip.apex, clip.offset)
        for number, frame in zip(chosen, films[clip.name], strict=True):
            file = path / clip.subject / clip.name / f"{clip.subject}_{number:05d}.jpg"
            cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tofile(file)
    return path


@pytest.fixture
def load(root: Path, tmp_path: Path) -> Any:
    """``dataset.load`` of that data set, with a cache of its own."""
    return lambda **settings: dataset.load(root, cache_dir=tmp_path / "cache", **settings)


def frame_file(root: Path, row: PlannedClip, number: int) -> Path:
    """One file of a clip."""
    clip = row.clip
    return root / clip.subject / clip.name / f"{clip.subject}_{number:05d}.jpg"


def same(one: ClipSet, other: ClipSet) -> bool:
    """Whether two results are equal in everything."""
    return (
        one.clips == other.clips
        and one.defects == other.defects
        and np.array_equal(one.frames, other.frames)
    )


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, whoever decodes a frame fails."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr(dataset.image_files, "read", fail)


def test_shapes_and_order(load: Any, rows: list[PlannedClip]) -> None:
    """Clips as in the workbook, frames (N, T, C, H, W) in uint8, no defects."""
    found = load()
    assert found.clips == [row.clip for row in rows]
    assert found.frames.shape == (3, 9, 1, 90, 90)
    assert found.frames.dtype == np.uint8
    assert found.frames.flags.c_contiguous
    assert (len(found), found.defects) == (3, [])


def test_whole_frames(load: Any, films: dict[str, np.ndarray]) -> None:
    """Without cropping, each frame is the whole picture shrunk, in the order of time."""
    found = load(crop=False, size=34)
    for clip, frames in zip(found.clips, found.frames, strict=True):
        expected = np.stack(
            [cv2.resize(f, (34, 34), interpolation=cv2.INTER_AREA) for f in films[clip.name]]
        )
        # What JPEG loses is averaged over the 20 pixels behind each.
        assert np.abs(frames[:, 0].astype(int) - expected).mean() < 1


def test_cropped_frames_share_one_box(load: Any, films: dict[str, np.ndarray]) -> None:
    """All frames of a clip are cut where the face of the onset frame is."""
    found = load(size=40)
    for clip, frames in zip(found.clips, found.frames, strict=True):
        box = Detector().find(films[clip.name][0])
        assert box is not None
        part = films[clip.name][:, box.top : box.top + box.side, box.left : box.left + box.side]
        expected = np.stack([cv2.resize(f, (40, 40), interpolation=cv2.INTER_AREA) for f in part])
        # The detector may see the compressed frame a few pixels off the one before compression.
        assert np.abs(frames[:, 0].astype(int) - expected).mean() < 12
        change = np.abs(np.diff(frames[:, 0].astype(int), axis=0)).mean()
        assert change < 4, "the box moves within the clip"


def test_other_settings(load: Any) -> None:
    """Frames a clip, size and channels; grey files have three equal channels."""
    found = load(size=24, frames=3, channels=3)
    assert found.frames.shape == (3, 3, 3, 24, 24)
    assert np.array_equal(found.frames[:, :, 0], found.frames[:, :, 2])


def test_second_load_decodes_nothing(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache gives back exactly what was decoded."""
    first = load()
    forbid_decoding(monkeypatch)
    assert same(load(), first)


@pytest.mark.parametrize(
    "settings", [{"size": 32}, {"frames": 5}, {"channels": 3}, {"crop": False}], ids=str
)
def test_settings_are_part_of_the_key(
    load: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Other settings are never answered with the frames of these."""
    load()
    forbid_decoding(monkeypatch)
    with pytest.raises(AssertionError, match="decoded"):
        load(**settings)


def test_changed_file_is_noticed(load: Any, root: Path, rows: list[PlannedClip]) -> None:
    """Another content of one frame file, of the same size even, gives other frames."""
    first = load(crop=False)
    file = frame_file(root, rows[1], rows[1].clip.apex)
    other = frame_file(root, rows[0], rows[0].clip.apex).read_bytes()
    time = file.stat().st_mtime_ns
    file.write_bytes(other)
    os.utime(file, ns=(time + 1, time + 1))
    second = load(crop=False)
    assert not np.array_equal(second.frames[1], first.frames[1])
    assert np.array_equal(second.frames[0], first.frames[0])


def test_changed_workbook_is_noticed(load: Any, root: Path, rows: list[PlannedClip]) -> None:
    """New annotations are never answered with old frames or labels."""
    load()
    clip = rows[0].clip
    changed = replace(rows[0], clip=replace(clip, emotion="Fear", action_units="20"))
    write_workbook(root / WORKBOOK, [changed, *rows[1:]])
    assert load().clips[0].emotion == "Fear"


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "empty"])
def test_damaged_cache_is_rebuilt(
    load: Any, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not as it was written is never trusted; afterwards the entry is whole again."""
    first = load()
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    entry.write_bytes({"flipped bit": bytes(broken), "cut short": whole[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert same(load(), first)
    assert "damaged" in caplog.text
    assert entry.read_bytes() == whole


def test_cache_leaves_no_other_files(load: Any, tmp_path: Path) -> None:
    """One file an entry: nothing half-written stays behind."""
    load()
    load(size=32)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".frames", ".frames"]


def test_cache_that_cannot_be_written(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The data is there all the same, with a warning."""
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert len(dataset.load(root, cache_dir=occupied)) == 3
    assert "cannot write the cache" in caplog.text
    assert occupied.read_text() == "not a folder"


def test_default_cache_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under XDG_CACHE_HOME."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    dataset.load(root)
    assert len(list((tmp_path / "home" / "memx_fast").iterdir())) == 1


def test_defects_of_one_clip_leave_the_others(
    load: Any, root: Path, rows: list[PlannedClip], caplog: pytest.LogCaptureFixture
) -> None:
    """A clip without frames is left out and logged, from the cache too; strict refuses."""
    for file in (root / rows[1].clip.subject / rows[1].clip.name).iterdir():
        file.unlink()
    for _ in range(2):
        caplog.clear()
        found = load()
        assert [clip.name for clip in found.clips] == [rows[0].clip.name, rows[2].clip.name]
        assert found.frames.shape[0] == 2
        assert [(defect.clip, defect.repair) for defect in found.defects] == [
            (rows[1].clip.name, LEFT_OUT)
        ]
        assert rows[1].clip.name in caplog.text
        with pytest.raises(ValueError, match=f"1 defects:\n.*{rows[1].clip.name}"):
            load(strict=True)


def test_defects_of_annotations_come_along(load: Any, root: Path, rows: list[PlannedClip]) -> None:
    """Defects of the workbook and of the files are in one list; strict stops at the workbook's."""
    write_workbook(root / WORKBOOK, [replace(rows[0], written_apex=0), *rows[1:]])
    frame_file(root, rows[2], rows[2].clip.onset).unlink()
    (root / rows[2].clip.subject / rows[2].clip.name / "006_1.jpg").write_bytes(b"")
    kinds = [defect.kind for defect in load().defects]
    assert kinds[0] == "apex outside"
    assert "missing frame" in kinds
    with pytest.raises(ValueError, match="apex outside"):
        load(strict=True)


def test_no_face(load: Any, root: Path, rows: list[PlannedClip]) -> None:
    """Frames without a face are cut in the middle, with a defect; without cropping all is well."""
    for file in (root / rows[0].clip.subject / rows[0].clip.name).iterdir():
        blank = np.full((SIZE[1], SIZE[0]), 100, np.uint8)
        blank[:, :17] = blank[:, -17:] = 200
        cv2.imencode(".jpg", blank)[1].tofile(file)
    found = load()
    assert [(defect.clip, defect.kind) for defect in found.defects] == [
        (rows[0].clip.name, "no face")
    ]
    assert np.abs(found.frames[0, :, :, :, 3:-3].astype(int) - 100).max() < 10
    assert load(crop=False).defects == []


def test_nothing_to_load(load: Any, root: Path, rows: list[PlannedClip], tmp_path: Path) -> None:
    """No folder, no workbook, not one clip: each says what was expected and where."""
    with pytest.raises(FileNotFoundError, match=r"root: .*nowhere"):
        dataset.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Micro_FACS_Codes"):
        dataset.load(tmp_path / "empty")
    absent = [replace(row, clip=replace(row.clip, name="036_1_1", subject="036")) for row in rows]
    write_workbook(root / WORKBOOK, absent[:1])
    with pytest.raises(ValueError, match=r"not one clip.*036_1_1"):
        load()


def test_workbook_elsewhere(root: Path, tmp_path: Path) -> None:
    """The annotations may be named explicitly."""
    elsewhere = (root / WORKBOOK).rename(tmp_path / "codes.xlsx")
    assert len(dataset.load(root, workbook=elsewhere, cache_dir=tmp_path / "cache")) == 3


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"size": 4}, ValueError),
        ({"frames": 2}, ValueError),
        ({"channels": 2}, ValueError),
        ({"size": 9.5}, TypeError),
        ({"frames": "9"}, TypeError),
    ],
    ids=str,
)
def test_wrong_settings(load: Any, settings: dict[str, Any], error: type[Exception]) -> None:
    """The message names the argument and what came."""
    ((name, value),) = settings.items()
    with pytest.raises(error, match=f"{name}: got {value!r}"):
        load(**settings)


def test_dangling_link_stops_nothing(load: Any, root: Path, rows: list[PlannedClip]) -> None:
    """A link whose target is gone is a frame that cannot be read, and mending it is noticed."""
    path = frame_file(root, rows[0], rows[0].clip.apex)
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to("nowhere")
    found = load()
    assert any(str(path) in str(defect) for defect in found.defects)
    path.unlink()
    target.rename(path)
    assert not load().defects

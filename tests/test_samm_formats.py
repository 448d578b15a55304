"""Formats of data sets: recognised, read from their miniatures, every defect named and repaired."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openpyxl
import pytest

from memx_fast.samm import dataset, miniatures
from memx_fast.samm.annotations import LEFT_OUT, Clip, Defect
from memx_fast.samm.formats import FORMATS, open_format
from memx_fast.samm.sampling import sample
from memx_fast.samm.validation import validate

PLACES = {
    "casme2": r"CASME2_RAW_selected/sub0[1-6]/EP\d\d(_\d\d)?f?/img\d+\.jpg",
    "smic": r"s0[1-6]/s[1-6]_(ne|po|sur)_0[12]/image\d{6}\.jpg",
    "mmew": r"Micro_Expression/[a-z]+/S0[1-6]-0[1-5]-001/\d+\.jpg",
    "casme3": r"spNo\.[1-6]/[abe]/color/\d+\.jpg",
}
NAMES = {
    "casme2": r"sub0[1-6]_EP\w+",
    "smic": r"s[1-6]_(ne|po|sur)_0[12](#2)?",
    "mmew": r"S0[1-6]-0[1-5]-001",
    "casme3": r"spNO\.[1-6]_[abe]_\d+",
}
WORKBOOKS = {
    "casme2": "CASME2-coding-20190701.xlsx",
    "smic": "SMIC-HS-E_annotation.xlsx",
    "mmew": "MMEW_Micro_Exp.xlsx",
    "casme3": "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
}
HEADERS = {
    "casme2": (
        *("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None),
        *("Action Units", "Estimated Emotion"),
    ),
    "smic": (
        *("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", None, "FirstF"),
        *("LastF", "TotalMF1", "TotalMF2", "TotalVL", "Emotion"),
    ),
    "mmew": (
        *("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units"),
        *("Estimated Emotion", "remarks"),
    ),
    "casme3": (
        "Subject",
        "Filename",
        "Onset",
        "Apex",
        "Offset",
        "AU",
        "Objective class",
        "emotion",
    ),
}
GOOD: dict[str, dict[str, Any]] = {
    "casme2": {"Subject": "01", "Filename": "EP02_01f", "Estimated Emotion": "disgust"},
    "smic": {"Subject": 3, "Filename": "s3_ne_02", "Emotion": "negative"},
    "mmew": {"Subject": 13, "Filename": "S13-07-001", "Estimated Emotion": "fear"},
    "casme3": {"Subject": "spNO.1", "Filename": "a", "emotion": "happy"},
}
ONSETS = {"casme2": "OnsetFrame", "smic": "OnsetF", "mmew": "OnsetFrame", "casme3": "Onset"}
APEXES = {"casme2": "ApexFrame", "mmew": "ApexFrame", "casme3": "Apex"}
OFFSETS = {"casme2": "OffsetFrame", "smic": "OffsetF", "mmew": "OffsetFrame", "casme3": "Offset"}
every_format = pytest.mark.parametrize("name", list(PLACES))
with_apexes = pytest.mark.parametrize("name", list(APEXES))


@pytest.fixture(scope="module", params=list(PLACES))
def miniature(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set in each of the formats; the folder has the name of the format."""
    root: Path = tmp_path_factory.mktemp("miniatures") / request.param
    miniatures.generate(root, request.param, frame_size=(120, 96))
    return root


def row(name: str, **cells: Any) -> list[Any]:
    """A line of the sheet of a format: 100, 130, 170, unless something else is said."""
    usual = {ONSETS[name]: 100, OFFSETS[name]: 170} | (
        {APEXES[name]: 130} if name in APEXES else {}
    )
    values = usual | GOOD[name] | cells
    assert set(values) <= set(HEADERS[name])
    return [values.get(title) for title in HEADERS[name]]


def release(root: Path, name: str, rows: Sequence[Sequence[Any]]) -> Path:
    """A data set of a workbook alone."""
    book = openpyxl.Workbook()
    book.active.append(HEADERS[name])
    for cells in rows:
        book.active.append(list(cells))
    root.mkdir(exist_ok=True)
    book.save(root / WORKBOOKS[name])
    return root


def read(root: Path, name: str, *rows: Sequence[Any]) -> tuple[list[Clip], list[Defect]]:
    return FORMATS[name].read(release(root, name, rows))


def image(path: Path) -> None:
    """One JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes())


def test_miniature_is_as_the_release(miniature: Path) -> None:
    """Folders and files are called as in the release, and every frame between onset and offset of
    every clip is there.
    """
    name = miniature.name
    files = [path.relative_to(miniature).as_posix() for path in miniature.rglob("*.jpg")]
    assert len(files) > 300
    assert not [file for file in files if not re.fullmatch(PLACES[name], file)]
    found = validate(miniature, quick=True)
    clips = found.usable
    assert found.form.name == name
    assert found.rows == len(clips) == {"casme2": 30, "smic": 25, "mmew": 30, "casme3": 24}[name]
    assert len({clip.subject for clip in clips}) == 6
    assert {clip.dataset for clip in clips} == {name}
    assert not [clip.name for clip in clips if not re.fullmatch(NAMES[name], clip.name)]
    for clip in clips:
        there = {
            int(re.findall(r"\d+", file.stem)[-1]) for file in (miniature / clip.folder).iterdir()
        }
        assert set(range(clip.onset, clip.offset + 1)) <= there


def test_miniature_has_the_oddities_of_the_release(miniature: Path) -> None:
    """Those that are defects are repaired, those that are not are read."""
    found = validate(miniature, quick=True)
    clips, defects = found.usable, found.defects
    assert [(defect.clip, defect.kind) for defect in defects if "spNO" not in defect.clip] == {
        "casme2": [("sub04_EP12_03f", "apex missing"), ("sub05_EP03_02", "order")],
        "smic": [],
        "mmew": [("S05-02-001", "frame number"), ("S05-02-001", "apex missing")],
        "casme3": [],
    }[miniature.name]
    names = [clip.name for clip in clips]
    by_name = dict(zip(names, clips, strict=True))
    match miniature.name:
        case "casme2":
            assert sum(name.endswith("EP02_01f") for name in names) == 6
            assert {clip.emotion for clip in clips} > {"Repression", "Other", "Fear", "Sadness"}
        case "smic":
            first, second = by_name["s3_ne_02"], by_name["s3_ne_02#2"]
            assert first.folder == second.folder == "s03/s3_ne_02"
            assert first.offset < second.onset
            assert all(clip.apex == (clip.onset + clip.offset) // 2 for clip in clips)
            assert {clip.emotion for clip in clips} == {"Negative", "Positive", "Surprise"}
        case "mmew":
            assert by_name["S02-01-001"].emotion == "Happiness"
            assert by_name["S02-01-001"].folder == "Micro_Expression/others/S02-01-001"
        case "casme3":
            (defect,) = defects
            assert defect.kind == "apex at onset"
            assert defect.clip.startswith("spNO.2_b_")
            together = [clip for clip in clips if clip.folder == "spNo.1/a/color"]
            assert [clip.emotion for clip in together] == ["Happiness", "Disgust"]


def test_frames_of_a_miniature(miniature: Path, tmp_path: Path) -> None:
    """The frames that sampling chooses, of the right files; strict refuses what has defects."""
    found = dataset.load(miniature, size=96, frames=3, crop=False, cache_dir=tmp_path)
    assert found.frames.shape == (len(found.clips), 3, 1, 96, 96)
    for clip, frames in zip(found.clips, found.frames, strict=True):
        for number, frame in zip(
            sample(clip.onset, clip.apex, clip.offset, 3), frames, strict=True
        ):
            (file,) = [
                path
                for path in (miniature / clip.folder).iterdir()
                if int(re.findall(r"\d+", path.stem)[-1]) == number
            ]
            grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            assert np.array_equal(
                frame[0], cv2.resize(grey, (96, 96), interpolation=cv2.INTER_AREA)
            )
    again = dataset.load(miniature, size=96, frames=3, crop=False, cache_dir=tmp_path)
    assert (again.clips, again.defects) == (found.clips, found.defects)
    if found.defects:
        with pytest.raises(ValueError, match=f"strict: the data has {len(found.defects)} defects"):
            dataset.load(miniature, strict=True, cache_dir=tmp_path)


def test_miniature_is_made_once(miniature: Path) -> None:
    """The same settings leave it as it is, others are refused, motion 0 keeps the face at rest."""
    before = {path: path.stat().st_mtime_ns for path in miniature.rglob("*")}
    miniatures.generate(miniature, miniature.name, frame_size=(120, 96))
    assert {path: path.stat().st_mtime_ns for path in miniature.rglob("*")} == before
    with pytest.raises(ValueError, match="other settings"):
        miniatures.generate(miniature, miniature.name, frame_size=(120, 96), seed=1)
    with pytest.raises(ValueError, match="motion: got 3"):
        miniatures.generate(miniature, miniature.name, motion=3)


def test_miniature_of_an_unknown_format(tmp_path: Path) -> None:
    """It is refused by name."""
    with pytest.raises(
        ValueError, match="dataset: got 'cohn-kanade', expected one of casme2, smic"
    ):
        miniatures.generate(tmp_path / "x", "cohn-kanade")


@every_format
def test_a_row_as_it_should_be(tmp_path: Path, name: str) -> None:
    """No defect; the apex is where the workbook says, or in the middle if it says nothing."""
    (clip,), defects = read(tmp_path, name, row(name))
    apex = 130 if name in APEXES else 135
    assert (clip.onset, clip.apex, clip.offset, defects) == (100, apex, 170, [])
    assert (clip.dataset, clip.subject, clip.name, clip.emotion, clip.folder) == {
        "casme2": ("casme2", "sub01", "sub01_EP02_01f", "Disgust", "sub01/EP02_01f"),
        "smic": ("smic", "s03", "s3_ne_02", "Negative", "s03/s3_ne_02"),
        "mmew": ("mmew", "S13", "S13-07-001", "Fear", "Micro_Expression/fear/S13-07-001"),
        "casme3": ("casme3", "spNO.1", "spNO.1_a_100", "Happiness", "spNO.1/a/color"),
    }[name]


@with_apexes
@pytest.mark.parametrize(
    ("apex", "kind", "repaired"),
    [
        ("/", "apex missing", 135),
        (None, "apex missing", 135),
        (230, "apex outside", 130),
        (99, "apex outside", 135),
        (100, "apex at onset", 135),
    ],
)
def test_wrong_apexes(tmp_path: Path, name: str, apex: Any, kind: str, repaired: int) -> None:
    """The only number inside one digit away, otherwise the middle; the onset cannot be the apex."""
    (clip,), (defect,) = read(tmp_path, name, row(name, **{APEXES[name]: apex}))
    assert (clip.apex, defect.kind, defect.repair) == (repaired, kind, f"frame {repaired} is used")
    assert defect.clip == clip.name


@with_apexes
def test_a_clip_of_one_frame(tmp_path: Path, name: str) -> None:
    """Where onset and offset are one frame, the apex cannot be another."""
    cells = {APEXES[name]: 100, OFFSETS[name]: 100}
    (clip,), defects = read(tmp_path, name, row(name, **cells))
    assert (clip.apex, defects) == (100, [])


@every_format
@pytest.mark.parametrize("onset", [None, "?", -1, 99.5])
def test_an_onset_that_is_no_number(tmp_path: Path, name: str, onset: Any) -> None:
    """It costs the clip, and no other."""
    clips, (defect,) = read(tmp_path, name, row(name, **{ONSETS[name]: onset}), good(name, 2))
    assert (defect.kind, defect.repair) == ("frame number", LEFT_OUT)
    assert len(clips) == 1


@every_format
@pytest.mark.parametrize(("offset", "kind"), [(None, "frame number"), (99, "order")])
def test_a_wrong_offset(tmp_path: Path, name: str, offset: Any, kind: str) -> None:
    """The last frame file serves where the folder holds that clip alone, and starts before it;
    otherwise the clip is left out.
    """
    cells = row(name, **{OFFSETS[name]: offset})
    clips, defects = read(tmp_path, name, cells)
    assert (clips, [(defect.kind, defect.repair) for defect in defects]) == ([], [(kind, LEFT_OUT)])
    (clip,), _ = read(tmp_path, name, row(name))
    for number in (90, 160, 158):
        image(tmp_path / clip.folder / f"image{number}.jpg")
    clips, defects = read(tmp_path, name, cells)
    repair = "the last frame there is, 160, is used"
    expected = [160] if name in ("casme2", "mmew") else []
    assert [clip.offset for clip in clips] == expected
    assert [(defect.kind, defect.repair) for defect in defects] == [
        (kind, repair if expected else LEFT_OUT)
    ]
    (tmp_path / clip.folder / "image160.jpg").unlink()
    (tmp_path / clip.folder / "image158.jpg").unlink()
    assert read(tmp_path, name, cells)[0] == []


@every_format
def test_an_offset_after_the_last_frame(tmp_path: Path, name: str) -> None:
    """It moves to the last frame where the folder holds that clip alone, and the apex is judged by
    that; in a recording a missing frame is missing.
    """
    (clip,), _ = read(tmp_path, name, row(name))
    for number in (100, 120):
        image(tmp_path / clip.folder / f"image{number}.jpg")
    (clip,), defects = read(tmp_path, name, row(name))
    if name in ("casme2", "mmew"):
        assert (clip.apex, clip.offset) == (110, 120)
        assert [defect.kind for defect in defects] == ["offset outside", "apex outside"]
        assert defects[0].repair == "the last frame there is, 120, is used"
    else:
        assert (clip.offset, defects) == (170, [])


@every_format
def test_an_unknown_emotion(tmp_path: Path, name: str) -> None:
    """It costs the clip; the message lists what there is."""
    title = "emotion" if name == "casme3" else "Emotion" if name == "smic" else "Estimated Emotion"
    clips, (defect,) = read(tmp_path, name, row(name, **{title: "boredom"}))
    assert (clips, defect.kind, defect.repair) == ([], "emotion", LEFT_OUT)
    assert "Surprise" in defect.message


@every_format
def test_a_clip_annotated_twice(tmp_path: Path, name: str) -> None:
    """The first row counts."""
    clips, (defect,) = read(tmp_path, name, row(name), row(name, **{OFFSETS[name]: 171}))
    assert [clip.offset for clip in clips] == [170]
    assert (defect.clip, defect.kind) == (clips[0].name, "duplicate")


@every_format
def test_a_note_is_no_row(tmp_path: Path, name: str) -> None:
    """Text in the first column, and nothing else."""
    clips, defects = read(tmp_path, name, row(name), ["Frames are counted from 1"])
    assert (len(clips), defects) == (1, [])


@every_format
@pytest.mark.parametrize("filename", ["../../etc", "", "a/b", "total"])
def test_a_name_of_no_clip(tmp_path: Path, name: str, filename: str) -> None:
    """What is no name in that format costs the row; nothing outside the folder is looked at."""
    if name == "casme3" and filename == "total":
        filename = "7"  # a recording may have any word for a name
    clips, (defect,) = read(tmp_path, name, row(name, Filename=filename))
    assert (clips, defect.kind, defect.repair) == ([], "clip name", LEFT_OUT)
    assert "row 2" in str(defect)


@pytest.mark.parametrize("subject", ["x", None, "-1"])
@pytest.mark.parametrize("name", ["casme2", "casme3"])
def test_a_subject_nobody_can_be(tmp_path: Path, name: str, subject: Any) -> None:
    """Where the name does not say whose the clip is, it costs the clip."""
    clips, (defect,) = read(tmp_path, name, row(name, Subject=subject))
    assert (clips, defect.kind, defect.repair) == ([], "subject", LEFT_OUT)


@pytest.mark.parametrize("subject", [4, "x", None])
@pytest.mark.parametrize("name", ["smic", "mmew"])
def test_a_subject_that_is_not_the_names(tmp_path: Path, name: str, subject: Any) -> None:
    """The name is right, as in SAMM."""
    (clip,), (defect,) = read(tmp_path, name, row(name, Subject=subject))
    assert defect.kind == "subject"
    assert clip.subject == {"smic": "s03", "mmew": "S13"}[name]
    assert repr(clip.subject) in defect.repair


@pytest.mark.parametrize("subject", [1, "1", "01", 1.0])
def test_numbers_of_subjects(tmp_path: Path, subject: Any) -> None:
    """With zeros in front or without, as text or as a number."""
    (clip,), defects = read(tmp_path, "casme2", row("casme2", Subject=subject))
    assert (clip.subject, defects) == ("sub01", [])


def test_three_expressions_in_one_recording(tmp_path: Path) -> None:
    """Onset3F and Offset3F are read where the workbook has them; half a pair is a defect."""
    book = openpyxl.Workbook()
    header = ["Subject", "Filename", "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F"]
    book.active.append([*header, "Offset3F", "Emotion"])
    book.active.append([3, "s3_po_01", 10, 20, 30, 40, 50, 61, "positive"])
    book.active.append([4, "s4_po_01", 10, 20, 30, None, None, None, "positive"])
    book.save(tmp_path / WORKBOOKS["smic"])
    clips, (defect,) = FORMATS["smic"].read(tmp_path)
    assert [(clip.name, clip.onset, clip.apex, clip.offset) for clip in clips] == [
        ("s3_po_01", 10, 15, 20),
        ("s3_po_01#2", 30, 35, 40),
        ("s3_po_01#3", 50, 55, 61),
        ("s4_po_01", 10, 15, 20),
    ]
    assert (defect.clip, defect.kind) == ("s4_po_01#2", "frame number")


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("casme2", "CASME2-RAW/Sub01/EP02_01f/img100.jpg", "CASME2-RAW/Sub01/EP02_01f"),
        ("casme2", "Cropped/sub01/EP02_01f/reg_img100.jpg", "Cropped/sub01/EP02_01f"),
        ("casme2", "sub01/EP02_01f/img100.jpg", "sub01/EP02_01f"),
        ("smic", "SMIC-HS-E/s03/s3_ne_02/image000100.jpg", "SMIC-HS-E/s03/s3_ne_02"),
        ("smic", "HS/s03/s3_ne_02/image000100.bmp", "HS/s03/s3_ne_02"),
        ("mmew", "fear/S13-07-001/100.jpg", "fear/S13-07-001"),
        ("mmew", "Micro_Expression/Fear/S13-07-001/1.jpg", "Micro_Expression/Fear/S13-07-001"),
        ("mmew", "Micro_Expression/anger/S13-07-001/1.jpg", "Micro_Expression/anger/S13-07-001"),
        ("casme3", "part_A/data/ME_A/spNo.1/a/color/1.jpg", "part_A/data/ME_A/spNo.1/a/color"),
        ("casme3", "Part_A_ME_clip/frame/spNo.1_a_100/1.jpg", "Part_A_ME_clip/frame/spNo.1_a_100"),
        ("casme3", "frame/spNo.1_a_100/100.jpg", "frame/spNo.1_a_100"),
    ],
)
def test_where_frames_may_be(tmp_path: Path, name: str, file: str, folder: str) -> None:
    """The folders that releases, and the people who unpack them, have; case does not matter."""
    image(tmp_path / file)
    (clip,), _ = read(tmp_path, name, row(name))
    assert clip.folder == folder


def test_original_frames_before_cropped_ones(tmp_path: Path) -> None:
    """Of two folders with the clip the uncropped one is read, and the label is the workbook's."""
    for folder in ("Cropped", "CASME2_RAW_selected"):
        image(tmp_path / folder / "sub01/EP02_01f/img100.jpg")
    (clip,), _ = read(tmp_path, "casme2", row("casme2"))
    assert clip.folder.startswith("CASME2_RAW_selected/")
    for folder in ("anger", "fear"):
        image(tmp_path / "Micro_Expression" / folder / "S13-07-001/1.jpg")
    (clip,), _ = read(tmp_path, "mmew", row("mmew"))
    assert (clip.emotion, clip.folder) == ("Fear", "Micro_Expression/fear/S13-07-001")


@every_format
def test_not_one_clip_can_be_read(tmp_path: Path, name: str) -> None:
    """The message says where frames are expected."""
    root = release(tmp_path / "data", name, [row(name)])
    with pytest.raises(ValueError, match=re.escape(f"expected in {FORMATS[name].layout}")):
        dataset.load(root, cache_dir=tmp_path)


def good(name: str, number: int) -> list[Any]:
    """A row of another clip."""
    other = {"casme2": "EP02_0{}f", "smic": "s3_po_0{}", "mmew": "S13-06-00{}", "casme3": "b{}"}
    return row(name, Filename=other[name].format(number))


@every_format
def test_recognised_by_the_workbook(tmp_path: Path, name: str) -> None:
    """Its name decides, whatever the case; so it does where the workbook lies elsewhere."""
    root = release(tmp_path / "data", name, [row(name)])
    assert open_format(root) == (FORMATS[name], root / WORKBOOKS[name])
    elsewhere = tmp_path / WORKBOOKS[name].upper()
    (root / WORKBOOKS[name]).rename(elsewhere)
    assert open_format(root, workbook=elsewhere) == (FORMATS[name], elsewhere)
    with pytest.raises(FileNotFoundError, match=r"no annotation workbook in .*CASME2.*SMIC-HS"):
        open_format(root)
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"copy the one of the {FORMATS[name].title}")
    ):
        open_format(root, name)


@every_format
def test_recognised_by_the_columns(tmp_path: Path, name: str) -> None:
    """A workbook with a name of its own; CASME II and MMEW have the same columns, so one says."""
    root = release(tmp_path, name, [row(name)])
    book = root / "labels.xlsx"
    (root / WORKBOOKS[name]).rename(book)
    if name in ("casme2", "mmew"):
        with pytest.raises(
            ValueError, match=r"dataset: .*could be that of casme2, mmew; say which"
        ):
            open_format(root, workbook=book)
    else:
        assert open_format(root, workbook=book)[0].name == name
    assert open_format(root, name, book)[0].name == name
    empty = root / "empty.xlsx"
    openpyxl.Workbook().save(empty)
    with pytest.raises(ValueError, match="has the columns of none of samm, casme2"):
        open_format(root, workbook=empty)
    empty.write_bytes(b"no zip archive")
    with pytest.raises(ValueError, match=r"empty\.xlsx is no readable \.xlsx or \.csv"):
        open_format(root, workbook=empty)


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    """It has to be said which; of two workbooks, which; and files in the old form are refused."""
    release(tmp_path, "casme2", [row("casme2")])
    release(tmp_path, "mmew", [row("mmew")])
    with pytest.raises(ValueError, match="workbooks of casme2, mmew; say which"):
        open_format(tmp_path)
    assert open_format(tmp_path, "mmew")[0] is FORMATS["mmew"]
    (tmp_path / "CASME2-coding-20140508.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match="several annotation workbooks"):
        open_format(tmp_path, "casme2")
    (tmp_path / "SMIC-HS-E_annotation.xls").write_bytes(b"")
    with pytest.raises(ValueError, match=r"annotation\.xls cannot be read; save it as \.xlsx"):
        open_format(tmp_path, "smic")
    with pytest.raises(ValueError, match="dataset: got 'dfme', expected one of samm, casme2"):
        open_format(tmp_path, "dfme")


def test_the_named_sheet_comes_first(tmp_path: Path) -> None:
    """SMIC's workbook may have sheets alike for its other cameras."""
    book = openpyxl.Workbook()
    for title, emotion in (("VIS", "negative"), ("HS", "surprise")):
        sheet = book.create_sheet(title)
        sheet.append(HEADERS["smic"])
        sheet.append(row("smic", Emotion=emotion))
    book.save(tmp_path / WORKBOOKS["smic"])
    (clip,), _ = FORMATS["smic"].read(tmp_path)
    assert clip.emotion == "Surprise"

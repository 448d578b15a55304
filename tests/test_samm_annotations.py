"""The annotation workbook: found, read whatever its form, and every defect named and repaired."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from memx_fast.samm.annotations import LEFT_OUT, Clip, Defect
from memx_fast.samm.formats import FORMATS

find_workbook = FORMATS["samm"].find_workbook

HEADER = (
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
)


def row(
    name: Any = "006_1_2",
    onset: Any = 100,
    apex: Any = 130,
    offset: Any = 170,
    emotion: Any = "Anger",
    units: Any = "4+7",
    subject: Any = None,
) -> list[Any]:
    """One line of the sheet."""
    subject = str(name)[:3] if subject is None else subject
    return [subject, name, 1, onset, apex, offset, 71, "Micro - 1/2", units, emotion, 3, None]


def workbook(folder: Path, rows: Sequence[Sequence[Any]], preamble: int = 13) -> Path:
    """Write a workbook with a sheet of something else before the annotations."""
    book = openpyxl.Workbook()
    book.active.append(["Subject", "another sheet"])
    sheet = book.create_sheet("MICRO_ONLY")
    for line in range(preamble):
        sheet.append([f"text {line}"])
    sheet.append(HEADER)
    for cells in rows:
        sheet.append(list(cells))
    path = folder / "SAMM_Micro_FACS_Codes_v2.xlsx"
    book.save(path)
    return path


def read(book: Path, strict: bool = False) -> tuple[list[Clip], list[Defect]]:
    """The clips of a workbook of SAMM."""
    return FORMATS["samm"].read(book.parent, book, strict=strict)


def only_defect(tmp_path: Path, cells: Sequence[Any]) -> tuple[list[Any], Any]:
    """Clips and the one defect of a workbook with one row."""
    clips, defects = read(workbook(tmp_path, [cells]))
    assert len(defects) == 1
    return clips, defects[0]


@pytest.mark.parametrize("preamble", [0, 1, 13])
def test_header_is_searched_for(tmp_path: Path, preamble: int) -> None:
    """The sheet and the header are found by what they say, not by where they are."""
    clips, defects = read(workbook(tmp_path, [row()], preamble))
    assert defects == []
    clip = clips[0]
    assert (clip.subject, clip.name, clip.emotion) == ("006", "006_1_2", "Anger")
    assert (clip.onset, clip.apex, clip.offset) == (100, 130, 170)


@pytest.mark.parametrize("subject", ["006", "6", 6, 6.0, " 006 "])
def test_lost_zeros_of_subjects_come_back(tmp_path: Path, subject: Any) -> None:
    """A subject that a spreadsheet took for a number is the same subject, without a defect."""
    clips, defects = read(workbook(tmp_path, [row(subject=subject)]))
    assert (clips[0].subject, defects) == ("006", [])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (12, "12"),
        ("4", "4"),
        ("(R6 or R12)+R15", "(R6 or R12)+R15"),
        ("10A/B", "10A/B"),
        ("ref(7B)+43C", "ref(7B)+43C"),
        ("T23", "T23"),
        ("R14+17+soft focus", "R14+17+soft focus"),
        ("12+15 ", "12+15 "),
        (None, ""),
    ],
)
def test_action_units_are_kept_verbatim(tmp_path: Path, cell: Any, text: str) -> None:
    """However odd a code is, it comes out as it was written, trailing blanks too."""
    clips, defects = read(workbook(tmp_path, [row(units=cell)]))
    assert (clips[0].action_units, defects) == (text, [])


@pytest.mark.parametrize("written", ["Others", "other", " Other "])
def test_spellings_of_emotions(tmp_path: Path, written: str) -> None:
    """Case, blanks and the plural of Other are no defects."""
    clips, defects = read(workbook(tmp_path, [row(emotion=written)]))
    assert (clips[0].emotion, defects) == ("Other", [])


def test_numbers_as_text(tmp_path: Path) -> None:
    """Frame numbers may be text, with or without a decimal point."""
    clips, defects = read(workbook(tmp_path, [row(onset="0100", apex="130.0", offset=170.0)]))
    assert (clips[0].onset, clips[0].apex, clips[0].offset, defects) == (100, 130, 170, [])


def test_csv_export(tmp_path: Path) -> None:
    """A CSV export reads as the workbook does, though its subjects have lost their zeros."""
    lines = ["some text", ",".join(HEADER), "6,006_1_2,1,100,130,170,71,Micro,4+7,Anger,3,", ",,,"]
    path = tmp_path / "SAMM_Micro_FACS_Codes_v2.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    expected, _ = read(workbook(tmp_path, [row()]))
    assert read(path) == (expected, [])


@pytest.mark.parametrize(
    ("onset", "apex", "offset", "repaired"),
    [
        (5212, 1247, 5290, 5247),  # one digit wrong, and only one number inside is a digit away
        (2210, 2291, 2280, 2245),  # several numbers inside are a digit away: the middle
        (8901, 9003, 8979, 8940),  # none is: the middle
        (100, 99, 170, 135),  # another number of digits: the middle
        (100, "/", 170, 135),
        (100, None, 171, 135),
    ],
)
def test_apex_outside_is_repaired(
    tmp_path: Path, onset: int, apex: Any, offset: int, repaired: int
) -> None:
    """The stated rule: the only number inside one digit away, otherwise the middle."""
    clips, defect = only_defect(tmp_path, row(onset=onset, apex=apex, offset=offset))
    assert clips[0].apex == repaired
    assert (defect.clip, defect.kind.split()[0]) == ("006_1_2", "apex")
    assert f"frame {repaired} " in defect.repair


@pytest.mark.parametrize(
    ("cells", "label", "kind"),
    [
        (row(offset=99), "006_1_2", "order"),
        (row(onset=None), "006_1_2", "frame number"),
        (row(offset="n/a"), "006_1_2", "frame number"),
        (row(onset=99.5), "006_1_2", "frame number"),
        (row(onset=-1), "006_1_2", "frame number"),
        (row(emotion="Boredom"), "006_1_2", "emotion"),
        (row(emotion=None), "006_1_2", "emotion"),
        (row(name="Total: 159"), "Total: 159", "clip name"),
        (row(name=None, subject="006"), "row 15", "clip name"),
        (row(name="../006_1_2"), "../006_1_2", "clip name"),
    ],
)
def test_rows_beyond_repair_cost_the_clip_alone(
    tmp_path: Path, cells: Sequence[Any], label: str, kind: str
) -> None:
    """The clip is left out and named; the rows after it are read."""
    clips, defects = read(workbook(tmp_path, [cells, row(name="007_3_1")]))
    assert [clip.name for clip in clips] == ["007_3_1"]
    assert [(defect.clip, defect.kind, defect.repair) for defect in defects] == [
        (label, kind, LEFT_OUT)
    ]


def test_first_of_duplicates_is_kept(tmp_path: Path) -> None:
    """A clip annotated twice is one clip, as its first row says."""
    clips, defects = read(workbook(tmp_path, [row(), row(emotion="Fear")]))
    assert [clip.emotion for clip in clips] == ["Anger"]
    assert [(defect.clip, defect.kind) for defect in defects] == [("006_1_2", "duplicate")]


@pytest.mark.parametrize("subject", ["007", ""])
def test_name_of_the_clip_decides_the_subject(tmp_path: Path, subject: str) -> None:
    """A wrong or missing subject would break the separation of subjects: the folder's is right."""
    clips, defect = only_defect(tmp_path, row(subject=subject))
    assert (clips[0].subject, defect.kind) == ("006", "subject")


def test_strict_lists_every_defect(tmp_path: Path) -> None:
    """Strict reading refuses, and names all defects at once."""
    path = workbook(tmp_path, [row(apex=99), row(name="007_3_1", emotion="Boredom"), row()])
    with pytest.raises(ValueError, match="3 defects") as refusal:
        read(path, strict=True)
    for words in ("006_1_2: apex outside", "007_3_1: emotion", "006_1_2: duplicate"):
        assert words in str(refusal.value)


def test_workbook_is_found_beside_the_subjects(tmp_path: Path) -> None:
    """By pattern, past the lock file of an office program; none and several are errors."""
    with pytest.raises(FileNotFoundError, match="Micro_FACS_Codes"):
        find_workbook(tmp_path)
    path = workbook(tmp_path, [row()])
    (tmp_path / f"~${path.name}").write_bytes(b"")
    assert find_workbook(tmp_path) == path
    (tmp_path / "old_Micro_FACS_Codes.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"v2\.xlsx, old_Micro_FACS_Codes\.xlsx"):
        find_workbook(tmp_path)


def test_files_that_are_no_workbook(tmp_path: Path) -> None:
    """A damaged file and a workbook of something else are refused by name."""
    damaged = tmp_path / "damaged.xlsx"
    damaged.write_bytes(b"no zip archive")
    with pytest.raises(ValueError, match=r"damaged\.xlsx"):
        read(damaged)
    other = tmp_path / "other.xlsx"
    openpyxl.Workbook().save(other)
    with pytest.raises(ValueError, match=r"other\.xlsx.*Onset Frame"):
        read(other)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_of_any_spreadsheet(tmp_path: Path, delimiter: str, encoding: str) -> None:
    """Separators and encodings that spreadsheet programs write."""
    path = tmp_path / "SAMM_Micro_FACS_Codes_v2.csv"
    lines = (["Überschrift"], HEADER, row())
    text = "\n".join(delimiter.join(map(str, cells)) for cells in lines)
    path.write_bytes(text.encode(encoding))
    clips, defects = read(path)
    assert [clip.name for clip in clips] == ["006_1_2"]
    assert not defects


def test_csv_in_another_encoding_is_named(tmp_path: Path) -> None:
    """The file and the way out are in the message."""
    path = tmp_path / "codes.csv"
    path.write_bytes("Überschrift\n".encode("cp1252"))
    with pytest.raises(
        ValueError, match=r"codes\.csv is no text in UTF-8 .* export it as CSV UTF-8"
    ):
        read(path)


def test_apex_of_an_endless_clip(tmp_path: Path) -> None:
    """The repair of a wrong apex does not walk through all frames of a mistyped clip."""
    clips, defects = read(workbook(tmp_path, [row(onset=100, apex=50, offset=10**12)]))
    assert clips[0].apex == (100 + 10**12) // 2
    assert [defect.kind for defect in defects] == ["apex outside"]

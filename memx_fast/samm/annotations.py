"""The annotation workbook of SAMM: a row a clip, with its frame numbers, action units and emotion.

The workbook is read as released. The sheet and the header row are searched for, so the 13 lines of
text above the header may be there or not; a CSV export of the sheet does as well. Whatever is wrong
with a row becomes a :class:`Defect`, and is repaired or costs the clip by the rules in
:func:`read`.
"""

from __future__ import annotations

import csv
import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

EMOTIONS = (
    "Anger",
    "Contempt",
    "Disgust",
    "Fear",
    "Happiness",
    "Other",
    "Sadness",
    "Surprise",
)
"""The eight values of the column *Estimated Emotion*."""

WORKBOOK_PATTERN = "*Micro_FACS_Codes*"
"""What the name of the workbook looks like; the suffix is ``.xlsx`` or ``.csv``."""

LEFT_OUT = "the clip is left out"
"""The repair of every defect that costs the clip."""

_SPELLINGS = {emotion.casefold(): emotion for emotion in EMOTIONS} | {"others": "Other"}
_CLIP_NAME = re.compile(r"(\d{3})_\d+_\d+")
_SUBJECT_DIGITS = 3
_COLUMNS = {
    "subject": "Subject",
    "filename": "Filename",
    "onset": "Onset Frame",
    "apex": "Apex Frame",
    "offset": "Offset Frame",
    "action_units": "Action Units",
    "emotion": "Estimated Emotion",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One annotated micro-expression.

    Attributes:
        subject: the participant, three digits: ``"006"``.
        name: the clip, which is also its folder: ``"006_1_2"``.
        onset: number of the first frame, counted from the start of the recording it was cut from.
        apex: number of the strongest frame; ``onset <= apex <= offset``.
        offset: number of the last frame.
        emotion: one of :data:`EMOTIONS`.
        action_units: the FACS codes exactly as the workbook has them, blanks and all.
    """

    subject: str
    name: str
    onset: int
    apex: int
    offset: int
    emotion: str
    action_units: str


@dataclass(frozen=True)
class Defect:
    """Something wrong with the data, and what was done about it.

    Attributes:
        clip: name of the clip; for a row without a usable name, the row: ``"row 17"``.
        kind: a short name for this sort of defect, such as ``"apex outside"``.
        message: what was found, where, and how a person can mend it.
        repair: what was done instead, or :data:`LEFT_OUT`.
    """

    clip: str
    kind: str
    message: str
    repair: str

    def __str__(self) -> str:
        return f"{self.clip}: {self.kind}: {self.message}; {self.repair}"


def refuse(defects: Sequence[Defect]) -> None:
    """Raise a ``ValueError`` that lists every defect, if there is any."""
    if defects:
        listing = "\n".join(f"  {defect}" for defect in defects)
        raise ValueError(f"strict: the data has {len(defects)} defects:\n{listing}")


def find_workbook(root: Path) -> Path:
    """The annotation workbook directly inside ``root``, known by :data:`WORKBOOK_PATTERN`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several, and it is not clear which one is meant.
    """
    found = sorted(
        path
        for path in root.iterdir()
        # Office programs keep a lock file "~$name.xlsx" beside an open workbook.
        if fnmatch(path.name.lower(), WORKBOOK_PATTERN.lower())
        and path.suffix.lower() in (".xlsx", ".csv")
        and not path.name.startswith(("~", "."))
    )
    if not found:
        raise FileNotFoundError(
            f"no annotation workbook {WORKBOOK_PATTERN}.xlsx (or .csv) in {root}; copy the one of "
            "the SAMM release there, or name its path (workbook)"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(
            f"several annotation workbooks in {root}: {names}; name the one to read (workbook)"
        )
    return found[0]


def read(workbook: Path, *, strict: bool = False) -> tuple[list[Clip], list[Defect]]:
    """Read every clip of an annotation workbook.

    The rules, by kind of defect:

    - *clip name*: not of the form ``<subject>_<inducement>_<number>``: the clip is left out.
    - *duplicate*: the name has occurred before: the first row is kept.
    - *subject*: missing, or not the one in the clip's name: the name is right. (Zeros lost in
      front, as in a CSV export, are put back silently.)
    - *frame number*: onset or offset missing or no whole number >= 0: the clip is left out.
    - *order*: offset before onset: the clip is left out.
    - *apex missing*, *apex outside* ``[onset, offset]``: if exactly one number inside differs from
      the given one in a single digit, that one is taken for a slip of the pen and used; otherwise
      the middle between onset and offset, rounded down.
    - *emotion*: missing or none of :data:`EMOTIONS`: the clip is left out. (Case, blanks and the
      spelling "Others" are no defects.)

    Args:
        workbook: an ``.xlsx`` file or a ``.csv`` export of its sheet.
        strict: refuse a workbook with any defect instead of repairing it.

    Returns:
        The clips in the order of the workbook, and the defects found.

    Raises:
        ValueError: the file is damaged, no sheet of it has the expected columns, or ``strict`` and
            there are defects.
    """
    clips: dict[str, Clip] = {}
    defects: list[Defect] = []
    for position, row in _table(workbook):
        name = _text(row["filename"]).strip()
        label = name or f"row {position}"
        clip: Clip | None = None
        if not _CLIP_NAME.fullmatch(name):
            message = f"{name!r} in row {position} is no name such as '006_1_2'"
            defects.append(Defect(label, "clip name", message, LEFT_OUT))
        elif name in clips:
            message = f"row {position} annotates this clip again"
            defects.append(Defect(label, "duplicate", message, "the first row is kept"))
        else:
            clip, found = _clip(name, row)
            defects.extend(found)
        if clip is not None:
            clips[name] = clip
    if strict:
        refuse(defects)
    _log.info("%s: %d clips, %d defects", workbook.name, len(clips), len(defects))
    return list(clips.values()), defects


def _clip(name: str, row: dict[str, Any]) -> tuple[Clip | None, list[Defect]]:
    """The clip of one row, or None if a defect costs it; and the row's defects."""
    defects: list[Defect] = []

    def report(kind: str, message: str, repair: str) -> None:
        defects.append(Defect(name, kind, message, repair))

    subject = name[:_SUBJECT_DIGITS]
    given = _subject(row["subject"])
    if given != subject:
        report("subject", f"the column Subject says {given!r}", f"{subject!r} is used")

    emotion = _SPELLINGS.get(_text(row["emotion"]).strip().casefold())
    if emotion is None:
        expected = ", ".join(EMOTIONS)
        report("emotion", f"{row['emotion']!r} is none of {expected}", LEFT_OUT)

    onset, offset = _frame_number(row["onset"]), _frame_number(row["offset"])
    for column, number in (("onset", onset), ("offset", offset)):
        if number is None:
            report("frame number", f"{row[column]!r} is no {column} frame number", LEFT_OUT)
    if emotion is None or onset is None or offset is None:
        return None, defects
    if offset < onset:
        report("order", f"the offset {offset} comes before the onset {onset}", LEFT_OUT)
        return None, defects

    apex = _frame_number(row["apex"])
    if apex is None or not onset <= apex <= offset:
        kind = "apex missing" if apex is None else "apex outside"
        repaired = _repaired_apex(apex, onset, offset)
        message = f"the apex {row['apex']!r} is not between onset {onset} and offset {offset}"
        report(kind, message, f"frame {repaired} is used")
        apex = repaired
    clip = Clip(subject, name, onset, apex, offset, emotion, _text(row["action_units"]))
    return clip, defects


def _repaired_apex(apex: int | None, onset: int, offset: int) -> int:
    """The only number in ``[onset, offset]`` one digit away from ``apex``, otherwise the middle."""
    digits = "" if apex is None else str(apex)
    one_digit_away = {
        int(digits[:place] + digit + digits[place + 1 :])
        for place in range(len(digits))
        for digit in "0123456789"
        if digit != digits[place] and (digit != "0" or place > 0)
    }
    inside = [number for number in one_digit_away if onset <= number <= offset]
    return inside[0] if len(inside) == 1 else (onset + offset) // 2


def _table(workbook: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number (from 1, as a spreadsheet shows it) and named cells of every row that has any."""
    for sheet in _sheets(workbook):
        header = _header(sheet)
        if header is None:
            continue
        first, columns = header
        for position, row in enumerate(sheet[first:], start=first + 1):
            cells = {
                key: row[column] if column < len(row) else None for key, column in columns.items()
            }
            if any(_text(cell).strip() for cell in cells.values()):
                yield position, cells
        return
    expected = ", ".join(_COLUMNS.values())
    raise ValueError(f"{workbook}: no sheet has a row with the columns {expected}")


def _sheets(workbook: Path) -> Iterator[list[Sequence[Any]]]:
    """The cells of every sheet, row by row."""
    if workbook.suffix.lower() == ".csv":
        # One of these separators makes columns of the text; with the others no header is found.
        for delimiter in (",", ";", "\t"):
            yield list(csv.reader(_csv_text(workbook).splitlines(), delimiter=delimiter))
        return
    try:
        book = openpyxl.load_workbook(workbook, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, SyntaxError) as error:
        raise ValueError(f"workbook: {workbook} is no readable .xlsx or .csv: {error}") from error
    for sheet in book.worksheets:
        yield list(sheet.iter_rows(values_only=True))


def _csv_text(workbook: Path) -> str:
    content = workbook.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"workbook: {workbook} is no text in UTF-8 or UTF-16 ({error}); export it as CSV UTF-8"
        ) from error


def _header(sheet: list[Sequence[Any]]) -> tuple[int, dict[str, int]] | None:
    """Index of the first row below the header, and where each needed column is."""
    for index, row in enumerate(sheet):
        titles = [" ".join(_text(cell).split()).casefold() for cell in row]
        if all(title.casefold() in titles for title in _COLUMNS.values()):
            return index + 1, {
                key: titles.index(title.casefold()) for key, title in _COLUMNS.items()
            }
    return None


def _text(cell: Any) -> str:
    """A cell as its writer typed it: 12, 12.0 and "12" are all "12", an empty cell is ""."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _subject(cell: Any) -> str:
    """The subject with the zeros that a spreadsheet takes from the front of a number."""
    text = _text(cell).strip()
    return text.zfill(_SUBJECT_DIGITS) if text.isdecimal() else text


def _frame_number(cell: Any) -> int | None:
    """A whole number >= 0, given as a number or as text; None for anything else."""
    try:
        number = float(_text(cell))
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None

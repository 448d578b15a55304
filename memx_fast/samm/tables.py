"""Tables of annotations: rows by the titles of their columns, from a workbook or its CSV export.

The sheet and the header row are searched for, so that text above the header does no harm.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

SUFFIXES = (".xlsx", ".csv")
"""Of the files that can be read."""

_NONE: Mapping[str, str] = {}


class MissingColumns(ValueError):
    """A file is a table, but of something else."""


def rows(
    workbook: Path,
    columns: Mapping[str, str],
    *,
    optional: Mapping[str, str] = _NONE,
    sheet: str = "",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row below the header that has a cell in one of the columns.

    Args:
        workbook: an ``.xlsx`` file or a ``.csv`` export of its sheet.
        columns: titles by key; case and blanks do not matter.
        optional: titles that may be missing; their cells are then None.
        sheet: the one to look into first.

    Yields:
        The number of the row, from 1, as a spreadsheet shows it, and its cells by key.

    Raises:
        MissingColumns: no sheet of the file has all columns.
        ValueError: the file is damaged.
    """
    for cells in _sheets(workbook, sheet):
        header = _header(cells, columns, optional)
        if header is None:
            continue
        first, places = header
        for position, row in enumerate(cells[first:], start=first + 1):
            found = {key: row[place] if place < len(row) else None for key, place in places.items()}
            if any(text(cell).strip() for cell in found.values()):
                yield position, dict.fromkeys(optional) | found
        return
    expected = ", ".join(columns.values())
    raise MissingColumns(f"{workbook}: no sheet has a row with the columns {expected}")


def text(cell: Any) -> str:
    """A cell as its writer typed it: 12, 12.0 and "12" are all "12", an empty cell is ""."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def whole_number(cell: Any) -> int | None:
    """A whole number >= 0, given as a number or as text; None for anything else."""
    try:
        number = float(text(cell))
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None


def _sheets(workbook: Path, first: str) -> Iterator[list[Sequence[Any]]]:
    """The cells of every sheet, row by row; the sheet of that name before the others."""
    if workbook.suffix.lower() == ".csv":
        # One of these separators makes columns of the text; with the others no header is found.
        for delimiter in (",", ";", "\t"):
            yield list(csv.reader(_csv_text(workbook).splitlines(), delimiter=delimiter))
        return
    try:
        book = openpyxl.load_workbook(workbook, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, SyntaxError) as error:
        raise ValueError(f"workbook: {workbook} is no readable .xlsx or .csv: {error}") from error
    for sheet in sorted(book.worksheets, key=lambda sheet: sheet.title != first):
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


def _header(
    sheet: list[Sequence[Any]], columns: Mapping[str, str], optional: Mapping[str, str]
) -> tuple[int, dict[str, int]] | None:
    """Index of the first row below the header, and where each column is."""
    for index, row in enumerate(sheet):
        titles = [_title(cell) for cell in row]
        if all(_title(title) in titles for title in columns.values()):
            return index + 1, {
                key: titles.index(_title(title))
                for key, title in {**columns, **optional}.items()
                if _title(title) in titles
            }
    return None


def _title(cell: Any) -> str:
    return " ".join(text(cell).split()).casefold()

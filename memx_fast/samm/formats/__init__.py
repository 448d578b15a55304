"""The formats in which data sets of micro-expressions are released, one module each.

``interface`` says what a format is and by which rules defects are repaired, ``tree`` finds folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from memx_fast.samm import tables
from memx_fast.samm.formats.casme2 import Casme2
from memx_fast.samm.formats.casme3 import Casme3
from memx_fast.samm.formats.interface import Format
from memx_fast.samm.formats.mmew import Mmew
from memx_fast.samm.formats.samm import Samm
from memx_fast.samm.formats.smic import Smic

__all__ = ["FORMATS", "Format", "open_format"]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {form.name: form for form in (Samm(), Casme2(), Smic(), Mmew(), Casme3())}
)
"""All formats by name."""


def open_format(
    root: Path, dataset: str | None = None, workbook: Path | None = None
) -> tuple[Format, Path]:
    """The format of a data set, and its workbook.

    A format is recognised by the name of the workbook, or else by the titles of its columns.

    Args:
        root: folder of the data set.
        dataset: a key of :data:`FORMATS`, if it is not to be recognised.
        workbook: the annotations, if they are not to be searched for.

    Raises:
        FileNotFoundError: ``root`` is no folder, or there is no workbook.
        ValueError: there is no such format, or several are possible.
    """
    if dataset is not None and dataset not in FORMATS:
        raise ValueError(f"dataset: got {dataset!r}, expected one of {', '.join(FORMATS)}")
    if not root.is_dir():
        raise FileNotFoundError(
            f"root: {root} is no folder; expected that of a data set, with the workbook of its "
            "annotations and folders of frames"
        )
    if workbook is not None and not workbook.is_file():
        raise FileNotFoundError(f"workbook: {workbook} does not exist; expected an .xlsx or .csv")
    if dataset is not None:
        form = FORMATS[dataset]
        return form, workbook or form.find_workbook(root)
    if workbook is not None:
        return _format_of(workbook), workbook
    found = [(form, book) for form in FORMATS.values() if (book := _workbook(form, root))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(form.name for form, _ in found)
        raise ValueError(f"dataset: {root} holds the workbooks of {names}; say which to read")
    expected = ", ".join(f"{' or '.join(f.workbooks)} ({f.title})" for f in FORMATS.values())
    raise FileNotFoundError(
        f"no annotation workbook in {root}: expected {expected}, each .xlsx or .csv; copy the one "
        "of the release there, or name its path (workbook)"
    )


def _workbook(form: Format, root: Path) -> Path | None:
    try:
        return form.find_workbook(root)
    except FileNotFoundError:
        return None


def _format_of(workbook: Path) -> Format:
    """The one format that a workbook can be of."""
    named = [form for form in FORMATS.values() if form.is_workbook(workbook)]
    found = named or [form for form in FORMATS.values() if _has_columns(form, workbook)]
    if len(found) != 1:
        names = ", ".join(form.name for form in found or FORMATS.values())
        raise ValueError(
            f"dataset: {workbook} could be that of {names}; say which"
            if found
            else f"workbook: {workbook} has the columns of none of {names}"
        )
    return found[0]


def _has_columns(form: Format, workbook: Path) -> bool:
    try:
        next(tables.rows(workbook, form.columns), None)
    except tables.MissingColumns:
        return False
    return True

"""``train-samm validate``: what is wrong with a data set, and what is left of it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from memx_fast.samm.annotations import Defect
from memx_fast.samm.commands import outputs, shared
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.labels import TASKS
from memx_fast.samm.runs import as_text, write_text
from memx_fast.samm.validation import Validation, validate

_LISTED = 5
"""Defects of one kind in one clip that are shown on the screen; JSON has them all."""


def run(options: argparse.Namespace) -> int:
    """Every defect, and what is usable. Returns 1 if there is any defect."""
    screen = options.json is not None and str(options.json) == "-"
    record = None if screen else options.json
    inputs = [options.root] if options.workbook is None else [options.root, options.workbook]
    outputs.refuse_clashes({"json": record}, inputs, overwrite=options.overwrite)
    found = validate(
        options.root,
        dataset=options.dataset,
        workbook=options.workbook,
        quick=options.quick,
        crop=options.crop,
        progress=True,
    )
    facts = {
        "root": str(options.root),
        "quick": options.quick,
        **found.as_json(),
        "versions": shared.versions(),
    }
    if record is not None:
        write_text(record, as_text(facts))
    if screen:
        sys.stdout.write(as_text(facts))
    else:
        print("\n".join(_text(found, options.quick)))
        if record is not None:
            print(f"written: {record}")
    return 1 if found.defects else 0


def _text(found: Validation, quick: bool) -> Iterator[str]:
    """Lines for the screen."""
    yield from _listing(found.defects)
    how = "; files were listed, none was decoded (quick)" if quick else ""
    yield f"{found.workbook} ({found.form.title}): {found.rows} clips{how}"
    kinds = Counter(defect.kind for defect in found.defects)
    if kinds:
        clips = len({defect.clip for defect in found.defects})
        listing = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        plural = "s" * (len(found.defects) > 1)
        yield f"{len(found.defects)} defect{plural} in {clips} clip{'s' * (clips > 1)}: {listing}"
    else:
        yield "no defects"
    yield f"usable: {len(found.usable)} clips of {len(found.subjects)} subjects"
    for classes, task in TASKS.items():
        part = found.of_task(task)
        counts = ", ".join(f"{name} {count}" for name, count in part["classes"].items())
        lacking = "" if all(part["classes"].values()) else "; cannot be trained: a class is empty"
        yield (
            f"  {classes} classes: {part['clips']} clips of {part['subjects']} subjects: "
            f"{counts}{lacking}"
        )


def _listing(defects: Sequence[Defect]) -> Iterator[str]:
    """Every defect, long series in one clip cut short."""
    for _, group in groupby(defects, lambda defect: (defect.clip, defect.kind)):
        alike = list(group)
        yield from map(str, alike[:_LISTED])
        if len(alike) > _LISTED:
            first, rest = alike[0], len(alike) - _LISTED
            yield f"{first.clip}: {first.kind}: {rest} more of this kind (--json lists them all)"
    if defects:
        yield ""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="train-samm validate",
        description=(
            "Check a data set: the rows of its workbook, its folders, and every frame from onset "
            "to offset, which is decoded. Each defect is listed with what training does about it; "
            "in the end it says what is usable for each task. The exit status is 1 if there is any "
            "defect, and nothing is changed."
        ),
        formatter_class=shared.Help,
    )
    parser.add_argument(
        "root",
        type=Path,
        metavar="ROOT",
        help="the SAMM release or another: its workbook and folders of frames",
    )
    parser.add_argument(
        "--dataset",
        choices=list(FORMATS),
        help="its format; by default recognised by the workbook",
    )
    parser.add_argument(
        "--workbook", type=Path, metavar="FILE", help="annotations, if not found in the folder"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="list files and decode none: damaged frames, frames of another size and clips without "
        "a face go unnoticed",
    )
    parser.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for a face in every clip, as training with --crop does (default: crop)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="the result as JSON; - writes it to the screen"
    )
    outputs.add_overwrite(parser)
    return parser

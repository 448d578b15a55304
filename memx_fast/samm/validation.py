"""A data set examined as a whole: every defect there is, and what can be used in spite of them.

There are no rules here. Rows are judged by :meth:`memx_fast.samm.formats.Format.read`, files by
:mod:`memx_fast.samm.frames`, and clips are read as :func:`memx_fast.samm.dataset.load` reads them
for the methods, each with its default number of frames. What is found beyond that is in frames that
no method looks at by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memx_fast.samm import frames as image_files
from memx_fast.samm.annotations import LEFT_OUT, Clip, Defect
from memx_fast.samm.dataset import Settings, read_clip
from memx_fast.samm.faces import Detector
from memx_fast.samm.formats import Format, open_format
from memx_fast.samm.labels import TASKS, Task
from memx_fast.samm.methods import METHODS, create
from memx_fast.samm.progress import bar
from memx_fast.samm.sampling import sample

KEPT = "no method looks there by default: the clip is kept"
"""The repair of a defect that would cost the clip if its frames were asked for."""

_SIZE = 90


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        form: the format of the data set.
        workbook: the annotations that were read.
        rows: clips they name, without those whose rows cost them.
        defects: everything found wrong, rows first, then clip by clip.
        usable: the clips that every method can read.
    """

    form: Format
    workbook: Path
    rows: int
    defects: list[Defect]
    usable: list[Clip]

    @property
    def subjects(self) -> list[str]:
        """The people in the usable clips."""
        return sorted({clip.subject for clip in self.usable})

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "dataset": self.form.name,
            "workbook": str(self.workbook),
            "defects": [asdict(defect) for defect in self.defects],
            "usable": {"clips": [clip.name for clip in self.usable], "subjects": self.subjects},
            "tasks": {str(classes): self.of_task(task) for classes, task in TASKS.items()},
        }

    def of_task(self, task: Task) -> dict[str, Any]:
        """Clips and people that take part in a task, and the clips of each class."""
        labels = [task.label(clip.emotion, clip.dataset) for clip in self.usable]
        people = {
            clip.subject
            for clip, label in zip(self.usable, labels, strict=True)
            if label is not None
        }
        counts = {name: labels.count(label) for label, name in enumerate(task.classes)}
        return {"clips": sum(counts.values()), "subjects": len(people), "classes": counts}


def validate(
    root: Path,
    *,
    dataset: str | None = None,
    workbook: Path | None = None,
    quick: bool = False,
    crop: bool = True,
    progress: bool = False,
) -> Validation:
    """Examine a data set in one of the formats of :data:`memx_fast.samm.formats.FORMATS`.

    Beside the rules of the loader there is one for folders, *no row*: it holds frames, but the
    workbook does not name it: it is passed over. A recording of CAS(ME)^3 needs no row.

    Args:
        root: its folder.
        dataset: its format; by default it is recognised by the workbook.
        workbook: the annotations, if not found in ``root``.
        quick: see which files are there, and decode none: neither damaged frames nor frames of
            other sizes nor clips without a face are found.
        crop: look for faces.
        progress: show a bar.

    Raises:
        FileNotFoundError: ``root`` or the workbook does not exist.
        ValueError: there is no such format, or the workbook cannot be read at all.
    """
    form, book = open_format(root, dataset, workbook)
    clips, defects = form.read(root, book)
    detector = None if quick or not crop else Detector()
    counts = sorted({create(name, len(TASKS[3].classes)).input.frames for name in METHODS})
    usable = []
    with bar("checking clips", len(clips), "clip", hidden=not progress) as done:
        for clip in clips:
            kept, found = _check_clip(root, form, clip, counts, quick, detector)
            defects.extend(found)
            if kept:
                usable.append(clip)
            done.update()
    defects.extend(_strangers(root, form.unnamed(root, book)))
    return Validation(form, book, len(clips), defects, usable)


def _check_clip(
    root: Path,
    form: Format,
    clip: Clip,
    counts: Sequence[int],
    quick: bool,
    detector: Detector | None,
) -> tuple[bool, list[Defect]]:
    """Whether the loader keeps a clip for every number of frames, and all that is wrong with it."""
    kept = True
    needed: list[Defect] = []
    for count in counts:
        if quick:
            numbers = sample(clip.onset, clip.apex, clip.offset, count)
            readable, found = image_files.survey(root, clip, numbers, quick=True)
        else:
            stack, found = read_clip(root, clip, Settings(_SIZE, count, 1, True), detector)
            readable = stack is not None
        kept = kept and readable
        needed.extend(found)
    everything = range(clip.onset, clip.offset + 1)
    _, defects = image_files.survey(root, clip, everything, quick=quick)
    if kept:
        defects = [
            replace(defect, repair=KEPT) if defect.repair == LEFT_OUT else defect
            for defect in defects
        ]
    extra = image_files.surplus(root, clip, ends=form.folder_ends_with_clip)
    return kept, list(dict.fromkeys([*needed, *defects, *extra]))


def _strangers(root: Path, folders: Sequence[str]) -> Iterator[Defect]:
    """Of folders that no row is about, those with frames."""
    for folder in folders:
        path = root / folder
        count = len(image_files.index(path))
        if count:
            message = f"{path} holds {count} frames, but the workbook does not name it; add its row"
            yield Defect(path.name, "no row", message, "it is passed over")

"""Folders of ready optical flow: one 28x28 picture a clip, as the STSTNet authors hand it out.

Two layouts are in use. In the nested one every subject has a folder with the split that leaves it
out, and the class is a folder's name:

    <root>/<subject>/u_train/<class>/<picture>.png    all other subjects
    <root>/<subject>/u_test/<class>/<picture>.png     this one

The data sets may each have a folder around that; if there are several, the subjects of each get its
name in front, because the same number is not the same person. In the flat layout all pictures lie
in one folder as ``<subject>_<clip>.png`` (often with a blank before the dot), and a table beside it
says what they show: a CSV with the columns ``sub``, ``filename_o`` and ``label``.

A picture's red, green and blue are the horizontal flow u, the vertical flow v and the optical
strain, onset to apex, each scaled to 0..255. Classes are those of MEGC 2019: 0 negative, 1
positive, 2 surprise.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from memx_fast.samm.annotations import LEFT_OUT, Defect
from memx_fast.samm.frames import decode
from memx_fast.samm.labels import Integers

SIZE = 28
"""Height and width of a picture, pixels."""

CLASSES = ("Negative", "Positive", "Surprise")
"""What the labels 0, 1 and 2 stand for."""

_TEST = "u_test"
_COLUMNS = ("sub", "filename_o", "label")


@dataclass(frozen=True)
class FlowImages:
    """Clips as their optical flow.

    Attributes:
        images: uint8 (N, 3, 28, 28): u, v and strain, each scaled to 0..255.
        labels: indices into :data:`CLASSES`, (N,).
        subjects: who is in each, (N,).
        names: of the clips, (N,); no two of a subject are the same.
        defects: everything found wrong, those pictures included that were left out.
        datasets: the folder of the data set that each is in, (N,); empty if there are no several.
    """

    images: npt.NDArray[np.uint8]
    labels: Integers
    subjects: list[str]
    names: list[str]
    defects: list[Defect]
    datasets: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Entry:
    path: Path
    subject: str
    name: str
    label: str
    dataset: str = ""


def load(root: Path) -> FlowImages:
    """Read a folder of flow pictures in either layout.

    The rules, by kind of defect:

    - *missing picture*, *unreadable picture*, *picture size* (not 28x28): the clip is left out.
    - *class*: none of 0, 1, 2: the clip is left out.
    - *duplicate*: a subject's clip a second time: the first one is kept.

    Args:
        root: the folder; its layout is recognised.

    Returns:
        All clips that could be read, by subject and name.

    Raises:
        FileNotFoundError: ``root`` is no folder, or there is neither layout in it.
        ValueError: not one clip can be read, or it is not clear which table is meant.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root: {root} is no folder; expected one of 28x28 flow pictures")
    nested = sorted(path for path in root.rglob(_TEST) if path.is_dir())
    entries = _nested(root, nested) if nested else _flat(root)
    kept: dict[tuple[str, str], tuple[_Entry, npt.NDArray[np.uint8]]] = {}
    defects: list[Defect] = []
    for entry in sorted(entries, key=lambda entry: (entry.subject, entry.name)):
        problem = _problem(entry, kept)
        if problem is None:
            try:
                image = decode(entry.path, 3)
            except (OSError, ValueError) as error:
                problem = "unreadable picture", str(error), LEFT_OUT
            else:
                if image.shape != (SIZE, SIZE, 3):
                    size = f"{image.shape[1]}x{image.shape[0]}"
                    message = f"{entry.path} has {size} pixels, expected {SIZE}x{SIZE}"
                    problem = "picture size", message, LEFT_OUT
                else:
                    kept[entry.subject, entry.name] = entry, image
        if problem is not None:
            defects.append(Defect(f"{entry.subject}/{entry.name}", *problem))
    if not kept:
        first = "; ".join(map(str, defects[:3])) or "it is empty"
        raise ValueError(f"root: not one picture of {root} can be read: {first}")
    found = [entry for entry, _ in kept.values()]
    stack = np.stack([image for _, image in kept.values()])
    return FlowImages(
        np.ascontiguousarray(np.moveaxis(stack, -1, 1)),
        np.array([int(entry.label) for entry in found], dtype=np.int64),
        [entry.subject for entry in found],
        [entry.name for entry in found],
        defects,
        [entry.dataset for entry in found if entry.dataset],
    )


def write(root: Path, clips: FlowImages, *, nested: bool) -> None:
    """Write flow pictures in either layout; :func:`load` gives them back.

    Args:
        root: folder to fill; made if need be.
        clips: what to write, of one data set; its defects are not.
        nested: the layout with a split a subject, which holds every picture once for each of them,
            or the flat one with ``labels.csv``.

    Raises:
        ValueError: the clips are of several data sets.
    """
    if clips.datasets:
        names = ", ".join(sorted(set(clips.datasets)))
        raise ValueError(f"clips: got those of {names}, expected one data set")
    images = np.moveaxis(clips.images, 1, -1)
    rows = list(zip(images, clips.labels, clips.subjects, clips.names, strict=True))
    if not nested:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            table.writerows([subject, name, label] for _, label, subject, name in rows)
        for image, _, subject, name in rows:
            _write_picture(root / f"{subject}_{name} .png", image)
        return
    for left_out in sorted(set(clips.subjects)):
        for image, label, subject, name in rows:
            part = _TEST if subject == left_out else "u_train"
            folder = root / left_out / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            _write_picture(folder / f"{subject}_{name}.png", image)


def _nested(root: Path, folders: list[Path]) -> Iterator[_Entry]:
    """Every subject is the test side once, and nobody else is then: those pictures are all."""
    several = len({folder.parent.parent for folder in folders}) > 1
    for folder in folders:
        person = folder.parent.name
        dataset = ""
        if several:
            dataset = folder.parent.parent.relative_to(root.parent).as_posix()
            dataset = dataset.removeprefix(f"{root.name}/")
        subject = f"{dataset}/{person}" if dataset else person
        for path in sorted(folder.glob("*/*.png")):
            yield _Entry(path, subject, _clip(path, person), path.parent.name, dataset)


def _flat(root: Path) -> Iterator[_Entry]:
    tables = sorted([*root.glob("*.csv"), *root.parent.glob("*.csv")])
    tables = [table for table in tables if _rows(table)]
    if not tables:
        raise FileNotFoundError(
            f"root: {root} holds no folders <subject>/{_TEST}/<class>, and neither it nor the "
            f"folder above a CSV file with the columns {', '.join(_COLUMNS)}"
        )
    if len(tables) > 1:
        names = ", ".join(map(str, tables))
        raise ValueError(f"root: several tables of labels for {root}: {names}; keep one")
    pictures = {path.stem.strip(): path for path in sorted(root.glob("*.png"))}
    for row in _rows(tables[0]):
        subject, name = row["sub"].strip(), row["filename_o"].strip()
        stem = f"{subject}_{name}"
        yield _Entry(pictures.get(stem, root / f"{stem}.png"), subject, name, row["label"].strip())


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table of labels; none if it is something else."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            return []
        return list(reader)


def _clip(path: Path, subject: str) -> str:
    return path.stem.strip().removeprefix(f"{subject}_")


def _problem(
    entry: _Entry, kept: dict[tuple[str, str], tuple[_Entry, npt.NDArray[np.uint8]]]
) -> tuple[str, str, str] | None:
    """Kind, message and repair of what is wrong with an entry before its picture is read."""
    if (entry.subject, entry.name) in kept:
        return "duplicate", f"{entry.path} is this clip again", "the first picture is kept"
    if entry.label not in map(str, range(len(CLASSES))):
        return "class", f"{entry.label!r} of {entry.path} is none of 0, 1, 2", LEFT_OUT
    if not entry.path.is_file():
        return "missing picture", f"{entry.path} does not exist; copy it there", LEFT_OUT
    return None


def _write_picture(path: Path, image: npt.NDArray[np.uint8]) -> None:
    encoded, data = cv2.imencode(".png", image[..., ::-1])
    if not encoded:
        raise RuntimeError(f"OpenCV cannot encode a picture of {image.shape}")
    path.write_bytes(data.tobytes())

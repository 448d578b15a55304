"""What the format of a data set is: a workbook, its rows as clips, and where their frames lie.

A format says how a row of its workbook names a clip (:meth:`Format.entries`). What makes a clip of
it, and what is done when something is wrong, is the same for all of them: :meth:`Format.read`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from memx_fast.samm import frames, tables
from memx_fast.samm.annotations import LEFT_OUT, Clip, Defect, refuse
from memx_fast.samm.formats.tree import Tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What a row says about one clip; the cells are as they were read.

    Attributes:
        subject, name, folder: as in :class:`memx_fast.samm.annotations.Clip`.
        onset, apex, offset, emotion: cells.
        action_units: as the row has them.
        defects: found, and repaired, in naming the clip.
    """

    subject: str
    name: str
    folder: str
    onset: Any
    apex: Any
    offset: Any
    emotion: Any
    action_units: str
    defects: tuple[Defect, ...] = ()


class Format(ABC):
    """The format in which a data set is released.

    Attributes:
        name: by which it is chosen.
        title: for people.
        layout: where the frames of a clip are, for people.
        workbooks: what names of the workbook look like, without suffix; case does not matter.
        workbook_folders: where it may be, below the root.
        sheet: the one of its sheets that has the annotations, if it has several like it.
        columns: titles by key; every format has at least subject, filename, onset, offset, emotion.
        optional: titles that not every release has.
        emotions: what it calls them, in lower case, and what we do.
        has_apex: whether the workbook says where the apex is.
        folder_is_clip: whether a folder of frames holds one clip and no more.
        folder_ends_with_clip: whether that folder begins with the onset and ends with the offset,
            as in SAMM, so that any other frame in it is a defect. Other releases show the face at
            rest before and after, or have whole recordings.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    layout: ClassVar[str]
    workbooks: ClassVar[tuple[str, ...]]
    workbook_folders: ClassVar[tuple[str, ...]] = ("",)
    sheet: ClassVar[str] = ""
    columns: ClassVar[Mapping[str, str]]
    optional: ClassVar[Mapping[str, str]] = {}
    emotions: ClassVar[Mapping[str, str]]
    has_apex: ClassVar[bool] = True
    folder_is_clip: ClassVar[bool] = False
    folder_ends_with_clip: ClassVar[bool] = False

    @abstractmethod
    def entries(
        self, position: int, row: Mapping[str, Any], tree: Tree
    ) -> Iterator[Entry | Defect]:
        """The clips that a row annotates, or why it names none.

        Args:
            position: number of the row.
            row: its cells, by the keys of :attr:`columns` and :attr:`optional`.
            tree: the folders of the data set.
        """

    @abstractmethod
    def clip_folders(self, tree: Tree) -> Iterator[str]:
        """The folders that by their place should hold a clip of some row, below the root.

        Args:
            tree: the folders of the data set.
        """

    def entry(
        self,
        row: Mapping[str, Any],
        subject: str,
        name: str,
        folder: str,
        *,
        expression: str = "",
        defects: tuple[Defect, ...] = (),
    ) -> Entry:
        """A clip and what its row says about it.

        Args:
            row: cells.
            subject, name, folder, defects: as in :class:`Entry`.
            expression: what the keys of its onset and offset end in.
        """
        return Entry(
            subject,
            name,
            folder,
            row[f"onset{expression}"],
            row.get("apex"),
            row[f"offset{expression}"],
            row["emotion"],
            tables.text(row.get("action_units")),
            defects,
        )

    def is_workbook(self, path: Path) -> bool:
        """Whether a file is called as the workbook is."""
        return path.suffix.lower() in tables.SUFFIXES and self._is_named(path)

    def find_workbook(self, root: Path) -> Path:
        """The annotation workbook, known by its name.

        Raises:
            FileNotFoundError: there is none.
            ValueError: there are several, and it is not clear which one is meant; or it is in the
                old binary format.
        """
        files = [
            path
            for folder in self.workbook_folders
            if (root / folder).is_dir()
            for path in sorted((root / folder).iterdir())
            if self._is_named(path)
        ]
        found = [path for path in files if self.is_workbook(path)]
        if not found:
            if files:
                raise ValueError(f"workbook: {files[0]} cannot be read; save it as .xlsx or .csv")
            raise FileNotFoundError(
                f"no annotation workbook {' or '.join(self.workbooks)} (.xlsx or .csv) in {root}; "
                f"copy the one of the {self.title} release there, or name its path (workbook)"
            )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(
                f"several annotation workbooks in {root}: {names}; name the one to read (workbook)"
            )
        return found[0]

    def read(
        self, root: Path, workbook: Path | None = None, *, strict: bool = False
    ) -> tuple[list[Clip], list[Defect]]:
        """Read every clip of a data set; no frame is decoded.

        The rules, by kind of defect:

        - *clip name*, *subject*: the row names no clip, or not whose it is: see the format.
        - *duplicate*: the clip has occurred before: the first row is kept.
        - *emotion*: missing or none of :attr:`emotions`: the clip is left out. (Case and blanks
          are no defects.)
        - *frame number*: onset or offset missing or no whole number >= 0; *order*: offset before
          onset; *offset outside*: offset after the last frame file, which is noticed in formats
          whose folders hold one clip each, CASME II and MMEW. In those formats the number of the
          last frame file takes the place of a wrong offset; otherwise the clip is left out.
        - *apex missing*, *apex outside* ``[onset, offset]``: if exactly one number inside differs
          from the given one in a single digit, that one is taken for a slip of the pen and used;
          otherwise the middle between onset and offset, rounded down.
        - *apex at onset*, where nothing has moved yet: the middle.

        A format without apexes (SMIC) has them in the middle, which is no defect. A row that has
        nothing but its first cell is a note and no clip.

        Args:
            root: folder of the data set.
            workbook: an ``.xlsx`` file or a ``.csv`` export of its sheet, if it is not found by its
                name.
            strict: refuse a data set with any defect instead of repairing it.

        Returns:
            The clips in the order of the workbook, and the defects found.

        Raises:
            FileNotFoundError: there is no workbook.
            ValueError: it is damaged, no sheet of it has the expected columns, or ``strict`` and
                there are defects.
        """
        workbook = workbook or self.find_workbook(root)
        tree = Tree(root)
        clips: dict[str, Clip] = {}
        defects: list[Defect] = []
        for position, entry in self._all_entries(workbook, tree):
            if isinstance(entry, Defect):
                defects.append(entry)
            elif entry.name in clips:
                message = f"row {position} annotates this clip again"
                defects.append(Defect(entry.name, "duplicate", message, "the first row is kept"))
            else:
                clip, found = self._clip(entry, root)
                defects.extend([*entry.defects, *found])
                if clip is not None:
                    clips[clip.name] = clip
        if strict:
            refuse(defects)
        _log.info("%s: %d clips, %d defects", workbook.name, len(clips), len(defects))
        return list(clips.values()), defects

    def unnamed(self, root: Path, workbook: Path) -> list[str]:
        """The folders of :meth:`clip_folders` that no row names, not even one with defects; sorted.

        A second folder of a clip, in another place, counts as named.

        Args:
            root: folder of the data set.
            workbook: its annotations.

        Raises:
            ValueError: as :meth:`read` does.
        """
        tree = Tree(root)
        named = set()
        for _, entry in self._all_entries(workbook, tree):
            if isinstance(entry, Defect):
                named.add(entry.clip.casefold())
            else:
                named |= {entry.name.casefold(), entry.folder.casefold()}
        return sorted(
            folder
            for folder in self.clip_folders(tree)
            if not named & {folder.casefold(), folder.casefold().rpartition("/")[2]}
        )

    def _all_entries(self, workbook: Path, tree: Tree) -> Iterator[tuple[int, Entry | Defect]]:
        """What :meth:`entries` says of every row, with the row's number."""
        for position, row in tables.rows(
            workbook, self.columns, optional=self.optional, sheet=self.sheet
        ):
            if not _is_note(row):
                for entry in self.entries(position, row, tree):
                    yield position, entry

    def _is_named(self, path: Path) -> bool:
        # Office programs keep a lock file "~$name.xlsx" beside an open workbook.
        return not path.name.startswith(("~", ".")) and any(
            fnmatch(path.stem.lower(), pattern.lower()) for pattern in self.workbooks
        )

    def _clip(self, entry: Entry, root: Path) -> tuple[Clip | None, list[Defect]]:
        """The clip of an entry, or None if a defect costs it; and its defects."""
        defects: list[Defect] = []

        def report(kind: str, message: str, repair: str) -> None:
            defects.append(Defect(entry.name, kind, message, repair))

        emotion = self.emotions.get(tables.text(entry.emotion).strip().casefold())
        if emotion is None:
            expected = ", ".join(dict.fromkeys(self.emotions.values()))
            report("emotion", f"{entry.emotion!r} is none of {expected}", LEFT_OUT)

        onset = tables.whole_number(entry.onset)
        if onset is None:
            report("frame number", f"{entry.onset!r} is no onset frame number", LEFT_OUT)
        offset, defect = self._offset(entry, root, onset)
        defects.extend(defect)
        if emotion is None or onset is None or offset is None:
            return None, defects

        apex = (onset + offset) // 2
        if self.has_apex:
            apex, defect = _apex(entry, onset, offset)
            defects.extend(defect)
        return (
            Clip(
                entry.subject,
                entry.name,
                onset,
                apex,
                offset,
                emotion,
                entry.action_units,
                self.name,
                entry.folder,
            ),
            defects,
        )

    def _offset(
        self, entry: Entry, root: Path, onset: int | None
    ) -> tuple[int | None, list[Defect]]:
        """The offset of an entry, None if it has none, and what is wrong with it."""
        offset = tables.whole_number(entry.offset)
        last = None
        if self.folder_is_clip and onset is not None:
            found = max(frames.index(root / entry.folder), default=-1)
            last = found if found >= onset else None
        if offset is None:
            kind, message = "frame number", f"{entry.offset!r} is no offset frame number"
        elif onset is not None and offset < onset:
            kind, message = "order", f"the offset {offset} comes before the onset {onset}"
        elif last is not None and offset > last:
            kind, message = "offset outside", f"there is no frame {offset}, the offset"
        else:
            return offset, []
        repair = LEFT_OUT if last is None else f"the last frame there is, {last}, is used"
        return last, [Defect(entry.name, kind, message, repair)]


def _is_note(row: Mapping[str, Any]) -> bool:
    return not any(tables.text(cell).strip() for key, cell in row.items() if key != "subject")


def _apex(entry: Entry, onset: int, offset: int) -> tuple[int, list[Defect]]:
    """The apex of an entry, and what is wrong with it."""
    apex = tables.whole_number(entry.apex)
    where = f"onset {onset} and offset {offset}"
    if apex is None or not onset <= apex <= offset:
        kind = "apex missing" if apex is None else "apex outside"
        repaired = _repaired_apex(apex, onset, offset)
        message = f"the apex {entry.apex!r} is not between {where}"
    elif apex == onset < offset:
        kind, repaired = "apex at onset", (onset + offset) // 2
        message = f"the apex {apex} is the onset, of {where}"
    else:
        return apex, []
    return repaired, [Defect(entry.name, kind, message, f"frame {repaired} is used")]


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

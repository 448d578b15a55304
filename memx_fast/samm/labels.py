"""Classification tasks: which emotions make up a class, and which clips take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memx_fast.samm.annotations import Clip

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A way of sorting emotions into classes.

    Attributes:
        classes: names, in the order of the paper's confusion matrix; a label is an index into it.
        emotions: for each class, the emotions of the workbook that belong to it.
        omitted: the emotions of a data set whose clips take no part all the same, by its name.
    """

    classes: tuple[str, ...]
    emotions: tuple[tuple[str, ...], ...]
    omitted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def label(self, emotion: str, dataset: str = "samm") -> int | None:
        """The class of an emotion of a data set, or None if its clips take no part."""
        if emotion in self.omitted.get(dataset, ()):
            return None
        for index, members in enumerate(self.emotions):
            if emotion in members:
                return index
        return None


def _one_emotion_a_class(*emotions: str) -> Task:
    return Task(emotions, tuple((emotion,) for emotion in emotions))


TASKS: Mapping[int, Task] = {
    3: Task(
        ("Positive", "Negative", "Surprise"),
        (
            ("Happiness", "Positive"),
            ("Anger", "Contempt", "Disgust", "Fear", "Sadness", "Repression", "Negative"),
            ("Surprise",),
        ),
        omitted={"casme2": ("Fear", "Sadness")},
    ),
    5: _one_emotion_a_class("Happiness", "Contempt", "Anger", "Other", "Surprise"),
    7: _one_emotion_a_class(
        "Happiness", "Contempt", "Anger", "Disgust", "Fear", "Sadness", "Surprise"
    ),
}
"""The paper's tasks by their number of classes: 133, 136 and 133 clips of SAMM.

The three classes are those of the MEGC 2019 challenge, for its data sets (SAMM, SMIC-HS, CASME II)
exactly: of CASME II, disgust and repression are negative, and fear and sadness take no part. MMEW
and CAS(ME)^3, which came later, are sorted as SAMM is.
"""


def taking_part(task: Task, clips: Sequence[Clip]) -> tuple[Integers, Integers]:
    """The clips that belong to a class.

    Returns:
        Their indices, ascending, and their labels.

    Raises:
        ValueError: a class has no clip at all.
    """
    labels = [task.label(clip.emotion, clip.dataset) for clip in clips]
    chosen = [index for index, label in enumerate(labels) if label is not None]
    found = np.array([labels[index] for index in chosen], dtype=np.int64)
    missing = [name for index, name in enumerate(task.classes) if index not in found]
    if missing:
        raise ValueError(f"clips: got none of class {', '.join(missing)}, expected some of each")
    return np.array(chosen, dtype=np.int64), found

"""What the sub-commands of ``train-samm`` share: options, data, machine, progress bars."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sklearn
import torch

import memx_fast
from memx_fast import backends
from memx_fast.samm import cache, dataset
from memx_fast.samm.formats import FORMATS
from memx_fast.samm.labels import TASKS
from memx_fast.samm.methods import Machine, Method, Progress
from memx_fast.samm.progress import bar
from memx_fast.samm.sources import Composite
from memx_fast.samm.study import Source
from memx_fast.samm.training import Epoch


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def add_data_options(group: Any) -> None:
    """Options that :func:`source` reads."""
    titles = ", ".join(f"{form.name} ({form.title})" for form in FORMATS.values())
    group.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="the SAMM release or another, each with its workbook; without it, built-in drawn "
        "faces in the same format; several make one composite study",
    )
    group.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help=f"format of each: {titles}; by default recognised by the workbook",
    )
    group.add_argument(
        "--workbook",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="annotations of each, if not found in the folder",
    )
    group.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut the face out, or resize the whole frame (default: crop)",
    )
    group.add_argument("--strict", action="store_true", help="refuse data with any defect")
    group.add_argument(
        "--motion",
        type=float,
        default=1.0,
        help="built-in data: strength of the movement; 0 leaves nothing to recognise",
    )
    group.add_argument(
        "--frame-size",
        type=_frame_size,
        default="340x272",
        metavar="WIDTHxHEIGHT",
        help="built-in data: pixels of its frames",
    )


def add_running_options(group: Any) -> None:
    """Where results and caches go, and what computes."""
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="results; by default a new folder in runs/"
    )
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="FOLDER",
        default=cache.default_folder(),
        help="where decoded frames, optical flow and the built-in data are kept",
    )
    group.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train"
    )
    group.add_argument("--backend", default="auto", help="engine of the ConvLSTM")


def source(options: argparse.Namespace, *, progress: bool = True) -> Source | Composite:
    """The data that was asked for.

    Raises:
        ValueError: formats or workbooks are not one for each data set.
    """
    folders, formats, workbooks = options.data or [], options.dataset or [], options.workbook or []
    count = len(folders) or len(formats) or 1
    for name, values in (("dataset", formats), ("workbook", workbooks)):
        if values and len(values) != count:
            raise ValueError(
                f"{name}: got {len(values)} for {count} data set{'s' * (count > 1)}, expected one "
                "for each, or none"
            )
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"dataset: got {name!r}, expected one of {', '.join(FORMATS)}")
    nothing = [None] * count
    sources = tuple(
        Source(
            folder,
            options.cache_dir,
            workbook,
            options.crop,
            options.strict,
            options.motion,
            options.frame_size,
            progress,
            dataset,
        )
        for folder, dataset, workbook in zip(
            folders or nothing, formats or nothing, workbooks or nothing, strict=True
        )
    )
    return sources[0] if count == 1 else Composite(sources)


def machine(options: argparse.Namespace, *, shards: bool = False) -> Machine:
    """Device and engine; what is wrong with them is said before any work is done.

    Raises:
        ValueError: they do not exist here.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {options.device}, but PyTorch finds no CUDA device here")
    backends.resolve(options.backend, device)
    return Machine(options.device, options.backend, shards, options.cache_dir)


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` as a dictionary.

    Raises:
        ValueError: one of them is something else.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"set: got {text!r}, expected NAME=VALUE")
        found[name] = value
    return found


def versions() -> dict[str, str]:
    """Of all that computes."""
    return {
        "memx_fast": memx_fast.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "scikit-learn": sklearn.__version__,
    }


@contextmanager
def warnings_once() -> Iterator[None]:
    """Let the log say the same thing about the data once, however often the data is read."""
    log, said = logging.getLogger(dataset.__name__), set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in said
        said.add(message)
        return new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def count_classes(classes: int, labels: np.ndarray) -> str:
    """``Positive 26, Negative 92, Surprise 15``."""
    counts = np.bincount(labels, minlength=classes)
    names = TASKS[classes].classes
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))


def describe_parameters(method: Method) -> str:
    """Number of learnt numbers, and of those of every part; empty before there are any."""
    parts: Mapping[str, int] = method.parameters()
    listing = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    return f"{sum(parts.values()):,} parameters: {listing}" if parts else ""


class Bar(Progress):
    """A bar for one fold."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._bar: Any = None

    def start(self, steps: int, done: int) -> None:
        """Shows the bar."""
        self._bar = bar(self._description, steps, "batch", done=done)

    def step(self) -> None:
        """Moves the bar."""
        self._bar.update()

    def epoch(self, epoch: Epoch) -> None:
        """Says how well it went."""
        self._bar.set_postfix(
            epoch=epoch.number,
            loss=f"{epoch.training_loss:.3f}",
            validation_uar=f"{100 * epoch.validation_uar:.0f}%",
        )

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _frame_size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        message = f"got {text!r}, expected width and height in pixels, such as 340x272"
        raise argparse.ArgumentTypeError(message) from None
    return width, height

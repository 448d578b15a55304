"""The picture of a prediction: the frames that were seen, the way the face moved, the answer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from memx_fast.files import replacing
from memx_fast.samm.checkpoints import Card
from memx_fast.samm.methods import METHODS
from memx_fast.samm.prediction import Prediction, Shown

_DOTS_AN_INCH = 130
_WIDTH = 12.0  # inches
_COLUMNS = 10
_COLOURS = {"onset": "tab:blue", "apex": "tab:red", "offset": "tab:green"}
_FOUND = {"onset": "start of the clip", "apex": "found", "offset": "its end"}
_GREY = "0.45"
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
_NOTE_WIDTH = 175  # letters a line


def draw(prediction: Prediction, card: Card, name: str, notes: Sequence[str], path: Path) -> None:
    """Write the picture as PNG.

    Args:
        prediction: what to show.
        card: of the checkpoint.
        name: of the clip.
        notes: what the answer is worth, one sentence or a few each.
        path: the file.
    """
    lines = [line for note in notes for line in _wrapped(note)]
    rows = -(-len(prediction.shown) // _COLUMNS)
    columns = min(_COLUMNS, max(len(prediction.shown), 4))
    proportion = max(shown.image.shape[0] / shown.image.shape[1] for shown in prediction.shown)
    heights = [
        0.45,
        rows * (min(_WIDTH / columns * proportion, 3.2) + 0.5),
        max(1.6, 0.34 * len(card.classes) + 0.8),
        0.175 * len(lines) + 0.25,
    ]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(4, 1, height_ratios=heights)
    title, frames, charts, foot = parts
    _write_title(title, prediction, card, name)
    _draw_frames(frames, prediction, rows, columns)
    movement, answer = charts.subplots(1, 2, width_ratios=(3, 2))
    _draw_movement(movement, prediction)
    _draw_answer(answer, prediction)
    foot.text(0.01, 0.95, "\n".join(lines), va="top", fontsize=8.5, color="0.25")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DOTS_AN_INCH)


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, _NOTE_WIDTH, initial_indent="– ", subsequent_indent="   ")


def _write_title(figure: SubFigure, prediction: Prediction, card: Card, name: str) -> None:
    share = prediction.probabilities[prediction.answer]
    figure.text(0.01, 0.35, f"{prediction.answer}  {100 * share:.0f} %", fontsize=15, weight="bold")
    figure.text(
        0.99, 0.35, f"{name} · {METHODS[card.method].title}", fontsize=10, color=_GREY, ha="right"
    )


def _draw_frames(figure: SubFigure, prediction: Prediction, rows: int, columns: int) -> None:
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, shown in zip(grid, prediction.shown, strict=False):
        _draw_frame(axes, shown, prediction)


def _draw_frame(axes: Axes, shown: Shown, prediction: Prediction) -> None:
    parts = _parts(shown.number, prediction)
    colour = _COLOURS[parts[0]] if parts else _GREY
    axes.imshow(shown.image, cmap="gray", vmin=0, vmax=255)
    if shown.face is not None:
        left, top, side = shown.face
        box = Rectangle((left, top), side, side, fill=False, edgecolor="gold", linewidth=1.2)
        axes.add_patch(box)
    if parts:
        height, width = shown.image.shape
        edge = Rectangle(
            (-0.5, -0.5), width, height, fill=False, edgecolor=colour, linewidth=2.5, clip_on=False
        )
        axes.add_patch(edge)
    label = "\n".join([" = ".join(parts) or " ", _moment(shown.number, prediction)])
    axes.set_title(label, fontsize=8.5, color=colour, weight="bold" if parts else "normal", pad=4)


def _parts(number: int, prediction: Prediction) -> list[str]:
    """Which of onset, apex and offset a frame is; the apex first, it says most."""
    return [name for name in ("apex", "onset", "offset") if getattr(prediction, name) == number]


def _moment(number: int, prediction: Prediction) -> str:
    """``frame 30, 0.15 s``."""
    if prediction.rate is None:
        return f"frame {number}"
    return f"frame {number}, {(number - prediction.onset) / prediction.rate:.3g} s"


def _draw_movement(axes: Axes, prediction: Prediction) -> None:
    """How the face was strained since the onset, if that was looked at, and what was seen when."""
    if prediction.strains:
        numbers = list(prediction.strains)
        shares = [100 * share for share in prediction.strains.values()]
        axes.plot(numbers, shares, color="0.3", linewidth=1.3)
        axes.set_ylim(0, 1.12 * max(max(shares), 0.1))
        axes.set_ylabel("mean strain since\nthe onset, %", fontsize=8.5)
    else:
        axes.set_yticks([])
        axes.set_ylim(0, 1)
    low, high = axes.get_ylim()
    axes.vlines(
        sorted(set(prediction.chosen)), low, low + 0.06 * (high - low), color=_GREY, linewidth=2
    )
    for name, colour in _COLOURS.items():
        number = getattr(prediction, name)
        how = "given" if name in prediction.given else _FOUND[name]
        label = f"{name} {number} ({how})"
        axes.axvline(number, color=colour, linewidth=1.6, label=label)
    axes.set_xlabel("frame (short bars: seen by the method)", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.17), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_answer(axes: Axes, prediction: Prediction) -> None:
    names = list(prediction.probabilities)
    shares = [100 * share for share in prediction.probabilities.values()]
    colours = ["tab:red" if name == prediction.answer else "0.7" for name in names]
    bars = axes.barh(names, shares, color=colours)
    axes.bar_label(
        bars, [f"{share:.1f} %" for share in shares], padding=3, fontsize=8.5, bbox=_PLAIN
    )
    axes.axvline(100 / len(names), color="black", linestyle=":", linewidth=1, zorder=0.5)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("probability, % (dotted: all classes alike)", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)

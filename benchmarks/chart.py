"""A picture of the results: how many times longer every rival takes than memx_fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from .results import Row
from .rivals import CHAMPION
from .workloads import DTYPES, PASSES

_COLOURS = (
    *("#4c72b0", "#8aa9d6", "#55a868", "#c44e52", "#e39a9c"),
    *("#8172b3", "#937860", "#da8bc3", "#8c8c8c"),
)
_INK = "#333333"


def draw(rows: Sequence[Row], file: Path | IO[bytes]) -> None:
    """Write a PNG with one panel for each pass and type, workloads side by side in each."""
    rivals = [
        name
        for name in dict.fromkeys(row.contender for row in rows)
        if not name.startswith(CHAMPION)
    ]
    dtypes = [dtype for dtype in DTYPES if any(row.dtype == dtype for row in rows)]
    size = (1 + 7 * len(dtypes), 8)
    figure, axes = pyplot.subplots(
        len(PASSES), len(dtypes), figsize=size, sharey="row", squeeze=False, dpi=110
    )
    for work, line in zip(PASSES, axes, strict=True):
        for dtype, panel in zip(dtypes, line, strict=True):
            chosen = [row for row in rows if (row.work, row.dtype) == (work, dtype)]
            _draw_panel(panel, chosen, rivals)
            precision = "bfloat16 autocast" if dtype == "bfloat16" else dtype
            panel.set_title(f"{work}, {precision}", loc="left", fontsize=11, color=_INK)
        # One scale for both: left to itself, it would be that of the panel drawn first.
        highest = max((row.ratio or 0 for row in rows if row.work == work), default=0)
        line[0].set_ylim(0, 1.12 * max(1, highest))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    title = "Time of the others, in times of memx_fast"
    if rows[0].quick:
        title += " (short sequences, an impression)"
    figure.suptitle(f"{title}\n{rows[0].device}, PyTorch {rows[0].torch}", color=_INK)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(file, format="png")
    pyplot.close(figure)


def _draw_panel(panel: Axes, rows: Sequence[Row], rivals: Sequence[str]) -> None:
    workloads = list(dict.fromkeys(row.workload for row in rows))
    ratios = {(row.workload, row.contender): row for row in rows if row.ratio is not None}
    width = 0.84 / max(1, len(rivals))
    for index, rival in enumerate(rivals):
        offset = (index - (len(rivals) - 1) / 2) * width
        present = [
            (place + offset, ratios[workload, rival])
            for place, workload in enumerate(workloads)
            if (workload, rival) in ratios
        ]
        bars = panel.bar(
            [place for place, _ in present],
            [row.ratio for _, row in present],
            width * 0.92,
            label=rival,
            color=_COLOURS[index % len(_COLOURS)],
        )
        panel.bar_label(bars, fmt="%.1f", fontsize=6, padding=1, color=_INK)
    panel.axhline(1, color=_INK, linewidth=1)
    beside = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
    panel.annotate(" memx_fast", (1, 1), fontsize=8, va="center", color=_INK, **beside)
    panel.set_xticks(range(len(workloads)), workloads, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", length=0)

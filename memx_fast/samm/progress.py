"""Progress bars: lively on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_silent = False


def silence() -> None:
    """Show no bar of this process: it is one of several, and another one speaks for all."""
    global _silent
    _silent = True


def bar(description: str, total: int, unit: str, *, done: int = 0, hidden: bool = False) -> Any:
    """A bar of ``total`` units, ``done`` of which were there before."""
    lively = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        disable=hidden or _silent,
        mininterval=0.2 if lively else 30,
    )

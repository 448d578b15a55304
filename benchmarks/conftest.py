"""Options of ``pytest benchmarks``, and the table at its end."""

from __future__ import annotations

import pytest

from .devices import DEVICES
from .report import text_table
from .results import Row

ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("memx_fast")
    group.addoption(
        "--quick",
        action="store_true",
        help="short sequences, few rounds, nothing compiled: an impression in five minutes",
    )
    group.addoption(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where everything runs (default: cpu)",
    )
    group.addoption(
        "--preparation",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long building and compiling a contender may take (default: 300)",
    )
    group.addoption(
        "--uncompiled",
        action="store_true",
        help="without the contenders that torch.compile prepares, which takes most of the time",
    )
    group.addoption(
        "--seconds",
        type=float,
        default=20.0,
        help="how long the rounds of a contest go on, five of them at least (default: 20)",
    )
    group.addoption(
        "--emulated",
        action="store_true",
        help="bfloat16 even if the processor has no instructions for it: takes many hours",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """Collects the lines of the final table."""
    return request.config.stash[ROWS]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("memx_fast against the others")
        terminalreporter.write_line(text_table(rows))

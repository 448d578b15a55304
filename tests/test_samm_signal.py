"""What methods make of the built-in data: much where muscles move, nothing where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from memx_fast import train_samm

MOTION = ("--frame-size", "120x96", "--no-crop", "--folds", "2")
FRAMES = ("--frame-size", "170x136", "--folds", "5")
QUICK = {
    MOTION: {
        "lbp-top": {"size": 48},
        "bi-woof": {"size": 48},
        "off-apexnet": {"size": 48, "epochs": 20, "learning_rate": 1e-3},
        "dssn": {"size": 48, "side": 67, "epochs": 10, "learning_rate": 1e-3},
    },
    FRAMES: {"convlstm": {"size": 24, "frames": 3, "epochs": 30, "learning_rate": 1e-3}},
}
"""Data and settings under which methods are quick, and learn all the same.

What sees raw frames needs the face cut out, and more clips to learn from.
"""

GUESSING = 1 / 3


def compared(folder: Path, data: tuple[str, ...], motion: int) -> dict[str, Any]:
    """The lines of a comparison by their methods."""
    settings = [
        word
        for name, values in QUICK[data].items()
        for key, value in values.items()
        for word in ("--set", f"{name}.{key}={value}")
    ]
    options = (
        *("--cache-dir", str(folder / "cache"), "--out", str(folder / f"motion-{motion}")),
        *("--motion", str(motion), *data, "--methods", *QUICK[data], *settings),
    )
    assert train_samm.main(["compare", *options]) == 0
    facts = json.loads((folder / f"motion-{motion}" / "report.json").read_text())
    (task,) = facts["tasks"]
    assert task["majority"]["scores"]["uar"] == pytest.approx(GUESSING)
    return {entry["name"]: entry for entry in task["entries"]}


@pytest.mark.slow
@pytest.mark.parametrize("data", QUICK, ids=("motion", "frames"))
def test_motion_is_all_that_methods_recognise(tmp_path: Path, data: tuple[str, ...]) -> None:
    """With strong movements, all of the interval is above the majority line. Without any, the
    line is within three standard deviations, as it is for guessing: nothing else in the pictures,
    the folds or the choice of the epoch knows the class.
    """
    moving, still = (compared(tmp_path, data, motion) for motion in (2, 0))
    for name in QUICK[data]:
        low = moving[name]["intervals"]["uar"]["low"]
        assert low > GUESSING, name
        uar, limits = still[name]["scores"]["uar"], still[name]["intervals"]["uar"]
        deviation = (limits["high"] - limits["low"]) / (2 * 1.96)
        assert abs(uar - GUESSING) < 3 * deviation, name
        assert moving[name]["scores"]["uar"] > uar + deviation, name

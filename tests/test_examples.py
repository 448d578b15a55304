"""The examples run, and what they teach is so."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_moving_digits(tmp_path: Path) -> None:
    """A twelfth of the training: less error than a frame copied or black has, and both pictures."""
    command = [sys.executable, EXAMPLES / "moving_digits.py", "--steps", "100", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(
        r"frame: ([\d.]+) predicted, ([\d.]+) copying .*, ([\d.]+) black", done.stdout
    )
    assert found is not None, done.stdout
    # Black is the nearer of the two: moving digits hardly overlap with where they were.
    predicted, copied, black = map(float, found.groups())
    assert predicted < black < copied
    with Image.open(tmp_path / "moving_digits.png") as picture:
        assert picture.size == (10 * 34 * 4, 2 * 34 * 4)
    with Image.open(tmp_path / "moving_digits.gif") as animation:
        assert animation.n_frames == 20

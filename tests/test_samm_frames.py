"""Frame files: found by number whatever their padding, decoded, and replaced where damaged."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from memx_fast.samm.annotations import LEFT_OUT, Clip
from memx_fast.samm.frames import decode, index, read

CLIP = Clip("006", "006_1_2", 9998, 10000, 10003, "Anger", "4")


def write_image(path: Path, value: int, shape: tuple[int, ...] = (16, 24)) -> None:
    """One JPEG of a single shade."""
    encoded, data = cv2.imencode(".jpg", np.full(shape, value, np.uint8))
    assert encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    data.tofile(path)


def write_clip(root: Path, values: Mapping[int, int]) -> Path:
    """Frames of CLIP with shades by number; returns their folder."""
    folder = root / "006" / "006_1_2"
    for number, value in values.items():
        write_image(folder / f"006_{number:04d}.jpg", value)
    return folder


def shades(images: list[np.ndarray] | None) -> list[int]:
    """The shade of every image."""
    assert images is not None
    return [round(float(image.mean())) for image in images]


def test_numbers_whatever_their_padding(tmp_path: Path) -> None:
    """Names are listed, never built: 4 and 5 digits mix; the last digits of a name count."""
    names = ("006_0180.jpg", "006_00181.jpg", "006_12256.JPG", "006_7_0182.jpeg")
    for name in (*names, "._006_0184.jpg", "Thumbs.db", "cover.jpg", "006_0185.txt"):
        (tmp_path / name).write_bytes(b"")
    assert {number: path.name for number, path in index(tmp_path).items()} == {
        180: names[0],
        181: names[1],
        182: names[3],
        12256: names[2],
    }


def test_grey_and_colour(tmp_path: Path) -> None:
    """A file of either kind can be read as either; colours come as red, green, blue."""
    path = tmp_path / "006_0001.jpg"
    blue_green_red = np.zeros((16, 24, 3), np.uint8)
    blue_green_red[...] = (20, 80, 220)
    cv2.imencode(".jpg", blue_green_red)[1].tofile(path)
    assert decode(path).shape == (16, 24)
    assert decode(path, 3).shape == (16, 24, 3)
    assert np.abs(decode(path, 3)[8, 8].astype(int) - (220, 80, 20)).max() <= 5
    with pytest.raises(ValueError, match="channels: got 2"):
        decode(path, 2)


def test_any_name_can_be_opened(tmp_path: Path) -> None:
    """Folders may be called anything that the system allows."""
    path = tmp_path / "Größe 微表情" / "006_0001.jpg"
    write_image(path, 100)
    assert decode(path).shape == (16, 24)


def test_frames_in_the_order_asked_for(tmp_path: Path) -> None:
    """One image a number, repeated ones too."""
    write_clip(tmp_path, {9998: 40, 9999: 60, 10000: 80, 10003: 100})
    images, defects = read(tmp_path, CLIP, [9998, 10000, 10000, 10003])
    assert (shades(images), defects) == ([40, 80, 80, 100], [])


@pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "no image"])
def test_nearest_frame_stands_in(tmp_path: Path, damage: str) -> None:
    """A frame that cannot be read is replaced by its nearest neighbour, the earlier one of two."""
    folder = write_clip(tmp_path, {9998: 40, 9999: 60, 10000: 80, 10001: 100, 10003: 120})
    path = folder / "006_10000.jpg"
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        contents = {"cut short": whole[: len(whole) // 2], "empty": b"", "no image": b"text"}
        path.write_bytes(contents[damage])
    images, defects = read(tmp_path, CLIP, [9998, 10000, 10000, 10003])
    assert shades(images) == [40, 60, 60, 120]
    assert len(defects) == 1
    assert defects[0].kind == ("missing frame" if damage == "missing" else "unreadable frame")
    assert ("10000" if damage == "missing" else str(path)) in defects[0].message
    assert defects[0].repair == "frame 9999 is used"


def test_nothing_near_enough_costs_the_clip(tmp_path: Path) -> None:
    """A neighbour three frames away will do, one four frames away will not."""
    write_clip(tmp_path, {9997: 40, 10004: 80})
    images, defects = read(tmp_path, CLIP, [10000])
    assert (shades(images), defects[0].repair) == ([40], "frame 9997 is used")
    (tmp_path / "006" / "006_1_2" / "006_9997.jpg").unlink()
    images, defects = read(tmp_path, CLIP, [10000, 10004])
    assert images is None
    assert [(defect.clip, defect.repair) for defect in defects] == [("006_1_2", LEFT_OUT)]
    assert "copy it again" in defects[0].message


@pytest.mark.parametrize(("exists", "words"), [(False, "does not exist"), (True, "no frames")])
def test_folder_without_frames(tmp_path: Path, exists: bool, words: str) -> None:
    """Missing and empty folders are told apart, named, and cost the clip."""
    folder = tmp_path / "006" / "006_1_2"
    if exists:
        folder.mkdir(parents=True)
    images, defects = read(tmp_path, CLIP, [9998])
    assert images is None
    assert (defects[0].kind, defects[0].repair) == ("no frames", LEFT_OUT)
    assert str(folder) in defects[0].message
    assert words in defects[0].message


def test_frames_of_different_size_cost_the_clip(tmp_path: Path) -> None:
    """They cannot share a face box."""
    folder = write_clip(tmp_path, {9998: 40, 10000: 80})
    write_image(folder / "006_10003.jpg", 90, (16, 30))
    images, defects = read(tmp_path, CLIP, [9998, 10000, 10003])
    assert images is None
    assert defects[0].kind == "frame size"
    assert "24x16 and 30x16" in defects[0].message

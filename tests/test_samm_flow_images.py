"""Ready flow pictures: both layouts give the same clips, and every defect is named."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from memx_fast.samm import flow_images
from memx_fast.samm.annotations import LEFT_OUT
from memx_fast.samm.flow_images import FlowImages

RANDOM = np.random.default_rng(0)
CLIPS = FlowImages(
    RANDOM.integers(0, 256, (6, 3, 28, 28), dtype=np.uint8),
    np.array([0, 2, 0, 1, 1, 2]),
    ["006", "006", "007", "s01", "sub01", "sub01"],
    ["006_1_2", "006_3_5", "007_3_1", "s01_po_01", "EP02_01f", "EP19_05f"],
    [],
)


@pytest.fixture(params=[True, False], ids=["nested", "flat"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The clips on disk, in either layout."""
    path = tmp_path / "pictures"
    flow_images.write(path, CLIPS, nested=request.param)
    return path


def picture(root: Path, name: str) -> Path:
    """The file that decides about a clip: on the test side, in the nested layout."""
    (found,) = [path for path in root.rglob(f"*{name}*.png") if "u_train" not in path.parts]
    return found


def test_what_was_written_comes_back(root: Path) -> None:
    """Pictures (N, 3, 28, 28) with u first, labels, subjects and names."""
    found = flow_images.load(root)
    assert np.array_equal(found.images, CLIPS.images)
    assert found.labels.tolist() == CLIPS.labels.tolist()
    assert (found.subjects, found.names, found.defects) == (CLIPS.subjects, CLIPS.names, [])


def test_red_is_the_horizontal_flow(tmp_path: Path) -> None:
    """The channels of the file in the order in which everyone but OpenCV counts them."""
    images = np.zeros((1, 3, 28, 28), np.uint8)
    images[:, 0] = 200
    one = replace(CLIPS, images=images, labels=np.array([1]), subjects=["006"], names=["006_1_2"])
    flow_images.write(tmp_path, one, nested=False)
    stored = cv2.imread(str(tmp_path / "006_006_1_2 .png"), cv2.IMREAD_COLOR_RGB)
    assert stored[0, 0].tolist() == [200, 0, 0]


def test_data_sets_in_folders_of_their_own(tmp_path: Path) -> None:
    """dataset/subject/u_test as well as subject/u_test."""
    flow_images.write(tmp_path / "all" / "samm", CLIPS, nested=True)
    assert flow_images.load(tmp_path / "all").names == CLIPS.names


@pytest.mark.parametrize("damage", ["cut short", "no image", "size"])
def test_damaged_picture_costs_the_clip_alone(root: Path, damage: str) -> None:
    """It is named, with what is wrong; the others are read."""
    path = picture(root, "007_3_1")
    contents = {
        "cut short": path.read_bytes()[:40],
        "no image": b"text",
        "size": cv2.imencode(".png", np.zeros((30, 28, 3), np.uint8))[1].tobytes(),
    }
    path.write_bytes(contents[damage])
    found = flow_images.load(root)
    assert len(found) == 5
    (defect,) = found.defects
    assert (defect.clip, defect.repair) == ("007/007_3_1", LEFT_OUT)
    assert defect.kind == ("picture size" if damage == "size" else "unreadable picture")
    assert str(path) in defect.message


def test_defects_of_the_table(tmp_path: Path) -> None:
    """A missing picture, a class there is not, and a clip twice."""
    flow_images.write(tmp_path, CLIPS, nested=False)
    (tmp_path / "s01_s01_po_01 .png").unlink()
    table = tmp_path / "labels.csv"
    text = table.read_text().replace("006_1_2,0", "006_1_2,7")
    table.write_text(text + "007,007_3_1,1\n")
    found = flow_images.load(tmp_path)
    assert [(defect.clip, defect.kind) for defect in found.defects] == [
        ("006/006_1_2", "class"),
        ("007/007_3_1", "duplicate"),
        ("s01/s01_po_01", "missing picture"),
    ]
    assert found.labels[found.names.index("007_3_1")] == 0
    assert len(found) == 4


def test_nothing_to_load(tmp_path: Path) -> None:
    """No folder, neither layout, two tables, not one picture: each is said."""
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        flow_images.load(tmp_path / "nowhere")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with pytest.raises(FileNotFoundError, match="sub, filename_o, label"):
        flow_images.load(pictures)
    (pictures / "a.csv").write_text("sub,filename_o,label\n006,006_1_2,0\n")
    with pytest.raises(ValueError, match=r"not one picture.*006_006_1_2"):
        flow_images.load(pictures)
    (tmp_path / "b.csv").write_text("sub,filename_o,label\n006,006_1_2,0\n")
    with pytest.raises(ValueError, match="several tables"):
        flow_images.load(pictures)

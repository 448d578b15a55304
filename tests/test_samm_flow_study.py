"""Ready flow pictures in place of frames: a study of their own, for a method that can use them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memx_fast import train_samm
from memx_fast.samm import checkpoints, flow_images
from memx_fast.samm.flow_images import FlowImages
from memx_fast.samm.methods import METHODS, Input, create
from memx_fast.samm.sources import FlowPictures
from memx_fast.samm.study import Protocol, open_study

pytestmark = pytest.mark.usefixtures("one_thread")

PEOPLE, CLIPS_EACH = 6, 6
PICTURE = Input(28, 1, 3)


def drawn(random: np.random.Generator) -> FlowImages:
    """Six people; what moves right is positive, what moves left negative, down surprise."""
    labels = np.tile([1, 0, 2], PEOPLE * CLIPS_EACH // 3)
    images = random.integers(100, 140, (len(labels), 3, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        channel, value = {0: (0, 0), 1: (0, 255), 2: (1, 255)}[int(label)]
        image[channel, 9:19, 9:19] = value
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 255  # the range of a scaled channel
    subjects = [f"{number:03d}" for number in range(PEOPLE) for _ in range(CLIPS_EACH)]
    names = [f"{subject}_1_{k}" for k, subject in enumerate(subjects)]
    return FlowImages(images, labels, subjects, names, [])


CLIPS = drawn(np.random.default_rng(0))


@pytest.fixture(params=[True, False], ids=["nested", "flat"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The pictures on disk, in either layout."""
    path = tmp_path / "pictures"
    flow_images.write(path, CLIPS, nested=request.param)
    return path


def train(tmp_path: Path, *options: str | Path) -> int:
    """The command with OFF-ApexNet, a few epochs, two folds; its exit status."""
    usual = ("--method", "off-apexnet", "--epochs", "4", "--learning-rate", "1e-3", "--folds", "2")
    return train_samm.main([str(word) for word in (*usual, "--out", tmp_path / "run", *options)])


def test_classes_are_matched_by_name(root: Path) -> None:
    """MEGC counts negative 0, positive 1, surprise 2; the task has positive first."""
    study = open_study(FlowPictures(root), 3, Protocol(count=3), [PICTURE])
    assert study.task.classes == ("Positive", "Negative", "Surprise")
    theirs = {
        f"{s}/{n}": k for s, n, k in zip(CLIPS.subjects, CLIPS.names, CLIPS.labels, strict=True)
    }
    for clip, label in zip(study.clips, study.labels, strict=True):
        assert study.task.classes[label] == flow_images.CLASSES[theirs[clip.name]]
    assert len(set(study.subjects)) == PEOPLE


def test_features_are_the_pictures(root: Path) -> None:
    """Each channel of each to 0..1, u first; a channel that is not scaled to its full range is."""
    method = create("off-apexnet", 3, {"flow": "ready"})
    assert method.input == PICTURE
    study = open_study(FlowPictures(root), 3, Protocol(count=3), [PICTURE])
    features = study.features(method)
    order = [CLIPS.names.index(clip.name.split("/")[1]) for clip in study.clips]
    torch.testing.assert_close(features, torch.from_numpy(CLIPS.images[order]).float() / 255)
    half = torch.from_numpy(CLIPS.images[:1, None] // 2)
    expected = torch.from_numpy(CLIPS.images[:1] // 2).float() / 127
    torch.testing.assert_close(method.features(half, np.zeros(1, np.int64)), expected)


def test_off_apexnet_from_the_command_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns from the pictures and beats the majority line; labels are in the order of the task;
    the card says what its input is.
    """
    assert train(tmp_path, "--flow-images", root, "--epochs", "12") == 0
    screen = capsys.readouterr().out
    assert "36 clips of 6 subjects: Positive 12, Negative 12, Surprise 12" in screen
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["pooled"]["uar"] > 0.9 > report["majority_class"]["uar"]
    assert report["data"] == f"flow pictures in {root}"
    assert report["settings"]["flow"] == "ready"
    assert "paper" not in report
    truth = {
        f"{s}/{n}": k for s, n, k in zip(CLIPS.subjects, CLIPS.names, CLIPS.labels, strict=True)
    }
    for entry in report["predictions"]:
        assert {0: 1, 1: 0, 2: 2}[int(truth[entry["clip"]])] == entry["label"]
    _, card = checkpoints.read(tmp_path / "run" / "fold-1.safetensors")
    assert (card.method, card.size, card.frames, card.channels) == ("off-apexnet", 28, 1, 3)
    assert card.data == f"flow pictures in {root}"
    assert card.test["clips"] == report["folds"][0]["scores"]["clips"]


def test_what_has_learnt_from_pictures_is_not_asked_about_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How the pictures were made is not known, so that none can be made from a clip."""
    pictures, frames = tmp_path / "pictures", tmp_path / "frames"
    flow_images.write(pictures, CLIPS, nested=False)
    assert train(tmp_path, "--flow-images", pictures, "--epochs", "1") == 0
    frames.mkdir()
    for path in sorted(pictures.glob("*.png"))[:3]:
        path.rename(frames / f"{len(list(frames.iterdir()))}.png")
    capsys.readouterr()
    checkpoint = tmp_path / "run" / "fold-1.safetensors"
    assert (
        train_samm.main(["predict", "--checkpoint", str(checkpoint), "--video", str(frames)]) == 1
    )
    captured = capsys.readouterr()
    assert "checkpoint: OFF-ApexNet was trained on ready pictures of the flow" in captured.err
    assert captured.out == ""


def test_several_data_sets_of_pictures(tmp_path: Path) -> None:
    """People with the same number in two folders are two, and each set has its figures."""
    for name in ("samm", "casme2"):
        flow_images.write(tmp_path / "all" / name, CLIPS, nested=True)
    found = flow_images.load(tmp_path / "all")
    assert (len(found), found.defects) == (2 * len(CLIPS), [])
    assert len(set(found.subjects)) == 2 * PEOPLE
    assert set(found.datasets) == {"samm", "casme2"}
    assert found.subjects[0] == "casme2/000"
    with pytest.raises(ValueError, match="clips: got those of casme2, samm, expected one data set"):
        flow_images.write(tmp_path / "again", found, nested=True)
    options = ("--protocol", "loso", "--epochs", "1")
    assert train(tmp_path, "--flow-images", tmp_path / "all", *options) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["folds"]) == 2 * PEOPLE
    parts = report["megc_2019"]
    assert {name: part["clips"] for name, part in parts.items()} == {
        "all data sets": 72,
        "casme2": 36,
        "samm": 36,
    }


@pytest.mark.parametrize("name", [name for name in METHODS if name != "off-apexnet"])
def test_other_methods_refuse(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Each with its reason."""
    assert train(tmp_path, "--flow-images", root, "--method", name) == 1
    error = capsys.readouterr().err
    assert f"flow-images: got {root} for {name}, expected --method off-apexnet; of {name}" in error
    assert METHODS[name].needs_frames in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "x"), "flow-images: got --data as well, expected one or the other"),
        (("--dataset", "smic"), "flow-images: got --dataset as well"),
        (("--classes", "5"), "classes: got 5, expected 3 for flow pictures"),
        (("--protocol", "paper-like"), "protocol: got paper-like, expected folds or loso for flow"),
    ],
)
def test_what_does_not_go_with_pictures(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    """It is refused by name before anything is written."""
    assert train(tmp_path, "--flow-images", root, *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pictures_without_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does the setting alone say where they are; another word than its two is refused."""
    assert train(tmp_path, "--set", "flow=ready") == 1
    assert "flow: got ready, expected the folder with it as well" in capsys.readouterr().err
    with pytest.raises(ValueError, match="flow: got 'both', expected computed or ready"):
        create("off-apexnet", 3, {"flow": "both"})
    with pytest.raises(ValueError, match="has no frames"):
        FlowPictures(tmp_path).load(Input(28, 3))


def test_defects_of_pictures(root: Path) -> None:
    """They are kept with the study; strict refuses them."""
    for path in root.rglob(f"*{CLIPS.names[0]}*.png"):
        path.write_bytes(b"no picture")
    study = open_study(FlowPictures(root), 3, Protocol(count=3), [PICTURE])
    assert [defect.kind for defect in study.defects] == ["unreadable picture"]
    assert len(study.clips) == len(CLIPS) - 1
    with pytest.raises(ValueError, match="strict: the data has 1 defects"):
        replace(FlowPictures(root), strict=True).load(PICTURE)

"""``train-samm predict``: every method, every kind of clip, and what is wrong with some of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from memx_fast import train_samm
from memx_fast.samm import apex, checkpoints, containers, dataset, face_track, worth
from memx_fast.samm.checkpoints import Card, card_path
from memx_fast.samm.faces import Box, Detector, overlap
from memx_fast.samm.films import Film, Video, open_film
from memx_fast.samm.methods import METHODS, create
from memx_fast.samm.prediction import Wanted, predict
from memx_fast.samm.runs import write_text
from memx_fast.samm.synthetic_scene import Course, Person
from memx_fast.samm.synthetic_table import WORKBOOK, PlannedClip, plan, write_workbook
from memx_fast.samm.trained import restore
from memx_fast.samm.training import Examples

SIZE = (170, 136)
COUNT, APEX = 24, 10
CLASSES = ["Positive", "Negative", "Surprise"]
SMALL: dict[str, dict[str, Any]] = {
    "convlstm": {"size": 24, "epochs": 1},
    "lbp-top": {"size": 48},
    "off-apexnet": {"epochs": 1},
    "dssn": {"side": 67, "epochs": 1},
    "elrcn": {"side": 32, "size": 32, "frames": 3, "units": 4, "epochs": 1},
    "apex-cnn": {"size": 16, "epochs": 1},
}
REAL = os.environ.get("MEMX_TEST_VIDEOS", "")


@pytest.fixture(scope="module")
def row() -> PlannedClip:
    """The annotation of the built-in data's first clip, cut to so many frames."""
    found = plan(0)[0]
    onset = 9_990
    clip = replace(found.clip, onset=onset, apex=onset + APEX, offset=onset + COUNT - 1)
    return replace(found, clip=clip, written_apex=clip.apex)


@pytest.fixture(scope="module")
def frames(row: PlannedClip) -> np.ndarray:
    """One expression, greys (24, H, W)."""
    course = Course(COUNT, APEX, row.expression, 2.0, False, False, False)
    return np.stack(list(Person(SIZE, [0, 2, 1]).film(course, [1])))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, row: PlannedClip, frames: np.ndarray) -> Path:
    """A data set of that one clip, the numbers of its files with four and five digits."""
    path = tmp_path_factory.mktemp("data")
    write_workbook(path / WORKBOOK, [row])
    write_folder(path / row.clip.subject / row.clip.name, frames, row.clip.onset)
    return path


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of a method by its name, trained once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: trained(name, folder))


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of: Callable[[str], Path]) -> Path:
    """Of the ConvLSTM network."""
    return checkpoint_of("convlstm")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray) -> Path:
    """The expression as a video."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", frames)


def write_folder(path: Path, frames: Sequence[np.ndarray], first: int = 0) -> Path:
    path.mkdir(parents=True)
    for number, frame in enumerate(frames, start=first):
        cv2.imencode(".jpg", frame)[1].tofile(path / f"006_{number:04d}.jpg")
    return path


def write_video(
    path: Path, frames: Sequence[np.ndarray], codec: str = "MJPG", rate: float = 200
) -> Path:
    height, width = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def trained(name: str, folder: Path, **changes: Any) -> Path:
    """A checkpoint of a method that has learnt a little from noise."""
    torch.manual_seed(0)
    method = create(name, len(CLASSES), SMALL.get(name, {}))
    wanted = method.input
    shape = (6, wanted.frames, wanted.channels, wanted.size, wanted.size)
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.integers(100, 116, shape, dtype=np.uint8))
    features = method.features(noise, np.ones(6, dtype=np.int64))
    examples = Examples(features, np.array([0, 1, 2, 0, 1, 1]))
    method.fit(examples, examples)
    card = Card(
        method=name,
        classes=CLASSES,
        **asdict(wanted),
        crop=True,
        settings={"method": name, "kind": "folds", **method.identity()},
        versions={},
        data="built-in drawn faces, motion 1",
        test={"clips": 27, "accuracy": 0.6, "uar": 0.5, "majority_accuracy": 0.68},
    )
    path = folder / f"{name}.safetensors"
    checkpoints.write(path, method.state(), replace(card, **changes))
    return path


def ask(*options: object) -> int:
    return train_samm.main(["predict", *map(str, options)])


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The command's JSON."""

    def run(*options: object) -> dict[str, Any]:
        assert ask(*options, "--json", "-") == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says when it refuses."""

    def run(*options: object) -> str:
        assert ask(*options) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return captured.err

    return run


@pytest.mark.parametrize("name", METHODS)
def test_every_method_sees_what_it_saw_in_training(
    name: str, checkpoint_of: Any, tmp_path: Path, root: Path, row: PlannedClip, answer: Any
) -> None:
    """A clip of a data set gets the very probabilities that the loader's frames give."""
    path = checkpoint_of(name)
    method, _ = restore(path)
    wanted = asdict(method.input)
    loaded = dataset.load(root, cache_dir=tmp_path, **wanted)
    chosen = dataset.sample(row.clip.onset, row.clip.apex, row.clip.offset, wanted["frames"])
    features = method.features(
        torch.from_numpy(loaded.frames), np.array([chosen.index(row.clip.apex)])
    )
    expected = dict(zip(CLASSES, method.predict(features)[0].tolist(), strict=True))

    folder = root / row.clip.subject / row.clip.name
    found = answer("--checkpoint", path, "--video", folder, "--apex", row.clip.apex)
    assert found["probabilities"] == expected
    assert found["chosen_frames"] == chosen
    assert found["answer"] == max(expected, key=expected.__getitem__)
    assert (found["onset"], found["offset"]) == (row.clip.onset, row.clip.offset)
    assert found["given"] == ["apex"]
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "mp4v")]
)
def test_videos_are_read_as_they_were_written(
    tmp_path: Path, frames: np.ndarray, suffix: str, codec: str
) -> None:
    """Frames by their numbers, counted from 0, grey or in colour; the rate; twice the same."""
    frames = (frames // 2 + 5 * np.arange(COUNT)[:, None, None]).astype(np.uint8)
    film = open_film(write_video(tmp_path / f"clip{suffix}", frames, codec, 50))
    assert film.rate == pytest.approx(50, rel=0.01)
    assert list(film.numbers(None, None)) == list(range(COUNT))
    assert list(film.numbers(3, 7)) == [3, 4, 5, 6, 7]
    read = dict(film.read([2, 3, 20]))
    assert list(read) == [2, 3, 20]
    for number, image in read.items():
        distances = np.abs(frames.astype(int) - image).mean((1, 2))
        assert distances.argmin() == number
        assert distances[number] < 6
    (_, colour), *_ = film.read([20], channels=3)
    assert colour.shape == (*frames[0].shape, 3)
    assert np.abs(colour.astype(int) - read[20][:, :, None]).mean() < 3
    assert film.notes == []


def test_video_and_folder_agree(
    tmp_path: Path, frames: np.ndarray, clip: Path, checkpoint: Path, answer: Any
) -> None:
    """The same pictures in either form give the same box and nearly the same answer."""
    folder = write_folder(tmp_path / "clip", frames)
    one = answer("--checkpoint", checkpoint, "--video", clip, "--apex", APEX)
    other = answer("--checkpoint", checkpoint, "--video", folder, "--apex", APEX)
    assert one["chosen_frames"] == other["chosen_frames"]
    places = [Box(**found["face_box"]) for found in (one, other)]
    assert overlap(*places) > 0.9
    for name in CLASSES:
        assert one["probabilities"][name] == pytest.approx(other["probabilities"][name], abs=0.05)
    assert (one["frames_a_second"], other["frames_a_second"]) == (200, None)


def test_parts_of_a_clip(clip: Path, checkpoint: Path, answer: Any) -> None:
    """Onset, apex and offset are taken as given; the rate as well."""
    found = answer(
        *("--checkpoint", checkpoint, "--video", clip, "--fps", 100),
        *("--onset", 3, "--apex", 9, "--offset", 19),
    )
    assert found["chosen_frames"] == [3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert found["given"] == ["onset", "apex", "offset"]
    assert found["strain_since_onset"] == {}
    assert found["frames_a_second"] == 100
    assert found["face"]["looks"] == found["face"]["seen"] == 17


@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_apex_is_found(tmp_path: Path, frames: np.ndarray, drift: float) -> None:
    """Within two frames, even if the whole head drifts on until the offset."""
    height, width = frames[0].shape
    moved = [
        cv2.warpAffine(
            frame,
            np.float32([[1, 0, drift * number], [0, 1, 0]]),
            (width, height),
            borderMode=cv2.BORDER_REPLICATE,
        )
        for number, frame in enumerate(frames)
    ]
    film = open_film(write_video(tmp_path / "clip.avi", moved))
    box = Detector().find(frames[0])
    found = apex.search(film, film.numbers(None, None), box)
    assert abs(found.apex - APEX) <= 2
    assert list(found.strains) == list(range(COUNT))
    assert found.strains[0] == 0
    assert found.strains[found.apex] == max(list(found.strains.values())[1:-1])


def test_apex_of_a_long_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some frames are tried everywhere, all around the best; the result is that of trying all."""

    class Heights(Film):
        def numbers(self, onset: int | None, offset: int | None) -> range:
            raise AssertionError

        def read(self, numbers: Sequence[int], channels: int = 1) -> Any:
            return ((number, np.full((8, 8), number % 256, np.uint8)) for number in numbers)

    tried: list[int] = []

    def strain(image: np.ndarray) -> np.ndarray:
        tried.append(int(image[0, 0]))
        return np.array(-abs(float(image[0, 0]) - best))

    monkeypatch.setattr(apex, "flow", lambda onset, image: image)
    monkeypatch.setattr(apex, "strain", strain)
    film = Heights(Path("film"), None)
    for best in (1, 2, 100, 127, 128, 129, 197, 198):
        tried.clear()
        assert apex.search(film, range(200), None).apex == best
        assert len(tried) <= apex.LOOKS + 2 * -(-200 // apex.LOOKS)


def test_faces_are_followed(tmp_path: Path, frames: np.ndarray) -> None:
    """One box, that of the onset; a single frame without the face costs nothing."""
    blinking = [*frames[:5], np.full_like(frames[0], 90), *frames[5:]]
    film = open_film(write_video(tmp_path / "clip.avi", blinking))
    numbers = film.numbers(None, None)
    track = face_track.follow(film, numbers)
    _, onset = next(film.read(numbers))
    assert track.box == Detector().find(onset)
    assert (track.looks, track.seen, track.others) == (COUNT + 1, COUNT, 0)
    assert track.drift < 0.05


def test_head_that_moves_is_noticed(tmp_path: Path, frames: np.ndarray) -> None:
    """The box stays at the onset; how far the face goes from there is told."""
    moved = [np.roll(frames[0], -round(1.5 * number), axis=1) for number in range(20)]
    film = open_film(write_video(tmp_path / "clip.avi", moved))
    track = face_track.follow(film, film.numbers(None, None))
    assert track.drift * track.box.side == pytest.approx(1.5 * 19, abs=5)


def two_people(frames: np.ndarray) -> list[np.ndarray]:
    """The person twice, three quarters as large on the left."""
    height, width = frames[0].shape
    both = []
    for frame in frames:
        image = np.full((height, 2 * width), 90, np.uint8)
        small = cv2.resize(frame, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        image[: small.shape[0], : small.shape[1]] = small
        image[:, width:] = frame
        both.append(image)
    return both


def test_largest_face_counts(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, answer: Any
) -> None:
    """Of two, the larger one is taken and the other mentioned; it can be chosen by its place."""
    video = write_video(tmp_path / "two.avi", two_people(frames))
    found = answer("--checkpoint", checkpoint, "--video", video, "--apex", APEX)
    assert found["face_box"]["left"] >= SIZE[0]
    assert found["face"]["others"] == 1
    assert any("1 more face is in the clip" in note for note in found["notes"])
    found = answer(
        *("--checkpoint", checkpoint, "--video", video, "--apex", APEX),
        *("--face-box", "30,24,60,50"),
    )
    assert found["face_box"] == {"left": 30, "top": 19, "side": 60}
    assert found["face"] is None


def test_whole_frames(
    tmp_path: Path, frames: np.ndarray, clip: Path, answer: Any, complaint: Any
) -> None:
    """A checkpoint of whole frames looks for no face, and either can be asked for."""
    path = trained("convlstm", tmp_path, crop=False)
    blank = write_video(tmp_path / "blank.avi", [np.full_like(frames[0], 90)] * 9)
    found = answer("--checkpoint", path, "--video", blank)
    assert found["face_box"] is None
    assert any("Nothing moves in this clip" in note for note in found["notes"])
    assert answer("--checkpoint", path, "--video", clip, "--crop")["face_box"] is not None
    message = complaint("--checkpoint", path, "--video", clip, "--face-box", "0,0,20,20")
    assert "face_box: got a place, but whole frames are wanted" in message


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """600 frames of 1280x960 pixels (740 MB as greys) cost no more than 30 of them."""
    person = Person((320, 240), [0, 2, 1]).portrait()
    portrait = cv2.resize(person, (1280, 960), interpolation=cv2.INTER_LINEAR)
    short = write_video(tmp_path / "short.avi", [portrait] * 30)
    long = write_video(tmp_path / "long.avi", [portrait] * 600)
    path = trained("majority", tmp_path)
    program = f"""
import resource
from pathlib import Path
from memx_fast.samm.films import open_film
from memx_fast.samm.prediction import Wanted, predict
from memx_fast.samm.trained import restore
method, card = restore(Path({str(path)!r}))
for name in ({str(short)!r}, {str(long)!r}):
    assert predict(method, card, open_film(Path(name)), Wanted()).offset in (29, 599)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert many - few < 50, f"{few:.0f} MB for 30 frames, {many:.0f} MB for 600"


def test_vanishing_face(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any, answer: Any
) -> None:
    """The frames without it are named, and the part that shows it, which then works."""
    blank = [np.full_like(frames[0], 90)] * 6
    video = write_video(tmp_path / "clip.avi", [*frames[:3], *blank, *frames, *blank])
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert "vanishes: it is not found in frames 3 to 8, 33 to 38" in message
    assert "--onset 9 --offset 32" in message
    found = answer("--checkpoint", checkpoint, "--video", video, "--onset", 9, "--offset", 32)
    assert (found["onset"], found["offset"]) == (9, 32)


def test_no_face(tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any) -> None:
    """Nothing is guessed."""
    video = write_video(tmp_path / "clip.avi", [np.full_like(frames[0], 90)] * 12)
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert f"no face is found in {video}, of which 12 frames were looked at" in message
    assert "--face-box" in message


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "mp4v")]
)
def test_truncated_video(
    tmp_path: Path,
    frames: np.ndarray,
    checkpoint: Path,
    complaint: Any,
    suffix: str,
    codec: str,
) -> None:
    """However little is missing, it is said how much."""
    video = write_video(tmp_path / f"clip{suffix}", frames, codec)
    whole = video.read_bytes()
    assert containers.missing_bytes(video) == 0
    for share in (0.6, 0.98):
        video.write_bytes(whole[: int(share * len(whole))])
        message = complaint("--checkpoint", checkpoint, "--video", video)
        assert "cut short" in message
        assert "copy it again" in message
        assert str(video) in message


def test_what_is_left_of_a_truncated_video(
    tmp_path: Path, clip: Path, checkpoint: Path, complaint: Any, answer: Any
) -> None:
    """Frames before the cut can be used by giving the offset, frames behind it cannot."""
    video = tmp_path / "cut.avi"
    video.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    assert answer("--checkpoint", checkpoint, "--video", video, "--offset", 10)["offset"] == 10
    message = complaint("--checkpoint", checkpoint, "--video", video, "--offset", 20)
    assert "frames: it is cut short" in message


def test_damaged_video(
    tmp_path: Path, frames: np.ndarray, complaint: Any, checkpoint: Path
) -> None:
    """A file of the right length, most of whose frames cannot be decoded."""
    video = write_video(tmp_path / "clip.mp4", frames, "mp4v")
    content = bytearray(video.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    video.write_bytes(content)
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert f"of {COUNT} frames: it is damaged" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.avi", b"", "(0 bytes) is no video of a kind that is known"),
        ("a.mp4", b"hello" * 100, "(500 bytes) is no video of a kind that is known"),
        ("a.csv", b"frame,x\n", "is no video"),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, checkpoint: Path, complaint: Any, name: str, content: bytes, words: str
) -> None:
    """Files of something else, and of nothing."""
    (tmp_path / name).write_bytes(content)
    assert words in complaint("--checkpoint", checkpoint, "--video", tmp_path / name)


def test_unknown_codec(tmp_path: Path, clip: Path, checkpoint: Path, complaint: Any) -> None:
    """A whole container with something in it that nobody can decode."""
    video = tmp_path / "clip.avi"
    video.write_bytes(clip.read_bytes().replace(b"MJPG", b"ZZZZ"))
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert "is an AVI file, but OpenCV" in message
    assert "knows no codec" in message


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_frames(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any, count: int
) -> None:
    """Three are the least; fewer than the method wants are repeated, and that is said."""
    video = write_video(tmp_path / "clip.avi", frames[:count])
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert f"has {count} frames from 0 to {count - 1}, expected at least 3" in message


def test_short_clip_repeats_frames(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, answer: Any
) -> None:
    """Nine frames of a clip of five."""
    found = answer("--checkpoint", checkpoint, "--video", write_folder(tmp_path / "a", frames[:5]))
    assert set(found["chosen_frames"]) == {0, 1, 2, 3, 4}
    assert any("too short for 9 frames: 4 of them" in note for note in found["notes"])


def test_folders_with_something_wrong(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any, answer: Any
) -> None:
    """Unreadable files are all named, gaps are filled as in training, sizes must agree."""
    folder = write_folder(tmp_path / "clip", frames[:12])
    asked = ("--checkpoint", checkpoint, "--video", folder, "--apex", 5)
    (folder / "006_0006.jpg").unlink()
    found = answer(*asked, "--onset", 2, "--offset", 10)
    assert found["chosen_frames"] == [2, 3, 4, 5, 5, 7, 8, 9, 10]
    assert "Frame 6 is missing; frame 5 is used." in found["notes"]
    message = complaint(*asked, "--onset", 6)
    assert "onset: got 6" in message
    assert "numbered from 0 to 11" in message

    (folder / "006_0003.jpg").write_bytes(b"")
    whole = (folder / "006_0008.jpg").read_bytes()
    (folder / "006_0008.jpg").write_bytes(whole[: len(whole) // 2])
    message = complaint(*asked)
    assert "2 of the frames" in message
    assert "006_0003.jpg, 006_0008.jpg" in message

    for name in ("006_0003.jpg", "006_0008.jpg"):
        cv2.imencode(".jpg", frames[0][:-8])[1].tofile(folder / name)
    assert "006_0003.jpg has 170x128 pixels, the frames before it 170x136" in complaint(*asked)

    for path in folder.iterdir():
        path.unlink()
    assert f"{folder} holds no frames" in complaint(*asked)
    assert "does not exist" in complaint("--checkpoint", checkpoint, "--video", tmp_path / "no")


def test_far_gap_is_refused(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any
) -> None:
    """More than three frames away none stands in."""
    folder = write_folder(tmp_path / "clip", frames)
    for number in range(8, 17):
        (folder / f"006_{number:04d}.jpg").unlink()
    message = complaint("--checkpoint", checkpoint, "--video", folder, "--apex", 6)
    assert "frame 12 is not in" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--apex", 40), "apex: got 40, expected a frame from onset 0 to offset 23"),
        (("--onset", 9, "--offset", 5), "onset, offset: got 9 and 5"),
        (("--onset", -1), "onset, offset: got -1"),
        (("--onset", 30), "onset: got 30, but the frames"),
        (("--offset", 30), "got frame 24, but the frames"),
        (("--face-box", "100,10,90,20"), "face_box: got 100,10,90,20, expected"),
        (("--face-box", "10,10,0,20"), "face_box: got 10,10,0,20"),
        (("--fps", 0), "fps: got 0.0"),
        (("--picture", "answer.jpg"), "picture: got answer.jpg, expected NAME.png"),
        (("--device", "cuda:99"), "device: got cuda:99"),
        (("--weights", "vgg.safetensors"), "weights: convlstm has no such setting"),
    ],
    ids=str,
)
def test_wrong_options(
    clip: Path, checkpoint: Path, complaint: Any, options: tuple[object, ...], words: str
) -> None:
    """What came, and what was expected."""
    assert words in complaint("--checkpoint", checkpoint, "--video", clip, *options)


def edited(path: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a checkpoint whose card says something else."""
    copy = folder / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    card = json.loads(card_path(path).read_text())
    for name, value in changes.items():
        if value is None:
            del card[name]
        else:
            card[name] = value
    write_text(card_path(copy), json.dumps(card))
    return copy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "has format 99, expected 1: it was written by another version"),
        ({"method": "magic"}, "method: got 'magic', expected one of convlstm"),
        ({"method": "dssn"}, "side missing; another version wrote it"),
        ({"settings": {}}, "settings: epochs"),
        ({"settings": []}, r"settings: got []"),
        ({"classes": ["Positive"]}, "classes: got ['Positive']"),
        ({"classes": ["Positive", "Negative"]}, "these are not the weights of convlstm"),
        ({"size": 30}, "size: the card says 30, the method 24"),
        ({"weights_sha256": "0"}, "is damaged, or copy.card.json belongs to other weights"),
        ({"crop": None}, "is no card of a checkpoint"),
    ],
    ids=str,
)
def test_checkpoints_that_do_not_fit(
    tmp_path: Path,
    clip: Path,
    checkpoint: Path,
    complaint: Any,
    changes: dict[str, Any],
    words: str,
) -> None:
    """Cards of other versions, of unknown methods, and of other weights."""
    path = edited(checkpoint, tmp_path, **changes)
    assert words in complaint("--checkpoint", path, "--video", clip)


def test_checkpoint_that_is_damaged(
    tmp_path: Path, clip: Path, checkpoint: Path, complaint: Any
) -> None:
    """Half of a file, none at all, and the folder around it."""
    path = edited(checkpoint, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    assert "copy both files again" in complaint("--checkpoint", path, "--video", clip)
    card_path(path).unlink()
    assert "a checkpoint is two files" in complaint("--checkpoint", path, "--video", clip)
    message = complaint("--checkpoint", tmp_path, "--video", clip)
    assert f"checkpoint: got {tmp_path}, expected NAME.safetensors" in message


def test_weights_of_vgg_have_to_be_there(
    tmp_path: Path, clip: Path, checkpoint_of: Any, complaint: Any
) -> None:
    """A file that was moved is asked for, and another one is refused."""
    path = checkpoint_of("elrcn")
    card = json.loads(card_path(path).read_text())
    settings = {**card["settings"], "weights": str(tmp_path / "vgg"), "weights_sha256": "0"}
    path = edited(path, tmp_path, settings=settings)
    message = complaint("--checkpoint", path, "--video", clip)
    assert f"weights: got {tmp_path / 'vgg'}, which is no file" in message
    assert "--weights" in message
    other = tmp_path / "other"
    other.write_bytes(b"other weights")
    message = complaint("--checkpoint", path, "--video", clip, "--weights", other)
    assert "weights_sha256: the card says '0'" in message


def test_results_are_written(
    tmp_path: Path, clip: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text on the screen, the same numbers as JSON, a picture of what was seen."""
    picture, record = tmp_path / "a.png", tmp_path / "a.json"
    asked = ("--checkpoint", checkpoint, "--video", clip, "--picture", picture, "--json", record)
    assert ask(*asked) == 0
    screen = capsys.readouterr().out
    found = json.loads(record.read_text())
    for name, share in found["probabilities"].items():
        assert f"{name:8}  {100 * share:5.1f} %" in screen
    assert all(f"- {note}" in screen for note in found["notes"])
    assert f"apex {found['apex']}" in screen
    assert str(found["trained_on"]) == "built-in drawn faces, motion 1"
    image = cv2.imdecode(np.frombuffer(picture.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] > 1200
    red = (image == (40, 39, 214)).all(-1)  # of the apex: its edge, its line and the answer's bar
    gold = (image == (0, 215, 255)).all(-1)
    assert min(red.sum(), gold.sum()) > 500


def test_nothing_is_overwritten(
    tmp_path: Path,
    frames: np.ndarray,
    clip: Path,
    checkpoint: Path,
    complaint: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files that exist are refused before any work, unless asked for; the data always is."""
    mine = tmp_path / "thesis.png"
    mine.write_text("precious")
    asked = ("--checkpoint", checkpoint, "--video", clip, "--apex", APEX)
    assert f"picture: {mine} exists" in complaint(*asked, "--picture", mine)
    assert mine.read_text() == "precious"
    assert "exists" in complaint("--checkpoint", "x", "--video", "x", "--json", mine)
    assert ask(*asked, "--picture", mine, "--overwrite") == 0
    capsys.readouterr()
    assert mine.read_bytes().startswith(b"\x89PNG")

    before = {path: path.read_bytes() for path in (clip, checkpoint, card_path(checkpoint))}
    for path in before:
        assert "belongs to the data" in complaint(*asked, "--json", path, "--overwrite")
    assert before == {path: path.read_bytes() for path in before}
    folder = write_folder(tmp_path / "clip", frames)
    asked = ("--checkpoint", checkpoint, "--video", folder)
    inside = folder / "strip_1.jpg"
    assert "belongs to the data" in complaint(*asked, "--picture", inside)
    same = tmp_path / "both"
    message = complaint(*asked, "--picture", same, "--json", same)
    assert "which picture is to be written to as well" in message
    assert "is a folder" in complaint(*asked, "--json", tmp_path)
    assert "is no folder; make it first" in complaint(*asked, "--json", tmp_path / "no" / "a.json")


def test_failure_leaves_nothing(
    tmp_path: Path, frames: np.ndarray, checkpoint: Path, complaint: Any
) -> None:
    """What was there stays as it was, and no half file appears."""
    video = write_video(tmp_path / "clip.avi", [np.full_like(frames[0], 90)] * 5)
    old = tmp_path / "old.png"
    old.write_text("old")
    complaint("--checkpoint", checkpoint, "--video", video, "--picture", old, "--overwrite")
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"clip.avi", "old.png"}


@pytest.mark.parametrize(
    ("rate", "words", "absent"),
    [
        (25.0, "25 frames a second are few", ""),
        (100.0, "", "are few"),
        (200.0, "", "a micro-expression at most 0.5: give"),
    ],
)
def test_notes_about_time(
    clip: Path, checkpoint: Path, rate: float, words: str, absent: str
) -> None:
    """Slow cameras and long clips are mentioned, others not."""
    method, card = restore(checkpoint)
    film = Video(clip)
    found = predict(method, card, film, Wanted(apex=APEX, rate=rate))
    text = " ".join(worth.notes(card, found, film))
    assert words in text
    assert not absent or absent not in text
    assert ("The clip lasts" in text) == (COUNT / rate > 0.5)


def test_notes_about_training(clip: Path, checkpoint: Path) -> None:
    """What it was trained on, how it did, and what inflates that."""
    method, card = restore(checkpoint)
    film = Video(clip)
    found = predict(method, card, film, Wanted(apex=APEX))
    text = " ".join(worth.notes(card, found, film))
    assert "trained on built-in drawn faces, motion 1" in text
    assert "says nothing about real ones" in text
    assert "60.0 % of its answers were right" in text
    assert "most frequent in training: 68.0 %" in text
    assert "inflated" not in text
    other = replace(card, data="/data/SAMM", settings={**card.settings, "kind": "paper-like"})
    text = " ".join(worth.notes(other, found, film))
    assert "says nothing about real ones" not in text
    assert "inflated" in text
    several = replace(card, data=f"/data/SAMM and {card.data}")
    assert "says nothing about real ones" in " ".join(worth.notes(several, found, film))
    bare = " ".join(worth.notes(replace(card, data="", test={}), found, film))
    assert "data that the checkpoint does not name" in bare
    assert "answers were right" not in bare


def test_help_explains_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """Where frames are counted from, how the apex is found, what is refused."""
    with pytest.raises(SystemExit):
        ask("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in ("counted from 0", "largest mean strain", "vanishes", "--overwrite"):
        assert words in text
    assert "None" not in text


needs_videos = pytest.mark.skipif(not REAL, reason="MEMX_TEST_VIDEOS names no folder")


@needs_videos
def test_real_face(checkpoint: Path, answer: Any) -> None:
    """Half a second of somebody whose expression changes; box and apex are plausible."""
    video = Path(REAL) / "woman-expressions.mp4"
    found = answer("--checkpoint", checkpoint, "--video", video, "--onset", 150, "--offset", 162)
    box = found["face_box"]
    assert 250 < box["side"] < 360
    assert 240 < box["left"] < 320
    assert (found["face"]["seen"], found["face"]["looks"]) == (13, 13)
    assert 150 < found["apex"] < 162
    assert found["frames_a_second"] == pytest.approx(23.976, abs=1e-3)
    assert any("frames a second are few" in note for note in found["notes"])


@needs_videos
def test_real_face_throughout(checkpoint: Path) -> None:
    """472 frames, in one of which the detector sees nothing; the head moves by a quarter."""
    film = open_film(Path(REAL) / "woman-expressions.mp4")
    numbers = film.numbers(None, None)
    assert len(numbers) == 472
    track = face_track.follow(film, numbers)
    assert track.seen >= track.looks - 2
    assert track.drift > 0.1


@needs_videos
def test_real_face_that_vanishes(checkpoint: Path, complaint: Any, answer: Any) -> None:
    """It is there in frames 0 to 71 of 169."""
    video = Path(REAL) / "face-then-none.mov"
    message = complaint("--checkpoint", checkpoint, "--video", video)
    assert "not found in frames 72 to 168" in message
    assert "--onset 0 --offset 71" in message
    found = answer("--checkpoint", checkpoint, "--video", video, "--offset", 30, "--apex", 20)
    assert found["face"]["seen"] == 31


@needs_videos
def test_real_video_without_a_face(checkpoint: Path, complaint: Any) -> None:
    """Sky is no face; the three frames that its edit list hides are no damage."""
    video = Path(REAL) / "no-face.mp4"
    assert "no face is found" in complaint("--checkpoint", checkpoint, "--video", video)
    film = open_film(video)
    assert len(film.numbers(None, None)) == 95
    assert film.notes == ["The file announces 98 frames, of which 95 are shown."]

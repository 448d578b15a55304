"""One square box around the face, inside the image, and what is cut out with it."""

import numpy as np
import pytest

from memx_fast.samm import faces
from memx_fast.samm.faces import Box, Detector, centre, cut
from memx_fast.samm.synthetic_scene import Person

SIZE = (340, 272)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A face, (272, 340)."""
    return Person(SIZE, [0, 2, 5]).portrait()


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Loading its model takes longer than using it."""
    return Detector()


def box_of(detector: Detector, image: np.ndarray) -> Box:
    """The face that must be there."""
    box = detector.find(image)
    assert box is not None
    return box


def test_box_holds_the_face(detector: Detector, portrait: np.ndarray) -> None:
    """It is square, inside the image, and about as large as the face is drawn."""
    box = box_of(detector, portrait)
    assert box.left >= 0
    assert box.top >= 0
    assert box.left + box.side <= SIZE[0]
    assert box.top + box.side <= SIZE[1]
    assert 0.45 * SIZE[1] < box.side < 0.8 * SIZE[1]


def test_box_follows_the_face(detector: Detector, portrait: np.ndarray) -> None:
    """A face somewhere else gives the box somewhere else, and a larger one a larger box."""
    box = box_of(detector, portrait)
    shifted = box_of(detector, np.roll(portrait, 24, axis=1))
    assert abs(shifted.left - box.left - 24) <= 4
    enlarged = box_of(detector, np.kron(portrait, np.ones((4, 4), np.uint8)))
    assert abs(enlarged.side / 4 - box.side) <= 0.1 * box.side


def test_surest_face_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several findings the one with the highest certainty, not the largest."""

    class Cascade:
        def __init__(self, _: str) -> None: ...

        def empty(self) -> bool:
            return False

        def detectMultiScale3(self, *_: object, **__: object) -> tuple:
            found = np.array([[0, 0, 90, 90], [20, 10, 40, 40]], np.int32)
            return found, np.array([25, 25], np.int32), np.array([0.3, 10.9])

    monkeypatch.setattr(faces.cv2, "CascadeClassifier", Cascade)
    assert Detector().find(np.zeros((100, 100), np.uint8)) == Box(18, 8, 44)


def test_missing_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenCV without the model is named, with the package to install."""
    monkeypatch.setattr(faces.cv2, "__file__", "/nowhere/cv2/__init__.py")
    with pytest.raises(RuntimeError, match=r"/nowhere/cv2/data/.*opencv-contrib"):
        Detector()


def test_colour_and_grey_agree(detector: Detector, portrait: np.ndarray) -> None:
    """Colour images are searched in greys."""
    colour = np.repeat(portrait[:, :, None], 3, axis=2)
    assert detector.find(colour) == detector.find(portrait)


def test_box_at_the_edge_is_moved_inside(detector: Detector, portrait: np.ndarray) -> None:
    """A face that fills the image gives a box that is still square and inside."""
    box = box_of(detector, portrait)
    tight = portrait[box.top : box.top + box.side, box.left : box.left + box.side - 4]
    inner = box_of(detector, tight)
    assert inner.side <= min(tight.shape)
    assert inner.left + inner.side <= tight.shape[1]
    assert inner.top + inner.side <= tight.shape[0]


def test_other_frames_are_tried(detector: Detector, portrait: np.ndarray) -> None:
    """The first image in which a face is found decides; none anywhere is None."""
    blank = np.full_like(portrait, 90)
    assert detector.find_in_any([blank, portrait]) == detector.find(portrait)
    assert detector.find_in_any([blank, blank]) is None


def test_centre() -> None:
    """The largest square in the middle, whichever side is longer."""
    assert centre(np.zeros((100, 160), np.uint8)) == Box(30, 0, 100)
    assert centre(np.zeros((160, 101, 3), np.uint8)) == Box(0, 30, 101)


def test_cut_takes_the_box_and_averages() -> None:
    """Each pixel of the result is the mean of those it stands for."""
    image = np.zeros((40, 60), np.uint8)
    image[10:30, 20:40] = np.kron([[10, 20], [30, 40]], np.ones((10, 10)))
    assert cut(image, Box(20, 10, 20), 2).tolist() == [[10, 20], [30, 40]]


def test_cut_without_a_box_keeps_everything() -> None:
    """The whole frame, its sides made equal, with as many channels as before."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (10, 20, 30)
    small = cut(image, None, 4)
    assert small.shape == (4, 4, 3)
    assert small[:, 2:].reshape(-1, 3).tolist() == [[10, 20, 30]] * 8
    assert not small[:, :2].any()


def test_enlarging_is_smooth() -> None:
    """A ramp stays a ramp: no steps."""
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    enlarged = cut(ramp, None, 96).astype(int)
    assert np.abs(np.diff(enlarged, axis=1)).max() <= 3

"""What every method computes from frames, against loops over pixels or what is known of them.

The parts are in ``test_samm_methods.py`` and ``test_samm_flow.py``; here a clip goes in and the
whole of its features comes out.
"""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch

from memx_fast.samm import flow
from memx_fast.samm.methods import create
from memx_fast.samm.training import Examples


def texture(side: int) -> np.ndarray:
    """Smooth noise, bytes."""
    noise = np.random.default_rng(1).random((side, side)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def as_clips(*frames: np.ndarray) -> torch.Tensor:
    """One clip, grey."""
    return torch.from_numpy(np.stack(frames))[None, :, None]


def test_lbp_top_of_a_clip() -> None:
    """Codes by comparing with four neighbours, histograms by counting; planes xy, xt, yt, and in
    each the blocks row by row.
    """
    random = np.random.default_rng(0)
    cube = random.integers(0, 6, (7, 9, 11), dtype=np.uint8)
    settings = {"size": 11, "frames": 7, "blocks": 2, "radius_t": 2, "radius_y": 1, "radius_x": 1}
    found = create("lbp-top", 3, settings).features(as_clips(*cube), np.array([3]))
    steps = {"x": (0, 0, 1), "y": (0, 1, 0), "t": (2, 0, 0)}
    expected = []
    for first, second in ("xy", "xt", "yt"):
        circle = [np.multiply(steps[axis], sign) for sign in (1, -1) for axis in (first, second)]
        counts = np.zeros((2, 2, 16))
        for t, y, x in itertools.product(range(2, 5), range(1, 8), range(1, 10)):
            code = sum(
                (cube[t + dt, y + dy, x + dx] >= cube[t, y, x]) << bit
                for bit, (dt, dy, dx) in enumerate(circle)
            )
            # Seven rows and nine columns of centres: the first halves have one more.
            counts[int(y - 1 >= 4), int(x - 1 >= 5), code] += 1
        expected.append(counts / counts.sum(-1, keepdims=True))
    np.testing.assert_allclose(found[0], np.concatenate(expected, axis=None), rtol=1e-6)


@pytest.mark.parametrize(("right", "down"), [(2, 1), (-1, 2), (-2, -1), (1, -2)])
def test_bi_woof_of_a_shift(right: int, down: int) -> None:
    """A face that moves as a whole: every block votes for that direction, and for no other."""
    picture = texture(100)
    first = picture[10:90, 10:90]
    apex = picture[10 - down : 90 - down, 10 - right : 90 - right]
    frames = as_clips(first, apex, first)
    method = create("bi-woof", 3, {"size": 80, "blocks": 4})
    histograms = method.features(frames, np.array([1]))[0].reshape(4, 4, 8)
    direction = math.floor((math.degrees(math.atan2(down, right)) + 180) / 45)
    inner = histograms[1:3, 1:3]  # at the borders of the frame, new texture comes in
    assert (inner[..., direction] > 0.95 * inner.sum(-1)).all()
    torch.testing.assert_close(histograms.square().sum(), torch.tensor(1.0))


def test_off_apexnet_of_a_clip() -> None:
    """u, v and strain from onset to apex, means of the pixels under each of 28 x 28 cells, then
    every channel from its least to its greatest value: one loop a cell.
    """
    picture = texture(80)
    first, apex = picture[8:68, 8:68], picture[9:69, 6:66]
    found = create("off-apexnet", 3, {"size": 60}).features(as_clips(first, first, apex), [2])
    displacement = flow.flow(first.copy(), apex.copy())
    channels = [*displacement, flow.strain(displacement)]
    for image, channel in zip(channels, found[0], strict=True):
        cells = np.zeros((28, 28))
        for row, column in itertools.product(range(28), range(28)):
            rows, columns = (
                slice(math.floor(n * 60 / 28), math.ceil((n + 1) * 60 / 28)) for n in (row, column)
            )
            cells[row, column] = image[rows, columns].mean()
        scaled = (cells - cells.min()) / (cells.max() - cells.min())
        np.testing.assert_allclose(channel, scaled, atol=1e-5)


def test_single_frame_of_a_clip() -> None:
    """The apex of each clip and no other frame, at half its size: each pixel the mean of four by
    four, weighted 1, 3, 3, 1.
    """
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 1, 128, 128), dtype=np.uint8)
    found = create("apex-cnn", 3).features(torch.from_numpy(frames), np.array([1, 2]))
    assert found.shape == (2, 1, 1, 64, 64)
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    for clip, apex in enumerate((1, 2)):
        image = frames[clip, apex, 0].astype(float)
        for row, column in ((1, 1), (7, 30), (62, 62), (40, 5)):
            part = image[2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3]
            assert abs(found[clip, 0, 0, row, column] - (part * weights).sum()) <= 0.5 + 1e-3


def test_frames_of_the_papers_network() -> None:
    """All frames as they are: bytes in the method, a share of 255 in the network."""
    frames = torch.randint(0, 256, (2, 9, 1, 90, 90), dtype=torch.uint8)
    method = create("convlstm", 3)
    features = method.features(frames, np.array([4, 4]))
    assert torch.equal(features, frames)
    shown, _ = Examples(features, np.array([0, 1])).tensors()
    torch.testing.assert_close(shown, frames.double().div(255).float())


def test_majority_counts() -> None:
    """The shares of the classes among training clips, whatever is shown."""
    method = create("majority", 3)
    nothing = method.features(torch.zeros(4, 3, 1, 8, 8, dtype=torch.uint8), np.zeros(4, int))
    assert nothing.shape == (4, 0)
    method.fit(Examples(nothing, np.array([1, 1, 0, 1])), Examples(nothing[:1], np.array([2])))
    np.testing.assert_array_equal(method.predict(nothing[:2]), [[0.25, 0.75, 0]] * 2)

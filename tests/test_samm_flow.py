"""Flow on known movements, strain on known deformations, and their normalisation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from memx_fast.samm import flow

RANDOM = np.random.default_rng(0)


def texture(side: int) -> np.ndarray:
    """Smooth noise, bytes."""
    noise = cv2.GaussianBlur(RANDOM.random((side, side)).astype(np.float32), (0, 0), 2.5)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_flow_of_a_known_translation() -> None:
    """What moves two pixels to the right and one up has u = 2 and v = -1, away from the borders."""
    picture = texture(100)
    first, second = picture[10:74, 10:74], picture[11:75, 8:72]
    u, v = flow.flow(first.copy(), second.copy())[:, 12:-12, 12:-12]
    assert np.abs(u - 2).max() < 0.1
    assert np.abs(v + 1).max() < 0.1


def test_strain_of_known_deformations() -> None:
    """e = sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2): of stretching and shear; none of rotation."""
    y, x = np.mgrid[:9, :11].astype(np.float32)
    for (u_x, u_y, v_x, v_y), expected in (
        ((0.5, 0, 0, 0), 0.5),
        ((0.3, 0, 0, 0.4), 0.5),
        ((0, 0.2, 0.2, 0), np.sqrt(0.08)),
        ((0, 0.7, -0.7, 0), 0.0),
        ((0, 0, 0, 0), 0.0),
    ):
        field = np.stack([u_x * x + u_y * y + 3, v_x * x + v_y * y - 2])
        np.testing.assert_allclose(flow.strain(field), expected, atol=1e-6)


def test_onset_to_apex(tmp_path: Path) -> None:
    """Channels u, v, strain, from the first frame to the apex; zeros where that is the same frame.

    Colour is made grey, and what is kept on disk is what was computed.
    """
    picture = texture(60)
    frames = np.stack([picture[5:45, 5:45], picture[:40, :40], picture[5:45, 4:44]])
    clips = torch.from_numpy(np.stack([frames, frames]))[:, :, None]
    apexes = np.array([2, 0])
    found = flow.onset_to_apex(clips, apexes, tmp_path)
    assert found.shape == (2, 3, 40, 40)
    expected = flow.flow(frames[0], frames[2])
    np.testing.assert_array_equal(found[0, :2], expected)
    np.testing.assert_array_equal(found[0, 2], flow.strain(expected))
    assert not found[1].any()
    written = {entry: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    assert len(written) == 2  # one a pair
    assert torch.equal(
        flow.onset_to_apex(clips.flip(0), apexes[::-1].copy(), tmp_path)[1], found[0]
    )
    assert {entry: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == written
    coloured = flow.onset_to_apex(clips.expand(-1, -1, 3, -1, -1), apexes)
    assert torch.equal(coloured, found)


def test_frame_to_frame() -> None:
    """One flow fewer than frames, each from a frame to the next."""
    picture = texture(50)
    frames = np.stack([picture[5:37, start : start + 32] for start in (5, 6, 8)])
    found = flow.frame_to_frame(torch.from_numpy(frames)[None, :, None])
    assert found.shape == (1, 2, 3, 32, 32)
    for step in range(2):
        np.testing.assert_array_equal(found[0, step, :2], flow.flow(frames[step], frames[step + 1]))


def test_scaled_and_mirrored() -> None:
    """Every channel by itself to 0..1, a flat one to 0; a mirror changes the sign of u alone."""
    images = torch.randn(2, 3, 5, 7)
    images[1, 2] = 4.0
    found = flow.scaled(images)
    assert found[:, :2].amin((-2, -1)).eq(0).all()
    assert found[:, :2].amax((-2, -1)).eq(1).all()
    assert not found[1, 2].any()
    low, high = images[0, 0].min(), images[0, 0].max()
    torch.testing.assert_close(found[0, 0], (images[0, 0] - low) / (high - low))
    other = flow.mirrored(images)
    assert torch.equal(other[:, 0], -images[:, 0].flip(-1))
    assert torch.equal(other[:, 1:], images[:, 1:].flip(-1))


def test_mirrored_frames_give_mirrored_flow() -> None:
    """The flow of two mirrored frames is nearly the mirrored flow of the two frames."""
    picture = texture(60)
    first, second = picture[5:45, 5:45].copy(), picture[6:46, 4:44].copy()
    straight = torch.from_numpy(flow.flow(first, second))
    turned = flow.flow(first[:, ::-1].copy(), second[:, ::-1].copy())
    expected = flow.mirrored(torch.cat([straight, straight[:1]]))[:2]
    assert np.abs(turned - expected.numpy())[:, 8:-8, 8:-8].max() < 0.1


def test_frames_that_do_not_fit() -> None:
    """Their shapes are said."""
    with pytest.raises(ValueError, match=r"got \(4, 4\) and \(5, 4\), expected \(H, W\) twice"):
        flow.flow(np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8))

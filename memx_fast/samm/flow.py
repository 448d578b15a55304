"""Optical flow and optical strain between two frames: what moved, and what was stretched.

Flow is TV-L1 (Zach, Pock and Bischof 2007) as OpenCV computes it, with its default settings, on
grey frames. Channels always come in the order **u, v, strain**:

- u, v: displacement in pixels from the first frame to the second, u to the right, v downwards;
- strain: e = sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2), the norm of the symmetric part of the flow's
  gradient, as in Liong et al. (Bi-WOOF) and Khor et al. (ELRCN). Derivatives are central
  differences, one-sided at the borders. A rotation or a shift of the whole face gives no strain to
  first order.

Nothing is normalised here. :func:`scaled` is the usual normalisation of the networks: every channel
of every image by itself from its least to its greatest value, to 0..1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memx_fast.samm import cache
from memx_fast.samm.labels import Integers
from memx_fast.samm.progress import bar

Field = npt.NDArray[np.float32]

_VERSION = 1
"""Part of every cache key: to be raised whenever the same frames would give another flow."""

_SHOWN_FROM = 20
"""Fewer pairs of frames than this are done before anybody looks for a progress bar."""


def flow(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> Field:
    """TV-L1 optical flow.

    Args:
        first: grey frame (H, W).
        second: a later one of the same size.

    Returns:
        (2, H, W): u and v, pixels.

    Raises:
        ValueError: the frames are not grey or not of one size.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"first, second: got {first.shape} and {second.shape}, expected (H, W) twice"
        )
    method = cv2.optflow.DualTVL1OpticalFlow_create()  # type: ignore[attr-defined]
    found = method.calc(first, second, None)
    return np.ascontiguousarray(np.moveaxis(found, -1, 0), dtype=np.float32)


def strain(displacement: Field) -> Field:
    """Optical strain (..., H, W) of a flow (..., 2, H, W)."""
    u, v = displacement[..., 0, :, :], displacement[..., 1, :, :]
    u_y, u_x = np.gradient(u, axis=(-2, -1))
    v_y, v_x = np.gradient(v, axis=(-2, -1))
    found: Field = np.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2).astype(np.float32)
    return found


def onset_to_apex(frames: Tensor, apexes: Integers, cache_dir: Path | None = None) -> Tensor:
    """Flow and strain from the first frame of each clip to its apex.

    Args:
        frames: uint8 (N, T, C, H, W); colour is made grey.
        apexes: index of each clip's apex among its frames, (N,).
        cache_dir: where to keep the flow of every pair; None keeps nothing.

    Returns:
        float32 (N, 3, H, W): u, v, strain; zeros where the apex is the first frame.
    """
    clips = np.arange(len(frames))
    greys = _greys(frames)
    pairs = np.stack([greys[clips, 0], greys[clips, apexes]], axis=1)
    return _of_pairs(pairs, cache_dir)


def frame_to_frame(frames: Tensor, cache_dir: Path | None = None) -> Tensor:
    """Flow and strain from every frame to the next: float32 (N, T - 1, 3, H, W)."""
    greys = _greys(frames)
    clips, steps = greys.shape[0], greys.shape[1] - 1
    pairs = np.stack([greys[:, :-1], greys[:, 1:]], axis=2)
    found = _of_pairs(pairs.reshape(-1, *pairs.shape[2:]), cache_dir)
    return found.reshape(clips, steps, *found.shape[1:])


def scaled(images: Tensor) -> Tensor:
    """Every channel of (..., H, W) to 0..1, from its least to its greatest value; 0 if flat."""
    least = images.amin((-2, -1), keepdim=True)
    span = images.amax((-2, -1), keepdim=True) - least
    return torch.where(span > 0, (images - least) / span.clamp_min(1e-12), torch.zeros(()))


def mirrored(images: Tensor) -> Tensor:
    """Left and right exchanged in (..., 3, H, W) of u, v, strain: u changes its sign as well."""
    flipped = images.flip(-1)
    return flipped * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]


def _greys(frames: Tensor) -> npt.NDArray[np.uint8]:
    """(N, T, H, W)."""
    if frames.shape[2] == 1:
        return frames[:, :, 0].numpy()
    shape = (*frames.shape[:2], *frames.shape[3:])
    colour = frames.permute(0, 1, 3, 4, 2).flatten(0, 1).numpy()
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in colour]
    return np.asarray(greys, dtype=np.uint8).reshape(shape)


def _of_pairs(pairs: npt.NDArray[np.uint8], cache_dir: Path | None) -> Tensor:
    """u, v, strain (N, 3, H, W) of pairs of frames (N, 2, H, W)."""
    facts = f"{_VERSION} {cv2.__version__}"
    found = np.zeros((len(pairs), 3, *pairs.shape[2:]), np.float32)
    with bar("optical flow", len(pairs), "pair", hidden=len(pairs) < _SHOWN_FROM) as done:
        for result, pair in zip(found, pairs, strict=True):
            result[:] = cache.kept(cache_dir, "flow", facts, pair, partial(_of_pair, pair))
            done.update()
    return torch.from_numpy(found)


def _of_pair(pair: npt.NDArray[np.uint8]) -> Field:
    first, second = pair
    found = np.zeros((3, *first.shape), np.float32)
    if not np.array_equal(first, second):
        found[:2] = flow(first, second)
        found[2] = strain(found[:2])
    return found

"""Which frames of a clip represent it: onset, apex, offset, and the others evenly between."""

from __future__ import annotations


def sample(onset: int, apex: int, offset: int, count: int = 9) -> list[int]:
    """Numbers of the ``count`` frames that stand for a clip.

    The frames divide onset..offset evenly (a half is rounded up). If the apex is not among them, it
    takes the place of the nearest one that is neither the first nor the last (of two equally near
    ones, the earlier). The order is that of time.

    A clip with at least ``count`` frames gives ``count`` different ones. A shorter clip gives all
    of its frames, some of them repeatedly, as evenly as can be.

    Args:
        onset: first frame of the clip.
        apex: strongest frame.
        offset: last frame.
        count: how many frames to choose, at least 3.

    Returns:
        ``count`` frame numbers, in ascending order.

    Raises:
        ValueError: ``count`` is below 3, or not ``onset <= apex <= offset``.
    """
    if count < 3:
        raise ValueError(f"count: got {count}, expected at least 3: onset, apex and offset")
    if not onset <= apex <= offset:
        raise ValueError(
            f"apex: got {apex}, expected a frame from onset {onset} to offset {offset}"
        )
    steps = count - 1
    span = offset - onset
    # Integers alone: floating point would round halves now up, now down.
    chosen = [onset + (2 * step * span + steps) // (2 * steps) for step in range(count)]
    if apex not in chosen:
        nearest = min(range(1, steps), key=lambda step: (abs(chosen[step] - apex), step))
        chosen[nearest] = apex
    return chosen

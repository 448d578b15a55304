"""Nine frames of a clip that include onset, apex and offset."""

import itertools

import pytest

from memx_fast.samm.sampling import sample


def test_apex_takes_the_place_of_the_nearest_frame() -> None:
    """The even grid stays but for one frame."""
    assert sample(0, 30, 80) == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert sample(0, 33, 80) == [0, 10, 20, 33, 40, 50, 60, 70, 80]
    assert sample(0, 38, 80) == [0, 10, 20, 30, 38, 50, 60, 70, 80]


def test_equally_near_frames_give_way_from_the_left() -> None:
    """An apex half-way between two frames replaces the earlier one."""
    assert sample(0, 35, 80) == [0, 10, 20, 35, 40, 50, 60, 70, 80]


def test_apex_beside_an_end_keeps_the_end() -> None:
    """Onset and offset stay, however near the apex is; the nearest frame between them goes."""
    assert sample(0, 1, 80) == [0, 1, 20, 30, 40, 50, 60, 70, 80]
    assert sample(0, 79, 80) == [0, 10, 20, 30, 40, 50, 60, 79, 80]


@pytest.mark.parametrize("apex", [0, 80])
def test_apex_at_an_end(apex: int) -> None:
    """Onset or offset can be the apex: then the grid is even."""
    assert sample(0, apex, 80) == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_halves_round_up() -> None:
    """Always in the same direction, so that equal clips at other places give equal steps."""
    assert sample(0, 0, 12) == [0, 2, 3, 5, 6, 8, 9, 11, 12]
    assert sample(5001, 5001, 5013) == [5001, 5003, 5004, 5006, 5007, 5009, 5010, 5012, 5013]


def test_short_clips_repeat_frames_evenly() -> None:
    """Fewer frames than asked for: all of them are there, some repeatedly."""
    assert sample(7, 8, 9) == [7, 7, 8, 8, 8, 8, 9, 9, 9]
    assert sample(7, 7, 7) == [7] * 9


def test_every_small_clip_keeps_the_promises() -> None:
    """Exhaustively: ascending; onset, apex and offset in; no repetition if there is no need."""
    for span, count in itertools.product(range(40), (3, 4, 9, 10)):
        for apex in range(span + 1):
            chosen = sample(100, 100 + apex, 100 + span, count)
            assert len(chosen) == count
            assert chosen == sorted(chosen)
            assert (chosen[0], chosen[-1]) == (100, 100 + span)
            assert 100 + apex in chosen
            assert len(set(chosen)) == min(count, span + 1)


def test_wrong_arguments() -> None:
    """The message names the argument and what came."""
    with pytest.raises(ValueError, match="count: got 2"):
        sample(0, 1, 2, count=2)
    with pytest.raises(ValueError, match="apex: got 9"):
        sample(0, 9, 8)

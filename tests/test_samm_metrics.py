"""Figures of merit against counts done by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from memx_fast.samm.metrics import composite_score, confusion


def test_composite_by_hand() -> None:
    """Two subjects with 5 clips each; no fold has clips of all classes, rows are the truth.

    Summed over the folds, by class: truth 6, 2, 2; right 4, 1, 2; predicted 5, 2, 3. So F1 is 8/11,
    2/4 and 4/5, and recall 4/6, 1/2 and 2/2.
    """
    folds = [
        np.array([[3, 0, 1], [1, 0, 0], [0, 0, 0]]),
        np.array([[1, 1, 0], [0, 1, 0], [0, 0, 2]]),
    ]
    found = composite_score(folds)
    assert found.clips == 10
    assert found.uf1 == pytest.approx((8 / 11 + 2 / 4 + 4 / 5) / 3)
    assert found.uar == pytest.approx((4 / 6 + 1 / 2 + 2 / 2) / 3)


def test_composite_is_pooled() -> None:
    """However clips are dealt to folds, the figures are those of all predictions at once."""
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 3, (2, 60))
    parts = np.split(random.permutation(60), [5, 6, 30])
    found = composite_score([confusion(truth[part], predicted[part], 3) for part in parts])
    assert found.uf1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found.uar == pytest.approx(recall_score(truth, predicted, average="macro"))


def test_class_that_is_never_predicted() -> None:
    """It has an F1 of 0, as the majority line on the 133 clips of SAMM shows: 0.273 and 1/3."""
    found = composite_score([np.array([[92, 0, 0], [26, 0, 0], [15, 0, 0]])])
    assert found.uf1 == pytest.approx(2 * 92 / (92 + 133) / 3)
    assert round(found.uf1, 3) == 0.273
    assert found.uar == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], "shapes"),
        ([np.ones((3, 2))], "shapes"),
        ([np.ones((3, 3)), np.ones((2, 2))], "shapes"),
        ([np.diag([1, 0, 1])], r"no clip of class \[1\]"),
    ],
)
def test_wrong_folds(folds: list[np.ndarray], message: str) -> None:
    """Said by name."""
    with pytest.raises(ValueError, match=f"folds: got .*{message}"):
        composite_score(folds)

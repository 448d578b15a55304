"""Tasks, folds, augmentation and figures of merit: what the network is trained on and judged by."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from memx_fast.samm import augmentation, folds, metrics
from memx_fast.samm.annotations import EMOTIONS
from memx_fast.samm.labels import TASKS, taking_part
from memx_fast.samm.synthetic_table import plan

CLIPS = [row.clip for row in plan(0)]


def labels_and_subjects(classes: int) -> tuple[np.ndarray, np.ndarray]:
    chosen, labels = taking_part(TASKS[classes], CLIPS)
    return labels, np.array([CLIPS[index].subject for index in chosen])


@pytest.mark.parametrize(
    ("classes", "counts", "people"),
    [
        (3, {"Positive": 26, "Negative": 92, "Surprise": 15}, 28),
        (5, {"Happiness": 26, "Contempt": 12, "Anger": 57, "Other": 26, "Surprise": 15}, 27),
        (
            7,
            {
                "Happiness": 26,
                "Contempt": 12,
                "Anger": 57,
                "Disgust": 9,
                "Fear": 8,
                "Sadness": 6,
                "Surprise": 15,
            },
            28,
        ),
    ],
)
def test_tasks_have_the_published_counts(classes: int, counts: dict[str, int], people: int) -> None:
    """133, 136 and 133 clips; the classes in the order of the paper's matrices."""
    labels, subjects = labels_and_subjects(classes)
    task = TASKS[classes]
    assert tuple(counts) == task.classes
    assert [counts[name] for name in task.classes] == np.bincount(labels).tolist()
    assert len(np.unique(subjects)) == people
    assert all(sum(emotion in members for members in task.emotions) <= 1 for emotion in EMOTIONS)


def test_a_class_without_clips_is_named() -> None:
    """Training without surprise would silently answer another question."""
    without = [clip for clip in CLIPS if clip.emotion not in ("Surprise", "Happiness")]
    with pytest.raises(ValueError, match="clips: got none of class Positive, Surprise"):
        taking_part(TASKS[3], without)


@pytest.mark.parametrize("classes", [3, 5, 7])
def test_no_subject_is_in_two_parts(classes: int) -> None:
    """Of any fold; and every clip is tested exactly once."""
    labels, subjects = labels_and_subjects(classes)
    split = folds.split(labels, subjects)
    assert sorted(np.concatenate([fold.test for fold in split])) == list(range(len(labels)))
    for fold in split:
        parts = [set(subjects[part]) for part in (fold.training, fold.validation, fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set(subjects))
        indices = np.concatenate([fold.training, fold.validation, fold.test])
        assert sorted(indices) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("classes", "smallest"),
    [(3, [3, 15, 2]), (5, [2, 1, 8, 3, 2])],
)
def test_classes_are_spread_over_the_folds(classes: int, smallest: list[int]) -> None:
    """No test part goes below what a local search over the published table could reach, or so."""
    labels, subjects = labels_and_subjects(classes)
    counts = [
        np.bincount(labels[fold.test], minlength=classes) for fold in folds.split(labels, subjects)
    ]
    assert (np.min(counts, axis=0) >= smallest).all(), counts


def test_splits_depend_on_the_seed_alone() -> None:
    """The same seed gives the same folds, another one others."""
    labels, subjects = labels_and_subjects(3)
    splits = [
        [fold.test.tolist() for fold in folds.split(labels, subjects, seed=seed)]
        for seed in (0, 0, 1, 2, 3)
    ]
    assert splits[0] == splits[1]
    assert all(one != other for one, other in itertools.combinations(splits[1:], 2))


def test_one_subject_a_fold() -> None:
    """Leave one subject out: as many folds as people, everybody tested once and alone."""
    labels, subjects = labels_and_subjects(3)
    split = folds.split(labels, subjects, count=28)
    tested = [set(subjects[fold.test]) for fold in split]
    assert sorted(name for names in tested for name in names) == sorted(set(subjects))
    assert all(len(fold.validation) > 0 for fold in split)


@pytest.mark.parametrize("count", [1, 29])
def test_impossible_numbers_of_folds(count: int) -> None:
    """One fold tests nothing, and 28 people cannot fill 29."""
    with pytest.raises(ValueError, match="seed: got -1"):
        folds.split(*labels_and_subjects(3), seed=-1)
    with pytest.raises(ValueError, match=f"folds: got {count} for 28 subjects"):
        folds.split(*labels_and_subjects(3), count=count)


def test_an_epoch_is_balanced() -> None:
    """Every clip once as it is, copies of the smaller classes, and those alone altered."""
    labels = np.repeat([0, 1, 2], [3, 10, 4])
    epoch = augmentation.balanced_epoch(labels, np.random.default_rng(0))
    assert Counter(labels[epoch.clips].tolist()) == {0: 10, 1: 10, 2: 10}
    assert sorted(epoch.clips[~epoch.altered]) == list(range(17))
    assert set(labels[epoch.clips[epoch.altered]]) == {0, 2}
    uses = Counter(epoch.clips.tolist())
    for label in (0, 1, 2):
        of_class = [uses[index] for index in np.flatnonzero(labels == label)]
        assert max(of_class) - min(of_class) <= 1
    assert not np.array_equal(epoch.clips, np.sort(epoch.clips))


def test_altered_clips() -> None:
    """Mirrored as a whole, lit by at most a fifth, specked on 1 to 2 % of the pixels, half each."""
    random = np.random.default_rng(0)
    ramp = torch.linspace(0.2, 0.7, 40).expand(3, 1, 30, 40)
    mirrored = specked = lit = 0
    for _ in range(400):
        clip = augmentation.alter(ramp, random)
        assert clip.shape == ramp.shape
        specks = (clip == 0) | (clip == 1)
        share = specks.float().mean().item()
        assert share == 0 or 0.005 < share < 0.025
        flipped = (
            bool(clip[~specks].numel()) and clip[0, 0, :, :20].mean() > clip[0, 0, :, 20:].mean()
        )
        straight = clip.flip(-1) if flipped else clip
        clean = ~(specks.flip(-1) if flipped else specks)
        factors = straight[clean] / ramp[clean]
        torch.testing.assert_close(factors, factors[0].expand_as(factors), rtol=1e-5, atol=0.0)
        assert 0.8 <= factors[0] <= 1.2
        mirrored += flipped
        specked += share > 0
        lit += not torch.isclose(factors[0], torch.ones(()), rtol=1e-6)
    # Three standard deviations of 400 throws of a coin are 30.
    assert all(abs(count - 200) < 30 for count in (mirrored, specked, lit))


def test_scores_of_a_known_table() -> None:
    """By hand: rows (3 of 4, 1 to the other), (2 of 6, 4 to the other)."""
    truth = np.array([0] * 4 + [1] * 6)
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    found = metrics.score(truth, predicted)
    first, second = 2 * 3 / (2 * 3 + 4 + 1), 2 * 2 / (2 * 2 + 1 + 4)
    assert found.clips == 10
    assert found.accuracy == pytest.approx(5 / 10)
    assert found.uar == pytest.approx((3 / 4 + 2 / 6) / 2)
    assert found.uar == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found.uf1 == pytest.approx((first + second) / 2)
    assert found.weighted_f1 == pytest.approx(0.4 * first + 0.6 * second)
    assert metrics.confusion(truth, predicted, 2).tolist() == [[3, 1], [4, 2]]


def test_a_held_out_subject_is_validated_by_others() -> None:
    """Leave one subject out: a fifth of the other people validates, not a single one."""
    labels, subjects = labels_and_subjects(3)
    split = folds.split(labels, subjects, protocol="loso")
    assert len(split) == 28
    for fold in split:
        assert len(set(subjects[fold.test])) == 1
        assert len(set(subjects[fold.validation])) >= 3
        assert not set(subjects[fold.validation]) & set(subjects[fold.training])


def test_paper_like_folds() -> None:
    """The clips tested also decide when to stop; copies make the classes even; nobody is trained
    and tested on, and each clip is tested as itself exactly once.
    """
    labels, subjects = labels_and_subjects(3)
    clean, leaking = (
        folds.split(labels, subjects, protocol=protocol) for protocol in ("folds", "paper-like")
    )
    for honest, fold in zip(clean, leaking, strict=True):
        assert np.array_equal(fold.validation, fold.test)
        assert set(fold.test) == set(honest.test)
        assert sorted(fold.test[: len(honest.test)]) == sorted(honest.test)
        assert not set(subjects[fold.test]) & set(subjects[fold.training])
        assert len(fold.training) + len(honest.test) == len(labels)
        counts = np.bincount(labels[fold.test])
        assert len(set(counts)) == 1
        assert counts[0] == np.bincount(labels[honest.test]).max()
    with pytest.raises(ValueError, match="protocol: got 'holdout', expected one of folds, loso"):
        folds.split(labels, subjects, protocol="holdout")

"""A study: what methods are given of each fold, and that altered copies are what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from memx_fast.samm import augmentation
from memx_fast.samm.methods import Input, create
from memx_fast.samm.sampling import sample
from memx_fast.samm.study import Protocol, Source, Study, open_study


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(
        None,
        tmp_path_factory.mktemp("cache"),
        crop=False,
        frame_size=(120, 96),
        progress=False,
    )


def opened(source: Source, protocol: str, *inputs: Input) -> Study:
    return open_study(source, 3, Protocol(protocol, count=2), inputs)


def test_the_same_clips_for_every_input(source: Source) -> None:
    """Names, labels and folds do not depend on what methods see; the apex is where it should be."""
    inputs = Input(16, 3), Input(12, 9)
    study = opened(source, "folds", *inputs)
    assert len(study.clips) == len(study.labels) == len(study.subjects) == 133
    for wanted in inputs:
        frames = study.frames[wanted]
        assert frames.shape == (133, wanted.frames, 1, wanted.size, wanted.size)
        for clip, apex in zip(study.clips, study.apexes(wanted), strict=True):
            assert sample(clip.onset, clip.apex, clip.offset, wanted.frames)[apex] == clip.apex
    alone = opened(source, "folds", inputs[1])
    assert alone.digest(inputs[1]) == study.digest(inputs[1])
    assert study.digest(inputs[0]) != study.digest(inputs[1])


def test_clean_parts(source: Source) -> None:
    """Features of the fold's clips in the fold's order."""
    method = create("convlstm", 3, {"size": 12, "frames": 3})
    study = opened(source, "folds", method.input)
    for part, indices in zip(
        study.parts(method, 2),
        (study.split[1].training, study.split[1].validation, study.split[1].test),
        strict=True,
    ):
        assert torch.equal(part.features, study.frames[method.input][torch.from_numpy(indices)])
        assert np.array_equal(part.labels, study.labels[indices])


def test_paper_like_parts(source: Source) -> None:
    """Test clips come first, altered copies of them after; the copies are the same ones each time,
    for every method as its frames are, and others in another fold.
    """
    method = create("convlstm", 3, {"size": 12, "frames": 3})
    study = opened(source, "paper-like", method.input)
    training, validation, test = study.parts(method, 1)
    fold = study.split[0]
    assert validation is test
    assert torch.equal(training.features, study.features(method)[torch.from_numpy(fold.training)])
    originals = len(set(fold.test))
    plain = study.features(method)[torch.from_numpy(fold.test)]
    assert torch.equal(test.features[:originals], plain[:originals])
    copies = test.features[originals:]
    assert len(copies) > 0
    altered = (copies != plain[originals:]).flatten(1).any(1)
    assert 0.7 < altered.float().mean() <= 1  # one in eight is left as it is
    assert torch.equal(study.parts(method, 1)[2].features, test.features)
    random = np.random.default_rng([0, 1, len(copies)])
    first = augmentation.alter(plain[originals].float() / 255, random)
    assert torch.equal(copies[0], (first * 255).round().byte())
    histograms = create("lbp-top", 3, {"size": 12, "frames": 3, "radius_t": 1, "blocks": 2})
    both = opened(source, "paper-like", method.input, histograms.input)
    found = both.parts(histograms, 1)[2].features[originals:]
    assert torch.equal(found, histograms.features(copies, np.ones(len(copies), np.int64)))


def test_names(source: Source, tmp_path: Path) -> None:
    """For folders and for people."""
    assert source.name == "built-in"
    assert source.place == "built-in drawn faces, motion 1"
    assert Source(tmp_path / "SAMM", tmp_path).name == "SAMM"

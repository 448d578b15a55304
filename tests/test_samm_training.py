"""The network and its training: what is learnt from, when it stops, and that it can go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from memx_fast import reference
from memx_fast.samm.methods.convlstm import Settings, ShallowConvLSTMMethod
from memx_fast.samm.network import ShallowConvLSTM
from memx_fast.samm.training import Epoch, Examples, Trainer

SIZE, FRAMES = 10, 3
SETTINGS = Settings(epochs=3, batch=4, learning_rate=1e-2, size=SIZE, frames=FRAMES)


def drifting_spots() -> Examples:
    """24 clips of a bright spot that moves left (0) or right (1), from anywhere."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 12)
    frames = random.integers(0, 40, (24, FRAMES, 1, SIZE, SIZE), dtype=np.uint8)
    for clip, label in zip(frames, labels, strict=True):
        row, column = random.integers(1, SIZE - 2), random.integers(3, SIZE - 4)
        for step in range(FRAMES):
            at = column + (step if label else -step)
            clip[step, 0, row : row + 2, at : at + 2] = 250
    return Examples(torch.from_numpy(frames), labels)


CLIPS = drifting_spots()
TRAINING, VALIDATION, TEST = (
    CLIPS.part(np.arange(*bounds)) for bounds in ((0, 12), (12, 18), (18, 24))
)


def untrained(
    settings: Settings = SETTINGS,
    training: Examples = TRAINING,
    validation: Examples = VALIDATION,
    seed: tuple[int, ...] = (0, 0),
) -> Trainer:
    return ShallowConvLSTMMethod(2, settings).trainer(training, validation, seed=seed)


def trained(epochs: int = 2, *arguments: object, **options: object) -> Trainer:
    trainer = untrained(*arguments, **options)
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def curve(trainer: Trainer) -> list[Epoch]:
    """The history without what depends on the machine."""
    return [replace(epoch, seconds=0.0) for epoch in trainer.history]


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_parameters_of_the_papers_network() -> None:
    """38,144 of the ConvLSTM and 11,626,032 of the dense layer; a spatial peephole adds 743,424."""
    counts = ShallowConvLSTM(3).parameter_counts()
    assert counts == {"ConvLSTM": 38_144, "dense 48": 11_626_032, "dense to classes": 147}
    spatial = ShallowConvLSTM(3, peephole="spatial").parameter_counts()
    assert spatial["ConvLSTM"] - counts["ConvLSTM"] == 3 * 32 * 88 * 88
    assert ShallowConvLSTM(3, pool_stride=2).parameter_counts()["dense 48"] == 44**2 * 32 * 48 + 48


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
@pytest.mark.parametrize("pool_stride", [1, 2])
def test_network_against_its_parts(padding: str, peephole: str | None, pool_stride: int) -> None:
    """The last hidden state of the reference, pooled, through the two dense layers."""
    torch.manual_seed(0)
    network = ShallowConvLSTM(
        5, 11, 3, padding=padding, peephole=peephole, pool_stride=pool_stride
    ).double()
    network.eval()
    frames = torch.rand(2, FRAMES, 3, 11, 11, dtype=torch.float64)
    layer = network.recurrent
    if peephole:
        torch.nn.init.normal_(layer.weight_ch_l0)
    _, (last, _) = reference.conv_lstm(
        frames.transpose(0, 1),
        layer.weight_ih_l0,
        layer.weight_hh_l0,
        layer.bias_l0,
        layer.weight_ch_l0,
        padding=padding,
    )
    pooled = F.max_pool2d(last, 2, pool_stride).flatten(1)
    hidden = torch.sigmoid(F.linear(pooled, network.hidden.weight, network.hidden.bias))
    expected = F.linear(hidden, network.output.weight, network.output.bias)
    torch.testing.assert_close(network(frames), expected, rtol=1e-10, atol=1e-10)
    network(frames).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_motion_is_learnt() -> None:
    """Which way a spot moves cannot be seen in any single frame, and is known in the end."""
    method = ShallowConvLSTMMethod(2, replace(SETTINGS, epochs=25))
    history = method.fit(TRAINING, VALIDATION).history
    probabilities = method.predict(TEST.features).numpy()
    assert (probabilities.argmax(1) == TEST.labels).mean() >= 5 / 6
    assert history[-1].training_loss < 0.5 * history[0].training_loss
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_training_repeats_itself() -> None:
    """The same seed and fold give bitwise the same weights; another of either gives others."""
    first = trained(seed=(1, 2))
    assert same_weights(first, trained(seed=(1, 2)))
    assert not same_weights(first, trained(seed=(2, 2)))
    assert not same_weights(first, trained(seed=(1, 3)))


def test_going_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Interrupted after every epoch, training ends bitwise where it would have ended."""
    whole = trained(epochs=3)
    path = tmp_path / "checkpoint"
    for _ in range(3):
        piece = untrained()
        if path.exists():
            piece.load(path)
        piece.run_epoch()
        piece.save(path)
    assert piece.finished
    assert curve(piece) == curve(whole)
    assert same_weights(piece, whole)
    for trainer in (piece, whole):
        trainer.keep_best()
    assert same_weights(piece, whole)
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """The message says which file, and what to do about it."""
    path = tmp_path / "fold-1.checkpoint"
    trained(epochs=1).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint: .*fold-1.checkpoint is damaged; delete it"):
        untrained().load(path)


def test_nothing_is_learnt_from_validation() -> None:
    """Noise in place of the validation clips leaves the trained weights as they were."""
    noise = torch.randint(0, 256, VALIDATION.features.shape, dtype=torch.uint8)
    noisy = trained(validation=Examples(noise, 1 - VALIDATION.labels))
    assert same_weights(trained(), noisy)


def epochs_with(*recalls: float) -> list[Epoch]:
    return [
        Epoch(number, 1.0, 1.0, recall, 1e-3, 0.0) for number, recall in enumerate(recalls, start=1)
    ]


def test_when_training_stops() -> None:
    """After the last epoch, or `patience` epochs that were not as good as the best."""
    trainer = untrained(replace(SETTINGS, epochs=6, patience=2))
    assert (trainer.best_epoch, trainer.finished) == (0, False)
    for recalls, best, finished in (
        ((0.5,), 1, False),
        ((0.5, 0.4), 1, False),
        ((0.5, 0.5), 2, False),
        ((0.5, 0.4, 0.3), 1, True),
        ((0.5, 0.4, 0.6, 0.5), 3, False),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 6, True),
    ):
        trainer.history = epochs_with(*recalls)
        assert (trainer.best_epoch, trainer.finished) == (best, finished), recalls


def test_the_best_weights_are_kept() -> None:
    """The outcome is that of the best epoch, not of the last."""
    trainer = trained(epochs=1)
    best = [parameter.clone() for parameter in trainer.network.parameters()]
    trainer.history[0] = replace(trainer.history[0], validation_uar=2.0)
    trainer.run_epoch()
    assert not torch.equal(next(iter(trainer.network.parameters())), best[0])
    trainer.keep_best()
    for kept, parameter in zip(best, trainer.network.parameters(), strict=True):
        assert torch.equal(kept, parameter)


def test_learning_rate_is_halved_on_a_plateau(monkeypatch: pytest.MonkeyPatch) -> None:
    """When more than `plateau` epochs in a row had no lower validation loss."""
    losses = iter([1.0, 0.9, 0.9, 0.9, 0.95, 0.9, 0.8])
    monkeypatch.setattr(Trainer, "_validate", lambda trainer: (next(losses), 0.5))
    trainer = trained(7, replace(SETTINGS, learning_rate=0.1, plateau=1))
    rates = [epoch.learning_rate for epoch in trainer.history]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_steps_an_epoch() -> None:
    """As many as batches are shown: both classes at the size of the larger one."""
    trainer = untrained(training=CLIPS.part(np.array([0, 2, 4, 6, 8, 1, 3])))
    steps: list[None] = []
    trainer.run_epoch(lambda: steps.append(None))
    assert len(steps) == trainer.steps_an_epoch == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, expected a whole number of at least 1"),
        ({"batch": 1.5}, "batch: got 1.5"),
        ({"patience": -1}, "patience: got -1"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, expected from 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"learning_rate": float("inf")}, "learning_rate: got inf"),
        ({"padding": "full"}, "padding: got 'full', expected 'valid' or 'same'"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    """Before anything is trained."""
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)

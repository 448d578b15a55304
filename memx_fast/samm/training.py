"""One fold: epochs over balanced batches until validation gets no better, then the test.

The weights that are kept are those with the highest recall on the validation clips, the mean over
classes. Their loss would be the worse judge: of two dozen clips of people never seen, a few that
are mistaken for sure outweigh all others.

Every epoch draws its random numbers from (seed, fold, epoch) alone. Training that was interrupted
and goes on from its checkpoint therefore ends with the very numbers of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from memx_fast.samm import checkpoints
from memx_fast.samm.augmentation import alter, balanced_epoch
from memx_fast.samm.folds import Fold
from memx_fast.samm.labels import Integers
from memx_fast.samm.metrics import score
from memx_fast.samm.network import ShallowConvLSTM

_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How the network is made and trained. The defaults are the paper's, where it gives one.

    Attributes:
        padding: of the ConvLSTM's convolution over the frames, ``"valid"`` or ``"same"``.
        peephole: of the ConvLSTM: None, ``"channel"`` or ``"spatial"``.
        output_peephole: the cell state its output gate sees, ``"previous"`` or ``"current"``.
        pool_stride: of the pooling after it.
        epochs: at most so many.
        batch: clips a step.
        learning_rate: of Adam, at the start.
        plateau: epochs without a better validation loss after which the learning rate is halved.
        patience: epochs without as good a validation recall after which training ends.
    """

    padding: Literal["valid", "same"] = "valid"
    peephole: str | None = None
    output_peephole: str = "previous"
    pool_stride: int = 1
    epochs: int = 50
    batch: int = 16
    learning_rate: float = 1e-4
    plateau: int = 5
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("pool_stride", "epochs", "batch", "plateau", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a whole number of at least 1")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, expected from 0 to 1")


@dataclass(frozen=True)
class Clips:
    """What the network sees.

    Attributes:
        frames: uint8 (N, T, C, H, W).
        labels: classes, (N,).
        classes: number of classes.
    """

    frames: Tensor
    labels: Integers
    classes: int

    def batch(self, indices: Integers) -> tuple[Tensor, Tensor]:
        """Frames in [0, 1] and labels of some clips."""
        frames = self.frames[torch.from_numpy(indices)].float() / 255
        return frames, torch.from_numpy(self.labels[indices])


@dataclass(frozen=True)
class Epoch:
    """One line of a learning curve; losses are mean cross-entropies a clip, in nats.

    Attributes:
        number: from 1.
        training_loss: over the balanced and altered clips, while they are learnt from.
        validation_loss: every class counting the same, as in training.
        validation_uar: unweighted average recall.
        learning_rate: used in this epoch.
        seconds: that it took.
    """

    number: int
    training_loss: float
    validation_loss: float
    validation_uar: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came out of one fold.

    Attributes:
        history: all epochs.
        best_epoch: number of the one whose weights are kept.
        probabilities: of the classes, for every test clip, (N, classes).
    """

    history: list[Epoch]
    best_epoch: int
    probabilities: list[list[float]]


class Trainer:
    """Training of one fold, as far as it has come.

    Args:
        clips: all clips.
        fold: which of them are for what.
        recipe: how to train.
        seed: start of all random numbers.
        number: of the fold; different folds draw different numbers.
        device: where to compute.
        backend: engine of the ConvLSTM.
    """

    def __init__(
        self,
        clips: Clips,
        fold: Fold,
        recipe: Recipe,
        *,
        seed: int = 0,
        number: int = 0,
        device: str | torch.device = "cpu",
        backend: str = "auto",
    ) -> None:
        self._clips = clips
        self._fold = fold
        self._recipe = recipe
        self._seed = (seed, number)
        self._device = torch.device(device)
        self._seed_everything(0)
        self.network = ShallowConvLSTM(
            clips.classes,
            clips.frames.shape[-1],
            clips.frames.shape[2],
            padding=recipe.padding,
            peephole=recipe.peephole,
            output_peephole=recipe.output_peephole,
            pool_stride=recipe.pool_stride,
            backend=backend,
        ).to(self._device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), recipe.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer, factor=0.5, patience=recipe.plateau, threshold=0.0
        )
        self._best: dict[str, Tensor] = {}
        self.history: list[Epoch] = []

    @property
    def steps_an_epoch(self) -> int:
        """Number of batches."""
        counts = np.bincount(self._clips.labels[self._fold.training])
        return math.ceil(int(counts.max()) * int(np.count_nonzero(counts)) / self._recipe.batch)

    @property
    def best_epoch(self) -> int:
        """Number of the last epoch with the highest validation recall, 0 before the first."""
        best = max(
            self.history, key=lambda epoch: (epoch.validation_uar, epoch.number), default=None
        )
        return best.number if best else 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones brought nothing."""
        done = len(self.history)
        return done >= self._recipe.epochs or done - self.best_epoch >= self._recipe.patience

    def run_epoch(self, after_step: Callable[[], Any] = lambda: None) -> Epoch:
        """Train for one epoch and validate; ``after_step`` is called after every batch."""
        started = time.perf_counter()
        number = len(self.history) + 1
        learning_rate = float(self._optimizer.param_groups[0]["lr"])
        random = self._seed_everything(number)
        losses, shown = 0.0, 0
        self.network.train()
        for frames, labels in self._batches(random):
            loss = self.step(frames, labels)
            losses += loss * len(labels)
            shown += len(labels)
            after_step()
        validation_loss, validation_uar = self._validate()
        self._schedule.step(validation_loss)
        epoch = Epoch(
            number,
            losses / shown,
            validation_loss,
            validation_uar,
            learning_rate,
            time.perf_counter() - started,
        )
        self.history.append(epoch)
        if self.best_epoch == number:
            self._best = {
                name: value.detach().clone() for name, value in self.network.state_dict().items()
            }
        return epoch

    def step(self, frames: Tensor, labels: Tensor) -> float:
        """Learn from one batch; returns its mean loss."""
        logits = self.network(frames.to(self._device))
        loss = F.cross_entropy(logits, labels.to(self._device))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def outcome(self) -> Outcome:
        """Give the network its best weights, and the test clips to it."""
        self.network.load_state_dict(self._best)
        probabilities = self._logits(self._fold.test).softmax(1)
        return Outcome(self.history, self.best_epoch, probabilities.tolist())

    def save(self, path: Path) -> None:
        """Write all that :meth:`load` needs to go on, in place of what is there."""
        optimizer = self._optimizer.state_dict()
        tensors = {
            **{f"network.{name}": value for name, value in self.network.state_dict().items()},
            **{f"best.{name}": value for name, value in self._best.items()},
            **{
                f"optimizer.{index}.{name}": value
                for index, state in optimizer["state"].items()
                for name, value in state.items()
            },
        }
        values = {
            "optimizer": optimizer["param_groups"],
            "schedule": self._schedule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
        }
        checkpoints.write_state(path, tensors, values)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` has written for the same clips, fold, recipe and seed.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            tensors, values = checkpoints.read_state(path)
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
            for name, value in tensors.items():
                part, _, key = name.partition(".")
                parts[part][key] = value
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in parts["optimizer"].items():
                index, _, key = name.partition(".")
                moments.setdefault(int(index), {})[key] = value
            self.network.load_state_dict(parts["network"])
            self._best = parts["best"]
            self._optimizer.load_state_dict({"state": moments, "param_groups": values["optimizer"]})
            self._schedule.load_state_dict(values["schedule"])
            self.history = [Epoch(**fields) for fields in values["history"]]
        except Exception as error:
            raise ValueError(
                f"checkpoint: {path} is damaged; delete it to train this fold anew"
            ) from error

    def _seed_everything(self, epoch: int) -> np.random.Generator:
        """Random numbers of one epoch; 0 is the initialisation."""
        random = np.random.default_rng([*self._seed, epoch])
        torch.manual_seed(int(random.integers(2**63)))
        return random

    def _batches(self, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        training, size = self._fold.training, self._recipe.batch
        epoch = balanced_epoch(self._clips.labels[training], random)
        for start in range(0, len(epoch.clips), size):
            part = slice(start, start + size)
            frames, labels = self._clips.batch(training[epoch.clips[part]])
            for index in np.flatnonzero(epoch.altered[part]):
                frames[index] = alter(frames[index], random)
            yield frames, labels

    def _validate(self) -> tuple[float, float]:
        """Loss, every class counting the same, and unweighted average recall."""
        logits = self._logits(self._fold.validation)
        truth = self._clips.labels[self._fold.validation]
        losses = F.cross_entropy(logits, torch.from_numpy(truth), reduction="none").numpy()
        loss = np.mean([losses[truth == label].mean() for label in np.unique(truth)])
        return float(loss), score(truth, logits.argmax(1).numpy()).uar

    @torch.no_grad()
    def _logits(self, indices: Integers) -> Tensor:
        """(N, classes), on the CPU."""
        self.network.eval()
        parts = np.split(indices, range(_EVALUATION_BATCH, len(indices), _EVALUATION_BATCH))
        logits = [self.network(self._clips.batch(part)[0].to(self._device)).cpu() for part in parts]
        return torch.cat(logits)


def seconds_a_step(trainer: Trainer, clips: Clips, batch: int) -> float:
    """Time of one training step, measured; the trainer is of no use afterwards."""
    frames, labels = clips.batch(np.arange(min(batch, len(clips.labels))))
    trainer.step(frames, labels)
    started = time.perf_counter()
    for _ in range(2):
        trainer.step(frames, labels)
    return (time.perf_counter() - started) / 2

"""One fold: epochs over balanced batches until validation gets no better.

The weights that are kept are those with the highest recall on the validation clips, the mean over
classes. Their loss would be the worse judge: of two dozen clips of people never seen, a few that
are mistaken for sure outweigh all others.

Every epoch draws its random numbers from the seed and its own number alone. Training that was
interrupted and goes on from its checkpoint therefore ends with the very numbers of an uninterrupted
one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from memx_fast.samm import checkpoints
from memx_fast.samm.augmentation import balanced_epoch
from memx_fast.samm.labels import Integers
from memx_fast.samm.metrics import score

_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns. The defaults are the paper's, where it gives one.

    Attributes:
        epochs: at most so many.
        batch: clips a step.
        learning_rate: of Adam, at the start.
        plateau: epochs without a better validation loss after which the learning rate is halved.
        patience: epochs without as good a validation recall after which training ends.
    """

    epochs: int = 50
    batch: int = 16
    learning_rate: float = 1e-4
    plateau: int = 5
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "plateau", "patience"):
            check_count(name, getattr(self, name))
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, expected from 0 to 1")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {least}")


@dataclass(frozen=True)
class Examples:
    """What is learnt from, or judged by.

    Attributes:
        features: one entry a clip, (N, ...); bytes stand for 0 to 1.
        labels: their classes, (N,).
    """

    features: Tensor
    labels: Integers

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, indices: Integers) -> Examples:
        """Some of them, in that order."""
        return Examples(self.features[torch.from_numpy(indices)], self.labels[indices])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Features as numbers, and labels."""
        return as_numbers(self.features), torch.from_numpy(self.labels)


def as_numbers(features: Tensor) -> Tensor:
    """Bytes become 0 to 1; everything else is a number already."""
    return features.float() / 255 if features.dtype == torch.uint8 else features


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


Alteration = Callable[[Tensor, np.random.Generator], Tensor]
"""Makes a copy of one example that shows the same class."""


class Trainer:
    """Training of one network, as far as it has come.

    Args:
        build: makes the network; it takes features (B, ...) and gives logits (B, classes).
        training: what it learns from.
        validation: what decides when it stops, and how fast it learns.
        schedule: how to train.
        alter: applied to the copies that make the classes even.
        seed: start of all random numbers; other numbers in it give others.
        device: where to compute.
        shards: share every batch among the processes of ``torch.distributed``.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        training: Examples,
        validation: Examples,
        schedule: Schedule,
        *,
        alter: Alteration = lambda example, random: example,
        seed: tuple[int, ...] = (0,),
        device: str | torch.device = "cpu",
        shards: bool = False,
    ) -> None:
        self._training = training
        self._validation = validation
        self._plan = schedule
        self._alter = alter
        self._seed = seed
        self._device = torch.device(device)
        self._seed_everything(0)
        self.network = build().to(self._device)
        self._learner = DistributedDataParallel(self.network) if shards else self.network
        self._optimizer = torch.optim.Adam(self.network.parameters(), schedule.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer, factor=0.5, patience=schedule.plateau, threshold=0.0
        )
        self._best: dict[str, Tensor] = {}
        self.history: list[Epoch] = []

    @property
    def steps_an_epoch(self) -> int:
        """Number of batches."""
        counts = np.bincount(self._training.labels)
        return math.ceil(int(counts.max()) * int(np.count_nonzero(counts)) / self._plan.batch)

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
        return done >= self._plan.epochs or done - self.best_epoch >= self._plan.patience

    def run_epoch(self, after_step: Callable[[], object] = lambda: None) -> Epoch:
        """Train for one epoch and validate; ``after_step`` is called after every batch."""
        started = time.perf_counter()
        number = len(self.history) + 1
        learning_rate = float(self._optimizer.param_groups[0]["lr"])
        random = self._seed_everything(number)
        losses, shown = 0.0, 0
        self.network.train()
        for features, labels in self._batches(random):
            loss = self.step(features, labels)
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

    def step(self, features: Tensor, labels: Tensor) -> float:
        """Learn from one batch; returns its mean loss."""
        weights = torch.full((len(labels),), 1 / len(labels))
        if self._learner is not self.network:
            features, labels, weights = _shard(features, labels, weights)
        logits = self._learner(features.to(self._device))
        losses = F.cross_entropy(logits, labels.to(self._device), reduction="none")
        loss = losses @ weights.to(self._device)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._learner is not self.network:
            loss = loss.detach()
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        return loss.item()

    def keep_best(self) -> None:
        """Give the network the weights of its best epoch."""
        self.network.load_state_dict(self._best)

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
        """Go on from what :meth:`save` has written for the same examples, schedule and seed.

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
        size = self._plan.batch
        epoch = balanced_epoch(self._training.labels, random)
        for start in range(0, len(epoch.clips), size):
            part = slice(start, start + size)
            features, labels = self._training.part(epoch.clips[part]).tensors()
            for index in np.flatnonzero(epoch.altered[part]):
                features[index] = self._alter(features[index], random)
            yield features, labels

    def _validate(self) -> tuple[float, float]:
        """Loss, every class counting the same, and unweighted average recall."""
        logits = evaluate(self.network, self._validation.features, self._device)
        truth = self._validation.labels
        losses = F.cross_entropy(logits, torch.from_numpy(truth), reduction="none").numpy()
        loss = np.mean([losses[truth == label].mean() for label in np.unique(truth)])
        return float(loss), score(truth, logits.argmax(1).numpy()).uar


def _shard(features: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This process's share of a batch; gradients that are averaged then add up to the batch's."""
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if rank < len(labels):
        mine = slice(rank, None, processes)
        return features[mine], labels[mine], weights[mine] * processes
    return features[:1], labels[:1], torch.zeros(1)  # all of them have to take part in every step


@torch.no_grad()
def evaluate(network: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    """Logits (N, classes), on the CPU, of features (N, ...)."""
    network.eval()
    parts = features.split(_EVALUATION_BATCH)
    return torch.cat([network(as_numbers(part).to(device)).cpu() for part in parts])


def seconds_a_step(trainer: Trainer, examples: Examples, batch: int) -> float:
    """Time of one training step, measured; the trainer is of no use afterwards."""
    features, labels = examples.part(np.arange(min(batch, len(examples)))).tensors()
    trainer.step(features, labels)
    started = time.perf_counter()
    for _ in range(2):
        trainer.step(features, labels)
    return (time.perf_counter() - started) / 2

"""Methods that are a network in PyTorch, learnt in epochs that can be resumed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memx_fast.samm.methods.interface import Fit, Method, Progress
from memx_fast.samm.training import Examples, Trainer, evaluate


class NetworkMethod(Method):
    """A network; its ``Settings`` are a :class:`memx_fast.samm.training.Schedule`, and more."""

    _network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """A network at its start: features (B, ...) in, logits (B, classes) out."""

    def alter(self, example: Tensor, random: np.random.Generator) -> Tensor:
        """The features of one clip as another clip of the same class could have them."""
        return example

    def begin(self, network: nn.Module, training: Examples) -> None:
        """Take from the training clips what is not learnt in epochs; nothing, in most methods."""

    def trainer(
        self, training: Examples, validation: Examples, *, seed: tuple[int, ...] = (0,)
    ) -> Trainer:
        """The training of one fold, at its start."""
        trainer = Trainer(
            self.build,
            training,
            validation,
            self.settings,
            alter=self.alter,
            seed=seed,
            device=self.machine.device,
            shards=self.machine.shards,
        )
        self.begin(trainer.network, training)
        return trainer

    def fit(
        self,
        training: Examples,
        validation: Examples,
        *,
        seed: tuple[int, ...] = (0,),
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Epochs until validation gets no better; the checkpoint is written after each."""
        progress = progress or Progress()
        trainer = self.trainer(training, validation, seed=seed)
        if checkpoint is not None and checkpoint.is_file():
            trainer.load(checkpoint)
        steps = trainer.steps_an_epoch
        progress.start(self.settings.epochs * steps, len(trainer.history) * steps)
        while not trainer.finished:
            epoch = trainer.run_epoch(progress.step)
            if checkpoint is not None and self.machine.writes:
                trainer.save(checkpoint)
            progress.epoch(epoch)
        trainer.keep_best()
        self._network = trainer.network
        return Fit(trainer.history, trainer.best_epoch)

    def predict(self, features: Tensor) -> Tensor:
        """Softmax of the network's logits."""
        return evaluate(self.network, features, torch.device(self.machine.device)).softmax(1)

    @property
    def network(self) -> nn.Module:
        """The network, at its start unless something was learnt or loaded."""
        if self._network is None:
            self._network = self.build().to(self.machine.device)
        return self._network

    def state(self) -> dict[str, Tensor]:
        """The network's weights, on the CPU."""
        return {name: value.detach().cpu() for name, value in self.network.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Weights by the names of :meth:`state`."""
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"state: these are not the weights of {self.name}: {error}") from error

    def parameters(self) -> dict[str, int]:
        """Number of weights of every part of the network that has some."""
        counts = {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in self.network.named_children()
        }
        return {name: count for name, count in counts.items() if count}

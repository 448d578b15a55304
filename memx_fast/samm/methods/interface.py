"""What every method of the laboratory is, from a constant guess to a recurrent network.

A method sees a clip in two steps. Its *features* are what it computes from the frames of one clip
alone, without learning anything: a histogram, optical flow, or simply the frames. They are computed
once and serve all folds. *Fitting* then learns from the features of the training clips, with those
of the validation clips to decide what cannot be learnt: when to stop, how strict to be. Neither
ever sees a test clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch.distributed
from torch import Tensor

from memx_fast.samm.labels import Integers
from memx_fast.samm.training import Epoch, Examples


@dataclass(frozen=True)
class Input:
    """The frames of a clip as a method wants them: see :func:`memx_fast.samm.dataset.load`.

    Attributes:
        size: height and width, pixels.
        frames: number of frames; 1 means a ready picture of the motion instead of frames.
        channels: 1 for greys, 3 for red, green, blue.
    """

    size: int
    frames: int
    channels: int = 1


@dataclass(frozen=True)
class Machine:
    """Where a method computes; of no influence on what, beyond rounding.

    Attributes:
        device: of PyTorch.
        backend: engine of the ConvLSTM.
        shards: share batches among the processes of ``torch.distributed``.
        cache_dir: where features that take long are kept; None keeps none.
    """

    device: str = "cpu"
    backend: str = "auto"
    shards: bool = False
    cache_dir: Path | None = None

    @property
    def writes(self) -> bool:
        """Whether this process keeps results: of those that share batches, the first one does."""
        return not self.shards or torch.distributed.get_rank() == 0


@dataclass(frozen=True)
class Fit:
    """How fitting went.

    Attributes:
        history: all epochs; empty for a method that has none.
        best_epoch: number of the one whose weights are kept; 0 without epochs.
        chosen: what was decided on the validation clips, by name.
    """

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    chosen: dict[str, Any] = field(default_factory=dict)


class Progress:
    """Told how far fitting has come; this one keeps it to itself."""

    def start(self, steps: int, done: int) -> None:
        """Fitting takes at most ``steps`` steps, of which ``done`` were done before."""

    def step(self) -> None:
        """One more step is done."""

    def epoch(self, epoch: Epoch) -> None:
        """One more epoch is done."""


class Method(ABC):
    """One method, with its settings.

    Args:
        classes: number of classes.
        settings: an instance of the class attribute ``Settings``; by default one without arguments.
        machine: where to compute.

    Attributes:
        name: by which it is chosen.
        title: for tables.
        source: the paper it comes from, and its number in the list of the ConvLSTM paper.
        deviations: where this implementation departs from that paper, one sentence each.
        needs_frames: why ready pictures of the flow cannot take the place of its frames; empty if
            they can.
        Settings: dataclass of all that decides what it does, plain values with defaults.
        keeps_features: whether its features take so long that they, or what takes long in them, are
            kept in the machine's ``cache_dir``, clip by clip.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    deviations: ClassVar[tuple[str, ...]] = ()
    needs_frames: ClassVar[str] = "it sees the frames themselves"
    Settings: ClassVar[type[Any]]
    keeps_features: ClassVar[bool] = False

    def __init__(self, classes: int, settings: Any = None, machine: Machine | None = None) -> None:
        self.classes = classes
        self.settings = self.Settings() if settings is None else settings
        self.machine = machine or Machine()

    @property
    @abstractmethod
    def input(self) -> Input:
        """The frames it wants."""

    @abstractmethod
    def features(self, frames: Tensor, apexes: Integers) -> Tensor:
        """What it computes from each clip alone.

        Args:
            frames: uint8 (N, T, C, H, W) as :attr:`input` says; the first is the onset.
            apexes: index of the apex among the frames of each clip, (N,).

        Returns:
            (N, ...), on the CPU.
        """

    @abstractmethod
    def fit(
        self,
        training: Examples,
        validation: Examples,
        *,
        seed: tuple[int, ...] = (0,),
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Learn; the same arguments give the same result, bit for bit, on the same machine.

        Args:
            training: features to learn from.
            validation: features to decide by.
            seed: start of all random numbers.
            checkpoint: file that keeps what was learnt so far; fitting that was interrupted goes on
                from there and ends where it would have ended.
            progress: is told how far it has come.

        Raises:
            ValueError: ``checkpoint`` is damaged.
        """

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor:
        """Probabilities of the classes (N, classes) for features (N, ...), after :meth:`fit`."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that was learnt, by name."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` of a method with the same settings has given.

        Raises:
            ValueError: names or shapes are others.
        """

    def parameters(self) -> dict[str, int]:
        """Number of learnt numbers of each part, by its name; empty before there are any."""
        return {name: value.numel() for name, value in self.state().items()}

    def identity(self) -> dict[str, Any]:
        """All that decides what it does, as plain values."""
        return asdict(self.settings)

    def caveats(self) -> tuple[str, ...]:
        """Those of its notes that have to stand beside its figures in every table."""
        return ()

    def notes(self) -> tuple[str, ...]:
        """What a reader of its results has to know: its deviations, and what the settings add."""
        return (*self.caveats(), *self.deviations)

"""Methods that are a histogram of each clip and a linear support vector machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.svm import SVC
from torch import Tensor

from memx_fast.samm.methods.interface import Fit, Method, Progress
from memx_fast.samm.metrics import score
from memx_fast.samm.training import Examples

GRID = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Values of C that are tried; the papers have 1 (LBP-TOP) and 10000 (Bi-WOOF)."""


@dataclass(frozen=True)
class SvmSettings:
    """Of the support vector machine.

    Attributes:
        c: price of a training clip on the wrong side; 0 takes the value of :data:`GRID` with the
            highest validation recall, of several the smallest.
    """

    c: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.c < float("inf"):
            raise ValueError(f"c: got {self.c!r}, expected a number of at least 0")


class SvmMethod(Method):
    """One linear machine a class, that class against all others, each class weighing the same.

    The probabilities are the softmax of the distances from the machines' planes, in units of their
    margins: they rank the classes as the machines do, and are not calibrated.
    """

    _weights: Tensor | None = None  # (classes, D)
    _bias: Tensor  # (classes,), minus infinity for a class without training clips

    def fit(
        self,
        training: Examples,
        validation: Examples,
        *,
        seed: tuple[int, ...] = (0,),
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Choose C and learn; there is nothing random in it, and nothing worth resuming."""
        recalls = {}
        for c in [self.settings.c] if self.settings.c else GRID:
            self._learn(training, c)
            predicted = self.predict(validation.features).argmax(1).numpy()
            recalls[c] = score(validation.labels, predicted).uar
        best = max(recalls, key=lambda c: (recalls[c], -c))
        self._learn(training, best)
        return Fit(chosen={"C": best})

    def predict(self, features: Tensor) -> Tensor:
        """Softmax of the margins."""
        if self._weights is None:
            raise RuntimeError(f"{self.name} has learnt nothing yet: fit or load_state first")
        return (features.double() @ self._weights.T + self._bias).softmax(1)

    def state(self) -> dict[str, Tensor]:
        """The planes: ``weights`` (classes, D) and ``bias`` (classes,), float64."""
        if self._weights is None:
            return {}
        return {"weights": self._weights, "bias": self._bias}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Planes by the names of :meth:`state`."""
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if (
            set(state) != {"weights", "bias"}
            or shapes["bias"] != (self.classes,)
            or len(shapes["weights"]) != 2
            or shapes["weights"][0] != self.classes
        ):
            raise ValueError(
                f"state: got {shapes}, expected weights ({self.classes}, D) and bias "
                f"({self.classes},) of {self.name}"
            )
        self._weights, self._bias = state["weights"], state["bias"]

    def _learn(self, training: Examples, c: float) -> None:
        features = training.features.double().numpy()
        weights = np.zeros((self.classes, features.shape[1]))
        bias = np.full(self.classes, -np.inf)
        present = np.unique(training.labels)
        for label in present:
            if len(present) == 1:
                bias[label] = 0.0
                continue
            machine = SVC(kernel="linear", C=c, class_weight="balanced")
            machine.fit(features, training.labels == label)
            weights[label], bias[label] = machine.coef_[0], machine.intercept_[0]
        self._weights, self._bias = torch.from_numpy(weights), torch.from_numpy(bias)


def face_blocks(images: npt.NDArray[np.generic], count: int) -> list[npt.NDArray[np.generic]]:
    """(..., H, W) cut into ``count`` rows and columns of blocks, row by row."""
    rows = np.array_split(images, count, axis=-2)
    return [block for row in rows for block in np.array_split(row, count, axis=-1)]

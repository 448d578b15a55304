"""VGG-16 to its second dense layer, as a fixed computer of features; weights are the user's.

They are read from safetensors only. What torch.save writes, torchvision's own files among them, is
a pickle, and those are not loaded, not even in part: the error says how to convert one.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

FEATURES = 4096
"""Numbers that come out for each image."""

_CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_GRID = 7
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_LAST_LAYER = "classifier.6."
_CONVERSION = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('vgg16.pth', weights_only=True), 'vgg16.safetensors')\""
)


def initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """Weights in front of a ReLU as He et al. (2015) have them, biases 0."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Vgg16(nn.Module):
    """The layers of Simonyan and Zisserman (2015), named and numbered as in torchvision's vgg16.

    Without weights it starts as He et al. (2015) have it.

    Inputs: (B, 3, H, W), values in [0, 1], H and W at least 32. Outputs: (B, 4096).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for block in _CONVOLUTIONS:
            for after in block:
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(_GRID)
        self.classifier = nn.Sequential(
            nn.Linear(before * _GRID**2, FEATURES),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(FEATURES, FEATURES),
            nn.ReLU(),
        )
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                initialise(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images; see the class."""
        maps = self.features((images - self.mean) / self.deviation)
        found: Tensor = self.classifier(self.avgpool(maps).flatten(1))
        return found


def load(path: Path) -> Vgg16:
    """VGG-16 with weights from a file.

    Args:
        path: a state dict in the layout of torchvision's vgg16, as safetensors. The last layer
            (``classifier.6``) may be there or not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: {path} does not exist")
    try:
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"weights: {path} is no whole safetensors file ({error}); a file of torch.save is "
            f"converted by: {_CONVERSION}"
        ) from error
    network = Vgg16()
    try:
        network.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith(_LAST_LAYER)}
        )
    except RuntimeError as error:
        raise ValueError(f"weights: {path} is no state dict of VGG-16: {error}") from error
    return network

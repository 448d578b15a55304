"""VGG-16 to its second dense layer, as a fixed computer of features; weights are the user's."""

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
        path: a state dict in the layout of torchvision's vgg16, as safetensors or as torch.save
            writes it; of the latter only tensors are read, never other objects. The last layer
            (``classifier.6``) may be there or not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {name: value for name, value in state.items() if "classifier.6" not in name}
        network = Vgg16()
        network.load_state_dict(wanted)
    except (
        SafetensorError,
        RuntimeError,
        AttributeError,
        EOFError,
        ValueError,
        TypeError,
    ) as error:
        raise ValueError(f"weights: {path} is no state dict of VGG-16: {error}") from error
    except Exception as error:  # unpickling fails in many ways
        raise ValueError(f"weights: {path} cannot be read: {error}") from error
    return network

"""Arguments of a tiny layer, for the tests of the reference and of its derivative."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from memx_fast import reference
from memx_fast.geometry import Padding, Sizes

NAMES = ("x", "weight_ih", "weight_hh", "bias", "weight_ch", "h_0", "c_0")
HALF_TYPES = (torch.bfloat16, torch.float16)
STEPS, BATCH, INPUT_CHANNELS, HIDDEN = 3, 2, 2, 2
FRAME = (5, 4)

Arguments = dict[str, Tensor | None]


@dataclass(frozen=True)
class Geometry:
    """An input convolution over FRAME, with what it has to come to; no kernel: ready-made gates."""

    kernel: Sizes | None
    before: Sizes  # zeros above and left of the frame
    size: Sizes  # of the states
    padding: Padding = "same"
    stride: int | Sizes = 1
    dilation: int | Sizes = 1

    def options(self) -> dict[str, Padding]:
        return {"padding": self.padding, "stride": self.stride, "dilation": self.dilation}


GEOMETRIES = {
    "same_odd": Geometry((3, 5), (1, 2), (5, 4)),
    "same_even": Geometry((2, 4), (0, 1), (5, 4)),
    "same_dilated": Geometry((3, 2), (2, 1), (5, 4), dilation=2),
    "same_dilated_pair": Geometry((2, 2), (1, 0), (5, 4), dilation=(3, 1)),
    "valid": Geometry((3, 2), (0, 0), (3, 3), "valid"),
    "number": Geometry((3, 2), (1, 1), (5, 5), 1),
    "pair": Geometry((3, 3), (2, 0), (7, 2), (2, 0)),
    "more_than_kernel": Geometry((1, 2), (2, 2), (9, 7), 2),
    "stride": Geometry((3, 3), (1, 1), (3, 2), 1, stride=2),
    "stride_pair": Geometry((2, 1), (0, 0), (4, 2), "valid", stride=(1, 3)),
    "dilation": Geometry((2, 2), (0, 0), (3, 2), "valid", dilation=2),
    "stride_and_dilation": Geometry((3, 2), (1, 2), (3, 3), (1, 2), stride=2, dilation=(1, 2)),
    "ready_made_gates": Geometry(None, (0, 0), (5, 4)),
}
SAME = GEOMETRIES["same_odd"]

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
every_peephole = pytest.mark.parametrize("peephole", [None, "channel", "spatial"])
every_output_peephole = pytest.mark.parametrize("output_peephole", ["previous", "current"])


def drawn(
    geometry: Geometry = SAME,
    peephole: str | None = "spatial",
    states: bool = True,
    bias: bool = True,
    recurrent_kernel: Sizes = (3, 1),
    seed: int = 0,
) -> Arguments:
    """Float64 arguments of a tiny layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.6 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    gates, state = 4 * HIDDEN, (BATCH, HIDDEN, *geometry.size)
    kernel = geometry.kernel
    peephole_size = {None: None, "channel": (), "spatial": geometry.size}[peephole]
    return {
        "x": draw(STEPS, BATCH, INPUT_CHANNELS if kernel else gates, *FRAME),
        "weight_ih": draw(gates, INPUT_CHANNELS, *kernel) if kernel else None,
        "weight_hh": draw(gates, HIDDEN, *recurrent_kernel),
        "bias": draw(gates) if bias else None,
        "weight_ch": None if peephole_size is None else draw(3, HIDDEN, *peephole_size),
        "h_0": draw(*state) if states else None,
        "c_0": draw(*state) if states else None,
    }


def cast(arguments: Arguments, dtype: torch.dtype, c_0: torch.dtype | None = None) -> Arguments:
    """Leaves of another dtype that need gradients."""
    return {
        name: None
        if value is None
        else value.detach().to(c_0 if name == "c_0" and c_0 else dtype).requires_grad_()
        for name, value in arguments.items()
    }


def positional(arguments: Arguments) -> tuple:
    """The arguments as the reference takes them: the states as a pair."""
    *others, h_0, c_0 = (arguments[name] for name in NAMES)
    return (*others, None if h_0 is None else (h_0, c_0))


def run(arguments: Arguments, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    output, (h_n, c_n) = reference.conv_lstm(*positional(arguments), **options)
    return output, h_n, c_n


def incoming_for(results: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of the results, of their dtypes."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(result.shape, dtype=torch.float64, generator=generator).to(result.dtype)
        for result in results
    ]


def strewn(tensor: Tensor) -> Tensor:
    """Dimensions laid out in reverse order, with NaN between the elements."""
    order = tuple(reversed(range(tensor.dim())))
    mirrored = tensor.permute(order)
    return torch.stack([mirrored, torch.full_like(mirrored, torch.nan)], -1)[..., 0].permute(order)


def assert_close(found: Tensor, exact: Tensor, name: str = "") -> None:
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10, msg=name or None)

"""Geometry of the input convolution: how frames are padded, and how large the states become.

Only the convolution over the input has a choice; the recurrent one is always odd, "same", stride 1,
or the hidden state would change its size from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .arguments import Sizes, whole_numbers

Padding = int | Sizes | Literal["same", "valid"]
"""What ``padding=`` accepts."""


def pixels(frame: Sequence[int]) -> str:
    """What messages call the size of a frame."""
    return f"{' x '.join(map(str, frame))} pixels"


@dataclass(frozen=True)
class InputConvolution:
    """A convolution over frames, with zero padding; everything is one number an axis.

    Attributes:
        kernel: size of the kernel.
        before: zeros before the first pixel: rows above the frame, columns left of it.
        after: zeros after the last one: rows below, columns right.
        stride: step of the kernel.
        dilation: distance between neighbouring kernel elements.
    """

    kernel: Sizes
    before: Sizes
    after: Sizes
    stride: Sizes
    dilation: Sizes

    @staticmethod
    def of(
        kernel: Sizes, padding: Padding, stride: int | Sizes = 1, dilation: int | Sizes = 1
    ) -> InputConvolution:
        """The convolution that ``padding``, ``stride`` and ``dilation`` describe.

        Args:
            kernel: size of the kernel, at least 1; there are as many axes as it has numbers.
            padding: ``"same"`` keeps the size of the frame (an even kernel gets the odd row or
                column of zeros below or right); ``"valid"`` pads nothing; a number, or one for each
                axis, pads that much on both sides.
            stride: one number, or one for each axis; above 1 it excludes ``"same"``.
            dilation: one number, or one for each axis.

        Raises:
            ValueError: a number is too small, a name unknown, or ``"same"`` meets a stride.
            TypeError: something is neither a whole number nor one for each axis.
        """
        axes = len(kernel)
        strides = whole_numbers("stride", stride, 1, axes)
        dilations = whole_numbers("dilation", dilation, 1, axes)
        if isinstance(padding, str):
            if padding == "valid":
                before = after = (0,) * axes
            elif padding != "same":
                raise ValueError(
                    f'padding: got {padding!r}, expected "same", "valid" or whole numbers'
                )
            elif max(strides) > 1:
                raise ValueError(
                    f'padding: got "same" with stride {strides}, expected "valid" or whole numbers '
                    "(a strided convolution does not keep the size)"
                )
            else:
                totals = [
                    distance * (size - 1) for distance, size in zip(dilations, kernel, strict=True)
                ]
                before = tuple(total // 2 for total in totals)
                after = tuple(total - total // 2 for total in totals)
        else:
            before = after = whole_numbers("padding", padding, 0, axes)
        return InputConvolution(kernel, before, after, strides, dilations)

    @property
    def is_dense(self) -> bool:
        """Whether the kernel visits every pixel and pads alike on both sides: what is fused."""
        return self.before == self.after and all(
            stride == 1 and (dilation == 1 or size == 1) and padding < size
            for stride, dilation, size, padding in zip(
                self.stride, self.dilation, self.kernel, self.before, strict=True
            )
        )

    def output_size(self, *frame: int) -> Sizes:
        """Size of the states for frames of this size, one number an axis.

        Raises:
            ValueError: the frame is smaller than the kernel, even padded.
        """
        sizes = tuple(self._along(axis, size) for axis, size in enumerate(frame))
        if min(sizes) < 1:
            raise ValueError(
                f"x: got frames of {pixels(frame)}, too small for a kernel of "
                f"{self.kernel} with dilation {self.dilation} and padding {self.before}"
            )
        return sizes

    def _along(self, axis: int, size: int) -> int:
        padded = self.before[axis] + size + self.after[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (padded - reach) // self.stride[axis] + 1

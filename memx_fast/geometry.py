"""Geometry of the input convolution: how frames are padded, and how large the states become.

Only the convolution over the input has a choice; the recurrent one is always odd, "same", stride 1,
or the hidden state would change its size from step to step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .arguments import Pair, whole_pair

Padding = int | Pair | Literal["same", "valid"]
"""What ``padding=`` accepts."""


@dataclass(frozen=True)
class InputConvolution:
    """A 2-D convolution over frames, with zero padding; all pairs are (vertical, horizontal).

    Attributes:
        kernel: size of the kernel.
        before: rows of zeros above and columns of zeros left of the frame.
        after: rows below and columns right.
        stride: step of the kernel.
        dilation: distance between neighbouring kernel elements.
    """

    kernel: Pair
    before: Pair
    after: Pair
    stride: Pair
    dilation: Pair

    @staticmethod
    def of(
        kernel: Pair, padding: Padding, stride: int | Pair = 1, dilation: int | Pair = 1
    ) -> InputConvolution:
        """The convolution that ``padding``, ``stride`` and ``dilation`` describe.

        Args:
            kernel: size of the kernel, both at least 1.
            padding: ``"same"`` keeps the size of the frame (an even kernel gets the odd row or
                column of zeros below or right); ``"valid"`` pads nothing; a number, or one for each
                axis, pads that much on both sides.
            stride: one number, or one for each axis; above 1 it excludes ``"same"``.
            dilation: one number, or one for each axis.

        Raises:
            ValueError: a number is too small, a name unknown, or ``"same"`` meets a stride.
            TypeError: something is neither a whole number nor a pair of them.
        """
        strides = whole_pair("stride", stride, 1)
        dilations = whole_pair("dilation", dilation, 1)
        if isinstance(padding, str):
            if padding == "valid":
                before = after = (0, 0)
            elif padding != "same":
                raise ValueError(
                    f'padding: got {padding!r}, expected "same", "valid" or whole numbers'
                )
            elif strides != (1, 1):
                raise ValueError(
                    f'padding: got "same" with stride {strides}, expected "valid" or whole numbers '
                    "(a strided convolution does not keep the size)"
                )
            else:
                total = (dilations[0] * (kernel[0] - 1), dilations[1] * (kernel[1] - 1))
                before = (total[0] // 2, total[1] // 2)
                after = (total[0] - before[0], total[1] - before[1])
        else:
            before = after = whole_pair("padding", padding, 0)
        return InputConvolution(kernel, before, after, strides, dilations)

    @property
    def is_dense(self) -> bool:
        """Whether the kernel visits every pixel and pads alike on both sides: what is fused."""
        return (
            self.stride == (1, 1)
            and (self.dilation[0] == 1 or self.kernel[0] == 1)
            and (self.dilation[1] == 1 or self.kernel[1] == 1)
            and self.before == self.after
            and self.before[0] < self.kernel[0]
            and self.before[1] < self.kernel[1]
        )

    def output_size(self, height: int, width: int) -> Pair:
        """Height and width of the states for frames of ``height`` x ``width`` pixels.

        Raises:
            ValueError: the frame is smaller than the kernel, even padded.
        """
        sizes = (self._along(0, height), self._along(1, width))
        if min(sizes) < 1:
            raise ValueError(
                f"x: got frames of {height} x {width} pixels, too small for a kernel of "
                f"{self.kernel} with dilation {self.dilation} and padding {self.before}"
            )
        return sizes

    def _along(self, axis: int, size: int) -> int:
        padded = self.before[axis] + size + self.after[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (padded - reach) // self.stride[axis] + 1

"""The layers over sequences of lines, :class:`ConvLSTM1d`, and of volumes, :class:`ConvLSTM3d`.

They are the layers and cells of images with another number of spatial axes; nothing else
about them differs.
"""

from __future__ import annotations

from .cell import ConvLSTMCell
from .modules import ConvLSTM


class ConvLSTM1d(ConvLSTM):
    """A :class:`ConvLSTM` over sequences of lines, such as the channels of a sensor array.

    Its arguments, results and errors are those of :class:`ConvLSTM` with one spatial axis:
    ``kernel_size``, ``spatial_size``, ``padding``, ``stride`` and ``dilation`` are one number.

    Inputs: x, (h_0, c_0)

    - **x** ``(T, B, input_channels, L)``, ``(B, T, input_channels, L)`` with ``batch_first``,
      or unbatched ``(T, input_channels, L)``.
    - **h_0**, **c_0** ``(num_layers * D, B, C, L')``, unbatched without B.

    Outputs: output, (h_n, c_n)

    - **output** ``(T, B, D * C, L')``; **h_n**, **c_n** of the shapes of h_0 and c_0.

    Parameters: **weight_ih_l** ``(4C, Cin, k)``, **weight_hh_l** ``(4C, C, k)``, **bias_l**
    ``(4C,)``, **weight_ch_l** ``(3, C)`` or ``(3, C, L')``.

    It runs in the fused kernels, as images of one row; the views cost nothing.

    An example, with the shapes of its results:

        layer = ConvLSTM1d(8, 32, kernel_size=5)
        output, (h_n, c_n) = layer(torch.randn(20, 4, 8, 128))  # (20, 4, 32, 128)
    """

    axes = 1


class ConvLSTM3d(ConvLSTM):
    """A :class:`ConvLSTM` over sequences of volumes, such as scans or simulated fields.

    Its arguments, results and errors are those of :class:`ConvLSTM` with three spatial axes:
    ``kernel_size``, ``spatial_size``, ``padding``, ``stride`` and ``dilation`` are one number or
    three, for depth, rows and columns.

    Inputs: x, (h_0, c_0)

    - **x** ``(T, B, input_channels, D, H, W)``, ``(B, T, input_channels, D, H, W)`` with
      ``batch_first``, or unbatched ``(T, input_channels, D, H, W)``.
    - **h_0**, **c_0** ``(num_layers * directions, B, C, D', H', W')``, unbatched without B.

    Outputs: output, (h_n, c_n)

    - **output** ``(T, B, directions * C, D', H', W')``; **h_n**, **c_n** of the shapes of h_0
      and c_0.

    Parameters: **weight_ih_l** ``(4C, Cin, kd, kh, kw)``, **weight_hh_l** ``(4C, C, kd, kh, kw)``,
    **bias_l** ``(4C,)``, **weight_ch_l** ``(3, C)`` or ``(3, C, D', H', W')``.

    Its convolutions are PyTorch's; the gates of a step, forward and backward, are one fused kernel.

    An example, with the shapes of its results:

        layer = ConvLSTM3d(1, 16, kernel_size=3)
        output, (h_n, c_n) = layer(torch.randn(6, 2, 1, 16, 32, 32))  # (6, 2, 16, 16, 32, 32)
    """

    axes = 3


class ConvLSTM1dCell(ConvLSTMCell):
    """One step of a :class:`ConvLSTM1d` layer: a :class:`ConvLSTMCell` over lines.

    x is ``(B, input_channels, L)`` or unbatched ``(input_channels, L)``, the states are
    ``(B, C, L')``, unbatched without B.
    """

    axes = 1


class ConvLSTM3dCell(ConvLSTMCell):
    """One step of a :class:`ConvLSTM3d` layer: a :class:`ConvLSTMCell` over volumes.

    x is ``(B, input_channels, D, H, W)`` or unbatched ``(input_channels, D, H, W)``, the states are
    ``(B, C, D', H', W')``, unbatched without B.
    """

    axes = 3

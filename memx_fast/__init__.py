"""memx_fast: the ConvLSTM for PyTorch, with fused kernels."""

from .cell import ConvLSTMCell
from .functional import conv_lstm
from .lines_and_volumes import ConvLSTM1d, ConvLSTM1dCell, ConvLSTM3d, ConvLSTM3dCell
from .modules import ConvLSTM

__all__ = [
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTM1dCell",
    "ConvLSTM3d",
    "ConvLSTM3dCell",
    "ConvLSTMCell",
    "conv_lstm",
]

__version__ = "0.1.0"

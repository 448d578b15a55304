"""memx_fast: the ConvLSTM for PyTorch, with fused kernels."""

from .cell import ConvLSTMCell
from .functional import conv_lstm
from .lines_and_volumes import ConvLSTM1d, ConvLSTM1dCell, ConvLSTM3d, ConvLSTM3dCell
from .memory import empty_cache
from .modules import ConvLSTM

__all__ = [
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTM1dCell",
    "ConvLSTM3d",
    "ConvLSTM3dCell",
    "ConvLSTMCell",
    "conv_lstm",
    "empty_cache",
]

__version__ = "0.1.0"

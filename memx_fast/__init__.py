"""memx_fast: the ConvLSTM for PyTorch, with fused kernels."""

from .functional import conv_lstm
from .modules import ConvLSTM, ConvLSTMCell

__all__ = ["ConvLSTM", "ConvLSTMCell", "conv_lstm"]

__version__ = "0.1.0"

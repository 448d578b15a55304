"""memx_fast: the ConvLSTM for PyTorch, with fused kernels."""

__version__ = "0.1.0"

"""The ConvLSTM layer in Triton, for every device that Triton compiles for.

:func:`conv_lstm` and :func:`conv_lstm_backward` are the operators of :mod:`memx_fast.ops`, of the
same arguments. Installed as ``memx_fast.triton_kernels``; needs Triton (``pip install
'memx_fast[triton]'``). With ``TRITON_INTERPRET=1`` in the environment before Triton is imported,
the same code runs on tensors on the CPU, slowly: for tests and for stepping through a kernel.
"""

from .backward import conv_lstm_backward
from .forward import conv_lstm

__all__ = ["conv_lstm", "conv_lstm_backward"]

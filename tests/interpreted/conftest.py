"""Kernels of Triton under its interpreter, which must be asked for before Triton is imported.

``tests/test_triton_kernels.py`` runs this folder in a process of its own. To run one test by hand::

    TRITON_INTERPRET=1 python -m pytest tests/interpreted -k name

The interpreter of Triton 3.6 does not work with numpy 2.4 and newer.
"""

import os
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
elif os.environ.get("MEMX_FAST_AUTOTUNE") != "1":
    collect_ignore = ["test_autotuning.py"]


@pytest.fixture(autouse=True)
def rounded_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 becomes the nearest bfloat16, as on every GPU: the interpreter cuts the rest off."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    usual = InterpreterBuilder.cast_impl

    def cast(builder: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return usual(builder, source, target)
        rounded = torch.from_numpy(source.data).bfloat16().view(torch.uint16)
        return TensorHandle(rounded.numpy(), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast)

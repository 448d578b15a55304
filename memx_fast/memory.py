"""Memory that the fused CPU kernels keep from one call to the next."""

from __future__ import annotations

import importlib

from memx_fast import backends


def empty_cache() -> None:
    """Give back to the system what the CPU kernels keep, like ``torch.cuda.empty_cache`` for GPUs.

    That is large blocks of memory that no tensor uses any more, which spare the next call new
    pages, and packed weights. Results do not change; the next call takes anew what it needs.

    What is held is never more than 5/4 of what was once in use at the same time, and no more is
    kept than an eighth of the machine's memory. Whoever needs that for something else calls this.
    """
    if backends.load_extension():
        importlib.import_module("memx_fast._C").empty_cache()

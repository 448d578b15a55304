"""This process among those that ``torchrun`` has started; alone without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

_PATIENCE = timedelta(days=30)  # one process may train for days while another waits for it


@dataclass(frozen=True)
class Ranks:
    """Which process this is, and of how many.

    Attributes:
        rank: from 0.
        count: how many there are.
        launched: whether ``torchrun`` started them.
    """

    rank: int = 0
    count: int = 1
    launched: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes what is one for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.launched:
            dist.barrier()

    def device(self, name: str) -> str:
        """``cuda`` becomes this process's own GPU."""
        if self.launched and name == "cuda":
            return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        return name


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, for as long as the block lasts."""
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    transport = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(transport, timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), True)
    finally:
        dist.destroy_process_group()

"""Trying out, on request, how the steps' kernels run fastest on the GPU at hand.

With ``MEMX_FAST_AUTOTUNE=1`` in the environment before the first call on a GPU, the first launch of
a kernel for a layer times several heights of a tile, numbers of warps and depths of the pipeline,
where the table of :mod:`.configurations` has one of each. Triton keeps what it found in its cache
on disk (``TRITON_CACHE_DIR``), by GPU, types, channels and kernel sizes, for all processes to come.
A layer whose launches are to be captured in a CUDA graph has to run once before. What is found
fastest may round differently from the table's line: results repeat bit for bit only as long as the
same configurations are used.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor

from .configurations import Configuration, is_amd, launch_options, whole_blocks

REQUESTED = os.environ.get("MEMX_FAST_AUTOTUNE", "0") not in ("", "0")

_NOT_IN_KEY = ("BLOCK_M", "ACCUMULATE")
_HEIGHTS, _WARPS, _STAGES = (32, 64, 128), (4, 8), (2, 3, 4)


Programs = tuple[int, int, int] | Callable[[dict[str, Any]], tuple[int, int, int]]
"""A grid, or what gives it for the constants of a trial."""


def programs(pixels: int, channels: int, tile: Configuration) -> Programs:
    """The grid that covers pixels and channels with tiles, whose height may be tried out."""
    columns = whole_blocks(channels, tile.block_c)
    if REQUESTED:
        return lambda constants: (whole_blocks(pixels, constants["BLOCK_M"]), columns, 1)
    return whole_blocks(pixels, tile.block_m), columns, 1


def tile_options(tile: Configuration) -> dict[str, Any]:
    """What a launch is told of its tile's height, warps and stages: nothing if they are tried."""
    if REQUESTED:
        return {"enable_fp_fusion": True}
    return {"BLOCK_M": tile.block_m, **launch_options(tile.warps, tile.stages)}


def autotuned(*, updated: str | None = None) -> Callable[[Any], Any]:
    """Decorator of kernels that are launched with :func:`tile_options`.

    Args:
        updated: name of the argument that a launch both reads and writes, which a trial must leave
            as it was.
    """

    def decorate(kernel: Any) -> Any:
        if not REQUESTED:
            return kernel
        copy = _Copy(updated)
        return triton.autotune(
            configs=[
                triton.Config({"BLOCK_M": height}, num_warps=warps, num_stages=stages)
                for height, warps, stages in itertools.product(_HEIGHTS, _WARPS, _STAGES)
            ],
            key=tuning_key(kernel),
            prune_configs_by={"early_config_prune": _with_an_element_a_thread},
            pre_hook=copy.take,
            post_hook=copy.put_back,
            cache_results=True,
        )(kernel)

    return decorate


def tuning_key(kernel: Any) -> list[str]:
    """Names of the arguments that a launch is compiled for, and that do not change between calls.

    Triton writes their values to disk as JSON, and adds the types of all tensors, so that the type
    of the sums is not needed.
    """
    return [name for name in kernel.arg_names if name.isupper() and name not in _NOT_IN_KEY]


def _with_an_element_a_thread(configs: list[Any], _: Any, **constants: Any) -> list[Any]:
    """Configurations in which no element belongs to two threads: see :mod:`.configurations`."""
    lanes = 64 if is_amd() else 32
    return [
        config
        for config in configs
        if config.kwargs["BLOCK_M"] * constants["BLOCK_C"] >= lanes * config.num_warps
    ]


class _Copy:
    """One argument, before and after a trial."""

    def __init__(self, name: str | None):
        self._name = name
        self._saved: Tensor | None = None

    def take(self, arguments: dict[str, Any], reset_only: bool = False) -> None:
        tensor = None if self._name is None else arguments[self._name]
        self._saved = None if tensor is None or reset_only else tensor.clone()

    def put_back(self, arguments: dict[str, Any], exception: BaseException | None) -> None:
        if self._name is not None and self._saved is not None:
            arguments[self._name].copy_(self._saved)
        self._saved = None

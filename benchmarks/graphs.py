"""Contenders in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .rivals import TorchRunner


class GraphedRunner:
    """Another runner's passes, each captured in a CUDA graph by its first call, then replayed."""

    def __init__(self, runner: TorchRunner) -> None:
        self.runner = runner
        self.captured: dict[str, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.captured_gradients: list[Tensor] = []

    def forward(self) -> Tensor:
        return self._replayed("forward", self.runner.forward)

    def training(self) -> Tensor:
        output = self._replayed("training", self.runner.training)
        if not self.captured_gradients:
            self.captured_gradients = self.runner.module.gradients()
        return output

    def gradients(self, grad_output: Tensor) -> list[Tensor]:
        """Of a replay: what was captured reads the output's gradient from where it was then."""
        self.training()
        upstream = self.runner.upstream
        assert upstream is not None
        usual = upstream.clone()
        upstream.copy_(grad_output)
        self.training()
        found = [gradient.clone() for gradient in self.captured_gradients]
        upstream.copy_(usual)
        return found

    def _replayed(self, work: str, function: Callable[[], Tensor]) -> Tensor:
        if work not in self.captured:
            self.captured[work] = capture(function)
        graph, output = self.captured[work]
        graph.replay()
        return output


def capture(function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of what a function does, and the tensor that every replay writes its result to."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose algorithms and allocate in their first calls
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()
    return graph, output

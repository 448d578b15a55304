"""The layer in two processes: DDP and FSDP2 give what one process gives."""

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from memx_fast import ConvLSTM

PROCESSES = 2
SECONDS = 120


def made() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(2, 4, num_layers=2, peephole="channel", dtype=torch.float64)


def frames() -> Tensor:
    return torch.randn(
        3, 2 * PROCESSES, 2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)[0].square().mean()


def part_of(x: Tensor, rank: int) -> Tensor:
    """The sequences of one process."""
    return x[:, 2 * rank : 2 * rank + 2]


def _enter(rank: int, work: Callable[..., None], port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    try:
        work(rank, folder)
        dist.barrier()  # the first process keeps the store that the other still writes to
    except BaseException:
        (folder / f"error{rank}.txt").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def in_two_processes(work: Callable[..., None], folder: Path) -> None:
    """Run work(rank, folder) in each, and end both whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=_enter, args=(rank, work, port, folder), daemon=True)
        for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS)
        errors = [path.read_text() for path in sorted(folder.glob("error*.txt"))]
        assert not errors, "\n".join(errors)
        assert [process.exitcode for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
            process.join()


def _ddp(rank: int, folder: Path) -> None:
    model = DistributedDataParallel(made())
    loss_of(model, part_of(frames(), rank)).backward()
    torch.save([value.grad for value in model.parameters()], folder / f"{rank}.pt")


def test_ddp(tmp_path: Path) -> None:
    """Half the batch each: both processes have the gradients of one process over the whole."""
    in_two_processes(_ddp, tmp_path)
    layer = made()
    loss_of(layer, frames()).backward()
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, parameter in zip(found, layer.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-10, atol=1e-10)


def _fsdp(rank: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    model: Any = fully_shard(made(), mesh=mesh)
    whole = sum(value.numel() for value in made().parameters())
    assert sum(value.to_local().numel() for value in model.parameters()) <= whole // 2 + 8
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss_of(model, part_of(frames(), rank)).backward()
    optimizer.step()
    dcp.save(get_model_state_dict(model), checkpoint_id=folder / "sharded")

    with torch.no_grad():
        other: Any = fully_shard(made(), mesh=mesh)
        state = get_model_state_dict(other)
        dcp.load(state, checkpoint_id=folder / "sharded")
        set_model_state_dict(other, state)
        x = frames()
        torch.testing.assert_close(other(x)[0], model(x)[0], rtol=0, atol=0)


def test_fsdp2(tmp_path: Path) -> None:
    """Sharded over two, trained a step, saved, loaded into new shards and into one process."""
    in_two_processes(_fsdp, tmp_path)
    layer = made()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    loss_of(layer, frames()).backward()
    optimizer.step()
    whole = made()
    state = whole.state_dict()
    dcp.load(state, checkpoint_id=tmp_path / "sharded", no_dist=True)
    whole.load_state_dict(state)
    for one, other in zip(whole.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

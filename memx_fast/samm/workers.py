"""Jobs spread over processes of this machine.

Every process computes with one thread, so that results do not depend on how many there are, and
jobs on one core do not wait for each other's threads.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import cv2
import torch

from memx_fast.samm import progress

Job = TypeVar("Job")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names of malloc.h


def spread(
    work: Callable[[Job], object],
    jobs: Sequence[Job],
    processes: int,
    done: Callable[[Job], object] = lambda job: None,
) -> None:
    """Do all jobs, each in one of some processes, started in the given order.

    Args:
        work: does one job; every process gets a copy of it and keeps that from job to job.
        jobs: what to do.
        processes: how many work at the same time.
        done: told of every job that was done, in the order they end.

    Raises:
        RuntimeError: ``work`` failed, or a process died. The others are ended.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(jobs))
    crew: dict[Connection, Any] = {}
    current: dict[Connection, Job] = {}
    try:
        for _ in range(min(processes, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            process.start()
            theirs.close()
            crew[ours] = process
            current[ours] = waiting.pop()
            ours.send(current[ours])
        while current:
            for connection in wait(list(current)):
                assert isinstance(connection, Connection)
                _receive(connection, crew[connection])
                done(current.pop(connection))
                if waiting:
                    current[connection] = waiting.pop()
                    connection.send(current[connection])
    finally:
        for connection, process in crew.items():
            if connection in current:
                process.terminate()
            connection.close()
        for process in crew.values():
            process.join()


def compute_alone() -> None:
    """Make this process compute with one thread, and keep its memory."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_memory()


def keep_memory() -> None:
    """Let this process use freed memory again instead of handing it back to the system.

    glibc hands large blocks back at once. Every step of training then has hundreds of megabytes
    handed out and cleared anew: of the processor's time for ELRCN's LSTM, a third. Other C
    libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def keep_quiet() -> None:
    """Leave bars, and warnings about the data, to the process that speaks for all."""
    progress.silence()
    logging.getLogger("memx_fast.samm").setLevel(logging.ERROR)


def _receive(connection: Connection, process: Any) -> None:
    """Take what a process says of its job."""
    try:
        failure = connection.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a worker process died (exit status {process.exitcode}; memory may have run out)"
        ) from None
    if failure is not None:
        message, trace = failure
        raise RuntimeError(message) from RuntimeError(trace)


def _end_with_parent() -> None:
    """End this process when the one that started it does, killed ones included."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _serve(connection: Connection, work: Callable[[Any], object]) -> None:
    """What a process does until nobody asks any more."""
    # Somebody who is in the middle of a fold would not ask for hours.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches all processes; the first one ends the others, and that gently.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    keep_quiet()
    compute_alone()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        failure = None
        try:
            work(job)
        except Exception as error:
            # As text: not every exception survives the way to another process.
            failure = f"{job}: {error}", traceback.format_exc()
        connection.send(failure)

"""Run a function in several processes that form a torch.distributed group (gloo, on the CPU)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, multiprocessing


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returned in each of `count` processes, in the order of their ranks.

    `work` is a function of a module (it is found by name in the new processes); what it returns is sent back.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.get_context("spawn").Manager() as manager:
        found = manager.dict()
        multiprocessing.spawn(_run, (count, port, found, work, arguments), nprocs=count)
        return [found[rank] for rank in range(count)]


def _run(rank: int, count: int, port: int, found: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        found[rank] = work(rank, *arguments)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()

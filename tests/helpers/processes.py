"""Run a function in several processes that form a torch.distributed group (gloo, on the CPU)."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes

# What every process would import for itself otherwise; the same list for all, because the server starts only once.
PRELOADED = ["torch", "lightning_fabric", "onnxmtl.workflows.compilation", "onnxmtl.workflows.specialization"]


def as_a_child(cache: Path, renames: int = 0) -> None:
    """What a child of a test does first: one thread, a cache of its own, no flushing; and with `renames` it will kill
    itself right after so many. Every result, of a run or of the cache, appears by a rename.
    """
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # as in tests/conftest.py: a kill is no power cut
    os.environ["ONNXMTL_CACHE"] = str(cache)
    left = [renames]

    def dying(original: Any) -> Any:
        def rename(self: Path, target: Path) -> Path:
            result: Path = original(self, target)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return rename

    if renames:
        Path.rename = dying(Path.rename)  # type: ignore[method-assign]
        Path.replace = dying(Path.replace)  # type: ignore[method-assign]


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returned in each of `count` processes, in the order of their ranks.

    `work` is a function of a module (it is found by name in the new processes); what it returns is sent back: tensors,
    numbers and text in lists, tuples and dictionaries. The processes are copies of one that has imported torch already.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        given = (count, port, Path(folder), work, arguments)
        start_processes(_run, given, nprocs=count, start_method="forkserver")
        return [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(count)]


def _run(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        torch.save(work(rank, *arguments), folder / str(rank))
        distributed.barrier()
    finally:
        distributed.destroy_process_group()

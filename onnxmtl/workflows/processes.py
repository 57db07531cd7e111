"""Devices and processes of a training, by Lightning Fabric: one process per device, each running the same program.

The first process is the one that the user has started. It trains together with the others, and does all the rest alone:
measuring, deciding, writing. The others are started by running the same command line once more; they print nothing, and
end when the first one does, however it does.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from onnxmtl.errors import RunError
from onnxmtl.lowering import together
from onnxmtl.lowering.agreement import from_first
from onnxmtl.runs import RunDirectory

Accelerator = Literal["auto", "cpu", "cuda"]

# The others wait while the first one measures, solves, or waits for another run's baselines.
_PATIENCE = datetime.timedelta(days=30)
_LOOK = 0.5  # seconds between two looks at the first process


def launch(devices: int, accelerator: Accelerator, batch_size: int) -> Any:
    """A ``lightning_fabric.Fabric`` for the device of this process; the other processes are started.

    Args:
        devices: How many processes train, each on a device of its own; on the CPU, each with a share of the cores.
        accelerator: ``auto``: CUDA if there is a device, else the CPU.
        batch_size: Images per step of all of them.

    Raises:
        RunError: There are no such devices, or this program cannot be started again.
    """
    kind = _kind(devices, accelerator)
    running = together.started()
    if running == 1 and devices > 1:
        if batch_size < devices:
            msg = f"--devices {devices}: a batch of {batch_size} images has none for some of them; take a larger one"
            raise RunError(msg)
        _check_restartable(devices)
    if running > 1 and running != devices:
        msg = f"this program runs in {running} processes already: give every call devices={running}"
        raise RunError(msg)
    import lightning_fabric  # seconds: only when something is trained

    if devices == 1:
        return lightning_fabric.Fabric(accelerator=kind, devices=1, precision="32-true")
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every process that it starts
    strategy = DDPStrategy(timeout=_PATIENCE)
    fabric = lightning_fabric.Fabric(accelerator=kind, devices=devices, strategy=strategy, precision="32-true")
    fabric.launch()
    if running == 1 and together.rank() > 0:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return fabric


@contextlib.contextmanager
def opened(make: Callable[[], RunDirectory]) -> Iterator[RunDirectory | None]:
    """The run's directory in the first process, closed at the end; None in the others, which write nothing."""
    with contextlib.ExitStack() as stack:
        found: list[RunDirectory] = []
        from_first(lambda: found.append(stack.enter_context(make())))
        yield found[0] if found else None


def _kind(devices: int, accelerator: str) -> Literal["cpu", "cuda"]:
    if devices < 1:
        msg = f"--devices must be 1 or more, not {devices}"
        raise RunError(msg)
    if accelerator not in ("auto", "cpu", "cuda"):
        msg = f"--accelerator takes auto, cpu, cuda, not {accelerator!r}"
        raise RunError(msg)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Not Fabric's "auto": Apple's GPUs have no float64, which costs and statistics are computed in.
    if accelerator == "cpu" or (accelerator == "auto" and not available):
        return "cpu"
    if devices > available:
        found = f"there are {available} CUDA devices" if available else "torch finds no CUDA device"
        msg = f"--devices {devices} --accelerator {accelerator}: {found}; take fewer, or --accelerator cpu"
        raise RunError(msg)
    return "cuda"


def _check_restartable(devices: int) -> None:
    """The other processes run this program's command line from its beginning: there has to be one."""
    if "LOCAL_RANK" in os.environ:  # started by the first one, or by torchrun
        return
    interactive = hasattr(sys, "ps1") or not sys.argv or not Path(sys.argv[0]).is_file()
    if interactive or multiprocessing.parent_process() is not None:
        msg = (
            f"devices={devices} starts this program {devices} times, which cannot be done from an interactive session "
            "or a child process: use a script, or onnxmtl compile --devices"
        )
        raise RunError(msg)


def _end_with(parent: int) -> None:
    """End this process once `parent` is gone, even killed: a process that waits for it would wait for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)

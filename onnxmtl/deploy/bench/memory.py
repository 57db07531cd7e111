"""How much memory a candidate's sessions take: measured in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxmtl.deploy.bench.feeds import Dims
from onnxmtl.errors import ModelError

_TIMEOUT = 600.0  # seconds


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes by which a process grows that opens sessions and runs each a few times; without what it runs them on.

    Attributes:
        peak: At its largest, which may be while a file is read.
        resident: In the end, all sessions open: weights, activations and what ONNX Runtime keeps beside them.
    """

    peak: int
    resident: int


def measure_memory(
    files: Sequence[Path], *, batch: int, shapes: Mapping[str, Dims], threads: int, providers: Sequence[str]
) -> Memory | None:
    """Open sessions of all files, run each a few times, and see what that takes. The memory of a GPU is not in it.

    Returns:
        None where the system does not tell.

    Raises:
        ModelError: The process ended without an answer.
    """
    asked = {
        "files": [str(file) for file in files],
        "batch": batch,
        "shapes": shapes,
        "threads": threads,
        "providers": list(providers),
    }
    command = [sys.executable, "-m", "onnxmtl.deploy.bench.memory_process"]
    try:
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=_TIMEOUT)
        answer = json.loads(done.stdout)["memory"]
        return None if answer is None else Memory(**answer)
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError, TypeError) as error:
        names = ", ".join(map(str, files))
        msg = f"{names}: its memory cannot be measured ({type(error).__name__}); leave it out with --no-memory"
        raise ModelError(msg) from error

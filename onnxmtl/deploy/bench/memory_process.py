"""The process in which :mod:`onnxmtl.deploy.bench.memory` measures: what to do comes as JSON, so goes the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmtl import runtime
from onnxmtl.deploy.bench.feeds import feeds_for, ports_of

_RUNS = 3


def _measure(asked: Mapping[str, Any]) -> dict[str, int] | None:
    runtime.onnxruntime()
    shapes = {name: tuple(dims) for name, dims in asked["shapes"].items()}
    before = _status("VmRSS")
    if before is None:
        return None
    _forget_peak()
    opened = []
    for name in asked["files"]:
        session = runtime.session(name, providers=asked["providers"], threads=asked["threads"])
        opened.append((session, feeds_for(Path(name), ports_of(session), asked["batch"], shapes)))
    given = sum(array.nbytes for _, feeds in opened for array in feeds.values())
    for session, feeds in opened:
        for _ in range(_RUNS):
            runtime.run(session, feeds)
    peak, resident = _status("VmHWM"), _status("VmRSS")
    if peak is None or resident is None:
        return None
    peak = max(peak, resident)  # the kernel brings them up to date at different times
    return {name: max(0, size - before - given) for name, size in (("peak", peak), ("resident", resident))}


def _status(entry: str) -> int | None:
    """Bytes of an entry of Linux's /proc/self/status."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{entry}:")), None)
    return None if found is None else 1024 * int(found.split()[1])


def _forget_peak() -> None:
    """Let the largest size be that of now; imports needed more for a moment."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


if __name__ == "__main__":
    print(json.dumps({"memory": _measure(json.load(sys.stdin))}))

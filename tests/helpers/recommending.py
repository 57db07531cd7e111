"""Tiny recommendations for tests, also in processes that can be killed."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

from helpers.processes import PRELOADED, as_a_child

TASKS = "seg=segmentation,depth,pose=regression:2"
TWO = "seg=segmentation,depth"
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 2, "recalibration": 1}
TABLE = """branch,"(0, 1)-0","(0, 1)-1","(0, 2)-0","(0, 2)-1","(1, 2)-0","(1, 2)-1"
0,0,0,0,0,0,0
1,1,2,-1,3,0.5,0.25
2,2,-2,1,1,-1,2
3,3,1,-2,-1,1,1
"""


def _work(model: Path, out: Path, options: dict[str, Any], renames: int, cache: Path, errors: Any) -> None:
    """The child: recommend, or die right after so many renames (every result appears by a rename)."""
    from onnxmtl.workflows import recommend

    as_a_child(cache, renames)
    try:
        recommend(model, TWO, out=out, resume=(out / "run.json").exists(), checkpoint_every=1, **options)
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}")
        raise


class Children:
    """Recommendations in processes of their own."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._errors = self._context.SimpleQueue()

    def run(self, model: Path, out: Path, options: dict[str, Any], renames: int = 0, cache: Path | None = None) -> bool:
        """Run to the end, or with `renames` until it dies after so many; whether it died."""
        child = self.start(model, out, options, renames, cache)
        child.join()
        told = "" if self._errors.empty() else self._errors.get()
        assert child.exitcode in (0, -signal.SIGKILL), told
        return child.exitcode != 0

    def start(
        self, model: Path, out: Path, options: dict[str, Any], renames: int = 0, cache: Path | None = None
    ) -> Any:
        """A running child."""
        own = cache or out.with_name(f"{out.name}-cache")
        child = self._context.Process(target=_work, args=(model, out, options, renames, own, self._errors))
        child.start()
        return child

"""A process that does jobs for another one: ``python -m onnxmtl.workflows.recommending.worker``.

It reads lines of JSON, first its settings, then one job each, and answers each job with a line: ``{"done": name}``, or
``{"error": kind, "text": …}``. When its input ends, because the process that started it is done or gone, it ends, too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmtl.errors import OnnxMTLError


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    """What a process needs to know to do a run's jobs.

    Attributes:
        run: The run's directory; everything else is in there.
        cache: The cache's folder.
        threads: Of each training.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        checkpoint_every: Steps between states.
    """

    run: str
    cache: str
    threads: int
    accelerator: str
    checkpoint_every: int


class Work:
    """Does a run's jobs in this process; the same for a process of our own and for an actor of Ray's."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from onnxmtl.runs.cache import VARIABLE
        from onnxmtl.workflows.recommending.rereading import trainer_of_run

        self.settings = WorkerSettings(**settings)
        os.environ[VARIABLE] = self.settings.cache
        self._trainer = trainer_of_run(Path(self.settings.run), self.settings)

    def do(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do a job and say how it ended; never raises."""
        from onnxmtl.workflows.recommending.jobs import TrainingJob

        try:
            self._trainer.into_cache(TrainingJob.from_json(dict(job)))
        except Exception as error:  # told to the process that asked
            return told(error)
        return {"done": job["name"]}


def told(error: Exception) -> dict[str, Any]:
    """An error as JSON values."""
    if os.environ.get("ONNXMTL_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OnnxMTLError):
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": "RunError", "text": f"a training failed with {type(error).__name__}: {error}"}


def main() -> None:
    """Read settings and jobs from stdin until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a data set prints is no answer
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # nobody is there to take another result, in the middle of a training either

    threading.Thread(target=read, daemon=True).start()
    work: Work | None = None
    while True:
        content = json.loads(lines.get())
        try:
            if work is None:
                work = Work(content)
                continue
            answer = work.do(content)
        except Exception as error:  # told to the process that asked
            answer = told(error)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

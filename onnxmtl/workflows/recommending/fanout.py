"""Jobs done by several processes, or on Ray; each result is in the cache when it is told to be done."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxmtl import errors
from onnxmtl.errors import MissingDependencyError, OnnxMTLError, RunError
from onnxmtl.workflows.recommending.jobs import TrainingJob
from onnxmtl.workflows.recommending.worker import WorkerSettings

Done = Callable[[TrainingJob], None]

PROGRAM = "from onnxmtl.workflows.recommending.worker import main; main()"
"""What the processes run. Not a module of -m: the current folder stays where user code is looked for."""


class CacheUnwritable(Exception):
    """A process could not write the cache; jobs are left to the process that has the run's directory."""


def on_processes(jobs: Sequence[TrainingJob], settings: WorkerSettings, workers: int, done: Done) -> None:
    """Do jobs in `workers` processes of this machine, which see one GPU each if there are some.

    Args:
        jobs: Started in this order.
        settings: For every process.
        workers: How many.
        done: Told of every job that is done, in the order in which they end.

    Raises:
        OnnxMTLError: What a job raised, or a process was ended from outside; the others are ended, too, and go on from
            their checkpoints when they are done again.
        CacheUnwritable: Results cannot be handed over.
    """
    waiting = collections.deque(jobs)
    answers: queue.Queue[tuple[_Process, TrainingJob, dict[str, Any]]] = queue.Queue()
    started = [_Process(slot, settings, answers) for slot in range(min(workers, len(jobs)))]
    try:
        for process in started:
            process.give(waiting.popleft())
        for _ in jobs:
            process, job, answer = answers.get()
            _check(answer, job)
            done(job)
            if waiting:
                process.give(waiting.popleft())
    finally:
        for process in started:
            process.end()


def on_ray(jobs: Sequence[TrainingJob], settings: WorkerSettings, address: str, done: Done) -> None:
    """Do jobs on Ray, with `threads` CPUs each (and a GPU each, if the cluster has some).

    The run's directory, the cache and the data set have to be at the same places on all of its machines.

    Args:
        jobs: The jobs.
        settings: For every process.
        address: Of a cluster, ``auto`` for the one that is running, or ``local`` to start one on this machine.
        done: As for :func:`on_processes`.

    Raises:
        OnnxMTLError: As :func:`on_processes`; or there is no such cluster.
        MissingDependencyError: Ray is not installed.
    """
    ray = require_ray()
    from onnxmtl.workflows.recommending.worker import Work

    own = not ray.is_initialized()
    try:
        if own:
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        resources = ray.cluster_resources()
    except Exception as error:  # whatever Ray finds wrong
        msg = f"--ray {address}: Ray cannot be reached: {' '.join(str(error).split())}; start it, or take --ray local"
        raise RunError(msg) from error
    try:
        gpus = 1 if resources.get("GPU") and settings.accelerator != "cpu" else 0
        room = int(resources["GPU"]) if gpus else int(resources.get("CPU", 1)) // settings.threads
        actor = ray.remote(num_cpus=settings.threads, num_gpus=gpus)(Work)
        free = [actor.remote(dataclasses.asdict(settings)) for _ in range(max(1, min(room, len(jobs))))]
        waiting = collections.deque(jobs)
        running: dict[Any, tuple[Any, TrainingJob]] = {}
        while waiting or running:
            while free and waiting:
                one, job = free.pop(), waiting.popleft()
                running[one.do.remote(job.to_json())] = (one, job)
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            one, job = running.pop(ended)
            try:
                answer = ray.get(ended)
            except Exception as error:  # the actor could not begin, or its machine is gone
                msg = f"{job.title}: its process on Ray ended: {' '.join(str(error).split())[:300]}; --resume goes on"
                raise RunError(msg) from error
            _check(answer, job)
            done(job)
            free.append(one)
    finally:
        if own:
            ray.shutdown()


def require_ray() -> Any:
    """The module ``ray``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        msg = 'trainings on Ray need it: pip install "onnxmtl[ray]", or leave --ray out and take --workers N'
        raise MissingDependencyError(msg) from error
    return ray


def _check(answer: dict[str, Any], job: TrainingJob) -> None:
    """Raise what a process told."""
    kind = answer.get("error")
    if kind is None:
        return
    if kind == "CacheError":
        raise CacheUnwritable(str(answer["text"]))
    found = getattr(errors, str(kind), RunError)
    made = found if isinstance(found, type) and issubclass(found, OnnxMTLError) else RunError
    raise made(f"{job.title}: {answer['text']}")


class _Process:
    """A process that does one job at a time."""

    def __init__(self, slot: int, settings: WorkerSettings, answers: queue.Queue[Any]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), **_gpu(slot)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        self._answers = answers
        self._job: TrainingJob | None = None
        self._say(dataclasses.asdict(settings))
        threading.Thread(target=self._listen, daemon=True).start()

    def give(self, job: TrainingJob) -> None:
        """Begin a job."""
        self._job = job
        self._say(job.to_json())

    def end(self) -> None:
        """End it, in the middle of a job too."""
        self._job = None
        self._process.kill()
        self._process.wait()

    def _say(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; the listener tells
            self._process.stdin.write(json.dumps(content) + "\n")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put((self, self._job, json.loads(line)))
        code = self._process.wait()
        if self._job is not None:
            text = f"the process that trained it was ended (code {code}); take fewer --workers if memory is short, "
            self._answers.put((self, self._job, {"error": "RunError", "text": text + "and go on with --resume"}))


def _gpu(slot: int) -> dict[str, str]:
    """The environment that shows one GPU of several to a process."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        devices = sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))
    else:
        devices = [name for name in given.split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if len(devices) > 1 else {}

"""Who trains: this process, several of them, or Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from onnxmtl.runs import read_json
from onnxmtl.runs.cache import cache_folder
from onnxmtl.workflows.recommending.fanout import CacheUnwritable, on_processes, on_ray
from onnxmtl.workflows.recommending.jobs import TrainingJob
from onnxmtl.workflows.recommending.training import Trainer
from onnxmtl.workflows.recommending.worker import WorkerSettings
from onnxmtl.workflows.session import Observer


@dataclasses.dataclass(frozen=True)
class Crew:
    """Who trains.

    Attributes:
        workers: Processes at the same time.
        ray: Address of a Ray cluster; None: no Ray.
        accelerator: What they train on.
        checkpoint_every: Steps between the states that a killed training goes on from.
    """

    workers: int = 1
    ray: str | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: int = 50


def hand_out(trainer: Trainer, crew: Crew, path: Path, observer: Observer, jobs: Iterable[TrainingJob]) -> None:
    """Let several processes fill the cache; nothing where this one is to train alone.

    Args:
        trainer: Of this process.
        crew: Who trains.
        path: The run's directory.
        observer: Told how many are done.
        jobs: What is wanted.

    Raises:
        OnnxMTLError: A training failed.
    """
    missing = [job for job in jobs if not trainer.is_cached(job)]
    if not missing or (crew.ray is None and (crew.workers == 1 or len(missing) == 1)):
        return
    settings = WorkerSettings(
        run=str(path.resolve()),
        cache=str(cache_folder().resolve()),
        threads=trainer.threads,
        accelerator=crew.accelerator,
        checkpoint_every=crew.checkpoint_every,
    )
    title = f"{len(missing)} trainings"
    observer.stage(title, len(missing))
    done: list[TrainingJob] = []

    def tell(job: TrainingJob) -> None:
        done.append(job)
        observer.update(len(done), {})

    try:
        if crew.ray is not None:
            on_ray(missing, settings, crew.ray, tell)
        else:
            on_processes(missing, settings, crew.workers, tell)
    except CacheUnwritable as error:
        note = getattr(observer, "note", None)
        if note is not None:
            note(f"one process trains: results cannot be handed over ({error})")


def threads_of(path: Path) -> int:
    """The number of threads that the run in `path` was started with; sums depend on it."""
    if not (path / "run.json").is_file():
        return torch.get_num_threads()  # resuming will say what is wrong
    config = read_json(path / "run.json").get("config", {})
    return int(config.get("threads") or torch.get_num_threads())

"""One run and what all its parts need: phases, progress, evaluation, pipelines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir
import torch

from onnxmtl.data import DataSource
from onnxmtl.ir import clone
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import LoweredModule, to_torch
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.runs import Phase, RunDirectory, read_json, write_json
from onnxmtl.search.engine import Setting
from onnxmtl.train.loop import Listener
from onnxmtl.train.objective import evaluate
from onnxmtl.train.recalibrate import recalibrate
from onnxmtl.workflows.config import CompileConfig

WEIGHTS_FILE = "weights.safetensors"
METRICS_FILE = "metrics.json"

Metrics = Mapping[str, Mapping[str, float]]


def write_metrics(folder: Path, metrics: Metrics) -> None:
    """Write task -> metric -> value; a metric without a value (nan) becomes null."""
    plain = {t: {m: v if math.isfinite(v) else None for m, v in values.items()} for t, values in metrics.items()}
    write_json(folder / METRICS_FILE, plain)


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Read what :func:`write_metrics` wrote."""
    found = read_json(folder / METRICS_FILE)
    return {t: {m: math.nan if v is None else v for m, v in values.items()} for t, values in found.items()}


class Observer(Protocol):
    """Told what a long workflow is doing."""

    def stage(self, name: str, total: int, start: int = 0) -> None:
        """A stage of `total` steps begins, `start` of which are done."""

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        """`step` steps are done; `cost` is the expected share of separate models' multiply-adds."""


class Silent:
    """An observer that says nothing."""

    def stage(self, name: str, total: int, start: int = 0) -> None:
        """Nothing."""

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        """Nothing."""


class Session:
    """A run's directory, its setting, and the phases done so far.

    Args:
        directory: The run's directory, locked for this process.
        tasks: The tasks.
        data: The data set.
        config: The options.
        observer: Told about progress.
        instruments: Watch every graph pass, besides a check of the graph's invariants.
        checkpoint_every: Steps between the states that a killed run can go on from.
    """

    def __init__(
        self,
        directory: RunDirectory,
        tasks: TaskSet,
        data: DataSource,
        config: CompileConfig,
        observer: Observer,
        instruments: Sequence[Instrument],
        checkpoint_every: int = 50,
    ) -> None:
        import lightning_fabric  # seconds: only when something is trained

        self.directory, self.tasks, self.data, self.config = directory, tasks, data, config
        self.observer = observer
        self.instruments = (CheckInvariants(), *instruments)
        # Not "auto": Apple's GPUs have no float64, which costs and statistics are computed in.
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        fabric = lightning_fabric.Fabric(accelerator=accelerator, devices=1, precision="32-true")
        self.setting = Setting(tasks, data, config.seed, config.batch_size, fabric, checkpoint_every)
        self._before: Phase | None = None

    def rewrite(self, model: ir.Model, passes: Sequence[PassBase], name: str) -> ir.Model:
        """A copy of `model` after `passes`."""
        return Pipeline(passes, instruments=self.instruments, name=name)(clone(model)).model

    def module(self, model: ir.Model) -> LoweredModule:
        """`model` as a torch module on the run's device."""
        return to_torch(model).to(self.setting.device)

    def evaluate(self, module: LoweredModule, tasks: TaskSet | None = None) -> dict[str, dict[str, float]]:
        """Task -> metric -> value on the validation set."""
        batch = max(32, self.config.batch_size)
        return evaluate(module, tasks or self.tasks, self.data.val, batch_size=batch, device=self.setting.device)

    def recalibrate(self, module: LoweredModule, model: ir.Model) -> None:
        """Average the normalizations' statistics of `module`, the lowered `model`, over training batches, in place."""

        def images(k: int) -> torch.Tensor:
            found: torch.Tensor = self.setting.batch(self.data.train, "recalibrate", k).images
            return found

        recalibrate(module, model, images, self.config.recalibration)

    def phase(self, name: str, work: Callable[[Phase, Path], None], **depends: Any) -> Path:
        """The folder with the result of a phase, made by `work(phase, folder)` unless it is done already.

        A phase depends on the run's configuration, on `depends` (JSON values) and on all phases before it.
        """
        phase = self.directory.phase(name, {**depends, "after": self._before})
        self._before = phase
        if not phase.done:
            with phase.writing() as folder:
                work(phase, folder)
        return phase.path

    def listener(self, name: str, steps: int, phase: Phase) -> Listener:
        """Begin a stage of `steps` steps and return who is told about each of them."""
        latest = phase.checkpoints.latest_checkpoint()
        self.observer.stage(name, steps, latest[0] if latest is not None else 0)
        costs: list[float | None] = [None]

        def tell(done: int, _: int, figures: Mapping[str, float]) -> None:
            losses = {task: value for task, value in figures.items() if task in self.tasks.names}
            costs[0] = figures.get("multiply_adds", costs[0])
            self.observer.update(done, losses, costs[0])

        return tell

    def setting_for(self, tasks: TaskSet) -> Setting:
        """The same setting for other tasks."""
        return dataclasses.replace(self.setting, tasks=tasks)

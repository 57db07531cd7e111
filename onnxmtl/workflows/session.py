"""One run and what all its parts need: phases, progress, evaluation, pipelines."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir
import torch

from onnxmtl.data import Dataset, DataSource
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import LoweredModule, to_torch
from onnxmtl.lowering.agreement import from_first, spread
from onnxmtl.runs import Checkpoints, Phase, RunDirectory, cached, read_json, write_json
from onnxmtl.runs.cache import Entry
from onnxmtl.search.engine import Setting
from onnxmtl.train.loop import Listener
from onnxmtl.train.objective import evaluate
from onnxmtl.train.recalibrate import recalibrate
from onnxmtl.workflows.config import CompileConfig

WEIGHTS_FILE = "weights.safetensors"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.json"

Metrics = Mapping[str, Mapping[str, float]]


def write_metrics(folder: Path, metrics: Metrics) -> None:
    """Write task -> metric -> value; a metric without a value (nan) becomes null."""
    plain = {t: {m: v if math.isfinite(v) else None for m, v in values.items()} for t, values in metrics.items()}
    write_json(folder / METRICS_FILE, plain)


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Read what :func:`write_metrics` wrote."""
    found = read_json(folder / METRICS_FILE)
    return {t: {m: math.nan if v is None else v for m, v in values.items()} for t, values in found.items()}


def write_history(folder: Path, history: Any) -> None:
    """Write ``history.json``, the figures of a training over its steps."""
    write_json(folder / HISTORY_FILE, history.to_json())


class Observer(Protocol):
    """Told what a long workflow is doing.

    Methods that an observer may have besides: ``note(text)``, told what is out of the ordinary; ``plan(names)``, told
    the stages to come before the first one; ``figures(step, figures)``, told all figures of a step after ``update``.
    """

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

    Where several processes train, all have a session; files are written by the first one.

    Args:
        directory: The run's directory, locked for this process; None in all processes but the first.
        path: Where it is.
        tasks: The tasks.
        data: The data set.
        config: The options.
        observer: Told about progress.
        fabric: Device and precision (a ``lightning_fabric.Fabric``).
        checkpoint_every: Steps between the states that a killed run can go on from.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        path: Path,
        tasks: TaskSet,
        data: DataSource,
        config: CompileConfig,
        observer: Observer,
        fabric: Any,
        checkpoint_every: int = 50,
    ) -> None:
        self.directory, self.path, self.tasks, self.data, self.config = directory, path, tasks, data, config
        self.observer = observer
        self.setting = Setting(tasks, data, config.seed, config.batch_size, fabric, checkpoint_every)
        self._before: Phase | None = None

    def module(self, model: ir.Model) -> LoweredModule:
        """`model` as a torch module on the run's device."""
        return to_torch(model).to(self.setting.device)

    def evaluate(
        self, module: LoweredModule, tasks: TaskSet | None = None, dataset: Dataset | None = None
    ) -> dict[str, dict[str, float]]:
        """Task -> metric -> value on a data set, if none is given on the validation set."""
        return evaluate(
            module,
            tasks or self.tasks,
            self.data.val if dataset is None else dataset,
            batch_size=max(32, self.config.batch_size),
            device=self.setting.device,
        )

    def recalibrate(self, module: LoweredModule, model: ir.Model) -> None:
        """Average the normalizations' statistics of `module`, the lowered `model`, over training batches, in place."""

        def images(k: int) -> torch.Tensor:
            return self.setting.images(self.data.train, "recalibrate", k)

        from_first(lambda: recalibrate(module, model, images, self.config.recalibration))
        spread(module.tensors().values())

    def phase(self, name: str, work: Callable[[Path], None], **depends: Any) -> Path:
        """The folder with the result of a phase, made by ``work(folder)`` unless it is done already.

        A phase depends on the run's configuration, on `depends` (JSON values) and on all phases before it. The first
        process does it, the others wait.
        """

        def make() -> str:
            phase = self._phase(name, depends)
            if not phase.done:
                with phase.writing() as folder:
                    work(folder)
            return str(phase.path)

        return Path(from_first(make))

    def training(self, name: str, work: Callable[[Checkpoints, Path], None], **depends: Any) -> Path:
        """The same for a phase that all processes work on, by ``work(checkpoints, folder)``.

        Whatever `work` writes, and whatever can fail in one process only, has to be in
        :func:`~onnxmtl.lowering.agreement.from_first`.
        """
        with contextlib.ExitStack() as stack:

            def begin() -> list[str]:
                phase = self._phase(name, depends)
                folder = "" if phase.done else str(stack.enter_context(phase.writing()))
                return [str(phase.path), str(phase.checkpoints.folder), folder]

            path, checkpoints, folder = from_first(begin)
            if folder:
                work(Checkpoints(Path(checkpoints)), Path(folder))
            from_first(stack.close)
        return Path(path)

    def _phase(self, name: str, depends: Mapping[str, Any]) -> Phase:
        assert self.directory is not None, "phases are the first process's"
        phase = self.directory.phase(name, {**depends, "after": self._before})
        self._before = phase
        return phase

    def note(self, text: str) -> None:
        """Tell what is out of the ordinary and has no place in the result."""
        self._tell("note", text)

    def plan(self, names: Sequence[str]) -> None:
        """Tell the names of all stages to come; some may turn out to be done already."""
        self._tell("plan", names)

    def _tell(self, method: str, *arguments: Any) -> None:
        """Call what not every observer has."""
        told = getattr(self.observer, method, None)
        if told is not None:
            told(*arguments)

    def remembered(
        self,
        checkpoints: Checkpoints,
        folder: Path,
        content: Mapping[str, Any],
        work: Callable[[Checkpoints, Path], None],
    ) -> None:
        """Fill a training's folder with what ``work(checkpoints, folder)`` writes, done once and kept in the cache.

        Args:
            checkpoints: The phase's own; used where the cache cannot be written.
            folder: The phase's folder.
            content: All that the work depends on, as JSON values.
            work: Fills an empty folder, going on from the checkpoints if there are some.
        """
        with contextlib.ExitStack() as lock, contextlib.ExitStack() as writing:
            entries: list[Entry] = []

            def begin() -> list[str]:
                try:
                    entry = lock.enter_context(cached(content, waiting=self.note))
                except RunError as error:
                    self.note(f"trained without the cache: {error}")
                    return [str(checkpoints.folder), str(folder)]
                entries.append(entry)
                if entry.result is not None:
                    return []
                if entry.damaged:
                    self.note(f"{entry.path}: {entry.damaged}; trained again")
                return [str(entry.checkpoints.folder), str(writing.enter_context(entry.writing()))]

            def end() -> None:
                writing.close()
                for entry in entries:
                    entry.copy(folder)
                lock.close()

            if begun := from_first(begin):
                work(Checkpoints(Path(begun[0])), Path(begun[1]))
            from_first(end)

    def listener(self, name: str, steps: int, checkpoints: Checkpoints) -> Listener:
        """Begin a stage of `steps` steps and return who is told about each of them."""
        latest = checkpoints.latest_checkpoint()
        self.observer.stage(name, steps, latest[0] if latest is not None else 0)
        costs: list[float | None] = [None]

        def tell(done: int, _: int, figures: Mapping[str, float]) -> None:
            # Of weight steps and of policy steps; see train.history for the names.
            parts = {tuple(name.split("/", 1)): value for name, value in figures.items()}
            losses = {name[1]: value for name, value in parts.items() if name[0] in ("loss", "policy")}
            costs[0] = figures.get("cost", costs[0])
            self.observer.update(done, losses, costs[0])
            self._tell("figures", done, figures)

        return tell

    def setting_for(self, tasks: TaskSet) -> Setting:
        """The same setting for other tasks."""
        return dataclasses.replace(self.setting, tasks=tasks)

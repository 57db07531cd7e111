"""Training one job: a single-task network, a two-task model or a layout of all tasks.

Everything a training needs lies in the run's directory (``import``: backbone and tasks; ``run.json``: options), so any
process that sees the directory and the data set can do any job; the result goes into the cache under the hash of all
that it depends on (:mod:`onnxmtl.runs.cache`). A single-task network is the very baseline that ``compile`` trains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from onnxmtl import ir as graphs
from onnxmtl.analysis.blocks import Block
from onnxmtl.data import DataSource
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import write_back
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces.tree import Tree
from onnxmtl.policy.layout import Layout
from onnxmtl.runs import Checkpoints, cached, content_key, versions
from onnxmtl.runs.cache import cache_folder
from onnxmtl.runs.jsonfile import canonical
from onnxmtl.search import Recipe, recipe_named
from onnxmtl.search.training import train_weights
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.train.priors import label_priors, start_from
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.phases.baselines import code_digest
from onnxmtl.workflows.preparation import graph_digest, round_attributes
from onnxmtl.workflows.recommending.jobs import TrainingJob
from onnxmtl.workflows.session import Observer, Session, write_history, write_metrics

MODEL_FILE, RECIPE = "trained.onnx", "treemtl"


class Trainer:
    """Does jobs in this process.

    Args:
        backbone: The normalized backbone.
        blocks: Of the backbone, in which tasks can branch off.
        tasks: All tasks, with the data set's classes.
        data: The data set.
        fingerprint: Of the data set.
        config: The options.
        recipe: How models are trained.
        path: The run's directory.
        fabric: Device and precision.
        threads: Of each training; sums are split among them, so another number gives other last bits.
        observer: Told about progress.
        checkpoint_every: Steps between the states that a killed training can go on from.
        instruments: Watch the graph passes.
    """

    def __init__(
        self,
        backbone: ir.Model,
        blocks: list[Block],
        tasks: TaskSet,
        data: DataSource,
        fingerprint: str,
        config: CompileConfig,
        recipe: Recipe,
        path: Path,
        fabric: Any,
        threads: int,
        observer: Observer,
        checkpoint_every: int = 50,
        instruments: tuple[Instrument, ...] = (),
    ) -> None:
        self.backbone, self.blocks, self.tasks, self.data = backbone, blocks, tasks, data
        self.config, self.recipe, self.threads, self.observer = config, recipe, threads, observer
        self._fingerprint, self._path, self._fabric = fingerprint, path, fabric
        self._every, self._instruments = checkpoint_every, instruments
        final = recipe.final_stage
        assert final is not None, "a recipe that trains a given layout has a stage for it"
        self._final, self._spec = final, final.weights or OptimizerSpec()
        self.steps = recipe.weight_steps(config.steps)
        self._keys: dict[TrainingJob, str] = {}

    @functools.cached_property
    def _priors(self) -> Mapping[str, torch.Tensor]:
        return label_priors(self.tasks, self.data.train)

    def part(self, job: TrainingJob) -> TaskSet:
        """The job's tasks."""
        return TaskSet(tuple(self.tasks[name] for name in job.tasks))

    def model(self, job: TrainingJob) -> ir.Model:
        """The job's untrained model."""
        watching = (CheckInvariants(), *self._instruments)
        part = self.part(job)
        made = Pipeline([AttachHeads(part, job.seed)], instruments=watching, name="heads")(
            graphs.clone(self.backbone)
        ).model
        round_attributes(made)
        start_from(made, {name: self._priors[name] for name in job.tasks if name in self._priors})
        if job.groups:
            tree = Tree(Layout(job.tasks, job.groups), self.blocks)
            made = Pipeline([tree], instruments=watching, name="tree")(made).model
            round_attributes(made)
        return made

    def content(self, job: TrainingJob, model: ir.Model) -> dict[str, Any]:
        """All that the result depends on, as JSON values."""
        config = self.config
        content: dict[str, Any] = {
            "model": graph_digest(model),
            "optimizer": dataclasses.asdict(self._spec),
            "steps": self.steps,
            "sequential": bool(self._final.sequential),
            "reference": self._final.reference,
            "data": self._fingerprint,
            "tasks": self.part(job).to_json(),
            "weighting": config.weighting,
            "seed": job.seed,
            "batch_size": config.batch_size,
            "recalibration": config.recalibration,
            "device": torch.device(self._fabric.device).type,
            "threads": self.threads,
            "versions": versions(),
            "code": code_digest(),
        }
        if not job.keeps:
            content["keeps"] = "metrics"
        return content

    def train(self, job: TrainingJob, model: ir.Model, checkpoints: Checkpoints, folder: Path) -> None:
        """Train the model and write what came of it into `folder`.

        Raises:
            OnnxMTLError: The training diverged, or a sample cannot be used.
        """
        session = self._session(job)
        with _threads(self.threads):
            module = session.module(model)
            session.recalibrate(module, model)
            history = train_weights(
                module,
                session.setting,
                self._spec,
                self.steps,
                name=job.title,
                sequential=bool(self._final.sequential),
                reference=self._final.reference,
                checkpoints=checkpoints,
                listener=session.listener(job.title, self.steps, checkpoints),
                weighting=self.config.weighting,
            )
            metrics = session.evaluate(module)
        if job.keeps:
            write_back(module, model)
            graphs.save(model, folder / MODEL_FILE)
        write_metrics(folder, metrics)
        write_history(folder, history)

    def remembered(self, job: TrainingJob, checkpoints: Checkpoints, folder: Path) -> None:
        """Fill `folder` with the job's result, from the cache if it is there, else trained and kept in the cache.

        Without a cache that can be written, `checkpoints` are used.
        """
        model = self.model(job)
        self._session(job).remembered(
            checkpoints, folder, self.content(job, model), lambda at, into: self.train(job, model, at, into)
        )

    def into_cache(self, job: TrainingJob) -> None:
        """Do the job unless the cache has its result.

        Raises:
            CacheError: The cache cannot be written.
        """
        model = self.model(job)
        with contextlib.ExitStack() as stack:
            try:
                entry = stack.enter_context(cached(self.content(job, model)))
            except RunError as error:
                raise CacheError(str(error)) from error
            if entry.result is None:
                with entry.writing() as folder:
                    self.train(job, model, entry.checkpoints, folder)

    def is_cached(self, job: TrainingJob) -> bool:
        """Whether the cache has something for the job; that it is whole is looked at when it is read."""
        if job not in self._keys:
            self._keys[job] = content_key(canonical(self.content(job, self.model(job))))
        return (cache_folder() / "trainings" / self._keys[job] / "result").is_dir()

    def _session(self, job: TrainingJob) -> Session:
        config = dataclasses.replace(self.config, seed=job.seed)
        return Session(None, self._path, self.part(job), self.data, config, self.observer, self._fabric, self._every)


class CacheError(RunError):
    """The cache cannot be written: trainings have to be done by the process that has the run's directory."""


def recipe_of(config: CompileConfig) -> Recipe:
    """How models are trained: all steps train a given layout, as ``compile --layout`` does.

    Raises:
        RunError: No such variant or preset.
    """
    return recipe_named(RECIPE, config.variant, config.preset).without_search()


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The trainings of a recommendation: planned, handed out, collected into the two-task table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl import ir as graphs
from onnxmtl.analysis.blocks import Block
from onnxmtl.data import fingerprint
from onnxmtl.deploy.recommendation import LayoutResult, Recommendation
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering.ops import check_supported
from onnxmtl.passes.instruments import Instrument
from onnxmtl.policy.layout import Layout
from onnxmtl.policy.parts import left_out
from onnxmtl.recommend.similarity import dissimilarities, similarity
from onnxmtl.recommend.table import TwoTaskTable
from onnxmtl.runs import RunDirectory, atomic_write, write_json
from onnxmtl.search.recipe import Recipe
from onnxmtl.train.delta import relative_performance
from onnxmtl.train.weighting import make_weighting, parse_weighting
from onnxmtl.workflows.config import DEFAULT_BATCH_SIZE, DEFAULT_STEPS, CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.digest import graph_digest
from onnxmtl.workflows.method import completed
from onnxmtl.workflows.phases.job import DATA_FILE
from onnxmtl.workflows.preparation import FINGERPRINTED, require_labels
from onnxmtl.workflows.processes import launch
from onnxmtl.workflows.recommending.answering import Answer
from onnxmtl.workflows.recommending.asking import Blocks, Plan
from onnxmtl.workflows.recommending.comparing import compared_layouts, read_layout
from onnxmtl.workflows.recommending.crew import Crew, hand_out, threads_of
from onnxmtl.workflows.recommending.fanout import require_ray
from onnxmtl.workflows.recommending.jobs import (
    TrainingJob,
    all_pairs,
    first_pairs,
    layout_jobs,
    pair_jobs,
    single_jobs,
)
from onnxmtl.workflows.recommending.similarity import features, sample_images
from onnxmtl.workflows.recommending.store import Performance
from onnxmtl.workflows.recommending.training import MODEL_FILE, Trainer, recipe_of
from onnxmtl.workflows.session import Metrics, Observer, Silent, read_metrics
from onnxmtl.workflows.source import Source

Array = np.ndarray[Any, np.dtype[np.float64]]


def settled(config: CompileConfig, tasks: TaskSet) -> tuple[Recipe, CompileConfig, TaskSet]:
    """How models are trained, the options with what the recipe fills in, and the tasks with the preset's weights.

    Raises:
        RunError: No such preset or variant.
    """
    recipe = recipe_of(config)
    filled = dataclasses.replace(
        config,
        steps=config.steps or recipe.steps or DEFAULT_STEPS,
        batch_size=config.batch_size or recipe.batch_size or DEFAULT_BATCH_SIZE,
        input_size=config.input_size if any(config.input_size) else (recipe.crop, recipe.crop),
    )
    done = completed(recipe, tasks)
    make_weighting(parse_weighting(filled.weighting), done)  # refuses an unknown one
    return recipe, filled, done


class Training:
    """The trainings of one run.

    Args:
        source: Where the backbone comes from.
        backbone: The normalized backbone.
        blocks: Of the backbone.
        tasks: All tasks.
        config: Options of every training, filled in.
        recipe: How models are trained.
        plan: What is trained.
        cuts: What the user said about the blocks.
        given: A two-task table that is known; then only layouts and their references are trained.
        path: The run's directory.
        crew: Who trains.
        observer: Told about progress.
        instruments: Watch the graph passes.
        resume: Whether the run in `path` goes on.

    Attributes:
        tasks: The tasks with the data set's classes.
        title: What reports call backbone and data.
        content: All that the trainings depend on, for run.json.

    Raises:
        OnnxMTLError: The backbone cannot be trained, or the data set cannot be used.
    """

    def __init__(
        self,
        source: Source,
        backbone: ir.Model,
        blocks: list[Block],
        tasks: TaskSet,
        config: CompileConfig,
        recipe: Recipe,
        plan: Plan,
        cuts: Blocks,
        given: TwoTaskTable | None,
        path: Path,
        crew: Crew,
        observer: Observer | None,
        instruments: tuple[Instrument, ...],
        resume: bool,
    ) -> None:
        if crew.ray is not None:
            require_ray()
        check_supported(backbone.graph)
        self._plan, self._crew, self._path, self._given = plan, crew, path, given
        self._backbone, self._blocks, self._recipe = backbone, blocks, recipe
        self._observer = observer or Silent()
        if given is None and plan.trainings and plan.estimator == "two-task":
            first_pairs(len(tasks), len(blocks), plan.trainings)  # refuses too few
        data, self.tasks = open_data(backbone, tasks, config)
        for part, dataset in (("training", data.train), ("validation", data.val)):
            require_labels(self.tasks, dataset, f"data {config.data!r}: the {part} set")
        self.title = f"{source.title} on {data.name}"
        self._data = data
        self._fingerprint = fingerprint(data, FINGERPRINTED)
        self._chosen = [
            read_layout(file, self.tasks.names, [str(block.name) for block in blocks]) for file in plan.train_given
        ]
        threads = threads_of(path) if resume else max(1, torch.get_num_threads() // crew.workers)
        self.content: dict[str, Any] = {
            **source.digests(graph_digest(backbone)),
            "dialect": source.dialect,
            "tasks": self.tasks.to_json(),
            **config.describe(),
            "blocks": dataclasses.asdict(cuts) | {"count": 0 if cuts.sizes or cuts.at else len(blocks)},
            "estimator": plan.estimator,
            "seeds": plan.seeds,
            "two_task": None if given is None else [[repr(float(v)) for v in row.ravel()] for row in given.values],
            "threads": threads,
            "with_recipe": recipe.describe(),
        }
        self._seeds = tuple(config.seed + i for i in range(plan.seeds))
        self._trainer = Trainer(
            backbone,
            blocks,
            self.tasks,
            data,
            self._fingerprint,
            config,
            recipe,
            path,
            launch(1, crew.accelerator, config.batch_size),
            threads,
            self._observer,
            crew.checkpoint_every,
            instruments,
        )

    def perform(self, run: RunDirectory, known: Performance, answering: Answer) -> Performance:
        """Train what the estimator needs; the two-task table and the similarities are filled in.

        Raises:
            OnnxMTLError: A training failed.
        """
        self._import(run)
        wanted = self._first_pairs()
        everything = [*single_jobs(self.tasks.names, self._seeds)]
        everything += pair_jobs(self.tasks.names, len(self._blocks), wanted, self._seeds)
        self._hand_out([job for job in everything if not run.phase(job.name, self._depends(job)).done])
        singles = self._singles(run)
        count = len(self._seeds) * len(self.tasks)
        if self._given is not None:
            return dataclasses.replace(known, seeds=self._seeds, trainings=count)
        if self._plan.similarity_only:
            return dataclasses.replace(
                known, similarity=self._similarity(known, singles), seeds=self._seeds, trainings=count
            )
        blocks, pairs = len(self._blocks), len(self.tasks)
        values = np.full((len(self._seeds), pairs, pairs, blocks + 1), math.nan)
        values[..., 0] = 0.0
        for task in range(pairs):
            values[:, task, task] = math.nan
        self._train_pairs(run, wanted, singles, values)
        done = len(wanted)
        limit = self._plan.trainings if self._plan.estimator == "two-task" else 0
        while done < limit:
            following = answering.next_training(dataclasses.replace(known, table=self._table(values)), self._seeds[0])
            if following is None:
                break
            self._train_pairs(run, [following], singles, values)
            done += 1
        return dataclasses.replace(
            known,
            table=self._table(values),
            tables=tuple(TwoTaskTable(self.tasks.names, blocks, one) for one in values),
            seeds=self._seeds,
            trainings=count + done * len(self._seeds),
        )

    def compare(
        self, run: RunDirectory, known: Performance, answering: Answer, found: Recommendation
    ) -> Recommendation:
        """Train layouts, to compare what was predicted with what is measured.

        Raises:
            OnnxMTLError: A training failed.
        """
        chosen = compared_layouts(found, known, self._plan, self._chosen, self._seeds[0])
        results = self._do(run, layout_jobs([layout for layout, _ in chosen], self._seeds))
        singles = self._singles(run)
        rows = []
        for layout, why in chosen:
            measured = []
            for seed in self._seeds:
                metrics = read_metrics(results[layout_jobs([layout], self._seeds)[self._seeds.index(seed)].name])
                measured.append(self._relative(metrics, singles[seed]))
            rows.append(self._row(answering, known, layout, why, measured))
        return dataclasses.replace(
            found, trained=tuple(rows), seeds=self._seeds, trainings=found.trainings + len(results)
        )

    def _row(
        self, answering: Answer, known: Performance, layout: Layout, why: str, measured: Sequence[Mapping[str, float]]
    ) -> LayoutResult:
        return dataclasses.replace(answering.row(known, layout), measured=tuple(measured), why=why)

    def _import(self, run: RunDirectory) -> None:
        """The phase ``import``: what other processes read to do a job."""
        phase = run.phase("import", {"graph": graph_digest(self._backbone), "data": self._fingerprint})
        if phase.done:
            return
        with phase.writing() as folder:
            graphs.save(self._backbone, folder / "backbone.onnx")
            atomic_write(folder / "tasks.json", self.tasks.to_json().encode())
            write_json(folder / DATA_FILE, {"fingerprint": self._fingerprint})

    def _first_pairs(self) -> list[tuple[int, int, int]]:
        """The two-task models that are trained in any case."""
        blocks, tasks = len(self._blocks), len(self.tasks)
        if self._given is not None or self._plan.similarity_only:
            return []
        if self._plan.estimator == "grouping":
            return all_pairs(tasks, [blocks])
        if self._plan.trainings:
            return first_pairs(tasks, blocks, self._plan.trainings)
        return all_pairs(tasks, range(1, blocks + 1))

    def _singles(self, run: RunDirectory) -> dict[int, dict[str, Path]]:
        """Seed -> task -> folder of its single-task network."""
        jobs = single_jobs(self.tasks.names, self._seeds)
        folders = self._do(run, jobs)
        found: dict[int, dict[str, Path]] = {seed: {} for seed in self._seeds}
        for job in jobs:
            found[job.seed][job.tasks[0]] = folders[job.name]
        return found

    def _train_pairs(
        self,
        run: RunDirectory,
        wanted: Sequence[tuple[int, int, int]],
        singles: Mapping[int, Mapping[str, Path]],
        values: Array,
    ) -> None:
        """Train two-task models and write their relative performance into `values` [seeds, T, T, B + 1]."""
        jobs = pair_jobs(self.tasks.names, len(self._blocks), wanted, self._seeds)
        folders = self._do(run, jobs)
        by_seed = len(self._seeds)
        for index, job in enumerate(jobs):
            a, b, point = wanted[index // by_seed]
            found = self._relative(read_metrics(folders[job.name]), singles[job.seed], job.title)
            one = values[self._seeds.index(job.seed)]
            one[a, b, point], one[b, a, point] = found[job.tasks[0]], found[job.tasks[1]]

    def _relative(self, metrics: Metrics, singles: Mapping[str, Path], title: str = "a layout") -> dict[str, float]:
        """Task -> relative performance in percent against its single-task network.

        Raises:
            RunError: It has no value.
        """
        found = {}
        for task in (self.tasks[name] for name in metrics):
            reference = read_metrics(singles[task.name])[task.name]
            found[task.name] = relative_performance(metrics[task.name], reference, task.metrics)
            if not math.isfinite(found[task.name]):
                msg = (
                    f"{title}: task {task.name!r} has no relative performance (its metrics {dict(metrics[task.name])}, "
                    f"of a network of its own {reference}); take more validation samples or other metrics"
                )
                raise RunError(msg)
        return found

    def _table(self, values: Array) -> TwoTaskTable:
        return TwoTaskTable(self.tasks.names, len(self._blocks), values.mean(axis=0))

    def _similarity(self, known: Performance, singles: Mapping[int, Mapping[str, Path]]) -> Array:
        """[T, T, B] similarities of what the single-task networks see, the mean over the seeds."""
        images = sample_images(self._data.val, self.tasks)
        names = [block.name for block in self._blocks]
        found = []
        for folders in singles.values():
            matrices = []
            for index, task in enumerate(self.tasks.names):
                early = [names[block] for block in left_out(known.costs.parts, index, len(names))]
                seen = features(graphs.load(folders[task] / MODEL_FILE), names, images, early)
                matrices.append([None if one is None else dissimilarities(one) for one in seen])
            found.append(similarity(matrices))
        mean: Array = np.mean(found, axis=0)
        return mean

    def _do(self, run: RunDirectory, jobs: Sequence[TrainingJob]) -> dict[str, Path]:
        """Name of each job -> folder with its result. What other processes can do is done by them first."""
        phases = {job.name: run.phase(job.name, self._depends(job)) for job in jobs}
        waiting = [job for job in jobs if not phases[job.name].done]
        self._hand_out(waiting)
        for job in waiting:
            with phases[job.name].writing() as folder:
                self._trainer.remembered(job, phases[job.name].checkpoints, folder)
        return {name: phase.path for name, phase in phases.items()}

    def _hand_out(self, jobs: Sequence[TrainingJob]) -> None:
        hand_out(self._trainer, self._crew, self._path, self._observer, jobs)

    def _depends(self, job: TrainingJob) -> dict[str, Any]:
        content = self._trainer.content(job, self._trainer.model(job))
        return {name: value for name, value in content.items() if name not in ("versions", "code")}

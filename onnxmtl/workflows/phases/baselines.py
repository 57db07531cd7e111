"""What the found model is compared with: a model per task, one trunk for all tasks, and random architectures.

All start from the same backbone and heads as the search, see the same images in the same order, and get as many weight
updates as the found model has behind it. Where every task's network was trained by itself before the search, random
architectures start from those networks, too. Each is trained once: another run that needs the very same finds it in
the cache (:mod:`onnxmtl.runs.cache`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch

import onnxmtl
from onnxmtl import ir as graphs
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import Costs
from onnxmtl.cost.selected import count_architecture
from onnxmtl.deploy.results import DrawResult
from onnxmtl.errors import ModelError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.lowering import together, write_back
from onnxmtl.lowering.agreement import from_first
from onnxmtl.passes.networks import given_networks
from onnxmtl.policy import Architecture
from onnxmtl.policy.random import random_at_cost, random_like
from onnxmtl.runs import Checkpoints, derive_seed, versions
from onnxmtl.search.training import train_weights
from onnxmtl.train.delta import delta
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.train.priors import label_priors, start_from
from onnxmtl.workflows.phases.job import Job, total
from onnxmtl.workflows.phases.searching import Searched
from onnxmtl.workflows.preparation import graph_digest
from onnxmtl.workflows.session import Metrics, read_metrics, write_history, write_metrics

# The code that decides what a training gives; a change in it makes old entries of the cache unused.
_CODE = (
    "kinds/**/*.py",
    "data/**/*.py",
    "lowering/**/*.py",
    "ops/**/*.py",
    "train/**/*.py",
    "search/setting.py",
    "search/training.py",
)


# AdaShare's two kinds of random policies: the same number of skips over all tasks, or for every task.
MODES: tuple[Literal["total", "per-task"], ...] = ("total", "per-task")
TOLERANCE = 0.02  # of "random-cost", relative


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What one way of doing all tasks achieves, and what it costs."""

    metrics: Metrics
    costs: Costs


@dataclasses.dataclass(frozen=True)
class Baselines:
    """All that was trained for comparison.

    Attributes:
        models: "separate", "shared" -> what it achieves.
        draws: Random architectures.
        notes: What could not be trained, and why.
    """

    models: Mapping[str, Baseline] = dataclasses.field(default_factory=dict)
    draws: tuple[DrawResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def single(self) -> Metrics | None:
        """Metrics of single-task models, if they were trained."""
        return self.models["separate"].metrics if "separate" in self.models else None


def names(job: Job) -> tuple[list[str], list[str]]:
    """What observers are told about: the baselines before the search, and those behind it."""
    config, tasks = job.session.config, job.session.tasks.names
    before = [f"single-task {task}" for task in tasks if "single-task" in config.baselines]
    before += (
        ["hard-sharing"] if "hard-sharing" in config.baselines and not given_networks(job.graphs.multitask) else []
    )
    kinds = [f"random-{mode}" for mode in MODES] if "random" in config.baselines else []
    kinds += ["random-cost"] if "random-cost" in config.baselines else []
    kinds += ["permutation"] if "permutations" in config.baselines else []
    plain = ["vanilla"] if "vanilla" in config.baselines else []
    return before, [f"{kind}-{draw}" for kind in kinds for draw in range(1, config.random_draws + 1)] + plain


def train_baselines(job: Job) -> Baselines:
    """Train a model per task (``separate``) and the one with a single trunk (``shared``), as far as asked for."""
    session, models = job.session, {}
    if "single-task" in session.config.baselines:
        parts = [TaskSet((task,)) for task in session.tasks]
        single = [_of_backbone(job, part, f"single-task-{i}") for i, part in enumerate(parts, start=1)]
        metrics = {task: values for part in single for task, values in part.metrics.items()}
        models["separate"] = Baseline(metrics, total([part.costs for part in single]))
    if "hard-sharing" not in session.config.baselines:
        return Baselines(models)
    if given_networks(job.graphs.multitask):
        return Baselines(models, notes=("no hard sharing to compare with: every task was given a network of its own",))
    models["shared"] = _of_backbone(job, session.tasks, "hard-sharing")
    return Baselines(models)


def train_single(job: Job, task: Task, number: int) -> Baseline:
    """Train a model for one task alone, as the baseline of the task that is `number` (from 1) in its run."""
    return _of_backbone(job, TaskSet((task,)), f"single-task-{number}")


def train_random(job: Job, architecture: Architecture, baselines: Baselines, searched: Searched) -> Baselines:
    """Add random architectures like the one that was found, as far as asked for; ``config.random_draws`` of each kind.

    ``random`` is both of AdaShare's: Random #1 has as many skips (of each option) over all tasks, Random #2 as many for
    every task. ``random-cost`` has the same multiply-adds within 2 %.

    Args:
        job: The run.
        architecture: What was found.
        baselines: What they are added to.
        searched: Where it comes from: networks that were trained before the search are the draws' beginning.
    """
    config = job.session.config
    if not architecture.choices:
        return baselines
    drawn: dict[str, Sequence[Architecture]] = {}
    table = site_table(job.graphs.supermodel)
    if "random" in config.baselines:
        for mode in MODES:
            seeds = [derive_seed(config.seed, "random", mode, draw) for draw in range(config.random_draws)]
            drawn[f"random-{mode}"] = [random_like(table, architecture, seed, mode) for seed in seeds]
    notes = list(baselines.notes)
    if "random-cost" in config.baselines:
        _, multiply_adds = count_architecture(table, architecture)
        try:
            drawn["random-cost"] = random_at_cost(
                table, multiply_adds, TOLERANCE, derive_seed(config.seed, "random-cost"), config.random_draws
            )
        except ModelError as error:  # no reason to lose a search
            notes.append(f"no random architectures to compare with: {error}")
    start, updates = searched.start or job.graphs.supermodel, searched.updates
    if (final := job.recipe.final_stage) is not None and final.fresh:  # the found model begins anew, too
        start, updates = job.graphs.supermodel, 0
    draws = [
        draw(job, kind, f"{kind}-{number}", job.graphs.select(start, one), baselines.single, updates)
        for kind, those in drawn.items()
        for number, one in enumerate(those, start=1)
    ]
    return dataclasses.replace(baselines, draws=(*baselines.draws, *draws), notes=tuple(notes))


def draw(job: Job, kind: str, name: str, model: ir.Model, single: Metrics | None, updates: int = 0) -> DrawResult:
    """Train a model that is compared with the found one.

    Args:
        job: The run.
        kind: What it is, see :attr:`DrawResult.source`.
        name: Of the phase.
        model: Changed in place.
        single: Metrics of single-task models, for its Δ.
        updates: How many of its weights are behind it.
    """
    found = _train(job, model, job.session.tasks, name, updates)
    change = delta(job.session.tasks, found.metrics, single) if single is not None else None
    return DrawResult(
        source=kind,
        metrics=found.metrics,
        parameters=found.costs.parameters,
        multiply_adds=found.costs.multiply_adds,
        delta=change.tasks if change is not None else {},
        total=change.total if change is not None else None,
        weights="retrained",
    )


def _of_backbone(job: Job, tasks: TaskSet, name: str) -> Baseline:
    model = job.graphs.with_heads(tasks)
    if not given_networks(job.graphs.multitask):  # heads of those are what they should be already
        start_from(model, label_priors(tasks, job.session.data.train))
    return _train(job, model, tasks, name)


def _train(job: Job, model: ir.Model, tasks: TaskSet, name: str, updates: int = 0) -> Baseline:
    session, config = job.session, job.session.config
    final = job.recipe.trainer
    spec = final.weights if final is not None and final.weights is not None else OptimizerSpec()
    sequential, reference = (bool(final.sequential), final.reference) if final is not None else (False, 0)
    per_task = final is not None and final.per_task and len(tasks) > 1
    steps = max(1, job.recipe.weight_steps(config.steps) - updates)
    title = f"{name.rpartition('-')[0]} {tasks.names[0]}" if name.startswith("single-task") else name

    def train(checkpoints: Checkpoints, folder: Path) -> None:
        module = session.module(model)
        session.recalibrate(module, model)  # as the found model before its last stage
        history = train_weights(
            module,
            session.setting_for(tasks),
            spec,
            steps,
            name=name,
            sequential=sequential,
            reference=reference,
            per_task=per_task,
            checkpoints=checkpoints,
            listener=session.listener(title, steps, checkpoints),
            weighting=config.weighting,
        )
        write_back(module, model)

        def write() -> None:
            graphs.save(model, folder / "trained.onnx")
            write_metrics(folder, session.evaluate(module, tasks))
            write_history(folder, history)

        from_first(write)

    depends = {
        "model": graph_digest(model),
        "optimizer": dataclasses.asdict(spec),
        "steps": steps,
        "sequential": sequential,
        "reference": reference,
        **({"per_task": True} if per_task else {}),
    }
    content = {
        **depends,
        "data": job.data,
        "tasks": tasks.to_json(),
        "weighting": config.weighting,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "recalibration": config.recalibration,
        "device": session.setting.device.type,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "code": code_digest(),
    }
    if together.world_size() > 1:  # sums in another order, other last bits
        content["processes"] = together.world_size()

    def work(checkpoints: Checkpoints, folder: Path) -> None:
        session.remembered(checkpoints, folder, content, train)

    folder = session.training(name, work, **depends)
    return Baseline(read_metrics(folder), job.graphs.costs(graphs.load(folder / "trained.onnx"), tasks))


@functools.cache
def code_digest() -> str:
    """Of the source of all that a training runs through."""
    found = hashlib.sha256()
    package = Path(onnxmtl.__file__).parent
    for pattern in _CODE:
        for file in sorted(package.glob(pattern)):
            found.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return found.hexdigest()

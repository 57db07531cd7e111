"""A task more for a model that is finished; all it did before it goes on doing, bit for bit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from onnxmtl.data import fingerprint
from onnxmtl.deploy.added import AddedTask
from onnxmtl.deploy.report import run_command
from onnxmtl.deploy.results import Report
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.policy.budget import parse_budget
from onnxmtl.runs import RunDirectory, free_path
from onnxmtl.train.priors import label_priors
from onnxmtl.workflows.adding.asking import BASELINES, CANDIDATES, Asked, new_task, open_for
from onnxmtl.workflows.adding.base import Base
from onnxmtl.workflows.adding.emission import Grown, emit_added
from onnxmtl.workflows.adding.options import Options, over_budget, within
from onnxmtl.workflows.adding.training import Training, choose, first_options, train
from onnxmtl.workflows.phases.baselines import train_single
from onnxmtl.workflows.phases.job import Graphs, Job
from onnxmtl.workflows.preparation import FINGERPRINTED, graph_digest
from onnxmtl.workflows.processes import Accelerator, launch, opened
from onnxmtl.workflows.session import Observer, Session, Silent

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Added:
    """The result of ``add_task``.

    Attributes:
        path: The new run's directory.
        model: Path of the emitted ``model.onnx``, with all tasks.
        added: Where the task branches off, what it costs, how the old outputs compare.
        report: The table of metrics, costs and sharing of all tasks.
    """

    path: Path
    model: Path
    added: AddedTask
    report: Report


def add_task(
    run: str | os.PathLike[str],
    task: str | Task | TaskSet,
    *,
    at: str = "",
    like: str = "",
    budget: str = "",
    data: str = "",
    data_options: Mapping[str, str] = _NOTHING,
    steps: int = 0,
    trial_steps: int = 0,
    candidates: int = CANDIDATES,
    train_size: int = 0,
    val_size: int = 0,
    batch_size: int = 0,
    seed: int | None = None,
    baselines: Sequence[str] | str = BASELINES,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    command: Sequence[str] = (),
    checkpoint_every: int = 50,
    accelerator: Accelerator = "auto",
) -> Added:
    """Add a task to the model of a finished run, into a run directory of its own.

    All that exists is frozen, weights and running statistics alike. The new task has the layers before its branching
    point in common with one of the old tasks, behind it copies of that task's layers, which are trained on, and a head.
    The old outputs are computed by the very nodes that computed them before; that is checked, and so are their bits
    with ONNX Runtime's optimizations off.

    Args:
        run: Directory of a finished run of ``compile``, ``specialize`` or ``add_task``; only read.
        task: One task: the short form, ``"parts=segmentation:7"``, a TOML file, or an object.
        at: Where to branch off: the tensor, or the node, of the backbone that is the last in common. The name of the
            image: a network of its own; of the last feature: a head alone. "": chosen, see
            :func:`onnxmtl.workflows.adding.training.choose`.
        like: The task whose path is followed; "": chosen.
        budget: Limits of the emitted model, such as ``madds<=1.1x``; here ``x`` is relative to the model as it is.
        data: Labels for the new task, named as for ``compile``; "": the run's data.
        data_options: Options of the data that is named.
        steps: Updates of the branch; 0: as many as the run's weights have behind them.
        trial_steps: Updates of each trial; 0: a quarter of the steps.
        candidates: Places to try on one path, at most; 1: a head alone.
        train_size: Training samples; 0: as in the run.
        val_size: Validation samples; 0: as in the run.
        batch_size: Images per step; 0: as in the run.
        seed: Of everything random; None: the run's.
        baselines: ``single-task``: a network for the new task alone is trained, to compare with; () or "none": not.
        out: Directory of the new run; must be new or empty. Default: the next free ``runs/add-task-N``.
        resume: Go on with the run in `out`, which must have been started with the same arguments.
        observer: Told about progress.
        command: The command line, kept in run.json.
        checkpoint_every: Steps between the states that a killed run can go on from; the result does not depend on it.
        accelerator: ``cuda``, ``cpu``, or ``auto``.

    Returns:
        The new run's directory, the emitted model and the report. The model has been verified.

    Raises:
        OnnxMTLError: The run, the task or its data cannot be used, no place keeps the budget, or the emitted model
            fails verification; one clear line.
    """
    asked = Asked(
        at=at,
        like=like,
        budget=budget,
        steps=steps,
        trial_steps=trial_steps,
        candidates=candidates,
        data=data,
        data_options=dict(data_options),
        train_size=train_size,
        val_size=val_size,
        batch_size=batch_size,
        seed=seed,
        baselines=_names(baselines),
    )
    path = Path(out) if out is not None else free_path("runs", "add-task")
    if not resume:
        RunDirectory.check_free(path)
    base = Base.read(Path(run))
    open_task = new_task(task, base)
    config, own = asked.config(base, open_task.name)
    threads = torch.get_num_threads()
    fabric = launch(1, accelerator, own.batch_size)
    source, known = open_for(base, open_task, own)
    one, tasks = TaskSet((known,)), TaskSet((*base.tasks, known))
    options = Options(base, known, label_priors(one, source.train), source.input, seed=own.seed, fold=own.fold)
    limits = [limit.resolve(options.before) for limit in parse_budget(budget)]
    first = first_options(options, asked)
    if not resume and not within(first, limits, options.measure):  # before hours of training
        raise over_budget(first, limits, options.before)
    recipe = base.branch_recipe()
    content = {
        **{name: value for name, value in base.record["config"].items() if name != "specialized"},
        **config.describe(),
        "tasks": tasks.to_json(),
        "threads": threads,
        "with_recipe": recipe.describe(),
        "added": {"run": base.key, "task": known.name, **_described(asked)},
    }
    about = {**base.record.get("source", {}), "run": str(base.path)}

    def directory() -> RunDirectory:
        if resume:
            return RunDirectory.resume(path, content)
        return RunDirectory.create(path, content, command, about)

    with opened(directory) as made:
        session = Session(made, path, one, source, own, observer or Silent(), fabric, checkpoint_every)
        multitask = options.multitask()
        graphs = Graphs(base.backbone, multitask, multitask, tasks, source.input, own, (CheckInvariants(),))
        title = str(base.record.get("source", {}).get("name", "model"))
        job = Job(session, title, recipe, graphs, fingerprint(source, FINGERPRINTED))
        job.write_graphs(graph_digest(multitask), tasks)
        single = None
        if "single-task" in own.baselines and not base.given:
            single = train_single(job, known, len(tasks))
        training = Training(session, options, recipe.stages[0], own.steps)
        option, trials = choose(training, asked, limits, first)
        branch, metrics = train(training, option)
        report, added = emit_added(job, options, tasks, Grown(option, branch, metrics, trials, single, limits))
    target = path / MODEL_FILE
    image = str(base.backbone.graph.inputs[0].name)
    shape = (1, source.input.channels, source.input.height, source.input.width)
    shown = dataclasses.replace(report, model=str(target), command=run_command(target, image, shape))
    return Added(path, target, added, shown)


def _names(given: Sequence[str] | str) -> tuple[str, ...]:
    """A tuple of names; "a,b" is taken too, and "none" is no name."""
    parts = given.split(",") if isinstance(given, str) else given
    found = tuple(part.strip() for part in parts if part.strip())
    return () if found == ("none",) else found


def _described(asked: Asked) -> dict[str, Any]:
    """What of the options no entry of the configuration says."""
    return {"at": asked.at, "like": asked.like, "trial_steps": asked.trial_steps, "candidates": asked.candidates}

"""The main job: one backbone and several tasks in, one multi-task ONNX model out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import RunError, TaskError
from onnxmtl.frontends.source import Dialect
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.lowering import together
from onnxmtl.lowering.agreement import agreed, from_first
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.policy import Architecture, Layout, Policy, read_architecture
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import RunDirectory, free_path
from onnxmtl.search.recipe import Recipe
from onnxmtl.train.weighting import make_weighting, parse_weighting
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.method import completed, resolve
from onnxmtl.workflows.networks import BackboneSet, for_networks, prepare_networks, source_of
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.baselines import names as baseline_names
from onnxmtl.workflows.phases.baselines import train_baselines, train_random
from onnxmtl.workflows.phases.decoding import decode
from onnxmtl.workflows.phases.emission import Compiled, Outcome, emit_model
from onnxmtl.workflows.phases.job import Graphs, Job
from onnxmtl.workflows.phases.searching import search
from onnxmtl.workflows.phases.training import train_selected
from onnxmtl.workflows.phases.trees import train_trees
from onnxmtl.workflows.preparation import Prepared, graph_digest, prepare
from onnxmtl.workflows.processes import Accelerator, launch, opened
from onnxmtl.workflows.session import Observer, Session, Silent
from onnxmtl.workflows.smaller import Smaller, prepare_smaller
from onnxmtl.workflows.source import Source


def compile(
    model: Any,
    tasks: str | TaskSet,
    config: CompileConfig | None = None,
    *,
    example_input: Any = None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None] | None = None,
    dialect: Dialect = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    recipe: Recipe | str | None = None,
    architecture: Architecture | str | os.PathLike[str] | None = None,
    layout: Layout | str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    instruments: Sequence[Instrument] = (),
    command: Sequence[str] = (),
    checkpoint_every: int = 50,
    devices: int = 1,
    accelerator: Accelerator = "auto",
    **options: Any,
) -> Compiled:
    """Search what the tasks should share, train it and emit one multi-task ONNX model.

    Args:
        model: The backbone: a path (``.onnx``, ``.prototxt``), or any object that :func:`onnxmtl.load` takes. Or a list
            of several, or a :class:`~onnxmtl.workflows.BackboneSet`: one network per task, in their order, for recipes
            that mix the features of separate networks. They keep their heads unless ``config.heads`` is "new".
        tasks: A task set, a TOML file, or the short form ``"seg=segmentation:13,depth,normals"``.
        config: Options; `options` given by name replace its fields.
        example_input: What a torch module's forward takes; of several modules, for all or a list.
        weights: The ``.caffemodel`` of a prototxt; of several, a list.
        dialect: Of a prototxt.
        out: Directory of the run; must be new or empty. Default: the next free ``runs/compile-N``.
        resume: Go on with the run in `out`, which must have been started with the same arguments.
        recipe: The name of a recipe, or one of your own; None takes ``config.recipe``.
        architecture: What the tasks share, if that is known already: an architecture or the file of one, ours or
            AutoMTL's. Nothing is searched then; all steps train the model that it selects.
        layout: A tree of tasks over the backbone's blocks, or the file of one, as ``onnxmtl recommend`` writes them:
            nothing is searched, and all steps train this tree. Without `recipe` it is trained as ``treemtl`` does,
            else as the last stage of that recipe.
        observer: Told about progress.
        instruments: Watch the graph passes.
        command: The command line, kept in run.json.
        checkpoint_every: Steps between the states that a killed run can go on from; the result does not depend on it.
        devices: How many processes train, each with its part of every batch and a device of its own. The others are
            started by running this program once more: all of it runs in all of them, and each returns the same. The
            result is that of one process but for rounding; a run may be resumed with another number.
        accelerator: ``cuda``, ``cpu``, or ``auto``: CUDA if there is a device.
        **options: Fields of :class:`CompileConfig`.

    Returns:
        The run's directory, the emitted model and the report. The model has been verified.

    Raises:
        OnnxMTLError: The input cannot be used, no architecture keeps the budget, or the emitted model fails
            verification; one clear line.
    """
    asked = dataclasses.replace(config or CompileConfig(), **options)
    source = source_of(model, example_input, weights, dialect)
    fixed = architecture if isinstance(architecture, Architecture | None) else read_architecture(architecture)
    tree = layout if isinstance(layout, Layout | None) else Layout.from_file(layout)
    method, settings = resolve(recipe, asked, fixed=fixed is not None, layout=tree)
    if isinstance(source, BackboneSet):
        method = for_networks(method, settings)
    elif settings.heads == "own":
        msg = "--heads own is for networks that are given one per task; a single backbone gets new heads: leave it out"
        raise RunError(msg)
    task_set = completed(method, load_tasks(tasks) if isinstance(tasks, str) else tasks)
    tree = None if tree is None else tree.for_tasks(task_set.names)
    make_weighting(parse_weighting(settings.weighting), task_set)  # refuses an unknown one
    threads = torch.get_num_threads()  # of one process: several share the cores
    fabric = launch(devices, accelerator, settings.batch_size)
    if together.rank():
        observer, instruments = None, ()
    path = Path(from_first(lambda: str(out if out is not None else free_path("runs", "compile"))))
    if not resume:
        from_first(lambda: RunDirectory.check_free(path))  # before the work of importing
    prepared, smaller = agreed(lambda: _prepared(source, task_set, settings, method, instruments, tree))
    if fixed is not None:
        fixed.validate(site_table(prepared.supermodel))
    content = {
        **source.digests(graph_digest(prepared.backbone)),
        "dialect": dialect,
        "tasks": prepared.tasks.to_json(),
        **settings.describe(),
        "architecture": None if fixed is None else fixed.to_dict(),
        **({} if tree is None else tree.to_dict()),
        "threads": threads,  # sums are split among threads: another number, other last bits
        "recipe": method.name,
        "with_recipe": method.describe(),  # last in the alphabet: a changed option is told by its own name
    }
    graphs = Graphs(
        prepared.backbone,
        prepared.multitask,
        prepared.supermodel,
        prepared.tasks,
        prepared.data.input,
        settings,
        (CheckInvariants(), *instruments),
        prepared.layout,
        prepared.separate,
    )
    limits = agreed(lambda: budgets.resolve(graphs, settings.budget))
    if limits and not resume:  # before hours of training, and before anything is written
        from_first(lambda: budgets.check(graphs, Policy.uniform(site_table(graphs.supermodel)), limits))

    def directory() -> RunDirectory:
        if resume:
            return RunDirectory.resume(path, content)
        return RunDirectory.create(path, content, command, source.describe())

    with opened(directory) as run:
        watching = observer or Silent()
        session = Session(run, path, prepared.tasks, prepared.data, settings, watching, fabric, checkpoint_every)
        job = Job(session, source.title, method, graphs, prepared.fingerprint, smaller)
        job.write_graphs(prepared.digest())
        return _compile(job, limits, fixed)


def _prepared(
    source: Source | BackboneSet,
    tasks: TaskSet,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument],
    layout: Layout | None,
) -> tuple[Prepared, Smaller | None]:
    """All graphs, of one backbone or of several networks."""
    if isinstance(source, BackboneSet):
        return prepare_networks(source, tasks, config, recipe, instruments), None
    for task in tasks:
        if task.mean:
            msg = f"task {task.name!r}: mean and std are of a network of its own; one backbone takes images as they are"
            raise TaskError(msg)
    prepared = prepare(source, tasks, config, recipe, instruments, layout)
    return prepared, prepare_smaller(source, prepared, config, recipe, instruments)


def _compile(job: Job, limits: Sequence[Absolute], given: Architecture | None) -> Compiled:
    """All that is trained, from the search space to the emitted model."""
    before, behind = baseline_names(job)
    job.session.plan([*before, *(stage.name for stage in job.recipe.stages if stage.weights or stage.policy), *behind])
    baselines = train_baselines(job)
    stages = job.recipe.search_stages
    searched = search(job, limits)
    decision = decode(
        job,
        searched.supermodel,
        given=given,
        limits=limits,
        single=baselines.single,
        source="random" if job.session.config.policy == "random" else stages[-1].name if stages else "",
    )
    trained = train_selected(job, decision.selected, decision.architecture)
    baselines = train_random(job, decision.architecture, baselines, searched)
    baselines = train_trees(job, decision.architecture, baselines)
    weights = "recalibrated" if trained is decision.selected else "retrained"
    return emit_model(job, Outcome(trained, decision, baselines, weights, limits))

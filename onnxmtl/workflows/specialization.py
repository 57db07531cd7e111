"""Another model from a search that is done: for another budget, or for an architecture that is given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, fingerprint
from onnxmtl.errors import RunError
from onnxmtl.lowering import together
from onnxmtl.lowering.agreement import agreed, from_first
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.policy import Architecture, Policy, read_architecture
from onnxmtl.runs import RunDirectory, free_path
from onnxmtl.workflows.config import LATER, CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.decoding import decode
from onnxmtl.workflows.phases.emission import Compiled, Outcome, emit_model
from onnxmtl.workflows.phases.finished import Finished
from onnxmtl.workflows.phases.job import Graphs, Job
from onnxmtl.workflows.phases.times import timed
from onnxmtl.workflows.phases.training import train_selected
from onnxmtl.workflows.preparation import FINGERPRINTED, graph_digest
from onnxmtl.workflows.processes import Accelerator, launch, opened
from onnxmtl.workflows.session import Observer, Session, Silent

Weights = Literal["recalibrated", "retrained"]


def specialize(
    run: str | os.PathLike[str],
    *,
    budget: str = "",
    architecture: Architecture | str | os.PathLike[str] | None = None,
    weights: Weights = "recalibrated",
    steps: int = 0,
    fuse_siblings: bool | None = None,
    float16: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    instruments: Sequence[Instrument] = (),
    command: Sequence[str] = (),
    checkpoint_every: int = 50,
    devices: int = 1,
    accelerator: Accelerator = "auto",
) -> Compiled:
    """Emit another model from a finished run's supermodel and policy, into a run directory of its own.

    Needs the run's data set: running statistics are averaged anew for every architecture.

    Args:
        run: Directory of a run of :func:`onnxmtl.compile` that searched its architecture.
        budget: Limits of the emitted model, such as ``madds<=0.5x``: the most probable architecture within them.
        architecture: The architecture, or the file of one. With neither, the run's own.
        weights: ``recalibrated``: those that the search ended with; ``retrained``: trained on by the recipe's last
            stage, which starts afresh if the recipe says so.
        steps: Updates of that stage; 0: as many as in the run.
        fuse_siblings: Whether the emitted model has convolutions of several tasks on one input fused; None: as the run.
        float16: Whether it computes in float16 where that is safe; None: as the run.
        out: Directory of the new run; must be new or empty. Default: the next free ``runs/specialize-N``.
        resume: Go on with the run in `out`, which must have been started with the same arguments.
        observer: Told about progress.
        instruments: Watch the graph passes.
        command: The command line, kept in run.json.
        checkpoint_every: Steps between the states that a killed run can go on from; the result does not depend on it.
        devices: How many processes train; see :func:`onnxmtl.compile`.
        accelerator: ``cuda``, ``cpu``, or ``auto``.

    Returns:
        The new run's directory, the emitted model and the report. The model has been verified.

    Raises:
        OnnxMTLError: The run cannot be used, no architecture keeps the budget, or the emitted model fails
            verification; one clear line.
    """
    source = Finished.read(Path(run))
    if weights not in ("recalibrated", "retrained"):
        msg = f"weights are 'recalibrated' or 'retrained', not {weights!r}"
        raise RunError(msg)
    if steps < 0 or (steps and weights == "recalibrated"):
        msg = f"--steps {steps}: a number of updates, with --weights retrained"
        raise RunError(msg)
    if weights == "retrained" and source.recipe.final_stage is None:
        msg = f"recipe {source.recipe.name!r} does not train the selected model; take --weights recalibrated"
        raise RunError(msg)
    if budget and architecture is not None:
        msg = "a budget chooses an architecture: give one of --budget and --architecture"
        raise RunError(msg)
    config = dataclasses.replace(
        source.config,
        budget=budget,
        fuse_siblings=source.config.fuse_siblings if fuse_siblings is None else fuse_siblings,
        float16=source.config.float16 if float16 is None else float16,
    )
    threads = torch.get_num_threads()  # of one process: several share the cores
    fabric = launch(devices, accelerator, config.batch_size)
    if together.rank():
        observer, instruments = None, ()
    graphs, data = agreed(lambda: _open(source, config, instruments))
    fixed = architecture if isinstance(architecture, Architecture | None) else read_architecture(architecture)
    if fixed is None and not budget:
        fixed = source.architecture
    if fixed is not None:
        fixed.validate(site_table(graphs.supermodel))
    path = Path(from_first(lambda: str(out if out is not None else free_path("runs", "specialize"))))
    content = {
        **{name: value for name, value in source.record["config"].items() if name not in LATER},
        **config.describe(),
        "architecture": None if fixed is None else fixed.to_dict(),
        "threads": threads,
        "specialized": {"run": source.key, "weights": weights, "steps": steps},
    }
    if not resume:
        from_first(lambda: RunDirectory.check_free(path))
    searched = source.searched(graphs.supermodel)
    limits = agreed(lambda: budgets.resolve(graphs, budget))
    if limits and not resume:  # before anything is written
        from_first(lambda: budgets.check(graphs, Policy.of_model(searched, site_table(searched)), limits))
    about = {**source.record.get("source", {}), "run": str(source.path)}

    def directory() -> RunDirectory:
        if resume:
            return RunDirectory.resume(path, content)
        return RunDirectory.create(path, content, command, about)

    with opened(directory) as own:
        watching = observer or Silent()
        session = Session(own, path, source.tasks, data, config, watching, fabric, checkpoint_every)
        job = Job(session, source.title, source.recipe, graphs, source.data)
        job.write_graphs(graph_digest(graphs.supermodel))
        baselines = source.baselines()
        timed(job, site_table(searched), limits)
        decision = decode(job, searched, given=fixed, limits=limits, single=baselines.single, source=source.stage)
        trained = decision.selected
        if weights == "retrained":
            trained = train_selected(job, trained, decision.architecture, steps or None)
        return emit_model(job, Outcome(trained, decision, baselines, weights, limits))


def _open(source: Finished, config: CompileConfig, instruments: Sequence[Instrument]) -> tuple[Graphs, DataSource]:
    """The run's graphs and its data set, which must be what it was."""
    backbone = source.graph("backbone")
    data, tasks = open_data(backbone, source.tasks, config)
    if fingerprint(data, FINGERPRINTED) != source.data:
        msg = f"the data set {config.data!r} is not what it was when {source.path} was made; compile again"
        raise RunError(msg)
    graphs = Graphs(
        backbone,
        source.graph("multitask"),
        source.graph("supermodel"),
        tasks,
        data.input,
        config,
        (CheckInvariants(), *instruments),
    )
    return graphs, data

"""The stage that trains the selected model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.lowering import write_back
from onnxmtl.lowering.agreement import from_first
from onnxmtl.policy import Architecture
from onnxmtl.runs import Checkpoints
from onnxmtl.search.training import train_weights
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.session import write_history, write_metrics


def train_selected(job: Job, selected: ir.Model, architecture: Architecture, steps: int | None = None) -> ir.Model:
    """Train the selected model, from the search's weights or afresh, as the recipe's last stage says.

    Args:
        job: The run.
        selected: The selected model with the weights of the search.
        architecture: What it was selected by.
        steps: Updates; None: the stage's share of the run's steps.

    Returns:
        The trained model; `selected` itself if the recipe has no such stage.
    """
    stage = job.recipe.final_stage
    if stage is None or stage.weights is None:
        return selected
    session, spec = job.session, stage.weights
    if stage.fresh:
        selected = job.graphs.select(job.graphs.supermodel, architecture)
    updates = stage.steps(session.config.steps) if steps is None else steps

    def train(checkpoints: Checkpoints, folder: Path) -> None:
        module = session.module(selected)
        if stage.fresh:
            session.recalibrate(module, selected)  # as every model before its training
        history = train_weights(
            module,
            session.setting,
            spec,
            updates,
            name=stage.name,
            checkpoints=checkpoints,
            listener=session.listener(stage.name, updates, checkpoints),
            sequential=bool(stage.sequential),
            reference=stage.reference,
            per_task=stage.per_task,
            penalized=job.recipe.penalties,
            weighting=session.config.weighting,
        )
        write_back(module, selected)

        def write() -> None:
            graphs.save(selected, folder / "trained.onnx")
            write_metrics(folder, session.evaluate(module))
            write_history(folder, history)

        from_first(write)

    folder = session.training(stage.name, train, stage=dataclasses.asdict(stage), steps=updates)
    return graphs.load(folder / "trained.onnx")

"""What the found model is compared with: a model per task, and one trunk for all tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.cost.count import Costs, count
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import write_back
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.runs import Phase
from onnxmtl.search.engine import train_weights
from onnxmtl.search.recipe import Recipe
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.train.priors import label_priors, start_from
from onnxmtl.workflows.session import Metrics, Session, read_metrics, write_metrics


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What one way of doing all tasks achieves, and what it costs."""

    metrics: Metrics
    costs: Costs


def train_baselines(session: Session, backbone: ir.Model, recipe: Recipe) -> dict[str, Baseline]:
    """Train ``separate`` models, one per task, and the all-``shared`` one.

    All start from the same backbone and heads as the search, see the same images in the same order, and get as many
    weight updates as the found model has behind it.
    """
    parts = [TaskSet((task,)) for task in session.tasks]
    single = [
        _train(session, backbone, part, recipe, f"separate-{i}", "separate") for i, part in enumerate(parts, start=1)
    ]
    shared = _train(session, backbone, session.tasks, recipe, "all-shared", "all-shared")
    metrics = {task: values for part in single for task, values in part.metrics.items()}
    return {"separate": Baseline(metrics, _total([part.costs for part in single])), "shared": shared}


def _train(session: Session, backbone: ir.Model, tasks: TaskSet, recipe: Recipe, name: str, stream: str) -> Baseline:
    model = session.rewrite(backbone, [AttachHeads(tasks, session.config.seed)], "heads")
    start_from(model, label_priors(tasks, session.data.train))
    steps = recipe.weight_steps(session.config.steps)
    final = recipe.final_stage
    spec = final.weights if final is not None and final.weights is not None else OptimizerSpec()
    shown = f"{stream} {tasks.names[0]}" if len(tasks) == 1 and len(session.tasks) > 1 else stream

    def train(phase: Phase, folder: Path) -> None:
        module = session.module(model)
        session.recalibrate(module, model)  # as the found model before its last stage
        train_weights(
            module,
            session.setting_for(tasks),
            spec,
            steps,
            name=stream,
            checkpoints=phase.checkpoints,
            listener=session.listener(shown, steps, phase),
        )
        write_back(module, model)
        graphs.save(model, folder / "trained.onnx")
        write_metrics(folder, session.evaluate(module, tasks))

    folder = session.phase(name, train, spec=dataclasses.asdict(spec), steps=steps)
    trained = graphs.load(folder / "trained.onnx")
    contract = dataclasses.asdict(session.data.input)
    final_model = session.rewrite(trained, finalize_passes(tasks, contract, fold=session.config.fold), "finalize")
    return Baseline(read_metrics(folder), count(final_model, file_bytes=len(graphs.to_bytes(final_model))))


def _total(costs: list[Costs]) -> Costs:
    """Several models side by side: nothing is executed once for two of them."""
    sums = {
        field.name: sum(getattr(c, field.name) or 0 for c in costs)
        for field in dataclasses.fields(Costs)
        if field.name != "executed_once"
    }
    return Costs(**sums, executed_once=0.0)

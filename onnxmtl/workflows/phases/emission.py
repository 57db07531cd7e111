"""The phase ``emit``: the model, its certificate, and the report; copied to the top of the run's directory."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl.cost.count import Costs, count
from onnxmtl.cost.sharing import SharingRow, sharing
from onnxmtl.deploy.explain import write_diagnostics
from onnxmtl.deploy.report import run_command
from onnxmtl.deploy.results import BudgetResult, LayerRow, MetricResult, Report, TaskResult
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import ModelError
from onnxmtl.ir import diagnostics
from onnxmtl.kinds import Task
from onnxmtl.lowering.agreement import from_first
from onnxmtl.passes.finalize import separated
from onnxmtl.policy import Architecture
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import atomic_write, read_json, write_json
from onnxmtl.train.constant import constant_predictors
from onnxmtl.train.delta import Delta, delta
from onnxmtl.train.metrics import higher_is_better
from onnxmtl.workflows.emit import emit
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.baselines import Baseline, Baselines
from onnxmtl.workflows.phases.decoding import Decision
from onnxmtl.workflows.phases.fused import fused_of
from onnxmtl.workflows.phases.half import measured_half
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.phases.trees import tree_of
from onnxmtl.workflows.session import Metrics

CERTIFIED_IMAGES = 8
LAYOUT_FILE = "layout.json"
EMITTED = (
    MODEL_FILE,
    f"{MODEL_FILE}.data",
    "certificate.json",
    "certificate.npz",
    "verify.json",
    "report.json",
    LAYOUT_FILE,
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The result of ``compile`` and ``specialize``.

    Attributes:
        path: The run's directory.
        model: Path of the emitted ``model.onnx``.
        architecture: What was selected.
        report: The table of metrics, costs and sharing.
    """

    path: Path
    model: Path
    architecture: Architecture
    report: Report


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was trained, ready to be emitted.

    Attributes:
        trained: The selected model.
        decision: How it was selected.
        baselines: What it is compared with.
        weights: "recalibrated" or "retrained".
        limits: The budget.
    """

    trained: ir.Model
    decision: Decision
    baselines: Baselines
    weights: str
    limits: Sequence[Absolute] = ()


def emit_model(job: Job, outcome: Outcome) -> Compiled:
    """Emit, verify and report.

    Raises:
        VerificationError: The emitted model is not what was selected, or computes something else.
    """
    session = job.session

    def write(folder: Path) -> None:
        data = session.data
        images = np.stack([np.asarray(data.val[i][0], np.float32) for i in range(certified_images(job))])
        final, verified = emit(
            folder,
            outcome.trained,
            session.tasks,
            data.input,
            images,
            supermodel=job.graphs.supermodel,
            layout=tree_of(job, outcome.decision.architecture),
            fold=session.config.fold,
            siblings=session.config.fuse_siblings,
            half=session.config.float16,
            instruments=job.graphs.instruments,
        )
        found: Metrics = session.evaluate(session.module(outcome.trained))
        notes: tuple[str, ...] = ()
        if session.config.float16:
            found, notes = measured_half(folder / MODEL_FILE, session, found, verified)
        costs = count(separated(final), file_bytes=(folder / MODEL_FILE).stat().st_size)
        limits = budgets.verdict(job.graphs, outcome.limits, final, costs)
        made = report(job, outcome, found, costs, limits)
        made = dataclasses.replace(made, notes=(*made.notes, *notes))
        write_json(folder / "report.json", made.to_json())
        if made.layout is not None:
            atomic_write(folder / LAYOUT_FILE, made.layout.to_json().encode())
        write_diagnostics(folder, finalize=final)

    config = session.config
    asked = {name: True for name in ("fuse_siblings", "float16") if getattr(config, name)}
    folder = session.phase("emit", write, fold=config.fold, weights=outcome.weights, **asked)
    run = session.path

    def publish() -> None:
        for name in EMITTED:
            if (folder / name).exists():
                atomic_write(run / name, (folder / name).read_bytes())

    from_first(publish)
    target = run / MODEL_FILE
    shown = Report.from_json(read_json(run / "report.json"))
    shown = dataclasses.replace(shown, model=str(target), command=_command(job, target))
    return Compiled(run, target, outcome.decision.architecture, shown)


def report(job: Job, outcome: Outcome, found: Metrics, costs: Costs, limits: tuple[BudgetResult, ...] = ()) -> Report:
    """The report of a run; Δ of everything that was trained, if there are single-task models to compare with."""
    data, tasks, baselines = job.session.data, job.session.tasks, outcome.baselines
    known = constant_predictors(tasks, data.train, data.val)
    constants = {task.name: known.get(task.name, {}) for task in tasks}
    models: dict[str, Metrics] = {"found": found}
    models |= {name: baseline.metrics for name, baseline in baselines.models.items()}
    random = [draw.metrics for draw in baselines.draws if draw.source.startswith("random")]
    if random:
        models["random"] = _mean(random)
    changes: dict[str, Delta] = {}
    if baselines.single is not None:
        changes = {
            name: delta(tasks, metrics, baselines.single) for name, metrics in models.items() if name != "separate"
        }
    all_metrics = {**models, "constant": constants}
    notes = [*map(str, diagnostics(job.graphs.backbone)), *baselines.notes, *_about_draws(baselines)]
    notes += [_not_met(limit) for limit in limits if not limit.met]
    return Report(
        title=f"{job.title} on {data.name}",
        tasks=tuple(task_row(task, all_metrics, changes) for task in tasks),
        costs=_costs(costs, baselines.models),
        sharing=tuple(LayerRow.of(row) for row in layers_of(outcome.trained, job.graphs.backbone)),
        model=MODEL_FILE,
        command="",
        weights=outcome.weights,
        notes=tuple(notes),
        delta={name: change.total for name, change in changes.items()},
        draws=baselines.draws,
        budget=limits,
        decoding=outcome.decision.sentence,
        layout=tree_of(job, outcome.decision.architecture),
        fused=fused_of(job, outcome.decision.architecture),
    )


def _not_met(limit: BudgetResult) -> str:
    """Of a counted limit this is not possible; of latency, if the machine is slower than when the model was chosen."""
    msg = f"{limit.limit} is not met: measured {limit.value:.4g}"
    if limit.quantity != "latency":
        return msg
    return f"{msg} ms, and less when it was chosen: onnxmtl specialize with a smaller budget takes a faster model"


def task_row(task: Task, models: Mapping[str, Metrics], changes: Mapping[str, Delta]) -> TaskResult:
    def primary(name: str) -> float | None:
        return models[name][task.name][task.primary] if name in models else None

    rows = []
    for metric in task.metrics:
        values = {name: each[task.name][metric] for name, each in models.items() if metric in each[task.name]}
        rows.append(MetricResult(metric, higher_is_better(metric), values, task.metric_unit(metric)))
    return TaskResult(
        task=task.name,
        kind=task.kind,
        metric=task.primary,
        higher_is_better=higher_is_better(task.primary),
        found=models["found"][task.name][task.primary],
        constant=models["constant"][task.name].get(task.primary, math.nan),
        separate=primary("separate"),
        shared=primary("shared"),
        metrics=tuple(rows),
        delta={name: change.tasks[task.name] for name, change in changes.items()},
    )


def _costs(found: Costs, models: Mapping[str, Baseline]) -> dict[str, Costs]:
    return {"found": found, **{name: baseline.costs for name, baseline in models.items()}}


def _mean(found: Sequence[Metrics]) -> Metrics:
    """The mean of each metric; nan where one is nan."""
    first = found[0]
    return {
        task: {metric: float(np.mean([metrics[task][metric] for metrics in found])) for metric in first[task]}
        for task in first
    }


def _about_draws(baselines: Baselines) -> list[str]:
    """One line per kind of random policy or tree: the best and the mean, as AdaShare reports them."""
    kinds: dict[str, list[float]] = {}
    for draw in baselines.draws:
        if draw.total is not None and math.isfinite(draw.total):
            kinds.setdefault(draw.source, []).append(draw.total)
    without = Counter(draw.source for draw in baselines.draws if draw.total is None)
    told = [
        f"{kind}: {count} trained, their metrics are in report.json; for Δ add single-task to --baselines"
        for kind, count in without.items()
        if kind != "policy"
    ]
    return told + [
        f"{kind}: Δ of {len(found)} draws: best {max(found):+.1f} %, mean {np.mean(found):+.1f} %"
        if len(found) > 1
        else f"{kind}: Δ {found[0]:+.1f} %"
        for kind, found in kinds.items()
    ]


def layers_of(trained: ir.Model, backbone: ir.Model) -> list[SharingRow]:
    """What is shared, for the operators; a normalization that follows one has the same row."""
    rows = sharing(trained, backbone)
    linear = [row for row in rows if row.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return linear or rows


def _command(job: Job, target: Path) -> str:
    spec = job.session.data.input
    shape = (1, spec.channels, spec.height, spec.width)
    return run_command(target, str(job.graphs.backbone.graph.inputs[0].name), shape)


def certified_images(job: Job) -> int:
    available = len(job.session.data.val)
    if available < 2:
        msg = f"the validation set has {available} samples; verification needs two or more"
        raise ModelError(msg)
    return min(CERTIFIED_IMAGES, available)

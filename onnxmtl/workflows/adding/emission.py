"""The phase ``emit`` of a run that adds a task: the model, the proof that the old outputs stayed, the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.cost.count import Costs, count
from onnxmtl.deploy.added import ADDED_FILE, AddedTask, Trial
from onnxmtl.deploy.explain import write_diagnostics
from onnxmtl.deploy.parity import Parity, Reference, compare_outputs
from onnxmtl.deploy.results import LayerRow, Report, TaskResult
from onnxmtl.deploy.structure import output_digests
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import VerificationError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering.agreement import from_first
from onnxmtl.passes.add_task import graft, say
from onnxmtl.passes.finalize import separated
from onnxmtl.passes.spaces.tree import LAYOUT_KEY
from onnxmtl.policy import Layout
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import atomic_write, read_json, write_json
from onnxmtl.train.constant import constant_predictors
from onnxmtl.train.delta import delta
from onnxmtl.workflows.adding.base import TRAINED_FILE
from onnxmtl.workflows.adding.options import Option, Options
from onnxmtl.workflows.emit import emit
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.baselines import Baseline
from onnxmtl.workflows.phases.emission import (
    EMITTED,
    LAYOUT_FILE,
    certified_images,
    layers_of,
    task_row,
)
from onnxmtl.workflows.phases.job import Job, total
from onnxmtl.workflows.session import Metrics


@dataclasses.dataclass(frozen=True)
class Grown:
    """A task that was trained, ready to be emitted.

    Attributes:
        option: Where it branches off.
        branch: Its trained branch.
        metrics: Of the new task on the validation set.
        trials: The places that were tried.
        single: A network for the new task alone; None: none was trained.
        limits: The budget.
    """

    option: Option
    branch: ir.Model
    metrics: Metrics
    trials: tuple[Trial, ...]
    single: Baseline | None
    limits: Sequence[Absolute]


def emit_added(job: Job, options: Options, tasks: TaskSet, grown: Grown) -> tuple[Report, AddedTask]:
    """Emit, verify, compare with the model as it was, report.

    Args:
        job: The new run.
        options: The places, and the run's model.
        tasks: All tasks.
        grown: The new one.

    Raises:
        VerificationError: The emitted model is not what was trained, or an old output changed.
    """
    base, option, session = options.base, grown.option, job.session
    said = {"task": options.task.name, "at": option.place.name, "like": option.path.task}
    layout = grown_layout(base.report.layout, tasks, option)

    def write(folder: Path) -> None:
        joint = graft(base.trained, grown.branch)
        say(joint, tasks, said)
        final = options.emitted(grown.branch, tasks, said)
        for model in (joint, final):
            model.metadata_props.pop(LAYOUT_KEY, None)
            if layout is not None:
                model.metadata_props[LAYOUT_KEY] = layout.to_json()
        graphs.save(joint, folder / TRAINED_FILE)
        images = np.stack([np.asarray(session.data.val[i][0], np.float32) for i in range(certified_images(job))])
        emit(
            folder,
            joint,
            tasks,
            session.data.input,
            images,
            layout=layout,
            fold=session.config.fold,
            instruments=job.graphs.instruments,
            final=final,
        )
        parity = compare_with_before(base.model, folder / MODEL_FILE)
        costs = count(separated(final), file_bytes=(folder / MODEL_FILE).stat().st_size)
        added = AddedTask(
            **said,
            metric=options.task.primary,
            head_only=option.head_only,
            run=str(base.path),
            before=count(separated(base.emitted), file_bytes=base.model.stat().st_size),
            after=costs,
            trials=grown.trials,
            parity=parity,
        )
        limits = budgets.verdict(job.graphs, grown.limits, final, costs)
        made = dataclasses.replace(_report(job, options, grown, added, joint), budget=limits, layout=layout)
        write_json(folder / "report.json", made.to_json())
        write_json(folder / ADDED_FILE, added.to_json())
        if layout is not None:
            atomic_write(folder / LAYOUT_FILE, layout.to_json().encode())
        write_diagnostics(folder, finalize=final)

    folder = session.phase("emit", write, **said)

    def publish() -> None:
        for name in (*EMITTED, ADDED_FILE):
            if (folder / name).exists():
                atomic_write(session.path / name, (folder / name).read_bytes())

    from_first(publish)
    return (
        Report.from_json(read_json(session.path / "report.json")),
        AddedTask.from_json(read_json(session.path / ADDED_FILE)),
    )


def compare_with_before(before: Path, after: Path) -> tuple[Parity, ...]:
    """All outputs of the model as it was, compared with those of the new one.

    Raises:
        VerificationError: One is computed otherwise, or has other bits with the runtime's optimizations off.
    """
    old, new = (graphs.load(file) for file in (before, after))
    now = output_digests(new)
    for task, digest in output_digests(old).items():
        if now.get(task) != digest:
            msg = f"what computes {task!r} is not what it was in {before}; nothing was written"
            raise VerificationError(msg)
    (image,) = (str(value.name) for value in old.graph.inputs)
    names = {str(value.name): str(value.name) for value in old.graph.outputs}
    found = compare_outputs(after, [Reference(str(before), before, {image: image}, names)])
    for row in found:
        if not row.identical:
            msg = f"the output {row.output!r} is not bit for bit what {before} computes; nothing was written"
            raise VerificationError(msg)
    return found


def grown_layout(layout: Layout | None, tasks: TaskSet, option: Option) -> Layout | None:
    """The tree with the new task in it: with the task whose path it leaves as far as that goes, then alone.

    None where the model is no tree, or the task branches off within one of its blocks.
    """
    if layout is None or not layout.blocks:
        return None
    place, path = option.place, option.path
    if option.head_only:
        shared = len(layout.blocks)
    elif place is path.places[0]:
        shared = 0
    elif place.name in layout.blocks:
        shared = layout.blocks.index(place.name) + 1
    else:
        return None
    old = layout.for_tasks(tasks.names[:-1])
    like, new = old.tasks.index(path.task), len(old.tasks)
    groups = tuple(
        tuple((*group, new) if like in group else group for group in block) if number < shared else (*block, (new,))
        for number, block in enumerate(old.groups)
    )
    return Layout(tasks.names, groups, old.blocks)


def _report(job: Job, options: Options, grown: Grown, added: AddedTask, joint: ir.Model) -> Report:
    """The run's report with the new task; what is only known without it is left out."""
    base, task, data = options.base, options.task, job.session.data
    one = TaskSet((task,))
    known = constant_predictors(one, data.train, data.val)
    metrics: dict[str, Metrics] = {"found": grown.metrics, "constant": {task.name: known.get(task.name, {})}}
    changes = {}
    if grown.single is not None:
        metrics["separate"] = grown.single.metrics
        changes["found"] = delta(one, grown.metrics, grown.single.metrics)
    rows = (*(_found(row) for row in base.report.tasks), task_row(task, metrics, changes))
    return dataclasses.replace(
        base.report,
        title=base.report.title if task.name in base.report.title else f"{base.report.title}, with {task.name}",
        tasks=rows,
        costs=_costs(base.report.costs, added.after, grown.single),
        sharing=tuple(LayerRow.of(row) for row in layers_of(joint, base.backbone)),
        model=MODEL_FILE,
        command="",
        notes=(*added.sentences(), *base.report.notes),
        delta=_total(rows),
        draws=(),
        decoding="; ".join(part for part in (base.report.decoding, _decided(added)) if part),
    )


def _decided(added: AddedTask) -> str:
    tried = f", the cheapest among the best of {len(added.trials)} places that were tried" if added.trials else ""
    return f"{added.task}: {added.where()}{tried}"


def _found(row: TaskResult) -> TaskResult:
    """An old task: its model with all tasks sharing everything is of other tasks than there are now."""
    metrics = tuple(
        dataclasses.replace(m, values={k: v for k, v in m.values.items() if k in ("found", "separate", "constant")})
        for m in row.metrics
    )
    changes = {name: change for name, change in row.delta.items() if name == "found"}
    return dataclasses.replace(row, shared=None, metrics=metrics, delta=changes)


def _costs(before: Mapping[str, Costs], after: Costs, single: Baseline | None) -> dict[str, Costs]:
    found = {"found": after}
    if "separate" in before and single is not None:
        found["separate"] = total([before["separate"], single.costs])
    return found


def _total(rows: Sequence[TaskResult]) -> dict[str, float]:
    """Δ over all tasks, if every one has it."""
    changes = [row.delta.get("found", math.nan) for row in rows]
    return {"found": sum(changes) / len(changes)} if all(map(math.isfinite, changes)) else {}

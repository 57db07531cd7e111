"""Quick runs of the recipe bmtas: tasks with small heads, and a run's graphs without the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.compiling import QUICK
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.workflows import CompileConfig
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.phases.job import Graphs
from onnxmtl.workflows.preparation import prepare
from onnxmtl.workflows.smaller import Smaller, prepare_smaller
from onnxmtl.workflows.source import Source

# Heads that build quickly.
THREE = TaskSet(tuple(t.replace(head="light") for t in TaskSet.parse("seg=segmentation,depth,normals")))
TWO = TaskSet(tuple(THREE)[:2])
BMTAS: dict[str, Any] = {**QUICK, "recipe": "bmtas", "steps": 10}


def graphs(model: Path, tasks: TaskSet = THREE, **options: Any) -> tuple[Graphs, Smaller | None]:
    """A run's graphs, and what would be searched in the supermodel's place."""
    recipe, config = resolve(None, CompileConfig(**{**BMTAS, **options}), fixed=False)
    source = Source(model)
    made = prepare(source, tasks, config, recipe)
    found = Graphs(
        made.backbone, made.multitask, made.supermodel, made.tasks, made.data.input, config, (CheckInvariants(),)
    )
    return found, prepare_smaller(source, made, config, recipe)

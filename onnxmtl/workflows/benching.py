"""What a run's model is measured against: a model per task, of the same backbone and heads, as it would be emitted.

No torch: nothing is trained here.
"""

from __future__ import annotations

import os
from pathlib import Path

from onnxmtl import ir as graphs
from onnxmtl.data import InputSpec
from onnxmtl.deploy.bench.candidates import Candidate
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.runs import read_json
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.phases.folders import phase_folder
from onnxmtl.workflows.phases.job import Graphs

SINGLE_TASK = "single-task"


def single_task_models(run: str | os.PathLike[str], folder: Path) -> Candidate:
    """Write a model per task of a run, finalized like the run's own.

    Those that the run trained for comparison are taken; where it trained none, they are built from what it imported.
    That is the same graph with other weights, and costs the same.

    Args:
        run: The run's directory, or a file in it.
        folder: An existing directory to write to.

    Returns:
        All of them together.

    Raises:
        RunError: There is no run, or not one that kept its imported graphs.
    """
    path = _run_of(Path(run))
    record = read_json(path / "run.json")
    config = record.get("config") if isinstance(record, dict) else None
    if not isinstance(config, dict):
        msg = f"{path}: its run.json is not one of a run; --against {SINGLE_TASK} needs a run of compile"
        raise RunError(msg)
    imported = phase_folder(path, "import", "multitask.onnx")
    tasks = TaskSet.from_json((phase_folder(path, "import", "tasks.json") / "tasks.json").read_text())
    multitask = graphs.load(imported / "multitask.onnx")
    made = Graphs(
        backbone=graphs.load(imported / "backbone.onnx"),
        multitask=multitask,
        supermodel=multitask,
        tasks=tasks,
        input=InputSpec(),  # goes into metadata only, and nobody keeps these files
        config=CompileConfig.from_json(config),
        instruments=(),
    )
    files, labels = [], []
    for number, task in enumerate(tasks, start=1):
        part = TaskSet((task,))
        trained = next((path / "phases").glob(f"[0-9]*-single-task-{number}/trained.onnx"), None)
        model = made.with_heads(part) if trained is None else graphs.load(trained)
        file = folder / f"{number}.onnx"
        graphs.save(made.finalize(model, part), file)
        files.append(file)
        labels.append(f"{task.name} ({'untrained' if trained is None else 'trained'}, of {path})")
    return Candidate("separate models", tuple(files), tuple(labels))


def _run_of(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    if not (folder / "run.json").is_file():
        msg = f"{path} is not in a run's directory, so nobody knows its single-task models; give them: --against FILE …"
        raise RunError(msg)
    return folder

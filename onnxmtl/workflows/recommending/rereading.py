"""A run's directory read back by another process, to do its jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onnxmtl import ir as graphs
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet, kind
from onnxmtl.runs import read_json
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.phases.job import DATA_FILE
from onnxmtl.workflows.processes import launch
from onnxmtl.workflows.recommending.asking import Blocks
from onnxmtl.workflows.recommending.training import Trainer, recipe_of
from onnxmtl.workflows.session import Silent

if TYPE_CHECKING:
    from onnxmtl.workflows.recommending.worker import WorkerSettings


def trainer_of_run(path: Path, settings: WorkerSettings) -> Trainer:
    """What does the jobs of the run in `path`.

    Raises:
        OnnxMTLError: The directory or the data set cannot be read here.
    """
    torch.set_num_threads(settings.threads)
    record = read_json(path / "run.json")
    folder = next(iter(sorted((path / "phases").glob("[0-9]*-import"))), None)
    if folder is None:
        msg = f"{path} is not readable here: all processes of a run need to see its directory"
        raise RunError(msg)
    config = CompileConfig.from_json(record["config"])
    backbone = graphs.load(folder / "backbone.onnx")
    tasks = _tasks(folder / "tasks.json")
    data, tasks = open_data(backbone, tasks, config)
    return Trainer(
        backbone,
        blocks_of(backbone, Blocks(**record["config"]["blocks"])),
        tasks,
        data,
        str(read_json(folder / DATA_FILE)["fingerprint"]),
        config,
        recipe_of(config),
        path,
        launch(1, settings.accelerator, config.batch_size),  # type: ignore[arg-type]
        settings.threads,
        Silent(),
        settings.checkpoint_every,
    )


def blocks_of(backbone: Any, asked: Blocks) -> list[Any]:
    """The blocks in which tasks can branch off."""
    return backbone_blocks(backbone, asked.sizes or asked.count or None, asked.at or None)


def _tasks(file: Path) -> TaskSet:
    text = file.read_text()
    for entry in json.loads(text)["tasks"]:
        if ":" in str(entry.get("kind")):
            kind(entry["kind"])  # the user's own, which a task list alone never imports
    return TaskSet.from_json(text)

"""A finished run, read back as what a task is added to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.deploy.results import Report
from onnxmtl.deploy.verify import MODEL_FILE, RECORD_FILE
from onnxmtl.errors import RunError
from onnxmtl.frontends.onnx import load
from onnxmtl.ir.metadata import json_list
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.add_task import ADDED_KEY
from onnxmtl.passes.networks import given_networks
from onnxmtl.runs import content_key, file_sha256, read_json
from onnxmtl.search.recipe import Recipe, Stage
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.networks import SPACES
from onnxmtl.workflows.phases.finished import phase_folder, recipe_of

BRANCH = "branch"
"""The stage that trains a branch, and its phase."""
TRAINED_FILE = "trained.onnx"


@dataclasses.dataclass(frozen=True)
class Base:
    """A run whose model gets another task.

    Attributes:
        path: Its directory.
        record: Its run.json.
        config: Its options.
        recipe: Its method.
        tasks: Its tasks, with their classes.
        backbone: The imported network.
        multitask: The network with untrained heads.
        trained: The multi-task model as it was trained, nothing folded.
        emitted: ``model.onnx``.
        report: Its report.
    """

    path: Path
    record: Mapping[str, Any]
    config: CompileConfig
    recipe: Recipe
    tasks: TaskSet
    backbone: ir.Model
    multitask: ir.Model
    trained: ir.Model
    emitted: ir.Model
    report: Report

    @classmethod
    def read(cls, path: Path) -> Base:
        """Read a run of ``compile``, ``specialize`` or ``add_task``.

        Raises:
            RunError: It is no run, is not finished, an earlier version of onnxmtl made it, or its model was changed.
        """
        record = read_json(path / "run.json") if (path / "run.json").is_file() else None
        config = record.get("config") if isinstance(record, dict) else None
        if record is None or not isinstance(config, dict) or "with_recipe" not in config:
            msg = f"{path} is no run of compile: a task is added to the directory of a finished run"
            raise RunError(msg)
        for name in ("report.json", MODEL_FILE, RECORD_FILE):
            if not (path / name).is_file():
                msg = f"{path} is not finished, it has no {name}: go on with it (compile --resume) first"
                raise RunError(msg)
        recipe = recipe_of(path, config)
        if file_sha256(path / MODEL_FILE) != read_json(path / RECORD_FILE).get("model"):
            msg = f"{path / MODEL_FILE} is not the file that was emitted: compile again, or put that file back"
            raise RunError(msg)
        return cls(
            path=path,
            record=record,
            config=CompileConfig.from_json(config),
            recipe=recipe,
            tasks=TaskSet.from_json((phase_folder(path, "import", "tasks.json") / "tasks.json").read_text()),
            backbone=_graph(path, "backbone"),
            multitask=_graph(path, "multitask"),
            trained=graphs.load(_trained(path, recipe)),
            emitted=load(path / MODEL_FILE),
            report=Report.from_json(read_json(path / "report.json")),
        )

    @property
    def model(self) -> Path:
        """The emitted model."""
        return self.path / MODEL_FILE

    @property
    def key(self) -> str:
        """A hash of all that adding a task depends on in the run."""
        files = [self.model, _trained(self.path, self.recipe), self.path / "report.json"]
        files += [
            phase_folder(self.path, "import", f"{name}.onnx") / f"{name}.onnx" for name in ("backbone", "multitask")
        ]
        return content_key([file_sha256(file) for file in files])

    @property
    def separate(self) -> bool:
        """Whether every task has a network of its own, which may read the others."""
        return self.recipe.space in SPACES

    def others(self, task: str) -> tuple[str, ...]:
        """The tasks whose networks are not this task's: it may read them, and a branch from it leaves them alone."""
        if not self.separate:
            return ()
        own = {task}
        for entry in reversed(json_list(self.trained.metadata_props, ADDED_KEY)):
            if isinstance(entry, dict) and entry.get("task") in own:  # it begins in the network of another task
                own.add(str(entry.get("like")))
        return tuple(name for name in self.tasks.names if name not in own)

    @property
    def given(self) -> bool:
        """Whether these networks were given one by one, so that no single backbone is known."""
        return bool(given_networks(self.multitask))

    @property
    def updates(self) -> int:
        """Weight updates that the run's model has behind it."""
        return self.recipe.weight_steps(self.config.steps)

    def branch_recipe(self) -> Recipe:
        """The run's method with one stage, which trains a branch as the run trained its selected model."""
        trainer = self.recipe.trainer
        spec = trainer.weights if trainer is not None and trainer.weights is not None else OptimizerSpec()
        reference = trainer.reference if trainer is not None else 0
        stage = Stage(BRANCH, 1.0, "selected", weights=spec, reference=reference)
        return dataclasses.replace(self.recipe, stages=(stage,), regularizers={}, penalties={})


def _graph(path: Path, name: str) -> ir.Model:
    return graphs.load(phase_folder(path, "import", f"{name}.onnx") / f"{name}.onnx")


def _trained(path: Path, recipe: Recipe) -> Path:
    """The file of the trained model: with the tasks that were added; of the last stage; or what was selected."""
    final = recipe.final_stage
    for phase in ("emit", *([final.name] if final is not None else [])):
        for folder in sorted((path / "phases").glob(f"[0-9]*-{phase}")):
            if folder.name.partition("-")[2] == phase and (folder / TRAINED_FILE).is_file():
                return folder / TRAINED_FILE
    return phase_folder(path, "decode", "selected.onnx") / "selected.onnx"

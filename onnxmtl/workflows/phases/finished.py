"""Reading a finished run back: what ``specialize`` starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.deploy.results import Report
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch, write_back
from onnxmtl.policy import Architecture
from onnxmtl.runs import content_key, file_sha256, read_json
from onnxmtl.search.recipe import Recipe, Stage
from onnxmtl.search.schedule import Curriculum, Temperature
from onnxmtl.train.checkpoint import load_weights
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.phases.baselines import Baseline, Baselines
from onnxmtl.workflows.phases.decoding import POLICY_FILE
from onnxmtl.workflows.phases.folders import phase_folder as phase_folder
from onnxmtl.workflows.phases.job import DATA_FILE
from onnxmtl.workflows.session import WEIGHTS_FILE


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that was compiled to the end.

    Attributes:
        path: Its directory.
        record: Its run.json.
        config: Its options.
        recipe: Its search method.
        tasks: Its tasks, with the data set's classes.
        data: Fingerprint of its data set.
        stage: The last stage of its search.
    """

    path: Path
    record: Mapping[str, Any]
    config: CompileConfig
    recipe: Recipe
    tasks: TaskSet
    data: str
    stage: str

    @classmethod
    def read(cls, path: Path) -> Finished:
        """Read a run.

        Raises:
            RunError: It is no run, is not finished, was not searched, or an earlier version of onnxmtl made it.
        """
        if not (path / "run.json").is_file():
            msg = f"{path} is no run: it has no run.json; give the directory of a finished run"
            raise RunError(msg)
        record = read_json(path / "run.json")
        config = record.get("config") if isinstance(record, dict) else None
        if not isinstance(config, dict):
            msg = f"{path}: its run.json is not one of a run; give the directory of a finished run"
            raise RunError(msg)
        if isinstance(config.get("specialized"), dict):
            origin = record.get("source", {}).get("run", "another run")
            msg = f"{path} was itself specialized from {origin}, which has the policy: specialize that one"
            raise RunError(msg)
        if isinstance(config.get("added"), dict):
            origin = record.get("source", {}).get("run", "another run")
            msg = f"{path} is {origin} with a task added: specialize that one, and add the task to what comes of it"
            raise RunError(msg)
        if not (path / "report.json").is_file():
            msg = f"{path} is not finished: go on with it (compile --resume) and specialize it then"
            raise RunError(msg)
        if config.get("architecture") is not None or config.get("policy") == "random":
            msg = f"nothing was searched in {path}: its architecture was given or drawn; compile without that first"
            raise RunError(msg)
        recipe = _recipe(path, config)
        stage = recipe.search_stages[-1].name
        phase_folder(path, "decode", POLICY_FILE)
        phase_folder(path, stage, WEIGHTS_FILE)
        fingerprint = read_json(phase_folder(path, "import", DATA_FILE) / DATA_FILE)["fingerprint"]
        tasks = TaskSet.from_json((phase_folder(path, "import", "tasks.json") / "tasks.json").read_text())
        return cls(path, record, CompileConfig.from_json(config), recipe, tasks, str(fingerprint), stage)

    @property
    def key(self) -> str:
        """A hash of all that specializing depends on in the run."""
        files = [
            phase_folder(self.path, "import", f"{name}.onnx") / f"{name}.onnx" for name in ("backbone", "supermodel")
        ]
        files.append(phase_folder(self.path, self.stage, WEIGHTS_FILE) / WEIGHTS_FILE)
        return content_key([*map(file_sha256, files), file_sha256(self.path / "report.json")])

    @property
    def title(self) -> str:
        """What reports call the backbone."""
        return str(self.record.get("source", {}).get("name", "model"))

    @property
    def architecture(self) -> Architecture:
        """What the run found."""
        return Architecture.from_json(
            (phase_folder(self.path, "decode", "architecture.json") / "architecture.json").read_text()
        )

    def graph(self, name: str) -> ir.Model:
        """One of its graphs: ``backbone``, ``multitask`` or ``supermodel``, untrained."""
        return graphs.load(phase_folder(self.path, "import", f"{name}.onnx") / f"{name}.onnx")

    def searched(self, supermodel: ir.Model) -> ir.Model:
        """A copy of the supermodel with the weights and logits that the search ended with."""
        trained = graphs.clone(supermodel)
        module = to_torch(trained)
        load_weights(phase_folder(self.path, self.stage, WEIGHTS_FILE) / WEIGHTS_FILE, module)
        write_back(module, trained)
        return trained

    def baselines(self) -> Baselines:
        """What the run was compared with, from its report."""
        report = Report.from_json(read_json(self.path / "report.json"))
        models = {}
        for name in ("separate", "shared"):
            metrics = {
                row.task: {m.metric: m.values[name] for m in row.metrics if name in m.values} for row in report.tasks
            }
            if name in report.costs and all(metrics.values()):
                models[name] = Baseline(metrics, report.costs[name])
        return Baselines(models, report.draws)


def _recipe(path: Path, config: Mapping[str, Any]) -> Recipe:
    """The recipe of a run that was searched."""
    recipe = recipe_of(path, config)
    if not recipe.search_stages:
        msg = f"nothing was searched in {path}: its recipe has no stage that trains a supermodel"
        raise RunError(msg)
    return recipe


def recipe_of(path: Path, config: Mapping[str, Any]) -> Recipe:
    """The recipe as run.json describes it; entries that are not known are of another version and left out.

    Raises:
        RunError: It does not describe one.
    """
    try:
        content = _known(Recipe, config["with_recipe"])
        stages = []
        for described in content.pop("stages"):
            fields = _known(Stage, described)
            for name, kind in _PARTS.items():
                if fields.get(name) is not None:
                    fields[name] = kind(**_known(kind, fields[name]))
            fields |= {name: tuple(fields[name]) for name in ("alternate", "reset") if name in fields}
            stages.append(Stage(**fields))
        return Recipe(stages=tuple(stages), **content)
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{path}: its run.json describes the recipe in a way that is not understood; compile again"
        raise RunError(msg) from error


_PARTS: Mapping[str, Any] = {
    "weights": OptimizerSpec,
    "policy": OptimizerSpec,
    "temperature": Temperature,
    "curriculum": Curriculum,
}


def _known(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    found = {key: value for key, value in content.items() if key in names}
    if "betas" in found:
        found["betas"] = tuple(found["betas"])
    return found

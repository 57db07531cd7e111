"""The main job: one backbone and several tasks in, one multi-task ONNX model out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl import ir as graphs
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.sharing import SharingRow, sharing
from onnxmtl.deploy.explain import write_diagnostics
from onnxmtl.deploy.report import LayerRow, Report, TaskResult, run_command
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import ModelError
from onnxmtl.frontends.source import Dialect
from onnxmtl.ir import diagnostics
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.lowering import LoweredModule, write_back
from onnxmtl.passes.instruments import Instrument
from onnxmtl.policy import Architecture, Policy, read_architecture
from onnxmtl.policy.decoders import argmax, sample
from onnxmtl.runs import Phase, RunDirectory, atomic_write, free_path, read_json, write_json
from onnxmtl.search.engine import SearchStage, train_weights
from onnxmtl.search.recipe import Recipe, Stage, recipe_named
from onnxmtl.train.checkpoint import load_weights, save_weights
from onnxmtl.train.constant import constant_predictors
from onnxmtl.train.delta import delta
from onnxmtl.train.metrics import higher_is_better
from onnxmtl.workflows.baselines import Baseline, train_baselines
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.emit import emit, selection
from onnxmtl.workflows.preparation import Prepared, graph_digest, prepare
from onnxmtl.workflows.session import WEIGHTS_FILE, Metrics, Observer, Session, Silent, write_metrics
from onnxmtl.workflows.source import Source

CERTIFIED_IMAGES = 8
EMITTED = (MODEL_FILE, f"{MODEL_FILE}.data", "certificate.json", "certificate.npz", "verify.json", "report.json")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The result of :func:`compile`.

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


def compile(
    model: Any,
    tasks: str | TaskSet,
    config: CompileConfig | None = None,
    *,
    example_input: Any = None,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    recipe: Recipe | str | None = None,
    architecture: Architecture | str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    instruments: Sequence[Instrument] = (),
    command: Sequence[str] = (),
    checkpoint_every: int = 50,
    **options: Any,
) -> Compiled:
    """Search what the tasks should share, train it and emit one multi-task ONNX model.

    Args:
        model: The backbone: a path (``.onnx``, ``.prototxt``), or any object that :func:`onnxmtl.load` takes.
        tasks: A task set, a TOML file, or the short form ``"seg=segmentation:13,depth,normals"``.
        config: Options; `options` given by name replace its fields.
        example_input: What a torch module's forward takes.
        weights: The ``.caffemodel`` of a prototxt.
        dialect: Of a prototxt.
        out: Directory of the run; must be new or empty. Default: the next free ``runs/compile-N``.
        resume: Go on with the run in `out`, which must have been started with the same arguments.
        recipe: The name of a recipe, or one of your own; None takes ``config.recipe``.
        architecture: What the tasks share, if that is known already: an architecture or the file of one, ours or
            AutoMTL's. Nothing is searched then; all steps train the model that it selects.
        observer: Told about progress.
        instruments: Watch the graph passes.
        command: The command line, kept in run.json.
        checkpoint_every: Steps between the states that a killed run can go on from; the result does not depend on it.
        **options: Fields of :class:`CompileConfig`.

    Returns:
        The run's directory, the emitted model and the report. The model has been verified.

    Raises:
        OnnxMTLError: The input cannot be used, or the emitted model fails verification; one clear line.
    """
    settings = dataclasses.replace(config or CompileConfig(), **options)
    given = settings.recipe if recipe is None else recipe
    chosen = _adjusted(recipe_named(given) if isinstance(given, str) else given, settings)
    fixed = architecture if isinstance(architecture, Architecture | None) else read_architecture(architecture)
    if fixed is not None:
        chosen = chosen.without_search()
    task_set = load_tasks(tasks) if isinstance(tasks, str) else tasks
    path = Path(out) if out is not None else free_path("runs", "compile")
    if not resume:
        RunDirectory.check_free(path)  # before the work of importing
    source = Source(model, example_input, weights, dialect)
    prepared = prepare(source, task_set, settings, chosen, instruments)
    if fixed is not None:
        fixed.validate(site_table(prepared.supermodel))
    content = {
        **source.digests(graph_digest(prepared.backbone)),
        "dialect": dialect,
        "tasks": prepared.tasks.to_json(),
        **settings.describe(),
        "architecture": None if fixed is None else fixed.to_dict(),
        "threads": torch.get_num_threads(),  # sums are split among threads: another number, other last bits
        "recipe": chosen.name,
        "with_recipe": chosen.describe(),  # last in the alphabet: a changed option is told by its own name
    }
    opened = (
        RunDirectory.resume(path, content) if resume else RunDirectory.create(path, content, command, source.describe())
    )
    with opened as run:
        session = Session(
            run, prepared.tasks, prepared.data, settings, observer or Silent(), instruments, checkpoint_every
        )
        return _Compilation(session, source.title, prepared, chosen, fixed).run()


def _adjusted(recipe: Recipe, config: CompileConfig) -> Recipe:
    """The recipe with the user's changes."""
    return dataclasses.replace(
        recipe,
        space_options={**recipe.space_options, **config.space},
        regularizers={**recipe.regularizers, **config.regularizers},
        decoder="sample" if config.samples else recipe.decoder,
        samples=config.samples or recipe.samples,
    )


class _Compilation:
    """One run: its phases in order, each read back if it is done already."""

    def __init__(
        self, session: Session, title: str, prepared: Prepared, recipe: Recipe, architecture: Architecture | None
    ) -> None:
        self.session, self.title, self.prepared, self.recipe = session, title, prepared, recipe
        self.architecture = architecture  # given, not searched
        self.backbone = prepared.backbone
        self.tasks, self.data, self.config, self.setting = session.tasks, session.data, session.config, session.setting

    def run(self) -> Compiled:
        """From the backbone to the emitted model."""
        supermodel = self.prepared.supermodel
        self._write_graphs(self.prepared.multitask, supermodel)
        baselines = train_baselines(self.session, self.backbone, self.recipe) if self.config.baselines else {}
        initial = graphs.clone(supermodel)
        searched = self._search(supermodel)
        architecture, selected = self._decode(searched)
        trained, weights = self._post_train(selected, initial, architecture)
        return self._emit(trained, initial, architecture, baselines, weights)

    def _write_graphs(self, multitask: ir.Model, supermodel: ir.Model) -> None:
        def write(phase: Phase, folder: Path) -> None:
            graphs.save(self.backbone, folder / "backbone.onnx")
            graphs.save(multitask, folder / "multitask.onnx")
            graphs.save(supermodel, folder / "supermodel.onnx")
            atomic_write(folder / "tasks.json", self.tasks.to_json().encode())
            # Before anything is trained: the search hands its supermodel on without them.
            write_diagnostics(folder, **{"import": self.backbone, "heads": multitask, "space": supermodel})

        self.session.phase("import", write, graph=self.prepared.digest())

    # -- search ------------------------------------------------------------------------------------------------

    def _search(self, supermodel: ir.Model) -> ir.Model:
        """The supermodel with the weights and logits of the last search stage."""
        module = self.session.module(supermodel)
        table = site_table(supermodel)
        for stage in self.recipe.search_stages:
            folder = self._stage(stage, module, table)
            load_weights(folder / WEIGHTS_FILE, module)
        write_back(module, supermodel)
        return supermodel

    def _stage(self, stage: Stage, module: LoweredModule, table: Any) -> Path:
        steps = stage.steps(self.config.steps)

        def train(phase: Phase, folder: Path) -> None:
            search = SearchStage(module, table, self.recipe, stage, self.setting, steps)
            search.run(phase.checkpoints, self.session.listener(stage.name, steps, phase))
            save_weights(folder / WEIGHTS_FILE, module)

        return self.session.phase(stage.name, train, stage=dataclasses.asdict(stage))

    def _decode(self, supermodel: ir.Model) -> tuple[Architecture, ir.Model]:
        """Choose the architecture, select it, recalibrate its normalizations."""
        table = site_table(supermodel)
        policy = Policy.of_model(supermodel, table)

        def decode(phase: Phase, folder: Path) -> None:
            candidates = [argmax(policy) if self.architecture is None else self.architecture]
            if self.recipe.decoder == "sample" and self.architecture is None:
                candidates = list(dict.fromkeys(sample(policy, self.recipe.samples, self.config.seed)))
            scored = []
            for candidate in candidates:
                selected, metrics = self._selected(supermodel, candidate)
                scored.append((candidate, selected, metrics))
            best = max(range(len(scored)), key=lambda i: self._score(scored[i][2], [s[2] for s in scored]))
            architecture, selected, metrics = scored[best]
            atomic_write(folder / "architecture.json", architecture.to_json().encode())
            graphs.save(selected, folder / "selected.onnx")
            write_metrics(folder, metrics)
            write_diagnostics(folder, select=selected)
            write_json(
                folder / "candidates.json",
                [{"architecture": c.to_dict(), "taken": i == best} for i, (c, _, _) in enumerate(scored)],
            )

        folder = self.session.phase("decode", decode, decoder=self.recipe.decoder, samples=self.recipe.samples)
        architecture = Architecture.from_json((folder / "architecture.json").read_text())
        return architecture, graphs.load(folder / "selected.onnx")

    def _selected(self, supermodel: ir.Model, architecture: Architecture) -> tuple[ir.Model, Metrics]:
        selected = self.session.rewrite(supermodel, selection(architecture), "select")
        module = self.session.module(selected)
        self.session.recalibrate(module, selected)
        write_back(module, selected)
        return selected, self.session.evaluate(module)

    def _score(self, metrics: Metrics, everyone: Sequence[Metrics]) -> float:
        """Mean relative performance against the first candidate."""
        return delta(self.tasks, metrics, everyone[0]).total

    # -- after the search --------------------------------------------------------------------------------------

    def _post_train(self, selected: ir.Model, initial: ir.Model, architecture: Architecture) -> tuple[ir.Model, str]:
        """Train the selected model, from the search's weights or afresh."""
        stage = self.recipe.final_stage
        if stage is None or stage.weights is None:
            return selected, "recalibrated"
        if stage.fresh:
            selected = self.session.rewrite(initial, selection(architecture), "select")
        steps, spec = stage.steps(self.config.steps), stage.weights

        def train(phase: Phase, folder: Path) -> None:
            module = self.session.module(selected)
            train_weights(module, self.setting, spec, steps, name=stage.name, checkpoints=phase.checkpoints,
                          listener=self.session.listener(stage.name, steps, phase))  # fmt: skip
            write_back(module, selected)
            graphs.save(selected, folder / "trained.onnx")
            write_metrics(folder, self.session.evaluate(module))

        folder = self.session.phase(stage.name, train, stage=dataclasses.asdict(stage))
        return graphs.load(folder / "trained.onnx"), "retrained"

    def _emit(
        self,
        trained: ir.Model,
        initial: ir.Model,
        architecture: Architecture,
        baselines: Mapping[str, Baseline],
        weights: str,
    ) -> Compiled:
        def write(phase: Phase, folder: Path) -> None:
            images = np.stack([np.asarray(self.data.val[i][0], np.float32) for i in range(self._certified())])
            final, _ = emit(
                folder,
                trained,
                self.tasks,
                self.data.input,
                images,
                supermodel=initial,
                fold=self.config.fold,
                instruments=self.session.instruments,
            )
            found = self.session.evaluate(self.session.module(trained))
            filled = self._report(trained, final, folder, found, baselines, weights)
            write_json(folder / "report.json", filled.to_json())
            write_diagnostics(folder, finalize=final)

        folder = self.session.phase("emit", write, fold=self.config.fold)
        for name in EMITTED:
            if (folder / name).exists():
                atomic_write(self.session.directory.path / name, (folder / name).read_bytes())
        final = Report.from_json(read_json(self.session.directory.path / "report.json"))
        target = self.session.directory.path / MODEL_FILE
        final = dataclasses.replace(final, model=str(target), command=self._command(target))
        return Compiled(self.session.directory.path, target, architecture, final)

    def _command(self, target: Path) -> str:
        shape = (1, self.data.input.channels, self.data.input.height, self.data.input.width)
        return run_command(target, str(self.backbone.graph.inputs[0].name), shape)

    def _certified(self) -> int:
        available = len(self.data.val)
        if available < 2:
            msg = f"the validation set has {available} samples; verification needs two or more"
            raise ModelError(msg)
        return min(CERTIFIED_IMAGES, available)

    def _report(
        self,
        trained: ir.Model,
        final: ir.Model,
        folder: Path,
        found: Metrics,
        baselines: Mapping[str, Baseline],
        weights: str,
    ) -> Report:
        constants = constant_predictors(self.tasks, self.data.train, self.data.val)
        rows = []
        for task in self.tasks:

            def primary(name: str, task: Any = task) -> float | None:
                return baselines[name].metrics[task.name][task.primary] if name in baselines else None

            rows.append(
                TaskResult(
                    task=task.name,
                    kind=task.kind,
                    metric=task.primary,
                    higher_is_better=higher_is_better(task.primary),
                    found=found[task.name][task.primary],
                    constant=constants[task.name][task.primary],
                    separate=primary("separate"),
                    shared=primary("shared"),
                )
            )
        costs = {"found": count(final, file_bytes=(folder / MODEL_FILE).stat().st_size)}
        costs |= {name: baseline.costs for name, baseline in baselines.items()}
        return Report(
            title=f"{self.title} on {self.data.name}",
            tasks=tuple(rows),
            costs=costs,
            sharing=tuple(LayerRow.of(row) for row in _layers(trained, self.backbone)),
            model=MODEL_FILE,
            command="",
            weights=weights,
            notes=tuple(str(d) for d in diagnostics(self.backbone)),
        )


def _layers(trained: ir.Model, backbone: ir.Model) -> list[SharingRow]:
    """What is shared, for the operators; a normalization that follows one has the same row."""
    rows = sharing(trained, backbone)
    linear = [row for row in rows if row.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return linear or rows

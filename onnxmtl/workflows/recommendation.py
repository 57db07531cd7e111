"""Where tasks should branch off: two-task trainings, a prediction of every layout, the best ones within a budget.

TreeMTL (Zhang, Liu, Guan, AutoML 2022). Nothing here imports torch until a network has to be trained.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxmtl.analysis.blocks import Block, backbone_blocks
from onnxmtl.deploy.html.recommend_page import write_page
from onnxmtl.deploy.recommendation import RECOMMENDATION_FILE, Recommendation
from onnxmtl.errors import RunError
from onnxmtl.frontends.source import Dialect
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.passes.fine_feature import AddFineFeature
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.normalize.reseed import ReseedConstantWeights
from onnxmtl.recommend.estimators import ESTIMATORS
from onnxmtl.recommend.table import TwoTaskTable, read_csv
from onnxmtl.recommend.weights import WEIGHTS
from onnxmtl.runs import RunDirectory, atomic_write, free_path, read_json, write_json
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.digest import graph_digest
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.recommending.answering import Answer
from onnxmtl.workflows.recommending.asking import DEFAULT_BLOCKS, Blocks, Plan, Question, split_options
from onnxmtl.workflows.recommending.budget import parse
from onnxmtl.workflows.recommending.costs import Emission, cost_table
from onnxmtl.workflows.recommending.latency import with_latency
from onnxmtl.workflows.recommending.store import PERFORMANCE_FILE, Performance
from onnxmtl.workflows.source import Source

if TYPE_CHECKING:
    from onnxmtl.workflows.session import Observer

LAYOUTS, FIGURES = "layouts", "figures"


@dataclasses.dataclass(frozen=True)
class Recommended:
    """What :func:`recommend` returns.

    Attributes:
        path: The run's directory; of a question to an earlier run without a directory of its own, that run's.
        recommendation: The answer.
        performance: What it was answered from.
    """

    path: Path
    recommendation: Recommendation
    performance: Performance


def recommend(
    model: Any,
    tasks: str | TaskSet = "",
    config: CompileConfig | None = None,
    *,
    question: Question | None = None,
    plan: Plan | None = None,
    blocks: Blocks | int | Sequence[int] | None = None,
    two_task: str | os.PathLike[str] | TwoTaskTable | None = None,
    example_input: Any = None,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    instruments: Sequence[Instrument] = (),
    command: Sequence[str] = (),
    checkpoint_every: int = 50,
    workers: int = 1,
    ray: str | None = None,
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    **options: Any,
) -> Recommended:
    """Rank where the tasks should branch off.

    Trains one network per task and one model per pair of tasks and branching point (each once: they are cached),
    predicts every layout from them, and gives the best ones within the budget, exactly. With `two_task` nothing is
    trained and torch is not imported.

    Args:
        model: The backbone, as :func:`onnxmtl.compile` takes it; or the directory of an earlier run of this function,
            which answers from what it has trained, without `tasks`.
        tasks: A task set, a TOML file, or the short form ``"seg=segmentation:13,depth,normals"``.
        config: Options of the trainings, as of ``compile``.
        question: What is asked; `options` given by name replace its fields.
        plan: What is trained; likewise.
        blocks: Where the backbone may branch: a number, sizes of groups, or :class:`Blocks`.
        two_task: Two-task performance that is known: a CSV file (:mod:`onnxmtl.recommend.table`) or a table.
        example_input: What a torch module's forward takes.
        weights: The ``.caffemodel`` of a prototxt.
        dialect: Of a prototxt.
        out: Directory of the run; must be new or empty. Default: the next free ``runs/recommend-N``.
        resume: Go on with the run in `out`. The question may be another one, and so may `workers`.
        observer: Told about progress.
        instruments: Watch the graph passes.
        command: The command line, kept in run.json.
        checkpoint_every: Steps between the states that a killed training goes on from; changes no result.
        workers: Processes that train at the same time, each with its share of the cores (or a GPU of its own).
        ray: Train on Ray instead: ``auto``, ``local`` or an address.
        accelerator: ``cuda``, ``cpu``, or ``auto``: CUDA if there is a device.
        **options: Fields of :class:`Question`, :class:`Plan` and :class:`onnxmtl.workflows.CompileConfig`.

    Returns:
        The run's directory and the answer: ``recommendation.json``, ``layouts/NN.json``, ``report.html``.

    Raises:
        OnnxMTLError: The input cannot be used, or no layout keeps the budget; one clear line.
    """
    of_question, of_plan, of_config = split_options(options)
    asked = dataclasses.replace(question or Question(), **of_question)
    planned = dataclasses.replace(plan or Plan(), **of_plan)
    settings = dataclasses.replace(config or CompileConfig(recipe="treemtl", baselines=()), **of_config)
    cuts = _blocks(blocks)
    if workers < 1:
        msg = f"--workers must be 1 or more, not {workers}"
        raise RunError(msg)
    _check_words(asked, planned)  # before anything is read
    if _is_run(model):
        given = {
            "--two-task": two_task is not None,
            "--blocks or --at": cuts != Blocks(),
            "--trainings": planned.trainings,
            "--seeds": planned.seeds > 1,
            "--resume": resume,
        }
        for option in (option for option, said in given.items() if said):
            msg = f"{model} is an earlier run, which answers from what it has: leave {option} out, or give the backbone"
            raise RunError(msg)
        return _ask_again(Path(model), tasks, asked, planned, out)
    if isinstance(tasks, str) and not tasks.strip():
        named = f"; {model} is no earlier run, which would have them" if isinstance(model, str | os.PathLike) else ""
        msg = f"no tasks given: write e.g. --tasks seg=segmentation:13,depth,normals{named}"
        raise RunError(msg)
    task_set = load_tasks(tasks) if isinstance(tasks, str) else tasks
    _check_tasks(task_set)
    path = Path(out) if out is not None else free_path("runs", "recommend")
    if not resume:
        RunDirectory.check_free(path)
    source = Source(model, example_input, weights, dialect)
    if two_task is not None:
        table = two_task if isinstance(two_task, TwoTaskTable) else read_csv(Path(two_task), task_set.names)
        _check_table(table, task_set, cuts, planned)
        table = table.for_tasks(task_set.names)
    else:
        table = None
    training = None
    trains = table is None or planned.trains_layouts
    if trains:
        from onnxmtl.workflows.recommending import training_run  # torch, from here on

        recipe, settings, task_set = training_run.settled(settings, task_set)
    backbone = _backbone(source, task_set, settings, instruments)
    found = _cut(backbone, cuts, table)
    if trains:
        from onnxmtl.workflows.recommending.crew import Crew

        crew = Crew(workers, ray, accelerator, checkpoint_every)
        training = training_run.Training(
            source, backbone, found, task_set, settings, recipe, planned, cuts, table, path, crew, observer,
            tuple(instruments), resume,
        )  # fmt: skip
        content, task_set, title = training.content, training.tasks, training.title
    else:
        title = source.title
        content = {
            **source.digests(graph_digest(backbone)),
            "dialect": dialect,
            "tasks": task_set.to_json(),
            **settings.describe(),
            "blocks": dataclasses.asdict(cuts),
            "two_task": _table_digest(table),
        }
    emission = Emission(backbone, found, task_set, seed=settings.seed, fold=settings.fold, instruments=instruments)
    costs = cost_table(emission)
    if any(limit.quantity == "latency" for limit in parse(asked.budget)):
        costs = with_latency(costs, emission)
    names = tuple(block.name for block in found)
    known = Performance(title, task_set.names, names, costs, planned.estimator, table)
    answer_of = Answer(asked, planned, emission)
    answer_of.refuse_unreachable(known)  # before hours of training, and before anything is written
    found_answer = answer_of.of(known) if training is None else None
    directory = (
        RunDirectory.resume(path, content) if resume else RunDirectory.create(path, content, command, source.describe())
    )
    with directory as run:
        if training is not None:
            known = training.perform(run, known, answer_of)
        if found_answer is None:
            found_answer = answer_of.of(known)
        if training is not None and planned.trains_layouts:
            found_answer = training.compare(run, known, answer_of, found_answer)
        written = _write(path, known, found_answer)
    return Recommended(path, written, known)


def _blocks(given: Blocks | int | Sequence[int] | None) -> Blocks:
    if given is None:
        return Blocks()
    if isinstance(given, Blocks):
        return given
    return Blocks(given) if isinstance(given, int) else Blocks(sizes=tuple(given))


def _is_run(model: Any) -> bool:
    return isinstance(model, str | os.PathLike) and Path(model, "run.json").is_file()


def _ask_again(
    run: Path, tasks: str | TaskSet, asked: Question, planned: Plan, out: str | os.PathLike[str] | None
) -> Recommended:
    """Answer from what an earlier run knows."""
    if not (run / PERFORMANCE_FILE).is_file() and read_json(run / "run.json").get("config", {}).get("blocks") is None:
        msg = f"{run} is a run, but not one of recommend; give a backbone, or the directory of a run of recommend"
        raise RunError(msg)
    known = Performance.read(run)
    if tasks:
        names = (load_tasks(tasks) if isinstance(tasks, str) else tasks).names
        if sorted(names) != sorted(known.tasks):
            msg = f"{run} is about the tasks {', '.join(known.tasks)}, not {', '.join(names)}; leave --tasks out"
            raise RunError(msg)
    if planned.trains_layouts:
        msg = (
            f"{run}: a question to an earlier run trains nothing; give the model, and the run as --output with --resume"
        )
        raise RunError(msg)
    plan = dataclasses.replace(planned, estimator=planned.estimator if known.table is not None else known.estimator)
    if out is not None:
        RunDirectory.check_free(out)
    answering = Answer(asked, plan, None)
    answering.refuse_unreachable(known)
    found = answering.of(known)
    if out is None:
        return Recommended(run, found, known)
    with RunDirectory.create(out, {"recommended": str(run), "blocks": {}, "question": dataclasses.asdict(asked)}):
        written = _write(Path(out), known, found)
    return Recommended(Path(out), written, known)


def _check_words(asked: Question, planned: Plan) -> None:
    parse(asked.budget)
    for option, word, words in (
        ("--estimator", planned.estimator, tuple(ESTIMATORS)),
        ("--task-weights", asked.task_weights, ("auto", *WEIGHTS)),
    ):
        if word not in words:
            msg = f"{option} takes {', '.join(words)}, not {word!r}"
            raise RunError(msg)
    if planned.trainings and planned.estimator != "two-task":
        msg = f"--trainings chooses among two-task models, which --estimator {planned.estimator} does not: leave it out"
        raise RunError(msg)


def _check_tasks(tasks: TaskSet) -> None:
    if len(tasks) < 2:
        msg = f"there is one task, {tasks.names[0]!r}: a layout says what two tasks or more share; give more in --tasks"
        raise RunError(msg)


def _check_table(table: TwoTaskTable, tasks: TaskSet, cuts: Blocks, planned: Plan) -> None:
    if planned.similarity_only:
        msg = "--estimator rsa compares trained single-task networks and --two-task trains none: leave one of them out"
        raise RunError(msg)
    if planned.trainings:
        msg = "--trainings is the number of two-task trainings, and --two-task gives them: leave one of them out"
        raise RunError(msg)
    if planned.seeds > 1 and not planned.trains_layouts:
        msg = "--seeds says how often models are trained, and with --two-task none is: leave one of them out"
        raise RunError(msg)
    if len(table.tasks) != len(tasks):
        msg = f"the two-task table has {len(table.tasks)} tasks, --tasks has {len(tasks)}"
        raise RunError(msg)
    table.require_relative()
    if planned.estimator == "two-task":
        table.require_every_pair()
    wanted = cuts.count or len(cuts.sizes) or (len(cuts.at) + 1 if cuts.at else 0)
    if wanted and wanted != table.blocks:
        msg = (
            f"the two-task table has the branching points 0 to {table.blocks}, so {table.blocks} blocks; "
            f"the backbone is cut into {wanted}: change --blocks or --at, or leave them out"
        )
        raise RunError(msg)


def _backbone(source: Source, tasks: TaskSet, config: CompileConfig, instruments: Sequence[Instrument]) -> ir.Model:
    """The backbone as ``compile`` prepares it."""
    backbone = load(
        source.model,
        source.example_input,
        weights=source.weights,
        dialect=source.dialect,
        features=config.features,
        output_stride=config.output_stride,
        batchnorm=config.batchnorm,
        input_size=config.input_size,
        instruments=instruments,
    )
    ReseedConstantWeights(config.seed)(backbone)
    AddFineFeature(tasks)(backbone)
    return backbone


def _cut(backbone: ir.Model, cuts: Blocks, table: TwoTaskTable | None) -> list[Block]:
    if cuts.sizes or cuts.at:
        return backbone_blocks(backbone, cuts.sizes or None, cuts.at or None)
    if cuts.count or table is not None:
        return backbone_blocks(backbone, cuts.count or (table.blocks if table is not None else 0))
    return backbone_blocks(backbone, min(DEFAULT_BLOCKS, len(backbone_blocks(backbone))))


def _table_digest(table: TwoTaskTable | None) -> Any:
    return None if table is None else [[repr(float(v)) for v in row.ravel()] for row in table.values]


def _write(path: Path, known: Performance, found: Recommendation) -> Recommendation:
    """Write the answer's files; those of an earlier answer are replaced."""
    known.write(path)
    folder = path / LAYOUTS
    folder.mkdir(exist_ok=True)
    rows = []
    for rank, row in enumerate(found.layouts, start=1):
        name = f"{rank:02d}.json"
        atomic_write(folder / name, row.layout.to_json().encode())
        rows.append(dataclasses.replace(row, file=f"{LAYOUTS}/{name}"))
    for stale in {*folder.glob("*.json"), *(path / FIGURES).glob("*.svg")} - {path / row.file for row in rows}:
        stale.unlink()
    written = dataclasses.replace(found, layouts=tuple(rows))
    write_json(path / RECOMMENDATION_FILE, written.to_json())
    write_page(written, path / "report.html", path / FIGURES)
    return written

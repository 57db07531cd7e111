"""``onnxmtl recommend``: where tasks should branch off, ranked."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TrainingProgress,
    emit_json,
    results,
)
from onnxmtl.cli.importing import (
    BatchNorm,
    BatchNormOption,
    Dialect,
    DialectOption,
    FeaturesOption,
    InputSizeOption,
    OutputStrideOption,
    WeightsOption,
    parse_size,
    split_names,
)
from onnxmtl.cli.training_options import (
    DATA,
    RUN,
    TRAINING,
    BatchSizeOption,
    CheckpointEveryOption,
    DataSettingsOption,
    ResumeOption,
    TrainSizeOption,
    ValSizeOption,
    check_resume,
    parse_blocks,
    parse_options,
)

# Headings of --help.
LAYOUTS, COMPARED = "The answer", "Measured layouts"


class Estimator(enum.StrEnum):
    """What predicts a layout."""

    TWO_TASK = "two-task"
    RSA = "rsa"
    RSA_MAX = "rsa-max"
    GROUPING = "grouping"


class TaskWeights(enum.StrEnum):
    """How tasks weigh in a layout's score."""

    AUTO = "auto"
    SVD_ENTROPY = "svd-entropy"
    PAPER = "svd-entropy:paper"
    EQUAL = "equal"


class Decoder(enum.StrEnum):
    """How the best layouts are found."""

    EXACT = "exact"
    GREEDY = "greedy"


def recommend_command(
    model: Annotated[
        Path,
        typer.Argument(help="The backbone (.onnx, .prototxt), or an earlier run, to ask again.", metavar="MODEL"),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            "-t",
            help="A TOML file, or name=kind:classes,… as seg=segmentation:13,depth; of an earlier run they are known.",
            show_default=False,
        ),
    ] = "",
    two_task: Annotated[
        Path | None,
        typer.Option(
            "--two-task",
            help="Two-task performance that is known already (README, Trees): nothing is trained.",
            metavar="CSV",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many layouts.", rich_help_panel=LAYOUTS)] = 5,
    budget: Annotated[
        str,
        typer.Option(
            help="Limits, as madds<=0.6x,params<=12M,latency<=4ms,models<=2 (number of backbones).",
            rich_help_panel=LAYOUTS,
        ),
    ] = "",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also the whole Pareto front of cost and score.", rich_help_panel=LAYOUTS)
    ] = False,
    task_weights: Annotated[
        TaskWeights,
        typer.Option(
            help="Of tasks in the score: svd-entropy as TreeMTL's code (auto), or as its paper; or equal.",
            rich_help_panel=LAYOUTS,
        ),
    ] = TaskWeights.AUTO,
    decoder: Annotated[
        Decoder, typer.Option(help="greedy: split step by step, for many tasks.", rich_help_panel=LAYOUTS)
    ] = Decoder.EXACT,
    traffic: Annotated[
        str,
        typer.Option(
            help="How often which tasks are asked for, seg+depth=0.7,normals=0.3 or a JSON file; cost is the mean.",
            rich_help_panel=LAYOUTS,
        ),
    ] = "",
    estimator: Annotated[
        Estimator,
        typer.Option(
            help="two-task models; rsa of single-task networks; grouping: two-task models that share all or nothing.",
            rich_help_panel=TRAINING,
        ),
    ] = Estimator.TWO_TASK,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Blocks that can branch: a number, or 1,3,4,6,3.",
            show_default="the table's, or 5",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Cut the backbone at these tensors instead (repeatable).", rich_help_panel=TRAINING),
    ] = None,
    trainings: Annotated[
        int,
        typer.Option(
            min=0,
            help="At most so many two-task models, spent where the answer is undecided; 0: all.",
            rich_help_panel=TRAINING,
        ),
    ] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train everything so many times, and average.", rich_help_panel=TRAINING)
    ] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train at the same time.", rich_help_panel=TRAINING)
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on Ray: auto (a running cluster), local, or an address.",
            metavar="ADDRESS",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    train_top: Annotated[
        int, typer.Option(min=0, help="Train the best K layouts, to compare.", metavar="K", rich_help_panel=COMPARED)
    ] = 0,
    train_random: Annotated[
        int, typer.Option(min=0, help="Train K layouts drawn at random, too.", metavar="K", rich_help_panel=COMPARED)
    ] = 0,
    train_layout: Annotated[
        list[Path] | None,
        typer.Option("--train-layout", help="Train this layout.json, too (repeatable).", rich_help_panel=COMPARED),
    ] = None,
    data: Annotated[
        str, typer.Option(help="A data set's name, NAME:PATH, or module:callable.", rich_help_panel=DATA)
    ] = "scenes",
    data_option: DataSettingsOption = None,
    train_size: TrainSizeOption = 0,
    val_size: ValSizeOption = 0,
    weights: WeightsOption = None,
    dialect: DialectOption = Dialect.AUTO,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    preset: Annotated[
        str, typer.Option(help="Published numbers of the trainings for a data set.", rich_help_panel=TRAINING)
    ] = "",
    weighting: Annotated[
        str, typer.Option(help="Of the tasks' losses: static, uncertainty, dwa, …", rich_help_panel=TRAINING)
    ] = "static",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of every training.", show_default="the preset's, or 400", rich_help_panel=TRAINING
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    checkpoint_every: CheckpointEveryOption = 50,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Run directory; new or empty.", show_default="runs/recommend-N", rich_help_panel=RUN
        ),
    ] = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank where the tasks should branch off, by models of two tasks each (TreeMTL).

    Trains a network per task and a model per pair of tasks and branching point, each once (they are cached), predicts
    every layout from them and gives the best within the budget, exactly. With --two-task nothing is trained.
    A layout is then trained and emitted by: onnxmtl compile MODEL --tasks … --layout RUN/layouts/01.json

    Example: onnxmtl recommend net.onnx --tasks seg=segmentation,depth,normals --top 5 --budget "madds<=0.6x"
    Example: onnxmtl recommend net.onnx --tasks t.toml --two-task table.csv --top 10 --budget "models<=2" --json
    Example: onnxmtl recommend runs/recommend-1 --budget "params<=12M" --sweep
    """
    size, groups = parse_size(input_size), parse_blocks(blocks)
    options = parse_options(data_option or [])
    check_resume(resume, output)
    if workers > 1 and ray is not None:
        raise typer.BadParameter("--workers and --ray both say where to train: leave one of them out")

    from onnxmtl.deploy.recommend_rows import print_recommendation
    from onnxmtl.workflows.config import CompileConfig
    from onnxmtl.workflows.recommendation import recommend
    from onnxmtl.workflows.recommending.asking import Blocks, Plan, Question

    with TrainingProgress(quiet=quiet or json) as progress:
        done = recommend(
            model,
            tasks,
            CompileConfig(
                recipe="treemtl",
                preset=preset,
                data=data,
                data_options=options,
                steps=steps or 0,
                batch_size=batch_size or 0,
                seed=seed,
                features=split_names(features),
                output_stride=output_stride,
                batchnorm=batchnorm.value,
                input_size=size,
                weighting=weighting,
                train_size=train_size,
                val_size=val_size,
                baselines=("none",),
            ),
            question=Question(
                top=top,
                budget=budget,
                task_weights=task_weights.value,
                decoder=decoder.value,
                sweep=sweep,
                traffic=traffic,
            ),
            plan=Plan(
                estimator=estimator.value,
                trainings=trainings,
                seeds=seeds,
                train_top=train_top,
                train_random=train_random,
                train_given=tuple(map(str, train_layout or ())),
            ),
            blocks=Blocks(
                groups if isinstance(groups, int) else 0,
                tuple(groups) if isinstance(groups, list) else (),
                split_names(at),
            ),
            two_task=two_task,
            weights=weights,
            dialect=dialect.value,
            out=output,
            resume=resume,
            observer=progress,
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            workers=workers,
            ray=ray,
            accelerator=accelerator.value,
        )
    if json:
        emit_json({"run": done.path, **done.recommendation.to_json()})
    else:
        print_recommendation(done.recommendation, results(), done.path, brief=quiet)

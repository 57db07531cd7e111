"""``onnxmtl compile``: the main job."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    DevicesOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TrainingProgress,
    check_devices,
    console,
    emit_json,
    is_follower,
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

# Headings of --help.
DATA, SEARCH, TRAINING, RUN = "Data", "Search", "Training", "The run"


class Norm(enum.StrEnum):
    """What a normalization does when its operator chooses."""

    FOLLOW = "follow"
    PER_TASK = "per_task"


class SkipForm(enum.StrEnum):
    """How an operator is skipped."""

    AUTO = "auto"
    GROUPED = "grouped1x1"
    DENSE = "dense1x1"
    NONE = "none"


class Granularity(enum.StrEnum):
    """What makes one site."""

    OP = "op"
    BLOCK = "block"


def parse_weights(entries: list[str]) -> dict[str, float]:
    """``["sharing=1e-3"]`` -> {"sharing": 0.001}."""
    found = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            msg = f"--regularizer takes NAME=WEIGHT, as multiply_adds=0.5, not {entry!r}"
            raise typer.BadParameter(msg) from error
    return found


def parse_options(entries: list[str]) -> dict[str, str]:
    """``["root=/data"]`` -> {"root": "/data"}."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name.strip() or not equals:
            msg = f"--data-option takes NAME=VALUE, not {entry!r}"
            raise typer.BadParameter(msg)
        found[name.strip()] = value.strip()
    return found


class PolicySource(enum.StrEnum):
    """Where the architecture comes from."""

    LEARNED = "learned"
    RANDOM = "random"


class Retrain(enum.StrEnum):
    """The selected model's weights before its last stage."""

    INHERIT = "inherit"
    SCRATCH = "scratch"


def compile_command(
    model: Annotated[Path, typer.Argument(help="The backbone: an .onnx or a .prototxt file.", metavar="MODEL")],
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="A TOML file, or name=kind:classes,… as seg=segmentation:13,depth")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A data set's name, NAME:PATH, or module:callable of your own; task=…;task=… for one each.",
            rich_help_panel=DATA,
        ),
    ] = "scenes",
    data_option: Annotated[
        list[str] | None,
        typer.Option("--data-option", help="NAME=VALUE, an option of the data set (repeatable).", rich_help_panel=DATA),
    ] = None,
    weights: WeightsOption = None,
    dialect: DialectOption = Dialect.AUTO,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Run directory; new or empty.", show_default="runs/compile-N", rich_help_panel=RUN
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Search method: automtl, adashare.", rich_help_panel=SEARCH)] = "automtl",
    variant: Annotated[
        str,
        typer.Option(
            help="Of the recipe: paper (as printed), released (as its authors' code).", rich_help_panel=SEARCH
        ),
    ] = "",
    preset: Annotated[
        str, typer.Option(help="The recipe's published numbers for a data set, as nyuv2.", rich_help_panel=SEARCH)
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="Leave out regularizer, curriculum, sparsity, sharing or cost (repeatable).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    policy: Annotated[
        PolicySource,
        typer.Option(help="random: nothing is searched, the architecture is drawn.", rich_help_panel=SEARCH),
    ] = PolicySource.LEARNED,
    budget: Annotated[
        str,
        typer.Option(
            help="Limits of the emitted model, as params<=0.6x,madds<=12M,latency<=4ms.", rich_help_panel=SEARCH
        ),
    ] = "",
    weighting: Annotated[
        str,
        typer.Option(
            help="Of the tasks' losses: static, uncertainty, dwa, gradnorm, torchjd:AGGREGATOR.",
            rich_help_panel=TRAINING,
        ),
    ] = "static",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the whole search; stages take shares of it.",
            show_default="preset's or 400",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Images per step.", show_default="the preset's, or 16", rich_help_panel=TRAINING),
    ] = None,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    norm: Annotated[
        Norm | None, typer.Option(help="Normalization follows its operator, or is per task.", rich_help_panel=SEARCH)
    ] = None,
    skip: Annotated[SkipForm | None, typer.Option(help="How an operator is skipped.", rich_help_panel=SEARCH)] = None,
    granularity: Annotated[
        Granularity | None, typer.Option(help="One site per operator, or with activation.", rich_help_panel=SEARCH)
    ] = None,
    shared_prefix: Annotated[
        int | None, typer.Option(min=0, help="Force the first N sites to be shared.", rich_help_panel=SEARCH)
    ] = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option("--regularizer", help="NAME=WEIGHT, as multiply_adds=0.5 (repeatable).", rich_help_panel=SEARCH),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="Train this architecture.json (of a run, or AutoMTL's policy) instead of searching one.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Draw so many architectures, take the best; 0: the recipe's way.", rich_help_panel=SEARCH
        ),
    ] = 0,
    decode_prefix: Annotated[
        int,
        typer.Option(
            min=0, help="Share the first N sites whatever the policy says.", metavar="N", rich_help_panel=SEARCH
        ),
    ] = 0,
    retrain: Annotated[
        Retrain | None,
        typer.Option(
            help="The selected model goes on with the search's weights, or starts from scratch.", rich_help_panel=SEARCH
        ),
    ] = None,
    train_size: Annotated[
        int, typer.Option(min=0, help="Training samples; 0: the data set's default.", rich_help_panel=DATA)
    ] = 0,
    val_size: Annotated[
        int, typer.Option(min=0, help="Validation samples; 0: the data set's default.", rich_help_panel=DATA)
    ] = 0,
    baselines: Annotated[
        str,
        typer.Option(
            help="Trained for comparison, once: single-task, hard-sharing, random, random-cost; or none.",
            rich_help_panel=TRAINING,
        ),
    ] = "single-task,hard-sharing",
    random_draws: Annotated[
        int, typer.Option(min=1, help="Random architectures of each kind.", rich_help_panel=TRAINING)
    ] = 8,
    fold: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Fold normalization into convolutions.", rich_help_panel=RUN)
    ] = True,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between the states that --resume can go on from.", rich_help_panel=RUN)
    ] = 50,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output.", rich_help_panel=RUN)
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard event files into this directory.", rich_help_panel=RUN)
    ] = None,
    trace_passes: Annotated[
        Path | None,
        typer.Option(help="Write the model after each graph pass into this directory.", rich_help_panel=RUN),
    ] = None,
    seed: SeedOption = 0,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn one backbone and several tasks into one multi-task ONNX model.

    Imports the backbone, builds a supermodel with every sharing pattern, searches it on data, trains what was found,
    emits model.onnx, checks it in ONNX Runtime and reports. A run that was stopped goes on with --resume and ends
    with the same bytes.

    Example: onnxmtl compile samples/backbones/resnet18-small.onnx --tasks seg=segmentation,depth,normals
    Example: onnxmtl compile net.onnx --tasks nyuv2.toml --data nyuv2:PATH --recipe adashare --budget "params<=0.6x"
    """
    space: dict[str, Any] = {"norm": norm, "skip": skip, "granularity": granularity, "shared_prefix": shared_prefix}
    size = parse_size(input_size) if input_size else (0, 0)
    pulls, options = parse_weights(regularizer or []), parse_options(data_option or [])
    if resume and output is None:
        raise typer.BadParameter("--resume needs --output, the directory of the run to go on with")
    check_devices(devices)

    from onnxmtl.deploy.report import print_report
    from onnxmtl.passes.instruments import DumpOnnx
    from onnxmtl.workflows import CompileConfig, compile
    from onnxmtl.workflows.tensorboard import tensorboard as event_files

    config = CompileConfig(
        recipe=recipe,
        variant=variant,
        preset=preset,
        without=split_names(without),
        policy=policy.value,
        budget=budget,
        weighting=weighting,
        data=data,
        data_options=options,
        steps=steps or 0,
        batch_size=batch_size or 0,
        seed=seed,
        features=split_names(features),
        output_stride=output_stride,
        batchnorm=batchnorm.value,
        input_size=size,
        space={k: getattr(v, "value", v) for k, v in space.items() if v is not None},
        regularizers=pulls,
        samples=samples,
        shared_prefix=decode_prefix,
        retrain=retrain.value if retrain else "",
        train_size=train_size,
        val_size=val_size,
        baselines=split_names([baselines]),
        random_draws=random_draws,
        fold=fold,
    )
    follower = is_follower(devices)  # says nothing, and writes nothing
    with (
        TrainingProgress(quiet=quiet or json or follower) as progress,
        event_files(progress, None if follower else tensorboard) as observer,
    ):
        done = compile(
            model,
            tasks,
            config,
            weights=weights,
            dialect=dialect.value,
            architecture=architecture,
            out=output,
            resume=resume,
            observer=observer,
            instruments=[DumpOnnx(trace_passes)] if trace_passes and not follower else [],
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            devices=devices,
            accelerator=accelerator.value,
        )
    if follower:
        return
    if json:
        emit_json({"run": done.path, "model": done.model, **done.report.to_json()})
    elif not quiet:
        print_report(done.report, results())
    else:
        console(quiet=quiet)
        print(done.model)

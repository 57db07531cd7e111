"""``onnxmtl compile``: the main job."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, SeedOption, TrainingProgress, console, emit_json, results
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


def compile_command(
    model: Annotated[Path, typer.Argument(help="The backbone: an .onnx or a .prototxt file.", metavar="MODEL")],
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="A TOML file, or name=kind:classes,… as seg=segmentation:13,depth")
    ],
    data: Annotated[str, typer.Option(help="scenes (built in), or module:callable of your own.")] = "scenes",
    weights: WeightsOption = None,
    dialect: DialectOption = Dialect.AUTO,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run directory; new or empty.", show_default="runs/compile-N"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Search method.")] = "automtl",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the whole search; stages take shares of it.")] = 400,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 16,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    norm: Annotated[Norm | None, typer.Option(help="Normalization follows its operator, or is per task.")] = None,
    skip: Annotated[SkipForm | None, typer.Option(help="How an operator is skipped.")] = None,
    granularity: Annotated[Granularity | None, typer.Option(help="One site per operator, or with activation.")] = None,
    shared_prefix: Annotated[int | None, typer.Option(min=0, help="Force the first N sites to be shared.")] = None,
    regularizer: Annotated[
        list[str] | None, typer.Option("--regularizer", help="NAME=WEIGHT, as multiply_adds=0.5 (repeatable).")
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(help="Train this architecture.json (of a run, or AutoMTL's policy) instead of searching one."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Draw so many architectures, take the best; 0: the recipe's way.")
    ] = 0,
    train_size: Annotated[int, typer.Option(min=0, help="Training samples of scenes; 0: its default.")] = 0,
    val_size: Annotated[int, typer.Option(min=0, help="Validation samples of scenes; 0: its default.")] = 0,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Train separate and all-shared models to compare.")
    ] = True,
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Fold normalization into convolutions.")] = True,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between the states that --resume can go on from.")
    ] = 50,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    trace_passes: Annotated[
        Path | None, typer.Option(help="Write the model after each graph pass into this directory.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn one backbone and several tasks into one multi-task ONNX model.

    Imports the backbone, builds a supermodel with every sharing pattern, searches it on data, trains what was found,
    emits model.onnx, checks it in ONNX Runtime and reports. A run that was stopped goes on with --resume and ends
    with the same bytes.

    Example: onnxmtl compile samples/backbones/resnet18-small.onnx --tasks seg=segmentation,depth,normals
    """
    space: dict[str, Any] = {"norm": norm, "skip": skip, "granularity": granularity, "shared_prefix": shared_prefix}
    size = parse_size(input_size) if input_size else (0, 0)
    pulls = parse_weights(regularizer or [])
    if resume and output is None:
        raise typer.BadParameter("--resume needs --output, the directory of the run to go on with")

    from onnxmtl.deploy.report import print_report
    from onnxmtl.passes.instruments import DumpOnnx
    from onnxmtl.workflows import CompileConfig, compile

    config = CompileConfig(
        recipe=recipe,
        data=data,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        features=split_names(features),
        output_stride=output_stride,
        batchnorm=batchnorm.value,
        input_size=size,
        space={k: getattr(v, "value", v) for k, v in space.items() if v is not None},
        regularizers=pulls,
        samples=samples,
        train_size=train_size,
        val_size=val_size,
        baselines=baselines,
        fold=fold,
    )
    with TrainingProgress(quiet=quiet or json) as progress:
        done = compile(
            model,
            tasks,
            config,
            weights=weights,
            dialect=dialect.value,
            architecture=architecture,
            out=output,
            resume=resume,
            observer=progress,
            instruments=[DumpOnnx(trace_passes)] if trace_passes else [],
            command=sys.argv,
            checkpoint_every=checkpoint_every,
        )
    if json:
        emit_json({"run": done.path, "model": done.model, **done.report.to_json()})
    elif not quiet:
        print_report(done.report, results())
    else:
        console(quiet=quiet)
        print(done.model)

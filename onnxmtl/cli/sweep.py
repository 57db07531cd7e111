"""``onnxmtl sweep``: one search for each weight of a regularizer, Δ against multiply-adds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, SeedOption, TrainingProgress, emit_json, show
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
    RUN,
    SEARCH,
    TRAINING,
    AtOption,
    BatchSizeOption,
    BlocksOption,
    DataOption,
    DataSettingsOption,
    PresetOption,
    SearchInputSizeOption,
    SharedPrefixOption,
    TasksOption,
    TrainSizeOption,
    ValSizeOption,
    VariantOption,
    WeightingOption,
    check_resume,
    parse_blocks,
    parse_options,
    parse_weights,
)


def parse_grid(text: str) -> tuple[str, list[float]]:
    """``"multiply_adds=0,0.1,1"`` -> ("multiply_adds", [0.0, 0.1, 1.0])."""
    name, _, values = text.partition("=")
    try:
        return name.strip(), [float(value) for value in values.split(",")]
    except ValueError as error:
        msg = f"--regularizer takes NAME=WEIGHT,WEIGHT,…, as multiply_adds=0,0.3,1, not {text!r}"
        raise typer.BadParameter(msg) from error


def sweep_command(
    model: Annotated[Path, typer.Argument(help="The backbone: an .onnx or a .prototxt file.", metavar="MODEL")],
    tasks: TasksOption,
    regularizer: Annotated[
        str,
        typer.Option(help="NAME=WEIGHT,WEIGHT,…: a search for each of them.", rich_help_panel=SEARCH),
    ] = "multiply_adds=0,0.3,1,3",
    fixed: Annotated[
        list[str] | None,
        typer.Option("--fixed", help="NAME=WEIGHT of another regularizer (repeatable).", rich_help_panel=SEARCH),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Search method: bmtas, automtl, adashare.", rich_help_panel=SEARCH)
    ] = "bmtas",
    variant: VariantOption = "",
    preset: PresetOption = "",
    blocks: BlocksOption = None,
    at: AtOption = None,
    shared_prefix: SharedPrefixOption = None,
    search_input_size: SearchInputSizeOption = None,
    data: DataOption = "scenes",
    data_option: DataSettingsOption = None,
    train_size: TrainSizeOption = 0,
    val_size: ValSizeOption = 0,
    weights: WeightsOption = None,
    dialect: DialectOption = Dialect.AUTO,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each search.", show_default="preset's or 400", rich_help_panel=TRAINING),
    ] = None,
    batch_size: BatchSizeOption = None,
    weighting: WeightingOption = "static",
    baselines: Annotated[
        str,
        typer.Option(help="Trained once, for comparison; Δ needs single-task.", rich_help_panel=TRAINING),
    ] = "single-task,hard-sharing",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of the runs; new or empty.",
            show_default="runs/sweep-N",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --output.", rich_help_panel=RUN)
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search once for each weight of a regularizer, and compare: how much does cheaper cost?

    Writes a run for each weight, sweep.json, sweep.html and sweep.svg. What the runs are compared with is trained once.

    Example: onnxmtl sweep net.onnx --tasks seg=segmentation,depth --regularizer multiply_adds=0,0.3,1,3 -o runs/s
    """
    name, grid = parse_grid(regularizer)
    size, search_size = parse_size(input_size), parse_size(search_input_size, "--search-input-size")
    space: dict[str, Any] = {"shared_prefix": shared_prefix, "groups": parse_blocks(blocks), "at": at}
    pulls, options = parse_weights(fixed or []), parse_options(data_option or [])
    check_resume(resume, output, "sweep")

    from rich.table import Table
    from rich.text import Text

    from onnxmtl.deploy.sweep import sweep_rows
    from onnxmtl.workflows import CompileConfig
    from onnxmtl.workflows.sweep import sweep

    config = CompileConfig(
        recipe=recipe,
        variant=variant,
        preset=preset,
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
        search_input_size=search_size,
        space={key: value for key, value in space.items() if value is not None},
        regularizers=pulls,
        train_size=train_size,
        val_size=val_size,
        baselines=split_names([baselines]),
    )
    with TrainingProgress(quiet=quiet or json) as progress:
        done = sweep(
            model,
            tasks,
            config,
            regularizer=name,
            weights=grid,
            caffemodel=weights,
            out=output,
            resume=resume,
            observer=progress,
            dialect=dialect.value,
            command=sys.argv,
        )
    if json:
        emit_json({"sweep": done.path, **done.sweep.to_json()})
        return
    if quiet:
        print(done.path)
        return
    rows = sweep_rows(done.sweep)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in rows[0]:
        table.add_column(Text(title))
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    show(Text(done.sweep.title, style="bold"), table, "", f"page: {done.path / 'sweep.html'}")

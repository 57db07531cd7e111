"""``onnxmtl quantize``: an int8 model that keeps every task within what it may lose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, SeedOption, TrainingProgress, emit_json, show, text_table
from onnxmtl.cli.training_options import parse_options


def quantize_command(
    model: Annotated[
        Path, typer.Argument(help="An emitted model.onnx, or the directory of its run.", metavar="FILE|RUN")
    ],
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Training images give the ranges, validation samples judge: of a data set, as scenes or nyuv2:PATH, "
            "or of a run.",
            metavar="NAME[:PATH]|RUN",
            show_default="the data of the model's run",
        ),
    ] = None,
    max_drop: Annotated[
        str,
        typer.Option(
            help="What each task may lose: seg=1% of its value, seg=0.5 points of mIoU or accuracy, depth=0.02 metres; "
            "seg.pixel_accuracy=… for another metric than the first; 1% alone for all others.",
            metavar="TASK=LOSS,…",
        ),
    ] = "1%",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory to write; new or empty.", show_default="runs/quantize-N"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images to calibrate on.")] = 128,
    data_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the data set that --calibrate names (repeatable).")
    ] = None,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="Weights in 7 bits, for CPUs without VNNI.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime when latency is measured.")] = 1,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make an int8 model (QDQ, per channel) in which no task loses more than it may.

    Every block is quantized and each task's metric measured in ONNX Runtime; while one has lost too much, the block
    that disturbs it most goes back to floating point. Writes model.onnx and quantization.json. If a task cannot be held
    nothing is written, and it exits with 1.

    Example: onnxmtl quantize runs/a/model.onnx --calibrate scenes --max-drop "seg=0.5,depth=1%" -o runs/a-int8
    """
    options = parse_options(data_option or [])

    from rich.text import Text

    from onnxmtl.deploy.quantize.results import block_rows, summary, task_rows
    from onnxmtl.workflows import quantize

    with TrainingProgress(quiet=quiet or json) as progress:
        done = quantize(
            model,
            calibrate_on=calibrate,
            max_drop=max_drop,
            out=output,
            images=images,
            data_options=options,
            seed=seed,
            reduce_range=reduce_range,
            threads=threads,
            observer=progress,
        )
    report = done.report
    if json:
        emit_json({"path": done.path, "model": done.model, **report.to_json()})
    elif quiet:
        if done.model is not None:
            print(done.model)
    else:
        for title, rows in (("Tasks", task_rows(report)), ("Blocks", block_rows(report))):
            show(Text(title, style="bold"), text_table(rows), "")
        show(*summary(report))
        if done.model is not None:
            show(f"model: {done.model}")
    report.check()

"""``onnxmtl specialize``: another model from a search that is done."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    DevicesOption,
    JsonOption,
    QuietOption,
    TrainingProgress,
    check_devices,
    is_follower,
    tell_run,
)


class Weights(enum.StrEnum):
    """Where the weights of the emitted model come from."""

    RECALIBRATED = "recalibrated"
    RETRAINED = "retrained"


def specialize_command(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run of compile.", metavar="RUN")],
    budget: Annotated[
        str, typer.Option(help="Limits of the emitted model, as madds<=0.5x or params<=0.6x,latency<=4ms.")
    ] = "",
    architecture: Annotated[
        Path | None, typer.Option(help="Take this architecture.json instead of choosing one by budget.")
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="The search's own with new statistics, or trained on by the recipe's last stage.")
    ] = Weights.RECALIBRATED,
    steps: Annotated[int, typer.Option(min=0, help="Updates of that stage; 0: as many as in the run.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Directory of the new run; new or empty.", show_default="runs/specialize-N"
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between the states that --resume can go on from.")
    ] = 50,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Emit another model from a finished run: for another budget, or another architecture, without a new search.

    Reads the run's supermodel, weights and policy; needs its data set, to average running statistics anew and to
    measure. The new run has its own directory, report and certificate.

    Example: onnxmtl specialize runs/a --budget "madds<=0.5x" --weights retrained
    """
    if resume and output is None:
        raise typer.BadParameter("--resume needs --output, the directory of the run to go on with")
    check_devices(devices)

    from onnxmtl.workflows import specialize

    follower = is_follower(devices)  # says nothing
    with TrainingProgress(quiet=quiet or json or follower) as progress:
        done = specialize(
            run,
            budget=budget,
            architecture=architecture,
            weights=weights.value,
            steps=steps,
            out=output,
            resume=resume,
            observer=progress,
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            devices=devices,
            accelerator=accelerator.value,
        )
    if not follower:
        tell_run(done, json=json, quiet=quiet)

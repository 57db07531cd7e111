"""``onnxmtl add-task``: a task more for a model that is finished."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    JsonOption,
    QuietOption,
    TrainingProgress,
    emit_json,
    results,
    show,
    text_table,
)
from onnxmtl.cli.training_options import (
    DATA,
    RUN,
    TRAINING,
    CheckpointEveryOption,
    ResumeOption,
    check_resume,
    parse_options,
)

WHERE = "Where it branches off"


def add_task_command(
    run: Annotated[
        Path, typer.Argument(help="Directory of a finished run of compile, specialize or add-task.", metavar="RUN")
    ],
    task: Annotated[
        str,
        typer.Option("--task", "-t", help="The new task: name=kind:classes, as parts=segmentation:7; or a TOML file."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Labels of the new task: a data set's name, NAME:PATH, or module:callable of your own.",
            show_default="the run's data",
            rich_help_panel=DATA,
        ),
    ] = "",
    data_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, an option of the data set (repeatable).", rich_help_panel=DATA),
    ] = None,
    train_size: Annotated[
        int, typer.Option(min=0, help="Training samples; 0: as in the run.", rich_help_panel=DATA)
    ] = 0,
    val_size: Annotated[
        int, typer.Option(min=0, help="Validation samples; 0: as in the run.", rich_help_panel=DATA)
    ] = 0,
    at: Annotated[
        str,
        typer.Option(
            help="The last tensor of the backbone that it has in common with an old task; the image's name: nothing, "
            "the last feature's: all, the new task is a head alone.",
            metavar="BLOCK",
            show_default="tried",
            rich_help_panel=WHERE,
        ),
    ] = "",
    like: Annotated[
        str,
        typer.Option(
            help="The old task whose layers it follows, and copies from there on.",
            metavar="TASK",
            show_default="tried",
            rich_help_panel=WHERE,
        ),
    ] = "",
    budget: Annotated[
        str,
        typer.Option(
            help="Limits of the model, as madds<=1.1x (of the model as it is) or latency<=4ms.", rich_help_panel=WHERE
        ),
    ] = "",
    candidates: Annotated[
        int, typer.Option(min=1, help="Places to try on one path; 1: a head alone.", rich_help_panel=WHERE)
    ] = 4,
    trial_steps: Annotated[
        int,
        typer.Option(min=0, help="Updates of a trial.", show_default="a quarter of --steps", rich_help_panel=WHERE),
    ] = 0,
    steps: Annotated[
        int,
        typer.Option(
            min=0, help="Updates of the branch.", show_default="as many as the run's weights", rich_help_panel=TRAINING
        ),
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(min=0, help="Images per step.", show_default="as in the run", rich_help_panel=TRAINING)
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of everything random.", show_default="the run's", rich_help_panel=TRAINING),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(help="single-task: train a network for it alone, to compare; or none.", rich_help_panel=TRAINING),
    ] = "single-task",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of the new run; new or empty.",
            show_default="runs/add-task-N",
            rich_help_panel=RUN,
        ),
    ] = None,
    checkpoint_every: CheckpointEveryOption = 50,
    resume: ResumeOption = False,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add a task to a finished model, which goes on computing all it did before, bit for bit.

    Everything that exists is frozen. The new task has the layers up to its branching point in common with an old task,
    then copies of that task's layers, which are trained on, and a head. Where it branches off is tried on held-out
    training samples unless --at says it. The new run has its own directory, report and certificate.

    Example: onnxmtl add-task runs/a --task edges --budget "madds<=1.1x" -o runs/a-edges

    Example: onnxmtl add-task runs/a --task parts=segmentation:7 --data own:make --at layer3.1.relu2.out
    """
    check_resume(resume, output)
    if batch_size == 1:
        raise typer.BadParameter("--batch-size must be 2 or more: normalization needs statistics over several images")
    options = parse_options(data_option or [])

    from rich.text import Text

    from onnxmtl.deploy.added import parity_rows, trial_rows
    from onnxmtl.deploy.report import print_report
    from onnxmtl.workflows import add_task

    with TrainingProgress(quiet=quiet or json) as progress:
        done = add_task(
            run,
            task,
            at=at,
            like=like,
            budget=budget,
            data=data,
            data_options=options,
            steps=steps,
            trial_steps=trial_steps,
            candidates=candidates,
            train_size=train_size,
            val_size=val_size,
            batch_size=batch_size,
            seed=seed,
            baselines=baselines,
            out=output,
            resume=resume,
            observer=progress,
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            accelerator=accelerator.value,
        )
    if json:
        emit_json({"run": done.path, "model": done.model, "added": done.added.to_json(), **done.report.to_json()})
    elif quiet:
        print(done.model)
    else:
        if done.added.trials:
            show(Text("Where it could branch off", style="bold"), text_table(trial_rows(done.added)), "")
        show(Text("What was there before", style="bold"), text_table(parity_rows(done.added.parity)), "")
        print_report(done.report, results())

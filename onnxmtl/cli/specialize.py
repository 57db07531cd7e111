"""``onnxmtl specialize``: another model from a search that is done."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    DevicesOption,
    JsonOption,
    QuietOption,
    TrainingProgress,
    check_devices,
    emit_json,
    is_follower,
    show,
    tell_run,
)
from onnxmtl.cli.training_options import FLOAT16, FUSE_SIBLINGS, check_resume

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxmtl.deploy.entry_points import EntryPoints


class Weights(enum.StrEnum):
    """Where the weights of the emitted model come from."""

    RECALIBRATED = "recalibrated"
    RETRAINED = "retrained"


def specialize_command(
    run: Annotated[
        Path,
        typer.Argument(
            help="Directory of a finished run of compile; with --entry-points alone any run, or an ONNX file.",
            metavar="RUN",
        ),
    ],
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
    fuse_siblings: Annotated[
        bool | None,
        typer.Option("--fuse-siblings/--no-fuse-siblings", help=FUSE_SIBLINGS, show_default="as the run"),
    ] = None,
    float16: Annotated[
        bool | None, typer.Option("--float16/--no-float16", help=FLOAT16, show_default="as the run")
    ] = None,
    entry_points: Annotated[
        bool,
        typer.Option(
            "--entry-points",
            help="Cut the model into segments, so that a device computes only the tasks it is asked for.",
        ),
    ] = False,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Emit another model from a finished run: for another budget, or another architecture, without a new search.

    Reads the run's supermodel, weights and policy; needs its data set, to average running statistics anew and to
    measure. The new run has its own directory, report and certificate.

    With --entry-points the tasks can be computed one without the others: the model is cut where the set of tasks that
    need a layer changes, into RUN/entry_points (or --output), for `onnxmtl.runtime.load(DIR)(image, tasks=["depth"])`.
    Without any other option that is all that is done, and no data is needed; else the new run's model is cut.

    Example: onnxmtl specialize runs/a --budget "madds<=0.5x" --weights retrained

    Example: onnxmtl specialize runs/a --float16 -o runs/a-half

    Example: onnxmtl specialize runs/a --entry-points
    """
    other = budget or architecture is not None or fuse_siblings is not None or float16 is not None
    asked = other or weights is Weights.RETRAINED or steps or resume
    if entry_points and not asked:
        from onnxmtl.workflows import write_entry_points

        _tell(write_entry_points(run, output), json=json, quiet=quiet)
        return
    check_resume(resume, output)
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
            fuse_siblings=fuse_siblings,
            float16=float16,
            out=output,
            resume=resume,
            observer=progress,
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            devices=devices,
            accelerator=accelerator.value,
        )
    if follower:
        return
    if not entry_points:
        tell_run(done, json=json, quiet=quiet)
        return
    from onnxmtl.workflows import write_entry_points

    cut = write_entry_points(done.path)
    if json:
        emit_json({"run": done.path, "model": done.model, **done.report.to_json(), "entry_points": cut.to_json()})
    else:
        tell_run(done, json=False, quiet=quiet)
        _tell(cut, json=False, quiet=quiet)


def _tell(cut: EntryPoints, *, json: bool, quiet: bool) -> None:
    if json:
        emit_json(cut.to_json())
    elif quiet:
        print(cut.path)
    else:
        show(*_text(cut))


def _text(cut: EntryPoints) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    segments = Table("segment", "file", "operators", "multiply-adds", box=None, padding=(0, 3, 0, 0))
    for row in cut.segments:
        work = "" if row.multiply_adds is None else f"{row.multiply_adds:,}"
        segments.add_row(Text(row.name), Text(row.file), str(row.nodes), work)
    tasks = Table(
        "task alone",
        "segments that run",
        "of all multiply-adds",
        "max |Δ|/max |y|",
        "ulp",
        box=None,
        padding=(0, 3, 0, 0),
    )
    for task in cut.tasks:
        share = "" if task.share is None else f"{task.share:.1%}"
        names = Text(", ".join(task.segments), overflow="fold")
        tasks.add_row(
            Text(task.task), names, share, f"{task.relative:.1e}", "" if task.ulps is None else str(task.ulps)
        )
    return [
        segments,
        "",
        tasks,
        "",
        f"{cut.path}: bit for bit what {cut.model.name} computes with the runtime's optimizations off; the last "
        "columns have the largest difference with them on",
    ]

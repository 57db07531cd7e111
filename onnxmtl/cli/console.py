"""What the commands share: shared options, output for people and for programs, the progress of a training."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from onnxmtl.workflows.phases.emission import Compiled

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
DevicesOption = Annotated[
    int,
    typer.Option("--devices", min=1, help="Processes that train together, one per GPU (or with shares of the CPU)."),
]


class Accelerator(enum.StrEnum):
    """What the processes of a training run on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


AcceleratorOption = Annotated[Accelerator, typer.Option("--accelerator", help="auto: CUDA if there is a device.")]

_WIDTH = 118  # of results that do not go to a terminal


def check_devices(devices: int) -> None:
    """Refuse several processes where the command was called from Python: they are started by this program's words."""
    if devices > 1 and not any(word.startswith("--devices") for word in sys.argv[1:]):
        raise typer.BadParameter("--devices runs this program's own command line again, which has no --devices")


def is_follower(devices: int) -> bool:
    """Whether this is one of the processes that the first of `devices` has started."""
    return devices > 1 and os.environ.get("LOCAL_RANK", "0") != "0"


def console(*, quiet: bool = False) -> Console:
    """Where remarks and progress go: stderr, and nowhere if stdout is not a terminal (or with `quiet`)."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet or not sys.stdout.isatty(), highlight=False)


def results() -> Console:
    """Where a command's answer goes: stdout; without colours and of fixed width if that is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def show(*parts: RenderableType) -> None:
    """Print a command's answer. Strings are printed as they are; off a terminal their lines are not wrapped."""
    from rich.text import Text

    out = results()
    for part in parts:
        content = Text(part) if isinstance(part, str) else part
        out.print(content, soft_wrap=isinstance(content, Text) and not out.is_terminal)


def text_table(rows: Sequence[Sequence[str]], *, whole: Collection[str] = (), right: bool = False) -> Table:
    """A table of plain text for :func:`show`, no cell of which is taken for markup.

    Args:
        rows: The titles of the columns, then the rows.
        whole: Titles of columns that are never wrapped.
        right: All columns but the first are numbers, and stand on the right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(rows[0]):
        justify: Literal["left", "right"] = "right" if right and index else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=name in whole)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def emit_json(value: Any) -> None:
    """Print one JSON document to stdout. Dataclasses, paths, tuples and numpy's numbers are taken too.

    nan and infinity, which JSON does not have, become null.
    """
    sys.stdout.write(json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def tell_run(done: Compiled, *, json: bool, quiet: bool) -> None:
    """Print what compile and specialize have made: the report, the report as JSON, or the model's path alone."""
    if json:
        emit_json({"run": done.path, "model": done.model, **done.report.to_json()})
    elif quiet:
        print(done.model)
    else:
        from onnxmtl.deploy.report import print_report

        print_report(done.report, results())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, str | bool | int | float) and hasattr(value, "tolist"):
        return _plain(value.tolist())  # numpy's scalars and arrays
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class TrainingProgress:
    """The progress of a training: stage (which of how many), step, live losses, expected cost, temperature.

    On a terminal a live line per stage. Elsewhere nothing, or, with `plain`, four plain lines per stage on stderr. ::

        with TrainingProgress(quiet=quiet) as progress:
            progress.plan(["pre-train", "policy-train"])
            progress.stage("pre-train", total=1000, start=200)
            progress.update(201, {"seg": 0.7, "depth": 0.1}, cost=0.52)
            progress.figures(201, {"temperature": 4.9})
    """

    def __init__(self, *, quiet: bool = False, plain: bool = False) -> None:
        talk = console(quiet=quiet)
        self._plain = plain and not quiet and talk.quiet
        self._bar: Progress | None = None
        self._stage: TaskID | None = None
        self._name, self._total, self._told = "", 0, 0
        self._plan: tuple[str, ...] = ()
        self._values = ""
        self._talk = talk
        if not talk.quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.fields[place]}[bold]{task.description:<18}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=talk,
            )

    def plan(self, names: Sequence[str]) -> None:
        """Tell the names of all stages to come, so that each is shown as one of so many."""
        self._plan = tuple(names)

    def _place(self, name: str) -> str:
        """Which of the planned stages this is, as ``3/7 ``."""
        if name not in self._plan:
            return ""
        most = str(len(self._plan))
        return f"{str(self._plan.index(name) + 1).rjust(len(most))}/{most} "

    def note(self, text: str) -> None:
        """Tell what is out of the ordinary: a line above the live ones, or on stderr."""
        from rich.text import Text

        if self._bar is not None:
            self._talk.print(Text(f"note: {text}"))
        elif self._plain:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def stage(self, name: str, total: int, start: int = 0) -> None:
        """Begin a stage of `total` steps, of which `start` are done already (a resumed run)."""
        self._name, self._total, self._told = name, total, start
        if self._bar is not None:
            self._stage = self._bar.add_task(name, total=total, completed=start, values="", place=self._place(name))
        elif self._plain:
            shown = f"{self._place(name)}{name}: {total} steps" + (f", from {start}" if start else "")
            print(shown, file=sys.stderr, flush=True)

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        """Tell that `step` steps of the stage are done.

        Args:
            step: Steps done so far.
            losses: Name of the task -> loss.
            cost: Expected multiply-adds as a share of separate models', if known.
        """
        values = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        if cost is not None:
            values += f"  cost {cost:.1%}"
        self._values = values
        if self._bar is not None and self._stage is not None:
            self._bar.update(self._stage, completed=step, values=values)
        elif self._plain and step < self._total and step - self._told >= self._total / 4:
            self._tell(step, values)
        if self._plain and step >= self._total > self._told:
            self._tell(self._total, values)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell all figures of a step; of those, the temperature is added to what :meth:`update` shows."""
        if self._bar is not None and self._stage is not None and "temperature" in figures:
            values = f"{self._values}  temperature {figures['temperature']:.3g}"
            self._bar.update(self._stage, completed=step, values=values)

    def _tell(self, step: int, values: str) -> None:
        self._told = step
        print(f"{self._name}: {step}/{self._total}  {values}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

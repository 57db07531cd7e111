"""The ``onnxmtl`` command: one file per sub-command, no logic of its own.

Exit codes: 0 ok; 1 an error of the input or of the run, told in one line; 2 wrong usage; 130 interrupted.
The sub-commands' modules import typer and the standard library only; what is heavy loads when a command runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from onnxmtl import __version__
from onnxmtl.errors import OnnxMTLError, missing_training


class Command(NamedTuple):
    """Where a sub-command is: a function with a typer signature, or a typer app of its own."""

    name: str
    module: str
    attribute: str


# In the order of `onnxmtl --help`.
COMMANDS = (
    Command("compile", "onnxmtl.cli.compile", "compile_command"),
    Command("recommend", "onnxmtl.cli.recommend", "recommend_command"),
    Command("specialize", "onnxmtl.cli.specialize", "specialize_command"),
    Command("add-task", "onnxmtl.cli.add_task", "add_task_command"),
    Command("sweep", "onnxmtl.cli.sweep", "sweep_command"),
    Command("inspect", "onnxmtl.cli.inspect", "inspect_command"),
    Command("explain", "onnxmtl.cli.explain", "explain_command"),
    Command("report", "onnxmtl.cli.report", "report_command"),
    Command("compare", "onnxmtl.cli.compare", "compare_command"),
    Command("verify", "onnxmtl.cli.verify", "verify_command"),
    Command("bench", "onnxmtl.cli.bench", "bench_command"),
    Command("merge", "onnxmtl.cli.merge", "merge_command"),
    Command("quantize", "onnxmtl.cli.quantize", "quantize_command"),
    Command("export-prototxt", "onnxmtl.cli.export_prototxt", "export_prototxt_command"),
    Command("data", "onnxmtl.cli.data", "data_app"),
    Command("doctor", "onnxmtl.cli.doctor", "doctor_command"),
)


class _Interrupted(Exception):
    """Ctrl-C, before typer makes an exit code of its own of it."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxmtl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One backbone and several vision tasks in, one multi-task ONNX model with shared trunks out."""


def _build() -> typer.Typer:
    built = typer.Typer(
        cls=_Group,
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        target = getattr(importlib.import_module(command.module), command.attribute)
        if isinstance(target, typer.Typer):
            built.add_typer(target, name=command.name)
        else:
            built.command(command.name)(target)
    return built


app = _build()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after ``onnxmtl``; those of the process if None.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="onnxmtl")
    except SystemExit as stop:  # typer's way out, usage errors included
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except _Interrupted:
        _say("interrupted; a run that was under way goes on where it stopped with --resume")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `onnxmtl … | head`; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last resort: nobody is shown a traceback unasked
        if os.environ.get("ONNXMTL_DEBUG"):
            raise
        if _told_elsewhere(error):
            return 0  # by the first process of the training, whose exit code counts
        _say(_line(error))
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


def _told_elsewhere(error: BaseException) -> bool:
    return any(isinstance(link, OnnxMTLError) and link.told_elsewhere for link in _chain(error))


def _line(error: BaseException) -> str:
    """What the user is told, in one line."""
    ours = next((link for link in _chain(error) if isinstance(link, OnnxMTLError)), None)
    ours = ours or next(filter(None, map(missing_training, _chain(error))), None)
    if ours is not None:
        text = str(ours)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = "out of memory; a smaller --size or batch size needs less"
    else:
        text = f"{type(error).__name__}: {error} (a bug of onnxmtl; ONNXMTL_DEBUG=1 shows where, please report it)"
    return "error: " + " ".join(text.split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from: onnx_ir wraps whatever a pass raises."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__

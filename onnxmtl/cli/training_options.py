"""Options of all commands that train: the data, the search space, the training, the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

# Headings of --help.
DATA, SEARCH, TRAINING, RUN = "Data", "Search", "Training", "The run"

TasksOption = Annotated[
    str, typer.Option("--tasks", "-t", help="A TOML file, or name=kind:classes,… as seg=segmentation:13,depth")
]
DataOption = Annotated[
    str,
    typer.Option(
        help="A data set's name, NAME:PATH, or module:callable of your own; task=…;task=… for one each.",
        rich_help_panel=DATA,
    ),
]
DataSettingsOption = Annotated[
    list[str] | None,
    typer.Option("--data-option", help="NAME=VALUE, an option of the data set (repeatable).", rich_help_panel=DATA),
]
TrainSizeOption = Annotated[
    int, typer.Option(min=0, help="Training samples; 0: the data set's default.", rich_help_panel=DATA)
]
ValSizeOption = Annotated[
    int, typer.Option(min=0, help="Validation samples; 0: the data set's default.", rich_help_panel=DATA)
]

VariantOption = Annotated[
    str,
    typer.Option(help="Of the recipe: paper (as printed), released (as its authors' code).", rich_help_panel=SEARCH),
]
PresetOption = Annotated[
    str, typer.Option(help="The recipe's published numbers for a data set, as nyuv2.", rich_help_panel=SEARCH)
]
SharedPrefixOption = Annotated[
    int | None, typer.Option(min=0, help="Force the first N sites to be shared.", rich_help_panel=SEARCH)
]
BlocksOption = Annotated[
    str | None,
    typer.Option(
        "--blocks",
        help="Where trees can branch: a number of blocks, or 1,3,4,6,3.",
        show_default="all that are found",
        rich_help_panel=SEARCH,
    ),
]
AtOption = Annotated[
    list[str] | None,
    typer.Option("--at", help="Trees branch behind these tensors (repeatable).", rich_help_panel=SEARCH),
]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--space-option",
        help="NAME=VALUE of the search space, as own=0.9, within=2, edges=same-layer (repeatable).",
        rich_help_panel=SEARCH,
    ),
]
SearchInputSizeOption = Annotated[
    str | None,
    typer.Option(
        "--search-input-size",
        help="Search with images of this HxW, as 32x32; the model stays as large.",
        metavar="HxW",
        rich_help_panel=SEARCH,
    ),
]

BatchSizeOption = Annotated[
    int | None,
    typer.Option(min=2, help="Images per step.", show_default="the preset's, or 16", rich_help_panel=TRAINING),
]
WeightingOption = Annotated[
    str,
    typer.Option(
        help="Of the tasks' losses: static, uncertainty, dwa, gradnorm, torchjd:AGGREGATOR.",
        rich_help_panel=TRAINING,
    ),
]
FUSE_SIBLINGS = "Fuse convolutions of several tasks on one input where that saves work on a CPU: where they are narrow."
FLOAT16 = "Emit a model that computes in float16 where that is safe: half the file; input and outputs stay float32."
FuseSiblingsOption = Annotated[
    bool, typer.Option("--fuse-siblings/--no-fuse-siblings", help=FUSE_SIBLINGS, rich_help_panel=RUN)
]
Float16Option = Annotated[bool, typer.Option("--float16/--no-float16", help=FLOAT16, rich_help_panel=RUN)]
CheckpointEveryOption = Annotated[
    int, typer.Option(min=1, help="Steps between the states that --resume can go on from.", rich_help_panel=RUN)
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.", rich_help_panel=RUN)]


def check_resume(resume: bool, output: Path | None, what: str = "run") -> None:
    """Refuse ``--resume`` without the directory of `what` is to go on."""
    if resume and output is None:
        msg = f"--resume needs --output, the directory of the {what} to go on with"
        raise typer.BadParameter(msg)


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


def parse_space(entries: list[str]) -> dict[str, Any]:
    """``["own=0.9", "edges=same-layer"]`` -> {"own": 0.9, "edges": "same-layer"}; values are JSON, or words."""
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not name or not equals:
            msg = f"--space-option takes NAME=VALUE, as own=0.9, not {entry!r}"
            raise typer.BadParameter(msg)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def parse_blocks(text: str | None) -> int | list[int] | None:
    """``"5"`` -> 5 blocks; ``"1,3,4,6,3"`` -> how many of the network's blocks make each one."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        msg = f"--blocks takes a number, as 5, or how many blocks make each one, as 1,3,4,6,3, not {text!r}"
        raise typer.BadParameter(msg)
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers

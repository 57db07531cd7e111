"""``onnxmtl data``: look at data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, SeedOption, emit_json, show

data_app = typer.Typer(
    help="Look at data sets.", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)


@data_app.callback()
def _data() -> None:
    """Look at data sets.

    Example: onnxmtl data preview scenes
    """


@data_app.command("preview")
def preview_command(
    name: Annotated[
        str,
        typer.Argument(
            help="scenes, multifashion, multimnist, nyuv2, cityscapes, taskonomy or pascal-context; "
            "with :PATH, where its files are.",
            metavar="NAME[:PATH]",
        ),
    ] = "scenes",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=400, help="How many samples.")] = 12,
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=1024, help="Height of each image; the data set's usual one.")
    ] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Show samples as training draws them: cut, scaled, mirrored.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option("--data-option", metavar="KEY=VALUE", help="Of the data set; repeatable.")
    ] = None,
    seed: SeedOption = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file to write; NAME.png if not given.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a contact sheet of a data set: each image with its labels, as one PNG.

    Example: onnxmtl data preview scenes --count 12 --size 96 -o scenes.png
    """
    from onnxmtl.data.sheet import write_preview
    from onnxmtl.errors import DataError

    options = {}
    for item in option or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            msg = f"--data-option {item!r}: write KEY=VALUE, as in val=test"
            raise DataError(msg)
        options[key] = value
    found = write_preview(name, output, count=count, size=size or 0, seed=seed, augment=augment, options=options)
    if json:
        emit_json(found)
    else:
        show(f"{found.path}: {found.count} samples of {found.name}, {found.width}x{found.height} pixels")

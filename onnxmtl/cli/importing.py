"""Options of the import, for all commands that read a backbone."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


class Dialect(enum.StrEnum):
    """How a prototxt is to be read."""

    AUTO = "auto"
    CAFFE = "caffe"
    AUTOMTL = "automtl"


class BatchNorm(enum.StrEnum):
    """What happens where normalization was folded away at export."""

    KEEP = "keep"
    INSERT = "insert"


BACKBONE = "Backbone"  # a heading of --help

WeightsOption = Annotated[Path | None, typer.Option(help="The .caffemodel of a .prototxt.", rich_help_panel=BACKBONE)]
DialectOption = Annotated[
    Dialect, typer.Option(help="Of a .prototxt; auto tells by its fields.", rich_help_panel=BACKBONE)
]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features", help="Tensor the heads read (repeatable).", show_default="found", rich_help_panel=BACKBONE
    ),
]
OutputStrideOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Turn strides into dilations so that features are no coarser; 0 keeps them.",
        rich_help_panel=BACKBONE,
    ),
]
InputSizeOption = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTH of the images.", show_default="the model's", rich_help_panel=BACKBONE)
]
BatchNormOption = Annotated[
    BatchNorm,
    typer.Option(help="insert: put normalization back where it was folded at export.", rich_help_panel=BACKBONE),
]


def parse_size(text: str | None, option: str = "--input-size") -> tuple[int, int]:
    """``"64x96"`` or ``"64"`` -> (height, width); (0, 0), the model's own size, where nothing is given."""
    if not text:
        return 0, 0
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and int(part) > 0 for part in parts):
        msg = f"{option} takes HEIGHTxWIDTH, as 64x96, not {text!r}"
        raise typer.BadParameter(msg)
    return int(parts[0]), int(parts[-1])


def split_names(given: Sequence[str] | None) -> tuple[str, ...]:
    """``--features a,b --features c`` as three names."""
    return tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())

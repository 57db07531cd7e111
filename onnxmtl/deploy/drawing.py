"""The blocks of a network as an SVG drawing: from top to bottom, with what is alive between them and what they cost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from onnxmtl.deploy.blocks import BlockRow, Tensor
from onnxmtl.deploy.inspect import Inspection
from onnxmtl.deploy.report import amount
from onnxmtl.deploy.svg import clean, cut
from onnxmtl.errors import ModelError
from onnxmtl.runs.atomic import atomic_write

# All lengths in pixels. Letters of a fixed width, so that what fits can be counted.
_WIDTH = 1080
_HEAD = 96
_BOX, _LINE, _GAP = 40, 14, 26  # a block of two lines, every feature's line, the room between blocks
_NAMES, _SHAPES, _WORK, _PARAMETERS = 24, 456, 690, 880  # left edges of the columns
_BAR = 104
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LETTER = 6.7  # of a monospace font of 11 px
_LANES = 12  # live tensors that are drawn one by one
_LANE = 14
_COLOURS = {
    "paper": "#ffffff", "ink": "#1b1f24", "faint": "#6b7280", "line": "#9aa3af", "box": "#eef2f7",
    "work": "#3b6fb6", "parameters": "#b5713a", "feature": "#2f855a", "wide": "#a33a3a",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Totals:
    """Of all blocks, and the dearest one's: what the bars are relative to."""

    work: int
    parameters: int
    most_work: int
    most_parameters: int

    @classmethod
    def of(cls, rows: Sequence[BlockRow]) -> _Totals:
        work = [row.multiply_adds or 0 for row in rows]
        parameters = [row.parameters for row in rows]
        return cls(sum(work), sum(parameters), max(work, default=0), max(parameters, default=0))


def save_drawing(found: Inspection, path: str | os.PathLike[str]) -> Path:
    """Write the drawing to an ``.svg`` file, at once or not at all.

    Raises:
        ModelError: The name does not end in ``.svg``, or the file is the model itself.
        RunError: The file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".svg":
        msg = f"{target}: a drawing is written to a file that ends in .svg; choose another name"
        raise ModelError(msg)
    if target.exists() and os.path.samefile(target, found.file):
        msg = f"{target}: is the model itself; choose another name for the drawing"
        raise ModelError(msg)
    atomic_write(target, draw(found).encode())
    return target


def draw(found: Inspection) -> str:
    """The drawing as SVG text. Bars are relative to the dearest block, percentages to the whole network."""
    totals = _Totals.of(found.blocks)
    parts: list[str] = []
    y = _HEAD
    for row in found.blocks:
        parts += _block(row, y, totals)
        y += _height(row)
        if row.index + 1 < len(found.blocks):
            parts += _boundary(row.outputs, y)
            y += _GAP
    height = y + 24
    title = f"{Path(found.file).name}: {len(found.blocks)} blocks"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="{_FONT}" font-size="11">',
            f"<title>{clean(title)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="{_COLOURS["paper"]}"/>',
            *_head(found, title, totals),
            *parts,
            "</svg>",
            "",
        ]
    )


def _head(found: Inspection, title: str, totals: _Totals) -> Iterable[str]:
    inputs = ", ".join(f"{port.name} {_shape(port.shape)}" for port in found.inputs)
    lines = [
        f"input {inputs or 'none'}",
        f"{amount(totals.work)} multiply-adds, {amount(totals.parameters)} parameters in the blocks",
    ]
    yield _label(_NAMES, 26, title, size=15, room=_WIDTH - 2 * _NAMES, bold=True)
    for i, line in enumerate(lines):
        yield _label(_NAMES, 46 + 16 * i, line, room=_WORK - _NAMES, colour="faint")
    for x, name in ((_SHAPES, "tensor behind"), (_WORK, "multiply-adds"), (_PARAMETERS, "parameters")):
        yield _label(x, _HEAD - 12, name, colour="faint")


def _block(row: BlockRow, y: float, totals: _Totals) -> Iterable[str]:
    operators = ", ".join(f"{op} {number}" for op, number in row.operators.items())
    names = row.first if row.nodes == 1 else f"{row.first} … {row.last}"
    room = _SHAPES - _NAMES - 56
    yield f'<g class="block"><title>{clean(f"block {row.index}: {names} ({operators})")}</title>'
    box = _height(row)
    yield (
        f'<rect class="box" x="{_NAMES}" y="{y}" width="{_SHAPES - _NAMES - 16}" height="{box}" rx="4" '
        f'fill="{_COLOURS["box"]}" stroke="{_COLOURS["line"]}"/>'
    )
    yield _label(_NAMES + 8, y + 16, str(row.index), colour="faint", bold=True)
    yield _label(_NAMES + 38, y + 16, _range(row, room), room=room)
    yield _label(_NAMES + 38, y + 31, operators, room=room, colour="faint")
    for i, name in enumerate(row.features):
        yield _label(_NAMES + 38, y + 45 + _LINE * i, f"► feature {name}", room=room, colour="feature", bold=True)
    newest = row.outputs[-1] if row.outputs else None
    shape = _shape(newest.shape) if newest is not None and newest.shape is not None else "shape unknown"
    yield _label(_SHAPES, y + 16, shape, room=_WORK - _SHAPES - 16)
    if row.stride is not None:
        yield _label(_SHAPES, y + 31, f"stride {row.stride}", colour="faint")
    yield from _bar(_WORK, y, row.multiply_adds, totals.most_work, totals.work, "work")
    yield from _bar(_PARAMETERS, y, row.parameters, totals.most_parameters, totals.parameters, "parameters")
    yield "</g>"


def _bar(x: float, y: float, value: int | None, most: int, total: int, kind: str) -> Iterable[str]:
    if value is None:
        yield _label(x, y + 24, "unknown", colour="faint")
        return
    width = round(_BAR * value / most, 1) if most else 0.0
    yield f'<rect class="bar" x="{x}" y="{y + 6}" width="{width}" height="12" fill="{_COLOURS[kind]}"/>'
    share = f"{value / total:.1%}" if total else "–"
    yield _label(x, y + 31, f"{amount(value)}  {share}", colour="faint")


def _boundary(tensors: Sequence[Tensor], y: float) -> Iterable[str]:
    """One line per live tensor from the block above to the one below, and their names."""
    lanes = min(len(tensors), _LANES)
    colour = _COLOURS["line" if len(tensors) == 1 else "wide"]
    names = ", ".join(tensor.name for tensor in tensors)
    label = names if len(tensors) == 1 else f"{len(tensors)} tensors: {names}"
    yield f'<g class="boundary"><title>{clean(label)}</title>'
    for lane in range(lanes):
        x = _NAMES + 20 + _LANE * lane
        yield f'<path d="M{x} {y}V{y + _GAP - 5}m-3 -4l3 6l3 -6" stroke="{colour}" fill="none" stroke-width="1.5"/>'
    x = _NAMES + 20 + _LANE * lanes + 2
    yield _label(x, y + 17, label, room=_SHAPES - x - 16, colour="faint" if len(tensors) == 1 else "wide")
    yield "</g>"


def _height(row: BlockRow) -> int:
    return _BOX + _LINE * len(row.features)


def _range(row: BlockRow, room: float) -> str:
    """First and last node, each cut in its middle to half of the room."""
    letters = int(room / _LETTER)
    if row.nodes == 1:
        return cut(row.first, letters)
    half = (letters - 3) // 2
    spare = max(0, half - len(row.first)), max(0, half - len(row.last))
    return f"{cut(row.first, half + spare[1])} … {cut(row.last, half + spare[0])}"


def _label(
    x: float, y: float, text: str, *, room: float | None = None, colour: str = "ink", size: int = 11, bold: bool = False
) -> str:
    letters = None if room is None else int(room / (_LETTER * size / 11))
    shown = text if letters is None or len(text) <= letters else f"{text[: max(1, letters - 1)]}…"
    weight = ' font-weight="bold"' if bold else ""
    larger = f' font-size="{size}"' if size != 11 else ""
    return f'<text x="{x}" y="{y}" fill={quoteattr(_COLOURS[colour])}{larger}{weight}>{clean(shown)}</text>'


def _shape(shape: Iterable[int | str] | None) -> str:
    return "of unknown shape" if shape is None else f"[{', '.join(str(size) for size in shape)}]"

"""What the sharing diagram and the policy's heat map have in common: layers as rows, tasks as columns, long networks
broken into several panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from onnxmtl.deploy.html.figure import PANEL
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.svg import MONO_EM, SANS_EM, box, cut, label

NAMES = 132  # width of the column of names
_MOST_ROWS = 44  # in one panel
_SIZE = 9.5  # of the names

T = TypeVar("T")


def broken(rows: Sequence[T]) -> list[Sequence[T]]:
    """The rows of each panel: as few panels as possible, of equal length."""
    panels = max(1, math.ceil(len(rows) / _MOST_ROWS))
    size = math.ceil(len(rows) / panels)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def row_height(count: int) -> int:
    """Height of a row if there are so many."""
    return 18 if count <= 24 else 16 if count <= _MOST_ROWS else 15


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the scopes that all of them are in, cut to the room there is."""
    separator = "/" if sum("/" in name for name in names) > len(names) / 2 else "."
    scopes = [name.split(separator) for name in names]
    common = 0
    while len(names) > 1 and all(len(s) > common + 1 and s[common] == scopes[0][common] for s in scopes):
        common += 1
    letters = int((NAMES - 6) / (_SIZE * MONO_EM))
    return [cut(separator.join(scope[common:]), letters, begin=2) for scope in scopes]


def bare_names(names: Sequence[str]) -> list[str]:
    """The names without the scopes, before and behind, that all of them have."""
    scopes = [name.split(".") for name in names]
    before, behind = _common(scopes), _common([scope[::-1] for scope in scopes])
    return [
        ".".join(scope[before : len(scope) - behind] if before + behind < len(scope) else scope) for scope in scopes
    ]


def _common(scopes: Sequence[Sequence[str]]) -> int:
    """How many leading scopes are the same in all."""
    same = 0
    while len(scopes) > 1 and len({tuple(scope[: same + 1]) for scope in scopes}) == 1 and same < len(scopes[0]):
        same += 1
    return same


def head_height(tasks: Sequence[str]) -> float:
    """Height of the tilted names of tasks."""
    longest = max((min(len(task), 14) for task in tasks), default=0)
    return 14 + 0.75 * 11 * SANS_EM * longest


def heads(tasks: Sequence[tuple[str, int]], xs: Sequence[float], bottom: float) -> list[str]:
    """The tilted names of tasks above their columns; (name, colour) each. They rise, or fall where there is no room."""
    shown = [cut(task, 14) for task, _ in tasks]
    rise = all(x + 0.67 * 11.5 * SANS_EM * len(text) <= PANEL for x, text in zip(xs, shown, strict=True))
    return [
        label(x - 1, bottom - 6, text, f"{task_class(colour)} bold", turn=-48)
        if rise
        else label(x + 3, bottom - 6, text, f"{task_class(colour)} bold", anchor="end", turn=48)
        for (_, colour), x, text in zip(tasks, xs, shown, strict=True)
    ]


def name_cell(name: str, y: float) -> str:
    """A layer's name; `y` is the middle of its row."""
    return label(0, y + 3.5, name, "mono")


def bands(count: int, top: float, height: float, width: float) -> list[str]:
    """A faint ground under every second row."""
    return [box(0, top + i * height, width, height, "band") for i in range(1, count, 2)]

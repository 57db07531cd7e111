"""How shapes, values and numbers of things are written in messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir


def shape_text(shape: ir.Shape | Iterable[int | ir.SymbolicDim] | None) -> str:
    """``[N, 3, H, ?]``: names of free dimensions as they are, ``?`` for one without a name; ``unknown`` for None."""
    return "unknown" if shape is None else f"[{', '.join(map(dim_text, shape))}]"


def dim_text(dim: int | ir.SymbolicDim) -> str:
    """One dimension: its number, its name, or ``?``."""
    return str(dim) if isinstance(dim, int) else dim.value or "?"


def value_text(value: ir.Value) -> str:
    """``image: float [N, 3, 224, 224]``, with what is known of it."""
    kind = "type unknown" if value.dtype is None else value.dtype.name.lower()
    return f"{value.name}: {kind} {'of unknown shape' if value.shape is None else shape_text(value.shape)}"


def counted(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``; for nouns whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dims_of(value: ir.Value) -> tuple[int | str, ...] | None:
    """The shape of a value as numbers, names and ``?``; None if it is unknown."""
    return None if value.shape is None else tuple(d if isinstance(d, int) else dim_text(d) for d in value.shape)


def listed(names: Sequence[str], most: int = 4) -> str:
    """``a, b, c, d and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

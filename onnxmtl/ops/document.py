"""Writes OPERATORS.md: ``python -m onnxmtl.ops.document``."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxmtl.ops.operators import operators
from onnxmtl.ops.registry import spec_of
from onnxmtl.ops.support import NEWEST_OPSET, OLDEST_OPSET

PATH = Path(__file__).with_name("OPERATORS.md")

_HEAD = f"""# Operators

What can stand in a backbone. Written by `python -m onnxmtl.ops.document` from the tables in this folder; do not edit.

Models of opset {OLDEST_OPSET} to {NEWEST_OPSET} are taken ({NEWEST_OPSET} is the newest that onnxruntime 1.31 loads);
older than 21 is converted to 21 on import, newer stays. "Opsets" is where an operator is defined within that range.
"Weights" are the inputs that are trained when an initializer feeds them; (running statistics) follow the data instead.
A multiplication or addition on the image itself, and one with a single number, is preprocessing and not trained.
On import, Upsample, Scatter, split sequences, model-local functions, and If with a known condition become operators
of this table; whatever depends on constants only is folded, so any ONNX operator may stand there.
"""


def render() -> str:
    """The document."""
    lines = [_HEAD]
    family = ""
    for entry in operators():
        if entry.family != family:
            family = entry.family
            lines += [f"## {family}", "", "| operator | opsets | weights | limits |", "|---|---|---|---|"]
        oldest = max(OLDEST_OPSET, first_version(entry.op_type))
        lines.append(f"| {entry.op_type} | {oldest}-{NEWEST_OPSET} | {_weights(entry.op_type)} | {entry.limits} |")
        if entry is _last_of(family):
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def first_version(op_type: str) -> int:
    """The oldest opset that has the operator."""
    return min(s.since_version for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == ("", op_type))


def _weights(op_type: str) -> str:
    entry = spec_of(op_type)
    if entry is None:
        return ""
    names = [slot.name if slot.trainable else f"({slot.name})" for slot in entry.slots]
    return ", ".join(dict.fromkeys(names))


def _last_of(family: str) -> object:
    return [entry for entry in operators() if entry.family == family][-1]


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")

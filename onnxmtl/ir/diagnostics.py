"""What a pass has to say to the user: a refused rewrite, a repaired model, a warning."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

KEY = "onnxmtl.diagnostics"
MOST_PER_CODE = 500  # of one kind: nobody reads more, and a network may have ten thousand nodes


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """One remark.

    Attributes:
        code: Stable short name, e.g. ``"batchnorm-folded"``.
        message: What was found or refused, in one sentence.
        node: Name of the user's node, or "" for the whole model.
        hint: What the user can do; "" if nothing needs doing.
    """

    code: str
    message: str
    node: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.code}{where}: {self.message}{hint}"


def report(model: ir.Model, diagnostic: Diagnostic) -> None:
    """Attach a diagnostic to the model (in memory only; equal ones are kept once, a bounded number per code)."""
    found: dict[str, dict[Diagnostic, int]] = model.meta.setdefault(KEY, {})
    same = found.setdefault(diagnostic.code, {})
    if len(same) < MOST_PER_CODE:
        same.setdefault(diagnostic, sum(map(len, found.values())))


def diagnostics(model: ir.Model) -> tuple[Diagnostic, ...]:
    """All diagnostics attached to the model, in order."""
    ranked = [item for same in model.meta.get(KEY, {}).values() for item in same.items()]
    return tuple(diagnostic for diagnostic, _ in sorted(ranked, key=lambda item: item[1]))


def carry(source: ir.Model, target: ir.Model) -> None:
    """Give `target`, a rewritten copy of `source`, its diagnostics too (``Model.clone`` drops them)."""
    if source is not target:
        for diagnostic in diagnostics(source):
            report(target, diagnostic)

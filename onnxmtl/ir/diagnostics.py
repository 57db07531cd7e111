"""What a pass has to say to the user: a refused rewrite, a repaired model, a warning."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

KEY = "onnxmtl.diagnostics"


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
    """Attach a diagnostic to the model (in memory only; equal ones are kept once)."""
    found: list[Diagnostic] = model.meta.setdefault(KEY, [])
    if diagnostic not in found:
        found.append(diagnostic)


def diagnostics(model: ir.Model) -> tuple[Diagnostic, ...]:
    """All diagnostics attached to the model, in order."""
    return tuple(model.meta.get(KEY, ()))

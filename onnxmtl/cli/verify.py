"""``onnxmtl verify``: replay a model's certificate."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, emit_json, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxmtl.deploy.verify import Reference, VerifyReport


class Against(enum.StrEnum):
    """What the outputs are compared with, besides the certificate."""

    TORCH = "torch"


def verify_command(
    path: Annotated[Path, typer.Argument(help="A result directory, or the model.onnx in it.", metavar="DIR|FILE")],
    against: Annotated[
        Against | None, typer.Option(help="Also recompute the outputs of model.onnx with torch.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check that an emitted model still is, and still computes, what was trained (or quantized).

    Its weights and operators are compared with those recorded when it was emitted, and the recorded inputs are
    computed again with ONNX Runtime. The result is written to verify.json beside the model; exits with 1 if
    anything differs.

    Example: onnxmtl verify runs/demo-1
    """
    from onnxmtl.deploy.verify import verify

    reference: Reference | None = None
    if against is Against.TORCH:
        from onnxmtl.deploy.against_torch import torch_outputs

        reference = torch_outputs
    report = verify(path, reference=reference)
    if json:
        emit_json(report.to_json())
    elif not quiet:
        show(*_text(report))
    report.check()


def _text(report: VerifyReport) -> list[RenderableType]:
    from rich.table import Table

    table = Table("task", "max |Δ|", "relative", "optimized", "batch", "same class", box=None, padding=(0, 3, 0, 0))
    torch = any(check.torch_error is not None for check in report.tasks)
    if torch:
        table.add_column("torch now")
    for check in report.tasks:
        numbers = [check.max_error, check.plain_error, check.optimized_error, check.batch_error]
        cells = [check.task, *(f"{number:.1e}" for number in numbers)]
        cells.append("" if check.agreement is None else f"{check.agreement:.3%}")
        if torch:
            cells.append("" if check.torch_error is None else f"{check.torch_error:.1e}")
        table.add_row(*cells)
    file = "the emitted file, byte for byte" if report.same_file else "not byte for byte the emitted file"
    tolerances = f"relative {report.plain_tolerance:.0e}, optimized {report.optimized_tolerance:.0e}"
    summary = (
        f"{report.model}: {report.weights} weights and {report.operators} operators compared; {file}\n"
        f"{report.precision}; allowed: {tolerances}"
    )
    return [table, summary, "verified" if report.passed else f"{len(report.problems)} problem(s)"]

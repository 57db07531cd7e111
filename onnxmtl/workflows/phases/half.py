"""What float16 costs in quality: the emitted model's metrics beside those of the float32 weights."""

from __future__ import annotations

from pathlib import Path

from onnxmtl import runtime
from onnxmtl.deploy.verify import VerifyReport
from onnxmtl.workflows.emitted_metrics import evaluate_emitted
from onnxmtl.workflows.session import Metrics, Session


def measured_half(
    file: Path, session: Session, single: Metrics, verified: VerifyReport
) -> tuple[Metrics, tuple[str, ...]]:
    """Run the emitted float16 model over the validation set.

    Args:
        file: The emitted model.
        session: Has the tasks and the data.
        single: What the float32 model reaches.
        verified: How its outputs compare with those of torch in float32.

    Returns:
        Its metrics, and a line per task: its first metric in both precisions, and how far its outputs are apart.
    """
    found = evaluate_emitted(runtime.session(file), session.tasks, session.data.val)
    errors = {check.task: check.optimized_error for check in verified.tasks}
    lines = []
    for task in session.tasks:
        values = found[task.name][task.primary], single[task.name][task.primary]
        lines.append(
            f"float16: {task.name}: {task.primary} {values[0]:.4g}, in float32 {values[1]:.4g}; "
            f"outputs apart by {errors[task.name]:.1e}"
        )
    return found, tuple(lines)

"""The passes from a supermodel and an architecture to the multi-task model. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmtl.ir.passes import PassBase
from onnxmtl.passes.select import MarkMultitask, select_passes
from onnxmtl.policy import Architecture


def selection(architecture: Architecture) -> Sequence[PassBase]:
    """``select``, also where nothing was to be decided: one task, or all sites forced to be shared."""
    return select_passes(architecture) if architecture.choices else [MarkMultitask(architecture)]

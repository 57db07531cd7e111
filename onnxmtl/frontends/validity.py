"""Whose fault is it? A pass that trips over a model was given a damaged one, or has a bug."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.io import skeleton


def fault(model: ir.Model) -> str | None:
    """What onnx's checker and strict shape inference object to in a model, in one line; None if it is valid ONNX.

    Large weights are not read: they stand as inputs of the graph.
    """
    try:
        onnx.checker.check_model(skeleton(model), full_check=True)
    except Exception as error:  # arbitrary content: also what cannot be written or checked at all is a fault
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return None


def blamed(error: Exception, read: Callable[[], ir.Model], where: str) -> Exception:
    """What to raise where a pass failed unexpectedly on a user's model.

    Args:
        error: The failure.
        read: Reads the model again: the one that failed has been changed on the way.
        where: What the user calls the model.

    Returns:
        A ModelError if the model is no valid ONNX, else `error`: a bug of ours.
    """
    found = fault(read())
    if found is None:
        return error
    return ModelError(f"{where}: is no valid ONNX model ({found}); export it again")

"""A model's tasks, each to be computed without the others."""

from __future__ import annotations

import os
from pathlib import Path

from onnxmtl.deploy.entry_points import EntryPoints
from onnxmtl.deploy.entry_points import write_entry_points as write
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import RunError


def write_entry_points(
    run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, join: bool = True
) -> EntryPoints:
    """Cut a finished run's model, or any model file, into segments by the tasks that need them. Needs no torch.

    ``onnxmtl.runtime.load`` of the directory gives a model to be called as ``model(image, tasks=["depth"])``.

    Args:
        run: A run's directory, or an ONNX file with one image input.
        out: The directory; new or empty. Default: ``entry_points`` in the run, or beside the file.
        join: Whether segments are joined that cost more to call than they save.

    Returns:
        What was written. With the runtime's optimizations off it computes the same bits as the model.

    Raises:
        OnnxMTLError: There is no model, it cannot be cut, or `out` cannot be written; one clear line.
    """
    place = Path(run)
    if place.is_dir() and not (place / MODEL_FILE).is_file():
        msg = f"{place}: no {MODEL_FILE} in it; give the directory of a finished run, or an ONNX file"
        raise RunError(msg)
    return write(place, out, join=join)

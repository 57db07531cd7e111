"""Caffe networks: ``.prototxt`` (Caffe's and AutoMTL's dialects) and ``.caffemodel``. ::

    model = onnxmtl.frontends.prototxt.load("deploy.prototxt", weights="net.caffemodel")
    onnxmtl.frontends.prototxt.save(model, "again.prototxt", "again.caffemodel")

The text is read by :mod:`.text` into the messages of :mod:`.schema`, and converted by :mod:`.convert` with one
converter per layer type (:mod:`.layers`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.convert import convert
from onnxmtl.frontends.prototxt.dialect import Dialect
from onnxmtl.frontends.prototxt.export import save
from onnxmtl.frontends.prototxt.text import read as read_text
from onnxmtl.frontends.prototxt.weights import read as read_weights

__all__ = ["Dialect", "load", "save"]


def load(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    phase: Literal["test", "train"] = "test",
) -> ir.Model:
    """Read a prototxt file.

    Args:
        path: The ``.prototxt`` of the network, not of the solver.
        weights: A ``.caffemodel``; layers are matched by name. Without it weights are drawn as their fillers say,
            equal in every run.
        dialect: ``caffe`` or ``automtl``; ``auto`` tells them apart by their fields.
        phase: Whose layers are taken, where the file has layers of TRAIN or TEST only.

    Returns:
        An opset 21 model, its batch size free; node names are layer names, tensor names blob names (of an in-place
        layer's output ``<blob>.<layer>``), weights ``<layer>.weight`` and so on. What was ignored, left out or
        initialized is in :func:`onnxmtl.ir.diagnostics`.

    Raises:
        ModelError: A file cannot be read, or is not as Caffe reads it; one line with file and line. All layers
            that are not supported are named in one message.
    """
    if dialect not in get_args(Dialect) or phase not in ("test", "train"):
        msg = f"{path}: dialect {dialect!r}, phase {phase!r}; there are {', '.join(get_args(Dialect))}; and test, train"
        raise ModelError(msg)
    document = read_text(Path(path))
    trained = None if weights is None else read_weights(Path(weights))
    return convert(document, trained, dialect=dialect, phase=phase)

"""Recomputing an emitted model's outputs with torch, for ``onnxmtl verify --against torch``. The only use of torch
in this room, and it is loaded when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.errors import MissingDependencyError, ModelError
from onnxmtl.frontends.onnx import load
from onnxmtl.passes.finalize import SeparateSiblings
from onnxmtl.passes.normalize.precision import ToFloat32
from onnxmtl.passes.pipelines import Pipeline

_INSTALL = "--against torch needs torch: pip install 'onnxmtl[train]'"


def torch_outputs(file: Path, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Lower the model in `file` to torch and run it on `inputs`, in float32.

    Returns:
        Name of the output -> array.

    Raises:
        MissingDependencyError: torch is not installed.
        ModelError: The model is unreadable, has several inputs, or an operator we cannot lower.
    """
    try:
        import torch

        from onnxmtl.lowering import to_torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(_INSTALL) from error
    model = Pipeline([SeparateSiblings(), ToFloat32()], name="to torch")(load(file)).model
    module = to_torch(model).eval()
    if len(inputs) != 1:
        msg = f"{file}: the certificate has {len(inputs)} inputs; torch recomputes models with one image input"
        raise ModelError(msg)
    (images,) = inputs.values()
    with torch.no_grad():
        results = module(torch.from_numpy(np.ascontiguousarray(images)))
    return {name: tensor.numpy() for name, tensor in results.items()}

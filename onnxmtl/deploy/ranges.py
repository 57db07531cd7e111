"""How large the numbers inside a model get, measured in ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.ir import EXTERNAL_DATA_BYTES, clone, save, to_bytes, weight_bytes


def largest_activations(model: ir.Model, images: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, float]:
    """Name of each float32 value that a node makes -> its largest absolute number on the images.

    Args:
        model: With one image input; not changed.
        images: Float32 [N, C, H, W]; run one by one, for all activations of an image are held at once.

    Returns:
        nan or inf where a number is.

    Raises:
        ModelError: ONNX Runtime does not load or does not run the model.
    """
    copy = clone(model)
    shown = set(copy.graph.outputs)
    for node in copy.graph:
        for value in node.outputs:
            if value.name and value.dtype is ir.DataType.FLOAT and value not in shown:
                copy.graph.outputs.append(value)
    names = [str(value.name) for value in copy.graph.outputs if value.dtype is ir.DataType.FLOAT]
    with tempfile.TemporaryDirectory(prefix="onnxmtl-") as folder:
        large = weight_bytes(copy) > EXTERNAL_DATA_BYTES  # too large for one message: by way of a file
        opened = runtime.session(save(copy, Path(folder, "model.onnx")) if large else to_bytes(copy), optimize=False)
        found = dict.fromkeys(names, 0.0)
        for image in images:
            for name, array in runtime.run(opened, image[None], names).items():
                found[name] = float(np.maximum(found[name], np.abs(array).max(initial=0.0)))  # keeps nan
    return found

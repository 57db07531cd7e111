"""Weights as a ``.caffemodel``: blobs with shapes, by layer name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.export.net import Written
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.frontends.prototxt.weights import MAX_BYTES


def to_bytes(name: str, layers: Sequence[Written]) -> bytes:
    """The weights of all layers that have some; equal weights give equal bytes.

    ``WeightFile`` has the numbers of ``NetParameter``, with packed floats as bytes.

    Raises:
        ModelError: They do not fit into one protobuf message.
    """
    size = sum(4 * int(np.prod(weight.shape, dtype=object)) for layer in layers for weight in layer.weights)
    if size > MAX_BYTES - 2**20:
        msg = (
            f"the weights take {size / 1e9:.1f} GB, a .caffemodel holds 2; write the prototxt alone, without --weights"
        )
        raise ModelError(msg)
    file = message("WeightFile")
    file.name = name.encode()
    for layer in layers:
        if not layer.weights:
            continue
        entry = file.layer.add(name=layer.message.name.encode(), type=layer.message.type.encode())
        for weight in layer.weights:
            blob = entry.blobs.add()
            blob.shape.dim.extend(weight.shape)
            blob.data.append(np.ascontiguousarray(weight.numbers(), "<f4").tobytes())
    content: bytes = file.SerializeToString(deterministic=True)
    return content

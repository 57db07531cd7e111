"""What single-task networks see: their features behind every block, on the same images (RSA; What-to-Share).

Two tasks whose networks tell the same images apart at a depth can share up to there;
:mod:`onnxmtl.recommend.similarity` compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl import runtime
from onnxmtl.data import Dataset, Subset, iterate
from onnxmtl.errors import ModelError
from onnxmtl.kinds import TaskSet

IMAGES = 64
_BATCH = 16

Images = np.ndarray[Any, np.dtype[np.float32]]


def sample_images(dataset: Dataset, tasks: TaskSet, count: int = IMAGES) -> Images:
    """Evenly spaced images of a data set, [N, C, H, W]."""
    indices = sorted({int(i) for i in np.linspace(0, len(dataset) - 1, min(count, len(dataset)))})
    return np.concatenate([batch.images.numpy() for batch in iterate(Subset(dataset, indices), tasks, _BATCH)])


def features(
    trained: ir.Model, tensors: Sequence[str], images: Images, optional: Collection[str] = ()
) -> list[Images | None]:
    """What a network computes at each of these tensors, [N, …]; None for those that it does not come to.

    Args:
        trained: A network with the tensors in it.
        tensors: Names of the newest tensor of each block.
        images: [N, C, H, W].
        optional: Those of the tensors that the network may do without: its head may read an earlier feature.

    Raises:
        ModelError: ONNX Runtime cannot run the network, or it has no such tensor.
    """
    model = graphs.clone(trained)
    named = {str(value.name): value for node in model.graph for value in node.outputs}
    if missing := [tensor for tensor in tensors if tensor not in named and tensor not in optional]:
        msg = f"the trained network has no tensor {missing[0]!r} any more; cut the backbone elsewhere (--at)"
        raise ModelError(msg)
    there = list(dict.fromkeys(tensor for tensor in tensors if tensor in named))
    if not there:
        return [None] * len(tensors)
    model.graph.outputs[:] = [named[tensor] for tensor in there]
    session = runtime.session(graphs.to_bytes(model), threads=1)  # sums in one order
    name = str(model.graph.inputs[0].name)
    parts = [runtime.run(session, {name: images[i : i + _BATCH]}) for i in range(0, len(images), _BATCH)]
    found = {tensor: np.concatenate([part[tensor] for part in parts]) for tensor in there}
    return [found.get(tensor) for tensor in tensors]

"""Another image size than the exported one."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import read_features, write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, new_initializer, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.dilate import fit_reshape, forget_shapes
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.shapes import infer_node, infer_shapes
from onnxmtl.passes.normalize.spatial import constant_ints, trace


class SetOpenSize(InPlacePass):
    """Fixes an image size that the export left open (symbolic height or width), before anything else looks at it.

    Args:
        size: (height, width).
    """

    preserves_numerics = True

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = check_size(size)

    def call(self, model: ir.Model) -> PassResult:
        """Fill in what is not fixed."""
        changed = False
        for value in model.graph.inputs:
            dims = [] if value.shape is None or value.is_initializer() else list(value.shape)
            if len(dims) == 4 and not all(isinstance(dim, int) for dim in dims[2:]):
                filled = [dim if isinstance(dim, int) else new for dim, new in zip(dims[2:], self.size, strict=True)]
                value.shape = ir.Shape([*dims[:2], *filled])
                changed = True
        if changed:  # the annotations behind it hold the open sizes
            for node in model.graph:
                forget_shapes(node)
        return PassResult(model, changed)


class SetInputSize(InPlacePass):
    """Gives the image another height and width.

    Convolutions and pooling take any size; a channel shuffle's Reshape and a Resize to fixed sizes are rewritten.

    Requires: shapes are inferred; the classifier is cut off. Ensures: shapes and features fit the new size.

    Args:
        size: (height, width).

    Raises:
        ModelError: The size is baked into a node; names it. Or the image is too small for the network.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = check_size(size)

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite in graph order."""
        graph = model.graph
        image = image_input(graph)
        assert image.shape is not None
        old = tuple(list(image.shape)[2:])
        if old == self.size:
            return PassResult(model, False)
        plan = trace(graph, image)
        resized = {node: ratio for node in graph if (ratio := _resize_ratio(node)) is not None}
        image.shape = ir.Shape([*list(image.shape)[:2], *self.size])
        namer, opsets = Namer(graph), dict(graph.opset_imports)
        try:
            for node in graph:
                if node in plan.reshapes:
                    fit_reshape(graph, node, namer)
                elif node in resized:
                    _fit_resize(graph, node, resized[node], namer)
                forget_shapes(node)
                infer_node(node, opsets)
            infer_shapes(model, complete=True)
        except ModelError as e:
            height, width = self.size
            msg = f"the network does not take {height}x{width} images, it was exported for {old[0]}x{old[1]}: {e}"
            raise ModelError(msg) from e
        if read_features(model):
            write_features(model)
        report(model, Diagnostic("input-size", f"images are {self.size[0]}x{self.size[1]} now, were {old[0]}x{old[1]}"))
        return PassResult(model, True)


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Two positive integers.

    Raises:
        ModelError: They are not.
    """
    if len(size) != 2 or not all(isinstance(number, int) and number > 0 for number in size):
        msg = f"the input size must be two positive numbers, HxW, not {size!r}"
        raise ModelError(msg)
    return size[0], size[1]


def _resize_ratio(node: ir.Node) -> list[float] | None:
    """Output over input size per axis, for a Resize to constant sizes; None for other nodes."""
    if node.op_type != "Resize" or len(node.inputs) < 4 or constant_ints(node.inputs[3]) is None:
        return None
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None:
        return None
    pairs = zip(before.shape, after.shape, strict=True)
    return [b / a if isinstance(a, int) and isinstance(b, int) else 1.0 for a, b in pairs]


def _fit_resize(graph: ir.Graph, node: ir.Node, ratio: list[float], namer: Namer) -> None:
    data, sizes = node.inputs[0], constant_ints(node.inputs[3])
    assert data is not None and data.shape is not None and sizes is not None
    axes = list(node.attributes.get_ints("axes") or range(len(data.shape)))
    for i, axis in enumerate(axes):
        dim = data.shape[axis]
        if isinstance(dim, int):
            sizes[i] = math.floor(dim * ratio[axis] + 0.5)
    value = new_initializer(graph, namer.unique(f"{node.name}.sizes"), np.array(sizes, np.int64))
    node.replace_input_with(3, value)

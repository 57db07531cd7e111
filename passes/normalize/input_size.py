"""Another image size than the exported one."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import read_features, write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, new_initializer, report, shape_text
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.batch_sizes import batch_axis, batch_multiple
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
        joined = _joined(graph)
        rows = {node: _rows(node) for node in graph if node.op_type == "Reshape"}
        image.shape = ir.Shape([*list(image.shape)[:2], *self.size])
        namer, opsets = Namer(graph), dict(graph.opset_imports)
        try:
            for node in graph:
                if node in plan.reshapes:
                    fit_reshape(graph, node, namer)
                elif node in resized:
                    _fit_resize(graph, node, resized[node], namer)
                if node in joined:
                    _follow(graph, node, joined[node], namer)
                forget_shapes(node)
                infer_node(node, opsets)
                if node in rows and rows[node] != _rows(node):
                    _refuse_reshape(node, self.size)
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


def _joined(graph: ir.Graph) -> dict[ir.Node, ir.Value]:
    """Resize node -> a map of the same size, computed before, that its result is added to or concatenated with.

    Who resizes to join (a pyramid's way down, DeepLab's image level) means that map's size, whatever the export says.
    A Resize that stands before that map moves behind it.
    """
    found: dict[ir.Node, ir.Value] = {}
    place = {node: i for i, node in enumerate(graph)}
    for node in place:
        size = _size(node.outputs[0])
        if node.op_type != "Resize" or size is None or not node.outputs[0].uses():
            continue
        first = min(node.outputs[0].consumers(), key=lambda consumer: place[consumer])
        if first.op_type not in ("Add", "Concat", "Sum", "Mul"):
            continue
        others = [value for value in first.inputs if value is not None and _size(value) == size]
        makers = [(maker, value) for value in others if (maker := value.producer()) is not None]
        other = next((value for maker, value in makers if maker.op_type != "Resize"), None)
        if other is not None:
            found[node] = other
            graph.remove(node)
            graph.insert_before(first, node)
    return found


def _size(value: ir.Value | None) -> tuple[int, int] | None:
    dims = [] if value is None or value.shape is None else list(value.shape)
    if len(dims) != 4 or not isinstance(dims[2], int) or not isinstance(dims[3], int):
        return None
    return dims[2], dims[3]


def _follow(graph: ir.Graph, node: ir.Node, value: ir.Value, namer: Namer) -> None:
    """Resize to the size of `value`, unless the node's own scales lead there anyway."""
    infer_node(node, dict(graph.opset_imports))
    size = _size(value)
    if size is None or _size(node.outputs[0]) == size:
        return
    sizes = new_initializer(graph, namer.unique(f"{node.name}.sizes"), np.array(size, np.int64))
    node.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])
    node.resize_inputs(4)
    node.replace_input_with(2, None)
    node.replace_input_with(3, sizes)


def _rows(node: ir.Node) -> Fraction | None:
    """Rows that a Reshape makes of one row: 1 where every image stays one, 16 where it becomes 16 windows."""
    multiples = []
    for value in (node.inputs[0], node.outputs[0]):
        axis = None if value is None else batch_axis(value.shape)
        multiple = None if axis is None or value is None or value.shape is None else batch_multiple(value.shape[axis])
        if multiple is None:
            return None
        multiples.append(multiple[0])
    return Fraction(multiples[1], multiples[0])


def _refuse_reshape(node: ir.Node, size: tuple[int, int]) -> NoReturn:
    """Images must not be taken apart into other images."""
    data, target = node.inputs[0], constant_ints(node.inputs[1])
    shape = None if data is None else data.shape
    msg = (
        f"it is part of node {node.name!r} (Reshape), which makes {target} of {shape_text(shape)}; export the model "
        f"for {size[0]}x{size[1]} images"
    )
    raise ModelError(msg)


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

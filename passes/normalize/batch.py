"""Any batch size: dimension 0 of the image becomes "N", and batch sizes baked into the graph are opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, copy_initializer, counted, listed, new_initializer, report, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.batch_sizes import BATCH, batch_axis, batch_multiple
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.resize import resize_height_and_width
from onnxmtl.passes.normalize.shapes import infer_node

# Where a constant meets the images element by element.
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Where"})
_BROADCASTING = _ELEMENTWISE | {"Pow", "Max", "Min", "Sum", "Mean", "PRelu"}


class DynamicBatch(InPlacePass):
    """Opens the batch dimension.

    Rewritten where the exported batch size is baked in: targets of Reshape, shapes of Expand, sizes of Resize, and
    constants that are joined to the images (a class token) or repeated for each of them. A zero in a Reshape target
    copies the input's dimension, or is a real zero under ``allowzero=1``, and -1 may stand once.

    Requires: constants are folded and shapes inferred.
    Ensures: the image is ["N", C, H, W], and dimension 0 of every output of the graph is "N".

    Raises:
        ModelError: The batch size is baked in where it cannot be rewritten; names the node.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Open and repair, in graph order."""
        graph = model.graph
        image = image_input(graph)
        assert image.shape is not None
        fixed = image.shape[0]
        changed = image.shape[0] != ir.SymbolicDim(BATCH)
        image.shape = ir.Shape([BATCH, *list(image.shape)[1:]])
        repair = _Repair(graph, fixed if isinstance(fixed, int) else None, Namer(graph))
        opsets: Mapping[str, int] = dict(graph.opset_imports)
        repaired: list[str] = []
        for node in graph:
            if repair.visit(node):
                repaired.append(str(node.name))
            _check_aligned(node)
            changed |= _infer(node, opsets)
            repair.follow(node)
        if repaired:
            size = fixed if isinstance(fixed, int) else 1
            where = f"{counted(len(repaired), 'node')} ({listed(repaired)})"
            message = f"batch size {size} was baked into {where}; any batch is taken now"
            report(model, Diagnostic("batch-opened", message))
        for value in graph.outputs:
            if value.shape is not None and value.shape[0] != ir.SymbolicDim(BATCH):
                _refuse(value)
        return PassResult(model, changed or bool(repaired))


def _check_aligned(node: ir.Node) -> None:
    """One image may broadcast where a batch does not: against the rows of a map, say."""
    if node.domain != "" or node.op_type not in _BROADCASTING or not any(has_batch(value) for value in node.inputs):
        return
    shapes = [value.shape for value in node.inputs if value is not None and value.shape is not None]
    for place in range(1, max(len(shape) for shape in shapes) + 1):
        dims = [shape[-place] for shape in shapes if len(shape) >= place]
        fixed = next((dim for dim in dims if isinstance(dim, int) and dim > 1), None)
        if fixed is not None and any(not isinstance(dim, int) and batch_multiple(dim) is not None for dim in dims):
            msg = (
                f"the batch size is baked into node {node.name!r} ({node.op_type}): it joins the batch with a "
                f"dimension of {fixed}; export the model with a dynamic batch"
            )
            raise ModelError(msg)


def has_batch(value: ir.Value | None) -> bool:
    """Whether one dimension of the value is the batch, or a multiple of it (windows of images)."""
    return value is not None and batch_axis(value.shape) is not None


class _Repair:
    """Rewrites of one node each. `fixed` is the exported batch size; None if the file says that any will do."""

    def __init__(self, graph: ir.Graph, fixed: int | None, namer: Namer) -> None:
        self.graph, self.fixed, self.namer = graph, fixed, namer
        # In a dimension k·N, which part of k is more significant than N: 16 for [16, N] merged, 1 for [N, 16].
        self._before: dict[ir.Value, int] = {}

    def visit(self, node: ir.Node) -> bool:
        """Repair `node` if it needs it; its inputs have their new shapes."""
        if node.domain != "" or not any(has_batch(value) for value in node.inputs):
            return False
        if self.fixed is None:
            return node.op_type == "Reshape" and self._reshape_of_one(node)
        if node.op_type == "Concat":
            return self._join(node)
        if node.op_type in _ELEMENTWISE:
            return self._repeated(node)
        data = node.inputs[0]
        if data is None or not has_batch(data):
            return False
        if node.op_type == "Reshape":
            return self._reshape(node, data, self.fixed)
        if node.op_type == "Expand":
            return self._expand(node, data)
        if node.op_type == "Resize":
            return self._resize(node, data)
        return False

    def follow(self, node: ir.Node) -> None:
        """What is known of the inputs' batch dimension holds for the outputs'."""
        source = next((self._before[v] for v in node.inputs if v is not None and v in self._before), None)
        if source is not None:
            for value in node.outputs:
                if has_batch(value):
                    self._before.setdefault(value, source)

    def _reshape_of_one(self, node: ir.Node) -> bool:
        """The file says that any batch will do, and a target without -1 that only one image will."""
        target, data = _constant(node.inputs[1]), node.inputs[0]
        axis = None if data is None else batch_axis(data.shape)
        if data is None or axis is None or not target or -1 in target:
            return False
        copies = not node.attributes.get_int("allowzero", 0)
        if copies and axis < len(target) and target[axis] == 0:
            return False
        return self._reshape(node, data, 1)

    def _reshape(self, node: ir.Node, data: ir.Value, fixed: int) -> bool:
        """The batch keeps its place in the order of the elements: that says which dimension of the target it is."""
        target, axis = _constant(node.inputs[1]), batch_axis(data.shape)
        if not target or axis is None or data.shape is None:
            return False
        multiple = batch_multiple(data.shape[axis])
        assert multiple is not None
        sizes = [dim if isinstance(dim, int) else multiple[0] * fixed for dim in data.shape]
        copies = not node.attributes.get_int("allowzero", 0)
        exported = [sizes[i] if dim == 0 and copies and i < len(sizes) else dim for i, dim in enumerate(target)]
        if -1 in exported:
            known = -math.prod(exported)
            if known <= 0 or math.prod(sizes) % known:
                return False
            exported[exported.index(-1)] = math.prod(sizes) // known
        if math.prod(exported) != math.prod(sizes):
            return False
        before = self._before.get(data, 1)
        outer = math.prod(sizes[:axis]) * before
        inner = multiple[0] // before * math.prod(sizes[axis + 1 :])
        place = _place(exported, outer, inner, fixed, merged=len(exported) < len(sizes))
        if place is None:
            return False
        self._before[node.outputs[0]] = outer // math.prod(exported[:place])
        if target[place] == -1 or (target[place] == 0 and copies and place == axis):
            return False  # follows the batch already
        exported[place] = -1
        node.attributes.pop("allowzero", None)
        self._constant_input(node, 1, "shape", exported)
        return True

    def _expand(self, node: ir.Node, data: ir.Value) -> bool:
        target, axis = _constant(node.inputs[1]), batch_axis(data.shape)
        if target is None or axis is None or data.shape is None:
            return False
        axis += len(target) - len(data.shape)
        if axis < 0 or target[axis] == 1:  # 1 broadcasts
            return False
        self._constant_input(node, 1, "shape", [1 if i == axis else dim for i, dim in enumerate(target)])
        return True

    def _resize(self, node: ir.Node, data: ir.Value) -> bool:
        sizes = _constant(node.inputs[3] if len(node.inputs) > 3 else None)
        if sizes is None or data.shape is None or len(sizes) != len(data.shape) or "axes" in node.attributes:
            return False
        return resize_height_and_width(node, sizes, self.graph, self.namer)

    def _join(self, node: ir.Node) -> bool:
        """A value that is the same for all images (a class token) is joined to the images: expand it to the batch."""
        images = next(value for value in node.inputs if has_batch(value))
        assert images is not None and images.shape is not None
        axis = batch_axis(images.shape)
        if axis is None or node.attributes["axis"].as_int() % len(images.shape) == axis:
            return False
        changed = False
        for index, value in enumerate(node.inputs):
            if value is None or value.shape is None or has_batch(value):
                continue
            single = self._single(value, axis, len(images.shape), node)
            if single is None or single.shape is None:
                msg = (
                    f"the batch size is baked into {value.name!r}, which node {node.name!r} (Concat) joins with the "
                    "images; export the model with a dynamic batch"
                )
                raise ModelError(msg)
            node.replace_input_with(index, self._expanded(single, images, axis, node))
            changed = True
        return changed

    def _repeated(self, node: ir.Node) -> bool:
        """A constant repeated for each of the exported images broadcasts when it is there once."""
        images = next(value for value in node.inputs if has_batch(value))
        assert images is not None and images.shape is not None
        axis = batch_axis(images.shape)
        changed = False
        for index, value in enumerate(node.inputs):
            if axis is None or value is None or value.shape is None or has_batch(value):
                continue
            place = axis + len(value.shape) - len(images.shape)
            if place < 0 or value.shape[place] == 1:
                continue
            single = self._single(value, place, len(value.shape), node)
            if single is not None:
                node.replace_input_with(index, single)
                changed = True
        return changed

    def _single(self, value: ir.Value, axis: int, rank: int, node: ir.Node) -> ir.Value | None:
        """The value with one element along `axis`; None if its elements there are not all the same."""
        if value.shape is None or len(value.shape) != rank:
            return None
        if value.shape[axis] == 1:
            return value
        producer = value.producer()
        if producer is not None and producer.op_type in ("Expand", "Tile") and producer.domain == "":
            source = producer.inputs[0]
            if source is None or source.shape is None or len(source.shape) != rank or source.shape[axis] != 1:
                return None
            pairs = enumerate(zip(source.shape, value.shape, strict=True))
            return source if all(a == b for i, (a, b) in pairs if i != axis) else None
        if value.const_value is None or value.is_graph_input():
            return None
        array = value.const_value.numpy()
        first = array.take([0], axis)
        if not np.array_equal(np.broadcast_to(first, array.shape), array):
            return None
        single = copy_initializer(self.graph, value, self.namer.unique(f"{node.name}.once"), ir.tensor(first))
        single.shape = ir.Shape(first.shape)
        return single

    def _expanded(self, value: ir.Value, images: ir.Value, axis: int, node: ir.Node) -> ir.Value:
        """Nodes that repeat `value` [.., 1, ..] as often as there are images."""
        assert value.shape is not None
        dims = list(value.shape)
        count = self._node("Shape", [images], f"{node.name}.batch", ir.DataType.INT64, node, start=axis, end=axis + 1)
        parts = []
        for name, part in (("front", dims[:axis]), ("back", dims[axis + 1 :])):
            if part:
                array = np.array([dim for dim in part if isinstance(dim, int)], np.int64)
                parts.append(new_initializer(self.graph, self.namer.unique(f"{node.name}.{name}"), array))
            if name == "front":
                parts.append(count)
        shape = self._node("Concat", parts, f"{node.name}.shape", ir.DataType.INT64, node, axis=0)
        return self._node("Expand", [value, shape], f"{node.name}.expanded", value.dtype, node)

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, dtype: ir.DataType | None, node: ir.Node, **ints: int
    ) -> ir.Value:
        out = ir.Value(name=self.namer.unique(name), type=None if dtype is None else ir.TensorType(dtype))
        attributes = [ir.AttrInt64(key, number) for key, number in ints.items()]
        new = ir.Node("", op_type, inputs, attributes, outputs=[out], name=self.namer.unique(f"{name}.node"))
        self.graph.insert_before(node, stamp(new, DynamicBatch.__name__, node))
        infer_node(new, dict(self.graph.opset_imports))
        return out

    def _constant_input(self, node: ir.Node, index: int, what: str, dims: Sequence[int]) -> None:
        value = new_initializer(self.graph, self.namer.unique(f"{node.name}.{what}"), np.array(dims, np.int64))
        node.replace_input_with(index, value)


def _place(dims: Sequence[int], outer: int, inner: int, fixed: int, *, merged: bool) -> int | None:
    """The dimension of a Reshape's target that holds the batch.

    Args:
        dims: The target, with the exported batch size in it.
        outer: Elements more significant than the batch in the order of the elements.
        inner: Elements less significant than it.
        fixed: The exported batch size.
        merged: Whether the Reshape reduces the number of dimensions.

    With a batch of 1 several may do. Best is a dimension that is the batch and nothing else; then, where dimensions
    are merged, the one after which everything stays as it was ([L, N, C] is [L*N, C]), else the one that begins with
    the batch ([L, N, heads*d] is [L, N*heads, d]).
    """
    found = []
    size = 1
    for i, dim in enumerate(dims):
        lead = outer // size if size and outer % size == 0 else 0
        if lead and dim % (lead * fixed) == 0:
            alone, begins = lead == 1 and dim == fixed, lead == 1
            kept = math.prod(dims[i + 1 :]) == inner
            rank = (alone, kept, begins) if merged else (alone, begins, kept)
            found.append((rank, -i))
        size *= dim
    return -max(found)[1] if found else None


def _constant(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [int(dim) for dim in value.const_value.numpy().reshape(-1)]


def _infer(node: ir.Node, opsets: Mapping[str, int]) -> bool:
    """Infer the outputs anew where the batch reaches the node: annotations hold the exported batch size."""
    if not any(has_batch(value) for value in node.inputs):
        return infer_node(node, opsets)
    old = [value.shape for value in node.outputs]
    for value in node.outputs:
        value.shape = None
    infer_node(node, opsets)
    for value, shape in zip(node.outputs, old, strict=True):
        if value.shape is None and shape is not None:  # nothing to infer by: all but dimension 0 is believed
            value.shape = ir.Shape([None, *list(shape)[1:]]) if len(shape) else shape
        elif value.shape is not None and shape is not None and len(shape) == len(value.shape):
            _believe(value, shape)
    return [value.shape for value in node.outputs] != old


def _believe(value: ir.Value, annotated: ir.Shape) -> None:
    """Fill what inference does not know from the annotation, if the batch is at another place for sure."""
    assert value.shape is not None
    dims = list(value.shape)
    if any(not isinstance(dim, int) and batch_multiple(dim) is not None for dim in dims):
        known = [
            new if isinstance(new, int) or new.value is not None else old
            for new, old in zip(dims, annotated, strict=True)
        ]
        value.shape = ir.Shape(known)


def _refuse(output: ir.Value) -> None:
    """Name the node at which the batch gets lost."""
    node = output.producer()
    while node is not None:
        before = next((v for v in node.inputs if v is not None and not v.is_initializer() and v.producer()), None)
        if before is None or any(has_batch(v) for v in node.inputs):
            break
        node = before.producer()
    name = "" if node is None else f" by node {node.name!r} ({node.op_type})"
    msg = f"the batch size is baked into {output.name!r}{name}; export the model with a dynamic batch"
    raise ModelError(msg)

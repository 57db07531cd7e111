"""Any batch size: dimension 0 of the image becomes "N", and batch sizes baked into the graph are opened."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, new_initializer, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.resize import resize_height_and_width
from onnxmtl.passes.normalize.shapes import BATCH, batch_multiple, infer_node


class DynamicBatch(InPlacePass):
    """Opens the batch dimension.

    Rewritten where the exported batch size is baked in: targets of Reshape, shapes of Expand, sizes of Resize. A zero
    in a Reshape target copies the input's dimension, or is a real zero under ``allowzero=1``, and -1 may stand once.

    Requires: constants are folded and shapes inferred.
    Ensures: the image is ["N", C, H, W], and so is every output of the graph.

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
            _forget(node)
            changed |= infer_node(node, opsets)
            _check_join(node)
        if repaired:
            shown = ", ".join(repaired[:4]) + (f" and {len(repaired) - 4} more" if len(repaired) > 4 else "")
            message = f"batch size {fixed} was baked into {len(repaired)} nodes ({shown}); they take any batch now"
            report(model, Diagnostic("batch-opened", message))
        for value in graph.outputs:
            if value.shape is not None and value.shape[0] != ir.SymbolicDim(BATCH):
                _refuse(value)
        return PassResult(model, changed or bool(repaired))


def has_batch(value: ir.Value) -> bool:
    """Whether dimension 0 of the value is the batch, or a multiple of it (windows of images)."""
    return value.shape is not None and len(value.shape) > 0 and batch_multiple(value.shape[0]) is not None


class _Repair:
    """Rewrites of one node each. `fixed` is the exported batch size; None if the export was dynamic already."""

    def __init__(self, graph: ir.Graph, fixed: int | None, namer: Namer) -> None:
        self.graph, self.fixed, self.namer = graph, fixed, namer

    def visit(self, node: ir.Node) -> bool:
        """Repair `node` if it needs it; its inputs have their new shapes."""
        if self.fixed is None or node.domain != "" or not node.inputs or node.inputs[0] is None:
            return False
        if not has_batch(node.inputs[0]):
            return False
        if node.op_type == "Reshape":
            return self._reshape(node, node.inputs[0])
        if node.op_type == "Expand":
            return self._expand(node)
        if node.op_type == "Resize":
            return self._resize(node, node.inputs[0])
        return False

    def _reshape(self, node: ir.Node, data: ir.Value) -> bool:
        target = _constant(node.inputs[1])
        if not target or not (dims := static_dims(data)):
            return False
        multiple = batch_multiple(data.shape[0]) if data.shape is not None else None
        item = math.prod(dims) * (multiple[0] if multiple is not None else 1)  # elements of one image's part
        zero_copies = not node.attributes.get_int("allowzero", 0)
        if target[0] == -1 or (target[0] == 0 and zero_copies):
            return False  # follows the batch already
        assert self.fixed is not None
        rest = target[1:]
        if zero_copies:
            rest = [dims[i] if dim == 0 and i < len(dims) else dim for i, dim in enumerate(rest)]
        if -1 in rest:
            known = math.prod(dim for dim in rest if dim != -1) * target[0]
            if known <= 0 or item * self.fixed % known:
                return False
            rest[rest.index(-1)] = item * self.fixed // known
        # Rows of the result per image must be whole, or the batch is not the leading dimension of the result.
        size = math.prod(rest)
        if size <= 0 or item % size:
            return False
        node.attributes.pop("allowzero", None)
        self._constant_input(node, 1, "shape", np.array([-1, *rest], np.int64))
        return True

    def _expand(self, node: ir.Node) -> bool:
        target, data = _constant(node.inputs[1]), node.inputs[0]
        if target is None or data is None or data.shape is None or len(target) != len(data.shape):
            return False
        if target[0] != self.fixed or target[0] == 1:  # 1 broadcasts
            return False
        self._constant_input(node, 1, "shape", np.array([1, *target[1:]], np.int64))
        return True

    def _resize(self, node: ir.Node, data: ir.Value) -> bool:
        sizes = _constant(node.inputs[3] if len(node.inputs) > 3 else None)
        if sizes is None or data.shape is None or len(sizes) != len(data.shape) or "axes" in node.attributes:
            return False
        return resize_height_and_width(node, sizes, self.graph, self.namer)

    def _constant_input(
        self, node: ir.Node, index: int, what: str, array: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> None:
        value = new_initializer(self.graph, self.namer.unique(f"{node.name}.{what}"), array)
        node.replace_input_with(index, value)


def _constant(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [int(dim) for dim in value.const_value.numpy().reshape(-1)]


def static_dims(value: ir.Value) -> list[int]:
    """The dimensions behind the batch; empty if one of them is unknown, or there are none."""
    dims = [] if value.shape is None else list(value.shape)[1:]
    known = [dim for dim in dims if isinstance(dim, int)]
    return known if len(known) == len(dims) else []


def _forget(node: ir.Node) -> None:
    """Drop the batch size annotated on the outputs, so that inference decides it."""
    for value in node.outputs:
        if value.shape is not None and len(value.shape) and isinstance(value.shape[0], int):
            value.shape = ir.Shape([None, *list(value.shape)[1:]])


def _check_join(node: ir.Node) -> None:
    """A Concat of batched and unbatched values works for the exported batch size only."""
    if node.op_type != "Concat" or node.attributes.get_int("axis", 0) == 0:
        return
    inputs = [value for value in node.inputs if value is not None]
    fixed = [value for value in inputs if value.shape is not None and isinstance(value.shape[0], int)]
    if fixed and any(has_batch(value) for value in inputs):
        msg = (
            f"the batch size is baked into {fixed[0].name!r}, which node {node.name!r} (Concat) joins with the images; "
            "export the model with a dynamic batch"
        )
        raise ModelError(msg)


def _refuse(output: ir.Value) -> None:
    """Name the node at which the batch gets lost."""
    node = output.producer()
    while node is not None:
        before = next((v for v in node.inputs if v is not None and not v.is_initializer() and v.producer()), None)
        if before is None or has_batch(before) or any(has_batch(v) for v in node.inputs if v is not None):
            break
        node = before.producer()
    name = "" if node is None else f" by node {node.name!r} ({node.op_type})"
    msg = f"the batch size is baked into {output.name!r}{name}; export the model with a dynamic batch"
    raise ModelError(msg)

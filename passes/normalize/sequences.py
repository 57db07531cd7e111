"""Pieces of a tensor that an exporter keeps in a sequence are the outputs of a Split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, new_initializer, report, set_sources, sources
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.shapes import infer_node


class SplitSequences(InPlacePass):
    """SplitToSequence whose pieces are taken out by SequenceAt becomes one Split with explicit sizes.

    torch writes ``chunk()`` and ``split()`` that way under ``optimize=False``. The pieces keep their names.

    Requires: constants are folded; unique names.
    Ensures: no such sequence is left where the sizes, the positions and the split dimension are known; shapes behind
    it are inferred and shape arithmetic there is folded. Any other sequence stays as it is.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Walk until nothing is found: sizes of later pieces may depend on folding behind earlier ones."""
        modified = False
        while _walk(model.graph):
            FoldConstants()(model)
            modified = True
        for node in model.graph:
            if node.op_type == "SplitToSequence" and node.domain == "":
                report(model, Diagnostic("sequence-kept", _why_kept(node), str(node.name), "export with optimize=True"))
        return PassResult(model, modified)


def _why_kept(node: ir.Node) -> str:
    """The first reason for which a sequence cannot become a Split."""
    if _sizes(node) is None:
        return "stays a sequence: the sizes of its pieces are not known"
    if node.outputs[0].is_graph_output():
        return f"stays a sequence: {node.outputs[0].name!r} is an output"
    for user in node.outputs[0].consumers():
        if user.op_type != "SequenceAt" or user.domain != "":
            return f"stays a sequence: {user.op_type} {user.name!r} takes all of it"
        if _position(user, len(_sizes(node) or ())) is None:
            return f"stays a sequence: which piece {user.name!r} takes is not known"
    return "stays a sequence: one piece is two outputs of the model, or nothing takes a piece"


def _walk(graph: ir.Graph) -> bool:
    """Rewrite in graph order; shapes behind the first rewritten node are inferred on the way."""
    namer, opsets, found = Namer(graph), dict(graph.opset_imports), False
    for node in graph:
        if node.op_type == "SplitToSequence" and node.domain == "":
            found |= _rewrite(graph, node, namer)
        elif found:
            try:
                infer_node(node, opsets)
            except ModelError:
                continue  # it may lie behind the features; if not, InferShapes says it
    return found


def _rewrite(graph: ir.Graph, node: ir.Node, namer: Namer) -> bool:
    """Put a Split in place of the node and of those that take its pieces out; False if that cannot be done."""
    data = node.inputs[0]
    takers = [(use.node, use.idx) for use in node.outputs[0].uses()]
    sizes = _sizes(node)
    if data is None or sizes is None or not takers or node.outputs[0].is_graph_output():
        return False
    if any(user.op_type != "SequenceAt" or user.domain != "" or index != 0 for user, index in takers):
        return False
    positions = [_position(user, len(sizes)) for user, _ in takers]
    # One output of the Split cannot be two outputs of the graph.
    outputs = [i for (user, _), i in zip(takers, positions, strict=True) if user.outputs[0].is_graph_output()]
    if None in positions or len(set(outputs)) != len(outputs):
        return False
    pieces: dict[int, list[ir.Node]] = {}
    for (user, _), i in zip(takers, positions, strict=True):
        assert i is not None
        pieces.setdefault(i, []).append(user)
    _replace(graph, node, sizes, pieces, namer)
    return True


def _replace(
    graph: ir.Graph, node: ir.Node, sizes: Sequence[int], pieces: dict[int, list[ir.Node]], namer: Namer
) -> None:
    name, data = str(node.name), node.inputs[0]
    assert data is not None
    values = []
    for i in range(len(sizes)):
        users = pieces.get(i, [])
        # The name that is seen from outside, or else the first.
        named = next((u.outputs[0] for u in users if u.outputs[0].is_graph_output()), None) or (
            users[0].outputs[0] if users else None
        )
        value = ir.Value(name=namer.unique(f"{name}.{i}"), type=data.type)
        if named is not None:
            value.name, named.name = named.name, value.name
            value.metadata_props.update(named.metadata_props)
        values.append(value)
    split = new_initializer(graph, namer.unique(f"{name}.sizes"), np.array(sizes, np.int64))
    attributes = {"axis": node.attributes.get_int("axis", 0)}
    new = ir.node("Split", [data, split], attributes, outputs=values, name=name)
    new.metadata_props.update(node.metadata_props)
    members = [node, *(user for users in pieces.values() for user in users)]
    set_sources(new, dict.fromkeys(source for member in members for source in sources(member)))
    graph.insert_before(node, new)
    for i, users in pieces.items():
        for user in users:
            user.outputs[0].replace_all_uses_with(values[i], replace_graph_outputs=True)
    graph.remove([*members[1:], node], safe=True)
    infer_node(new, dict(graph.opset_imports))


def _sizes(node: ir.Node) -> list[int] | None:
    """Sizes of the pieces; None if they are not known."""
    data = node.inputs[0]
    axis = node.attributes.get_int("axis", 0)
    if data is None or data.shape is None or not -len(data.shape) <= axis < len(data.shape):
        return None
    total = data.shape[axis]
    if not isinstance(total, int) or total < 1:
        return None
    if not node.attributes.get_int("keepdims", 1):
        return None  # beside sizes it is to be ignored, but onnxruntime heeds it
    split = node.inputs[1] if len(node.inputs) > 1 else None
    if split is None:
        return [1] * total
    if split.const_value is None or split.is_graph_input():
        return None
    array = split.const_value.numpy()
    if array.ndim:
        sizes = [int(size) for size in array.reshape(-1)]
        return sizes if sizes and min(sizes) >= 0 and sum(sizes) == total else None
    size = int(array)
    return [min(size, total - start) for start in range(0, total, size)] if size > 0 else None


def _position(node: ir.Node, count: int) -> int | None:
    """Which piece a SequenceAt takes; None if that is not known or there is none."""
    index = node.inputs[1]
    if index is None or index.const_value is None or index.is_graph_input():
        return None
    position = int(index.const_value.numpy().reshape(-1)[0])
    return position % count if -count <= position < count else None

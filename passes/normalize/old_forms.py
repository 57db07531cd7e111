"""What onnx's version converter leaves out: operators that meant something else in old opsets."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir import Namer, set_sources, sources

_FLATTENED_BELOW = 13  # Hardmax took everything from its axis on as one axis
_RESIZED_BELOW = 11  # Upsample and Resize had no coordinate modes


def rewrite_old_forms(graph: ir.Graph, opset: int) -> None:
    """Before the conversion: Hardmax works on a matrix. (The converter does the same for Softmax.)

    Args:
        graph: Of opset `opset`, with names on all nodes.
        opset: The opset of the file.
    """
    if opset >= _FLATTENED_BELOW:
        return
    namer = Namer(graph)
    for node in [node for node in graph if node.op_type == "Hardmax" and node.domain == ""]:
        data, result, name = node.inputs[0], node.outputs[0], str(node.name)
        axis = ir.AttrInt64("axis", node.attributes.get_int("axis", 1))
        shape = ir.Value(name=namer.unique(f"{name}.shape"))
        rows = ir.Value(name=namer.unique(f"{name}.rows"))
        new = [
            ir.Node("", "Shape", [data], outputs=[shape], name=namer.unique(f"{name}.measure")),
            ir.Node("", "Flatten", [data], [axis], outputs=[rows], name=namer.unique(f"{name}.flatten")),
        ]
        graph.insert_before(node, new)
        back = ir.Node("", "Reshape", [result, shape], name=namer.unique(f"{name}.restore"))
        back.outputs[0].type, back.outputs[0].shape = result.type, result.shape
        graph.insert_after(node, back)
        back.outputs[0].name, result.name = result.name, namer.unique(f"{result.name}.matrix")
        result.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
        back.replace_input_with(0, result)
        result.shape = None
        node.replace_input_with(0, rows)
        node.attributes["axis"] = ir.AttrInt64("axis", 1)
        for added in (*new, back):
            set_sources(added, sources(node))


def resizes_without_coordinates(graph: ir.Graph, opset: int) -> frozenset[str]:
    """Names of the results of nodes that resize as Upsample and Resize did before opset 11."""
    if opset >= _RESIZED_BELOW:
        return frozenset()
    resizing = [node for node in graph if node.op_type in ("Upsample", "Resize") and node.domain == ""]
    return frozenset(str(node.outputs[0].name) for node in resizing)


def restore_coordinates(graph: ir.Graph, names: frozenset[str]) -> None:
    """After the conversion: element i lies at i / scale, and the element below is the nearest."""
    for node in graph:
        if node.outputs[0].name in names and node.op_type == "Resize":
            mode = ir.AttrString("coordinate_transformation_mode", "asymmetric")
            node.attributes["coordinate_transformation_mode"] = mode
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")

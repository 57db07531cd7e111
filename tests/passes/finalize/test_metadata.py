"""WriteMetadata and RemoveUnused: what an emitted model says of itself, and what it no longer carries."""

import json

import numpy as np
import onnx_ir as ir
from helpers.graphs import GraphBuilder

import onnxmtl
from onnxmtl.ir import new_initializer, to_bytes
from onnxmtl.passes.finalize import RemoveUnused, WriteMetadata


def forked() -> ir.Model:
    """A shared stem; seg goes on through one layer, depth takes the stem's feature, normals a layer of its own."""
    b = GraphBuilder()
    stem = b.conv(b.image, 4, name="stem")
    left, right = b.conv(b.relu(stem), 4, name="left"), b.conv(stem, 4, name="right")
    return b.heads({"seg": left, "depth": stem, "normals": right}, {"seg": 2, "depth": 1, "normals": 3})


def parts(model):
    return [(part["tasks"], part["layers"]) for part in json.loads(model.metadata_props["onnxmtl.parts"])]


def test_parts_name_the_users_layers():
    model = forked()
    assert WriteMetadata()(model).modified
    assert model.metadata_props["onnxmtl.kind"] == "final"
    assert model.metadata_props["onnxmtl.version"] == onnxmtl.__version__ == model.producer_version
    relu = next(node.name for node in model.graph if node.op_type == "Relu")
    assert parts(model) == [
        (["seg", "depth", "normals"], ["stem"]),
        (["seg"], [relu, "left"]),
        (["normals"], ["right"]),
    ]


def test_writing_twice_changes_nothing():
    model = forked()
    WriteMetadata()(model)
    once = to_bytes(model)
    assert not WriteMetadata()(model).modified
    assert to_bytes(model) == once


def test_the_order_of_metadata_does_not_show():
    one, two = forked(), forked()
    for key in ("a", "b"):
        one.metadata_props[key] = one.graph[0].metadata_props[key] = "x"
    for key in ("b", "a"):
        two.metadata_props[key] = two.graph[0].metadata_props[key] = "x"
    for model in (one, two):
        WriteMetadata()(model)
    assert to_bytes(one) == to_bytes(two)


def test_paths_of_the_users_machine_are_gone_and_other_metadata_stays():
    model = forked()
    secret = 'File "/home/someone/net.py", line 3'
    node = model.graph[0]
    node.doc_string = secret
    node.metadata_props["pkg.torch.onnx.stack_trace"] = secret
    node.outputs[0].metadata_props["pkg.torch.onnx.original_node_name"] = secret
    node.metadata_props["mine"] = "kept"
    model.metadata_props["onnxmtl.features"] = "[]"
    model.metadata_props["onnxmtl.tasks"] = "kept"
    WriteMetadata()(model)
    content = to_bytes(model)
    assert b"/home/someone" not in content
    assert node.metadata_props["mine"] == "kept" and model.metadata_props["onnxmtl.tasks"] == "kept"
    assert "onnxmtl.features" not in model.metadata_props


def test_unused_nodes_weights_functions_and_opsets_go():
    model = forked()
    graph = model.graph
    wanted = [node.name for node in graph], list(graph.initializers)
    value = new_initializer(graph, "unused", np.ones(3, np.float32))
    dead = ir.Node("", "Relu", [value], name="dead")
    graph.append(dead)
    graph.append(ir.Node("", "Relu", [dead.outputs[0]], name="deader"))
    graph.opset_imports["com.example"] = 1
    body = ir.Graph([], [], nodes=[], opset_imports={"": 21})
    function = ir.Function("com.example", "F", graph=body, attributes=[])
    model.functions[function.identifier()] = function
    assert RemoveUnused()(model).modified
    assert ([node.name for node in graph], list(graph.initializers)) == wanted
    assert not model.functions
    RemoveUnused()(model)
    assert list(graph.opset_imports) == [""]
    assert not RemoveUnused()(model).modified

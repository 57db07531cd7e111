from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.ir import Role, copy_initializer, copy_nodes, new_initializer, role_of, set_role, set_sources, to_bytes
from onnxmtl.ir.provenance import sources


def trunk():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 2, 4, 4]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    array = np.random.default_rng(0).standard_normal((2, 2, 1, 1)).astype(np.float32)
    weight = set_role(new_initializer(graph, "w", array), Role.BACKBONE)
    conv = ir.Node("", "Conv", [x, weight, None], [ir.AttrInt64s("strides", [1, 1])], name="conv", doc_string="first")
    relu = ir.Node("", "Relu", [conv.outputs[0]], name="relu", overload="", version=14)
    for node in (conv, relu):
        set_sources(node, [str(node.name)])
        out = node.outputs[0]
        out.name, out.type, out.shape = f"{node.name}_y", x.type, x.shape
    conv.outputs[0].metadata_props["mine"] = "kept"
    graph.extend([conv, relu])
    return graph, x, weight, conv, relu


def test_copies_share_weights_and_keep_all_else():
    graph, x, weight, conv, relu = trunk()
    value_map: dict[ir.Value, ir.Value] = {}
    conv2, relu2 = copy_nodes([conv, relu], value_map, lambda name: f"{name}/seg")
    assert conv2.inputs[0] is x and conv2.inputs[1] is weight and conv2.inputs[2] is None
    assert relu2.inputs[0] is conv2.outputs[0] is value_map[conv.outputs[0]]
    assert (conv2.name, conv2.outputs[0].name, conv2.doc_string) == ("conv/seg", "conv_y/seg", "first")
    assert conv2.attributes["strides"].as_ints() == (1, 1) and relu2.version == 14
    assert sources(conv2) == ("conv",) and sources(relu2) == ("relu",)
    assert conv2.outputs[0].metadata_props == {"mine": "kept"}
    assert conv2.outputs[0].shape == x.shape and conv2.outputs[0].type == x.type
    assert conv2.graph is None and len(graph) == 2 and list(graph.initializers) == ["w"]
    assert len(weight.uses()) == 2


def test_changing_a_copy_leaves_the_original():
    _, _, _, conv, _ = trunk()
    (copy,) = copy_nodes([conv], {}, lambda name: f"{name}/seg")
    set_sources(copy, ["other"])
    copy.attributes.add(ir.AttrInt64s("strides", [2, 2]))
    copy.outputs[0].metadata_props["mine"] = "changed"
    copy.outputs[0].shape = ir.Shape([1])
    assert sources(conv) == ("conv",) and conv.attributes["strides"].as_ints() == (1, 1)
    assert conv.outputs[0].metadata_props["mine"] == "kept" and len(conv.outputs[0].shape) == 4


def test_mapped_inputs_are_replaced():
    graph, x, weight, conv, relu = trunk()
    own = copy_initializer(graph, weight, "w/own")
    copies = copy_nodes([conv, relu], {weight: own, x: relu.outputs[0]}, lambda name: f"{name}/seg")
    assert copies[0].inputs[:2] == (relu.outputs[0], own)


def test_copied_graph_computes_the_same():
    graph, _, _, conv, relu = trunk()
    copies = copy_nodes([conv, relu], {}, lambda name: f"{name}/seg")
    graph.extend(copies)
    graph.outputs.extend([relu.outputs[0], copies[1].outputs[0]])
    feed = np.random.default_rng(1).standard_normal((2, 2, 4, 4)).astype(np.float32)
    a, b = runtime.run(to_bytes(ir.Model(graph, ir_version=10)), feed).values()
    np.testing.assert_array_equal(a, b)


def test_copied_initializer():
    graph, _, weight, _, _ = trunk()
    same = copy_initializer(graph, weight, "same")
    other = copy_initializer(graph, weight, "other", ir.tensor(np.zeros((2, 2, 1, 1), np.float32)))
    assert set(graph.initializers) == {"w", "same", "other"}
    assert same is not weight and role_of(same) is Role.BACKBONE
    np.testing.assert_array_equal(same.const_value.numpy(), weight.const_value.numpy())
    assert not other.const_value.numpy().any() and other.shape == weight.shape
    set_role(same, Role.OWN)
    assert role_of(weight) is Role.BACKBONE


def test_a_copy_has_a_shape_of_its_own():
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 3]))
    node = ir.Node("", "Relu", [value], name="relu")
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape(["N", 3])
    (copy,) = copy_nodes([node], {}, lambda name: f"{name}/copy")
    assert copy.outputs[0].shape == node.outputs[0].shape
    copy.outputs[0].shape[1] = 7
    assert node.outputs[0].shape[1] == 3

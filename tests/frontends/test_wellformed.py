"""Nodes that no reader may rely on: wrong numbers of inputs, attributes of wrong types; one line that names them."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from helpers.networks import small_network

from onnxmtl.errors import ModelError
from onnxmtl.frontends.onnx import from_proto, load
from onnxmtl.frontends.wellformed import check_nodes


def network() -> onnx.ModelProto:
    return ir.to_proto(small_network())


def attribute(proto, op_type, name):
    node = next(n for n in proto.graph.node if n.op_type == op_type)
    return node, next(a for a in node.attribute if a.name == name)


def test_a_sound_network_passes():
    check_nodes(small_network(), "net")


def test_an_attribute_of_another_type():
    proto = network()
    node, found = attribute(proto, "Conv", "kernel_shape")
    found.CopyFrom(onnx.helper.make_attribute("kernel_shape", 3.0))
    with pytest.raises(
        ModelError, match=rf"node '{node.name}' \(Conv\): attribute 'kernel_shape' is of type float, not ints"
    ):
        from_proto(proto)


def test_an_attribute_without_a_type():
    proto = network()
    attribute(proto, "Conv", "kernel_shape")[1].type = onnx.AttributeProto.UNDEFINED
    with pytest.raises(ModelError, match="attribute 'kernel_shape' has no type"):
        from_proto(proto)


def test_a_required_attribute_is_missing():
    proto = network()
    node = proto.graph.node[1]
    node.op_type = "Concat"
    del node.attribute[:]
    with pytest.raises(ModelError, match=r"\(Concat\): attribute 'axis' is missing"):
        from_proto(proto)


@pytest.mark.parametrize(("keep", "takes"), [(1, "has 1 inputs, the operator takes 2 to 3"), (0, "has 0 inputs")])
def test_too_few_inputs(keep, takes):
    proto = network()
    node = next(n for n in proto.graph.node if n.op_type == "Conv")
    del node.input[keep:]
    with pytest.raises(ModelError, match=takes):
        from_proto(proto)


def test_a_subgraph_is_looked_into():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] x, bool c) => (float[N, 3, 4, 4] y) {
        y = If (c) <then_branch = t () => (float[N, 3, 4, 4] a) { a = Relu(x) },
                    else_branch = e () => (float[N, 3, 4, 4] b) { b = Add(x) }>
    }"""
    with pytest.raises(ModelError, match=r"\(Add\): has 1 inputs, the operator takes 2"):
        from_proto(onnx.parser.parse_model(text))


def test_what_onnx_does_not_know_is_left_alone():
    proto = network()
    node = next(n for n in proto.graph.node if n.op_type == "Relu")
    node.op_type, node.domain = "Swizzle", "com.acme"
    proto.opset_import.add(domain="com.acme", version=1)
    del node.input[:]
    from_proto(proto)


def test_names_that_are_no_text(tmp_path):
    """protobuf hands invalid UTF-8 on as bytes."""
    proto = network()
    proto.graph.node[0].name = "conv_name"
    content = proto.SerializeToString()
    assert content.count(b"conv_name") == 1
    path = tmp_path / "net.onnx"
    path.write_bytes(content.replace(b"conv_name", b"conv_nam\x80"))
    with pytest.raises(ModelError, match=r"the name b'conv_nam\\x80' is no text"):
        load(path)

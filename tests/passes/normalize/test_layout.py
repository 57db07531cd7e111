"""Images with their channels last: turned around, transposes that cancel are gone, the numbers are the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from onnxmtl import runtime
from onnxmtl.ir import diagnostics, to_bytes
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.inputs import channels_last
from onnxmtl.passes.normalize.layout import CancelTransposes, ChannelsFirst
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.pipelines import Pipeline

# As tf2onnx writes it: a transpose first, weights as ONNX wants them.
FIRST = """t = Transpose <perm = [0, 3, 1, 2]> (x) c = Conv <pads = [1, 1, 1, 1]> (t, w) y = Relu(c)"""
# Preprocessing before the transpose, transposes around every convolution.
EVERYWHERE = """
    a = Sub(x, m) t = Transpose <perm = [0, 3, 1, 2]> (a) c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (t, w)
    u = Transpose <perm = [0, 2, 3, 1]> (c) d = Add(u, b) r = Relu(d) s = Transpose <perm = [0, 3, 1, 2]> (r)
    e = Conv(s, v) f = Transpose <perm = [0, 2, 3, 1]> (e) g = Add(f, r) h = LeakyRelu(g)
    i = Transpose <perm = [0, 3, 1, 2]> (h) y = Conv(i, v)
"""
OTHER = "t = Transpose <perm = [0, 3, 2, 1]> (x) c = Conv <pads = [1, 1, 1, 1]> (t, w) y = Relu(c)"
SHAPES = {"w": (4, 3, 3, 3), "v": (4, 4, 1, 1), "m": (3,), "b": (4,)}


def model(body: str, batch: str = "1") -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : 21]> g (float[{batch}, 16, 16, 3] x) => (float[{batch}, 4, H, W] y)'
    proto = parser.parse_model(f"{head} {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape).astype(np.float32)
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def outputs(source: bytes, image: np.ndarray) -> np.ndarray:
    (result,) = runtime.run(source, {"x": image}).values()
    return result


@pytest.mark.parametrize(("body", "left"), [(FIRST, 0), (EVERYWHERE, 0), (OTHER, 1)])
def test_the_image_is_turned_and_transposes_cancel(body, left):
    proto = model(body)
    image = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
    want = outputs(proto.SerializeToString(), image)
    passes = [NameNodes(), ChannelsFirst(), CancelTransposes()]
    turned = Pipeline(passes, instruments=[CheckInvariants()])(ir.from_proto(proto)).model
    assert list(turned.graph.inputs[0].shape) == [1, 3, 16, 16]
    assert sum(node.op_type == "Transpose" for node in turned.graph) == left
    got = outputs(to_bytes(turned), np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert [remark.code for remark in diagnostics(turned)] == ["channels-first"]


def test_through_the_whole_import():
    normalized = normalize(ir.from_proto(model(EVERYWHERE)))
    assert [str(dim) for dim in normalized.graph.inputs[0].shape] == ["N", "3", "16", "16"]
    assert {node.op_type for node in normalized.graph} <= {"Conv", "Add", "Sub", "Relu", "LeakyRelu"}
    image = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    assert outputs(to_bytes(normalized), image).shape[0] == 2


def test_other_images_and_transposes_stay():
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 3, 16, 16] x) => (float[1, 3, 16, 16] y) {'
        "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Relu(a) y = Transpose <perm = [0, 3, 1, 2]> (b) }"
    )
    graph = ir.from_proto(proto)
    assert not ChannelsFirst()(graph).modified
    assert not CancelTransposes()(graph).modified
    assert len(graph.graph) == 3


@pytest.mark.parametrize(
    ("shape", "body", "last"),
    [
        ("1, 16, 16, 3", "y = Relu(x)", True),
        ("N, H, W, 3", "y = Relu(x)", True),
        ("1, 3, 16, 3", "y = Relu(x)", False),
        ("1, 16, 16, 3", "y = Conv(x, w)", False),
        ("1, 16, 16, 12", "y = Relu(x)", False),
        ("1, 16, 16, 12", "y = Transpose <perm = [0, 3, 1, 2]> (x)", True),
        ("1, 16, 3", "y = Relu(x)", False),
    ],
)
def test_which_images_have_their_channels_last(shape, body, last):
    text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[{shape}] x, float[4, 3, 1, 1] w) => (y) {{ {body} }}'
    assert channels_last(ir.from_proto(parser.parse_model(text)).graph.inputs[0]) is last


def test_a_weight_of_two_operators_stays_one():
    proto = model("a = Add(x, m) k = Mul(a, m) t = Transpose <perm = [0, 3, 1, 2]> (k) y = Relu(t)")
    turned = ir.from_proto(proto)
    Pipeline([NameNodes(), ChannelsFirst()])(turned)
    add, mul = (next(node for node in turned.graph if node.op_type == op) for op in ("Add", "Mul"))
    assert add.inputs[1] is mul.inputs[1] and list(add.inputs[1].shape) == [1, 3, 1, 1]


def test_a_number_with_more_axes_than_the_image_stops_a_transpose():
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 8, 8, 3] x) => (float[1, 1, 8, 8, 3] y) {'
        "a = Relu(x) b = Add(a, one) y = Relu(b) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1,) * 5, np.float32), "one"))
    image = np.random.default_rng(1).standard_normal((1, 8, 8, 3)).astype(np.float32)
    turned = ir.from_proto(proto)
    Pipeline([NameNodes(), ChannelsFirst()], instruments=[CheckInvariants()])(turned)
    got = outputs(to_bytes(turned), np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(got, outputs(proto.SerializeToString(), image))

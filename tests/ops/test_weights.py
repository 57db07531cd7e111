"""Weight slots, linearity, and which initializers are trained."""

from __future__ import annotations

import glob

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmtl.ir import Role, set_role
from onnxmtl.ops import is_linear_op, registered, spec, trainable_values, weight_slots

# Operator -> (name, trainable) of the inputs that weights may feed, by index.
SLOTS = {
    "Conv": {1: ("weight", True), 2: ("bias", True)},
    "ConvTranspose": {1: ("weight", True), 2: ("bias", True)},
    "Gemm": {0: ("weight", True), 1: ("weight", True), 2: ("bias", True)},
    "MatMul": {0: ("weight", True), 1: ("weight", True)},
    "DeformConv": {1: ("weight", True), 3: ("bias", True)},
    "Einsum": {0: ("weight", True), 1: ("weight", True)},
    "Attention": {},
    "BatchNormalization": {
        1: ("scale", True),
        2: ("shift", True),
        3: ("mean", False),
        4: ("variance", False),
    },
    "InstanceNormalization": {1: ("scale", True), 2: ("shift", True)},
    "LayerNormalization": {1: ("scale", True), 2: ("shift", True)},
    "GroupNormalization": {1: ("scale", True), 2: ("shift", True)},
    "RMSNormalization": {1: ("scale", True)},
    "PRelu": {1: ("weight", True)},
    "Gather": {0: ("table", True)},
    "GatherND": {0: ("table", True)},
    "Expand": {0: ("token", True)},
    "Tile": {0: ("token", True)},
    "Concat": {0: ("token", True)},
    "Add": {0: ("shift", True), 1: ("shift", True)},
    "Sub": {0: ("shift", True), 1: ("shift", True)},
    "Mul": {0: ("scale", True), 1: ("scale", True)},
    "Div": {0: ("scale", True), 1: ("scale", True)},
}


def graph(text, **weights):
    """A graph from onnx text; each keyword becomes an initializer of that shape (or array)."""
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g ' + text)
    for name, value in weights.items():
        array = value if isinstance(value, np.ndarray) else np.ones(value, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(model).graph


def slots(node):
    return {value.name: slot.name for slot, value in weight_slots(node)}


def test_the_table():
    assert {s.op_type: {slot.index: (slot.name, slot.trainable) for slot in s.slots} for s in registered()} == SLOTS
    assert {s.op_type for s in registered() if s.linear} == {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    assert {s.op_type for s in registered() if s.norm} == {s for s in SLOTS if s.endswith("Normalization")}


def test_unknown_operators_and_domains():
    assert spec(ir.Node("", "Relu", [])) is None
    assert spec(ir.Node("other", "Conv", [])) is None
    assert spec(ir.Node("ai.onnx", "Conv", [])) is not None


def test_only_initializers_fill_slots():
    g = graph("(float[N,2,8,8] x, float[3,2,1,1] v) => (y) { a = Conv(x, w, b) y = Conv(x, v) }", w=(3, 2, 1, 1), b=3)
    assert slots(g[0]) == {"w": "weight", "b": "bias"}
    assert slots(g[1]) == {}
    assert is_linear_op(g[0])
    assert not is_linear_op(g[1])


def test_linear_forms_of_matrix_products():
    g = graph(
        """(float[N,4] x, float[4,4] z) => (y) {
            a = Gemm(x, w, b) c = Gemm(x, w) d = Gemm(x, w, z) e = MatMul(w, x) f = MatMul(x, z) y = MatMul(w, w)
        }""",
        w=(4, 4),
        b=4,
    )
    assert [is_linear_op(node) for node in g] == [True, True, False, True, False, False]


def test_trainable_values_exclude_constants_and_statistics():
    g = graph(
        """(float[N,2,8,8] x) => (y) {
            n = Sub(x, image_mean) i = Div(n, image_scale)
            a = Conv(i, w) b = BatchNormalization(a, scale, shift, mean, variance)
            c = Clip(b, low, high) d = Mul(c, half) e = Mul(d, gamma) f = Resize(e, , scales) y = Add(f, f)
        }""",
        image_mean=(1, 2, 1, 1),
        image_scale=(1, 2, 1, 1),
        w=(2, 2, 1, 1),
        scale=2,
        shift=2,
        mean=2,
        variance=2,
        low=(),
        high=(),
        half=(),
        gamma=(2, 1, 1),
        scales=4,
    )
    found = trainable_values(g)
    assert {v.name: s.name for v, s in found.items()} == {
        "w": "weight",
        "scale": "scale",
        "shift": "shift",
        "gamma": "scale",
    }
    assert slots(g[3]) == {"scale": "scale", "shift": "shift", "mean": "mean", "variance": "variance"}


def test_a_single_number_is_trained_where_a_pass_says_so():
    """What cross-stitch units scale features by; any other single number in arithmetic is a constant."""
    g = graph("(float[N,2,8,8] x) => (y) { a = Mul(x, alpha) y = Mul(a, half) }", alpha=1, half=1)
    assert trainable_values(g) == {}
    set_role(g.initializers["alpha"], Role.FUSION)
    assert [v.name for v in trainable_values(g)] == []  # on the image itself: a part of the preprocessing
    g = graph("(float[N,2,8,8] x) => (y) { r = Relu(x) a = Mul(r, alpha) y = Mul(a, half) }", alpha=1, half=1)
    set_role(g.initializers["alpha"], Role.FUSION)
    assert [v.name for v in trainable_values(g)] == ["alpha"]


def test_integers_are_no_weights():
    g = graph("(int64[N,3] x) => (y) { y = Add(x, k) }", k=np.ones(3, np.int64))
    assert trainable_values(g) == {}


def test_a_value_that_is_also_a_statistic_is_not_trained():
    text = "(float[N,2,8,8] x) => (y) { y = BatchNormalization(x, s, b, b, v) }"
    assert [v.name for v in trainable_values(graph(text, s=2, b=2, v=2))] == ["s"]
    g = graph(text, s=2, b=2, v=2)
    set_role(g.initializers["s"], Role.STATISTIC)
    assert trainable_values(g) == {}


@pytest.mark.parametrize(("name", "count"), [("resnet50", 25_557_032), ("densenet121", 7_978_856)])
def test_parameter_counts_of_known_networks(name, count):
    """Every float weight is trained: counted against the published numbers."""
    (path,) = glob.glob(f"{onnx.__path__[0]}/backend/test/data/light/light_{name}.onnx")
    # Their weights are computed by ConstantOfShape: count the values in trainable slots.
    model = onnx.shape_inference.infer_shapes(onnx.version_converter.convert_version(onnx.load(path), 21))
    total = 0
    for node in ir.from_proto(model).graph:
        entry = spec(node)
        for slot in () if entry is None or node.op_type in ("Add", "Mul") else entry.slots:
            value = node.inputs[slot.index] if slot.index < len(node.inputs) else None
            producer = None if value is None else value.producer()
            fed = value is not None and (value.is_initializer() or (producer and producer.op_type == "ConstantOfShape"))
            if fed and slot.trainable:
                total += int(np.prod(value.shape.numpy()))
    assert total == count

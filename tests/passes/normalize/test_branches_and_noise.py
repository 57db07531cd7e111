"""If with a known condition, random factors, repeated weights, attention masks."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from onnxmtl import ops, runtime
from onnxmtl.ir import diagnostics, to_bytes
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.noise import DropNoise
from onnxmtl.passes.normalize.untie import UntieWeights


def model(body: str, shape: str = "1, 3, 4, 4", **weights: np.ndarray) -> ir.Model:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g (float[{shape}] x) => (y) {{ {body} }}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    found = ir.from_proto(proto)
    NameNodes()(found)
    return found


def types(found: ir.Model) -> list[str]:
    return [node.op_type for node in found.graph]


BRANCHES = """
    c = Equal(n, one)
    t = If (c) <then_branch = a () => (p) {{ p = Relu(x) }}, else_branch = b () => (q) {{ r = Neg(x) q = Tanh(r) }}>
    y = Sigmoid(t)
"""


@pytest.mark.parametrize(("number", "left"), [(1, ["Relu", "Sigmoid"]), (2, ["Neg", "Tanh", "Sigmoid"])])
def test_an_if_with_a_known_condition_is_its_branch(number, left):
    found = model(BRANCHES.format(), n=np.array(number), one=np.array(1))
    FoldConstants()(found)
    assert types(found) == left
    assert len({node.name for node in found.graph}) == len(left)


def test_an_if_inside_a_branch():
    inner = "p = If (k) <then_branch = d () => (s) { s = Relu(x) }, else_branch = e () => (s2) { s2 = Neg(x) }>"
    body = f"t = If (k) <then_branch = a () => (p) {{ {inner} }}, else_branch = b () => (q) {{ q = Tanh(x) }}>"
    found = model(f"{body} y = Sigmoid(t)", k=np.array(True))
    FoldConstants()(found)
    assert types(found) == ["Relu", "Sigmoid"]


def test_an_open_condition_stays_and_is_refused_by_name():
    body = "c = ReduceMax <keepdims = 0> (x) d = Cast <to = 9> (c)"
    branches = "then_branch = a () => (p) { p = Relu(x) }, else_branch = b () => (q) { q = Tanh(x) }"
    found = model(f"{body} y = If (d) <{branches}>")
    FoldConstants()(found)
    assert [refusal.operator for refusal in ops.refusals(found.graph)] == ["If"]


def test_a_branch_that_hands_on_what_is_outside_stays():
    """ONNX wants an Identity there; onnx_ir makes a value that nothing computes of it."""
    branches = "then_branch = a () => (r) { }, else_branch = b () => (q) { q = Tanh(x) }"
    found = model(f"r = Relu(x) t = If (k) <{branches}> y = Sigmoid(t)", k=np.array(True))
    FoldConstants()(found)
    assert types(found) == ["If", "Sigmoid"]


NOISE = """
    s = Shape <start = 0, end = 1> (x) o = Concat <axis = 0> (s, ones) f = ConstantOfShape(o)
    r = RandomUniformLike(f) l = Less(r, keep) k = Cast <to = 1> (l) d = Div(k, keep)
    a = Relu(x) m = Mul(a, d) y = Add(m, x)
"""


def test_random_factors_are_removed():
    weights = {"ones": np.ones(3, np.int64), "keep": np.array(0.9, np.float32)}
    found = model(NOISE, "N, 3, 4, 4", **weights)
    FoldConstants()(found)
    DropNoise()(found)
    assert types(found) == ["Relu", "Add"]
    assert [remark.code for remark in diagnostics(found)] == ["noise-removed"]


def test_other_factors_stay():
    found = model("a = Relu(x) m = Mul(a, x) y = Mul(m, w)", w=np.ones(4, np.float32))
    assert not DropNoise()(found).modified
    assert types(found) == ["Relu", "Mul", "Mul"]


def test_a_repeated_weight_stays_the_weight():
    token, table = np.ones((1, 1, 4), np.float32), np.ones((5, 4), np.float32)
    body = "a = Expand(token, s) b = Gather(table, i) c = Transpose <perm = [1, 0]> (b) d = MatMul(x, c) y = Add(d, e)"
    body = body.replace("y = Add(d, e)", "f = ReduceSum <keepdims = 1> (a) y = Add(d, f)")
    found = model(body, "1, 3, 4, 4", token=token, s=np.array([2, 3, 4]), table=table, i=np.array([0, 1, 1, 4, 2, 3]))
    FoldConstants()(found)
    assert "Expand" in types(found) and "Gather" in types(found)
    assert {str(value.name) for value in ops.trainable_values(found.graph)} == {"token", "table"}


def test_what_is_only_picked_is_folded():
    found = model("b = Gather(w, i) y = Add(x, b)", w=np.ones((5, 4), np.float32), i=np.array([0, 1, 2, 3]))
    FoldConstants()(found)
    assert types(found) == ["Add"]


def test_masks_are_constants_and_biases_are_not():
    mask = np.where(np.triu(np.ones((4, 4)), 1) > 0, -100.0, 0.0).astype(np.float32)
    found = model("r = Relu(x) a = Add(r, mask) y = Add(a, bias)", mask=mask, bias=np.zeros((4, 4), np.float32))
    UntieWeights()(found)
    assert [str(value.name) for value in ops.trainable_values(found.graph)] == ["bias"]


def test_joined_maps_are_no_tokens():
    found = model("y = Concat <axis = 1> (x, pad)", pad=np.zeros((1, 2, 4, 4), np.float32))
    assert ops.trainable_values(found.graph) == {}


OUTSIDE = """
    s = Shape <start = 0, end = 1> (x) o = Concat <axis = 0> (s, ones) f = ConstantOfShape(o)
    r = RandomUniformLike(f) p = Add({terms}) k = Floor(p) a = Relu(x) b = Div(a, keep) m = Mul(b, k) y = Add(m, x)
"""


@pytest.mark.parametrize("terms", ["r, keep", "keep, r"])
def test_a_factor_that_is_scaled_elsewhere_becomes_its_mean(terms):
    """``x / keep * floor(random + keep)``: without the factor alone, the branch would be too large by 1 / keep."""
    weights = {"ones": np.ones(3, np.int64), "keep": np.array(0.5, np.float32)}
    found = model(OUTSIDE.format(terms=terms), "N, 3, 4, 4", **weights)
    FoldConstants()(found)
    DropNoise()(found)
    assert types(found) == ["Relu", "Div", "Mul", "Add"]
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    (result,) = runtime.run(to_bytes(found), {"x": image}).values()
    np.testing.assert_allclose(result, np.maximum(image, 0) + image, rtol=1e-6)
    assert ops.trainable_values(found.graph) == {}


@pytest.mark.parametrize(
    ("noise", "mean"),
    [
        ("RandomUniformLike(f) u = Identity(r)", 0.5),
        ("RandomUniformLike <low = 1.0, high = 3.0> (f) u = Identity(r)", 2.0),
        ("RandomNormalLike <mean = 1.0> (f) u = Identity(r)", 1.0),
        ("ConstantOfShape <value = float[1] {0.25}> (o) u = Bernoulli(r)", 0.25),
        ("ConstantOfShape <value = float[1] {0.25}> (o) t = Bernoulli(r) u = Div(t, quarter)", 1.0),
        ("RandomUniformLike(f) t = Less(r, quarter) c = Cast <to = 1> (t) u = Sub(c, quarter)", 0.0),
        ("RandomUniformLike(f) t = Exp(r) u = Neg(t)", None),
    ],
)
def test_means_of_factors(noise, mean):
    weights = {"ones": np.ones(3, np.int64), "quarter": np.array(0.25, np.float32)}
    body = "s = Shape <start = 0, end = 1> (x) o = Concat <axis = 0> (s, ones) f = ConstantOfShape(o) "
    found = model(f"{body} r = {noise} a = Relu(x) m = Mul(a, u) y = Add(m, x)", "N, 3, 4, 4", **weights)
    DropNoise()(found)
    if mean in (None, 1.0):  # unknown: stochastic depth has 1
        assert types(found) == ["Relu", "Add"]
    else:
        mul = next(node for node in found.graph if node.op_type == "Mul")
        assert mul.inputs[1].const_value.numpy() == mean

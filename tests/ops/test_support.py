"""The table of operators, what is refused and how it is said, and the document made of it."""

from __future__ import annotations

import subprocess
import sys

import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from onnxmtl import ops
from onnxmtl.ops.document import PATH, first_version, render


def model(body: str, opset: int = 21, functions: str = "") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : {opset}, "my" : 1]> g (float[1, 3, 8, 8] x) => (y) {{ {body} }}'
    return ir.from_proto(parser.parse_model(text + functions))


def reasons(found) -> list[tuple[str, str]]:
    return [(refusal.operator, refusal.reason) for refusal in found]


def test_the_table_equals_the_registry_of_lowerings():
    lowering = pytest.importorskip("onnxmtl.lowering.ops")
    registered = {op_type for domain, op_type in lowering.supported_operators() if not domain}
    assert {operator.op_type for operator in ops.operators()} == registered


def test_every_entry_is_an_onnx_operator_of_our_opsets():
    for operator in ops.operators():
        assert not onnx.defs.get_schema(operator.op_type, ops.NEWEST_OPSET).deprecated
        assert first_version(operator.op_type) <= ops.NEWEST_OPSET
        assert bool(operator.limits) >= (operator.refuse is not None) or operator.op_type in (
            *("Pad", "DepthToSpace", "SpaceToDepth"),  # they refuse only what ONNX does not know either
        )


def test_every_operator_with_weights_can_be_trained():
    assert {spec.op_type for spec in ops.registered()} <= {operator.op_type for operator in ops.operators()}


def test_the_document_is_current():
    assert PATH.read_text(encoding="utf-8") == render(), "run: python -m onnxmtl.ops.document"


def test_the_table_needs_no_torch():
    code = "import sys, onnxmtl.ops.document; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("opset", "reason"), [(12, "needs opset 13 or newer"), (27, "opsets up to 26 are taken")])
def test_opsets(opset, reason):
    assert ops.supported(model("y = Relu(x)", opset).graph[0]) == reason


def test_raw_graphs_may_be_older_and_hold_what_normalization_rewrites():
    old = model("a = Upsample(x, s) y = Relu(a)", 9)
    assert ops.refusals(old.graph, raw=True) == []
    assert reasons(ops.refusals(model("y = Relu(x)", 6).graph, raw=True)) == [
        ("Relu", "opsets from 7 on are taken"),
    ]


def test_what_depends_on_constants_only_is_folded():
    raw = model("a = Constant <value_float: float = 2.0> () b = HannWindow(a) c = DFT(x) y = Mul(c, b)")
    assert reasons(ops.refusals_in(raw)) == [("DFT", "cannot be trained")]


def test_functions_are_looked_into():
    functions = '<domain: "my", opset_import: ["" : 21]> f (a) => (b) { b = Unique(a) }'
    assert reasons(ops.refusals_in(model("y = my.f(x)", functions=functions))) == [("Unique", "cannot be trained")]
    assert reasons(ops.refusals_in(model("y = my.f(x)"))) == [("my.f", "no such operator")]


def test_quantized_models_are_told_what_to_do():
    q = model("a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) y = Relu(b)")
    message = ops.refusal_message(ops.refusals_in(q))
    assert "\n" not in message
    assert message.startswith("2 nodes cannot be trained: QuantizeLinear 'a' (opset 21: quantized), Dequan")
    assert message.endswith("; the model is quantized: give the float model it was made from")


def test_a_new_opset_is_told_what_to_do():
    message = ops.refusal_message(ops.refusals(model("y = Relu(x)", 28).graph))
    assert message.endswith("; export the model with an opset from 7 to 26")


def test_an_opset_that_is_too_old_is_said_once_for_all_nodes():
    found = ops.refusals(model("a = Relu(x) b = Neg(a) y = Tanh(b)", 5).graph, raw=True)
    assert len(found) == 3
    assert ops.refusal_texts(found) == ["Relu 'a' and 2 nodes more (opset 5: opsets from 7 on are taken)"]
    assert ops.refusal_message(found).startswith("3 nodes cannot be trained: Relu 'a' and 2 nodes more")


def test_a_weight_that_is_still_to_be_computed_is_no_obstacle_in_a_raw_graph():
    graph = model("w = Mul(v, v) y = Conv(x, w)").graph
    assert ops.refusals(graph, raw=True) == []
    assert [refusal.reason for refusal in ops.refusals(graph)] == [
        "neither kernel_shape nor the shape of the weight is known"
    ]

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.ir import (
    Choice,
    as_choice,
    attach_functions,
    choices,
    is_choice,
    is_supermodel,
    load,
    make_choice,
    new_initializer,
    save,
    to_bytes,
)
from onnxmtl.ir.choice import choice_function, choice_schema

SHAPE = (2, 3, 4, 4)


def supermodel(logits, dtype=np.float32, tasks=("seg",)):
    """One Choice per task among x, Relu(x), Neg(x), … with the given logits."""
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(["N", *SHAPE[1:]]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    options = [("shared", x)]
    for i in range(1, len(logits)):
        node = ir.Node("", ("Relu", "Neg", "Abs", "Sigmoid")[(i - 1) % 4], [options[-1][1]], name=f"op{i}")
        out = node.outputs[0]
        out.name, out.type, out.shape = f"option{i}", x.type, x.shape
        graph.append(node)
        options.append((f"option{i}", out))
    for task in tasks:
        weights = new_initializer(graph, f"logits/{task}", np.asarray(logits, np.float32))
        node = make_choice(options, weights, site="s0", task=task, name=f"choice/{task}", output=task)
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10, producer_name="onnxmtl")


def expected(x, logits):
    """Σ softmax(logits)_i · option_i, in plain numpy."""
    options = [x]
    operators = (lambda v: np.maximum(v, 0), lambda v: -v, np.abs, lambda v: 1 / (1 + np.exp(-v)))
    for i in range(1, len(logits)):
        options.append(operators[(i - 1) % 4](options[-1]))
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    weights /= weights.sum()
    return sum(w * option for w, option in zip(weights, options, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=6), st.integers(0, 2**16))
def test_function_body_is_the_softmax_weighted_sum(logits, seed):
    x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    content = to_bytes(supermodel(logits))
    want = expected(x.astype(np.float64), logits)
    np.testing.assert_allclose(runtime.run(content, x)["seg"], want, rtol=1e-5, atol=1e-6)
    (reference,) = onnx.reference.ReferenceEvaluator(onnx.load_from_string(content)).run(None, {"x": x})
    np.testing.assert_allclose(reference, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-6), (np.float16, 2e-2)])
def test_other_types_of_options(dtype, rtol):
    logits = [0.5, -1.0, 2.0]
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(dtype)
    found = runtime.run(to_bytes(supermodel(logits, dtype)), x)["seg"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected(x.astype(np.float64), logits), rtol=rtol, atol=rtol)


def test_saved_supermodel_is_checker_clean(tmp_path):
    path = save(supermodel([0.1, 0.2, 0.3], tasks=("seg", "depth")), tmp_path / "super.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    again = load(path)
    assert is_supermodel(again) and [key[1] for key in again.functions] == ["Choice3"]
    assert again.graph.opset_imports["onnxmtl"] == 1
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    assert [value.name for value in inferred.graph.output] == ["seg", "depth"]


def test_reader():
    model = supermodel([0.0, 1.0, 2.0], tasks=("seg", "depth"))
    seg, depth = choices(model.graph)
    assert isinstance(seg, Choice) and (seg.site, seg.task, depth.task) == ("s0", "seg", "depth")
    assert seg.names == ("shared", "option1", "option2")
    assert [value.name for value in seg.options] == ["x", "option1", "option2"]
    assert seg.logits.name == "logits/seg" and seg.output.name == "seg"
    assert seg.output.shape == seg.options[0].shape and seg.output.type == seg.options[0].type


@pytest.mark.parametrize(
    ("domain", "op", "is_one"),
    [
        ("onnxmtl", "Choice2", True),
        ("onnxmtl", "Choice10", True),
        ("onnxmtl", "Choice1", False),
        ("onnxmtl", "Choice02", False),
        ("onnxmtl", "Choice", False),
        ("onnxmtl", "Choice2x", False),
        ("", "Choice2", False),
        ("other", "Choice2", False),
    ],
)
def test_what_a_choice_is(domain, op, is_one):
    assert is_choice(ir.Node(domain, op, [], name="n")) is is_one


def damaged(change):
    (choice,) = choices(supermodel([0.0, 1.0]).graph)
    node = choice.node
    inputs, names, op = list(node.inputs), ["a", "b"], node.op_type
    if change == "arity":
        op = "Choice3"
    elif change == "names":
        names = ["a"]
    elif change == "inputs":
        inputs = inputs[:-1]
    elif change == "missing":
        inputs[0] = None
    elif change == "op":
        op = "Relu"
    attributes = [ir.AttrString("site", "s"), ir.AttrString("task", "t"), ir.AttrStrings("options", names)]
    return ir.Node("onnxmtl", op, inputs, attributes, name="broken")


@pytest.mark.parametrize("change", ["arity", "names", "inputs", "missing", "op"])
def test_reader_refuses_what_does_not_fit(change):
    with pytest.raises(ValueError, match="broken"):
        as_choice(damaged(change))


def test_reader_accepts_the_undamaged_twin():
    assert as_choice(damaged("nothing")).names == ("a", "b")


def test_a_choice_needs_two_options():
    x = ir.Value(name="x")
    with pytest.raises(ValueError, match="two options"):
        make_choice([("only", x)], ir.Value(name="l"), site="s", task="t", name="n", output="y")


def test_functions_follow_the_choices():
    model = supermodel([0.0, 1.0])
    model.functions[("onnxmtl", "Choice7", "")] = choice_function(7)  # of an earlier state of the graph
    attach_functions(model)
    assert [key[1] for key in model.functions] == ["Choice2"]
    (choice,) = choices(model.graph)
    choice.output.replace_all_uses_with(choice.options[1], replace_graph_outputs=True)
    model.graph.remove(choice.node, safe=True)
    attach_functions(model)
    assert not is_supermodel(model) and not model.functions and "onnxmtl" not in model.graph.opset_imports


def test_foreign_functions_are_kept():
    model = supermodel([0.0, 1.0])
    foreign = choice_function(2)
    foreign.domain, foreign.name = "someone", "Choice2"
    model.functions[foreign.identifier()] = foreign
    attach_functions(model)
    assert ("someone", "Choice2", "") in model.functions


def test_schema_agrees_with_the_function():
    for count in (2, 3, 5):
        schema, function = choice_schema(count), choice_function(count)
        assert (schema.domain, schema.name, schema.since_version) == ("onnxmtl", f"Choice{count}", 1)
        assert [p.name for p in schema.inputs] == [value.name for value in function.inputs]
        assert [p.name for p in schema.outputs] == [value.name for value in function.outputs]
        assert set(schema.attributes) == set(function.attributes) == {"site", "task", "options"}
        assert all(attribute.required for attribute in schema.attributes.values())


def test_registered_schema_catches_a_wrong_arity():
    """With the schema known to onnx, its checker and shape inference look into Choices."""
    schema = choice_schema(4)
    onnx.defs.register_schema(schema)
    try:
        node = onnx.helper.make_node(
            "Choice4", ["a", "b", "l"], ["y"], domain="onnxmtl", site="s", task="t", options=["a", "b"]
        )
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = 10, {"": 21, "onnxmtl": 1}
        with pytest.raises(onnx.checker.ValidationError, match="input size 3"):
            onnx.checker.check_node(node, context)
    finally:
        onnx.defs.deregister_schema("Choice4", 1, "onnxmtl")

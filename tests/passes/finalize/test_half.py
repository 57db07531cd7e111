"""HalfPrecision: what becomes float16, what must not, and that the numbers stay close."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxmtl import ops, runtime
from onnxmtl.cost.count import count
from onnxmtl.deploy.ranges import largest_activations
from onnxmtl.deploy.structure import compare_structures
from onnxmtl.ir import clone, diagnostics, to_bytes
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import CheckFinal, FoldBatchNorm, HalfPrecision, finalize_passes, half_passes
from onnxmtl.passes.finalize.half import PRECISION_KEY, half_inputs
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def images(model, seed=0):
    shape = [2, *(int(d) for d in model.graph.inputs[0].shape[1:])]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def halved(model, **options):
    copy = clone(model)
    Pipeline([HalfPrecision(**options), CheckFinal()], instruments=[CheckInvariants()])(copy)
    return copy


def in_numpy(model, image):
    """With true float16 arithmetic, which ONNX Runtime has none of on this kind of processor: it takes float32."""
    with np.errstate(all="ignore"):
        evaluator = ReferenceEvaluator(onnx.load_model_from_string(to_bytes(model)))
        names = evaluator.output_names
        return dict(zip(names, evaluator.run(None, {"image": image}), strict=True))


def half_nodes(model):
    return [node.op_type for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype is HALF]


def single_nodes(model):
    return [node.op_type for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype is SINGLE]


def finish(b, *values):
    for i, value in enumerate(values):
        value.name = f"out{i}"
        b.graph.outputs.append(value)
    return ir.Model(b.graph, ir_version=10)


def close_numbers(seed, tasks):
    """And half the weights, and the same inputs and outputs."""
    model = random_model(seed, tasks=tasks)
    FoldBatchNorm()(model)
    image = images(model)
    expected = runtime.run(to_bytes(model), image)
    half = halved(model, largest=largest_activations(model, image))
    for found in (runtime.run(to_bytes(half), image), in_numpy(half, image)):
        for name, wanted in expected.items():
            assert found[name].dtype == np.float32 and found[name].shape == wanted.shape
            assert np.linalg.norm(found[name] - wanted) <= 1e-2 * np.linalg.norm(wanted)
    assert {v.dtype for v in (*half.graph.inputs, *half.graph.outputs)} == {SINGLE}
    weights = {value.dtype for value in ops.trainable_values(half.graph)}
    assert weights == {HALF} and half.metadata_props[PRECISION_KEY] == "float16"
    assert count(half) == count(model) and not compare_structures(model, half)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_close_numbers_half_the_weights_and_the_same_interface(seed, tasks):
    close_numbers(seed, tasks)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_close_numbers_of_many(seed, tasks):
    close_numbers(seed, tasks)


def test_one_cast_per_border():
    half = halved(small_resnet())
    casts = [(node.inputs[0].name, node.outputs[0].name) for node in half.graph if node.op_type == "Cast"]
    assert casts[0][0] == "image" and {name for _, name in casts[1:]} >= {"seg", "depth"}
    assert sum(source == "image" for source, _ in casts) == 1


def test_last_steps_stay_float32():
    tasks = TaskSet.parse("seg=segmentation:3,normals")
    tasks = TaskSet((tasks["seg"].replace(output="probabilities"), tasks["normals"].replace(output="unit")))
    b = GraphBuilder()
    x = b.block(b.image, 4)
    model = Pipeline(finalize_passes(tasks, {}))(b.heads(x, {"seg": 3, "normals": 3})).model
    half = Pipeline(half_passes(), instruments=[CheckInvariants()])(model).model
    assert {"Conv", "Relu"} == set(half_nodes(half))
    assert "Softmax" in single_nodes(half) and {"ReduceL2", "Div"} <= set(single_nodes(half))


@pytest.mark.parametrize(
    ("factor", "what"), [(1e6, "reaches 4e\\+06|reaches .*float16 ends at 65504"), (1e-9, "too small")]
)
def test_weights_that_do_not_fit_stay(factor, what):
    b = GraphBuilder()
    model = finish(b, b.relu(b.conv(b.relu(b.conv(b.image, 4, name="odd")), 4)))
    weight = model.graph.initializers["odd.weight"]
    weight.const_value = ir.tensor((weight.const_value.numpy() * factor).astype(np.float32), name=weight.name)
    half = halved(model)
    assert half.graph.initializers["odd.weight"].dtype is SINGLE and single_nodes(half) == ["Conv"]
    (said,) = diagnostics(half)
    assert said.code == "kept-float32" and said.node == "odd"
    assert re.search(what, said.message)


@pytest.mark.parametrize("most", [20_000.0, float("inf"), float("nan")])
def test_activations_near_the_end_of_the_range_stay(most):
    b = GraphBuilder()
    x = b.conv(b.image, 4, name="large")
    model = finish(b, b.conv(b.relu(x), 4))
    assert "Conv" not in single_nodes(halved(model, largest={str(x.name): 10_000.0}))
    half = halved(model, largest={str(x.name): most})
    assert single_nodes(half) == ["Conv", "Relu"] and half_nodes(half) == ["Conv"]
    assert {said.node for said in diagnostics(half)} == {"large", "relu1"} or len(diagnostics(half)) == 2


def test_measured_ranges_keep_an_overflowing_network_finite():
    """Plain float16 of this network has nan in its output; with ranges it does not."""
    b = GraphBuilder()
    big = b.conv(b.image, 4, k=1, name="big")
    weight = b.graph.initializers["big.weight"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(3e4), name="big.weight")
    scale = b.weight("scale", np.full((1, 4, 1, 1), 1e-4))
    small = b.node("Mul", [b.node("Sub", [big, b.relu(big)], big.shape), scale], big.shape)
    model = finish(b, b.conv(small, 2))
    image = images(model)
    wanted = runtime.run(to_bytes(model), image)["out0"]
    assert not np.isfinite(in_numpy(halved(model), image)["out0"]).all()
    found = in_numpy(halved(model, largest=largest_activations(model, image)), image)["out0"]
    assert np.linalg.norm(found - wanted) <= 1e-2 * np.linalg.norm(wanted)


def test_a_weight_that_a_float32_operator_reads_stays_for_all():
    b = GraphBuilder(channels=4)
    one = b.conv(b.image, 4, bias=False, name="one")
    two = b.node("Conv", [b.relu(one), one.producer().inputs[1]], one.shape, "two", pads=[1] * 4)
    model = finish(b, b.relu(two))
    half = halved(model, largest={str(two.name): 1e6})
    assert half.graph.initializers["one.weight"].dtype is SINGLE
    assert single_nodes(half).count("Conv") == 2
    assert not compare_structures(model, half)


def test_a_constant_that_both_read_is_copied_and_no_bound_becomes_infinite():
    b = GraphBuilder()
    low, high = b.weight("low", np.float32(-3.4e38)), b.weight("high", np.float32(3.4e38))
    x = b.conv(b.image, 4, name="a")
    one = b.node("Clip", [x, low, high], x.shape, "one")
    two = b.node("Clip", [b.conv(one, 4, name="b"), low, high], x.shape, "two")
    model = finish(b, two)
    half = halved(model, largest={str(two.name): 1e6})
    assert half.graph.initializers["low"].dtype is SINGLE
    copy = half.graph.initializers["low/float16"]
    assert copy.dtype is HALF and copy.const_value.numpy() == np.float16(-65504)
    runtime.run(to_bytes(half), images(half))


def test_arithmetic_about_shapes_stays_exact():
    """Factors of a Resize that are computed: 8 · 300.3 is no float16."""
    b = GraphBuilder()
    x = b.conv(b.image, 4)
    shape = b.node("Shape", [x], [4])
    for value in (shape,):
        value.type = ir.TensorType(ir.DataType.INT64)
    factors = b.node("Cast", [shape], [4], to=SINGLE.value)
    factors = b.node("Mul", [factors, b.weight("k", np.asarray([0.5, 0.25, 0.25, 0.25]))], [4])
    y = b.node("Resize", [x, None, factors], ["N", 4, 16, 16], mode="nearest")
    model = finish(b, b.conv(y, 2))
    model.graph.outputs[0].shape = ir.Shape(["N", 2, "H", "W"])
    y.shape = ir.Shape(["N", 4, "H", "W"])
    half = halved(model)
    kinds = {node.op_type: node.outputs[0].dtype for node in half.graph if node.op_type in ("Mul", "Resize")}
    assert kinds == {"Mul": SINGLE, "Resize": HALF}
    wanted = runtime.run(to_bytes(model), images(model))["out0"]
    assert runtime.run(to_bytes(half), images(model))["out0"].shape == wanted.shape


@pytest.mark.parametrize(
    ("op_type", "inputs", "expected"),
    [("Conv", 3, [0, 1, 2]), ("Resize", 3, [0]), ("Where", 3, [1, 2]), ("Concat", 3, [0, 1, 2]), ("Reshape", 2, [0]),
     ("Softmax", 1, []), ("ReduceMean", 1, []), ("Cast", 1, [])],
)  # fmt: skip
def test_which_inputs_follow_the_result(op_type, inputs, expected):
    values = [ir.Value(name=f"v{i}") for i in range(inputs)]
    assert half_inputs(ir.Node("", op_type, values), 21) == expected


def test_nothing_to_do_changes_nothing():
    b = GraphBuilder()
    model = finish(b, b.node("Softmax", [b.image], b.image.shape))
    assert not HalfPrecision()(model).modified and PRECISION_KEY not in model.metadata_props

"""FoldBatchNorm: what is folded, what is spelled out, and that the numbers stay."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.cost.sharing import FOLDED_KEY
from onnxmtl.ir import Role, diagnostics, role_of, set_role, sources, to_bytes
from onnxmtl.passes.finalize import FoldBatchNorm, RemoveUnused


def evaluate(model, seed=0, batch=2):
    """All outputs, runtime optimizations off."""
    image = model.graph.inputs[0]
    shape = [batch, *(int(d) for d in image.shape[1:])]
    feeds = {image.name: np.random.default_rng(seed).normal(size=shape).astype(image.dtype.numpy())}
    return runtime.run(runtime.session(to_bytes(model), optimize=False), feeds)


def fold(model):
    """Fold, check the numbers, and return the operators that are left."""
    names = [value.name for value in model.graph.outputs]
    before = evaluate(model)
    assert FoldBatchNorm()(model).modified
    RemoveUnused()(model)
    after = evaluate(model)
    assert [value.name for value in model.graph.outputs] == names
    for name in names:
        scale = np.abs(before[name]).max()
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-5 * scale)
        assert scale > 1e-3  # or the comparison says nothing
    return [node.op_type for node in model.graph]


def finish(b, *values):
    for i, value in enumerate(values):
        value.name = f"out{i}"
        b.graph.outputs.append(value)
    return ir.Model(b.graph, ir_version=10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_takes_it_in(bias, group):
    b = GraphBuilder(channels=4)
    model = finish(b, b.norm(b.conv(b.image, 8, group=group, bias=bias, name="c"), name="n"))
    assert fold(model) == ["Conv"]
    (node,) = model.graph
    assert sources(node) == ("c", "n") and json.loads(node.metadata_props[FOLDED_KEY]) == ["n"]
    assert set(model.graph.initializers) == {"c.weight", "c.weight/bias"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_conv_takes_it_in_group_by_group(bias, group):
    b = GraphBuilder(channels=4)
    inputs = [b.image, b.weight("w", b.rng.normal(size=(4, 6 // group, 2, 2)))]
    inputs += [b.weight("b", b.rng.normal(size=6))] if bias else []
    x = b.node("ConvTranspose", inputs, ["N", 6, 16, 16], strides=[2, 2], group=group)
    assert fold(finish(b, b.norm(x))) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [None, (6,), (1, 6), (1,), ()])
def test_gemm_takes_it_in_with_its_factors(transposed, shape):
    b = GraphBuilder(channels=4, size=1)
    x = b.node("Flatten", [b.image], ["N", 4])
    weight = b.rng.normal(size=(6, 4) if transposed else (4, 6))
    inputs = [x, b.weight("w", weight)]
    if shape is not None:
        inputs.append(b.weight("c", b.rng.normal(size=shape)))
    y = b.node("Gemm", inputs, ["N", 6], alpha=0.5, beta=-2.0, transB=transposed)
    assert fold(finish(b, b.norm(y))) == ["Flatten", "Gemm"]


def test_two_norms_in_a_row_both_fold():
    b = GraphBuilder()
    assert fold(finish(b, b.norm(b.norm(b.conv(b.image, 5))))) == ["Conv"]


def test_a_shared_convolution_stays_one_with_a_scale_and_shift_per_input():
    """Two tasks share the weights, γ and β, but not the input: their statistics differ."""
    b = GraphBuilder(channels=4)
    left, right = b.relu(b.image), b.node("Neg", [b.image], b.image.shape)
    first = b.conv(left, 6, name="c")
    second = b.node("Conv", [right, *first.producer().inputs[1:]], first.shape, name="c2", pads=[1] * 4)
    one, two = b.norm(first, name="n"), b.norm(second, name="n2")
    for slot in (1, 2):
        two.producer().replace_input_with(slot, one.producer().inputs[slot])
    model = finish(b, one, two)
    shared = model.graph.initializers["c.weight"]
    kernel = shared.const_value.numpy().copy()
    assert fold(model) == ["Relu", "Neg", "Conv", "Conv", "Mul", "Add", "Mul", "Add"]
    assert len(shared.uses()) == 2
    np.testing.assert_array_equal(shared.const_value.numpy(), kernel)  # a fold would have scaled it
    columns = [value for name, value in model.graph.initializers.items() if "/" in name]
    assert len(columns) == 4 and all(tuple(value.shape) == (6, 1, 1) for value in columns)
    added = [node for node in model.graph if node.op_type in ("Mul", "Add")]
    assert [sources(node) for node in added] == [("n",), ("n",), ("n2",), ("n2",)]


def test_one_convolution_with_two_norms_stays_unfolded():
    b = GraphBuilder()
    x = b.conv(b.image, 4)
    assert fold(finish(b, b.norm(x), b.norm(x))) == ["Conv", "Mul", "Add", "Mul", "Add"]


def test_an_output_before_the_norm_keeps_its_numbers():
    b = GraphBuilder()
    x = b.conv(b.image, 4)
    assert fold(finish(b, x, b.norm(x))) == ["Conv", "Mul", "Add"]


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_a_norm_without_an_operator_becomes_scale_and_shift(rank):
    b = GraphBuilder(channels=4, size=2)
    shape = [0, 4, *{2: [], 3: [4], 4: [2, 2], 5: [2, 2, 1]}[rank]]
    if rank == 2:
        x = b.node("ReduceMean", [b.image, _integers(b, [2, 3])], ["N", 4], keepdims=0)
    else:
        x = b.node("Reshape", [b.image, _integers(b, shape)], ["N", *shape[1:]])
    assert fold(finish(b, b.norm(x)))[1:] == ["Mul", "Add"]


def _integers(b, dims):
    value = b.weight(f"shape{len(b.graph.initializers)}", np.zeros(len(dims)))
    value.const_value = ir.tensor(np.array(dims, np.int64))
    value.dtype = ir.DataType.INT64
    return value


def test_roles_of_new_weights_are_those_of_the_operator():
    b = GraphBuilder()
    x = b.conv(b.image, 4, bias=False, name="c")
    set_role(b.graph.initializers["c.weight"], Role.OWN)
    model = finish(b, b.norm(x))
    fold(model)
    assert [role_of(value) for value in model.graph.initializers.values()] == [Role.OWN, Role.OWN]


def test_half_precision_is_computed_in_double():
    b = GraphBuilder(channels=4)
    model = finish(b, b.norm(b.conv(b.image, 4, name="c"), name="n"))
    graph = model.graph
    array = {name: value.const_value.numpy().astype(np.float16) for name, value in graph.initializers.items()}
    for name, value in graph.initializers.items():
        value.const_value, value.dtype = ir.tensor(array[name], name=name), ir.DataType.FLOAT16
    exact = {name: x.astype(np.float64) for name, x in array.items()}
    wanted = exact["n.scale"] / np.sqrt(exact["n.variance"] + 1e-5)
    FoldBatchNorm()(model)
    found = graph.initializers["c.weight"].const_value.numpy()
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, (exact["c.weight"] * wanted[:, None, None, None]).astype(np.float16))


def test_what_cannot_be_folded_is_reported_and_kept():
    b = GraphBuilder(channels=4)
    training = b.norm(b.conv(b.image, 4), name="training")
    training.producer().attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    computed = b.norm(training, name="computed")
    computed.producer().replace_input_with(1, b.node("Abs", [computed.producer().inputs[1]], [4]))
    model = finish(b, computed)
    assert not FoldBatchNorm()(model).modified
    assert [d.node for d in diagnostics(model)] == ["training", "computed"]
    assert {d.code for d in diagnostics(model)} == {"batchnorm-kept"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_random_graphs_keep_their_numbers(seed, tasks):
    model = random_model(seed, tasks=tasks)
    if any(node.op_type == "BatchNormalization" for node in model.graph):
        assert "BatchNormalization" not in fold(model)
    assert not FoldBatchNorm()(model).modified

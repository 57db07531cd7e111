from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxmtl.deploy.structure import Operator, compare_structures, output_digests, structural_signature
from onnxmtl.ir import new_initializer, set_sources


def two_tasks(*, own=(), names="n", order=1, batchnorm=False):
    """Two layers, two tasks. Tasks in `own` have their own second convolution, the others use the first task's."""
    tasks = ("a", "b")[::order]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 2, 4, 4]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    weight = new_initializer(graph, f"{names}w", np.ones((2, 2, 1, 1), np.float32))

    def add(op, inputs, name, source, sources=()):
        node = ir.Node("", op, inputs, name=f"{names}{name}")
        node.outputs[0].name = f"{names}{name}_y"
        node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
        set_sources(node, [source, *sources])
        graph.append(node)
        return node.outputs[0]

    trunk = add("Relu", [add("Conv", [x, weight], "c1", "conv1")], "r1", "relu1")
    second = new_initializer(graph, f"{names}w2", np.ones((2, 2, 1, 1), np.float32))
    for task in tasks:
        w = new_initializer(graph, f"{names}{task}", np.ones((2, 2, 1, 1), np.float32)) if task in own else second
        sigmoid = add("Sigmoid", [trunk], f"s{task}", "act")  # keeps the two convolutions apart
        out = add("Conv", [sigmoid, w], f"c2{task}", "conv2", ["bn2"] if batchnorm else ())
        out.name = task
        graph.outputs.append(out)
    if order < 0:
        outputs = list(reversed(graph.outputs))
        graph.outputs.clear()
        graph.outputs.extend(outputs)
    return ir.Model(graph, ir_version=10)


def test_signature():
    assert structural_signature(two_tasks()) == [
        Operator("Conv", ("conv1",), ("a", "b"), 0),
        Operator("Conv", ("conv2",), ("a",), 1),
        Operator("Conv", ("conv2",), ("b",), 1),
    ]
    assert [operator.weight for operator in structural_signature(two_tasks(own=("b",)))] == [0, 1, 2]


def test_signature_knows_no_names_and_no_order():
    assert structural_signature(two_tasks()) == structural_signature(two_tasks(names="other/", order=-1))


def test_equal_structures():
    assert compare_structures(two_tasks(), two_tasks(names="z", order=-1)) == []
    # Folding unites the sources of a convolution with those of its normalization.
    assert compare_structures(two_tasks(), two_tasks(batchnorm=True)) == []


def test_unshared_weight_is_found():
    lines = compare_structures(two_tasks(), two_tasks(own=("b",)))
    assert lines == ["weight shared otherwise: Conv conv2 for b"]
    assert compare_structures(two_tasks(own=("b",)), two_tasks()) == lines


def test_missing_operator_is_found():
    model = two_tasks()
    (last,) = [node for node in model.graph if node.name == "nc2b"]
    last.metadata_props.clear()
    lines = compare_structures(two_tasks(), model)
    assert lines == ["missing: Conv conv2 for b", "not selected: Conv (ours) for b"]


def test_trunk_that_serves_one_task_only_is_found():
    model = two_tasks()
    (sigmoid,) = [node for node in model.graph if node.name == "nsb"]
    sigmoid.replace_input_with(0, model.graph.inputs[0])
    lines = compare_structures(two_tasks(), model)
    assert lines == ["missing: Conv conv1 for a, b", "not selected: Conv conv1 for a"]


def test_digests_know_wiring_attributes_and_weights_but_no_names():
    base = output_digests(two_tasks())
    assert base == output_digests(two_tasks(names="other", order=-1))
    assert base["a"] == base["b"]  # equal values here: own copies are told apart by the signature
    rewired, attribute, weight, opset = (two_tasks() for _ in range(4))
    next(n for n in rewired.graph if n.name == "nsb").replace_input_with(0, rewired.graph.inputs[0])
    next(n for n in attribute.graph if n.name == "nc2b").attributes.add(ir.AttrInt64s("dilations", [1, 1]))
    weight.graph.initializers["nw2"].const_value = ir.tensor(np.full((2, 2, 1, 1), 2, np.float32))
    opset.graph.opset_imports[""] = 20
    assert output_digests(rewired)["a"] == base["a"] and output_digests(rewired)["b"] != base["b"]
    assert output_digests(attribute)["a"] == base["a"] and output_digests(attribute)["b"] != base["b"]
    for other in (weight, opset):
        assert all(output_digests(other)[name] != base[name] for name in ("a", "b"))


@pytest.mark.parametrize("count", [10_000])
def test_long_chain(count):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    nodes, last = [], x
    for i in range(count):
        nodes.append(ir.Node("", "Relu", [last], name=f"n{i}"))
        last = nodes[-1].outputs[0]
        last.name = f"v{i}"
    model = ir.Model(ir.Graph([x], [last], nodes=nodes, opset_imports={"": 21}), ir_version=10)
    assert len(output_digests(model)) == 1

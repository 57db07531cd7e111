"""DropTrainingOnly: Dropout, training mode and identities go; names of outputs stay."""

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.ir import diagnostics, make_choice, new_initializer, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.passes.finalize import DropTrainingOnly
from onnxmtl.passes.instruments import find_violation


def finish(b, *values):
    for i, value in enumerate(values):
        value.name = f"out{i}"
        b.graph.outputs.append(value)
    return ir.Model(b.graph, ir_version=10)


def operators(model):
    return [node.op_type for node in model.graph]


def drop(model):
    """Run the pass; outputs keep names, order and numbers (Dropout is the identity at inference)."""
    image = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    before = runtime.run(to_bytes(model), {"image": image})
    modified = DropTrainingOnly()(model).modified
    assert find_violation(model.graph) is None
    after = runtime.run(to_bytes(model), {"image": image})
    assert list(before) == list(after)
    for name, wanted in before.items():
        np.testing.assert_array_equal(after[name], wanted)
    return modified


def identity(b, x):
    return b.node("Identity", [x], x.shape)


def dropout(b, x, **attributes):
    return b.node("Dropout", [x], x.shape, **attributes)


def test_dropout_and_identities_inside_vanish():
    b = GraphBuilder()
    model = finish(b, b.relu(identity(b, dropout(b, identity(b, b.conv(b.image, 2))))))
    assert drop(model)
    assert operators(model) == ["Conv", "Relu"]
    assert not drop(model)


def test_an_output_hands_its_name_on():
    b = GraphBuilder()
    x = b.conv(b.image, 2)
    relu = b.relu(x)
    model = finish(b, dropout(b, identity(b, relu)), identity(b, b.relu(x)))
    assert drop(model)
    assert operators(model) == ["Conv", "Relu", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["out0", "out1"]


def test_two_outputs_of_one_value_keep_both_names():
    b = GraphBuilder()
    x = b.relu(b.image)
    model = finish(b, identity(b, x), identity(b, x), dropout(b, x))
    drop(model)
    assert operators(model) == ["Relu", "Identity", "Identity"]
    assert [value.name for value in model.graph.outputs] == ["out0", "out1", "out2"]


def test_an_input_as_output_keeps_an_identity():
    b = GraphBuilder()
    model = finish(b, dropout(b, b.image))
    assert drop(model)
    assert operators(model) == ["Identity"]


def test_a_weight_as_output_keeps_an_identity():
    b = GraphBuilder()
    model = finish(b, identity(b, b.weight("w", np.ones(3))))
    assert not DropTrainingOnly()(model).modified
    assert operators(model) == ["Identity"] and model.graph.outputs[0].name == "out0"


def test_dropout_in_training_mode_goes_too():
    b = GraphBuilder()
    mode = new_initializer(b.graph, "mode", np.array(True))
    ratio = new_initializer(b.graph, "ratio", np.array(0.5, np.float32))
    x = b.relu(b.image)
    model = finish(b, b.node("Dropout", [x, ratio, mode], x.shape))
    assert DropTrainingOnly()(model).modified
    assert operators(model) == ["Relu"]


def test_batch_statistics_are_turned_off_and_reported():
    b = GraphBuilder()
    y = b.norm(b.image, name="n")
    node = y.producer()
    plain = finish(b, y)
    image = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    wanted = runtime.run(to_bytes(plain), {"image": image})["out0"]
    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    node.resize_outputs(3)
    node.outputs[1].name, node.outputs[2].name = "running_mean", "running_var"
    assert DropTrainingOnly()(plain).modified
    assert len(node.outputs) == 1
    np.testing.assert_array_equal(runtime.run(to_bytes(plain), {"image": image})["out0"], wanted)
    assert [(d.code, d.node) for d in diagnostics(plain)] == [("training-mode-off", "n")]


def test_used_masks_and_statistics_are_refused_by_name():
    b = GraphBuilder()
    x = dropout(b, b.image)
    node = x.producer()
    node.resize_outputs(2)
    node.outputs[1].name = "mask"
    y = b.node("Not", [node.outputs[1]], x.shape)
    with pytest.raises(ModelError, match=rf"node '{node.name}': the mask of a Dropout is used.*inference mode"):
        DropTrainingOnly()(finish(b, x, y))


def test_a_supermodel_is_refused():
    b = GraphBuilder()
    logits = new_initializer(b.graph, "l", np.zeros(2, np.float32))
    options = [("a", b.relu(b.image)), ("b", b.image)]
    node = make_choice(options, logits, site="s", task="t", name="c", output="y")
    b.graph.append(node)
    with pytest.raises(Refused, match="select an architecture first"):
        DropTrainingOnly()(finish(b, node.outputs[0]))

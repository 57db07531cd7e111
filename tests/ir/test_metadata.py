"""Roles, provenance, names and diagnostics."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxmtl.ir import (
    Diagnostic,
    Namer,
    Role,
    diagnostics,
    head_of,
    load,
    name_nodes,
    new_initializer,
    report,
    role_of,
    save,
    set_role,
    set_sources,
    sources,
    stamp,
    tasks_of_nodes,
    unite,
)
from onnxmtl.ir.provenance import HEAD_KEY, PASS_KEY


def chain(length, *, outputs=("y",)):
    """A chain of Relus; output k is taken after length·(k+1)/len(outputs) of them."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4]))
    nodes, last = [], x
    for i in range(length):
        node = ir.Node("", "Relu", [last], name=f"relu{i}")
        last = node.outputs[0]
        last.name, last.type, last.shape = f"v{i}", x.type, x.shape
        nodes.append(node)
    taken = [nodes[length * (k + 1) // len(outputs) - 1].outputs[0] for k in range(len(outputs))]
    for value, name in zip(taken, outputs, strict=True):
        value.name = name
    return ir.Model(ir.Graph([x], taken, nodes=nodes, opset_imports={"": 21}, name="g"), ir_version=10)


def test_roles_and_provenance_survive_a_file(tmp_path):
    model = chain(2)
    for role in Role:
        value = new_initializer(model.graph, f"w/{role}", np.zeros(1, np.float32))
        set_role(value, role)
    new_initializer(model.graph, "plain", np.zeros(1, np.float32))
    first, second = model.graph
    set_sources(first, ["b", "a", "b", 'ä/ö,"quoted"'])
    second.metadata_props[HEAD_KEY] = "seg"
    stamp(second, "SomePass", first)
    again = load(save(model, tmp_path / "m.onnx"))
    for role in Role:
        assert role_of(again.graph.initializers[f"w/{role}"]) is role
    assert role_of(again.graph.initializers["plain"]) is Role.BACKBONE
    first, second = again.graph
    assert sources(first) == sources(second) == ("a", "b", 'ä/ö,"quoted"')
    assert head_of(first) is None and head_of(second) == "seg"
    assert second.metadata_props[PASS_KEY] == "SomePass"


def test_unknown_role_is_refused():
    value = ir.Value(name="w", metadata_props={"onnxmtl.role": "nonsense"})
    with pytest.raises(ValueError, match="nonsense"):
        role_of(value)


def test_unite_and_stamp():
    a, b, c = (ir.Node("", "Relu", [], name=name) for name in "abc")
    set_sources(a, ["x"])
    set_sources(b, ["y", "x"])
    unite(a, b, c)
    assert sources(a) == ("x", "y") and sources(b) == ("x", "y") and sources(c) == ()
    unite(c, c)
    assert sources(c) == () and "onnxmtl.source" not in c.metadata_props

    class MyPass:
        pass

    assert stamp(c, MyPass(), b) is c
    assert c.metadata_props[PASS_KEY] == "MyPass" and sources(c) == ("x", "y")


def test_namer_never_repeats_a_name():
    model = chain(3)
    new_initializer(model.graph, "w", np.zeros(1, np.float32))
    namer = Namer(model.graph)
    taken = {"x", "w", "relu0", "relu1", "relu2", "v0", "v1", "y"}
    given = [namer.unique(name) for name in ("x", "w", "relu0", "y", "new", "new", "new_1", "new")]
    assert len(set(given)) == len(given) and not taken & set(given)
    assert given == ["x_1", "w_1", "relu0_1", "y_1", "new", "new_1", "new_1_1", "new_2"]


def test_name_nodes_keeps_unique_names():
    model = chain(5)
    nodes = list(model.graph)
    for node, name in zip(nodes, ["a", "", None, "a", "Relu_v1"], strict=True):
        node.name = name
    assert name_nodes(model.graph)
    names = [node.name for node in nodes]
    assert names[0] == "a" and names[4] == "Relu_v1"
    assert names[1] == "Relu_v1_1" and names[3] == "a_1" and len(set(names)) == 5
    assert not name_nodes(model.graph)


def test_tasks_of_nodes_on_a_long_chain():
    length = 10_000
    model = chain(length, outputs=("first", "second", "third", "last"))
    needed = tasks_of_nodes(model.graph)
    order = ("first", "second", "third", "last")
    for i, node in enumerate(model.graph):
        assert needed[node] == frozenset(order[i * 4 // length :])


def test_tasks_of_nodes_on_a_fork():
    model = chain(2, outputs=("a", "b"))
    first, _ = model.graph
    dead = ir.Node("", "Neg", [first.outputs[0]], name="dead")
    model.graph.append(dead)
    needed = tasks_of_nodes(model.graph)
    assert needed[first] == {"a", "b"} and needed[dead] == frozenset()
    model.graph.outputs.append(model.graph.inputs[0])  # an output that nothing computes
    assert tasks_of_nodes(model.graph) == needed


def test_diagnostics():
    model = chain(1)
    assert diagnostics(model) == ()
    folded = Diagnostic("batchnorm-folded", "no BatchNorm left", "conv1", "use --batchnorm insert")
    for remark in (folded, Diagnostic("tied", "two weights are one"), folded):
        report(model, remark)
    assert [str(remark) for remark in diagnostics(model)] == [
        "batchnorm-folded [conv1]: no BatchNorm left (use --batchnorm insert)",
        "tied: two weights are one",
    ]

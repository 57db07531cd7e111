"""Blocks of emitted models."""

from __future__ import annotations

import onnx_ir as ir
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.quantize.blocks import TRUNK, name_nodes, quant_blocks
from onnxmtl.ir import tasks_of_nodes

LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 7))
def test_every_layer_is_in_one_block_of_its_tasks(seed, tasks, layers):
    model = random_model(seed, tasks, layers)
    found = quant_blocks(model)
    names = [name for block in found for name in block.nodes]
    assert len(names) == len(set(names)), "in one block at most"
    assert len({block.name for block in found}) == len(found)
    needed = tasks_of_nodes(model.graph)
    home = {name: block for block in found for name in block.nodes}
    for node in model.graph:
        if node.op_type in LAYERS and needed[node]:
            assert node.name in home
        if node.name in home:
            assert set(home[node.name].tasks) == needed[node]
    for block in found:
        kinds = [node.op_type for node in model.graph if node.name in block.nodes]
        assert any(kind in LAYERS for kind in kinds), "each has a layer to quantize"


def test_a_residual_network():
    found = quant_blocks(small_resnet())
    assert [block.name for block in found] == [f"{TRUNK}.0", f"{TRUNK}.1", f"{TRUNK}.2", "seg.0", "depth.0"]
    assert [block.tasks for block in found[-3:]] == [("seg", "depth"), ("seg",), ("depth",)]
    assert found[0].first == found[0].last == "stem"


def test_what_stands_behind_the_last_layer_is_in_none():
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4))
    y = b.node("Softmax", [b.relu(b.conv(x, 3))], ["N", 3, 8, 8], axis=1)
    b.graph.outputs.append(y)
    (one, other) = quant_blocks(ir.Model(b.graph, ir_version=10))
    inside = {*one.nodes, *other.nodes}
    assert {n.op_type for n in b.graph if n.name not in inside} == {"Softmax", "Relu"}
    assert one.name.endswith(".0") and one.tasks == (y.name,), "one task has no trunk"


def test_networks_side_by_side_are_cut_too():
    """Two networks whose features are mixed: never is one tensor alive."""
    b = GraphBuilder()
    left, right = b.relu(b.conv(b.image, 4)), b.relu(b.conv(b.image, 4))
    for _ in range(8):
        one, other = b.conv(left, 4), b.conv(right, 4)
        left, right = b.node("Add", [one, other], one.shape), b.node("Mul", [one, other], one.shape)
    for name, value in (("seg", left), ("depth", right)):
        out = b.conv(value, 2)
        out.name = name
        b.graph.outputs.append(out)
    found = [block for block in quant_blocks(ir.Model(b.graph, ir_version=10)) if block.name.startswith(TRUNK)]
    assert len(found) >= 6


def test_names():
    model = small_resnet()
    nodes = list(model.graph)
    for node in nodes[:3]:
        node.name = "twice"
    nodes[4].name = ""
    kept = nodes[6].name
    name_nodes(model)
    names = [node.name for node in model.graph]
    assert all(names) and len(set(names)) == len(names)
    assert names[0] == "twice" and names[6] == kept


def test_no_layers():
    b = GraphBuilder()
    b.graph.outputs.append(b.relu(b.image))
    assert quant_blocks(ir.Model(b.graph, ir_version=10)) == ()

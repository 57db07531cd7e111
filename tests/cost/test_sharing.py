"""What is shared, layer by layer: the four ways a task can use a layer, on one small network."""

import json

import onnx_ir as ir
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.cost.sharing import How, sharing
from onnxmtl.ir import set_sources


def uses(row):
    return {task: str(use) for task, use in row.uses.items()}


def test_four_ways(four_ways):
    one, two, three = sharing(four_ways)
    assert (one.layer, one.op, one.parameters, one.multiply_adds) == ("one", "Conv", 108, 108 * 64)
    assert uses(one)["c"] == "once with a, b, d" and one.runs == (("a", "b", "c", "d"),)
    assert uses(two) == {"a": "once with b", "b": "once with a", "c": "weights of a, b", "d": "own"}
    assert two.runs == (("a", "b"), ("c",), ("d",)) and two.executed_once
    assert uses(three) == {"a": "once with b", "b": "once with a", "c": "skipped", "d": "skipped"}
    assert three.runs == (("a", "b"),)
    assert three.uses["d"].how is How.SKIPPED and three.uses["a"].partners == ("b",)


def test_networks_that_feed_each_other_keep_layers_of_their_own():
    """Both copies of the layer serve both tasks; each task's is its own network's."""
    b = GraphBuilder()
    own = {task: b.conv(b.image, 4, name=f"{task}/layer") for task in ("seg", "depth")}
    for value in own.values():
        set_sources(value.producer(), ["layer"])
    mixed = {task: b.node("Add", list(own.values()), own[task].shape) for task in own}
    (row,) = sharing(b.heads(mixed, dict.fromkeys(own, 2)))
    assert uses(row) == {"seg": "own", "depth": "own"} and row.runs == (("seg",), ("depth",))


def test_rows_of_the_backbone_include_layers_that_all_skip(four_ways):
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4, name="one"))
    for name in ("two", "nobody", "three"):
        x = b.norm(b.conv(x, 4, bias=False, name=name), name=f"{name}.norm")
    b.graph.outputs.append(x)
    backbone = ir.Model(b.graph, ir_version=10)
    rows = sharing(four_ways, backbone)
    assert [row.layer for row in rows] == ["one", "two", "two.norm", "nobody", "nobody.norm", "three", "three.norm"]
    assert [row.op for row in rows[:3]] == ["Conv", "Conv", "BatchNormalization"]
    nobody = rows[3]
    assert set(uses(nobody).values()) == {"skipped"} and nobody.runs == () and not nobody.executed_once
    assert nobody.parameters == 0 and nobody.multiply_adds == 0


def test_heads_are_no_layers_and_json_is_plain():
    rows = sharing(small_resnet())
    assert not any("predict" in row.layer for row in rows)
    content = [row.to_json() for row in rows]
    assert json.loads(json.dumps(content)) == content
    assert content[0]["uses"] == {"seg": "once with depth", "depth": "once with seg"}

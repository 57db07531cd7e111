"""A task's way through the trunk, and where another task can leave it."""

from __future__ import annotations

import itertools

import pytest
from helpers.graphs import GraphBuilder, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.frontiers import passive_values, reads
from onnxmtl.analysis.paths import task_path
from onnxmtl.errors import ModelError
from onnxmtl.ir import head_of


def tree():
    """A stem for both tasks, then a block of its own for each."""
    b = GraphBuilder()
    stem = b.block(b.image, 4, name="stem")
    stem.name = "stem_end"
    ends = {}
    for task in ("seg", "depth"):
        ends[task] = b.residual(stem, 4)
        ends[task].name = f"{task}_end"
    return b.heads(ends, {"seg": 3, "depth": 1})


def test_the_way_of_each_task_and_its_blocks():
    model = tree()
    seg, depth = (task_path(model.graph, task, model.graph) for task in ("seg", "depth"))
    assert [place.name for place in seg.places if place.block] == ["image", "stem_end", "seg_end"]
    assert [place.name for place in depth.places if place.block] == ["image", "stem_end", "depth_end"]
    assert [value.name for value in seg.features] == ["seg_end"]
    assert not {node.name for node in seg.nodes if head_of(node)}
    shared = {node.name for node in seg.nodes} & {node.name for node in depth.nodes}
    assert shared == {node.name for node in seg.nodes[: seg.named("stem_end").position]}


def test_a_place_goes_by_its_tensor_and_its_node():
    path = task_path(tree().graph, "seg", tree().graph)
    relu = next(node for node in path.nodes if node.outputs[0].name == "stem_end")
    assert path.named("stem_end") == path.named(str(relu.name))
    assert path.named("image").position == 0 and path.named("seg_end").position == len(path.nodes)
    assert not path.named("stem").block, "within the block: only for who names it"
    with pytest.raises(ModelError, match="cannot be left at 'stem_ende'; close to it: stem_end"):
        path.named("stem_ende")
    with pytest.raises(ModelError, match="there are: image, stem_end, seg_end"):
        path.named("nowhere")


def test_networks_of_other_tasks_are_not_the_path():
    b = GraphBuilder()
    maps = {}
    for task in ("seg", "depth"):
        b.task = None
        maps[task] = b.conv(b.image, 4, name=f"{task}/one")
    both = b.node("Add", [maps["seg"], maps["depth"]], maps["seg"].shape, name="seg/unit")
    ends = {"seg": b.conv(both, 4, name="seg/two"), "depth": b.conv(maps["depth"], 4, name="depth/two")}
    model = b.heads(ends, {"seg": 3, "depth": 1})
    assert [p.name for p in task_path(model.graph, "seg", model.graph).places] == [
        "image",
        "seg/unit_out",
        "seg/two_out",
    ]
    own = task_path(model.graph, "seg", model.graph, others=["depth"])
    assert [node.name for node in own.nodes] == ["seg/one", "seg/unit", "seg/two"]
    assert [place.name for place in own.places] == ["image", "seg/one_out", "seg/unit_out", "seg/two_out"]


def test_a_head_on_the_image_shares_nothing():
    b = GraphBuilder()
    model = b.heads({"seg": b.image, "depth": b.conv(b.image, 4)}, {"seg": 3, "depth": 1})
    with pytest.raises(ModelError, match="reads nothing that the trunk computes"):
        task_path(model.graph, "seg", model.graph)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16))
def test_one_tensor_alone_leads_behind_a_place(seed):
    """By the definition: what stands behind reads, of all before, the place's tensor and nothing else."""
    model = random_model(seed, layers=3)
    for task in ("seg", "depth"):
        path = task_path(model.graph, task, model.graph)
        passive = passive_values(path.nodes)
        for place in path.places[1:-1]:
            before = {value for node in path.nodes[: place.position] for value in node.outputs} | {
                model.graph.inputs[0]
            }
            crossing = {v for node in path.behind(place) for v in reads(node) if v in before and v not in passive}
            assert {value.name for value in crossing} == {place.name}
        blocks = [place for place in path.places if place.block]
        for first, second in itertools.pairwise(blocks):
            ops = {node.op_type for node in path.nodes[first.position : second.position]}
            assert "Conv" in ops, "a layer in every block"

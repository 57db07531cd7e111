"""FuseSiblings: what becomes one convolution, that numbers and costs stay, and that the way back is exact."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.cost.sharing import sharing
from onnxmtl.deploy.structure import operator_list, output_digests, weight_hashes
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, clone, sources, to_bytes
from onnxmtl.passes.finalize import FoldBatchNorm, FuseSiblings, RemoveUnused, SeparateSiblings, has_siblings, separated
from onnxmtl.passes.finalize.siblings import SIBLINGS_KEY
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline


def outputs(model, seed=0):
    image = model.graph.inputs[0]
    feed = np.random.default_rng(seed).normal(size=[2, *(int(d) for d in image.shape[1:])]).astype(np.float32)
    return runtime.run(runtime.session(to_bytes(model), optimize=False), feed)


def facts(model):
    """All that must come back: what runs with which weights, who made what, and the metadata of nodes and weights."""
    graph = model.graph
    return (
        output_digests(model),
        weight_hashes(model),
        operator_list(model),
        {node.name: (dict(node.metadata_props), [str(v.name) for v in node.outputs]) for node in graph},
        {name: dict(value.metadata_props) for name, value in graph.initializers.items()},
    )


def fuse(model, block=1):
    """Fuse a copy; check numbers, costs and the way back; return the operators from the image on."""
    fused = Pipeline([FuseSiblings(block)], instruments=[CheckInvariants()])(clone(model)).model
    expected, found = outputs(model), outputs(fused)
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5 * scale)
        assert scale > 1e-3  # or the comparison says nothing
    back = separated(fused)
    assert facts(back) == facts(model) and count(back) == count(model)
    assert [row.to_json() for row in sharing(back)] == [row.to_json() for row in sharing(model)]
    assert count(fused).multiply_adds == count(model).multiply_adds
    assert has_siblings(fused) == (back is not fused)
    return [node.op_type for node in fused.graph]


def heads(*branches, channels=4):
    """A convolution, and what each branch makes of it, as a task's output."""
    b = GraphBuilder(channels=channels)
    x = b.relu(b.conv(b.image, 6, name="trunk"))
    for index, branch in enumerate(branches):
        b.task = f"t{index}"
        value = branch(b, x)
        value.name = b.task
        b.graph.outputs.append(value)
    b.task = None
    return ir.Model(b.graph, ir_version=10)


ANY = given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())


def random_networks_fuse(seed, tasks, fold):
    model = random_model(seed, tasks=tasks)
    if fold:
        Pipeline([FoldBatchNorm(), RemoveUnused()])(model)
    fuse(model)


@settings(max_examples=3, deadline=None)
@ANY
def test_numbers_costs_and_the_way_back(seed, tasks, fold):
    random_networks_fuse(seed, tasks, fold)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@ANY
def test_numbers_costs_and_the_way_back_of_many(seed, tasks, fold):
    random_networks_fuse(seed, tasks, fold)


@pytest.mark.parametrize("bias", [(True, True), (False, False), (True, False), (False, True)])
def test_heads_become_one_convolution_with_the_activation_before_the_split(bias):
    model = heads(
        lambda b, x: b.conv(b.relu(b.conv(x, 8, bias=bias[0])), 3, k=1),
        lambda b, x: b.conv(b.relu(b.conv(x, 5, bias=bias[1])), 1, k=1),
    )
    assert fuse(model) == ["Conv", "Relu", "Conv", "Relu", "Split", "Conv", "Conv"]
    fused = FuseSiblings(1)(model).model
    (node,) = (node for node in fused.graph if SIBLINGS_KEY in node.metadata_props)
    assert node.inputs[1].shape == [13, 6, 3, 3] and (len(node.inputs) == 3) == any(bias)
    assert sources(node) == ("t0.conv4", "t1.conv9") and node.metadata_props["onnxmtl.head"] == "t0+t1"
    assert node.inputs[1].metadata_props["onnxmtl.role"] == Role.HEAD


def test_outputs_keep_their_names_where_they_are_siblings():
    assert fuse(heads(lambda b, x: b.conv(x, 3), lambda b, x: b.conv(x, 2))) == ["Conv", "Relu", "Conv", "Split"]


@pytest.mark.parametrize(
    "other",
    [
        lambda b, x: b.conv(x, 4, k=1),
        lambda b, x: b.conv(x, 4, dilation=2),
        lambda b, x: b.conv(x, 4, stride=2),
        lambda b, x: b.conv(x, 6, group=2),
        lambda b, x: b.relu(b.conv(x, 4)),
        lambda b, x: b.conv(b.relu(x), 4),
    ],
    ids=["kernel", "dilation", "stride", "groups", "activation", "input"],
)
def test_what_differs_stays_apart(other):
    assert "Split" not in fuse(heads(lambda b, x: b.conv(x, 4), other))


def test_bounds_count_as_part_of_the_activation():
    def clipped(low):
        def branch(b, x):
            bounds = [b.weight(f"{b.task}.{name}", np.float32(n)) for name, n in (("low", low), ("high", 6))]
            y = b.conv(x, 4)
            return b.conv(b.node("Clip", [y, *bounds], y.shape), 2)

        return branch

    assert "Split" not in fuse(heads(clipped(0), clipped(-1)))


def test_branches_of_one_task_stay_apart_and_meet_those_of_another():
    def inception(b, x):
        return b.concat(b.conv(x, 4, k=1), b.conv(x, 3, k=1))

    assert "Split" not in fuse(heads(inception))
    assert fuse(heads(inception, inception)).count("Split") == 2


def test_a_weight_that_serves_others_too_stays():
    model = heads(lambda b, x: b.conv(x, 4, bias=False), lambda b, x: b.conv(x, 4, bias=False))
    one, two = (node for node in model.graph if node.name.startswith("t") and node.name != "trunk")
    two.replace_input_with(1, one.inputs[1])
    assert not FuseSiblings(1)(model).modified


def test_trunk_and_head_do_not_mix():
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4, name="trunk"))
    model = b.heads({"seg": x, "depth": b.conv(x, 4, k=1, name="own")}, {"seg": 4, "depth": 1})
    assert not FuseSiblings(1)(model).modified


def test_twice_changes_nothing():
    model = FuseSiblings(1)(heads(lambda b, x: b.conv(x, 3), lambda b, x: b.conv(x, 2))).model
    before = facts(model)
    assert not FuseSiblings(1)(model).modified and facts(model) == before


def test_who_changed_the_split_is_left_alone():
    model = FuseSiblings(1)(heads(lambda b, x: b.conv(x, 3), lambda b, x: b.conv(x, 2))).model
    split = next(node for node in model.graph if node.op_type == "Split")
    split.inputs[1].const_value = ir.tensor(np.asarray([2, 3]))
    assert not SeparateSiblings()(model).modified
    assert separated(small_resnet()).graph.outputs[0].name == "seg"


@pytest.mark.parametrize("text", ["[", "{}", "[1]", '[{"node": {"name": "a", "metadata": {}}}]', "[[]]"])
def test_damaged_metadata_is_told(text):
    model = FuseSiblings(1)(heads(lambda b, x: b.conv(x, 3), lambda b, x: b.conv(x, 2))).model
    node = next(node for node in model.graph if SIBLINGS_KEY in node.metadata_props)
    node.metadata_props[SIBLINGS_KEY] = text
    with pytest.raises(ModelError, match=r"damaged.*again"):
        separated(model)


def test_the_way_back_sees_what_the_weights_are_now():
    """A fused weight that somebody changed comes back changed: nothing is remembered of it."""
    model = FuseSiblings(1)(heads(lambda b, x: b.conv(x, 3), lambda b, x: b.conv(x, 2))).model
    node = next(node for node in model.graph if SIBLINGS_KEY in node.metadata_props)
    assert [member["channels"] for member in json.loads(node.metadata_props[SIBLINGS_KEY])] == [3, 2]
    array = node.inputs[1].const_value.numpy() * 2
    node.inputs[1].const_value = ir.tensor(array, name=node.inputs[1].name)
    second = next(node for node in separated(model).graph if node.name.startswith("t1"))
    assert np.array_equal(second.inputs[1].const_value.numpy(), array[3:])


@pytest.mark.parametrize(
    ("widths", "fused"), [((8, 8), True), ((12, 12), False), ((16, 16), False), ((40, 40, 40), True)]
)
def test_by_default_only_what_saves_blocks_of_channels(widths, fused):
    model = heads(*(lambda b, x, n=n: b.conv(x, n) for n in widths))
    assert ("Split" in fuse(model, block=16)) == fused and "Split" in fuse(model)


def test_within_one_task_if_asked_for():
    model = heads(lambda b, x: b.concat(b.conv(x, 4, k=1), b.conv(x, 3, k=1)))
    fused = FuseSiblings(1, within_tasks=True)(clone(model)).model
    assert [node.op_type for node in fused.graph] == ["Conv", "Relu", "Conv", "Split", "Concat"]
    assert facts(separated(fused)) == facts(model)

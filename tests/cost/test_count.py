"""Counting on the graph: every number checked by hand on a network small enough for it."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, make_choice, new_initializer, set_role

# Of the layers of `four_ways`: the stem (3 channels in), the others (4 in, 4 out), a head (1x1).
STEM, LAYER, HEAD = 3 * 4 * 9, 4 * 4 * 9, 4


def test_every_number_by_hand(four_ways):
    costs = count(four_ways)
    assert costs.parameters_trunk == STEM + 2 * LAYER + LAYER + 16
    assert costs.parameters == costs.parameters_trunk + 4 * (HEAD + 1)
    assert costs.parameters_paper == STEM + 3 * LAYER
    together = STEM + 2 * LAYER  # the stem for all, two and three for a and b
    alone = 2 * LAYER + 16 + 4 * HEAD
    assert costs.multiply_adds_trunk == 64 * (together + 2 * LAYER + 16)
    assert costs.multiply_adds == 64 * (together + alone)
    assert costs.multiply_adds_unshared == 64 * (4 * STEM + 2 * 2 * LAYER + alone)
    assert costs.executed_once == pytest.approx(together / (together + alone), rel=1e-15)
    assert costs.file_bytes is None and count(four_ways, file_bytes=7).file_bytes == 7


def test_statistics_and_constants_are_no_parameters():
    b = GraphBuilder()
    x = b.norm(b.conv(b.image, 4))
    x = b.node("Clip", [x, new_initializer(b.graph, "low", np.zeros((), np.float32))], x.shape)
    costs = count(b.heads(x, {"a": 1}))
    assert costs.parameters_trunk == STEM + 4 + 2 * 4
    assert costs.parameters == costs.parameters_trunk + HEAD + 1
    assert costs.executed_once == 0.0


def test_json_is_plain():
    costs = count(small_resnet(), file_bytes=10)
    assert json.loads(json.dumps(costs.to_json())) == costs.to_json()
    assert set(costs.to_json()) >= {"parameters_trunk", "parameters", "multiply_adds", "multiply_adds_unshared"}


def test_a_supermodel_has_no_cost():
    b = GraphBuilder()
    logits = set_role(new_initializer(b.graph, "l", np.zeros(2, np.float32)), Role.LOGITS)
    options = [("shared", b.relu(b.image)), ("skip", b.image)]
    node = make_choice(options, logits, site="s", task="t", name="c", output="t")
    b.graph.append(node)
    b.graph.outputs.append(node.outputs[0])
    with pytest.raises(ModelError, match="select an architecture first"):
        count(ir.Model(b.graph, ir_version=10))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_without_sharing_is_the_sum_of_single_tasks(seed, tasks):
    model = random_model(seed, tasks=tasks)
    costs = count(model)
    single = 0
    for i in range(tasks):
        alone = random_model(seed, tasks=tasks)
        keep = alone.graph.outputs[i]
        alone.graph.outputs.clear()
        alone.graph.outputs.append(keep)
        found = count(alone)
        assert found.multiply_adds == found.multiply_adds_unshared <= costs.multiply_adds
        single += found.multiply_adds
    assert single == costs.multiply_adds_unshared
    assert costs.multiply_adds <= costs.multiply_adds_unshared
    if tasks == 1:
        assert costs.executed_once == 0.0 and costs.multiply_adds == costs.multiply_adds_unshared

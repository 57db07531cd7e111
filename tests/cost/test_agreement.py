"""Across rooms: what is expected of certain draws is what is counted on the selected graph, to the last weight."""

import numpy as np
import pytest
from helpers.graphs import random_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.sharing import sharing
from onnxmtl.ir.passes import RemoveUnusedNodesPass
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.policy import Policy, argmax, sample

SPACES = ({}, {"norm": "per_task"}, {"skip": "dense1x1"}, {"skip": "grouped1x1"}, {"granularity": "block"})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3), st.sampled_from(SPACES))
def test_expected_is_counted(seed, tasks, space):
    model = random_model(seed, tasks=tasks)
    RemoveUnusedNodesPass()(model)
    Vcn(**space)(model)
    table = site_table(model)
    assume(table.sites)  # where every layer serves one task only, there is nothing to decide
    policy = Policy.of_model(model, table)
    architecture = sample(policy, 1, seed)[0] if seed % 4 else argmax(policy)
    Pipeline(select_passes(architecture))(model)
    counted = count(model)
    expected = ExpectedCost(table)
    p = architecture.probabilities(table)
    none = np.zeros(0)
    assert float(expected.multiply_adds(p, none)) == pytest.approx(counted.multiply_adds, rel=1e-12)
    assert float(expected.parameters(p, none)) == pytest.approx(counted.parameters, rel=1e-12)
    assert float(expected.multiply_adds_unshared(p, none)) == pytest.approx(counted.multiply_adds_unshared, rel=1e-12)
    for row in sharing(model):  # who runs with whom is a partition of the tasks that do not skip
        grouped = [task for group in row.runs for task in group]
        assert len(set(grouped)) == len(grouped)
        assert {task for task, use in row.uses.items() if str(use) != "skipped"} == set(grouped)

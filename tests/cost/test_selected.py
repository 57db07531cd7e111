"""Counting an architecture on the table: what its execution counts, what selection leaves, what is expected of it."""

import numpy as np
import pytest
from helpers.architectures import every_architecture
from helpers.graphs import random_model, small_resnet
from helpers.programs import random_program
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import cost
from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import SelectedCost, count_architecture, picks_of
from onnxmtl.errors import ModelError
from onnxmtl.ir.passes import Refused, RemoveUnusedNodesPass
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Architecture, Policy, sample

SPACES = (
    Vcn(),
    Vcn(norm="per_task"),
    Vcn(skip="dense1x1"),
    Vcn(skip="grouped1x1", granularity="block"),
    Vcn(shared_prefix=2),
    SelectOrSkip(),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_execution(seed):
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    picks = every_architecture(program.table())
    picks = picks[rng.permutation(len(picks))[:20]]
    costs = SelectedCost(program.table())(picks)
    for i, drawn in enumerate(picks):
        draw = {(s, t): int(option) for (s, t), option in np.ndenumerate(drawn) if option >= 0}
        assert program.execute(draw) == (costs.multiply_adds[i], costs.parameters[i])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3), st.sampled_from(SPACES))
def test_equals_the_count_on_the_selected_graph(seed, tasks, space):
    model = random_model(seed, tasks=tasks)
    RemoveUnusedNodesPass()(model)
    try:
        space(model)
    except Refused:  # no residual block, or no block at all
        assume(False)
    table = site_table(model)
    assume(table.sites)
    architecture = sample(Policy.uniform(table), 1, seed)[0]
    Pipeline(select_passes(architecture))(model)
    counted = count(model)
    assert count_architecture(table, architecture) == (counted.parameters, counted.multiply_adds)
    trunk = (counted.parameters_trunk, counted.multiply_adds_trunk)
    assert cost.count_architecture(table, architecture, trunk=True) == trunk
    assert trunk < (counted.parameters, counted.multiply_adds)


def test_absent_tasks_have_no_option():
    model = small_resnet()
    Vcn()(model)
    table = site_table(model)
    first = table.sites[0]
    shared = Architecture.uniform(table, "shared")
    assert (picks_of(table, shared) == 0).all()
    with pytest.raises(ModelError, match="is missing"):
        picks_of(table, Architecture({first.id: {"seg": "shared"}}))


def test_a_table_without_sites_costs_what_it_costs():
    model = small_resnet()
    counted = count(model)
    table = site_table(model)
    assert isinstance(table, SiteTable) and not table.sites
    assert count_architecture(table, Architecture({})) == (counted.parameters, counted.multiply_adds)

"""Budgets on chains of blocks with branches: the decoder against all architectures, and on the emitted graph."""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers.architectures import every_architecture, log_probabilities, random_policy
from helpers.branching import architecture_of, branch_table, branched, line_model, selected_from, unet_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import SelectedCost
from onnxmtl.errors import BudgetError
from onnxmtl.policy import Policy
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.budgeted import decode_budgeted
from onnxmtl.policy.budgeted.chains import is_grouped_chain
from onnxmtl.policy.budgeted.problem import make_problem

SHAPES = [(2, 5, None), (3, 3, None), (4, 2, None), (3, 3, {0: 1}), (3, 3, {2: 2, 1: 1}), (4, 2, {1: 1})]
QUANTITIES = (("parameters",), ("multiply_adds",), ("parameters", "multiply_adds"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SHAPES), st.sampled_from([0.5, 2.0, 50.0]))
def test_the_best_of_all_architectures(seed: int, shape, spread: float) -> None:
    tasks, blocks, ends = shape
    rng = np.random.default_rng(seed)
    work, sizes = rng.integers(1, 100, (2, blocks)).tolist()
    table = branch_table(tasks, work, sizes, ends)
    policy = random_policy(table, rng, spread)
    picks = every_architecture(table)
    costs, values = SelectedCost(table)(picks), log_probabilities(policy, picks)
    row = int(rng.integers(len(picks)))
    for quantities in QUANTITIES:
        limits = [Absolute(quantity, float(getattr(costs, quantity)[row])) for quantity in quantities]
        best = values[make_problem(policy, limits).fits(costs)].max()
        found = decode_budgeted(policy, limits)
        assert found.log_probability == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert found.gap == 0.0 and all(getattr(found, limit.quantity) <= limit.bound for limit in limits)
        assert len(limits) == 2 or found.method == "exact"


@pytest.mark.parametrize("quantity", ["parameters", "multiply_adds"])
def test_every_budget_of_one_table(quantity: str) -> None:
    rng = np.random.default_rng(1)
    table = branch_table(3, (10, 4, 7), (3, 9, 5))
    policy = random_policy(table, rng, 1.0)
    picks = every_architecture(table)
    costs, values = getattr(SelectedCost(table)(picks), quantity), log_probabilities(policy, picks)
    for bound in np.unique(costs):
        found = decode_budgeted(policy, [Absolute(quantity, float(bound))])
        assert found.log_probability == pytest.approx(values[costs <= bound].max(), rel=1e-9)
        assert getattr(found, quantity) <= bound
    with pytest.raises(BudgetError, match=f"can be {costs.min()} at the least"):
        decode_budgeted(policy, [Absolute(quantity, float(costs.min()) - 1)])


def test_tasks_that_want_the_same_candidate_are_one_group() -> None:
    """The program splits them for its own sake; what is decoded is counted as it is."""
    table = branch_table(2, (10, 10))
    policy = Policy(table, (np.array([[3.0, 0.0], [0.0, 3.0]]), np.array([[5.0, 0.0], [5.0, 0.0]])))
    found = decode_budgeted(policy, [Absolute("multiply_adds", 2 * 7 + 20)])
    assert found.multiply_adds == 2 * 7 + 20
    assert found.architecture.choices["block1"] == {"a": "branch_0", "b": "branch_0"}


@pytest.mark.parametrize(
    "model", [line_model(3, 3), line_model(3, 3, early=1), line_model(3, 3, early=1, inside=True), unet_model()],
    ids=["line", "early", "inside", "unet"],
)  # fmt: skip
def test_the_emitted_graph_has_the_decoders_cost(model) -> None:
    model = branched(model, frontier=2)
    table = site_table(model)
    rng = np.random.default_rng(0)
    policy = random_policy(table, rng, 2.0)
    costs = SelectedCost(table)(np.stack([np.zeros((len(table.sites), 3), np.int64), _own(table)]))
    for quantity in ("multiply_adds", "parameters"):
        low, high = sorted(getattr(costs, quantity).tolist())
        for share in (0.0, 0.3, 0.6):
            limit = Absolute(quantity, low + share * (high - low))
            assert all(is_grouped_chain(p, load) for p in [make_problem(policy, [limit])] for load in p.loads)
            found = decode_budgeted(policy, [limit])
            counted = count(selected_from(model, found.architecture))
            assert (found.parameters, found.multiply_adds) == (counted.parameters, counted.multiply_adds)
            assert getattr(counted, quantity) <= limit.bound


def _own(table) -> np.ndarray:
    picks = np.full((len(table.sites), len(table.tasks)), -1, np.int64)
    for site in table.sites:
        tasks = list(site.tasks or range(len(table.tasks)))
        picks[site.index, tasks] = tasks
    return picks


def test_candidates_of_unequal_cost_are_decoded_by_the_general_program() -> None:
    import dataclasses

    table = branch_table(2, (10, 4))
    items = [dataclasses.replace(i, cost=i.cost + 3) if i.option == 1 else i for i in table.cost_items]
    table = dataclasses.replace(table, cost_items=tuple(items))
    policy = random_policy(table, np.random.default_rng(3), 1.0)
    picks = every_architecture(table)
    costs, values = SelectedCost(table)(picks).multiply_adds, log_probabilities(policy, picks)
    limit = Absolute("multiply_adds", float(np.median(costs)))
    (load,) = make_problem(policy, [limit]).loads
    assert not is_grouped_chain(make_problem(policy, [limit]), load)
    found = decode_budgeted(policy, [limit])
    assert found.log_probability == pytest.approx(values[costs <= limit.bound].max(), rel=1e-9)


def test_eight_tasks_and_sixteen_blocks_take_seconds() -> None:
    rng = np.random.default_rng(0)
    table = branch_table(8, rng.integers(100, 1000, 16).tolist())
    policy = random_policy(table, rng, 1.0)
    whole = SelectedCost(table)(np.repeat(np.arange(8)[None, None], 16, 1)).multiply_adds[0]
    start = time.process_time()
    found = decode_budgeted(policy, [Absolute("multiply_adds", 0.5 * float(whole))])
    assert found.gap == 0.0 and found.multiply_adds <= 0.5 * whole
    assert time.process_time() - start < 20
    assert architecture_of(table, _own(table)).validate(table) != found.architecture

"""What branch architectures cost: by the meaning of a tree, by the papers' formulas, and as counted on graphs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.architectures import every_architecture
from helpers.branching import architecture_of, branch_table, branched, line_model, selected_from, unet_model
from helpers.graphs import random_model, small_resnet
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable, WeightItem
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.selected import SelectedCost, count_architecture
from onnxmtl.ir.passes import Refused
from onnxmtl.policy import Architecture, Policy, sample

HEADS = np.array([7, 5])  # of a table by hand: multiply-adds and weights of one


def counts_by_hand(table: SiteTable, costs: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """[architectures, (multiply-adds, parameters)]: a block once per different history of choices, and the heads."""
    found = np.zeros((len(picks), 2), np.int64) + len(table.tasks) * HEADS
    histories = np.zeros((len(picks), len(table.tasks)), np.int64)
    for site, cost in enumerate(costs):
        present = picks[0, site] >= 0
        histories = histories * 10 + picks[:, site] + 1
        ordered = np.sort(histories[:, present], 1)
        found += (1 + (np.diff(ordered, axis=1) != 0).sum(1))[:, None] * cost
    return found


CHAINS = [
    (2, (10, 3, 8, 1), None),
    (3, (10, 4, 7), None),
    (4, (9, 5), None),
    (3, (10, 4, 7), {1: 2}),
    (4, (9, 5), {0: 1}),
]


@pytest.mark.parametrize(("tasks", "work", "ends"), CHAINS)
def test_every_architecture_of_a_chain_and_what_is_expected(tasks: int, work: tuple[int, ...], ends) -> None:
    sizes = [3 * cost + 2 for cost in work]
    table = branch_table(tasks, work, sizes, ends)
    picks = every_architecture(table)
    by_hand = counts_by_hand(table, np.stack([work, sizes], 1), picks)
    counted = SelectedCost(table)(picks)
    assert np.array_equal(np.stack([counted.multiply_adds, counted.parameters], 1), by_hand)
    trunk = by_hand - tasks * HEADS
    assert np.array_equal(np.stack([counted.multiply_adds_trunk, counted.parameters_trunk], 1), trunk)
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(tasks), tasks) for _ in work]
    chance = np.ones(len(picks))
    for site, task in itertools.product(range(len(work)), range(tasks)):
        if picks[0, site, task] >= 0:
            chance *= p[site][task, picks[:, site, task]]
    expected = ExpectedCost(table)
    assert float(expected.multiply_adds(p)) == pytest.approx(chance @ by_hand[:, 0], rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(chance @ by_hand[:, 1], rel=1e-12)


@pytest.mark.parametrize("tasks", [2, 5, 7])
def test_the_formula_for_chains(tasks: int) -> None:
    """E[groups_l] = Σ_{S} (−1)^{|S|+1} Π_{l'≤l} Σ_j Π_{t∈S} p(t,l',j), term by term."""
    rng = np.random.default_rng(tasks)
    work = rng.integers(1, 1000, 6).tolist()
    p = [rng.dirichlet(np.ones(tasks), tasks) for _ in work]
    total = 0.0
    for size in range(1, tasks + 1):
        for group in itertools.combinations(range(tasks), size):
            together = 1.0
            for cost, q in zip(work, p, strict=True):
                together *= sum(np.prod([q[t, j] for t in group]) for j in range(tasks))
                total += (-1) ** (size + 1) * cost * (together if size > 1 else 1.0)
    found = ExpectedCost(branch_table(tasks, work)).multiply_adds(p)
    assert float(found) == pytest.approx(total + tasks * 7, rel=1e-12)


def test_both_costs_have_gradients() -> None:
    expected = ExpectedCost(branch_table(3, (10, 4, 7)))
    logits = [torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for cost in (expected.multiply_adds, expected.parameters):
        assert torch.autograd.gradcheck(lambda *z, cost=cost: cost([torch.softmax(x, -1) for x in z]), logits)


def test_all_separate_and_all_shared() -> None:
    table = branch_table(4, (10, 4), (3, 6))
    same, own = np.zeros((2, 4), np.int64), np.repeat(np.arange(4)[None], 2, 0)
    assert count_architecture(table, architecture_of(table, same)) == (9 + 20, 14 + 28)
    assert count_architecture(table, architecture_of(table, own)) == (4 * 9 + 20, 4 * 14 + 28)
    later = np.array([[0, 1, 0, 1], [2, 2, 2, 2]])  # who parted does not come together again
    assert count_architecture(table, architecture_of(table, later)) == (2 * 9 + 20, 2 * 14 + 28)


# -- graphs ------------------------------------------------------------------------------------------------------------

NETWORKS = {
    "line": (lambda: line_model(2, 3), {}),
    "early": (lambda: line_model(3, 2, early=0), {}),
    "inside": (lambda: line_model(2, 3, early=1, inside=True), {}),
    "prefix": (lambda: line_model(2, 3), {"shared_prefix": 1, "affine": "not-last"}),
    "unet": (lambda: unet_model("ab"), {"frontier": 2, "shared_prefix": 2}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_expectation_is_that_of_all_selected_graphs(name: str) -> None:
    make, options = NETWORKS[name]
    model = branched(make(), **options)
    table = site_table(model)
    picks = every_architecture(table)
    costs = SelectedCost(table)(picks)
    rng = np.random.default_rng(0)
    tasks = len(table.tasks)
    p = [rng.dirichlet(np.ones(tasks), tasks) for _ in table.sites]
    chance = np.array([np.prod([p[s][t, o] for (s, t), o in np.ndenumerate(d) if o >= 0]) for d in picks])
    expected = ExpectedCost(table)
    assert float(expected.multiply_adds(p)) == pytest.approx(chance @ costs.multiply_adds, rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(chance @ costs.parameters, rel=1e-12)
    for i in range(0, len(picks), max(1, len(picks) // 40)):
        architecture = architecture_of(table, picks[i])
        counted = count(selected_from(model, architecture))
        assert (costs.parameters[i], costs.multiply_adds[i]) == (counted.parameters, counted.multiply_adds)
        trunk = (counted.parameters_trunk, counted.multiply_adds_trunk)
        assert (costs.parameters_trunk[i], costs.multiply_adds_trunk[i]) == trunk
        one_hot = architecture.probabilities(table)
        assert float(expected.multiply_adds(one_hot)) == counted.multiply_adds
        assert float(expected.parameters(one_hot)) == counted.parameters
        assert float(expected.multiply_adds_unshared(one_hot)) == counted.multiply_adds_unshared


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_count_of_any_selected_graph(seed: int, tasks: int) -> None:
    try:
        model = branched(random_model(seed, tasks=tasks), frontier=1 + seed % 3)
    except Refused:
        assume(False)
    table = site_table(model)
    architecture = sample(Policy.uniform(table), 1, seed)[0]
    counted = count(selected_from(model, architecture))
    assert count_architecture(table, architecture) == (counted.parameters, counted.multiply_adds)


def test_what_the_table_says_of_a_candidate() -> None:
    """A block of the small residual network: 4 channels, 8x8 pixels."""
    table = site_table(branched(small_resnet({"a": 1, "b": 2}, width=4, size=8)))
    for site in table.sites:
        assert site.grouped and site.depth == site.index and len(site.options) == 2
        first, second = site.options
        assert (first.multiply_adds, first.parameters_shared) == (second.multiply_adds, second.parameters_shared)
        assert first.equal_across_tasks and not first.identity
    assert table.sites[1].options[0].multiply_adds == 2 * 64 * 4 * 4 * 9
    assert table.sites[1].options[0].parameters_shared == 2 * (4 * 4 * 9 + 8)
    shared = count_architecture(table, Architecture.uniform(table, "branch_0"))
    plain = count(small_resnet({"a": 1, "b": 2}))
    assert shared == (plain.parameters, plain.multiply_adds)


def test_a_weight_per_group_is_of_one_option() -> None:
    sites = branch_table(2, (3,)).sites
    with pytest.raises(ValueError, match="of one option of one site"):
        SiteTable(("a", "b"), sites, (), (WeightItem(3, 0, ((0, 0, 0), (1, 0, 1)), agree={}),))

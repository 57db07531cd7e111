"""Random trees: equally likely, with the numbers of groups or the cost they should have."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers.architectures import every_architecture
from helpers.branching import architecture_of, branch_table, branched, groups_of, line_model, selected_from
from scipy.stats import chi2

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost import count_architecture
from onnxmtl.cost.count import count
from onnxmtl.policy import Layout, layout_of, random_at_cost, random_like
from onnxmtl.policy.random_trees import log_ways


def looks_uniform(drawn: list[Layout], population: set[Layout]) -> bool:
    """Pearson's test at 99.9 %."""
    assert set(drawn) <= population
    expected = len(drawn) / len(population)
    counts = Counter(drawn)
    statistic = sum((counts[layout] - expected) ** 2 / expected for layout in population)
    return bool(statistic < chi2.ppf(0.999, len(population) - 1))


@pytest.mark.parametrize("ends", [None, {1: 1}])
def test_how_many_architectures_are_one_tree(ends: dict[int, int] | None) -> None:
    table = branch_table(3, (4, 5), ends=ends)
    picks = every_architecture(table)
    trees = [tuple(tuple(map(tuple, groups)) for groups in groups_of(drawn)) for drawn in picks]
    counts = Counter(trees)
    assert np.allclose(np.exp(log_ways(table, picks)), [counts[tree] for tree in trees])
    assert len(counts) == (12 if ends is None else 7)


def test_trees_like_one_have_as_many_groups_and_are_equally_likely() -> None:
    table = branch_table(4, (4, 5, 6))
    model = architecture_of(table, np.array([[0, 0, 1, 0], [0, 0, 3, 0], [1, 2, 2, 2]]))
    like = layout_of(table, model)
    assert [len(groups) for groups in like.groups] == [2, 2, 3]
    every = [Layout.from_id("abcd", 3, number).with_blocks(like.blocks) for number in range(154)]
    population = {layout for layout in every if [len(groups) for groups in layout.groups] == [2, 2, 3]}
    assert len(population) == 6 * 3  # S(4,3) finest, S(3,2) ways to merge to two, one way to stay
    drawn = [random_like(table, model, seed) for seed in range(20 * len(population))]
    assert looks_uniform([layout_of(table, one) for one in drawn], population)
    cost = count_architecture(table, model)
    assert all(count_architecture(table, one) == cost for one in drawn[:20])
    assert random_like(table, model, 3) == drawn[3] and random_like(table, model, 3, "per-task").validate(table)


def test_trees_of_one_cost_are_equally_likely() -> None:
    """Not architectures: of these some trees have 36 and others 6."""
    table = branch_table(3, (40, 50, 60))
    every = {Layout.from_id("abc", 3, number).with_blocks(["block0", "block1", "block2"]) for number in range(22)}
    costs = {layout: layout.cost([40, 50, 60]) + 21 for layout in every}
    target, tolerance = 310.0, 0.15
    population = {layout for layout, cost in costs.items() if abs(cost / target - 1) <= tolerance}
    assert 8 <= len(population) <= 18
    drawn = random_at_cost(table, target, tolerance, seed=1, count=16 * len(population))
    assert looks_uniform([layout_of(table, one) for one in drawn], population)


def test_the_cost_is_that_of_the_graph() -> None:
    model = branched(line_model(3, 3, early=1))
    table = site_table(model)
    _, target = count_architecture(table, random_like(table, architecture_of(table, _some(table)), 0))
    for one in random_at_cost(table, target, 0.1, seed=2, count=3):
        assert abs(count(selected_from(model, one)).multiply_adds / target - 1) <= 0.1


def _some(table) -> np.ndarray:
    return np.array([[0, 1, 0], [2, 1, 0], [-1, 0, 0]])[: len(table.sites)]

"""The plan and the statistics of ``make evidence-trees``, on numbers that can be checked by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
from scipy.stats import pearsonr, spearmanr

from onnxmtl.policy.layout import Layout, count_layouts

_SPEC = importlib.util.spec_from_file_location("trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_SPEC)
sys.modules["trees"] = trees
_SPEC.loader.exec_module(trees)

TASKS = ("left", "right", "seg", "edges")


def cost(layout):
    return layout.cost([1.0] * len(layout.groups))


def named(blocks=5):
    return {
        "all shared": Layout.shared(TASKS, blocks),
        "separate": Layout.separate(TASKS, blocks),
        "recommended": Layout.shared(TASKS, blocks),
    }


def tree(number, measured, predicted, chosen=("random",), of_seed=(0.0, 0.0)):
    """A tree of two tasks, `measured` [seeds][tasks]."""
    groups = Layout.from_id(TASKS[:2], 5, number).groups
    per_seed = tuple(dict(zip(TASKS, values, strict=False)) for values in measured)
    return trees.Tree(number, groups, chosen, 0.5, dict.fromkeys(trees.PREDICTIONS, predicted), of_seed, per_seed)


def evidence(*those):
    return trees.Evidence(4, TASKS[:2], {"left": 0.25, "right": 0.75}, 6, 10, those)


# -- the plan --------------------------------------------------------------------------------------------------------


def test_named_layouts_come_first_and_once_with_all_their_names():
    chosen = trees.plan(named(), cost, 20)
    assert list(chosen.values())[:2] == [("all shared", "recommended"), ("separate",)]
    assert len(chosen) == 20
    assert set(list(chosen.values())[2:]) == {("random",)}


def test_random_layouts_lie_over_all_costs():
    """Costs of layouts of 4 tasks go from 5 to 20 blocks; those drawn freely would almost all be at 13 and more."""
    costs = sorted(cost(layout) for layout, who in trees.plan(named(), cost, 20).items() if who == ("random",))
    assert costs[0] < 7 and costs[-1] > 18
    for low in (5, 10, 15):
        assert sum(low <= one <= low + 5 for one in costs) >= 4


def test_the_plan_is_the_same_every_time_and_of_another_seed_another():
    assert list(trees.plan(named(), cost, 20)) == list(trees.plan(named(), cost, 20))
    assert list(trees.plan(named(), cost, 20)) != list(trees.plan(named(), cost, 20, seed=1))


def test_more_layouts_than_there_are():
    chosen = trees.plan(named(blocks=1), cost, 100)
    assert len(chosen) == count_layouts(4, 1) == 15


def test_named_layouts_are_trained_even_if_fewer_are_asked_for():
    assert len(trees.plan(named(), cost, 1)) == 2


def test_parts_of_the_costs_without_layouts_leave_some_to_others():
    """Of 4 parts of the range 0 to 100 two are empty."""
    layouts = [Layout.from_id(TASKS, 5, number) for number in range(6)]
    drawn = trees.spread(layouts, [0, 1, 2, 3, 4, 100], 4, 0)
    assert len(set(drawn)) == 4 and layouts[5] in drawn


# -- the statistics --------------------------------------------------------------------------------------------------


def test_the_score_is_the_mean_over_the_tasks_or_weighted():
    one = tree(0, [(1.0, 3.0), (2.0, 6.0)], 0.0)
    assert one.scores() == (2.0, 4.0) and one.score == 3.0
    assert one.scores({"left": 0.25, "right": 0.75}) == (2.5, 5.0)


def test_fishers_interval():
    """0.6 of 19 pairs: z = 0.6931, half = 1.96 √(1 / 16) = 0.49; tanh(0.2031), tanh(1.1831)."""
    assert trees.interval(0.6, 19, 1.0) == pytest.approx((0.2004, 0.8284), abs=1e-3)
    assert all(map(math.isnan, trees.interval(0.5, 3)))
    assert all(map(math.isnan, trees.interval(1.0, 10)))


def test_the_best_has_rank_1_and_equal_scores_the_same():
    assert [trees.rank(score, [3.0, 1.0, 3.0, 2.0]) for score in (3.0, 2.0, 1.0)] == [1, 3, 4]


def test_predictions_are_compared_with_each_seed_and_with_the_mean():
    predicted = [1.0, 2.0, 3.0, 4.0]
    first, second = [1.0, 3.0, 2.0, 7.0], [2.0, 1.0, 5.0, 4.0]
    found = evidence(
        *(tree(i, [(a, a), (b, b)], p) for i, (p, a, b) in enumerate(zip(predicted, first, second, strict=True)))
    )
    rows = {row.prediction: row for row in trees.comparisons(found)}
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    for truth, rho, r in zip((first, second, means), *_columns(rows[trees.RSA]), strict=True):
        assert rho == pytest.approx(spearmanr(predicted, truth)[0])
        assert r == pytest.approx(pearsonr(predicted, truth)[0])
    ceiling = rows["scores of other seeds"]
    assert ceiling.spearman[:2] == pytest.approx([spearmanr(first, second)[0]] * 2)
    assert math.isnan(ceiling.spearman[2])


def _columns(row):
    return row.spearman, row.pearson


def test_svd_entropy_is_compared_with_scores_of_its_weights():
    """Weighed 1:3 the layouts' scores are 3 and 1, weighed equally both are 2."""
    found = evidence(tree(0, [(0.0, 4.0)], 2.0, of_seed=(0.0,)), tree(1, [(4.0, 0.0)], 1.0, of_seed=(0.0,)))
    rows = {row.prediction: row for row in trees.comparisons(found)}
    assert rows[trees.SVD].spearman == (1.0, 1.0)
    assert all(map(math.isnan, rows[trees.TWO_TASK].spearman))


def test_own_seed_and_other_seeds_take_that_seeds_two_task_models():
    """Seed 0's models order the layouts as seed 1's scores do, and seed 1's the other way round."""
    found = evidence(
        *(tree(i, [(-i, -i), (i, i)], 0.0, of_seed=(float(i), float(-i))) for i in range(3)),
    )
    rows = {row.prediction: row for row in trees.comparisons(found)}
    assert rows["two-task, own seed"].spearman[:2] == (-1.0, -1.0)
    assert rows["two-task, other seeds"].spearman[:2] == (1.0, 1.0)


def test_the_table_ranks_those_that_were_chosen():
    found = evidence(
        tree(0, [(1.0, 1.0), (1.0, 1.0)], 0.0, ("all shared", "recommended")),
        tree(1, [(4.0, 4.0), (2.0, 2.0)], 0.0),
        tree(2, [(0.0, 0.0), (0.0, 0.0)], 0.0, ("separate",)),
        tree(3, [(2.0, 2.0), (0.5, 0.5)], 0.0),
    )
    lines = trees.summary(found).splitlines()
    assert next(line for line in lines if line.startswith("| recommended")) == (
        "| recommended | 0.50× | 3 | 2 | 3 | +1.00 | 2.00 | -1.12 |"
    )
    assert next(line for line in lines if line.startswith("| 1 |")).startswith("| 1 | l·r l·r l·r l·r l·r | random |")

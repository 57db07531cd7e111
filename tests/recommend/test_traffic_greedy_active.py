from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from helpers.layout_search import different_layouts, every_layout

from onnxmtl.errors import BudgetError, TaskError
from onnxmtl.policy.layout import Layout
from onnxmtl.policy.parts import Part
from onnxmtl.recommend import active, program
from onnxmtl.recommend.estimators import Measured, estimate
from onnxmtl.recommend.greedy import greedy
from onnxmtl.recommend.scores import branch_points
from onnxmtl.recommend.table import TwoTaskTable
from onnxmtl.recommend.traffic import Traffic, read_traffic
from onnxmtl.runs import derive_seed

TASKS = ("seg", "depth", "normals")


def test_the_cost_under_traffic_is_the_mean_cost_of_a_request():
    traffic = read_traffic("seg+depth=0.5, normals=0.3, *=0.2", TASKS)
    costs = [5.0, 3.0]
    requests = [({0, 1}, 0.5), ({2}, 0.3), ({0, 1, 2}, 0.2)]
    for groups in every_layout(3, 2):
        mean = sum(
            p * sum(c for c, block in zip(costs, groups, strict=True) for g in block if asked & set(g))
            for asked, p in requests
        )
        assert program.layout_costs(groups, np.array([costs]), traffic.probability)[0] == pytest.approx(mean)
        assert Layout(TASKS, groups).cost(costs, traffic.probability) == pytest.approx(mean)


def test_independent_requests():
    traffic = Traffic.independent(TASKS, [0.5, 0.2, 0.0])
    some = 1 - 0.5 * 0.8
    assert traffic.probability((0,)) == pytest.approx(0.5 / some)
    assert traffic.probability((0, 1)) == pytest.approx(1)
    assert traffic.probability((2,)) == 0


def test_traffic_files(tmp_path):
    path = tmp_path / "traffic.json"
    path.write_text(json.dumps({"requests": {"seg+depth": 0.25, "normals": 0.75}}))
    assert read_traffic(path, TASKS).probability((0,)) == 0.25
    path.write_text('{"requests": {"seg": true}}')
    with pytest.raises(TaskError, match="has to look like"):
        read_traffic(path, TASKS)
    path.write_text(json.dumps({"independent": {"seg": 1, "depth": 0.5, "normals": 0}}))
    assert read_traffic(path, TASKS).probability((1,)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seg=0.5", "sum to 0.5; they have to sum to 1"),
        ("seg=0.5, edges=0.5", "asks for the task 'edges'; the tasks are seg, depth, normals"),
        ("seg=1.5, depth=-0.5", "the probability 1.5, not 0 to 1"),
        ("seg=a", "has to look like"),
        ("seg=0.5, seg=0.5", "has a request twice"),
        ("nothing.json", "cannot read the traffic nothing.json"),
    ],
)
def test_traffic_that_is_none(text, message):
    with pytest.raises(TaskError, match=message):
        read_traffic(text, TASKS)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_never_better_than_the_best_and_keeps_the_budget(seed):
    rng = np.random.default_rng(seed)
    pairs, costs = np.cumsum(rng.normal(-0.3, 0.5, (4, 4, 5)), axis=2), rng.random(4) + 0.1
    for share in (0.0, 0.3, 0.7, 1.0):
        budget = costs.sum() * (1 + 3 * share)
        found, best = greedy(pairs, costs, budget), program.best(pairs, costs, 1, budget)[0]
        assert found.groups in every_layout(4, 4)
        assert found.cost <= budget * (1 + 1e-12) and found.score <= best.score + 1e-12
        assert found.score == pytest.approx(program.LayoutScores(pairs).of(found.groups))


def test_greedy_splits_as_long_as_something_is_gained():
    pairs = np.zeros((3, 3, 3))
    pairs[0, 1] = pairs[0, 2] = [5.0, 1.0, 0.0]  # task 0 wants to be alone, tasks 1 and 2 together
    pairs[1, 2] = [-1.0, -1.0, 2.0]
    assert greedy(pairs, [1.0, 1.0]).groups == (((0,), (1, 2)),) * 2
    assert greedy(pairs, [1.0, 1.0], 3.0).groups == (((0, 1, 2),), ((0,), (1, 2)))
    with pytest.raises(BudgetError, match="the cheapest costs 2"):
        greedy(pairs, [1.0, 1.0], 1.5)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_with_early_tasks_keeps_the_budget_and_splits_none_that_are_finished(seed):
    rng = np.random.default_rng(seed)
    pairs, costs = np.cumsum(rng.normal(-0.3, 0.5, (4, 4, 5)), axis=2), rng.random(4) + 0.1
    passed = rng.integers(1, 5, 4)
    parts = [Part(b, tuple(t for t in range(4) if passed[t] > b)) for b in range(max(passed))]
    costs, layouts = costs[: len(parts)], different_layouts(4, 4, parts)
    for share in (0.0, 0.3, 1.0):
        budget = costs.sum() * (1 + share)
        found, best = greedy(pairs, costs, budget, None, parts), program.best(pairs, costs, 1, budget, None, parts)[0]
        assert found.groups in layouts
        assert found.cost <= budget * (1 + 1e-12) and found.score <= best.score + 1e-12
        assert found.cost == pytest.approx(Layout("abcd", found.groups).cost(costs, parts=parts))


def test_greedy_takes_more_tasks_than_the_exact_program():
    rng = np.random.default_rng(0)
    pairs = np.cumsum(rng.normal(-0.3, 0.5, (16, 16, 4)), axis=2)
    found = greedy(pairs, [1.0, 1.0, 1.0], 20.0)
    assert Layout(tuple(map(str, range(16))), found.groups).cost([1.0] * 3) == found.cost <= 20
    assert found.score > program.LayoutScores(pairs).of(((tuple(range(16)),),) * 3)


def full_table(seed, tasks=4, blocks=8):
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(0, 1, (tasks, tasks, blocks + 1)), axis=2)
    return TwoTaskTable(tuple("abcdef"[:tasks]), blocks, values - values[:, :, :1])


def test_the_ends_and_the_middle_come_first():
    table, order = TwoTaskTable.untrained(TASKS, 5), []
    full = full_table(0, 3, 5)
    for _ in range(6):
        t, u, b = active.next_training(table, [1.0] * 5)
        order.append((t, u, b))
        table = table.with_pair(t, u, b, full.values[t, u, b], full.values[u, t, b])
    assert order == [(t, u, b) for b in (5, 3) for t, u in itertools.combinations(range(3), 2)]
    assert active.first_cells(3, 5) == tuple(order)


def test_gaps_are_filled_with_straight_lines():
    table = TwoTaskTable.untrained(("a", "b"), 4).with_pair(0, 1, 4, 8.0, -4.0).with_pair(0, 1, 1, 0.0, 2.0)
    found = active.filled(table)
    np.testing.assert_allclose(found.values[0, 1], [0, 0, 8 / 3, 16 / 3, 8])
    np.testing.assert_allclose(found.values[1, 0], [0, 2, 0, -2, -4])


def test_draws_agree_with_what_is_trained_and_spread_as_bridges():
    table = TwoTaskTable.untrained(("a", "b"), 8).with_pair(0, 1, 8, 3.0, 1.0).with_pair(0, 1, 4, 1.0, -2.0)
    draws = np.array([active._drawn(table, seed).values for seed in range(4000)])
    known = [0, 4, 8]
    assert np.ptp(draws[:, 0, 1][:, known], axis=0) == pytest.approx([0, 0, 0], abs=1e-12)
    np.testing.assert_allclose(draws[:, 0, 1].mean(axis=0), active.filled(table).values[0, 1], atol=0.1)
    np.testing.assert_allclose(draws[:, 0, 1].std(axis=0), active._spread(table)[0, 1], rtol=0.06, atol=1e-9)
    size = np.sqrt(np.mean(np.array([1, 2, -2, 3]) ** 2 / 4))  # of one step: increments over 4 blocks each
    assert active._spread(table)[0, 1, 2] == pytest.approx(size)  # 2 * 2 / 4 blocks


def test_a_replay_stops_before_everything_is_trained_and_its_regret_is_small():
    trained = 0
    for seed in range(1):
        full = full_table(seed, 4, 6)
        steps = active.replay(full, [1.0] * 6, 1, 14.0, weighting="equal", seed=seed)
        assert [step.trained for step in steps] == list(range(12, 12 + len(steps)))
        assert [step.decided for step in steps] == [False] * (len(steps) - 1) + [True]
        trained += steps[-1].trained
        truth = estimate("two-task", Measured(full))
        best = program.best(truth, [1.0] * 6, 1, 14.0)[0]
        worst = program.best(-truth.pairs, [1.0] * 6, 1)[0]
        assert active.regret(truth, best, best) == 0
        assert active.regret(truth, worst, best) == pytest.approx(best.score + worst.score)
        assert steps[-1].regret <= 0.05 * (best.score + worst.score)  # of the range of all scores
    assert trained < 36


def test_the_next_training_is_of_layouts_that_are_undecided():
    """By enumeration: what is best differs from draw to draw, and a layout of these uses the model."""
    full, table, trained = full_table(3, 3, 5), TwoTaskTable.untrained(TASKS, 5), 0
    for t, u, b in active.first_cells(3, 5):
        table = table.with_pair(t, u, b, full.values[t, u, b], full.values[u, t, b])
    costs, budget, every = np.ones(5), 10.0, every_layout(3, 5)
    while True:
        cell = active.next_training(table, costs, 2, budget, weighting="equal", seed=5)
        tops = []
        for draw in range(active._DRAWS):
            one = active._drawn(table, derive_seed(5, "two-task", len([c for c in table.missing if c[2]]), draw))
            scores = estimate("two-task", Measured(one))
            within = [groups for groups in every if sum(map(len, groups)) <= budget]
            tops.append(set(sorted(within, key=scores.of, reverse=True)[:2]))
        undecided = set.union(*tops) - set.intersection(*tops)
        assert (cell is None) == (not undecided or not table.missing)
        if cell is None:
            break
        t, u, b = cell
        assert cell in table.missing and any(branch_points(groups)[t, u] == b for groups in undecided)
        table = table.with_pair(t, u, b, full.values[t, u, b], full.values[u, t, b])
        trained += 1
    assert trained > 0


def test_the_next_training_depends_on_the_seed_and_the_table_alone():
    full, table = full_table(1), TwoTaskTable.untrained(tuple("abcd"), 8)
    for t, u, b in active.first_cells(4, 8):
        table = table.with_pair(t, u, b, full.values[t, u, b], full.values[u, t, b])
    found = [active.next_training(table, [1.0] * 8, 3, 18.0, weighting="equal", seed=7) for _ in range(2)]
    assert found[0] == found[1] and found[0] in table.missing

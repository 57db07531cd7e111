from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.layout_search import branching_points, different_layouts, every_layout, tie_key, what_is_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import BudgetError
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.policy.parts import Part, whole_blocks
from onnxmtl.recommend import program
from onnxmtl.recommend.chain import make_chain
from onnxmtl.recommend.scores import LayoutScores
from onnxmtl.recommend.search import search
from onnxmtl.recommend.skyband import exactly


def enumerated(pairs, costs, budgets, k, groups=None, chance=lambda group: 1.0, parts=None):
    """The k best within the budgets, by looking at every layout: (score, costs, groups)."""
    rows = []
    tasks, blocks = len(pairs), pairs.shape[2] - 1
    for layout in every_layout(tasks, blocks) if parts is None else different_layouts(tasks, blocks, parts):
        score = sum(pairs[t, u, b] for (t, u), b in branching_points(layout).items())
        if groups is not None:
            score += sum(groups[b, sum(2**t for t in g)] for b, block in enumerate(layout) for g in block)
        spent = [
            sum(
                cost * chance(tuple(task for task in group if task in part.tasks))
                for cost, part in zip(row, whole_blocks(tasks, blocks) if parts is None else parts, strict=True)
                for group in layout[part.block]
                if set(group) & set(part.tasks)
            )
            for row in costs
        ]
        if all(limit is None or cost <= limit + 1e-9 for cost, limit in zip(spent, budgets, strict=True)):
            rows.append((score, spent, layout))
    rows.sort(key=lambda row: (-row[0], row[1], tie_key(row[2])))
    return rows[:k]


def same(found, wanted):
    assert [one.groups for one in found] == [layout for _, _, layout in wanted]
    assert [one.score for one in found] == pytest.approx([score for score, _, _ in wanted], rel=1e-12, abs=1e-12)
    assert [one.costs for one in found] == [pytest.approx(costs, rel=1e-12) for _, costs, _ in wanted]


@st.composite
def problems(draw, most_tasks=4, most_blocks=4, quantities=1):
    """Scores and costs; half of them small whole numbers, with many ties."""
    tasks, blocks = draw(st.integers(1, most_tasks)), draw(st.integers(1, most_blocks))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    whole_scores, whole_costs = draw(st.booleans()), draw(st.booleans())
    shape = (tasks, tasks, blocks + 1)
    pairs = rng.integers(-2, 3, shape).astype(float) if whole_scores else rng.normal(size=shape)
    costs = rng.integers(0, 4, (quantities, blocks)) * 1.0 if whole_costs else rng.random((quantities, blocks)) + 0.1
    shares = draw(st.lists(st.none() | st.floats(0, 1), min_size=quantities, max_size=quantities))
    budgets = [
        None if share is None else row.sum() * (1 + share * (tasks - 1))
        for share, row in zip(shares, costs, strict=True)
    ]
    return pairs, costs, budgets


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from([1, 10]))
def test_best_is_what_enumeration_finds(problem, k):
    pairs, costs, budgets = problem
    same(program.best(pairs, costs[0], k, budgets[0]), enumerated(pairs, costs, budgets, k))


@pytest.mark.parametrize(("tasks", "blocks"), [(3, 5), (4, 5), (5, 3)])
def test_best_at_many_budgets(tasks, blocks):
    check_many_budgets(tasks, blocks)


@pytest.mark.slow
def test_best_at_many_budgets_of_five_tasks_and_blocks():
    check_many_budgets(5, 5)


def check_many_budgets(tasks, blocks):
    rng = np.random.default_rng(tasks * 10 + blocks)
    pairs, costs = np.cumsum(rng.normal(-0.2, 0.5, (tasks, tasks, blocks + 1)), axis=2), rng.random((1, blocks)) + 0.1
    every = enumerated(pairs, costs, [None], None)
    for share in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        budget = costs.sum() * (1 + share * (tasks - 1))
        within = [row for row in every if row[1][0] <= budget + 1e-9]
        for k in (1, 10):
            same(program.best(pairs, costs[0], k, budget), within[:k])


@settings(max_examples=15, deadline=None)
@given(problems(4, 3, quantities=2), st.sampled_from([1, 4]))
def test_two_limits_at_once(problem, k):
    pairs, costs, budgets = problem
    same(program.best(pairs, costs, k, budgets), enumerated(pairs, costs, budgets, k))


@settings(max_examples=15, deadline=None)
@given(problems(4, 3), st.integers(0, 2**32))
def test_scores_of_groups_and_traffic(problem, seed):
    pairs, costs, budgets = problem
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(pairs.shape[2] - 1, 2 ** len(pairs)))
    single = rng.random(len(pairs))

    def chance(group):
        return 1 - np.prod(1 - single[list(group)])

    budget = None if budgets[0] is None else budgets[0] * chance(range(len(pairs))) + 1e-9
    found = program.best(LayoutScores(pairs, groups), costs[0], 5, budget, chance)
    same(found, enumerated(pairs, costs, [budget], 5, groups, chance))


@st.composite
def early_tasks(draw, tasks, blocks):
    """Parts of blocks: tasks pass so many blocks each (some the last one in part only), or need what they need."""
    if draw(st.booleans()):
        passed = draw(st.lists(st.integers(1, blocks), min_size=tasks, max_size=tasks))
        parts = [Part(b, tuple(t for t in range(tasks) if passed[t] > b)) for b in range(blocks)]
        parts += [Part(b, tuple(t for t in range(tasks) if passed[t] > b + 1)) for b in range(blocks)]
        return [part for part in parts if part.tasks]
    needing = st.sets(st.integers(0, tasks - 1), min_size=1).map(lambda some: tuple(sorted(some)))
    return draw(st.lists(st.builds(Part, st.integers(0, blocks - 1), needing), max_size=6, unique=True))


@settings(max_examples=60, deadline=None)
@given(st.data(), problems(4, 4), st.sampled_from([1, 3, 40]), st.integers(1, 2), st.booleans())
def test_tasks_that_need_parts_of_the_blocks(data, problem, k, quantities, traffic):
    """Best layouts, in two quantities and with traffic, are those of enumeration; so is the front. None comes twice."""
    pairs, _, _ = problem
    tasks, blocks = len(pairs), pairs.shape[2] - 1
    parts = data.draw(early_tasks(tasks, blocks))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    costs = rng.integers(0, 4, (quantities, len(parts))) * 1.0
    single = rng.integers(0, 5, tasks) / 4  # sums are exact, so that ties are

    def chance(group):
        return 1 - np.prod(1 - single[list(group)]) if traffic else 1.0

    every = enumerated(pairs, costs, [None] * quantities, None, None, chance, parts)
    share = data.draw(st.none() | st.floats(0, 1))
    budgets = [None] * quantities
    if share is not None:  # what some layout costs is a budget that can be kept
        budgets = [cost + 1e-9 for cost in every[int(share * (len(every) - 1))][1]]
    found = program.best(pairs, costs, k, budgets if quantities > 1 else budgets[0], chance, parts)
    same(found, enumerated(pairs, costs, budgets, k, None, chance, parts))
    if quantities == 1 and not traffic:
        front = program.front(pairs, costs, None, parts)
        bests = [program.best(pairs, costs, 1, cost, None, parts)[0] for cost in {row[1][0] for row in every}]
        assert {one.groups for one in front} == {one.groups for one in bests}


@settings(max_examples=40, deadline=None)
@given(problems(4, 4), st.data())
def test_no_two_answers_are_the_same_graph(problem, data):
    pairs, _, _ = problem
    tasks, blocks = len(pairs), pairs.shape[2] - 1
    passed = data.draw(st.lists(st.integers(1, blocks), min_size=tasks, max_size=tasks))
    parts = [Part(b, tuple(t for t in range(tasks) if passed[t] > b)) for b in range(max(passed))]
    found = program.best(pairs, [[1.0] * len(parts)], 10**4, None, None, parts)
    graphs = {what_is_shared(one.groups, parts) for one in found}
    assert len(graphs) == len(found)
    assert graphs == {what_is_shared(groups, parts) for groups in every_layout(tasks, blocks)}


def test_tasks_and_blocks_that_are_not_there_are_refused():
    for part in (Part(2, (0,)), Part(0, (2,))):
        with pytest.raises(ValueError, match="parts are of the blocks 0 to 1 and the tasks 0 to 1"):
            program.best(np.zeros((2, 2, 3)), [1.0], parts=[part])


@settings(max_examples=15, deadline=None)
@given(problems(4, 4, quantities=2), st.sampled_from([1, 3]), st.integers(1, 2))
def test_of_every_budget_is_the_skyband(problem, k, quantities):
    pairs, costs, _ = problem
    costs = costs[:quantities]
    every = enumerated(pairs, costs, [None] * quantities, None)
    every = [(score, tuple(np.round(spent, 9)), layout) for score, spent, layout in every]

    def beats(one, other):  # places in `every` decide between equals
        (a, x), (b, y) = one, other
        better = x[0] >= y[0] - 1e-12 and all(p <= q for p, q in zip(x[1], y[1], strict=True))
        worse = y[0] >= x[0] - 1e-12 and all(q <= p for p, q in zip(x[1], y[1], strict=True))
        return better and (not worse or a < b)

    wanted = {
        row[2] for place, row in enumerate(every) if sum(beats(other, (place, row)) for other in enumerate(every)) < k
    }
    if len(every) <= 600:
        found = program.of_every_budget(pairs, costs, k)
        assert {one.groups for one in found} == wanted and len(found) == len(wanted)
        assert [one.cost for one in found] == sorted(one.cost for one in found)


@pytest.mark.parametrize(("kind", "k"), [("falling", 1), ("falling", 7), ("whole", 3)])
def test_ranges_of_scores_together_are_what_one_search_finds(kind, k):
    """Of five tasks on eight blocks the skyband takes several searches; whole numbers have many ties."""
    rng = np.random.default_rng(k)
    pairs = -np.cumsum(rng.random((5, 5, 9)), axis=2) if kind == "falling" else rng.integers(-2, 3, (5, 5, 9)) * 1.0
    costs = rng.random(8) + 0.1 if kind == "falling" else np.ones(8)
    chain = make_chain(LayoutScores(pairs), costs[None])
    found = search(chain, k, None)
    order = np.lexsort((-found.scores, found.costs[0]))
    wanted = [found.groups(int(i)) for i in order[exactly(found.costs[:, order], found.scores[order], k)]]
    assert [one.groups for one in program.of_every_budget(pairs, costs, k)] == wanted
    assert len(wanted) >= 10


@pytest.mark.parametrize("quantities", [1, 2])
def test_a_front_that_would_take_forever_is_refused(monkeypatch, quantities):
    monkeypatch.setattr(program, "_MOST_PAIRS", 100)
    with pytest.raises(BudgetError, match="4 tasks on 6 blocks have too many layouts that are the best of some budget"):
        program.of_every_budget(np.random.default_rng(0).normal(size=(4, 4, 7)), np.ones((quantities, 6)), 2)


def test_the_front_answers_every_budget():
    rng = np.random.default_rng(5)
    pairs, costs = np.cumsum(rng.normal(-0.3, 0.4, (4, 4, 5)), axis=2), rng.random(4) + 0.1
    front = program.front(pairs, costs)
    assert len(front) > 3
    for one in front:
        assert program.best(pairs, costs, 1, one.cost) == [one]
    assert all(a.cost < b.cost and a.score < b.score for a, b in itertools.pairwise(front))


@pytest.mark.parametrize(("tasks", "blocks"), [(1, 1), (2, 4), (3, 5), (4, 3), (5, 2)])
def test_all_layouts_come_once(tasks, blocks):
    rng = np.random.default_rng(0)
    every = program.best(rng.normal(size=(tasks, tasks, blocks + 1)), rng.random(blocks), 10**5)
    assert (
        len(every)
        == len({one.groups for one in every})
        == count_layouts(tasks, blocks)
        == len(every_layout(tasks, blocks))
    )
    for one in every:
        assert Layout(tuple(map(str, range(tasks))), one.groups).groups == one.groups


def test_forbidden_points_are_left_out():
    pairs = np.zeros((3, 3, 4))
    pairs[:, :, 1:3] = -np.inf
    found = program.best(pairs, [1.0, 1.0, 1.0], 100)
    assert len(found) == 5  # the partitions of three tasks
    assert all(len(set(one.groups)) == 1 for one in found)


def test_a_budget_that_nothing_keeps_tells_the_cheapest():
    with pytest.raises(BudgetError, match=r"within the budget 2.5: the cheapest costs 3$"):
        program.best(np.zeros((2, 2, 4)), [1.0, 1.0, 1.0], 1, 2.5)


def test_a_cost_equal_to_the_budget_is_within():
    costs = [0.1] * 3  # 0.1 + 0.1 + 0.1 > 0.3 in float64
    assert len(program.best(np.zeros((2, 2, 4)), costs, 10, 0.3)) == 1
    assert len(program.best(np.zeros((2, 2, 4)), [1, 1, 1], 10, 5.999999)) == 3


@pytest.mark.parametrize(
    ("pairs", "costs", "budget", "k"),
    [
        (np.full((2, 2, 3), np.nan), [1, 1], None, 1),
        (np.zeros((2, 2, 3)), [1, -1], None, 1),
        (np.zeros((2, 2, 3)), [1], None, 1),
        (np.zeros((2, 2, 3)), [1, 1], [1.0, 2.0], 1),
        (np.zeros((2, 2, 3)), [1, 1], None, 0),
        (np.zeros((2, 3, 3)), [1, 1], None, 1),
    ],
)
def test_what_makes_no_sense_is_refused(pairs, costs, budget, k):
    with pytest.raises(ValueError):
        program.best(pairs, costs, k, budget)


def test_too_many_tasks_are_refused():
    with pytest.raises(BudgetError, match="up to 14 tasks, not 15; take the greedy decoder"):
        program.best(np.zeros((15, 15, 2)), [1.0])


def test_eight_tasks_sixteen_blocks_stay_quick_and_keep_the_budget():
    """The answer itself is checked by its neighbours: no single change of a branching point improves it."""
    rng = np.random.default_rng(1)
    pairs, costs = np.cumsum(rng.normal(-0.2, 0.5, (8, 8, 17)), axis=2), rng.random(16) + 0.1
    budget = 4 * costs.sum()
    found = program.best(pairs, costs, 10, budget)
    assert len({one.groups for one in found}) == 10 and all(one.cost <= budget for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    best = found[0].groups
    for block in range(1, 16):  # a block's partition taken from the block before or behind it
        for other in (block - 1, block + 1):
            if other < 16:
                changed = (*best[:block], best[other], *best[block + 1 :])
                one = LayoutScores(pairs).of(changed)
                assert (
                    one <= found[0].score + 1e-12
                    or sum(c * len(g) for c, g in zip(costs, changed, strict=True)) > budget
                )

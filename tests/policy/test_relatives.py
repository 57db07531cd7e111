"""Trees to compare with: permuted tasks, and the plain tree of about the same cost; against enumeration."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.policy import Layout
from onnxmtl.policy.relatives import permutations, vanilla

NAMES = "abcdefgh"


@st.composite
def layouts(draw, most: int = 4) -> Layout:
    tasks, blocks = draw(st.integers(1, most)), draw(st.integers(1, 4))
    choices = draw(
        st.lists(st.lists(st.integers(0, 1), min_size=tasks, max_size=tasks), min_size=blocks, max_size=blocks)
    )
    return Layout.from_choices(NAMES[:tasks], choices)


def every(layout: Layout) -> set[Layout]:
    """All that a permutation makes of the tree, but the tree itself."""
    found = set()
    for order in itertools.permutations(range(len(layout.tasks))):
        points = {
            (order[t], order[u]): layout.branch_point(t, u)
            for t, u in itertools.combinations(range(len(layout.tasks)), 2)
        }
        found.add(Layout.from_branch_points(layout.tasks, len(layout.groups), points))
    return found - {layout}


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 3))
def test_permutations_are_all_there_are(layout, seed):
    found = permutations(layout, 1000, seed)
    assert len(set(found)) == len(found) and set(found) == every(layout)
    assert permutations(layout, 2, seed) == found[:2]
    costs = [3.0**block for block in range(len(layout.groups))]
    assert all(one.cost(costs) == layout.cost(costs) and one.tasks == layout.tasks for one in found)


def test_permutations_of_many_tasks_are_drawn():
    layout = Layout.from_choices(NAMES, [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 0, 1, 2]])
    found = permutations(layout, 8, 1)
    assert len(set(found)) == 8 and layout not in found
    assert found == permutations(layout, 8, 1) and found != permutations(layout, 8, 2)
    shared = Layout.shared(NAMES, 3)
    assert not permutations(shared, 3)


def test_a_permutation_is_as_likely_as_it_has_orders():
    """One task alone of three: each of the two others is drawn first about as often."""
    layout = Layout.from_choices("abc", [[0, 0, 1]])
    firsts = [permutations(layout, 1, seed)[0].groups[0] for seed in range(200)]
    assert 70 < firsts.count(((0,), (1, 2))) < 130
    assert set(firsts) == {((0,), (1, 2)), ((0, 2), (1,))}


@settings(max_examples=60, deadline=None)
@given(layouts(), st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_vanilla_is_the_nearest_plain_tree(layout, numbers):
    costs = [float(number) for number in numbers[: len(layout.groups)]]
    tasks, blocks = len(layout.tasks), len(layout.groups)
    plain = vanilla(layout, lambda tree: tree.cost(costs))
    points = {plain.branch_point(t, u) for t, u in itertools.combinations(range(tasks), 2)}
    assert len(points) <= 1 and plain.tasks == layout.tasks
    distances = {}
    for point in range(blocks + 1):
        cost = sum(costs[:point]) + tasks * sum(costs[point:])
        distances.setdefault(abs(cost - layout.cost(costs)), []).append(cost)
    assert plain.cost(costs) == min(distances[min(distances)])


def test_a_plain_tree_is_its_own_vanilla():
    layout = Layout.from_branch_points("abc", 4, {(0, 1): 2, (0, 2): 2, (1, 2): 2}).with_blocks(list("wxyz"))
    assert vanilla(layout, lambda tree: tree.cost([1, 2, 3, 4])) == layout

"""Blocks that not all tasks need: what a layout costs then, and which layouts are the same graph."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.layout_search import different_layouts, every_layout, still_shared
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.policy.layout import Layout
from onnxmtl.policy.parts import Part, finished, whole_blocks, without_idle_splits

# Task 0 needs one block of three, task 1 a part of the second, too, task 2 everything.
PARTS = (Part(0, (0, 1, 2)), Part(1, (1, 2)), Part(1, (2,)), Part(2, (2,)))


def test_a_group_has_what_one_of_its_tasks_needs():
    costs = (100.0, 30.0, 7.0, 1000.0)
    assert Layout.shared("abc", 3).cost(costs, parts=PARTS) == 1137
    assert Layout.separate("abc", 3).cost(costs, parts=PARTS) == 3 * 100 + 2 * 30 + 7 + 1000
    asked = {(0, 1, 2): 1.0, (1,): 0.5, (2,): 0.25, (1, 2): 0.625}
    layout = Layout("abc", (((0, 1, 2),), ((0, 1), (2,)), ((0,), (1,), (2,))))
    assert layout.cost(costs, asked.__getitem__, PARTS) == 100 + (0.5 + 0.25) * 30 + 0.25 * 7 + 0.25 * 1000
    with pytest.raises(ModelError, match="the layout has blocks of 4 parts, but 3 costs are given"):
        layout.cost(costs[:3], parts=PARTS)


def test_finished_tasks_need_nothing_from_there_on():
    assert finished(PARTS, 3, 4) == (frozenset(), {0}, {0, 1}, {0, 1, 2})
    assert finished(whole_blocks(2, 3), 2, 3) == (frozenset(),) * 3


def test_a_finished_task_stays_with_the_first_that_goes_on():
    groups = (((0, 1, 2),), ((0, 2), (1,)), ((0,), (1,), (2,)))
    assert without_idle_splits(groups, PARTS) == (((0, 1, 2),), ((0, 1), (2,)), ((0, 1), (2,)))
    assert without_idle_splits(groups, whole_blocks(3, 3)) == groups


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_of_layouts_that_differ_in_finished_tasks_one_is_left(tasks, blocks, seed):
    rng = np.random.default_rng(seed)
    parts = [Part(b, tuple(map(int, np.flatnonzero(rng.random(tasks) < 0.6)))) for b in range(blocks)]
    left = {groups: without_idle_splits(groups, parts) for groups in every_layout(tasks, blocks)}
    assert set(left.values()) == set(different_layouts(tasks, blocks, parts))
    for groups, one in left.items():
        assert Layout("abcd"[:tasks], one).groups == one
        assert still_shared(one, parts) == still_shared(groups, parts) and left[one] == one

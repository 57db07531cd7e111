"""The value type: what a layout is, where it comes from, what it says and how it is written."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from helpers.layouts import layouts
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.policy import Layout
from onnxmtl.policy.layout_text import branches

TASKS = ("seg", "depth", "normals")
TREE = Layout(TASKS, (((0, 1, 2),), ((2,), (1, 0)), ((0,), (1,), (2,))), ("stem", "body", "neck"))


def test_equal_layouts_are_equal():
    assert TREE.groups[1] == ((0, 1), (2,))
    same = Layout(list(TASKS), [[[2, 0, 1]], [[0, 1], [2]], [[2], [1], [0]]], ["stem", "body", "neck"])
    assert same == TREE and hash(same) == hash(TREE)
    assert dataclasses.replace(TREE, blocks=()) != TREE
    with pytest.raises(dataclasses.FrozenInstanceError):
        TREE.tasks = ()


@pytest.mark.parametrize(
    ("tasks", "groups", "blocks", "words"),
    [
        ((), (), (), "it has no tasks"),
        (("a",), (), (), "it has no blocks"),
        (("a", "a"), (((0, 1),),), (), "task 'a' is there twice"),
        (("a", ""), (((0, 1),),), (), "a task has an empty name"),
        (("a", "b"), (((0, 1),),), ("x", "y"), "it has 1 blocks but names for 2"),
        (("a", "b"), (((0, 1),), ((0,), (1,))), ("x", "x"), "block 'x' is there twice"),
        (("a", "b"), (((0,),),), (), "in block 0 task 'b' is in 0 groups instead of one"),
        (("a", "b"), (((0, 1), (1,)),), (), "in block 0 task 'b' is in 2 groups instead of one"),
        (("a", "b"), (((0, 1, 2),),), (), "there is a task 2, but there are 2 tasks"),
        (("a", "b"), (((0, 1), ()),), (), "in block 0 a group is empty"),
        (
            ("a", "b", "c"),
            (((0, 1), (2,)), ((0, 2), (1,))),
            ("x", "y"),
            r"in block 1 \('y'\) 'a' and 'c' share again, but they parted before",
        ),
    ],
)
def test_what_is_no_layout(tasks, groups, blocks, words):
    with pytest.raises(ModelError, match=words) as caught:
        Layout(tasks, groups, blocks)
    assert "\n" not in str(caught.value)


def test_shared_and_separate():
    assert Layout.shared(TASKS, 2).groups == (((0, 1, 2),),) * 2
    assert Layout.separate(TASKS, 2).groups == (((0,), (1,), (2,)),) * 2
    assert [len(layout(TASKS, 4).trees()) for layout in (Layout.shared, Layout.separate)] == [1, 3]


@given(layouts())
def test_branch_points_say_it_all(layout):
    """Of every pair the first block where they are apart, by looking; and the layout back from them, two ways."""
    count, names, blocks = len(layout.tasks), layout.tasks, len(layout.groups)
    points = {}
    for t, u in itertools.combinations(range(count), 2):
        apart = [b for b, groups in enumerate(layout.groups) if not any({t, u} <= set(g) for g in groups)]
        assert layout.branch_point(t, u) == layout.branch_point(u, t) == min([*apart, blocks])
        points[t, u] = layout.branch_point(t, u)
    matrix = np.full((count, count), -7)  # the diagonal does not matter
    for (t, u), point in points.items():
        matrix[t, u] = matrix[u, t] = point
    assert Layout.from_branch_points(names, blocks, points) == layout
    assert Layout.from_branch_points(names, blocks, {(names[u], t): p for (t, u), p in points.items()}) == layout
    assert Layout.from_branch_points(names, blocks, matrix) == layout


@given(st.integers(2, 5), st.integers(1, 4), st.data())
def test_points_that_make_no_tree_are_refused(count, blocks, data):
    pairs = list(itertools.combinations(range(count), 2))
    points = {pair: data.draw(st.integers(0, blocks)) for pair in pairs}

    def point(t, u):
        return points[min(t, u), max(t, u)]

    tree = all(point(a, c) >= min(point(a, b), point(b, c)) for a, b, c in itertools.permutations(range(count), 3))
    names = tuple("abcde"[:count])
    if tree:
        layout = Layout.from_branch_points(names, blocks, points)
        assert {pair: layout.branch_point(*pair) for pair in pairs} == points
    else:
        with pytest.raises(ModelError, match=r"no tree has these branching points: '\w' and '\w' part at block \d"):
            Layout.from_branch_points(names, blocks, points)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({(0, 1): 1}, "branching point of 'seg' and 'normals' is missing"),
        ({(0, 1): 1, ("depth", "seg"): 2}, "two branching points of 'seg' and 'depth': 1 and 2"),
        ({(0, 1): 4}, "'seg' and 'depth' is 4, which is not between 0 and 3"),
        ({(0, 3): 1}, "no task 3; there are: seg, depth, normals"),
        ({("seg", "edges"): 1}, "no task 'edges'"),
        ([[0, 1], [1, 0]], "a matrix of 3 rows and columns"),
        ([[0, 1, 1], [2, 0, 1], [1, 1, 0]], "two branching points of 'seg' and 'depth'"),
    ],
)
def test_branch_points_that_are_wrong(points, words):
    with pytest.raises(ModelError, match=words):
        Layout.from_branch_points(TASKS, 3, points)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_choices_share_while_they_agree(count, blocks, data):
    """BMTAS: together at a block if and only if all choices up to it are equal."""
    row = st.lists(st.integers(0, count - 1), min_size=count, max_size=count)
    choices = data.draw(st.lists(row, min_size=blocks, max_size=blocks))
    layout = Layout.from_choices(tuple("abcde"[:count]), choices)
    for t, u in itertools.combinations(range(count), 2):
        same = [taken[t] == taken[u] for taken in choices]
        assert layout.branch_point(t, u) == (same.index(False) if False in same else blocks)


@given(layouts(), st.data())
def test_cost_is_a_sum_over_blocks_and_groups(layout, data):
    costs = data.draw(st.lists(st.integers(0, 10**9), min_size=len(layout.groups), max_size=len(layout.groups)))
    assert layout.cost(costs) == sum(c * len(groups) for c, groups in zip(costs, layout.groups, strict=True))
    chance = {0: 0.5, 1: 0.25, 2: 0.125}
    expected = 0.0
    for cost, groups in zip(costs, layout.groups, strict=True):
        for group in groups:
            expected += cost * chance.get(len(group) - 1, 1.0)
    assert layout.cost(costs, lambda group: chance.get(len(group) - 1, 1.0)) == pytest.approx(expected, rel=1e-12)


def test_cost_of_other_blocks_is_refused():
    with pytest.raises(ModelError, match="the layout has 3 blocks, but 2 costs are given"):
        TREE.cost([1, 2])


def test_finer_blocks():
    finer = TREE.expand((1, 3, 2))
    assert finer.groups == (TREE.groups[0], *(TREE.groups[1],) * 3, *(TREE.groups[2],) * 2) and not finer.blocks
    assert TREE.expand((1, 1, 1)) == dataclasses.replace(TREE, blocks=())
    for counts in ((1, 2), (1, 0, 2)):
        with pytest.raises(ModelError, match="3 blocks takes as many counts from 1 on"):
            TREE.expand(counts)


@given(layouts(), st.randoms())
def test_the_order_of_tasks(layout, random):
    order = list(layout.tasks)
    random.shuffle(order)
    other = layout.for_tasks(order)
    assert other.tasks == tuple(order) and other.for_tasks(layout.tasks) == layout
    for t, u in itertools.combinations(range(len(order)), 2):
        old = layout.tasks.index(order[t]), layout.tasks.index(order[u])
        assert other.branch_point(t, u) == layout.branch_point(*old)


def test_other_tasks_are_refused():
    with pytest.raises(ModelError, match=r"the layout is for the tasks seg, depth, normals, not for seg, depth$"):
        TREE.for_tasks(("seg", "depth"))


# Written and read


def test_json_is_readable_and_reads_back(tmp_path):
    assert (
        TREE.to_json()
        == """\
{
  "layout": {
    "tasks": ["seg", "depth", "normals"],
    "blocks": [
      {"name": "stem", "groups": [["seg", "depth", "normals"]]},
      {"name": "body", "groups": [["seg", "depth"], ["normals"]]},
      {"name": "neck", "groups": [["seg"], ["depth"], ["normals"]]}
    ]
  }
}
"""
    )
    assert json.loads(TREE.to_json()) == TREE.to_dict()
    file = tmp_path / "layout.json"
    file.write_text(TREE.to_json())
    assert Layout.from_file(file) == TREE == Layout.from_file(str(file))


@given(layouts(), st.booleans())
def test_json_of_any_layout(layout, named):
    if named:
        layout = layout.with_blocks([f'"Ü{i}"\n' for i in range(len(layout.groups))])
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the layout is not JSON"),
        ("[]", "needs the form"),
        ('{"architecture": {}}', "needs the form"),
        ('{"layout": {"tasks": ["a"], "blocks": {}}}', "needs the form"),
        ('{"layout": {"tasks": [1], "blocks": []}}', "needs the form"),
        ('{"layout": {"tasks": ["a"], "blocks": []}}', "it has no blocks"),
        ('{"layout": {"tasks": ["a"], "blocks": [{}]}}', 'block 0 of the layout needs "groups"'),
        ('{"layout": {"tasks": ["a"], "blocks": [{"groups": ["a"]}]}}', 'block 0 of the layout needs "groups"'),
        ('{"layout": {"tasks": ["a"], "blocks": [{"groups": [["a"]]}, {"groups": [["b"]]}]}}', "block 1 .* task 'b'"),
        (
            '{"layout": {"tasks": ["a"], "blocks": [{"groups": [["a"]]}, {"name": "x", "groups": [["a"]]}]}}',
            "either every block of the layout has a name, or none has",
        ),
        ('{"layout": {"tasks": ["a"], "blocks": [{"name": 3, "groups": [["a"]]}]}}', "either every block"),
    ],
)
def test_files_that_are_no_layouts(text, words, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ModelError, match=rf"mine\.json: .*{words}") as caught:
        Layout.from_file(file)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the layout .*none\.json"):
        Layout.from_file(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"cannot read the layout .*binary\.json"):
        Layout.from_file(tmp_path / "binary.json")


# Drawn


def test_a_tree_as_text():
    assert (
        TREE.text()
        == """\
block 0 (to stem): seg, depth, normals
├─ block 1 (to body): seg, depth
│  ├─ block 2 (to neck): seg
│  └─ block 2 (to neck): depth
└─ blocks 1-2 (to neck): normals
"""
    )
    assert Layout(TASKS, (((0, 2), (1,)),) * 2).text() == "blocks 0-1: seg, normals\nblocks 0-1: depth\n"


@given(layouts())
def test_branches_cover_every_block_and_group_once(layout):
    found = []

    def visit(branch):
        found.extend((block, branch.tasks) for block in range(branch.first, branch.last + 1))
        assert not branch.children or len(branch.children) > 1  # a run is as long as it can be
        for child in branch.children:
            assert child.first == branch.last + 1 and set(child.tasks) < set(branch.tasks)
            visit(child)

    for tree in branches(layout.groups):
        visit(tree)
    assert sorted(found) == sorted((b, group) for b, groups in enumerate(layout.groups) for group in groups)
    assert len(layout.text().splitlines()) == len({group for groups in layout.groups for group in groups})

"""The number of layouts and the place of each in TreeMTL's enumeration, against enumerating and the recorded ones."""

from __future__ import annotations

import ast
import csv
import json
import math
import os
from pathlib import Path

import pytest
from helpers.layouts import enumerated, groups_of, layouts
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.policy.layout import Layout, count_layouts

FILES = Path(os.environ.get("ONNXMTL_SHARED", "../shared")) / "data" / "treemtl"
recorded = pytest.mark.skipif(not FILES.is_dir(), reason="the shared data are not there ($ONNXMTL_SHARED)")
SCORES = FILES / "scores_NYUv2_2task_metrics_resnet_1129_val_acc.csv"


@pytest.mark.parametrize(
    ("tasks", "blocks"), [(1, 1), (1, 4), (2, 1), (2, 7), (3, 1), (3, 5), (4, 1), (4, 4), (5, 1), (5, 3), (6, 2)]
)
def test_counts_and_numbers_are_those_of_the_enumeration(tasks, blocks):
    found = [groups_of(state) for state in enumerated(tasks, blocks)]
    assert len(set(found)) == len(found) == count_layouts(tasks, blocks)
    names = tuple("abcdef"[:tasks])
    for number, groups in enumerate(found):
        layout = Layout(names, groups)
        assert layout.number == number
        assert Layout.from_id(names, blocks, number) == layout


def test_counts_of_the_paper():
    """TreeMTL, and the table of methods.md 2.4."""
    known = {(3, 5): 51, (5, 5): 7556, (5, 17): 725_748, (6, 4): 44_590, (4, 8): 1989, (2, 32): 33, (7, 3): 146_115}
    assert {size: count_layouts(*size) for size in known} == known
    assert [count_layouts(n, 1) for n in range(1, 9)] == [1, 2, 5, 15, 52, 203, 877, 4140]  # Bell's numbers


def test_counting_needs_no_enumeration():
    """30 tasks on 100 blocks: a number of about a hundred digits, there and back."""
    names = tuple(map(str, range(30)))
    total = count_layouts(30, 100)
    assert math.log10(total) > 60
    for number in (0, 1, total // 3, total - 1):
        assert Layout.from_id(names, 100, number).number == number


@given(layouts(8, 17))
def test_numbers_lead_back(layout):
    size = len(layout.tasks), len(layout.groups)
    assert 0 <= layout.number < count_layouts(*size)
    assert Layout.from_id(layout.tasks, size[1], layout.number) == layout


@given(st.integers(1, 7), st.integers(1, 9), st.data())
def test_every_number_is_a_layout(tasks, blocks, data):
    number = data.draw(st.integers(0, count_layouts(tasks, blocks) - 1))
    assert Layout.from_id(tuple("abcdefg"[:tasks]), blocks, number).number == number


def test_errors():
    with pytest.raises(ModelError, match=r"3 tasks on 5 blocks have the layouts 0 to 50, so there is no layout 51$"):
        Layout.from_id(("a", "b", "c"), 5, 51)
    with pytest.raises(ModelError, match="no layout -1"):
        Layout.from_id(("a", "b", "c"), 5, -1)
    with pytest.raises(ModelError, match="one task and one block at least, not 0 and 5"):
        count_layouts(0, 5)


@recorded
def test_the_ids_of_nyuv2():
    """All 51 rows of the recorded scores; the best five are 45, 0, 50, 37, 49."""
    with SCORES.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        layout = Layout(("seg", "normals", "depth"), _groups(ast.literal_eval(row["layout"])))
        assert layout.number == int(row["layout_idx"])
    assert sorted(int(row["layout_idx"]) for row in rows) == list(range(51))
    best = sorted(rows, key=lambda row: -float(row["score"]))[:5]
    assert [Layout(("a", "b", "c"), _groups(ast.literal_eval(row["layout"]))).number for row in best] == [
        45,
        0,
        50,
        37,
        49,
    ]


@recorded
def test_the_ids_of_domainnet():
    content = json.loads((FILES / "measured_DomainNet_effnetv2_1228.json").read_text())
    tasks = tuple(content["tasks"])
    numbers = [Layout(tasks, _groups(groups)).number for groups in content["layouts"]]
    assert numbers == content["layout_idx_in_TreeMTL_order"] and len(numbers) == 109


def _groups(state):
    return tuple(tuple(tuple(group) for group in block) for block in state)

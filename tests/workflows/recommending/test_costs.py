"""Costs of layouts as sums over blocks: equal to what is counted on the graph of every layout."""

from __future__ import annotations

import json

import pytest

from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.errors import BudgetError
from onnxmtl.kinds import load_tasks
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.recommending import budget
from onnxmtl.workflows.recommending.costs import COUNTED, CostTable, Emission, cost_table, with_latency

THREE = "seg=segmentation:5,depth,room=classification:4"


@pytest.fixture(scope="module")
def emission(backbone):
    model = load(backbone)
    return Emission(model, backbone_blocks(model, 3), load_tasks(THREE))


@pytest.mark.parametrize("fold", [True, False])
def test_sums_equal_counting_every_layout(backbone, fold):
    model = load(backbone)
    emission = Emission(model, backbone_blocks(model, 3), load_tasks(THREE), fold=fold)
    table = cost_table(emission)
    for number in range(count_layouts(3, 3)):
        layout = Layout.from_id(table.tasks, 3, number)
        counted = emission.costs(layout)
        assert [table.of(layout, q) for q in COUNTED] == [getattr(counted, q) for q in COUNTED], layout.text()
        assert table.of(layout, "models") == len(layout.trees())


def test_separate_models_are_separate_trees(emission):
    table = cost_table(emission)
    counted = emission.costs(Layout.separate(table.tasks, 3))
    assert table.separate("multiply_adds") == counted.multiply_adds
    assert table.separate("parameters") == counted.parameters


def test_without_heads_only_the_trunk_is_known(backbone):
    model = load(backbone)
    emission = Emission(model, backbone_blocks(model, 3), load_tasks("seg=segmentation,depth"))
    table = cost_table(emission)
    assert not table.heads_known and set(table.blocks) == {"multiply_adds_trunk", "parameters_trunk", "models"}
    whole = cost_table(Emission(model, backbone_blocks(model, 3), load_tasks("seg=segmentation:5,depth")))
    assert table.blocks["multiply_adds_trunk"] == whole.blocks["multiply_adds_trunk"]
    assert table.blocks["parameters_trunk"] == whole.blocks["parameters_trunk"]
    for quantity in ("madds<=0.6x", "params<=3M"):
        with pytest.raises(BudgetError, match="write name=kind:N in --tasks"):
            budget.resolve(budget.parse(quantity), table, expected=False)
    with pytest.raises(BudgetError, match="of task 'seg' is not known"):
        with_latency(table, emission)


def test_traffic_scales_what_a_group_costs(emission):
    table = cost_table(emission)
    layout = Layout.from_branch_points(table.tasks, 3, {(0, 1): 2, (0, 2): 1, (1, 2): 1})
    chance = {(0, 1, 2): 1.0, (0, 1): 0.5, (2,): 0.75, (0,): 0.25, (1,): 0.125}
    blocks, heads = table.blocks["multiply_adds"], table.heads["multiply_adds"]
    expected = blocks[0] + blocks[1] * (0.5 + 0.75) + blocks[2] * (0.25 + 0.125 + 0.75)
    expected += heads[0] * 0.25 + heads[1] * 0.125 + heads[2] * 0.75
    assert table.of(layout, "multiply_adds", chance.__getitem__) == pytest.approx(expected, rel=1e-12)
    assert table.fixed("multiply_adds", chance.__getitem__) == pytest.approx(
        heads[0] * 0.25 + heads[1] * 0.125 + heads[2] * 0.75, rel=1e-12
    )


def test_latencies_explain_the_models_they_were_measured_on(emission, monkeypatch):
    """With a clock that is a sum over blocks, the table is that sum."""
    truth = (3.0, 0.5, 1.25)
    monkeypatch.setattr(Emission, "latency", lambda self, layout: 2.0 + layout.cost(truth))
    table = with_latency(cost_table(emission), emission)
    assert table.blocks["latency"] == pytest.approx(truth, abs=1e-12)
    for number in range(count_layouts(3, 3)):
        layout = Layout.from_id(table.tasks, 3, number)
        assert table.of(layout, "latency") == pytest.approx(2.0 + layout.cost(truth), abs=1e-9)


@pytest.fixture
def table():
    blocks = {"multiply_adds": (1e6, 2e6), "parameters": (10.0, 30.0), "models": (1.0, 0.0)}
    heads = {"multiply_adds": (1e6, 0.0, 0.0), "parameters": (1.0, 2.0, 3.0)}
    return CostTable(("a", "b", "c"), blocks, heads)


def test_budgets_become_numbers(table):
    limits = budget.resolve(budget.parse("madds<=0.5x, params<=0.1k,models<=2"), table, expected=False)
    assert [(one.quantity, one.bound) for one in limits] == [
        ("multiply_adds", 5e6),
        ("parameters", 100.0),
        ("models", 2.0),
    ]
    (expected,) = budget.resolve(budget.parse("madds<=0.5x"), table, expected=True)
    assert (expected.quantity, expected.bound) == ("expected_multiply_adds", 5e6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models<=0", "write models<=2, a whole number"),
        ("models<=1.5", "write models<=2, a whole number"),
        ("models<=", "write models<=2, a whole number"),
        ("backbones<=2", "limits 'backbones'"),
        ("madds<0.5x", "has to look like"),
        ("madds<=0.5x,", "has to look like"),
    ],
)
def test_a_budget_that_cannot_be_read_is_one_line(text, words):
    with pytest.raises(BudgetError, match=words) as told:
        budget.parse(text)
    assert "\n" not in str(told.value)


def test_a_budget_out_of_reach_names_the_least(table):
    limits = budget.resolve(budget.parse("madds<=3M"), table, expected=False)
    cheapest = table.all_of(Layout.shared(table.tasks, 2))
    with pytest.raises(BudgetError, match=r"madds<=3M: no layout keeps it; sharing everything has 4 M multiply-adds"):
        budget.check_reachable(limits, table, cheapest)
    budget.check_reachable(budget.resolve(budget.parse("madds<=4M"), table, expected=False), table, cheapest)
    json.dumps(cheapest)

"""Costs of layouts as sums over blocks: equal to what is counted on the graph of every layout."""

from __future__ import annotations

import json
import math

import onnx_ir as ir
import pytest
from helpers.compiling import write_backbone
from helpers.graphs import GraphBuilder
from helpers.layouts import random_layout

from onnxmtl import ops
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.errors import BudgetError
from onnxmtl.ir import save
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.passes.normalize import normalize
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.policy.parts import Part, whole_blocks
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.recommending import budget
from onnxmtl.workflows.recommending.costs import COUNTED, CostTable, Emission, cost_table
from onnxmtl.workflows.recommending.latency import calibrating, copies, with_latency

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


def branching(path):
    """A chain with two branches to features of their own: ``side`` beside ``mid``, and ``thin`` beside ``late``."""
    b = GraphBuilder(size=16)
    x = b.block(b.image, 4, name="stem")
    side = b.block(x, 6)
    x = b.residual(x, 4)
    thin = b.block(x, 3)
    late = b.residual(x, 8, stride=2)
    for value, name in ((x, "mid"), (side, "side"), (thin, "thin"), (late, "late")):
        value.name = name
    b.graph.outputs.extend([b.node("GlobalAveragePool", [late], ["N", 8, 1, 1], "pool"), side, thin])
    save(ir.Model(b.graph, ir_version=10), path)
    return path


def reading(text, features):
    """Tasks with light heads, each on one feature."""
    found = load_tasks(text)
    return TaskSet(tuple(t.replace(head="light", features=(f,)) for t, f in zip(found, features, strict=True)))


EARLY = {
    "one late": (write_backbone, ("late", "early", "early")),
    "two late": (write_backbone, ("early", "late", "late")),
    "none late": (write_backbone, ("early", "early", "early")),
    "branches": (branching, ("side", "thin", "late", "mid")),
    "branches alone": (branching, ("thin", "side", "thin")),
}


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("name", EARLY)
def test_tasks_that_read_early_features_pay_for_what_they_need(name, blocks, tmp_path):
    """All shared, separate and random trees: the sums are what is counted on the graph, wherever the cuts are."""
    write, features = EARLY[name]
    model = load(write(tmp_path / "net.onnx"), features=sorted({"late", *features}))
    tasks = reading(",".join(f"{name}=depth" for name in "abcd"[: len(features)]), features)
    emission = Emission(model, backbone_blocks(model, blocks), tasks)
    table = cost_table(emission)
    shared, separate = Layout.shared(tasks.names, blocks), Layout.separate(tasks.names, blocks)
    random = [random_layout(tasks.names, blocks, seed) for seed in range(12)]
    for layout in dict.fromkeys([shared, separate, *random]):
        counted = emission.costs(layout)
        assert [table.of(layout, q) for q in COUNTED] == [getattr(counted, q) for q in COUNTED], layout.text()
        assert table.of(layout, "models") == len(layout.trees())
    for quantity in COUNTED:
        assert table.separate(quantity) == getattr(emission.costs(separate), quantity)
        everything = sum(table.blocks(quantity)) + table.fixed(quantity)
        assert len(table.blocks(quantity)) == blocks and everything == getattr(emission.costs(shared), quantity)


def test_what_only_early_tasks_need_is_known_without_heads(tmp_path):
    model = load(write_backbone(tmp_path / "net.onnx"), features=["early", "late"])
    tasks = reading("seg=segmentation,depth,normals", ("late", "early", "early"))
    table = cost_table(Emission(model, backbone_blocks(model, 3), tasks))
    known = cost_table(
        Emission(
            model, backbone_blocks(model, 3), reading("seg=segmentation:9,depth,normals", ("late", "early", "early"))
        )
    )
    assert not table.heads_known and table.parts == known.parts
    assert table.copies["parameters_trunk"] == known.copies["parameters_trunk"]


def test_a_weight_of_two_blocks_is_counted_where_its_paths_have_parted():
    """As it is one along each path, there are as many as groups in the last block that uses it."""
    b = GraphBuilder(channels=4)
    x = b.relu(b.conv(b.image, 4))
    kernel = b.graph[0].inputs[1]
    b.graph.outputs.append(b.relu(b.node("Conv", [x, kernel], x.shape, kernel_shape=[3, 3], pads=[1] * 4)))
    kernel.metadata_props[ops.weights.TIED_KEY] = "yes"
    model = normalize(ir.Model(b.graph, ir_version=10))
    emission = Emission(model, backbone_blocks(model), load_tasks("a=depth,b=depth,c=edges"))
    table = cost_table(emission)
    for number in range(count_layouts(3, 2)):
        layout = Layout.from_id(table.tasks, 2, number)
        assert table.of(layout, "parameters") == emission.costs(layout).parameters, layout.text()


def clock(monkeypatch, of):
    """In the place of measurements."""
    monkeypatch.setattr(Emission, "latencies", lambda self, layouts, **_: [of(layout) for layout in layouts])


def test_latencies_of_early_tasks(tmp_path, monkeypatch):
    """What one task alone needs is never copied."""
    model = load(write_backbone(tmp_path / "net.onnx"), features=["early", "late"])
    tasks = reading("a=depth,b=depth,c=edges", ("early", "late", "early"))
    emission = Emission(model, backbone_blocks(model, 3), tasks)
    parts = cost_table(emission).parts
    assert parts == (Part(0, (0, 1, 2)), Part(1, (0, 1, 2)), Part(2, (1,)))
    clock(monkeypatch, lambda layout: 2.0 + layout.cost((3.0, 0.5, 1.25), parts=parts))
    table = with_latency(cost_table(emission), emission)
    for number in range(count_layouts(3, 3)):
        layout = Layout.from_id(table.tasks, 3, number)
        assert table.of(layout, "latency") == pytest.approx(2.0 + layout.cost((3.0, 0.5, 1.25), parts=parts), rel=0.02)


def test_separate_models_are_separate_trees(emission):
    table = cost_table(emission)
    counted = emission.costs(Layout.separate(table.tasks, 3))
    assert table.separate("multiply_adds") == counted.multiply_adds
    assert table.separate("parameters") == counted.parameters


def test_without_heads_only_the_trunk_is_known(backbone):
    model = load(backbone)
    emission = Emission(model, backbone_blocks(model, 3), load_tasks("seg=segmentation,depth"))
    table = cost_table(emission)
    assert not table.heads_known and set(table.copies) == {"multiply_adds_trunk", "parameters_trunk", "models"}
    whole = cost_table(Emission(model, backbone_blocks(model, 3), load_tasks("seg=segmentation:5,depth")))
    assert table.blocks("multiply_adds_trunk") == whole.blocks("multiply_adds_trunk")
    assert table.blocks("parameters_trunk") == whole.blocks("parameters_trunk")
    for quantity in ("madds<=0.6x", "params<=3M"):
        with pytest.raises(BudgetError, match="write name=kind:N in --tasks"):
            budget.resolve(budget.parse(quantity), table, expected=False)
    with pytest.raises(BudgetError, match="of task 'seg' is not known"):
        with_latency(table, emission)


def test_traffic_scales_what_a_group_costs(emission):
    table = cost_table(emission)
    layout = Layout.from_branch_points(table.tasks, 3, {(0, 1): 2, (0, 2): 1, (1, 2): 1})
    chance = {(0, 1, 2): 1.0, (0, 1): 0.5, (2,): 0.75, (0,): 0.25, (1,): 0.125}
    blocks, heads = table.blocks("multiply_adds"), table.heads["multiply_adds"]
    expected = blocks[0] + blocks[1] * (0.5 + 0.75) + blocks[2] * (0.25 + 0.125 + 0.75)
    expected += heads[0] * 0.25 + heads[1] * 0.125 + heads[2] * 0.75
    assert table.of(layout, "multiply_adds", chance.__getitem__) == pytest.approx(expected, rel=1e-12)
    assert table.fixed("multiply_adds", chance.__getitem__) == pytest.approx(
        heads[0] * 0.25 + heads[1] * 0.125 + heads[2] * 0.75, rel=1e-12
    )


def test_latencies_explain_the_models_they_were_measured_on(emission, monkeypatch):
    """With a clock that is a sum over blocks, the table is about that sum; of layouts that were not measured, too."""
    truth = (3.0, 0.5, 1.25)
    clock(monkeypatch, lambda layout: 2.0 + layout.cost(truth))
    table = with_latency(cost_table(emission), emission)
    for number in range(count_layouts(3, 3)):
        layout = Layout.from_id(table.tasks, 3, number)
        assert table.of(layout, "latency") == pytest.approx(2.0 + layout.cost(truth), rel=0.02)


def test_what_the_table_is_made_from():
    names = ("a", "b", "c")
    found = calibrating(names, 5)
    assert found[:2] == [Layout.shared(names, 5), Layout.separate(names, 5)] and len(found) == len(set(found)) == 9
    assert calibrating(names, 5) == found
    assert calibrating(("a",), 3) == [Layout.shared(("a",), 3)]
    assert copies(whole_blocks(3, 5), found)[:2].tolist() == [[1, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 1]]


def test_a_real_machine_is_measured(emission):
    """In turns; every layout has a time."""
    layouts = [Layout.shared(emission.tasks.names, 3), Layout.separate(emission.tasks.names, 3)]
    found = emission.latencies(layouts, threads=1)
    assert len(found) == 2 and all(0 < ms < math.inf for ms in found)


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

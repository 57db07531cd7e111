"""The recipe bmtas from backbone to emitted tree: its cost, budgets, kills, and the trees it is compared with."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from helpers.bmtas import BMTAS, THREE, TWO, graphs
from helpers.compiling import QUICK, TASKS, Children, digests, write_backbone

from onnxmtl import ops
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import count_architecture
from onnxmtl.deploy.inspect import inspect_model
from onnxmtl.errors import BudgetError, RunError
from onnxmtl.ir import clone, head_of, load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Tree, layout_blocks
from onnxmtl.policy import Architecture, Layout
from onnxmtl.policy.branching import block_names, layout_of
from onnxmtl.workflows import CompileConfig, compile, specialize, verify
from onnxmtl.workflows.method import resolve


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx", size=32)


def from_the_file(run) -> int:
    """Multiply-adds of a tree: those of its blocks for every group, and those of the heads."""
    layout = Layout.from_file(run / "layout.json")
    folder = next((run / "phases").glob("*-import"))
    backbone, multitask = load(folder / "backbone.onnx"), load(folder / "multitask.onnx")
    blocks = layout_blocks(backbone, layout)
    costs = [sum(map(ops.multiply_adds, block.nodes)) for block in blocks]
    return int(layout.cost(costs)) + sum(ops.multiply_adds(node) for node in multitask.graph if head_of(node))


@pytest.fixture(scope="module")
def found(net, tmp_path_factory):
    out = tmp_path_factory.mktemp("bmtas") / "run"
    baselines = ("single-task", "permutations", "vanilla")
    options = {**BMTAS, "baselines": baselines, "random_draws": 2, "search_input_size": (16, 16)}
    return compile(net, THREE, out=out, **options)


def test_the_emitted_model_costs_what_the_tree_does(found):
    """Counted on the file, on the table of sites, and block by block."""
    made = load(found.model)
    supermodel = load(next((found.path / "phases").glob("*-import")) / "supermodel.onnx")
    table = site_table(supermodel)
    assert found.report.layout == layout_of(table, found.architecture, block_names(supermodel))
    assert found.report.layout == Layout.from_file(found.path / "layout.json") == inspect_model(found.model).layout
    emitted = count(made).multiply_adds
    assert emitted == count_architecture(table, found.architecture)[1] == from_the_file(found.path)
    assert emitted == found.report.costs["found"].multiply_adds
    assert verify(found.model).passed


@pytest.mark.parametrize("seed", range(3))
def test_every_tree_costs_what_it_says(net, seed):
    made, _ = graphs(net)
    table, rng = site_table(made.supermodel), np.random.default_rng(seed)
    picks = {(s.index, t): int(rng.integers(len(s.options))) for s in table.sites for t in range(3)}
    architecture = Architecture.from_indices(table, picks)
    layout = layout_of(table, architecture, block_names(made.supermodel))
    costs = [sum(map(ops.multiply_adds, block.nodes)) for block in layout_blocks(made.backbone, layout)]
    heads = sum(ops.multiply_adds(node) for node in made.multitask.graph if head_of(node))
    assert made.costs_of(architecture).multiply_adds == layout.cost(costs) + heads


def test_a_budget_is_met_or_refused_with_the_cheapest(net, tmp_path):
    made, _ = graphs(net, TWO, space={"groups": 2})
    table = site_table(made.supermodel)
    cells = [(site.index, task) for site in table.sites for task in range(2)]
    costs = {
        made.costs_of(Architecture.from_indices(table, dict(zip(cells, picks, strict=True)))).multiply_adds
        for picks in itertools.product(range(2), repeat=len(cells))
    }
    least, *_, most = sorted(costs)
    options = {**BMTAS, "space": {"groups": 2}, "steps": 3}
    for bound in {least, sorted(costs)[-2]}:
        done = compile(net, TWO, out=tmp_path / str(bound), **{**options, "budget": f"madds<={bound}"})
        assert all(limit.met for limit in done.report.budget) and count(load(done.model)).multiply_adds <= bound
    with pytest.raises(BudgetError, match=rf"madds can be {least:,} at the least, allowed are {least - 1:,}"):
        compile(net, TWO, out=tmp_path / "no", **{**options, "budget": f"madds<={least - 1}"})
    assert not (tmp_path / "no").exists() and most > least


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(net, tmp_path):
    """At renames all over it: with a smaller search, a budget, the paper's sequential updates and the baselines."""
    children = Children()
    options = {**BMTAS, "steps": 12, "recalibration": 1, "budget": "trunk.madds<=0.9x", "search_input_size": (16, 16),
               "baselines": ("vanilla", "permutations"), "variant": "paper"}  # fmt: skip
    children.finish(net, tmp_path / "whole", options)
    killed = tmp_path / "killed"
    died = [children.kill_at_rename(number, net, killed, options) for number in (9, 14, 19, 23)]
    assert died[0] and died[1]
    children.finish(net, killed, options)
    assert digests(killed) == digests(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_search_goes_on(net, tmp_path):
    """In the middle of the search, in this process."""
    options = {**BMTAS, "search_input_size": (16, 16), "checkpoint_every": 3}
    whole = compile(net, TWO, out=tmp_path / "whole", **options)

    class Dying:
        def stage(self, name, total, start=0):
            self.name = name

        def update(self, step, losses, cost=None):
            if self.name == "search" and step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile(net, TWO, out=tmp_path / "killed", observer=Dying(), **options)
    again = compile(net, TWO, out=tmp_path / "killed", resume=True, **options)
    assert digests(again.path) == digests(whole.path)


def test_the_emitted_model_is_as_large_as_ever(found):
    made = load(found.model)
    assert [int(d) for d in made.graph.inputs[0].shape[2:]] == [32, 32]
    assert json.loads((found.path / "run.json").read_text())["config"]["search_input_size"] == [16, 16]


def test_another_model_of_the_same_search(found, tmp_path):
    """What was learnt at the smaller size is found again."""
    whole = from_the_file(found.path)
    done = specialize(found.path, budget=f"madds<={whole}", out=tmp_path / "again")
    assert done.report.layout is not None and count(load(done.model)).multiply_adds <= whole
    trained = specialize(found.path, weights="retrained", steps=2, out=tmp_path / "trained")
    assert trained.report.layout == found.report.layout and trained.report.weights == "retrained"


# Baselines


def test_permutations_and_vanilla(found):
    layout, draws = found.report.layout, found.report.draws
    kinds = [draw.source for draw in draws]
    cost = found.report.costs["found"].multiply_adds
    permuted = [draw for draw in draws if draw.source == "permutation"]
    if len({layout.branch_point(t, u) for t, u in itertools.combinations(range(3), 2)}) > 1:
        assert kinds == ["permutation"] * 2 + ["vanilla"]
        assert all(draw.multiply_adds == cost and draw.weights == "retrained" for draw in permuted)
    assert all(draw.total is not None for draw in draws)
    assert "random" not in found.report.delta  # these are no random policies


def test_a_given_tree_is_compared_too(net, tmp_path):
    layout = Layout.from_branch_points(["seg", "depth", "normals"], 3, {(0, 1): 2, (0, 2): 1, (1, 2): 1})
    options = {**QUICK, "baselines": ("permutations", "vanilla"), "random_draws": 5}
    done = compile(net, THREE, out=tmp_path / "run", layout=layout, **options)
    draws = done.report.draws
    assert [draw.source for draw in draws] == ["permutation"] * 2 + ["vanilla"]  # there are no more
    told = "permutation: 2 trained, their metrics are in report.json; for Δ add single-task to --baselines"
    assert told in done.report.notes
    assert {draw.multiply_adds for draw in draws[:2]} == {done.report.costs["found"].multiply_adds}
    for phase, names in (("permutation-1", None), ("vanilla", [((0, 1, 2),), ((0, 1, 2),), ((0,), (1,), (2,))])):
        (folder,) = (done.path / "phases").glob(f"*-{phase}")
        tree = Layout.from_json(load(folder / "trained.onnx").metadata_props["onnxmtl.layout"])
        assert tree != done.report.layout and (names is None or tree.groups in (tuple(names), vanilla_by_hand(done)))
    one = Layout.shared(["seg", "depth", "normals"], 3)
    shared = compile(net, THREE, out=tmp_path / "shared", layout=one, **options)
    notes = "; ".join(shared.report.notes)
    assert not shared.report.draws and "no permutations" in notes and "no vanilla tree" in notes


def test_the_vanilla_tree_costs_what_it_says_where_tasks_end_early(net, tmp_path):
    """Blocks that a task does not come by are no part of its plain tree: counted on the graphs."""
    features = {"seg": ("late",), "depth": ("early",), "normals": ("early",)}
    tasks = TaskSet(tuple(t.replace(features=features[t.name]) for t in THREE))
    layout = Layout.from_branch_points(THREE.names, 3, {(0, 1): 0, (0, 2): 0, (1, 2): 3})
    options = {**QUICK, "baselines": ("vanilla",), "features": ("early", "late")}
    done = compile(net, tasks, out=tmp_path / "run", layout=layout, **options)
    (vanilla,) = done.report.draws
    (folder,) = (done.path / "phases").glob("*-import")
    backbone, multitask = load(folder / "backbone.onnx"), load(folder / "multitask.onnx")
    costs = []
    for point in range(4):
        plain = Layout.from_branch_points(THREE.names, 3, dict.fromkeys([(0, 1), (0, 2), (1, 2)], point))
        tree = Pipeline([Tree(plain, layout_blocks(backbone, done.report.layout))])(clone(multitask)).model
        costs.append(count(tree).multiply_adds)
    wanted = done.report.costs["found"].multiply_adds
    assert abs(vanilla.multiply_adds - wanted) == min(abs(cost - wanted) for cost in costs)


def vanilla_by_hand(done):
    """The groups of the plain tree whose cost is nearest."""
    backbone = load(next((done.path / "phases").glob("*-import")) / "backbone.onnx")
    layout = done.report.layout
    costs = [sum(map(ops.multiply_adds, block.nodes)) for block in layout_blocks(backbone, layout)]
    best = min(range(4), key=lambda b: abs(sum(costs[:b]) + 3 * sum(costs[b:]) - layout.cost(costs)))
    return tuple(((0, 1, 2),) if block < best else ((0,), (1,), (2,)) for block in range(3))


@pytest.mark.parametrize(("setting", "option"), [({"groups": 4}, "--blocks"), ({"at": ("x",)}, "--at")])
def test_blocks_are_for_trees(setting, option):
    with pytest.raises(RunError, match=f"^{option} says where trees can branch: take the recipe bmtas"):
        resolve(None, CompileConfig(recipe="automtl", space=setting), fixed=False)
    resolve(None, CompileConfig(recipe="bmtas", space=setting), fixed=False)


@pytest.mark.parametrize("name", ["permutations", "vanilla"])
def test_baselines_of_trees_need_trees(net, name):
    with pytest.raises(RunError, match=rf"--baselines {name} is about trees: take the recipe bmtas, or give one with"):
        compile(net, TASKS, **{**QUICK, "recipe": "automtl", "baselines": (name,)})

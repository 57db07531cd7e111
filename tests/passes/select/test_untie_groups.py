"""Weights per group: who keeps the candidate's weights, who gets a copy, and the tree that is left."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.architectures import every_architecture
from helpers.branching import architecture_of, branched, groups_of, line_model, selected_from, unet_model
from helpers.graphs import small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import ops
from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import ModelError
from onnxmtl.ir import clone, sources, tasks_of_nodes
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.passes.select import UntieGroups
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Architecture, Layout, block_names, layout_of


def executions(model: ir.Model, layer: str) -> dict[frozenset[str], ir.Node]:
    """Which tasks each node of a layer serves."""
    needed = tasks_of_nodes(model.graph)
    return {needed[node]: node for node in model.graph if sources(node) == (layer,)}


def test_groups_that_meet_again_have_weights_of_their_own() -> None:
    model = branched(line_model(3, 2))
    picks = np.array([[0, 1, 0], [2, 2, 2]])
    selected = selected_from(model, architecture_of(site_table(model), picks))
    found = executions(selected, "conv1")
    assert set(found) == {frozenset("ac"), frozenset("b")}
    assert found[frozenset("ac")].inputs[1].name == "conv1.weight/branch_2"  # the group of the first task keeps them
    own = found[frozenset("b")].inputs[1]
    assert own.name == "conv1.weight/branch_2/b"
    assert np.array_equal(own.const_value.numpy(), found[frozenset("ac")].inputs[1].const_value.numpy())
    norm = executions(selected, "norm1")[frozenset("b")]
    assert [value.name for value in norm.inputs[1:]] == [
        f"norm1.{slot}/branch_2/b" for slot in ("scale", "shift", "mean", "variance")
    ]


def test_groups_that_stay_apart_keep_the_weights_of_their_candidates() -> None:
    model = branched(line_model(3, 2))
    selected = selected_from(model, architecture_of(site_table(model), np.array([[0, 1, 0], [1, 0, 2]])))
    assert {tasks: node.inputs[1].name for tasks, node in executions(selected, "conv1").items()} == {
        frozenset("a"): "conv1.weight/branch_1",
        frozenset("b"): "conv1.weight",
        frozenset("c"): "conv1.weight/branch_2",
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["line", "early", "unet", "resnet"]))
def test_the_model_is_the_tree_of_the_layout(seed: int, name: str) -> None:
    """Every layer of every block is executed once per group, and no two executions have a weight in common."""
    make = {"line": lambda: line_model(3, 3), "early": lambda: line_model(3, 3, early=1, inside=True)}
    make |= {"unet": unet_model, "resnet": lambda: small_resnet(dict.fromkeys("abc", 1))}
    before = make[name]()
    model = branched(before, frontier=2)
    table = site_table(model)
    picks = every_architecture_like(table, np.random.default_rng(seed))
    selected = selected_from(model, architecture_of(table, picks))
    needed = tasks_of_nodes(selected.graph)
    original = tasks_of_nodes(before.graph)
    users: dict[ir.Value, ir.Node] = {}
    blocks = blocks_of_layers(model, table)
    for node in before.graph:
        if HEAD_KEY in node.metadata_props or not ops.weight_slots(node):
            continue
        (layer,) = sources(node)
        expected = {
            tasks
            for group in groups_of(picks)[blocks[layer]]
            if (tasks := frozenset(table.tasks[t] for t in group) & original[node])
        }
        found = [n for n in selected.graph if sources(n) == (layer,)]
        assert {needed[n] for n in found} == expected and len(found) == len(expected)
        for n in found:
            for _, value in ops.weight_slots(n):
                assert users.setdefault(value, n) is n


def every_architecture_like(table, rng: np.random.Generator) -> np.ndarray:
    """Random options [sites, tasks], often the same as another task's."""
    picks = np.full((len(table.sites), len(table.tasks)), -1, np.int64)
    for site in table.sites:
        tasks = list(site.tasks or range(len(table.tasks)))
        picks[site.index, tasks] = rng.integers(0, int(rng.integers(1, len(site.options) + 1)), len(tasks))
    return picks


def blocks_of_layers(model: ir.Model, table) -> dict[str, int]:
    """Layer -> the site in whose candidates it is."""
    from onnxmtl.analysis.places import places

    index = {site.id: site.index for site in table.sites}
    return {
        layer: index[place[0]]
        for node, place in places(model.graph).items()
        if place is not None
        for layer in sources(node)
    }


def test_other_spaces_are_left_alone() -> None:
    for space, option in ((Vcn(), "shared"), (SelectOrSkip(), "select")):
        model = small_resnet()
        space(model)
        architecture = Architecture.uniform(site_table(model), option)
        assert not UntieGroups(architecture)(model).modified


def test_an_option_that_is_not_offered_is_named() -> None:
    model = branched(line_model(2, 1))
    with pytest.raises(ModelError, match="site 'block0', task 'a': no option 'branch_7'"):
        selected_from(model, Architecture({"block0": {"a": "branch_7", "b": "branch_0"}}))


# -- layouts -----------------------------------------------------------------------------------------------------------


def test_layouts_of_all_architectures() -> None:
    model = branched(line_model(3, 2))
    table = site_table(model)
    for picks in every_architecture(table)[::7]:
        found = layout_of(table, architecture_of(table, picks))
        assert found == Layout.from_choices("abc", picks.tolist()).with_blocks(["block0", "block1"])
        assert found.groups == tuple(tuple(tuple(group) for group in sorted(groups)) for groups in groups_of(picks))


def test_blocks_without_choices_are_in_the_layout() -> None:
    model = branched(line_model(3, 4, early=2), shared_prefix=1)
    table = site_table(model)
    assert [site.id for site in table.sites] == ["block1", "block2", "block3"]
    picks = np.array([[0, 0, 1], [1, 2, 0], [-1, 0, 0]])
    found = layout_of(table, architecture_of(table, picks), block_names(model))
    assert found.blocks == ("block0", "block1", "block2", "block3")
    assert found.groups == (((0, 1, 2),), ((0, 1), (2,)), ((0,), (1,), (2,)), ((0,), (1,), (2,)))
    picks[1] = 0
    together = layout_of(table, architecture_of(table, picks), block_names(model))
    assert together.groups[3] == ((0, 1), (2,))  # task a ends before; it stays with b


def test_only_branches_have_layouts() -> None:
    model = small_resnet()
    Vcn()(model)
    table = site_table(model)
    with pytest.raises(ModelError, match=r"there is no layout: the site '.*' is no block with branches"):
        layout_of(table, Architecture.uniform(table, "shared"))
    assert block_names(model) == ()
    table = site_table(branched(line_model()))
    with pytest.raises(ModelError, match="the site 'block0' is not among the blocks x, y"):
        layout_of(table, Architecture.uniform(table, "branch_0"), ["x", "y"])
    assert clone(model).graph is not model.graph

"""The table of sites, read from the graph alone."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, choices, load, make_choice, new_initializer, save, set_role
from onnxmtl.passes.spaces import Vcn


def resnet34(tasks: dict[str, int]) -> ir.Model:
    b = GraphBuilder(size=32)
    x = b.block(b.image, 4, name="stem")
    for width, stride, blocks in ((4, 1, 3), (8, 2, 4), (12, 2, 6), (16, 2, 3)):
        for i in range(blocks):
            x = b.residual(x, width, stride if i == 0 else 1)
    return b.heads(x, tasks)


def test_depths_are_those_of_automtl() -> None:
    """ResNet-34: 36 convolutions, depth 33 (three projections run in parallel); Eq. 3 starts at 24.155 per task."""
    model = resnet34({"a": 1, "b": 1})
    Vcn(norm="per_task", skip="dense1x1")(model)
    table = site_table(model)
    assert len(table.sites) == 36
    assert table.depth == 33
    start = sum((table.depth - s.depth - 1) / table.depth * 2 * math.log(2) for s in table.sites)
    assert start == pytest.approx(24.155, abs=5e-4)


def test_options_and_costs_of_a_small_resnet() -> None:
    model = small_resnet(width=4, size=8)
    Vcn()(model)
    table = site_table(model)
    assert table.tasks == ("seg", "depth")
    stem = table.sites[0]
    assert (stem.id, stem.depth, stem.kind) == ("stem", 0, "choice")
    shared, own, skip = stem.options
    assert shared.multiply_adds == own.multiply_adds == 8 * 8 * 4 * 3 * 9
    assert shared.parameters_shared == 4 * 3 * 9 + 4 + 4 and shared.parameters_own == 0
    assert own.parameters_own == shared.parameters_shared and own.parameters_shared == 0
    assert (skip.multiply_adds, skip.identity) == (0, False)  # channels are padded
    assert [o.equal_across_tasks for o in stem.options] == [True, False, True]
    assert table.sites[1].options[2].identity
    # the two sites that read the first block's output stand at one depth
    parallel = [s for s in table.sites if s.depth == table.sites[3].depth]
    assert len(parallel) == 2


def test_a_model_without_choices_has_costs_and_no_sites() -> None:
    model = small_resnet()
    table = site_table(model)
    assert table.sites == ()
    assert sum(item.cost for item in table.cost_items) == count(model).multiply_adds
    assert sum(item.size for item in table.weight_items) == count(model).parameters


def test_per_task_normalization_separates_everything_behind_it() -> None:
    model = small_resnet()
    Vcn(norm="per_task")(model)
    table = site_table(model)
    for item in table.cost_items:
        assert len(item.tasks) == (2 if item.site == 0 and item.option == 0 else 1)


def test_the_table_survives_saving(tmp_path) -> None:
    model = small_resnet()
    Vcn()(model)
    before = site_table(model)
    assert site_table(load(save(model, tmp_path / "m.onnx"))) == before


def test_contradicting_choices_are_refused() -> None:
    model = small_resnet()
    Vcn()(model)
    some = next(iter(choices(model.graph)))
    other = set_role(new_initializer(model.graph, "other", np.zeros(3, np.float32)), Role.LOGITS)
    some.node.replace_input_with(3, other)
    with pytest.raises(ModelError, match="its Choices use different logits"):
        site_table(model)


def test_a_site_inside_an_option_is_refused() -> None:
    b = GraphBuilder()

    def choice(x: ir.Value, site: str) -> ir.Value:
        left, right = b.conv(x, 3), b.conv(x, 3)
        logits = set_role(new_initializer(b.graph, f"{site}.logits", np.zeros(2, np.float32)), Role.LOGITS)
        node = make_choice([("l", left), ("r", right)], logits, site=site, task="t", name=site, output=f"{site}_out")
        b.graph.append(node)
        return node.outputs[0]

    inner = choice(b.image, "inner")
    left = b.relu(inner)
    logits = set_role(new_initializer(b.graph, "o.logits", np.zeros(2, np.float32)), Role.LOGITS)
    node = make_choice([("l", left), ("r", b.image)], logits, site="outer", task="t", name="outer", output="outer_out")
    b.graph.append(node)
    model = b.heads(node.outputs[0], {"t": 1})
    with pytest.raises(ModelError, match="'inner' stands inside an option of site 'outer'"):
        site_table(model)


def test_a_choice_for_an_unknown_task_is_refused() -> None:
    model = small_resnet()
    Vcn()(model)
    model.graph.outputs[0].name = "renamed"
    with pytest.raises(ModelError, match="decides for 'seg', which is no output"):
        site_table(model)

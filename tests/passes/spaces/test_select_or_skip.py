"""The select_or_skip space: what it keeps, what it costs, what a skipped block leaves behind."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers import zoo
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.line import whole_line
from helpers.skipping import built, chain, close, draw_of, images_for, random_architecture, selected_from
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.shortcuts import residual_blocks
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.errors import RunError
from onnxmtl.ir import Role, choices, diagnostics, role_of, sources, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.lowering import to_torch
from onnxmtl.passes.finalize import FoldBatchNorm
from onnxmtl.passes.spaces import SPACES, SelectOrSkip, Vcn, space
from onnxmtl.policy import Architecture

# -- what is built -----------------------------------------------------------------------------------------------------


def test_one_choice_per_block_and_task_select_first() -> None:
    model = small_resnet()
    blocks = [(block.id, block.exit.producer().name) for block in residual_blocks(model.graph)]
    SelectOrSkip()(model)
    found = list(choices(model.graph))
    assert [(c.site, c.task) for c in found] == [(name, task) for name, _ in blocks for task in ("seg", "depth")]
    assert {c.names for c in found} == {("select", "skip")}
    assert len({c.logits for c in found}) == len(found)
    for choice in found:
        assert role_of(choice.logits) is Role.LOGITS
        assert np.array_equal(choice.logits.const_value.numpy(), [0, 0])
        assert sources(choice.node) == (dict(blocks)[choice.site],)
    assert model.metadata_props["onnxmtl.kind"] == "supermodel"
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


def test_weights_and_statistics_are_those_of_the_backbone() -> None:
    model = small_resnet()
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    SelectOrSkip()(model)
    after = {n: v for n, v in model.graph.initializers.items() if role_of(v) is not Role.LOGITS}
    assert after.keys() == before.keys()
    assert not any(role_of(value) is Role.OWN for value in after.values())


def test_what_tasks_cannot_tell_apart_yet_is_one_node() -> None:
    model = small_resnet()
    SelectOrSkip()(model)
    convolutions = [node for node in model.graph if node.op_type == "Conv" and HEAD_KEY not in node.metadata_props]
    # stem and the first block once; two convolutions and the projection of the second block for both tasks
    assert len(convolutions) == 1 + 2 + 2 * 3


def test_sites_stand_in_the_order_of_depth() -> None:
    model = chain(5)
    ids = [block.id for block in residual_blocks(model.graph)]
    SelectOrSkip()(model)
    table = site_table(model)
    assert [site.id for site in table.sites] == ids
    assert [site.depth for site in table.sites] == list(range(5))


def test_the_table_says_what_skipping_saves() -> None:
    model = small_resnet(width=4, size=8)
    SelectOrSkip()(model)
    first, second = site_table(model).sites
    for site, work, weights in (
        (first, 2 * 64 * 4 * 4 * 9, 2 * (4 * 4 * 9 + 8)),
        (second, 16 * (4 + 8) * 8 * 9, (4 + 8) * 8 * 9 + 2 * 16),
    ):
        select, skip = site.options
        assert (select.multiply_adds, select.parameters_shared, select.parameters_own) == (work, weights, 0)
        assert (skip.multiply_adds, skip.parameters_shared, skip.parameters_own) == (0, 0, 0)
        assert select.equal_across_tasks and skip.equal_across_tasks
        assert not select.identity and skip.identity  # a projection is there anyway


def test_two_builds_are_equal_to_the_byte() -> None:
    first, second = small_resnet(), small_resnet()
    for model in (first, second):
        SelectOrSkip()(model)
    assert to_bytes(first) == to_bytes(second)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
def test_expected_costs_are_those_of_all_architectures(early: bool) -> None:
    """Every architecture is selected and counted on its graph; the expectation is the sum over all of them."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    middle = b.residual(x, 4)
    x = b.residual(b.residual(middle, 6, 2), 6)
    model = b.heads({"a": middle if early else x, "b": x}, {"a": 1, "b": 2})
    SelectOrSkip()(model)
    table = site_table(model)
    places = [(site.id, task) for site in table.sites for task in table.tasks_at(site)]
    assert len(places) == (4 if early else 6)
    rng = np.random.default_rng(0)
    p = [rng.dirichlet([1, 1], size=2) for _ in table.sites]
    expected = ExpectedCost(table)
    work = weights = 0.0
    for options in itertools.product(("select", "skip"), repeat=len(places)):
        picks: dict[str, dict[str, str]] = {}
        for (site, task), option in zip(places, options, strict=True):
            picks.setdefault(site, {})[task] = option
        architecture = Architecture(picks).validate(table)
        counted = count(selected_from(model, architecture))
        one_hot = architecture.probabilities(table)
        assert float(expected.multiply_adds(one_hot)) == counted.multiply_adds
        assert float(expected.parameters(one_hot)) == counted.parameters
        chance = float(np.prod([(q * hot).sum(1)[hot.any(1)].prod() for q, hot in zip(p, one_hot, strict=True)]))
        work, weights = work + chance * counted.multiply_adds, weights + chance * counted.parameters
    assert float(expected.multiply_adds(p)) == pytest.approx(work, rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(weights, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_expected_is_counted(seed: int, tasks: int) -> None:
    model = random_model(seed, tasks=tasks, layers=6)
    assume(built(model))
    table = site_table(model)
    architecture = random_architecture(table, seed)
    counted = count(selected_from(model, architecture))
    expected, p = ExpectedCost(table), architecture.probabilities(table)
    assert float(expected.multiply_adds(p)) == pytest.approx(counted.multiply_adds, rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(counted.parameters, rel=1e-12)
    assert float(expected.multiply_adds_unshared(p)) == pytest.approx(counted.multiply_adds_unshared, rel=1e-12)


# -- what is left after selection --------------------------------------------------------------------------------------


def test_a_block_that_all_skip_is_gone_with_its_weights() -> None:
    model = chain(3)
    blocks = residual_blocks(model.graph)
    inside = [{v.name for n in block.branch for v in n.inputs if v.is_initializer()} for block in blocks]
    projection = {v.name for n in blocks[1].shortcut_nodes for v in n.inputs if v.is_initializer()}
    names = [{n.name for n in block.branch} for block in blocks]
    SelectOrSkip()(model)
    picks = {site.id: dict.fromkeys(("seg", "depth"), "select") for site in site_table(model).sites}
    picks[blocks[0].id] = picks[blocks[1].id] = dict.fromkeys(("seg", "depth"), "skip")
    selected = selected_from(model, Architecture(picks))
    left = {name for node in selected.graph for name in sources(node)}
    kept = set(selected.graph.initializers)
    assert not left & (names[0] | names[1]) and names[2] <= left
    assert not kept & (inside[0] | inside[1]) and inside[2] <= kept
    assert projection <= kept and len(projection) == 5
    FoldBatchNorm()(selected)
    assert not any(name in text for name in inside[0] | inside[1] for text in selected.graph.initializers)


def test_a_block_that_one_task_skips_is_that_of_the_other() -> None:
    model = chain(2)
    first, second = residual_blocks(model.graph)
    SelectOrSkip()(model)
    picks = {first.id: {"seg": "skip", "depth": "select"}, second.id: dict.fromkeys(("seg", "depth"), "select")}
    selected = selected_from(model, Architecture(picks))
    trunk = (node for node in selected.graph if node.op_type == "Conv" and HEAD_KEY not in node.metadata_props)
    convolutions = [sources(node)[0] for node in trunk]
    once = {node.name for node in first.branch if node.op_type == "Conv"}
    twice = {node.name for node in (*second.branch, *second.shortcut_nodes) if node.op_type == "Conv"}
    assert all(convolutions.count(name) == 1 for name in once | {"stem"})
    assert all(convolutions.count(name) == 2 for name in twice)


def test_normalizations_behind_different_inputs_keep_their_own_statistics() -> None:
    model = chain(2)
    first, second = residual_blocks(model.graph)
    SelectOrSkip()(model)
    picks = {first.id: {"seg": "skip", "depth": "select"}, second.id: dict.fromkeys(("seg", "depth"), "select")}
    norms = [n for n in selected_from(model, Architecture(picks)).graph if n.op_type == "BatchNormalization"]
    assert len({n.inputs[3] for n in norms}) == len({n.inputs[4] for n in norms}) == len(norms) == 1 + 2 + 2 * 3
    assert len({n.inputs[1] for n in norms}) == 1 + 2 + 3


def test_equal_policies_share_everything() -> None:
    model = chain(4, dict.fromkeys("abc", 1))
    SelectOrSkip()(model)
    table = site_table(model)
    picks = {site.id: dict.fromkeys("abc", "skip" if site.index % 2 else "select") for site in table.sites}
    counted = count(selected_from(model, Architecture(picks)))
    alone = chain(4, {"a": 1})
    SelectOrSkip()(alone)
    single = count(selected_from(alone, Architecture({s: {"a": tasks["a"]} for s, tasks in picks.items()})))
    assert counted.parameters_trunk == single.parameters_trunk
    assert counted.multiply_adds_trunk == single.multiply_adds_trunk


# -- tasks that end early, prefixes, refusals --------------------------------------------------------------------------


def test_heads_at_different_features() -> None:
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    early = b.residual(x, 4)
    late = b.residual(early, 6, 2)
    last = b.residual(late, 6)
    model = b.heads({"a": early, "b": late, "c": last}, dict.fromkeys("abc", 1))
    SelectOrSkip()(model)
    table = site_table(model)
    assert [site.tasks for site in table.sites] == [(), (1, 2), (2,)]
    images = images_for(model)
    for seed in range(8):
        architecture = random_architecture(table, seed)
        whole = to_torch(model, dtype=torch.float64).eval()(images, draw=draw_of(architecture, table))
        alone = to_torch(selected_from(model, architecture), dtype=torch.float64).eval()(images)
        assert all(close(alone[task], whole[task]) for task in "abc")


def test_a_feature_inside_a_block_keeps_it_from_being_skipped() -> None:
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    x = b.residual(x, 4)
    inside = b.block(x, 4, name="inner")
    y = b.relu(b.node("Add", [x, b.conv(inside, 4)], x.shape, "join"))
    model = b.heads({"a": inside, "b": y}, {"a": 1, "b": 1})
    SelectOrSkip()(model)
    assert len(site_table(model).sites) == 1
    (remark,) = diagnostics(model)
    assert (remark.code, remark.node) == ("no-block", "join") and "is read by 'a.predict' outside" in remark.message


def test_a_block_whose_result_is_an_output_stays() -> None:
    b = GraphBuilder()
    x = b.residual(b.block(b.image, 4, name="stem"), 4)
    y = b.residual(x, 4)
    model = b.heads(x, {"a": 1})
    y.name = "raw"
    model.graph.outputs.append(y)
    last = residual_blocks(model.graph)[-1]
    SelectOrSkip()(model)
    assert [(site.id == last.id, site.tasks) for site in site_table(model).sites] == [(False, ())]
    assert [(d.code, d.node) for d in diagnostics(model)] == [("site-not-made", last.id)]
    assert [value.name for value in model.graph.outputs] == ["a", "raw"]


def test_one_task_alone_may_skip_too() -> None:
    model = chain(2, {"a": 1})
    SelectOrSkip()(model)
    table = site_table(model)
    assert len(table.sites) == 2
    assert count(selected_from(model, Architecture.uniform(table, "skip"))).multiply_adds < 20_000


def test_the_first_blocks_can_be_forced() -> None:
    model = chain(4)
    ids = [block.id for block in residual_blocks(model.graph)]
    SelectOrSkip(shared_prefix=3)(model)
    assert [site.id for site in site_table(model).sites] == ids[3:]
    assert [d.node for d in diagnostics(model) if d.code == "site-not-made"] == ids[:3]
    with pytest.raises(Refused, match="shared_prefix=4 leaves none of 4 blocks"):
        SelectOrSkip(shared_prefix=4)(chain(4))


def test_refusals_are_one_clear_line() -> None:
    model = small_resnet()
    SelectOrSkip()(model)
    with pytest.raises(Refused, match="already holds Choices"):
        SelectOrSkip()(model)
    vcn = small_resnet()
    Vcn()(vcn)
    with pytest.raises(Refused, match="already holds Choices"):
        SelectOrSkip()(vcn)
    b = GraphBuilder()
    b.graph.outputs.append(b.residual(b.block(b.image, 4), 4))
    with pytest.raises(Refused, match="no task heads"):
        SelectOrSkip()(ir.Model(b.graph, ir_version=10))
    b = GraphBuilder()
    plain = b.heads(b.block(b.image, 4), {"a": 1, "b": 1})
    with pytest.raises(Refused, match=r"no residual blocks before the features.*space vcn") as error:
        SelectOrSkip()(plain)
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="'select_or_skip' takes no setting 'norm'; its settings: shared_prefix"):
        space("select_or_skip", norm="follow")
    assert isinstance(space("select_or_skip", shared_prefix=1), SelectOrSkip)
    assert set(SPACES) >= {"select_or_skip", "vcn"}


# -- the zoo -----------------------------------------------------------------------------------------------------------

PLAIN = {"vgg", "inception_v1", "inception_v3", "densenet", "squeezenet", "mobilenet_v1", "shufflenet_v2"}
PLAIN |= {"unet", "unet_resize"}
FAST = ("resnet18", "mobilenet_v2", "vit_sdpa", "unet")
CASES = [
    pytest.param(name, exporter, marks=[] if exporter == "legacy-train" and name in FAST else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_the_whole_line_on_the_zoo(name: str, exporter: zoo.Exporter, tmp_path: Path) -> None:
    """Supermodel, a training step with a gradient for every weight, selection, emission, verification."""
    pytest.importorskip("onnxscript")
    fold = exporter != "dynamo-raw"
    backbone = zoo.backbone(name, exporter)
    if name in PLAIN:
        with pytest.raises(Refused, match="no residual blocks"):
            whole_line(backbone, tmp_path, fold=fold, space=SelectOrSkip())
        return
    report = whole_line(backbone, tmp_path, fold=fold, space=SelectOrSkip()).report
    assert report.passed
    for task in report.tasks:
        assert task.plain_error <= (1e-4 if fold else 1e-5)
        assert max(task.optimized_error, task.batch_error) <= 1e-4

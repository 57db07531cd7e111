"""select: a supermodel with a fixed architecture computes what the selected model computes."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, is_supermodel, sources, to_bytes
from onnxmtl.ir.passes import Refused, Sequential
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.select import MergeEqualNodes, ResolveChoices, SplitStatistics, select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture


def draw_of(architecture: Architecture, table) -> Draw:
    picks = architecture.choices
    return Draw(
        options={
            (site.id, task): site.option_index(picks[site.id][task])
            for site in table.sites
            for task in table.tasks_at(site)
        }
    )


def random_architecture(table, seed: int) -> Architecture:
    rng = random.Random(seed)
    return Architecture({s.id: {task: rng.choice(s.option_names) for task in table.tasks_at(s)} for s in table.sites})


def differ(model: ir.Model, seed: int) -> None:
    """Give own copies weights of their own, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    for name, value in model.graph.initializers.items():
        if value.metadata_props.get("onnxmtl.role") == Role.OWN:
            array = value.const_value.numpy()
            value.const_value = ir.tensor((array + 0.3 * rng.normal(size=array.shape)).astype(np.float32), name=name)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tasks=st.integers(2, 3),
    pick=st.integers(0, 10_000),
    skip=st.sampled_from(["auto", "grouped1x1", "dense1x1", "none"]),
    norm=st.sampled_from(["follow", "per_task"]),
)
def test_supermodel_with_fixed_architecture_equals_selected_model(seed, tasks, pick, skip, norm) -> None:
    model = random_model(seed, tasks=tasks)
    Vcn(skip=skip, norm=norm)(model)
    differ(model, seed)
    table = site_table(model)
    architecture = random_architecture(table, pick)
    selected = model.clone()
    Sequential(*select_passes(architecture))(selected)
    assert not is_supermodel(selected)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(selected)), full_check=True)
    size = model.graph.inputs[0].shape[2]
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for training in (False, True):
        whole = to_torch(model, dtype=torch.float64).train(training)(images, draw=draw_of(architecture, table))
        alone = to_torch(selected, dtype=torch.float64).train(training)(images)
        assert list(alone) == list(whole)
        for task in whole:
            assert (whole[task] - alone[task]).abs().max() <= 1e-9 * alone[task].abs().max().clamp_min(1e-12)
    plain = runtime.session(to_bytes(selected), optimize=False)
    exact = to_torch(selected).eval()(images.float())
    for task, value in runtime.run(plain, images.float().numpy()).items():
        reference = exact[task].detach().numpy()
        assert np.abs(value - reference).max() <= 1e-5 * max(np.abs(reference).max(), 1e-6)


def norms_of(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "BatchNormalization"]


def as_if_shared(supermodel: ir.Model, selected: ir.Model, before: dict, after: dict) -> dict:
    """The supermodel's running statistics after the step that moved the selected model's from `before` to `after`.

    Normalizations that select split have one set there, which each of them moves in its turn; a set that the selected
    model does not have stays as it was. Scale and shift are never split, so they tell whose statistics a copy's were.
    """
    original = {node.inputs[1].name: node for node in norms_of(supermodel)}
    found = {v.name: before[v.name] for node in norms_of(supermodel) for v in node.inputs[3:]}
    for node in norms_of(selected):
        keep = node.attributes["momentum"].as_float() if "momentum" in node.attributes else float(np.float32(0.9))
        for own, shared in zip(node.inputs[3:], original[node.inputs[1].name].inputs[3:], strict=True):
            share = after[own.name] - keep * before[shared.name]  # the batch's, times its weight
            found[shared.name] = keep * found[shared.name] + share
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tasks=st.integers(2, 3),
    pick=st.integers(0, 10_000),
    skip=st.sampled_from(["auto", "grouped1x1", "dense1x1", "none"]),
    norm=st.sampled_from(["follow", "per_task"]),
)
def test_supermodel_with_fixed_architecture_trains_as_the_selected_model_does(seed, tasks, pick, skip, norm) -> None:
    """One step: the same weights, and running statistics that moved once per node of the selected model."""
    model = random_model(seed, tasks=tasks)
    Vcn(skip=skip, norm=norm)(model)
    differ(model, seed)
    table = site_table(model)
    architecture = random_architecture(table, pick)
    selected = model.clone()
    Sequential(*select_passes(architecture))(selected)
    size = model.graph.inputs[0].shape[2]
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    whole, alone = (to_torch(m, dtype=torch.float64).train() for m in (model, selected))
    before = {name: tensor.detach().clone() for name, tensor in whole.tensors().items()}
    for module, draw in ((whole, draw_of(architecture, table)), (alone, None)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        sum(out.square().mean() for out in module(images, draw=draw).values()).backward()
        optimizer.step()
    after = {name: tensor.detach() for name, tensor in alone.tensors().items()}
    expected = {**before, **{n: t for n, t in after.items() if alone.roles[n] is not Role.STATISTIC}}
    expected |= as_if_shared(model, selected, before, after)
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(tensor.detach(), expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_all_shared_is_one_trunk_and_sources_are_united() -> None:
    model = small_resnet()
    Vcn()(model)
    Sequential(*select_passes(Architecture.uniform(site_table(model), "shared")))(model)
    convolutions = [n for n in model.graph if n.op_type == "Conv"]
    assert len(convolutions) == 6 + 2
    assert sources(convolutions[0]) == ("stem",)
    assert [v.name for v in model.graph.outputs] == ["seg", "depth"]


def test_all_own_shares_nothing() -> None:
    model = small_resnet()
    Vcn()(model)
    Sequential(*select_passes(Architecture.uniform(site_table(model), "own")))(model)
    assert len([n for n in model.graph if n.op_type == "Conv"]) == 2 * (6 + 1)
    assert "stem.weight" not in model.graph.initializers


def test_shared_weights_behind_different_inputs_keep_their_own_statistics() -> None:
    model = small_resnet()
    Vcn()(model)
    table = site_table(model)
    choices = {s.id: {"seg": "shared", "depth": "shared"} for s in table.sites}
    choices["stem"] = {"seg": "own", "depth": "own"}
    Sequential(*select_passes(Architecture(choices)))(model)
    norms = [n for n in model.graph if n.op_type == "BatchNormalization"]
    assert len({n.inputs[3] for n in norms}) == len(norms)
    assert len({n.inputs[1] for n in norms}) < len(norms)  # scale and shift stay shared
    assert len({n.inputs[4] for n in norms}) == len(norms)


def test_a_wrong_architecture_is_refused_by_name() -> None:
    model = small_resnet()
    Vcn()(model)
    table = site_table(model)
    with pytest.raises(ModelError, match=r"site 'stem', task 'seg': no option 'twice'.*shared, own, skip"):
        ResolveChoices(Architecture({s.id: dict.fromkeys(table.tasks, "twice") for s in table.sites}))(model)
    with pytest.raises(Refused, match="no Choices"):
        ResolveChoices(Architecture({}))(small_resnet())


def test_a_choice_at_an_output_keeps_the_output_name() -> None:
    from onnxmtl.ir import make_choice, new_initializer, set_role

    b = GraphBuilder()
    left, right = b.conv(b.image, 2), b.conv(b.image, 2)
    logits = set_role(new_initializer(b.graph, "l", np.zeros(2, np.float32)), Role.LOGITS)
    node = make_choice([("a", left), ("b", right)], logits, site="s", task="t", name="c", output="t")
    b.graph.append(node)
    b.graph.outputs.append(node.outputs[0])
    model = ir.Model(b.graph, ir_version=10)
    Sequential(*select_passes(Architecture({"s": {"t": "b"}})))(model)
    assert [v.name for v in model.graph.outputs] == ["t"]
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


class TestMerge:
    def test_default_attributes_count_as_equal(self) -> None:
        b = GraphBuilder()
        kernel = b.weight("w", np.ones((2, 3, 1, 1)))
        one = b.node("Conv", [b.image, kernel], ["N", 2, 8, 8])
        two = b.node("Conv", [b.image, kernel], ["N", 2, 8, 8], group=1, strides=[1, 1])
        out = b.node("Add", [one, two], ["N", 2, 8, 8])
        b.graph.outputs.append(out)
        model = ir.Model(b.graph, ir_version=10)
        # `strides` has no default in the schema, so only the explicit group is filled in.
        assert not MergeEqualNodes()(model).modified
        two.producer().attributes.pop("strides")
        assert MergeEqualNodes()(model).modified
        assert len([n for n in model.graph if n.op_type == "Conv"]) == 1

    def test_equal_bytes_are_not_equal_weights(self) -> None:
        b = GraphBuilder()
        one = b.node("Conv", [b.image, b.weight("w", np.ones((2, 3, 1, 1)))], ["N", 2, 8, 8])
        two = b.node("Conv", [b.image, b.weight("v", np.ones((2, 3, 1, 1)))], ["N", 2, 8, 8])
        b.graph.outputs.append(b.node("Add", [one, two], ["N", 2, 8, 8]))
        assert not MergeEqualNodes()(ir.Model(b.graph, ir_version=10)).modified

    def test_outputs_keep_their_names(self) -> None:
        b = GraphBuilder()
        hidden, first, second = (b.node("Relu", [b.image], ["N", 3, 8, 8]) for _ in range(3))
        total = b.node("Add", [hidden, first], ["N", 3, 8, 8])
        first.name, second.name, total.name = "first", "second", "total"
        b.graph.outputs.extend([first, second, total])
        model = ir.Model(b.graph, ir_version=10)
        MergeEqualNodes()(model)
        assert [v.name for v in model.graph.outputs] == ["first", "second", "total"]
        assert len([n for n in model.graph if n.op_type == "Relu"]) == 2
        onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


def test_split_statistics_says_when_there_was_nothing_to_do() -> None:
    assert not SplitStatistics()(small_resnet()).modified

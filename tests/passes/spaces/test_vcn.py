"""The vcn space: what it offers, what it keeps, and that "all shared" is the graph it started from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role, choices, diagnostics, is_choice, role_of, to_bytes
from onnxmtl.ir.passes import Refused, Sequential
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn, space
from onnxmtl.policy import Architecture


def image(model, seed: int = 0) -> np.ndarray:
    shape = [2, *(int(d) for d in model.graph.inputs[0].shape[1:])]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_one_choice_per_site_task_and_output_and_one_logits_per_site_and_task() -> None:
    model = small_resnet()
    Vcn()(model)
    found = list(choices(model.graph))
    per = {(c.site, c.task) for c in found}
    # stem, two 3x3 convolutions twice, one projection: six sites, each with its normalization, two tasks
    assert len(per) == 6 * 2
    assert len(found) == 6 * 2 * 2
    assert len({id(c.logits) for c in found}) == len(per)
    assert all(role_of(c.logits) is Role.LOGITS for c in found)
    assert {c.names for c in found} == {("shared", "own", "skip")}


def test_own_copies_start_as_copies_and_shared_weights_stay_one() -> None:
    model = small_resnet()
    before = len(model.graph.initializers)
    Vcn()(model)
    graph = model.graph
    assert "stem.weight" in graph.initializers
    assert np.array_equal(
        graph.initializers["stem.weight/seg"].const_value, graph.initializers["stem.weight"].const_value
    )
    own = [v for v in graph.initializers.values() if role_of(v) is Role.OWN]
    # 6 kernels, 6 scales, 6 shifts, for two tasks
    assert len(own) == 18 * 2
    assert len(graph.initializers) > before


@pytest.mark.parametrize("skip", ["auto", "grouped1x1", "dense1x1", "none"])
@pytest.mark.parametrize("norm", ["follow", "per_task"])
def test_all_shared_is_the_graph_it_started_from(skip: str, norm: str) -> None:
    model = small_resnet()
    x = image(model)
    before = runtime.run(to_bytes(model), x)
    Vcn(skip=skip, norm=norm)(model)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)
    table = site_table(model)
    Sequential(*select_passes(Architecture.uniform(table, "shared")))(model)
    after = runtime.run(to_bytes(model), x)
    for task, value in before.items():
        assert np.abs(after[task] - value).max() <= 1e-5 * np.abs(value).max()
    trunk = [n for n in model.graph if n.op_type == "Conv" and "predict" not in n.name]
    assert len(trunk) == 6 if norm == "follow" else len(trunk) > 6


def test_a_supermodel_runs_in_onnxruntime_with_its_function_bodies() -> None:
    model = small_resnet()
    x = image(model)
    before = runtime.run(to_bytes(model), x)
    Vcn(skip="none")(model)  # own copies equal the shared weights, so any mixture is the original
    for task, value in runtime.run(to_bytes(model), x).items():
        assert np.abs(value - before[task]).max() <= 1e-5 * np.abs(before[task]).max()


def test_the_first_sites_can_be_forced_shared_and_run_once() -> None:
    model = small_resnet()
    Vcn(shared_prefix=3)(model)
    table = site_table(model)
    assert len(table.sites) == 3
    names = [n.name for n in model.graph if n.op_type == "Conv" and "stem" in n.name]
    assert names == ["stem"]


def test_skips_are_cost_aware() -> None:
    b = GraphBuilder()
    x = b.conv(b.image, 6, stride=2)  # shapes differ: pooling and channel padding
    x = b.conv(b.relu(x), 6)  # identity
    x = b.conv(b.relu(x), 4, k=2)  # output size is no quotient: no skip
    model = b.heads(x, {"a": 1, "b": 1})
    Vcn()(model)
    table = site_table(model)
    first, second, third = table.sites
    assert first.options[2].multiply_adds == 0 and not first.options[2].identity
    assert second.options[2].identity
    assert third.option_names == ("shared", "own")
    assert [d.code for d in diagnostics(model)] == ["no-skip"] and diagnostics(model)[0].node == third.id


def test_a_learnt_skip_that_costs_as_much_as_its_operator_is_not_offered() -> None:
    b = GraphBuilder()
    x = b.conv(b.image, 4, k=1)
    x = b.conv(b.relu(x), 6, k=3)  # grouped 1x1 is cheaper than a 3x3
    x = b.conv(b.relu(x), 6, k=1, stride=2, group=2)  # a grouped 1x1 of two groups costs no less: free skip instead
    model = b.heads(x, {"a": 1, "b": 1})
    Vcn(skip="grouped1x1")(model)
    _, learnt, free = site_table(model).sites
    assert 0 < learnt.options[2].multiply_adds < learnt.options[0].multiply_adds
    assert free.options[2].multiply_adds < free.options[0].multiply_adds
    roles = {role_of(v) for v in model.graph.initializers.values()}
    assert Role.SKIP in roles


def test_block_granularity_wraps_the_activation() -> None:
    model = small_resnet()
    Vcn(granularity="block")(model)
    for choice in choices(model.graph):
        assert choice.options[0].producer().op_type in ("Relu", "BatchNormalization")
        assert choice.output.consumers()


def test_tasks_that_read_an_early_feature_have_no_say_later() -> None:
    b = GraphBuilder()
    early = b.block(b.image, 4)
    late = b.block(early, 4)
    model = b.heads({"a": early, "b": late, "c": late}, {"a": 1, "b": 1, "c": 1})
    Vcn()(model)
    first, second = site_table(model).sites
    assert first.tasks == ()
    assert second.tasks == (1, 2)


def test_what_only_one_task_needs_is_no_site() -> None:
    b = GraphBuilder()
    early = b.block(b.image, 4)
    model = b.heads({"a": early, "b": b.block(early, 4)}, {"a": 1, "b": 1})
    Vcn()(model)
    assert len(site_table(model).sites) == 1


def test_normalization_of_every_task_before_an_operator_is_no_site() -> None:
    b = GraphBuilder()
    x = b.conv(b.image, 4, name="stem")
    x = b.relu(b.norm(b.concat(x, x), name="alone"))  # DenseNet: the normalization stands before its operator
    model = b.heads(b.conv(x, 4, name="last"), {"a": 1, "b": 1})
    Vcn(norm="per_task")(model)
    assert [site.id for site in site_table(model).sites] == ["stem", "last"]
    used = {c.logits for c in choices(model.graph)}
    assert {v for v in model.graph.initializers.values() if role_of(v) is Role.LOGITS} == used
    assert {"alone.scale/a", "alone.scale/b"} <= set(model.graph.initializers)


def test_a_scale_that_widens_its_input_belongs_to_no_site() -> None:
    b = GraphBuilder(channels=1)
    x = b.conv(b.image, 1, name="attention")  # can be skipped by identity: one channel in and out
    x = b.node("Mul", [x, b.weight("wide", np.ones((1, 4, 1, 1)))], ["N", 4, 8, 8], "widen")
    model = b.heads(b.conv(x, 4), {"a": 1, "b": 1})
    Vcn()(model)
    for choice in choices(model.graph):
        assert all(option.shape == choice.output.shape for option in choice.options)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


def test_refusals() -> None:
    model = small_resnet()
    Vcn()(model)
    with pytest.raises(Refused, match="already holds Choices"):
        Vcn()(model)
    b = GraphBuilder()
    b.graph.outputs.append(b.block(b.image, 4))
    import onnx_ir as ir

    with pytest.raises(Refused, match="no task heads"):
        Vcn()(ir.Model(b.graph, ir_version=10))
    with pytest.raises(Refused, match="granularity"):
        space("vcn", granularity="block", norm="per_task")(small_resnet())
    with pytest.raises(Exception, match="unknown search space"):
        space("nothing")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(2, 4), granularity=st.sampled_from(["op", "block"]))
def test_random_graphs_stay_valid_and_deterministic(seed: int, tasks: int, granularity: str) -> None:
    first, second = random_model(seed, tasks=tasks), random_model(seed, tasks=tasks)
    for model in (first, second):
        Vcn(granularity=granularity)(model)
    assert to_bytes(first) == to_bytes(second)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(first)), full_check=True)
    assert any(is_choice(node) for node in first.graph)

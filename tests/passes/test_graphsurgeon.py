"""onnx-graphsurgeon functions as passes, and emitted models as fixed points of its clean-up."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from helpers.compiling import write_backbone
from helpers.graphs import small_resnet
from helpers.networks import image_of, run, small_network
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxmtl
from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes
from onnxmtl.ir.passes import PassError, Sequential
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import OrderByLevel, finalize_passes
from onnxmtl.passes.finalize.order import level_of
from onnxmtl.passes.graphsurgeon import GraphSurgeonPass
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, NumericGuard
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.passes.supermodel_guard import Choices
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import sample

TASKS = load_tasks("seg=segmentation:4,depth,room=classification:3")


def relu_to_leaky(graph: gs.Graph) -> None:
    for node in [node for node in graph.nodes if node.op == "Relu"]:
        leaky = gs.Node("LeakyRelu", "", {"alpha": 0.0}, inputs=list(node.inputs), outputs=list(node.outputs))
        node.outputs.clear()
        graph.nodes.append(leaky)
    graph.cleanup().toposort()


def tidy(graph: gs.Graph) -> gs.Graph:
    return graph.cleanup().toposort()


@pytest.fixture(scope="module")
def supermodel(tmp_path_factory):
    backbone = onnxmtl.load(write_backbone(tmp_path_factory.mktemp("net") / "net.onnx"))
    return Vcn()(AttachHeads(TASKS, 0)(backbone).model).model


def emitted(supermodel: ir.Model, seed: int) -> ir.Model:
    """What is emitted for some random architecture."""
    (architecture,) = sample(Policy.of_model(supermodel, site_table(supermodel)), 1, seed)
    return Pipeline([*select_passes(architecture), *finalize_passes(TASKS, {})])(supermodel.clone()).model


def test_edits_in_place_and_keeps_the_rest():
    model = small_network()
    for node in model.graph:
        node.metadata_props["mine"] = str(node.name)
    before, x = to_bytes(model), image_of(model, 1)
    guard = NumericGuard({"image": x}, rtol=1e-6)
    result = Pipeline(
        [GraphSurgeonPass(relu_to_leaky, preserves_numerics=True)], instruments=[guard, CheckInvariants()]
    )(model)
    assert result.modified and to_bytes(model) == before
    new = [node for node in result.model.graph if node.op_type == "LeakyRelu"]
    assert len(new) == 3 and all(node.metadata_props == {"onnxmtl.pass": "relu_to_leaky"} for node in new)
    assert len({node.name for node in new}) == 3 and all(node.name for node in new)
    rest = [node for node in result.model.graph if node.op_type != "LeakyRelu"]
    assert all(node.metadata_props == {"mine": node.name} for node in rest)


def test_a_broken_promise_is_noticed():
    def double(graph):
        weight = next(node for node in graph.nodes if node.op == "Conv").inputs[1]
        weight.values = weight.values * 2

    guard = NumericGuard({"image": image_of(small_network(), 1)})
    with pytest.raises(PassError, match="GraphSurgeonPass changed the numbers"):
        Pipeline([GraphSurgeonPass(double, preserves_numerics=True)], instruments=[guard])(small_network())


def test_runs_in_onnx_irs_sequence():
    result = Sequential(GraphSurgeonPass(relu_to_leaky), GraphSurgeonPass(tidy))(small_network())
    x = image_of(small_network(), 1)
    np.testing.assert_allclose(run(result.model, x)[0], run(small_network(), x)[0], rtol=1e-6)


def test_returns_something_else():
    with pytest.raises(ModelError, match="must edit the graph or return one, not int"):
        Pipeline([GraphSurgeonPass(lambda graph: 3)])(small_network())


def test_a_cycle_is_refused():
    def tie(graph):
        convs = [node for node in graph.nodes if node.op == "Conv"]
        convs[0].inputs[0] = graph.nodes[5].outputs[0]

    with pytest.raises(ModelError, match="tie: left a graph with a cycle"):
        Pipeline([GraphSurgeonPass(tie)])(small_network())


def test_a_supermodel_may_be_edited_but_not_dissolved(supermodel):
    edited = Pipeline([GraphSurgeonPass(tidy)])(supermodel).model
    assert Choices.of(edited) == Choices.of(supermodel)
    assert {site.id: site.options for site in site_table(edited).sites} == {
        site.id: site.options for site in site_table(supermodel).sites
    }

    def dissolve(graph):
        choice = next(node for node in graph.nodes if node.op.startswith("Choice"))
        for user in list(choice.outputs[0].outputs):
            user.inputs[list(user.inputs).index(choice.outputs[0])] = choice.inputs[0]
        graph.cleanup()

    with pytest.raises(ModelError, match=r"dissolve broke the supermodel: site .* had .* Choices"):
        Pipeline([GraphSurgeonPass(dissolve)])(supermodel)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_emitted_models_are_a_fixed_point_of_the_clean_up(supermodel, seed):
    """Nodes, their order and names, weights, metadata: to the byte, and nothing is reported as modified."""
    model = emitted(supermodel, seed)
    result = GraphSurgeonPass(tidy)(model)
    assert to_bytes(result.model) == to_bytes(model)
    assert not result.modified


def test_without_the_order_they_are_not(supermodel):
    """The twin: what is claimed above is not true of just any model."""
    model = emitted(supermodel, 1)
    shuffled = model.clone()
    nodes = list(shuffled.graph)
    shuffled.graph.remove(nodes)
    shuffled.graph.extend(as_late_as_possible(nodes))
    assert [n.name for n in shuffled.graph] != [n.name for n in model.graph]
    assert GraphSurgeonPass(tidy)(shuffled).modified
    assert OrderByLevel()(shuffled).modified
    assert not OrderByLevel()(model).modified


def as_late_as_possible(nodes: list[ir.Node]) -> list[ir.Node]:
    """A topological order that takes, from the end, the last node whose users are all placed."""
    order: list[ir.Node] = []
    left = list(nodes)
    while left:
        needed = {value.producer() for node in left for value in node.inputs if value is not None}
        order.append(next(node for node in left if node not in needed))
        left.remove(order[-1])
    return order[::-1]


def test_levels_are_longest_ways():
    graph = small_resnet({"a": 2}).graph
    levels = level_of(graph)
    for node in graph:
        before = [levels[v.producer()] for v in node.inputs if v is not None and v.producer() is not None]
        assert levels[node] == max(before, default=-1) + 1

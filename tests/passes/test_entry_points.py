"""Segments: convex, without cycles, exact; and they compute the same bits."""

from __future__ import annotations

import networkx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.backbones import resnet34
from helpers.graphs import GraphBuilder, small_resnet
from helpers.many_tasks import graphs, subsets
from hypothesis import HealthCheck, given, settings

from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError
from onnxmtl.frontends.onnx import from_proto
from onnxmtl.ir import to_bytes
from onnxmtl.passes.entry_points import (
    Rates,
    join_small,
    preparation,
    segment_model,
    segments_of,
)
from onnxmtl.passes.pipelines import Pipeline

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FREE = Rates(call=0.0, handed=float("inf"))  # handing over costs nothing
DEAR = Rates(call=10.0)


def prepared(proto: onnx.ModelProto) -> ir.Model:
    return Pipeline(preparation())(from_proto(proto)).model


def network(model: ir.Model) -> networkx.DiGraph:
    """The nodes, as networkx has them; an independent witness."""
    graph = networkx.DiGraph()
    for node in model.graph:
        graph.add_node(node)
        graph.add_edges_from((value.producer(), node) for value in node.inputs if value.producer() is not None)
    return graph


def needed(model: ir.Model, graph: networkx.DiGraph, tasks: tuple[str, ...]) -> set[ir.Node]:
    ends = [value.producer() for value in model.graph.outputs if value.name in tasks]
    return {*ends, *(node for end in ends for node in networkx.ancestors(graph, end))}


def order_and_coverage(model, segments):
    """Every needed node once; what a segment reads is computed before it."""
    names = tuple(value.name for value in model.graph.outputs)
    nodes = [node for segment in segments for node in segment.nodes]
    assert len(nodes) == len(set(nodes)) and set(nodes) == needed(model, network(model), names)
    known = set(model.graph.inputs)
    for segment in segments:
        assert set(segment.inputs) <= known
        known.update(segment.outputs)


@QUICK
@given(graphs())
def test_segments_are_convex_ordered_by_inclusion_and_exact(proto):
    model = prepared(proto)
    segments, graph = segments_of(model), network(model)
    order_and_coverage(model, segments)
    assert len({segment.tasks for segment in segments}) == len(segments), "one per label"
    home = {node: i for i, segment in enumerate(segments) for node in segment.nodes}
    for segment in segments:
        inside = set(segment.nodes)
        below = set().union(*(networkx.descendants(graph, node) for node in inside))
        above = set().union(*(networkx.ancestors(graph, node) for node in inside))
        assert not (below & above) - inside, "a way leaves the segment and comes back"
    for source, target in graph.edges:
        if source in home and target in home and home[source] != home[target]:
            assert set(segments[home[target]].tasks) < set(segments[home[source]].tasks)
    for tasks in subsets(tuple(value.name for value in model.graph.outputs)):
        runs = {node for segment in segments if set(segment.tasks) & set(tasks) for node in segment.nodes}
        assert runs == needed(model, graph, tasks)


@QUICK
@given(graphs(most_nodes=10, most_tasks=3))
def test_segments_compute_the_same_bits(proto):
    model = prepared(proto)
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    whole = runtime.run(runtime.session(proto.SerializeToString(), optimize=False), image)
    separate = segments_of(model)
    for segments in (separate, join_small(model, separate, DEAR)):
        values = {"image": image}
        for i, segment in enumerate(segments):
            made = segment_model(model, segment, f"s{i}")
            onnx.checker.check_model(ir.to_proto(made), full_check=True)
            opened = runtime.session(to_bytes(made), optimize=False)
            values |= runtime.run(opened, {value.name: values[value.name] for value in segment.inputs})
        for name, expected in whole.items():
            assert values[name].tobytes() == expected.tobytes()


@QUICK
@given(graphs())
def test_joined_segments_can_still_run(proto):
    model = prepared(proto)
    segments = segments_of(model)
    for rates in (FREE, Rates(), DEAR):
        joined = join_small(model, segments, rates)
        order_and_coverage(model, joined)
    assert join_small(model, segments, FREE) and len(joined) <= len(segments)


def test_all_is_joined_where_calls_are_dear_and_nothing_where_they_are_free():
    model = prepared(ir.to_proto(resnet34(3)))
    segments = segments_of(model)
    assert [segment.tasks for segment in segments] == [("seg", "depth", "normals"), ("seg",), ("depth",), ("normals",)]
    assert len(join_small(model, segments, DEAR)) == 1
    assert len(join_small(model, segments, FREE)) == 4


def tree() -> ir.Model:
    """Two thirds of the work in a branch that seg and depth share, and a head too small to be worth a call."""
    b = GraphBuilder(size=64)
    trunk = b.block(b.image, 32, stride=2)
    branch = b.block(b.block(trunk, 64), 64)
    return b.heads({"seg": branch, "depth": branch, "edges": b.block(trunk, 64)}, {"seg": 3, "depth": 1, "edges": 1})


def test_what_is_worth_a_call_stays_apart():
    model = prepared(ir.to_proto(tree()))
    separate = segments_of(model)
    assert len(separate) == 5
    joined = join_small(model, separate, Rates(handed=float("inf")))
    assert [segment.tasks for segment in joined] == [("seg", "depth", "edges"), ("seg", "depth"), ("edges",)]


def test_weights_are_handed_on_not_copied():
    model = prepared(ir.to_proto(small_resnet()))
    tensors = {id(value.const_value) for value in model.graph.initializers.values()}
    seen = []
    for segment in segments_of(model):
        made = segment_model(model, segment, "s")
        seen += [id(value.const_value) for value in made.graph.initializers.values()]
    assert sorted(seen) == sorted(tensors)
    assert count(model).parameters, "the model itself stays whole"


def test_constants_are_not_handed_over():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 3, 4, 4] image) => (float[N, 3, 4, 4] a, float[N, 3, 4, 4] b) {
        two = Constant <value = float {2}> ()
        a = Mul(image, two)
        b = Add(image, two)
    }"""
    segments = segments_of(prepared(onnx.parser.parse_model(text)))
    assert [[value.name for value in segment.inputs] for segment in segments] == [["image"], ["image"]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y = If (c) <then_branch = t () => (float[N] p) { p = Relu(image) }, "
         "else_branch = e () => (float[N] q) { q = Neg(image) }>", "control flow"),
        ("n = Neg(image)", "computed by no node"),
    ],
)  # fmt: skip
def test_what_is_not_cut_is_refused_in_one_line(body, said):
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N] image) => (float[N] y) <bool c = {{1}}, float[1] y = {{1}}> {{ {body} }}"""
    if "If" in body:
        text = text.replace(", float[1] y = {1}", "")
    with pytest.raises(ModelError, match=said) as error:
        segments_of(from_proto(onnx.parser.parse_model(text)))
    assert "\n" not in str(error.value)


def test_a_supermodel_is_refused():
    from onnxmtl.passes.spaces import Vcn

    model = Pipeline([Vcn()])(small_resnet()).model
    with pytest.raises(ModelError, match="supermodel"):
        segments_of(model)

"""Frontiers against networkx: dominators, minimum cuts, and all cuts there are."""

from __future__ import annotations

import itertools

import networkx as nx
import onnx_ir as ir
import pytest
from helpers.networks import Network
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.frontiers import boundaries, frontier, main_output, passive_values, reads, scan_order

ONE = st.just(1)


@st.composite
def dags(draw, outputs=ONE):
    """A random DAG of nodes with one or two outputs each; (model, its nodes in a random topological order).

    Every node leads to an output; with several outputs the first is an arbitrary one.
    """
    net = Network()
    values = [net.image]
    for i in range(draw(st.integers(1, 9))):
        picked = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
        made = [ir.Value(name=f"v{i}_{j}") for j in range(draw(st.integers(1, 2)))]
        net.graph.append(ir.Node("", "Split", [values[j] for j in picked], outputs=made, name=f"n{i}"))
        values += made
    unused = [value for value in values[1:] if not value.uses()]
    wanted = draw(outputs)
    if len(unused) > wanted:
        unused = [*unused[: wanted - 1], net.add("Sum", unused[wanted - 1 :], "join")]
    model = net.model(*draw(st.permutations(unused)))
    return model, _topological(list(model.graph), draw(st.permutations(range(len(model.graph)))))


def _topological(nodes, priority):
    done, result, rest = set(), [], sorted(range(len(nodes)), key=lambda i: priority[i])
    while rest:
        i = next(i for i in rest if all(v.producer() is None or v.producer() in done for v in nodes[i].inputs))
        done.add(nodes[i])
        result.append(nodes[i])
        rest.remove(i)
    return result


def _directed(nodes, outputs=()):
    """Tensors and nodes as vertices; "in" before the graph's inputs, "out" behind `outputs`."""
    graph = nx.DiGraph()
    for node in nodes:
        graph.add_edges_from((value, node) for value in node.inputs)
        graph.add_edges_from((node, value) for value in node.outputs)
    graph.add_edges_from(("in", value) for value in {v for n in nodes for v in n.inputs} if value.producer() is None)
    graph.add_edges_from((value, "out") for value in outputs)
    return graph


def _cut_network(nodes, prefix):
    """Nodes before a cut hang on "s", those behind it on "t"; a tensor that both sides touch costs 1 to cut."""
    graph = nx.DiGraph()
    for node in nodes:
        if node in prefix:
            graph.add_edge("s", node)
        else:
            graph.add_edge(node, "t")
        for value in node.outputs:
            graph.add_edge(node, (value, 0))
            graph.add_edge((value, 0), (value, 1), capacity=1)
        for value in node.inputs:
            graph.add_edge((value, 1), node)
            if value.producer() is None:
                graph.add_edge("s", (value, 0))
                graph.add_edge((value, 0), (value, 1), capacity=1)
    return graph


@settings(max_examples=150, deadline=None)
@given(dags())
def test_single_tensors_are_the_dominators_in_any_order(case):
    model, order = case
    (output,) = model.graph.outputs
    parents = nx.immediate_dominators(_directed(order, [output]), "in")
    dominators, vertex = set(), "out"
    while vertex != "in":
        vertex = parents[vertex]
        dominators.add(vertex)
    expected = {v for v in dominators if isinstance(v, ir.Value)} - {output, model.graph.inputs[0]}
    assert {cut.values[0] for cut in boundaries(order)} == expected
    assert {cut.values[0] for cut in boundaries(model.graph)} == expected


@settings(max_examples=100, deadline=None)
@given(dags())
def test_single_tensors_are_the_minimum_cuts_that_treemtls_detector_finds(case):
    """Cutting at minimum cuts of one tensor, as long as there are any, ends with the same pieces."""
    model, order = case
    (output,) = model.graph.outputs
    pieces, todo = [], [order]
    while todo:
        nodes = todo.pop()
        graph = _cut_network(nodes, set())
        # Between the piece's first tensors and its last: what it reads from before, and what is read behind it.
        inside = {value for node in nodes for value in node.outputs}
        graph.remove_node("t")
        for node in nodes:
            if not node.outputs or any(v is output or any(u not in nodes for u in v.consumers()) for v in node.outputs):
                graph.add_edge(node, "t")
            if any(value not in inside for value in node.inputs):
                graph.add_edge("s", node)
        try:
            size, (before, _) = nx.minimum_cut(graph, "s", "t")
        except nx.NetworkXUnbounded:  # a node is first and last
            size, before = None, ()
        sides = [n for n in nodes if n in before], [n for n in nodes if n not in before]
        if size == 1 and all(sides):
            todo += sides[::-1]
        else:
            pieces.append(frozenset(nodes))
    cuts = [0, *(cut.position for cut in boundaries(order)), len(order)]
    assert {frozenset(order[a:b]) for a, b in itertools.pairwise(cuts)} == set(pieces)


@settings(max_examples=80, deadline=None)
@given(dags(), st.integers(1, 4))
def test_a_boundary_is_where_the_minimum_cut_between_before_and_behind_is_small(case, k):
    _, order = case
    expected = []
    for i in range(1, len(order)):
        size = nx.minimum_cut_value(_cut_network(order, set(order[:i])), "s", "t")
        if 1 <= size <= k:
            expected.append(i)
        assert len(frontier(order, i)) == size
    found = boundaries(order, k=k)
    image_alone = [i for i in expected if all(v.producer() is None for v in frontier(order, i))]
    same_as_before = [i for i in expected if i > 1 and set(frontier(order, i)) == set(frontier(order, i - 1))]
    assert [cut.position for cut in found] == [i for i in expected if i not in {*image_alone, *same_as_before}]
    assert all(set(cut.values) == set(frontier(order, cut.position)) for cut in found)


def _all_cuts(nodes):
    """Every set of nodes that contains the producers of all it reads."""
    for chosen in itertools.product((False, True), repeat=len(nodes)):
        cut = {node for node, inside in zip(nodes, chosen, strict=True) if inside}
        if cut and all(v.producer() is None or v.producer() in cut for node in cut for v in node.inputs):
            yield cut


@settings(max_examples=120, deadline=None)
@given(dags(st.integers(2, 4)))
def test_several_outputs_against_all_cuts_there_are(case):
    """{v} is found if and only if some cut that leaves the main output behind it has the frontier {v}."""
    model, order = case
    main, needed = main_output(model.graph)
    assert main in model.graph.outputs
    assert len(needed) == max(len(_needed_by(output)) for output in model.graph.outputs)
    expected = set()
    for cut in _all_cuts(order):
        given = {v for node in order for v in node.inputs if v.producer() is None}
        alive = {v for node in order if node not in cut for v in node.inputs}
        alive &= given | {v for node in cut for v in node.outputs}
        if len(alive) == 1 and main.producer() not in cut and not alive <= given:
            expected |= alive
    found = {cut.values[0] for cut in boundaries(model.graph)}
    # Behind the main output there may be cuts too, where another output goes on.
    assert {value for value in found if value.producer() in needed and value is not main} - _behind(main) == expected


def _needed_by(value):
    found, stack = set(), [value.producer()]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += [v.producer() for v in node.inputs]
    return found


def _behind(value):
    """Values made by the same node as `value`, or from it."""
    found = set(value.producer().outputs)
    stack = list(found)
    while stack:
        for node in stack.pop().consumers():
            stack += [v for v in node.outputs if v not in found]
            found.update(node.outputs)
    return found


@settings(max_examples=100, deadline=None)
@given(dags(st.integers(1, 4)))
def test_the_scan_order_is_topological_and_keeps_the_main_part(case):
    model, _ = case
    order = scan_order(model.graph)
    assert set(order) == set(model.graph) and len(order) == len(model.graph)
    done = set()
    for node in order:
        assert all(v.producer() is None or v.producer() in done for v in node.inputs)
        done.add(node)
    _, needed = main_output(model.graph)
    assert [node for node in order if node in needed] == [node for node in model.graph if node in needed]


def test_an_early_output_with_layers_of_its_own_does_not_hide_a_boundary():
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    side = net.conv(a, 4, 4, name="side")
    b = net.conv(a, 4, 4, name="b")
    side = net.conv(side, 4, 4, name="side2")  # alive beside b in the graph's order
    c = net.conv(b, 4, 4, name="c")
    c = net.conv(c, 4, 4, name="d")
    graph = net.model(side, c).graph
    assert [cut.name for cut in boundaries(list(graph))] == ["a_out", "b_out", "c_out"]
    assert [node.name for node in scan_order(graph)] == ["a", "side", "side2", "b", "c", "d"]
    # Behind "side" two tensors are alive, behind "side2" one.
    assert [(cut.position, cut.name) for cut in boundaries(graph)] == [(1, "a_out"), (4, "b_out"), (5, "c_out")]


def test_shape_arithmetic_in_floats_does_not_count_and_integers_of_data_do():
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    scale = net.add("Cast", [net.add("Shape", [a], "shape")], "cast", to=1)
    b = net.conv(a, 4, 4, name="b")
    c = net.add("Resize", [b, None, scale], "resize")
    assert [cut.name for cut in boundaries(net.model(net.conv(c, 4, 4, name="d")).graph)] == [
        "a_out", "b_out", "resize_out",
    ]  # fmt: skip
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    pooled, indices = ir.Value(name="pooled"), ir.Value(name="indices", type=ir.TensorType(ir.DataType.INT64))
    net.graph.append(ir.Node("", "MaxPool", [a], outputs=[pooled, indices], name="pool"))
    b = net.conv(pooled, 4, 4, name="b")
    graph = net.model(net.conv(net.add("MaxUnpool", [b, indices], "unpool"), 4, 4, name="c")).graph
    assert [cut.name for cut in boundaries(graph)] == ["a_out", "unpool_out"]


def test_constants_at_the_beginning_are_no_block():
    net = Network()
    constant = net.add("Neg", [net.weight("w", net.normal(4, 1, 1))], "constant")
    a = net.conv(net.image, 3, 4, name="a")
    graph = net.model(net.add("Mul", [a, constant], "mul")).graph
    assert [(cut.position, cut.name) for cut in boundaries(graph)] == [(2, "a_out")]
    assert passive_values(graph) == {constant}


def test_what_a_subgraph_takes_from_outside_is_alive():
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    b = net.conv(a, 4, 4, name="b")
    c = net.conv(b, 4, 4, name="c")
    branches = []
    for name in ("then", "else"):
        out = ir.Value(name=f"{name}_out")
        nested = ir.Graph([], [out], nodes=[ir.Node("", "Relu", [a], outputs=[out])], name=name)
        branches.append(ir.AttrGraph(f"{name}_branch", nested))
    flag = net.weight("flag", [True])
    joined = ir.Value(name="joined")
    node = ir.Node("", "If", [flag], branches, outputs=[joined], name="if")
    net.graph.append(node)
    graph = net.model(net.add("Add", [c, joined], "sum")).graph
    assert reads(node) == [flag, a]
    assert [cut.name for cut in boundaries(graph)] == ["a_out"]  # it is alive up to the If


@pytest.mark.timeout(60)
def test_ten_thousand_nodes_deep_and_wide():
    net = Network()
    x = net.image
    for i in range(5_000):
        x = net.add("Relu", [x], f"r{i}")
    heads = [net.add("Relu", [x], f"h{i}") for i in range(5_000)]
    graph = net.model(*heads).graph
    found = boundaries(graph)
    assert len(found) == 5_000 and found[0].name == "r0_out" and found[-1].name == "r4999_out"

"""Boundaries against brute force, and what becomes of them."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from pathlib import Path
from types import FrameType

import onnx_ir as ir
import pytest
from helpers.networks import Network, small_network
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.blocks import blocks, boundaries
from onnxmtl.analysis.scopes import scope
from onnxmtl.errors import ModelError
from onnxmtl.frontends import prototxt
from onnxmtl.frontends.onnx import from_proto
from onnxmtl.ops import multiply_adds
from onnxmtl.passes.normalize import normalize

SHARED = Path(os.environ.get("ONNXMTL_SHARED", "../shared"))


@st.composite
def dags(draw, outputs=1):
    """A random DAG of Add nodes in a random topological order; every node leads to an output."""
    count = draw(st.integers(1, 9))
    net = Network()
    values = [net.image]
    for i in range(count):
        picked = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
        values.append(net.add("Sum", [values[j] for j in picked], f"n{i}"))
    last = values[-1]
    unused = [v for v in values[1:] if not v.uses() and v is not last]
    if unused:
        last = net.add("Sum", [*unused, last], "join")
    model = net.model(last)
    nodes = list(model.graph)
    order = draw(st.permutations(range(len(nodes))))
    return model, _topological(nodes, order)


def _topological(nodes, priority):
    """The nodes in the topological order that prefers small priorities."""
    done, result, rest = set(), [], sorted(range(len(nodes)), key=lambda i: priority[i])
    while rest:
        for i in rest:
            if all(v.producer() is None or v.producer() in done for v in nodes[i].inputs):
                done.add(nodes[i])
                result.append(nodes[i])
                rest.remove(i)
                break
    return result


def _paths(value, image):
    """All paths image -> value, as sets of values."""
    if value is image:
        return [{image}]
    node = value.producer()
    return [path | {value} for source in set(node.inputs) for path in _paths(source, image)]


@settings(max_examples=150, deadline=None)
@given(dags())
def test_single_tensor_cuts_are_the_tensors_on_every_path(case):
    model, order = case
    image, output = model.graph.inputs[0], model.graph.outputs[0]
    everywhere = set.intersection(*_paths(output, image)) - {image, output}
    # In whatever order the nodes are.
    assert {cut.values[0] for cut in boundaries(order)} == everywhere


@settings(max_examples=150, deadline=None)
@given(dags(), st.integers(1, 3))
def test_frontiers_against_the_definition(case, k):
    """After each node: values made (or given) so far that a later node uses."""
    _, order = case
    expected = []
    for i in range(1, len(order)):
        made = {v for node in order[:i] for v in node.outputs}
        given_ = {v for node in order for v in node.inputs if v.producer() is None}
        live = {v for node in order[i:] for v in node.inputs if v in made | given_}
        if 1 <= len(live) <= k and (not expected or expected[-1] != live):
            expected.append(live)
    assert [set(cut.values) for cut in boundaries(order, k=k)] == expected


@settings(max_examples=60, deadline=None)
@given(dags(), st.booleans())
def test_blocks_partition_the_nodes(case, merge):
    model, _ = case
    found = blocks(model.graph, merge=merge)
    assert [node for block in found for node in block.nodes] == list(model.graph)
    assert [block.index for block in found] == list(range(len(found)))
    for before, after in itertools.pairwise(found):
        assert before.outputs == after.inputs
    assert found[-1].outputs == tuple(model.graph.outputs)


def test_residual_network():
    found = blocks(small_network().graph)
    # Nothing can be cut inside the residual block; what has no layer (a normalization alone) joins what is before it.
    assert [block.nodes[0].name for block in found] == ["stem", "a", "fc"]
    assert [block.outputs[0].name for block in found] == ["stem_relu_out", "flatten_out", "fc_out"]


def test_merge_leaves_no_block_without_layers():
    assert not all(block.has_layers for block in blocks(small_network().graph, merge=False))
    assert all(block.has_layers for block in blocks(small_network().graph))


def test_layers_and_weights():
    normalization, *_ = (b for b in blocks(small_network().graph, merge=False) if b.nodes[0].name == "stem_bn")
    assert normalization.has_weights and not normalization.has_layers


def test_a_leading_block_without_layers_joins_the_one_behind_it():
    net = Network()
    x = net.conv(net.add("MaxPool", [net.image], "pool", kernel_shape=[2, 2]), 3, 4, name="a")
    found = blocks(net.model(net.conv(x, 4, 4, name="b")).graph)
    assert [[node.name for node in block.nodes] for block in found] == [["pool", "a"], ["b"]]


def test_chosen_boundaries():
    found = blocks(small_network().graph, at=["out_out", "stem_relu_out"])
    assert [block.outputs[0].name for block in found] == ["stem_relu_out", "out_out", "fc_out"]


def test_a_tensor_inside_a_residual_block_is_refused():
    with pytest.raises(ModelError, match="a_relu_out"):
        blocks(small_network().graph, at=["a_relu_out"])


def test_features_taken_out_on_the_way_do_not_count():
    net = Network()
    early = net.conv(net.image, 3, 4, name="early")
    late = net.conv(early, 4, 4, name="late")
    end = net.conv(late, 4, 4, name="end")
    cuts = boundaries(net.model(early, end).graph)
    assert [cut.values[0].name for cut in cuts] == ["early_out", "late_out"]


def test_weights_and_shape_arithmetic_do_not_count():
    net = Network()
    x = net.conv(net.image, 3, 4, name="a")
    shape = net.add("Shape", [x], "shape")
    shape.dtype = ir.DataType.INT64
    constant = net.add("Neg", [net.weight("w", net.normal(4, 1, 1))], "constant")
    y = net.conv(x, 4, 4, name="b")
    z = net.add("Mul", [net.add("Reshape", [y, shape], "reshape"), constant], "mul")
    names = [cut.values[0].name for cut in boundaries(net.model(z).graph)]
    assert names == ["a_out", "b_out", "reshape_out"]


def test_more_live_tensors_for_a_u_net():
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    b = net.conv(a, 4, 4, stride=2, name="b")
    c = net.conv(b, 4, 4, name="c")
    up = net.add("Upsample", [c], "up")
    graph = net.model(net.conv(net.add("Concat", [a, up], "cat", axis=1), 8, 4, name="d")).graph
    assert [[v.name for v in cut.values] for cut in boundaries(graph)] == [["a_out"], ["cat_out"]]
    assert ["a_out", "b_out"] in [[v.name for v in cut.values] for cut in boundaries(graph, k=2)]


def _two_streams(length: int) -> ir.Graph:
    net = Network()
    x, trunk = net.image, net.image
    for i in range(length):
        x = net.add("Relu", [x], f"r{i}")
        if i % 2:
            trunk = net.add("Add", [x, trunk], f"a{i}")  # a second stream that is alive all the time
    return net.model(x, trunk).graph


def _calls(graph: ir.Graph) -> int:
    """How many functions, of Python's or of C's, the search for boundaries calls."""
    count = 0

    def step(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        boundaries(graph, k=2)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.timeout(120)  # against hanging only
def test_linear_in_the_number_of_nodes():
    assert _calls(_two_streams(2_000)) <= 2.1 * _calls(_two_streams(1_000))
    assert boundaries(_two_streams(20_000), k=2)


# Real networks


def resnet34() -> ir.Graph:
    """A stem and 3, 4, 6, 3 residual blocks of two convolutions, up to its last map."""
    net = Network((1, 3, 64, 64))
    x = net.add("Relu", [net.norm(net.conv(net.image, 3, 4, k=7, stride=2), 4)])
    x = net.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 4
    for stage, count in enumerate((3, 4, 6, 3)):
        for i in range(count):
            stride, width = 2 if stage and not i else 1, 4 * (stage + 1)
            y = net.add("Relu", [net.norm(net.conv(x, channels, width, stride=stride), width)])
            y = net.norm(net.conv(y, width, width), width)
            if stride > 1:
                x = net.norm(net.conv(x, channels, width, k=1, stride=stride), width)
            x = net.add("Relu", [net.add("Add", [y, x])], f"out{stage}.{i}")
            channels = width
    return net.model(x).graph


def test_resnet34_has_seventeen_blocks():
    found = blocks(resnet34())
    ends = [f"out{stage}.{i}" for stage, count in enumerate((3, 4, 6, 3)) for i in range(count)]
    assert [block.nodes[-1].name for block in found[1:]] == ends
    assert [node.op_type for node in found[0].nodes] == ["Conv", "BatchNormalization", "Relu", "MaxPool"]


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data are not there ($ONNXMTL_SHARED)")
def test_the_blocks_that_treemtls_detector_finds():
    expected = json.loads((SHARED / "data/treemtl/blocks_deeplab_resnet34.json").read_text())
    found = blocks(prototxt.load(SHARED / "data/automtl/deeplab_resnet34_adashare.prototxt").graph)
    assert [[node.name for node in block.nodes] for block in found] == expected
    assert len(blocks(prototxt.load(SHARED / "data/automtl/mobilenetv2.prototxt").graph)) == 32


# Number of blocks with at most 1, 2, … live tensors. Residual, dense and inception modules are whole for k = 1; U-Net's
# levels and FPN's way down are told apart as k grows.
ZOO = {
    "resnet18": (7, 16),
    "inception_v3": (8, 13, 19, 27),
    "densenet": (8, 14, 14),
    "unet": (5, 10, 15, 17, 17),
    "fpn": (4, 8, 13, 18),
    "vit_sdpa": (7, 13),
}


@pytest.fixture(scope="module")
def zoo_graph():
    zoo = pytest.importorskip("helpers.zoo")

    @functools.cache
    def load(name: str) -> ir.Graph:
        return normalize(from_proto(zoo.export(name, "legacy"))).graph

    return load


@pytest.mark.parametrize("name", ZOO)
def test_networks_people_bring(zoo_graph, name):
    graph = zoo_graph(name)
    assert tuple(len(blocks(graph, k=k)) for k in range(1, len(ZOO[name]) + 1)) == ZOO[name]
    for k in (1, 3):
        assert all(block.has_layers and len(block.outputs) <= k for block in blocks(graph, k=k)[:-1])


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 2), ("inception_v3", 2), ("densenet", 2), ("unet", 3)])
def test_modules_of_torch(zoo_graph, name, depth):
    """Between two blocks the module changes; and no module in the middle of the network is in two blocks."""
    found = blocks(zoo_graph(name), scopes=depth)
    paths = [[path[:depth] for node in block.nodes if (path := scope(node)) is not None] for block in found]
    for before, after in itertools.pairwise(paths):
        assert before[-1] != after[0]
    assert len(found) > 2


def test_groups_of_a_network(zoo_graph):
    found = blocks(zoo_graph("resnet18"), groups=3)
    assert len(found) == 3
    work = [sum(map(multiply_adds, block.nodes)) for block in blocks(zoo_graph("resnet18"))]
    parts = [(sum(work[:i]), sum(work[i:j]), sum(work[j:])) for i in range(1, 6) for j in range(i + 1, 7)]
    assert max(sum(map(multiply_adds, block.nodes)) for block in found) == min(map(max, parts))


def test_a_weight_that_two_blocks_share():
    net = Network()
    weight = net.weight("shared", net.normal(3, 3, 3, 3))
    x = net.image
    for name in "ab":
        x = net.add("Conv", [x, weight], name, kernel_shape=[3, 3], pads=[1] * 4)
    assert [[node.name for node in block.nodes] for block in blocks(net.model(x).graph)] == [["a"], ["b"]]


def test_layers_of_operators_we_do_not_know():
    net = Network()
    x = net.conv(net.image, 3, 4, name="a")
    y = ir.Value(name="y")
    net.graph.append(
        ir.Node("com.acme", "Swizzle", [x, net.weight("w", net.normal(4, 4))], outputs=[y], name="swizzle")
    )
    z = ir.Value(name="z")
    net.graph.append(ir.Node("com.acme", "Twist", [y], outputs=[z], name="twist"))
    found = blocks(net.model(net.conv(z, 4, 4, name="b")).graph)
    assert [[node.name for node in block.nodes] for block in found] == [["a"], ["swizzle", "twist"], ["b"]]

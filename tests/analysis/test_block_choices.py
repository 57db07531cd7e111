"""How a user moves the boundaries: exactly these, also this one, not this one, N groups, module scopes."""

from __future__ import annotations

import itertools

import onnx_ir as ir
import pytest
from helpers.networks import Network, small_network
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.blocks import blocks, chosen_boundaries
from onnxmtl.analysis.partition import partition
from onnxmtl.analysis.scopes import scope
from onnxmtl.errors import ModelError


def chain(costs: list[int]) -> ir.Graph:
    """Convolutions c0, c1, … of these costs."""
    net = Network()
    x = net.image
    for i, cost in enumerate(costs):
        x = net.conv(x, 3, 3, name=f"c{i}")
        x.producer().metadata_props["cost"] = str(cost)
    return net.model(x).graph


def cost(node: ir.Node) -> int:
    return int(node.metadata_props["cost"])


def names(found):
    return [[node.name for node in block.nodes] for block in found]


def behind(found):
    return [block.outputs[-1].name for block in found[:-1]]


def u_net() -> ir.Graph:
    net = Network()
    a = net.conv(net.image, 3, 4, name="a")
    b = net.conv(a, 4, 4, stride=2, name="b")
    c = net.conv(b, 4, 4, name="c")
    up = net.add("Upsample", [c], "up")
    return net.model(net.conv(net.add("Concat", [a, up], "cat", axis=1), 8, 4, name="d")).graph


def test_exactly_these():
    assert names(blocks(chain([1] * 4), at=["c2_out"])) == [["c0", "c1", "c2"], ["c3"]]
    assert names(blocks(chain([1] * 4), at=["c2"])) == [["c0", "c1", "c2"], ["c3"]]  # by the node's name
    assert names(blocks(chain([1] * 4), at=[])) == [["c0", "c1", "c2", "c3"]]


def test_not_this_one():
    assert names(blocks(chain([1] * 4), drop=["c1_out", "c0"])) == [["c0", "c1", "c2"], ["c3"]]


def test_what_was_merged_away_does_not_come_back_for_a_dropped_boundary():
    graph = small_network().graph
    assert behind(blocks(graph)) == ["stem_relu_out", "flatten_out"]
    assert behind(blocks(graph, drop=["stem_relu"])) == ["flatten_out"]
    assert behind(blocks(graph, drop=["stem_bn"])) == ["stem_relu_out", "flatten_out"]


def test_also_this_one_whatever_is_alive_there():
    found = blocks(u_net(), add=["b"])
    assert behind(blocks(u_net())) == ["a_out", "cat_out"]
    assert behind(found) == ["a_out", "b_out", "cat_out"]
    assert [value.name for value in found[1].outputs] == [value.name for value in found[2].inputs] == ["a_out", "b_out"]


def test_an_added_boundary_is_not_merged_away():
    assert "stem_bn_out" not in behind(blocks(small_network().graph))
    assert "stem_bn_out" in behind(blocks(small_network().graph, add=["stem_bn"]))


def test_a_wider_frontier_and_its_names():
    found = blocks(u_net(), k=2, drop=["c_out"])
    assert behind(found) == ["a_out", "b_out", "cat_out"]
    assert behind(blocks(u_net(), k=2, at=["c"])) == ["c_out"]


def test_boundaries_between_blocks():
    found = blocks(u_net(), k=2)
    order = [node for block in found for node in block.nodes]
    for cut in chosen_boundaries(found):
        made = {value for node in order[: cut.position] for value in node.outputs}
        used = {value for node in order[cut.position :] for value in node.inputs}
        assert set(cut.values) == made & used
        assert cut.name == cut.values[-1].name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": ["b_out"]}, r"cut at 'b_out': 2 tensors are alive there; --frontier 2"),
        ({"drop": ["b_out"]}, r"cut at 'b_out': 2 tensors"),
        ({"add": ["b_uot"]}, r"'b_uot'.*close to it: b_out"),
        ({"drop": ["cat_uot"]}, r"'cat_uot'.*close to it: cat_out"),
        ({"add": ["d"]}, r"cut at 'd': nothing is computed from it"),
        ({"groups": 4}, r"into 4 groups: it has 3 blocks"),
        ({"groups": 0}, r"into 0 groups"),
        ({"groups": 1, "add": ["b"]}, r"into 1 groups: it has 4 blocks; cuts that were added: 1"),
        ({"scopes": 1}, r"do not tell which torch module"),
    ],
)
def test_what_cannot_be_done(options, message):
    with pytest.raises(ModelError, match=message):
        blocks(u_net(), **options)


# Groups


def best(costs, groups, fixed=()):
    """Brute force: (dearest part, sum of squares) of the best partition."""
    found = []
    for cuts in itertools.combinations(range(1, len(costs)), groups - 1):
        if set(fixed) <= set(cuts):
            parts = [sum(costs[a:b]) for a, b in itertools.pairwise([0, *cuts, len(costs)])]
            found.append((max(parts), sum(part**2 for part in parts)))
    return min(found)


@st.composite
def rows(draw):
    costs = draw(st.lists(st.integers(0, 30), min_size=1, max_size=9))
    fixed = draw(st.sets(st.integers(1, len(costs) - 1), max_size=3)) if len(costs) > 1 else set()
    return costs, draw(st.integers(len(fixed) + 1, len(costs))), fixed


@settings(max_examples=300, deadline=None)
@given(rows())
def test_the_partition_is_the_best(case):
    costs, groups, fixed = case
    cuts = partition(costs, groups, fixed)
    assert cuts == sorted(set(cuts)) and len(cuts) == groups - 1 and fixed <= set(cuts)
    parts = [sum(costs[a:b]) for a, b in itertools.pairwise([0, *cuts, len(costs)])]
    assert (max(parts), sum(part**2 for part in parts)) == best(costs, groups, fixed)


@pytest.mark.parametrize(("groups", "fixed"), [(0, ()), (4, ()), (1, (1,)), (2, (3,)), (2, (0,))])
def test_an_impossible_partition(groups, fixed):
    with pytest.raises(ValueError, match="3 items"):
        partition([1, 2, 3], groups, fixed)


def test_large_costs():
    assert partition([10**12] * 4000, 2) == [2000]


def test_groups_of_equal_work():
    graph = chain([5, 1, 1, 1, 4, 4, 2])
    assert names(blocks(graph, groups=3, cost=cost)) == [["c0", "c1"], ["c2", "c3", "c4"], ["c5", "c6"]]
    added = blocks(graph, groups=3, add=["c0"], cost=cost)
    assert names(added)[0] == ["c0"] and len(added) == 3
    assert "c1_out" not in behind(blocks(graph, groups=3, drop=["c1"], cost=cost))


# Scopes

SCOPES = [["", "stem", "stem.conv"], ["", "layer1", "layer1.0"], ["", "layer1", "layer1.1"], ["", "layer2", "layer2.0"]]


@pytest.mark.parametrize("style", ["name_scopes", "namespace", "names"])
@pytest.mark.parametrize(("depth", "expected"), [(1, ["c0_out", "c2_out"]), (2, ["c0_out", "c1_out", "c2_out"])])
def test_where_modules_change(style, depth, expected):
    graph = chain([1] * 4)
    for node, path in zip(graph, SCOPES, strict=True):
        if style == "name_scopes":
            node.metadata_props["pkg.torch.onnx.name_scopes"] = str([*path, "conv2d"])
        elif style == "namespace":
            parts = [f"{name}: torch.nn.Module" for name in path]
            node.metadata_props["namespace"] = "/".join([*parts, "conv2d: aten.conv2d.default"])
        else:
            node.name = "/".join([*path, "Conv"])
    assert behind(blocks(graph, scopes=depth)) == expected


def test_scope_of_a_node():
    node = ir.node("Relu", [], name="/features/features.0/conv/Relu")
    assert scope(node) == ("features", "0", "conv")
    node.metadata_props["namespace"] = ": net.Net/body: Body/body.conv1: Conv2d/relu: aten.relu.default"
    assert scope(node) == ("body", "conv1")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layer1', 'layer1.0', 'relu']"
    assert scope(node) == ("layer1", "0")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'relu"  # damaged: what else is there is read
    assert scope(node) == ("body", "conv1")
    assert scope(ir.node("Relu", [], name="relu_3")) is None


def test_a_depth_below_one():
    with pytest.raises(ModelError, match="depth"):
        blocks(chain([1, 1]), scopes=0)

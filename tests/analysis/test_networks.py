"""The layers of separate networks, and the candidate edges of MTL-NAS between them."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from helpers.fusing import different, mobile, resnet50, separated, vgg, vgg16
from helpers.graphs import GraphBuilder, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.networks import (
    Edge,
    Layer,
    candidate_edges,
    network_layers,
    same_layer_edges,
    stage_end_edges,
    stage_ends,
    without_stem,
)
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes
from onnxmtl.passes.spaces.branch import Branch

DIRECTIONS = [("seg", "depth"), ("depth", "seg")]


def per_direction(edges):
    return [sum((e.target_task, e.source_task) == d for e in edges) for d in DIRECTIONS]


# -- layers ------------------------------------------------------------------------------------------------------------


def test_vgg16_has_13_layers_in_stages_of_2_2_3_3_3() -> None:
    layers = network_layers(separated(vgg16()))
    assert list(layers) == ["seg", "depth"]
    for task, found in layers.items():
        assert [len(list(run)) for _, run in itertools.groupby(layer.stride for layer in found)] == [2, 2, 3, 3, 3]
        assert [layer.name for layer in found] == [
            f"relu{s}_{i}" for s, n in enumerate((2, 2, 3, 3, 3)) for i in range(n)
        ]
        assert all(layer.value == f"{task}/{layer.name}" and not layer.shortcut for layer in found)


@pytest.mark.parametrize("pool", [True, False])
def test_resnet50_has_a_stem_and_16_residual_blocks(pool) -> None:
    found = network_layers(separated(resnet50(pool=pool)))["seg"]
    assert [layer.shortcut for layer in found] == [False] + [True] * 16
    runs = [(stride, len(list(run))) for stride, run in itertools.groupby(layer.stride for layer in found[1:])]
    first = 4 if pool else 2
    assert runs == [(first, 3), (2 * first, 4), (4 * first, 6), (8 * first, 3)]
    assert found[0].stride == 2


def test_shares_are_those_of_the_multiply_adds() -> None:
    """Two 3x3 convolutions 3 -> 3 on 8x8, then 3 -> 4 and 4 -> 4 on 4x4."""
    costs = [9 * 3 * 3 * 64, 9 * 3 * 3 * 64, 9 * 3 * 4 * 16, 9 * 4 * 4 * 16]
    found = network_layers(separated(vgg()))["depth"]
    assert [layer.share for layer in found] == [sum(costs[: i + 1]) / sum(costs) for i in range(4)]
    assert [layer.channels for layer in found] == [3, 3, 4, 4] and [layer.index for layer in found] == [0, 1, 2, 3]


def test_a_linear_bottleneck_ends_behind_its_normalization_or_its_sum() -> None:
    names = [layer.name for layer in network_layers(separated(mobile()))["seg"]]
    assert [name.rstrip("0123456789_out") for name in names] == ["clip", "clip", "clip", "bn", "add"]


def test_a_pooling_that_another_layer_goes_around_is_no_end_of_a_layer() -> None:
    """Behind the ReLU two tensors are alive then: the layer's is the pooled one with what joins it."""
    b = GraphBuilder(size=8)
    x = b.relu(b.conv(b.image, 3))
    pooled = b.node("MaxPool", [x], [*x.shape[:2], 4, 4], kernel_shape=[2, 2], strides=[2, 2])
    x = b.relu(b.node("Add", [pooled, b.conv(x, 3, stride=2)], pooled.shape))
    model = separated(b.heads(x, {"seg": 1, "depth": 1}))
    assert [layer.value for layer in network_layers(model)["seg"]] == ["seg/relu3_out", f"seg/{x.name}"]


def test_a_feature_that_a_head_reads_inside_is_no_boundary() -> None:
    layers = network_layers(separated(random_model(4, tasks=3)))
    assert set(layers) == {"seg", "depth", "normals"}
    for found in layers.values():
        shares = [layer.share for layer in found]
        assert shares == sorted(set(shares)) and all(0 < share <= 1 for share in shares)


def test_the_model_is_left_as_it_is() -> None:
    model = separated(mobile(3))
    before = to_bytes(model)
    network_layers(model)
    assert to_bytes(model) == before
    assert all(use.node.graph is model.graph for v in model.graph.initializers.values() for use in v.uses())


def test_a_shared_trunk_is_refused() -> None:
    with pytest.raises(ModelError, match=r"depth, seg share 'conv0_0'.*run Separate first"):
        network_layers(vgg())


# -- candidate edges ---------------------------------------------------------------------------------------------------


def test_the_papers_number_for_vgg16() -> None:
    assert per_direction(candidate_edges(network_layers(separated(vgg16())))) == [24, 24]


@pytest.mark.parametrize(("stem", "number"), [(False, 36), (True, 37)])
def test_the_number_for_resnet50(stem, number) -> None:
    layers = network_layers(separated(resnet50()))
    assert per_direction(candidate_edges(layers, stem=stem)) == [number, number]


def test_three_tasks_have_six_directions() -> None:
    edges = candidate_edges(network_layers(separated(vgg(3))))
    assert len(edges) == len(set(edges)) == 6 * 6
    assert edges[0] == Edge("seg", "relu0_0", "depth", "relu0_0")


def by_the_paper(stages, within, same_stage):
    """(target, source) by layer numbers, as the released connectivity matrix has them."""
    stage = [s for s, count in enumerate(stages) for _ in range(count)]
    return {
        (i, j)
        for i in range(len(stage))
        for j in range(len(stage))
        if j <= i and i - j < within and (stage[i] == stage[j] or not same_stage)
    }


def equal_networks(stages, tasks=("seg", "depth"), costs=None):
    strides = [2**s for s, count in enumerate(stages) for _ in range(count)]
    costs = costs or [1] * len(strides)
    shares = [sum(costs[: i + 1]) / sum(costs) for i in range(len(costs))]
    layers = tuple(
        Layer(f"l{i}", f"l{i}", 4, stride, share, i)
        for i, (stride, share) in enumerate(zip(strides, shares, strict=True))
    )
    return dict.fromkeys(tasks, layers)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5).flatmap(
        lambda stages: st.tuples(
            st.just(stages), st.lists(st.integers(1, 10**9), min_size=sum(stages), max_size=sum(stages))
        )
    ),
    st.integers(1, 5),
    st.booleans(),
)
def test_between_equal_networks_the_rule_is_the_papers(network, within, same_stage) -> None:
    stages, costs = network
    edges = candidate_edges(equal_networks(stages, costs=costs), within=within, same_stage=same_stage)
    number = {f"l{i}": i for i in range(sum(stages))}
    for direction in DIRECTIONS:
        found = {
            (number[e.target_layer], number[e.source_layer])
            for e in edges
            if (e.target_task, e.source_task) == direction
        }
        assert found == by_the_paper(stages, within, same_stage)


@st.composite
def networks(draw):
    """Layers of one stage order, with positions as fractions so that the rule can be checked exactly."""
    found = {}
    for task in ("seg", "depth", "normals"):
        costs = draw(st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 20)), min_size=1, max_size=6))
        total, before, layers = sum(c for _, c in costs), 0, []
        for i, (stride, cost) in enumerate(sorted(costs)):
            before += cost
            layers.append((Layer(f"l{i}", f"{task}/l{i}", 2, stride, before / total, i), Fraction(before, total)))
        found[task] = layers
    return found


@given(networks(), st.integers(1, 4))
def test_between_different_networks_positions_count(found, within) -> None:
    """Brute force over all pairs, in exact fractions."""
    edges = set(candidate_edges({t: [layer for layer, _ in ls] for t, ls in found.items()}, within=within))
    expected = set()
    for target, source in itertools.permutations(found, 2):
        for (i, share_i), (j, share_j) in itertools.product(found[target], found[source]):
            between = [k for k, share in found[target] if k.stride == i.stride and share_j < share <= share_i]
            if i.stride == j.stride and share_j <= share_i and len(between) < within:
                expected.add(Edge(target, i.name, source, j.name))
    assert edges == expected


@given(networks(), st.sampled_from(["stage", "all", "same", "ends"]))
def test_no_layer_waits_for_itself(found, kind) -> None:
    """A unit reads features before their own units: the graph of layers and edges has no cycle."""
    layers = {task: [layer for layer, _ in of_task] for task, of_task in found.items()}
    if kind == "same":
        edges = same_layer_edges(layers)
    elif kind == "ends":
        edges = stage_end_edges(layers)
    else:
        edges = candidate_edges(layers, same_stage=kind == "stage")
    # unit (t, i) needs x (t, i) and the sources' x; x (t, i) needs unit (t, i - 1)
    needs = {
        (t, layer.index): {(t, layer.index - 1)} if layer.index else set() for t, ls in layers.items() for layer in ls
    }
    for e in edges:
        index = next(layer.index for layer in layers[e.source_task] if layer.name == e.source_layer)
        target = next(layer.index for layer in layers[e.target_task] if layer.name == e.target_layer)
        if index:
            needs[e.target_task, target].add((e.source_task, index - 1))
    done: set = set()
    while len(done) < len(needs):
        ready = {unit for unit, before in needs.items() if unit not in done and before <= done}
        assert ready
        done |= ready


def test_within_counts_layers_from_one_on() -> None:
    with pytest.raises(ModelError, match="within is a number of layers from 1 on, not 0"):
        candidate_edges(equal_networks((2,)), within=0)


# -- the other baselines' edges ----------------------------------------------------------------------------------------


def test_same_layers_and_ends_of_stages_of_equal_networks() -> None:
    layers = network_layers(separated(vgg16()))
    assert all(e.source_layer == e.target_layer for e in same_layer_edges(layers))
    assert per_direction(same_layer_edges(layers)) == [13, 13]
    ends = stage_end_edges(layers)
    assert [e.target_layer for e in ends[:5]] == ["relu0_1", "relu1_1", "relu2_2", "relu3_2", "relu4_2"]
    assert per_direction(ends) == [5, 5]


def test_ends_of_stages_of_different_networks() -> None:
    """(stride 1, stride 2) and (stride 1, stride 2, stride 2 again): the second one's stages are 1, 2 and 4."""
    layers = network_layers(separated(different((((3, 1), (4, 2)), ((2, 1), (5, 2), (5, 1))))))
    assert [(e.target_task, e.target_layer, e.source_layer) for e in stage_end_edges(layers)] == [
        ("seg", "relu0", "relu0"), ("seg", "relu1", "relu2"), ("depth", "relu0", "relu0"), ("depth", "relu2", "relu1")
    ]  # fmt: skip


def test_a_stage_that_comes_again_is_another_one() -> None:
    layers = [Layer(f"l{i}", "", 1, stride, i / 6, i) for i, stride in enumerate((1, 2, 4, 4, 2, 1))]
    assert [(key, layer.index) for key, layer in stage_ends(layers)] == [
        ((1, 0), 0), ((2, 0), 1), ((4, 0), 3), ((2, 1), 4), ((1, 1), 5)
    ]  # fmt: skip


def test_the_stem_is_a_first_layer_without_shortcut_before_others_with_one() -> None:
    plain, residual = Layer("a", "a", 1, 1, 0.5, 0), Layer("b", "b", 1, 2, 1.0, 1, shortcut=True)
    assert without_stem([plain, residual]) == [residual]
    assert without_stem([plain, residual], stem=True) == [plain, residual]
    assert without_stem([plain, plain]) == [plain, plain] and without_stem([residual]) == [residual]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3))
def test_layers_of_random_networks(seed, tasks) -> None:
    layers = network_layers(separated(random_model(seed, tasks=tasks)))
    for found in layers.values():
        shares = [layer.share for layer in found]
        assert shares == sorted(set(shares)) and [layer.index for layer in found] == list(range(len(found)))
    names = {(t, layer.name) for t, found in layers.items() for layer in found}
    for edge in candidate_edges(layers, same_stage=False):
        assert {(edge.target_task, edge.target_layer), (edge.source_task, edge.source_layer)} <= names


def test_branch_candidates_are_no_separate_networks() -> None:
    """A supermodel of another space is refused, not misread."""
    model = vgg()
    Branch()(model)
    with pytest.raises(ModelError, match="share"):
        network_layers(model)

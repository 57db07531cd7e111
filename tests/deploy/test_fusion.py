"""The drawing of searched edges: every candidate is there, from the layer it leaves to the unit it enters."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from helpers.runfolders import write, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.html.figure import PANEL
from onnxmtl.deploy.html.fusion import edge_table, fusion_figure
from onnxmtl.deploy.html.writing import figures_of, html_of
from onnxmtl.deploy.results import Report
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.policy.fused import Fused, FusedEdge, FusedLayer, FusedNetwork
from onnxmtl.runs import read_json

VGG16 = (2, 2, 3, 3, 3)
NAMES = ("seg", "depth", "<normals>", "edges")


def layer(stage, index):
    return FusedLayer(f"net.layer{stage}.{index}.out", 2**stage, 8 * 2**stage)


def networks(stages):
    """One network per task of so many layers per stage; sequences of different lengths are different networks."""
    return tuple(
        FusedNetwork(task, tuple(layer(s, i) for s, count in enumerate(of_task) for i in range(count)))
        for task, of_task in zip(NAMES, stages, strict=False)
    )


def candidates(nets, within=3):
    """Same stage, not later, fewer than `within` apart; by hand for equal networks, and good enough for others."""
    return [
        (t.task, a.name, s.task, b.name)
        for t, s in itertools.permutations(nets, 2)
        for i, a in enumerate(t.layers)
        for j, b in enumerate(s.layers)
        if a.stride == b.stride and 0 <= i - j < within
    ]


def fused(stages, alphas=()):
    nets = networks(stages)
    found = candidates(nets)
    values = itertools.cycle(alphas) if alphas else itertools.repeat(None)
    edges = [FusedEdge(*ends, kept=alpha is None or alpha > 0.5, alpha=alpha)
             for ends, alpha in zip(found, values, strict=False)]  # fmt: skip
    return Fused(nets, tuple(edges))


def drawn(figure):
    """Titles of groups -> their elements, of all panels."""
    found = {}
    for panel in figure.panels:
        for g in ET.fromstring(f"<svg>{panel.body}</svg>").iter("g"):
            found[g.find("title").text] = g
    return found


def title(edge):
    alpha = "" if edge.alpha is None else f", α {edge.alpha:.3f}"
    ends = f"{edge.source} {edge.source_layer} → {edge.target} {edge.target_layer}"
    return f"{ends}: {'kept' if edge.kept else 'cut'}{alpha}"


def classes(element):
    return (element.get("class") or "").split()


def test_vgg16_has_24_candidates_per_direction():
    """What this file's rule gives, as MTL-NAS counts them."""
    assert len(fused([VGG16, VGG16]).edges) == 48


def test_found_edges_are_arrows_in_the_sources_colour_and_the_others_are_dashes():
    searched = fused([VGG16, VGG16], alphas=(0.99, 0.01, 0.3))
    figure = fusion_figure(searched)
    shapes = drawn(figure)
    assert {title(edge) for edge in searched.edges} <= set(shapes)
    for edge in searched.edges:
        g = shapes[title(edge)]
        (stroke,) = g.findall("line")
        if edge.kept:
            assert f"t{NAMES.index(edge.source)}" in classes(stroke) and "dash" not in classes(stroke)
            assert len(g.findall("polygon")) == 1
        else:
            assert "dash" in classes(stroke) and not g.findall("polygon")
    assert "16 of 48 candidate edges are kept. 32 of 48 α are within 0.02 of 0 or 1" in figure.text


def test_an_edge_leaves_a_layer_and_enters_the_unit_behind_another():
    searched = fused([VGG16, VGG16], alphas=(0.9, 0.1))
    shapes = drawn(fusion_figure(searched))
    for edge in searched.edges:
        (stroke,) = shapes[title(edge)].findall("line")
        (source,) = shapes[f"{edge.source}: {edge.source_layer}, {_about(edge.source_layer)}"].findall("circle")
        target = shapes[f"{edge.target}: {edge.target_layer}, {_about(edge.target_layer)}"]
        (unit,) = target.findall("rect")
        assert (stroke.get("x1"), stroke.get("y1")) == (source.get("cx"), source.get("cy"))
        middle = float(unit.get("x")) + float(unit.get("width")) / 2
        height = float(unit.get("y")) + float(unit.get("height")) / 2
        assert height > float(target.find("circle").get("cy"))  # behind the layer
        # Before the arrow's head the line stops 5 pixels short.
        assert math.hypot(float(stroke.get("x2")) - middle, float(stroke.get("y2")) - height) < 14
        assert float(stroke.get("y2")) > float(stroke.get("y1"))  # towards the heads


def _about(name):
    stage = int(name.split(".")[1].removeprefix("layer"))
    return f"stride {2**stage}, {8 * 2**stage} channels"


def test_a_layer_without_a_candidate_has_no_unit():
    nets = networks([(1, 1), (1, 1)])
    edge = FusedEdge("seg", nets[0].layers[1].name, "depth", nets[1].layers[1].name, True, 1.0)
    shapes = drawn(fusion_figure(Fused(nets, (edge,))))
    units = [name for name, g in shapes.items() if g.find("circle") is not None and g.find("rect") is not None]
    assert units == ["seg: net.layer1.0.out, stride 2, 16 channels"]


def test_without_a_search_there_is_no_histogram_and_all_edges_are_kept():
    figure = fusion_figure(fused([VGG16, VGG16]))
    assert "48 of 48 candidate edges are kept." in figure.text and "α" not in figure.text
    assert len(figure.panels) == 1


def test_the_histogram_counts_every_alpha_once():
    searched = fused([VGG16, VGG16], alphas=(0.0, 0.039, 0.041, 0.5, 1.0))
    bins = {text: int(text.split(": ")[1].split()[0]) for text in drawn(fusion_figure(searched)) if " edges" in text}
    assert sum(bins.values()) == 48
    assert {text for text, count in bins.items() if count} == {
        "0.00 to 0.04: 20 edges",
        "0.04 to 0.08: 10 edges",
        "0.48 to 0.52: 9 edges",
        "0.96 to 1.00: 9 edges",
    }


def test_certain_counts_the_ends():
    searched = fused([(4,), (4,)], alphas=(0.02, 0.021, 0.5, 0.979, 0.98, 1.0))
    assert len(searched.edges) == 18 and searched.certain() == 9  # 0.02, 0.98 and 1, three times each
    assert searched.certain(0.03) == 15


stages = st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any)


@settings(max_examples=40, deadline=None)
@given(st.lists(stages, min_size=2, max_size=4), st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_any_networks(of_tasks, alphas):
    """All layers and all edges are drawn once, inside their panels; units stand apart from the next layer."""
    searched = fused(of_tasks, alphas)
    figure = fusion_figure(searched)
    assert {title(edge) for edge in searched.edges} <= set(drawn(figure))
    dots = 0
    for panel in figure.panels:
        root = ET.fromstring(f"<svg>{panel.body}</svg>")
        assert panel.width == PANEL
        circles = list(root.iter("circle"))
        dots += len(circles)
        for one in circles:
            assert 0 < float(one.get("cx")) < PANEL and 0 < float(one.get("cy")) < panel.height
        columns: dict[str, list[float]] = {}
        for one in circles:
            columns.setdefault(one.get("cx"), []).append(float(one.get("cy")))
        for ys in columns.values():
            assert all(b - a > 10 for a, b in itertools.pairwise(sorted(ys)))
    assert dots == sum(len(network.layers) for network in searched.networks)


def test_networks_that_do_not_agree_about_the_order_of_strides_are_drawn_too():
    down, up = (FusedLayer("a", 2), FusedLayer("b", 4)), (FusedLayer("c", 4), FusedLayer("d", 2))
    figure = fusion_figure(Fused((FusedNetwork("one", down), FusedNetwork("two", up)), ()))
    assert sum("stride" in name for name in drawn(figure)) == 4


def test_equal_orders_that_return_to_a_stride_keep_it():
    layers = (FusedLayer("a", 2), FusedLayer("b", 4), FusedLayer("c", 2))
    (panel,) = fusion_figure(Fused((FusedNetwork("one", layers), FusedNetwork("two", layers)), ())).panels
    headings = [e.text for e in ET.fromstring(f"<svg>{panel.body}</svg>").iter("text") if "stride" in e.text]
    assert headings == ["stride 2", "stride 4", "stride 2"]


def test_long_networks_are_broken_between_stages():
    figure = fusion_figure(fused([(3, 4, 23, 3), (3, 4, 23, 3)]))
    assert len(figure.panels) == 2
    assert set(map(title, fused([(3, 4, 23, 3)] * 2).edges)) <= set(drawn(figure))


def test_an_edge_needs_its_layers():
    nets = networks([(1,), (1,)])
    with pytest.raises(ValueError, match=r"layer 'x' of task 'seg', which has no such layer"):
        Fused(nets, (FusedEdge("seg", "x", "depth", nets[1].layers[0].name, True),))


def test_it_comes_back_from_json_and_stands_on_the_runs_page(tmp_path):
    searched = fused([VGG16, VGG16], alphas=(0.999, 0.25))
    folder = write_run(tmp_path / "run", [("seg", "segmentation"), ("depth", "depth")])
    assert "fusion" not in figures_of(read_run(folder))
    report = Report.from_json(read_json(folder / "report.json"))
    write(folder / "report.json", {**report.to_json(), "fused": searched.to_dict()})
    run = read_run(folder)
    assert run.report.fused == searched
    assert [network.task for network in run.report.fused.networks] == ["seg", "depth"]  # also where keys are sorted
    html = html_of(run)
    assert 'id="figure-fusion"' in html and "all candidate edges" in html
    assert edge_table(searched).count("<tr>") == 1 + 48 and edge_table(searched).count(">0.999<") == 24

"""The figures: what is drawn is what the run says, inside its panel, in the same bytes every time."""

from __future__ import annotations

import itertools
import math
import random
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from helpers.runfolders import layer_names, write_run
from hypothesis import example, given
from hypothesis import strategies as st

from onnxmtl.deploy.html.axes import axis, round_step, tick_text
from onnxmtl.deploy.html.charts import cost_figure, delta_figure, plane_figure, plane_points
from onnxmtl.deploy.html.curves import _mean, curves_figure
from onnxmtl.deploy.html.figure import PANEL, standalone
from onnxmtl.deploy.html.policy import correlation, correlation_figure, policy_figure
from onnxmtl.deploy.html.rows import short_names
from onnxmtl.deploy.html.sharing import line_order, sharing_figure
from onnxmtl.deploy.html.writing import figures_of
from onnxmtl.deploy.results import LayerRow
from onnxmtl.deploy.runfiles import Curve, RunPolicy, SitePolicy, Training, read_run
from onnxmtl.deploy.svg import clean, cut, label, pixel

SIX = [(name, "depth") for name in ("segmentation", "depth", "normals", "keypoints", "edges", "class")]


def parsed(panel):
    return ET.fromstring(f"<svg>{panel.body}</svg>")


def classes(element):
    return (element.get("class") or "").split()


def shapes(panel, tag, *kinds):
    return [e for e in parsed(panel).iter(tag) if set(kinds) <= set(classes(e))]


# Sharing


def row(name, *runs, uses=None, work=10):
    everyone = ("a", "b", "c", "d")
    found = {t: next((f"once with {', '.join(o for o in r if o != t)}" if len(r) > 1 else "own"
                      for r in runs if t in r), "skipped") for t in everyone}  # fmt: skip
    return LayerRow(name, "Conv", {**found, **(uses or {})}, tuple(runs), 5, work)


def test_stops_of_the_sharing_diagram():
    rows = [
        row("one", ("a", "b", "c", "d")),
        row("two", ("a", "b"), ("c",)),
        row("three", ("a",), ("b",), uses={"a": "weights of b", "b": "weights of a"}),
        row("four"),
    ]
    (panel,) = sharing_figure(rows, "abcd").panels
    root = parsed(panel)
    texts = [e.text for e in root.iter("text")]
    assert [t for t in texts if t in ("one", "two", "three", "four")] == ["one", "two", "three", "four"]
    assert {"a", "b", "c", "d"} <= set(texts)
    stops = {g.find("title").text.split(" ")[0]: g for g in root.iter("g") if g.find("title") is not None}

    def count(name, tag, *kinds):
        return len([e for e in stops[name].iter(tag) if set(kinds) <= set(classes(e))])

    assert [count(n, "line", "shell") for n in stops] == [1, 1, 0, 0]  # executed once for several
    assert [count(n, "circle", "halo") for n in stops] == [0, 1, 0, 0]  # own
    assert [count(n, "circle", "ring") for n in stops] == [0, 0, 2, 0]  # the same weights
    assert [count(n, "line", "tie") for n in stops] == [0, 0, 1, 0]
    assert "a: once with b; b: once with a; c: own; d: skipped" in stops["two"].find("title").text
    # d skips from the second layer on: its line is thin there, in one piece.
    lanes = [e for e in root.iter("line") if "t3" in classes(e)]
    assert [("thin" in classes(e)) for e in lanes] == [False, True]
    assert float(lanes[0].get("y2")) == float(lanes[1].get("y1"))
    bars = [float(e.get("width")) for e in root.iter("rect") if "bar" in classes(e)]
    assert bars == [23, 46, 46, 0]  # work of all executions: one run, two, two, none


def test_groups_that_interleave_are_drawn_apart():
    (panel,) = sharing_figure([row("one", ("a", "c"), ("b", "d")), row("two", ("a", "b"), ("c", "d"))], "abcd").panels
    bridges = [e for e in parsed(panel).iter("line") if "bridge" in classes(e)]
    assert len({e.get("y1") for e in bridges[:2]}) == 2


def places(order, runs):
    """How many gaps between neighbouring lines the groups span."""
    at = {task: i for i, task in enumerate(order)}
    return sum(max(map(at.get, run)) - min(map(at.get, run)) for run in runs)


@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=2), max_size=6))
def test_the_order_of_lines_is_the_best_one(groups):
    runs = [tuple(sorted(group)) for group in groups]
    rows = [LayerRow(str(i), "Conv", {}, (run,), 1) for i, run in enumerate(runs)]
    best = min(places(order, runs) for order in itertools.permutations("abcde"))
    order = line_order(rows, list("abcde"))
    assert sorted(order) == list("abcde") and places(order, runs) == best


def test_the_users_order_is_kept_where_nothing_is_gained():
    assert line_order([LayerRow("x", "Conv", {}, (("c", "a", "b"),), 1)], ["c", "a", "b"]) == ["c", "a", "b"]


@pytest.mark.parametrize(("layers", "panels"), [(1, 1), (20, 1), (44, 1), (45, 2), (110, 3)])
def test_long_networks_are_broken_into_panels(tmp_path, layers, panels):
    run = read_run(write_run(tmp_path / "run", SIX, layers))
    for figure in (sharing_figure(run.report.sharing, run.tasks), policy_figure(run.policy, run.architecture)):
        assert len(figure.panels) == panels
        names = [e.text for p in figure.panels for e in parsed(p).iter("text") if "mono" in classes(e)]
        assert len(names) == layers
        assert all(p.width == PANEL and p.height < 800 for p in figure.panels)


def test_short_names():
    assert short_names(["net.body.a.conv", "net.body.b.conv"]) == ["a.conv", "b.conv"]
    assert short_names(["net/body/a.1/conv", "net/body/a.2/conv"]) == ["a.1/conv", "a.2/conv"]
    assert short_names(["net.conv"]) == ["net.conv"] and short_names(["a", "a.b"]) == ["a", "a.b"]
    (long,) = short_names(["encoder.stages.3.blocks.17.attention.projection"])
    assert len(long) <= 21 and long.endswith("projection") and "…" in long


# Policy


def policy(rows):
    """One site per row; a row is one distribution per task, None where the task does not come by."""
    tasks = ("a", "b", "c")
    sites = []
    for i, row_ in enumerate(rows):
        there = [(t, p) for t, p in zip(tasks, row_, strict=True) if p is not None]
        options = tuple(f"o{j}" for j in range(len(there[0][1])))
        sites.append(SitePolicy(f"s{i}", i, options, tuple(t for t, _ in there), tuple(tuple(p) for _, p in there)))
    return RunPolicy(tasks, tuple(sites))


distributions = st.integers(2, 4).flatmap(
    lambda n: st.lists(
        st.lists(st.floats(0.01, 1), min_size=n, max_size=n).map(lambda v: [x / sum(v) for x in v]),
        min_size=3,
        max_size=3,
    )
)


@given(st.lists(distributions, min_size=1, max_size=5))
def test_correlation_is_the_cosine_of_all_probabilities(rows):
    found = correlation(policy(rows))
    flat = [np.concatenate([np.asarray(row_[t]) for row_ in rows]) for t in range(3)]
    for i, j in itertools.product(range(3), repeat=2):
        expected = flat[i] @ flat[j] / (np.linalg.norm(flat[i]) * np.linalg.norm(flat[j]))
        assert found[i][j] == pytest.approx(expected, rel=1e-12)


def test_correlation_counts_sites_that_both_tasks_pass():
    found = correlation(policy([[[1, 0], [1, 0], None], [[0, 1], None, [1, 0]]]))
    assert found[0][1] == 1 and found[0][2] == 0 and math.isnan(found[1][2])
    figure = correlation_figure(policy([[[1, 0], [1, 0], None], [[0, 1], None, [1, 0]]]))
    titles = [e.text for e in parsed(figure.panels[0]).iter("title")]
    assert "b and c: no common site" in titles and "a and b: 1.0000" in titles


def test_cells_of_the_heat_map(tmp_path):
    run = read_run(write_run(tmp_path / "run", SIX[:3], 4))
    (panel,) = policy_figure(run.policy, run.architecture).panels
    cells = [e for e in parsed(panel).iter("rect") if e.get("fill-opacity") is not None]
    expected = [p for site in run.policy.sites for row_ in site.probabilities for p in row_]
    assert [float(e.get("fill-opacity")) for e in cells] == [
        pytest.approx(0.06 + 0.94 * p, abs=0.0051) for p in expected
    ]
    frames = [e for e in parsed(panel).iter("rect") if "chosen" in classes(e)]
    assert len(frames) == 4 * 3
    taken = [
        0.06 + 0.94 * site.of(task)[site.options.index(run.architecture.choices[site.site][task])]
        for site in run.policy.sites for task in run.tasks
    ]  # fmt: skip
    inside = [
        next(float(c.get("fill-opacity")) for c in cells
             if abs(float(c.get("x")) - float(f.get("x"))) < 1 and abs(float(c.get("y")) - float(f.get("y"))) < 1)
        for f in frames
    ]  # fmt: skip
    assert inside == [pytest.approx(x, abs=0.0051) for x in taken]
    assert f"{sum(max(p) >= 0.9 for s in run.policy.sites for p in s.probabilities)} of 12 decisions" in (
        policy_figure(run.policy, None).text
    )


def test_a_task_that_never_comes_by_has_a_dash():
    (panel,) = policy_figure(policy([[[1, 0], None, [0, 1]]]), None).panels
    assert [e.text for e in parsed(panel).iter("text")].count("–") == 1
    assert not [e for e in parsed(panel).iter("rect") if "chosen" in classes(e)]


# Charts


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.booleans(), st.booleans())
@example([1.0, 2.2250738585e-313], False, True)
@example([5e-324], False, True)
@example([0.0, 5e-324], True, False)
@example([1e-200, 1e6], False, True)
def test_axes_hold_their_numbers(values, zero, log):
    found = axis(values, 300, 20, zero=zero, log=log)
    assert all(20 - 1e-6 <= found.at(v) <= 300 + 1e-6 for v in values)
    ticks = found.ticks()
    pixels = [found.at(t) for t in ticks]
    assert pixels == sorted(pixels, reverse=True) and len(set(ticks)) == len(ticks) and len(ticks) <= 12
    assert all(found.low - 1e-9 * abs(found.low) <= t <= found.high + 1e-9 * abs(found.high) for t in ticks)
    if zero and not found.log:
        assert found.low <= 0 <= found.high


@given(st.floats(1e-8, 1e8))
def test_steps_are_round(rough):
    step = round_step(rough)
    assert rough * (1 - 1e-6) <= step <= 2.5 * rough
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 2.5, 5)


def test_numbers_of_ticks():
    shown = [tick_text(v) for v in (0, -0.0, 0.25, -2.5, 1000, 250000, 0.0005)]
    assert shown == ["0", "0", "0.25", "−2.5", "1000", "2.5e5", "5e-4"]


def test_points_of_delta_are_where_they_belong(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    (panel,) = delta_figure(run.report).panels
    marks = {}
    for g in parsed(panel).iter("g"):
        title = g.find("title")
        mark = g.find("polygon")
        if title is not None and mark is not None and ", found: " in title.text:
            xs = [float(p.split(",")[0]) for p in mark.get("points").split()]
            marks[title.text.split(",")[0]] = sum(xs) / len(xs)
    values = {task.task: task.delta["found"] for task in run.report.tasks} | {"all tasks": run.report.delta["found"]}
    assert marks.keys() == values.keys()
    names = sorted(values, key=values.get)
    slope = (marks[names[-1]] - marks[names[0]]) / (values[names[-1]] - values[names[0]])
    assert slope > 0
    for name in names:
        assert marks[name] - marks[names[0]] == pytest.approx(slope * (values[name] - values[names[0]]), abs=0.05)


def test_plane_has_every_model_once(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    points = plane_points(run.report, run.candidates)
    assert Counter(p.model for p in points) == {"candidate": 6, "random": 8, "separate": 1, "shared": 1, "found": 1}
    base = run.report.costs["separate"].multiply_adds
    found = points[-1]
    assert found.cost == run.report.costs["found"].multiply_adds / base and found.delta == run.report.delta["found"]
    (panel,) = plane_figure(run.report, run.candidates).panels
    assert len(list(parsed(panel).iter("title"))) == 17


def test_without_single_task_models_there_is_no_delta(tmp_path):
    run = read_run(write_run(tmp_path / "run", delta=False))
    assert delta_figure(run.report) is None and plane_figure(run.report, run.candidates) is None
    assert not any("×" in (e.text or "") for e in parsed(cost_figure(run.report).panels[0]).iter("text"))


def test_curves(tmp_path):
    stages = [
        Training("pre", {"loss/a": Curve((5, 10), (2, 1)), "lr/weights": Curve((5, 10), (1, 1))}, False),
        Training("post", {"loss/a": Curve((4, 8), (1, 0.5)), "temperature": Curve((8,), (3,))}, False),
        Training("separate-1", {"loss/a": Curve((9, 18), (2, 0.75))}, True),
        Training("random-total-1", {"loss/a": Curve((9, 99), (2, 0.75))}, True),
    ]
    figure = curves_figure(stages, ["a", "b"])
    assert [p.label.split(" over")[0] for p in figure.panels] == [
        "chart: loss of a",
        "chart: temperature",
    ]  # lr is constant
    lines = [
        [tuple(map(float, p.split(","))) for p in e.get("points").split()]
        for e in parsed(figure.panels[0]).iter("polyline")
    ]
    baseline, pre, post = lines
    # One axis: the second stage goes on where the first ended, at 10 of 18 steps; the baseline has its own steps.
    unit = (baseline[1][0] - baseline[0][0]) / 9
    assert pre[1][0] - pre[0][0] == pytest.approx(5 * unit, abs=0.05)
    assert post[0][0] - pre[1][0] == pytest.approx(4 * unit, abs=0.05)
    assert baseline[0][1] == pre[0][1] and pre[1][1] == post[0][1] > baseline[1][1] - 99  # equal values, equal heights
    assert pre[0][1] < pre[1][1] < post[1][1]  # y goes down
    assert curves_figure([], ["a"]) is None
    assert curves_figure([Training("pre", {}, False)], ["a"]) is None


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=90))
def test_the_moving_mean_stays_within_and_keeps_the_ends(values):
    points = tuple((float(i), v) for i, v in enumerate(values))
    found = _mean(points)
    assert [x for x, _ in found] == [x for x, _ in points]
    assert min(values) - 1e-9 <= min(y for _, y in found) and max(y for _, y in found) <= max(values) + 1e-9
    assert found[0][1] == pytest.approx(values[0], abs=1e-9) and found[-1][1] == pytest.approx(values[-1], abs=1e-9)


# All of them


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    names = ["<b>&\"']]>\x01\ud7ff" + name for name in layer_names(60)]
    return read_run(write_run(folder / "run", [*SIX, ("x" * 40, "edges"), ("ü&<", "normals")], 60, names=names))


def test_files_are_well_formed_and_the_same_every_time(big):
    figures = figures_of(big)
    assert list(figures) == ["delta", "costs", "plane", "sharing", "policy", "correlation", "curves"]
    for figure in figures.values():
        text = standalone(figure)
        assert text == standalone(figures_of(big)[figure.name])
        root = ET.fromstring(text)
        width, height = float(root.get("width")), float(root.get("height"))
        assert width < 1500 and height < 3500
        assert "prefers-color-scheme:dark" in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_shapes_stay_inside_their_panels(big):
    for figure in figures_of(big).values():
        for panel in (*figure.panels, *figure.legend):
            for e in parsed(panel).iter():
                if e.tag == "rect":
                    x, y = float(e.get("x")), float(e.get("y"))
                    assert x >= -12.5 and x + float(e.get("width")) <= panel.width + 0.5, figure.name
                    assert y + float(e.get("height")) <= panel.height + 12, figure.name
                if e.tag == "polyline":
                    for point in e.get("points").split():
                        x, y = map(float, point.split(","))
                        assert 0 <= x <= panel.width and 0 <= y <= panel.height
                if e.tag == "circle":
                    assert 0 <= float(e.get("cx")) <= panel.width and float(e.get("cy")) <= panel.height


def test_every_shape_has_a_colour_in_the_style_sheet(big):
    from onnxmtl.deploy.html.theme import figure_css

    css = figure_css()
    for figure in figures_of(big).values():
        for panel in (*figure.panels, *figure.legend):
            for e in parsed(panel).iter():
                for kind in classes(e):
                    assert f".{kind}{{" in css or f".{kind}." in css, kind


# Shapes


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (-0.001, "0"), (1.5, "1.5"), (2.0, "2"), (1 / 3, "0.33"), (120, "120")]
)
def test_pixels(value, text):
    assert pixel(value) == text


@given(st.text())
def test_any_text_can_be_drawn(text):
    shown = ET.fromstring(f"<svg>{label(0, 0, text, text)}</svg>").find("text").text or ""
    assert shown.replace("\r", "\n").count("�") >= sum(c in "\x00\x01\ufffe" for c in text)
    assert "<" not in clean(text) and '"' not in clean(text)


@given(st.text(max_size=60), st.integers(3, 30))
def test_cutting(text, letters):
    found = cut(text, letters)
    assert len(found) <= letters and (found == text or ("…" in found and found[-1] == text[-1]))


def test_colours_can_be_told_apart_from_the_paper():
    """WCAG contrast of 3 or more for shapes, 4.5 for text, in light and dark."""
    from onnxmtl.deploy.html.theme import COLOURS, OPTIONS, TASKS

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for mode in (0, 1):
        for ground in ("paper", "page"):
            for name in ("ink", "faint", "good", "bad", "accent"):
                assert contrast(COLOURS[name][mode], COLOURS[ground][mode]) >= 4.5, (name, ground, mode)
        for pair in TASKS:
            assert contrast(pair[mode], COLOURS["paper"][mode]) >= 3.5, pair
        for pair in OPTIONS[:3]:
            assert contrast(pair[mode], COLOURS["paper"][mode]) >= 2.8, pair


def test_random_runs_can_all_be_drawn(tmp_path):
    rng = random.Random(0)
    for i in range(6):
        count = rng.randint(1, 9)
        tasks = [(f"task{j}", rng.choice(["depth", "segmentation", "normals"])) for j in range(count)]
        options = rng.choice([("shared", "own", "skip"), ("select", "skip"), ("branch_0", "branch_1", "b2", "b3")])
        layers = rng.randint(1, 130)
        run = read_run(
            write_run(tmp_path / str(i), tasks, layers, seed=i, options=options, steps=rng.choice([1, 2, 40]))
        )
        for figure in figures_of(run).values():
            ET.fromstring(standalone(figure))

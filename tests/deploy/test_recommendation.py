"""A recommendation as data, as text and as a page."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from onnxmtl.deploy.html.recommend_page import figures_of, recommend_page, write_page
from onnxmtl.deploy.recommend_rows import correlation_rows, layout_rows, print_recommendation
from onnxmtl.deploy.recommendation import LayoutResult, LimitResult, Recommendation, pearson, spearman
from onnxmtl.errors import RunError
from onnxmtl.policy.layout import Layout

TASKS = ("seg", "depth", "<b>normals")
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")
COSTS = (1e6, 2e6, 3e6, 4e6, 5e6)


def result(number, score, **fields):
    layout = Layout.from_id(TASKS, 5, number).with_blocks(BLOCKS)
    costs = {"multiply_adds": layout.cost(COSTS), "parameters": 10.0, "models": float(len(layout.trees()))}
    return LayoutResult(layout, score, costs, dict(zip(TASKS, (1.0, -2.0, score), strict=True)), **fields)


def measured(*scores):
    """Every task has the score of the seed."""
    return tuple(dict.fromkeys(TASKS, score) for score in scores)


@pytest.fixture
def found():
    return Recommendation(
        title="net.onnx on scenes",
        tasks=TASKS,
        blocks=BLOCKS,
        layouts=(result(45, 4.0, file="layouts/01.json"), result(0, 3.9)),
        front=(result(0, 3.9), result(45, 4.0)),
        trained=(
            result(45, 4.0, measured=measured(1.0, 2.0), why="top"),
            result(0, 3.9, measured=measured(2.0, 1.0), why="top"),
            result(2, 0.0, measured=measured(0.5, -6.0), why="random"),
        ),
        weights=dict.fromkeys(TASKS, 1 / 3),
        weighting="equal",
        separate={"multiply_adds": 45e6, "parameters": 30.0, "models": 3.0},
        block_costs={"multiply_adds": COSTS, "parameters": (2.0,) * 5, "models": (1.0, 0, 0, 0, 0)},
        limits=(LimitResult("madds<=0.6x", "multiply_adds", 27e6),),
        table=[[[None] * 6 if t == u else [0.0, 1.0, 2.0, None, 3.0, -1.0] for u in range(3)] for t in range(3)],
        seeds=(0, 1),
        trainings=42,
        notes=("something is worth knowing",),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12))
def test_correlations_are_those_of_scipy(pairs):
    stats = pytest.importorskip("scipy.stats")
    x, y = map(list, zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(pearson(x, y)) and math.isnan(spearman(x, y))
        return
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_correlations_are_per_seed_and_of_the_mean(found):
    first, second, both = found.correlations
    assert (first.seed, second.seed, both.seed) == (0, 1, None) and both.count == 3
    predicted, of_seed = [4.0, 3.9, 0.0], np.array([[1.0, 2.0], [2.0, 1.0], [0.5, -6.0]])
    for row, scores in ((first, of_seed[:, 0]), (second, of_seed[:, 1]), (both, of_seed.mean(axis=1))):
        assert row.pearson == pytest.approx(np.corrcoef(predicted, scores)[0, 1], abs=1e-12)
    assert (first.spearman, second.spearman) == (0.5, 1.0)
    assert [row[0] for row in correlation_rows(found)[1:]] == ["0", "1", "mean over seeds"]


def test_one_seed_has_no_row_for_the_mean(found):
    trained = tuple(dataclasses.replace(row, measured=row.measured[:1]) for row in found.trained)
    assert [row.seed for row in dataclasses.replace(found, trained=trained, seeds=(7,)).correlations] == [7]


def test_json_has_no_nan_and_says_what_counts(found):
    broken = dataclasses.replace(found, layouts=(dataclasses.replace(found.layouts[0], score=math.nan),))
    content = json.loads(json.dumps(broken.to_json(), allow_nan=False))
    assert content["layouts"][0]["score"] is None
    assert content["layouts"][0]["number"] == 45
    assert content["layouts"][0]["groups"][4] == [[0, 1], [2]]
    assert content["correlations"][2]["seed"] is None


def test_rows_show_the_share_of_separate_models_and_the_last_groups(found):
    header, first, second = layout_rows(found, found.layouts)
    assert first[1] == "45" and second[1] == "0"
    assert first[header.index("multiply-adds")] == "24 M (0.53×)"
    assert first[header.index("at the end")] == "seg+depth | <b>normals"
    assert first[header.index("depth")] == "-2.00%"
    trained = layout_rows(found, found.trained, measured=True)
    assert trained[1][trained[0].index("measured")] == "1.5"


def test_text_has_the_tree_the_front_and_the_command(found, tmp_path):
    out = io.StringIO()
    print_recommendation(found, Console(file=out, width=200), tmp_path)
    text = out.getvalue()
    assert found.layouts[0].layout.text() in text
    for words in ("The Pareto front", "mean over seeds", f"--layout {tmp_path}/layouts/01.json", "worth knowing"):
        assert words in text
    brief = io.StringIO()
    print_recommendation(found, Console(file=brief, width=200), tmp_path, brief=True)
    assert found.layouts[0].layout.text() not in brief.getvalue()


def test_the_page_is_whole_and_escaped(found):
    text = recommend_page(found, figures_of(found))
    assert "<b>normals" not in text and "&lt;b&gt;normals" in text
    for name in ("layouts", "front", "measured", "pairs", "blocks", "asked", "notes"):
        assert f'<section id="{name}">' in text
    assert "<script" not in text and not re.search(r'(src|href)="http', text)
    assert text == recommend_page(found, figures_of(found))


def test_the_page_leaves_out_what_was_not_asked_for(found):
    plain = dataclasses.replace(found, front=(), trained=(), table=(), notes=())
    text = recommend_page(plain, figures_of(plain))
    assert set(figures_of(plain)) == {"trees"}
    for name in ("front", "measured", "pairs", "notes"):
        assert f'<section id="{name}">' not in text


def test_every_figure_marks_what_it_is_about(found):
    figures = figures_of(found)
    assert set(figures) == {"trees", "front", "measured", "pairs"}
    assert len(figures["trees"].panels) == 2 and len(figures["pairs"].panels) == 3
    dots = figures["measured"].panels[0].body
    assert dots.count("measured") == 6  # layouts times seeds
    assert "madds&lt;=0.6x" in figures["front"].panels[0].body
    # What was not trained is left out: four branching points of six have a value, and 0.
    assert figures["pairs"].panels[0].body.count("parting at") == 2 * 5


def test_files_are_written_or_refused_in_one_line(found, tmp_path):
    write_page(found, tmp_path / "report.html", tmp_path / "figures")
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == [
        "front.svg",
        "measured.svg",
        "pairs.svg",
        "trees.svg",
    ]
    assert (tmp_path / "figures" / "front.svg").read_text().startswith("<svg")
    with pytest.raises(RunError, match=r"ends in \.html"):
        write_page(found, tmp_path / "report.txt")


def test_the_shape_of_the_json_is_what_programs_rely_on(found):
    """Names that are documented in :class:`Recommendation`; a change here breaks those who read them."""
    content = found.to_json()
    assert sorted(content) == [
        "block_costs", "blocks", "correlations", "cost", "decoder", "estimator", "front", "layouts", "limits", "notes",
        "seeds", "separate", "table", "tasks", "title", "trained", "trainings", "weighting", "weights",
    ]  # fmt: skip
    row = ["costs", "estimates", "file", "groups", "measured", "number", "score", "why"]
    assert all(sorted(one) == row for name in ("layouts", "front", "trained") for one in content[name])
    assert sorted(content["limits"][0]) == ["bound", "limit", "quantity"]
    assert sorted(content["correlations"][0]) == ["count", "pearson", "seed", "spearman"]

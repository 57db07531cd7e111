"""Runs side by side: changes by hand, what cannot be compared, one-line errors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
from helpers.runfolders import write, write_run

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.compare import compare, compare_runs, cost_rows, metric_rows, setting_rows
from onnxmtl.deploy.html.compare_page import comparison_page, write_comparison
from onnxmtl.deploy.results import MetricResult, TaskResult
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.errors import RunError
from onnxmtl.policy.fused import Fused, FusedEdge, FusedLayer, FusedNetwork


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    return [
        write_run(where / "a", layers=4),
        write_run(where / "b", layers=4, seed=1, record={"recipe": "adashare"}),
    ]


@pytest.fixture
def runs(folders):
    return [read_run(folder) for folder in folders]


def replaced(run, tasks, **costs):
    """The run with other results: task -> ({metric: (higher, value)}, Δ)."""
    rows = []
    for name, (metrics, delta) in tasks.items():
        listed = tuple(MetricResult(m, higher, {"found": value}) for m, (higher, value) in metrics.items())
        first = listed[0]
        rows.append(
            TaskResult(name, "depth", first.metric, first.higher_is_better, first.values["found"], 1.0,
                       metrics=listed, delta={} if delta is None else {"found": delta})
        )  # fmt: skip
    deltas = [d for _, d in tasks.values() if d is not None]
    report = dataclasses.replace(
        run.report, tasks=tuple(rows), delta={"found": sum(deltas) / len(deltas)} if deltas else {},
        costs={"found": Costs(**{"parameters_trunk": 10, "parameters": 20, "multiply_adds": 100,
                                 "multiply_adds_unshared": 200, "executed_once": 0.5, "parameters_paper": 9} | costs)},
    )  # fmt: skip
    return dataclasses.replace(run, report=report, tasks=tuple(tasks))


def test_by_hand(runs):
    a = replaced(runs[0], {"x": ({"up": (True, 0.5), "down": (False, 4.0)}, 1.0), "y": ({"up": (True, 0.2)}, -2.0)})
    b = replaced(
        runs[1], {"x": ({"up": (True, 0.6), "down": (False, 3.0)}, 2.0), "y": ({"up": (True, 0.1)}, -3.0)},
        parameters=30, multiply_adds=50,
    )  # fmt: skip
    found = compare_runs([a, b])
    x, y = found.tasks
    assert [m.changes for m in x.metrics] == [(0, pytest.approx(20)), (0, pytest.approx(25))]  # −(3 − 4)/4
    assert x.change == (0, pytest.approx(22.5)) and y.change == (0, pytest.approx(-50))
    assert found.change == (0, pytest.approx((22.5 - 50) / 2))
    assert x.delta == (1.0, 2.0) and found.delta == (-0.5, -0.5)
    assert found.ratios["parameters"] == (1, 1.5) and found.ratios["multiply_adds"] == (1, 0.5)
    rows = metric_rows(found)
    assert rows[:3] == [
        ["task", "metric", "a", "b"], ["x", "Δ to single-task", "+1.0%", "+2.0%"], ["x", "up ↑", "0.5", "0.6 (+20.0%)"],
    ]  # fmt: skip
    assert ["x", "down ↓", "4", "3 (+25.0%)"] in rows and rows[-1] == ["all tasks", "change to a", "–", "-13.8%"]
    costs = {row[0]: row[1:] for row in cost_rows(found)}
    assert costs["parameters, with heads"] == ["20", "30 (1.500×)"]
    assert costs["file size"] == ["–", "–"] and costs["executed once for several tasks"] == ["50.0%", "50.0%"]
    assert setting_rows(found) == [["option", "a", "b"], ["recipe", "automtl", "adashare"], ["seed", "0", "1"]]


def test_a_metric_that_one_run_lacks_counts_in_no_mean(runs):
    a = replaced(runs[0], {"x": ({"up": (True, 0.5), "more": (True, 1.0)}, None)})
    b = replaced(runs[1], {"x": ({"up": (True, 0.6)}, None)})
    found = compare_runs([a, b])
    assert found.tasks[0].metrics[1].values == (1.0, None) and found.change[1] == pytest.approx(20)
    assert found.delta == (None, None)
    assert found.remarks == ("No Δ against single-task models in a, b: none were trained, or the run is older.",)
    assert "Δ to single-task" not in [row[1] for row in metric_rows(found)]


def test_a_first_run_of_zero_has_no_change(runs):
    a, b = (replaced(run, {"x": ({"up": (True, value)}, None)}) for run, value in zip(runs, (0.0, 1.0), strict=True))
    found = compare_runs([a, b])
    assert math.isnan(found.change[1])
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("first", "second", "change"), [(-0.5, 0.5, 200.0), (-0.5, -0.75, -50.0), (0.0, 0.0, 0.0), (0.5, 0.25, -50.0)]
)
def test_changes_are_those_of_delta(runs, first, second, change):
    """A mean cosine may be below 0: what is better is above 0 then, too."""
    a, b = (
        replaced(run, {"x": ({"up": (True, value)}, None)}) for run, value in zip(runs, (first, second), strict=True)
    )
    assert compare_runs([a, b]).change[1] == pytest.approx(change)


def test_common_tasks_only(runs):
    one = {"up": (True, 0.5)}
    a = replaced(runs[0], {"x": (one, 1.0), "y": (one, 1.0)})
    b = replaced(runs[1], {"x": (one, 1.0), "z": (one, 1.0)})
    found = compare_runs([a, b])
    assert [task.task for task in found.tasks] == ["x"] and found.ratios == {}
    assert found.remarks[0].startswith("a has the task y besides") and found.remarks[1].startswith("b has the task z")
    assert cost_rows(found)[1] == ["parameters, without heads", "10", "10"]


def test_what_is_not_comparable_is_said(tmp_path, folders):
    other = write_run(tmp_path / "c", layers=4, record={"data": "nyuv2"})
    record = json.loads((other / "run.json").read_text())
    record["source"]["name"] = "other.onnx"
    write(other / "run.json", record)
    remarks = compare([folders[0], other]).remarks
    assert "The runs were validated on different data; their metrics cannot be compared." in remarks
    assert "The runs have different backbones." in remarks
    for name, options in (("d", {"val": "test"}), ("e", {"val": "held-out"})):
        write_run(tmp_path / name, layers=4, record={"data_options": options})
    remarks = compare([tmp_path / "d", tmp_path / "e"]).remarks
    assert "The runs were validated on different data; their metrics cannot be compared." in remarks


def test_names_tell_runs_apart(tmp_path, folders):
    for parent in ("one", "two"):
        shutil.copytree(folders[0], tmp_path / parent / "run")
    found = compare([tmp_path / "one" / "run", tmp_path / "two" / "run", folders[1]])
    assert found.names[0].endswith("one/run") and found.names[1].endswith("two/run") and len(set(found.names)) == 3
    assert compare([folders[0], folders[0]]).names == ("a 1", "a 2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "report.json").unlink(), "is not finished; end it with compile --resume"),
        (lambda folder: (folder / "report.json").write_text("{}"), "has no report that can be read"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_runs_without_a_report(tmp_path, folders, change, words):
    broken = shutil.copytree(folders[1], tmp_path / "b")
    change(broken)
    with pytest.raises(RunError) as caught:
        compare([folders[0], broken])
    assert words in str(caught.value) and str(broken) in str(caught.value) and "\n" not in str(caught.value)


def test_runs_of_other_tasks(tmp_path, folders):
    other = write_run(tmp_path / "c", [("left", "classification")], 4)
    with pytest.raises(RunError, match=r"no task in common \(a: seg \(segmentation\), depth, normals; c: left"):
        compare([folders[0], other])
    with pytest.raises(RunError, match="name another one"):
        compare([folders[0]])


def test_a_task_of_the_same_name_and_another_kind_is_another_task(tmp_path, folders):
    other = write_run(tmp_path / "c", [("seg", "depth"), ("depth", "depth")], 4)
    assert [task.task for task in compare([folders[0], other]).tasks] == ["depth"]


@pytest.fixture
def fused_runs(tmp_path, runs):
    """A run of layers that tasks share, one with a searched edge of two, and one of networks that mix everywhere."""
    nets = tuple(FusedNetwork(task, (FusedLayer(f"{task}.a", 2, 8),)) for task in ("seg", "depth"))
    edges = (FusedEdge("seg", "seg.a", "depth", "depth.a", True, 0.9),
             FusedEdge("depth", "depth.a", "seg", "seg.a", False, 0.2))  # fmt: skip
    one = dict.fromkeys(("seg", "depth", "normals"), ({"up": (True, 0.5)}, None))
    first = replaced(runs[0], one)
    others = []
    for name, space, fused in (("nas", "fusion", Fused(nets, edges)), ("stitch", "cross_stitch", None)):
        read = read_run(write_run(tmp_path / name, layers=4, record={"with_recipe": {"space": space}}))
        run = replaced(read, one)
        others.append(dataclasses.replace(run, report=dataclasses.replace(run.report, fused=fused)))
    return [first, *others]


def test_networks_side_by_side(fused_runs):
    """Edges are counted, and that no layer is shared is said of all such networks, searched or not."""
    found = compare_runs(fused_runs)
    assert found.edges == (None, (1, 2), None)
    assert cost_rows(found)[-1] == ["edges between networks", "–", "1 of 2", "–"]
    assert [remark for remark in found.remarks if "a network per task" in remark] == [
        "nas, stitch: a network per task, which give each other features; no layer is shared, and what the outputs of "
        "several tasks need is executed once."
    ]
    page = comparison_page(found, fused_runs)
    assert (
        'id="figure-fusion-2"' in page
        and 'id="figure-fusion-1"' not in page
        and "depth depth.a → seg seg.a: kept" in page
    )
    assert page.count('id="figure-sharing-') == 3 and page.count('class="legend"') == 3  # the chart's
    json.dumps(found.to_json(), allow_nan=False)


def test_without_such_networks_nothing_is_said_of_edges(runs):
    found = compare_runs(runs)
    assert found.edges == (None, None) and not any("edges" in row[0] for row in cost_rows(found))
    assert not any("network per task" in remark for remark in found.remarks)


def test_the_page(folders, runs, tmp_path):
    found = write_comparison(folders, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page == comparison_page(found, runs)
    for words in ("figure-change", "figure-sharing-1", "figure-sharing-2", "adashare", "all tasks, Δ", "miou ↑"):
        assert words in page
    assert page.count('class="legend"') == 2  # of the chart, and one for all diagrams
    with pytest.raises(RunError, match=r"ends in \.html"):
        write_comparison(folders, tmp_path / "page.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]

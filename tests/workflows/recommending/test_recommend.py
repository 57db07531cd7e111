"""``recommend``: from a table, from trainings, and asked again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from helpers.compiling import digests
from helpers.layout_search import what_is_shared
from helpers.recommending import QUICK, TABLE, TASKS, TWO, Children

from onnxmtl.deploy.recommendation import Recommendation
from onnxmtl.errors import OnnxMTLError, RunError
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.policy.parts import Part
from onnxmtl.recommend.table import TwoTaskTable, read_csv
from onnxmtl.runs import read_json
from onnxmtl.train.delta import relative_performance
from onnxmtl.workflows import recommend
from onnxmtl.workflows.recommending.asking import Plan, Question
from onnxmtl.workflows.recommending.comparing import compared_layouts
from onnxmtl.workflows.recommending.costs import CostTable
from onnxmtl.workflows.recommending.store import Performance
from onnxmtl.workflows.session import read_metrics

NORMAL = "seg=segmentation:3,depth,normals"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "table.csv"


@pytest.fixture(scope="module")
def trained(backbone, tmp_path_factory):
    """Three tasks, three blocks, everything that can be asked for."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNXMTL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        from helpers.compiling import DATA

        (folder / "own_recommended.py").write_text(DATA)
        patch.syspath_prepend(folder)
        done = recommend(
            backbone, TASKS, out=folder / "run", data="own_recommended:fine", blocks=2, train_top=1, train_random=1,
            seeds=2, sweep=True, top=3, **QUICK,
        )  # fmt: skip
        yield done


def literal_score(values, layout, weights):
    """TreeMTL §3.1 as printed: per task the mean over its two-task models, weighted over the tasks."""
    total = 0.0
    for t in range(len(layout.tasks)):
        others = [u for u in range(len(layout.tasks)) if u != t]
        total += weights[t] * sum(values[t, u, layout.branch_point(t, u)] for u in others) / len(others)
    return total


def everything(tasks, blocks):
    return [Layout.from_id(tasks, blocks, number) for number in range(count_layouts(len(tasks), blocks))]


@pytest.mark.parametrize(
    "budget", ["", "models<=1", "madds<=0.93x", "trunk.params<=0.7x,models<=2", "trunk.madds<=0.5x"]
)
def test_the_answer_is_the_best_of_all_layouts_within_the_budget(backbone, table, tmp_path, budget):
    question = Question(top=4, budget=budget, task_weights="equal")
    done = recommend(backbone, NORMAL, question=question, two_task=table, out=tmp_path / "run")
    found = done.recommendation
    costs, values = done.performance.costs, read_csv(table, ("seg", "depth", "normals")).values
    allowed = [
        (literal_score(values, layout, [1 / 3] * 3), layout)
        for layout in everything(found.tasks, 3)
        if all(costs.of(layout, limit.quantity) <= limit.bound for limit in found.limits)
    ]
    best = sorted((score for score, _ in allowed), reverse=True)[:4]
    assert [row.score for row in found.layouts] == pytest.approx(best, abs=1e-12)
    for row in found.layouts:
        assert row.score == pytest.approx(literal_score(values, row.layout, [1 / 3] * 3), abs=1e-12)
        assert sum(row.estimates.values()) / 3 == pytest.approx(row.score, abs=1e-12)
        assert all(row.costs[limit.quantity] <= limit.bound for limit in found.limits)


def test_the_front_is_the_best_layout_of_every_cost(backbone, table, tmp_path):
    question = Question(sweep=True, task_weights="equal")
    done = recommend(backbone, NORMAL, question=question, two_task=table, out=tmp_path / "run")
    rows = [(row.costs["multiply_adds"], row.score) for row in done.recommendation.front]
    assert rows == sorted(rows)
    values = read_csv(table, ("seg", "depth", "normals")).values
    for layout in everything(done.recommendation.tasks, 3):
        cost, score = done.performance.costs.of(layout, "multiply_adds"), literal_score(values, layout, [1 / 3] * 3)
        assert any(c <= cost and s >= score - 1e-12 for c, s in rows)


def test_files_of_a_run(backbone, table, tmp_path):
    out = tmp_path / "run"
    done = recommend(backbone, NORMAL, two_task=table, top=3, out=out)
    names = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.*"))
    assert names == [
        "figures/pairs.svg", "figures/trees.svg", "layouts/01.json", "layouts/02.json", "layouts/03.json",
        "performance.json", "recommendation.json", "report.html", "run.json", "table.csv",
    ]  # fmt: skip
    content = read_json(out / "recommendation.json")
    for row, file in zip(content["layouts"], sorted((out / "layouts").iterdir()), strict=True):
        layout = Layout.from_file(file)
        assert layout.number == row["number"] and layout.blocks == done.recommendation.blocks
        assert row["file"] == f"layouts/{file.name}"
    again = read_csv(out / "table.csv", done.recommendation.tasks)
    assert np.array_equal(again.values, done.performance.table.values, equal_nan=True)


def test_equal_questions_give_equal_bytes(backbone, table, tmp_path):
    for name in ("a", "b"):
        recommend(backbone, NORMAL, two_task=table, sweep=True, budget="madds<=0.9x", out=tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_table_with_its_tasks_in_another_order_is_the_same_table(backbone, table, tmp_path):
    known = read_csv(table, ("seg", "depth", "normals"))
    turned = known.for_tasks(("normals", "seg", "depth"))
    answers = [
        recommend(backbone, NORMAL, two_task=one, out=tmp_path / name).recommendation
        for name, one in (("a", known), ("b", turned))
    ]
    assert answers[0] == answers[1]


def test_what_is_not_trained_is_counted_without_separate_networks(backbone, table, tmp_path):
    known = read_csv(table, ("seg", "depth", "normals"))
    values = known.values.copy()
    values[:, :, 0] = np.nan
    values[0, 1, 2] = np.nan
    done = recommend(backbone, NORMAL, two_task=dataclasses.replace(known, values=values), out=tmp_path / "run")
    assert any(note.startswith("8 of 9 two-task models were trained") for note in done.recommendation.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"two_task": "table.csv"}, "leave --two-task out"),
        ({"blocks": 3}, "leave --blocks or --at out"),
        ({"trainings": 9}, "leave --trainings out"),
        ({"seeds": 2}, "leave --seeds out"),
        ({"resume": True}, "leave --resume out"),
    ],
)
def test_what_an_earlier_run_cannot_take_is_told(backbone, tmp_path, options, words):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=words):
        recommend(tmp_path, **options)


def test_an_earlier_run_answers_again_without_its_model(backbone, table, tmp_path):
    recommend(backbone, NORMAL, two_task=table, out=tmp_path / "run")
    before = digests(tmp_path / "run")
    asked = recommend(tmp_path / "run", budget="madds<=0.93x", top=2)
    direct = recommend(backbone, NORMAL, two_task=table, budget="madds<=0.93x", top=2, out=tmp_path / "direct")
    assert [row.layout for row in asked.recommendation.layouts] == [row.layout for row in direct.recommendation.layouts]
    assert [dict(row.costs) for row in asked.recommendation.layouts] == [
        dict(row.costs) for row in direct.recommendation.layouts
    ]
    assert digests(tmp_path / "run") == before
    kept = recommend(tmp_path / "run", budget="models<=1", out=tmp_path / "kept")
    assert (kept.path / "layouts" / "01.json").is_file() and (kept.path / "report.html").is_file()
    assert recommend(kept.path, top=1).recommendation.layouts


def test_early_tasks_pay_for_what_they_need_and_no_graph_comes_twice(backbone, table, tmp_path):
    """Depth and normals read a feature before the last of three blocks, so that what splits there changes nothing."""
    heads = {"seg": ("late",), "depth": ("early",), "normals": ("early",)}
    tasks = TaskSet(tuple(t.replace(head="light", features=heads[t.name]) for t in load_tasks(NORMAL)))
    options = {"two_task": table, "features": ("early", "late"), "budget": "madds<=0.95x", "top": 100}
    done = recommend(backbone, tasks, out=tmp_path / "run", **options)
    found, costs = done.recommendation, done.performance.costs
    assert [set(part.tasks) for part in costs.parts] == [{0, 1, 2}, {0, 1, 2}, {0}]
    for row in found.layouts:  # counted on its graph, and summed up
        assert dict(row.costs) == costs.all_of(row.layout)
        assert row.layout.groups[2] == row.layout.groups[1]
    fitting = {
        layout.groups[:2]
        for layout in everything(found.tasks, 3)
        if costs.of(layout, "multiply_adds") <= 0.95 * costs.separate("multiply_adds")
    }
    assert {row.layout.groups[:2] for row in found.layouts} == fitting and len(found.layouts) == len(fitting)
    again = recommend(tmp_path / "run", budget="madds<=0.95x", top=100)
    assert again.recommendation.layouts == tuple(dataclasses.replace(row, file="") for row in found.layouts)
    greedy = recommend(backbone, tasks, out=tmp_path / "greedy", decoder="greedy", **options)
    assert greedy.recommendation.layouts[0].layout.groups[:2] in fitting


def test_what_older_versions_stored_is_read(backbone, table, tmp_path):
    """Their tables say nothing of parts: all tasks need all blocks."""
    recommend(backbone, NORMAL, two_task=table, out=tmp_path / "run")
    file, known = tmp_path / "run" / "performance.json", Performance.read(tmp_path / "run")
    content = read_json(file)
    content["format"] = 1
    content["costs"]["blocks"] = content["costs"].pop("copies")
    del content["costs"]["parts"]
    file.write_text(json.dumps(content))
    assert Performance.read(tmp_path / "run").costs == known.costs
    assert recommend(tmp_path / "run").recommendation.layouts
    content["format"], content["costs"]["parts"] = 2, [{"block": 3, "tasks": [0]}]
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="not of this version"):
        Performance.read(tmp_path / "run")


def test_traffic_makes_rare_tasks_cheap(backbone, table, tmp_path):
    traffic = "seg+depth=0.9,normals=0.1"
    done = recommend(backbone, NORMAL, two_task=table, traffic=traffic, sweep=True, out=tmp_path / "run")
    assert done.recommendation.cost == "expected_multiply_adds"
    table_ = done.performance.costs
    chance = {frozenset({0, 1}): 0.9, frozenset({2}): 0.1}
    for row in done.recommendation.front:
        expected = table_.of(row.layout, "multiply_adds", lambda g: sum(p for a, p in chance.items() if a & set(g)))
        assert row.costs["expected_multiply_adds"] == pytest.approx(expected, rel=1e-12)
    limited = recommend(
        backbone, NORMAL, two_task=table, traffic=traffic, budget="madds<=0.6x,params<=0.98x", out=tmp_path / "limited"
    )
    bounds = {limit.quantity: limit.bound for limit in limited.recommendation.limits}
    assert set(bounds) == {"expected_multiply_adds", "parameters"}
    for row in limited.recommendation.layouts:
        assert all(row.costs[quantity] <= bound for quantity, bound in bounds.items())


def test_trainings_become_the_table(trained):
    """Every value of the table follows from metrics on disk by Eq. 5, the mean over the seeds."""
    known, found = trained.performance, trained.recommendation
    assert known.trainings == 2 * 3 + 2 * 3 * 2 and found.trainings == known.trainings + 2 * len(found.trained)
    assert known.seeds == (0, 1)
    phases = {folder.name.partition("-")[2]: folder for folder in (trained.path / "phases").iterdir()}
    tasks = TaskSet.from_json((phases["import"] / "tasks.json").read_text())
    for (a, b), point in itertools.product(itertools.combinations(range(3), 2), (1, 2)):
        for t, u in ((a, b), (b, a)):
            name = known.tasks[t]
            each = [
                relative_performance(
                    read_metrics(phases[f"two-task-{a + 1}-{b + 1}-at-{point}-seed-{seed}"])[name],
                    read_metrics(phases[f"single-task-{t + 1}-seed-{seed}"])[name],
                    tasks[name].metrics,
                )
                for seed in (0, 1)
            ]
            assert known.table.values[t, u, point] == pytest.approx(np.mean(each), abs=1e-12)
            assert [one.values[t, u, point] for one in known.tables] == pytest.approx(each, abs=1e-12)
    assert (known.table.values[0, 1, 0], known.table.values[1, 0, 0]) == (0.0, 0.0)


def test_layouts_are_measured_and_compared(trained):
    found = trained.recommendation
    assert [row.why for row in found.trained] == ["top", "random"]
    assert found.trained[0].layout == found.layouts[0].layout
    for row in found.trained:
        assert len(row.measured) == 2 and set(row.measured[0]) == set(found.tasks)
    assert [row.seed for row in found.correlations] == [0, 1, None]
    assert json.loads((trained.path / "recommendation.json").read_text())["correlations"][0]["count"] == 2


def test_what_a_run_knows_is_read_back(trained):
    again = Performance.read(trained.path)
    assert np.array_equal(again.table.values, trained.performance.table.values, equal_nan=True)
    assert again.costs == trained.performance.costs and again.seeds == (0, 1)
    assert len(again.tables) == 2 and again.blocks == trained.performance.blocks


def test_the_found_layout_can_be_compiled(trained, monkeypatch):
    from onnxmtl.policy.layout import Layout
    from onnxmtl.workflows import compile

    monkeypatch.chdir(trained.path.parent)
    monkeypatch.setenv("ONNXMTL_CACHE", str(trained.path.parent / "cache"))
    file = trained.path / trained.recommendation.layouts[0].file
    source = read_json(trained.path / "run.json")["source"]["path"]
    done = compile(
        source, TASKS, layout=file, data="own_recommended:fine", out=trained.path.parent / "compiled",
        baselines=("single-task",), **QUICK,
    )  # fmt: skip
    assert done.model.is_file()
    # What it costs is what was promised, and its single-task baselines were the recommendation's.
    assert done.report.costs["found"].multiply_adds == trained.recommendation.layouts[0].costs["multiply_adds"]
    assert done.report.costs["found"].parameters == trained.recommendation.layouts[0].costs["parameters"]
    single = read_metrics(next((trained.path / "phases").glob("*-single-task-1-seed-0")))
    assert {m.metric: m.values["separate"] for m in done.report.tasks[0].metrics} == single["seg"]
    assert Layout.from_file(file).number == trained.recommendation.layouts[0].layout.number


def test_fewer_trainings_stop_at_their_number(backbone, own_data, tmp_path):
    options = {"data": f"{own_data}:fine", "blocks": 3, "top": 1, **QUICK}
    few = recommend(backbone, TWO, out=tmp_path / "few", trainings=2, **options)
    assert few.performance.trainings == 2 + 2
    assert any("2 of 3 two-task models were trained" in note for note in few.recommendation.notes)
    assert few.performance.table.missing == ((0, 1, 1),)
    with pytest.raises(RunError, match="take 2 trainings to begin with; give as many or more \\(all are 3\\)"):
        recommend(backbone, TWO, out=tmp_path / "fewer", trainings=1, **options)
    assert not (tmp_path / "fewer").exists()


def test_similarity_needs_single_task_networks_only(backbone, own_data, tmp_path):
    done = recommend(backbone, TWO, out=tmp_path / "run", data=f"{own_data}:fine", blocks=2, estimator="rsa", **QUICK)
    assert done.performance.trainings == 2 and done.performance.table is None
    similarity = done.performance.similarity
    assert similarity.shape == (2, 2, 2) and np.all(np.abs(similarity) <= 1 + 1e-12)
    shared = next(row for row in done.recommendation.layouts if row.layout.number == 0)
    assert shared.score == pytest.approx(-(1 - similarity[0, 1]).sum(), abs=1e-12)
    assert any("separate networks come first" in note for note in done.recommendation.notes)


def test_an_early_task_loses_nothing_in_blocks_that_it_does_not_pass(backbone, own_data, tmp_path):
    heads = {"seg": ("late",), "depth": ("early",)}
    tasks = TaskSet(tuple(t.replace(head="light", features=heads[t.name]) for t in load_tasks(TWO)))
    options = {"data": f"{own_data}:fine", "blocks": 3, "features": ("early", "late"), "estimator": "rsa", **QUICK}
    done = recommend(backbone, tasks, out=tmp_path / "run", top=9, **options)
    similarity = done.performance.similarity[0, 1]
    assert similarity[2] == 1 > similarity[0]
    losses = [0.0, *np.cumsum(similarity[:2] - 1)]  # apart from the image on, after one block, after two
    assert [row.score for row in done.recommendation.layouts] == pytest.approx(losses)


@pytest.mark.parametrize(("passed", "different"), [((3, 1, 1), 5), ((3, 2, 2), 12), ((3, 3, 3), 22)])
def test_random_layouts_are_different_graphs(passed, different):
    """All that there are: as many as three tasks have layouts of one block, of two, of three."""
    parts = tuple(Part(b, tuple(t for t in range(3) if passed[t] > b)) for b in range(3))
    costs = CostTable(tuple("abc"), {"models": (1.0, 0.0, 0.0)}, {}, parts=parts, depth=3)
    known = Performance("", tuple("abc"), ("x", "y", "z"), costs)
    found = Recommendation("", known.tasks, known.blocks, ())
    chosen = compared_layouts(found, known, Plan(train_random=100), (), 0)
    assert len(chosen) == different
    assert len({what_is_shared(layout.groups, parts) for layout, _ in chosen}) == different


def test_asked_otherwise_a_resumed_run_trains_nothing_anew(backbone, own_data, tmp_path, monkeypatch):
    options = {"data": f"{own_data}:fine", "blocks": 2, **QUICK}
    first = recommend(backbone, TWO, out=tmp_path / "run", **options)
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "another"))
    again = recommend(backbone, TWO, out=tmp_path / "run", resume=True, top=1, budget="models<=1", **options)
    assert not (tmp_path / "another").exists()
    assert len(again.recommendation.layouts) == 1 < len(first.recommendation.layouts)
    assert sorted(file.name for file in (tmp_path / "run" / "layouts").iterdir()) == ["01.json"]
    with pytest.raises(RunError, match=r"cannot resume .*steps was 3 in the run and is 4 now"):
        recommend(backbone, TWO, out=tmp_path / "run", resume=True, **{**options, "steps": 4})


@pytest.mark.slow  # resuming without a kill: the test above
@pytest.mark.parametrize("renames", [23, *range(1, 45, 4)])
def test_a_killed_run_ends_with_the_same_bytes(backbone, own_data, tmp_path, renames):
    children = Children()
    options = {"data": f"{own_data}:fine", "blocks": 2, "train_top": 1, **QUICK}
    assert not children.run(backbone, tmp_path / "whole", options)
    assert children.run(backbone, tmp_path / "run", options, renames)
    assert not children.run(backbone, tmp_path / "run", options)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.parametrize("drift", [1.0, 2.0])
def test_latency_is_measured_on_the_layout_itself(backbone, table, tmp_path, monkeypatch, drift):
    """A clock by which every copy of a block takes its index + 1 milliseconds; when the table was measured, `drift`."""
    from onnxmtl.workflows.recommending.costs import Emission

    clock = (1.0, 2.0, 3.0)
    monkeypatch.setattr(Emission, "latency", lambda self, layout: layout.cost(clock))
    monkeypatch.setattr(Emission, "latencies", lambda self, layouts: [drift * one.cost(clock) for one in layouts])
    done = recommend(backbone, NORMAL, two_task=table, budget="latency<=9ms", top=9, out=tmp_path / "run")
    assert max(row.costs["latency"] for row in done.recommendation.layouts) <= 9
    fitting = [one for one in everything(done.recommendation.tasks, 3) if one.cost([1.0, 2.0, 3.0]) <= 9]
    assert len(done.recommendation.layouts) == min(9, len(fitting))
    with pytest.raises(OnnxMTLError, match="latency<=5ms: no layout keeps it; sharing everything has 6 ms"):
        recommend(backbone, NORMAL, two_task=table, budget="latency<=5ms", out=tmp_path / "none")
    assert isinstance(done.performance.table, TwoTaskTable) and dataclasses.is_dataclass(done)
    assert math.isfinite(done.performance.costs.separate("latency"))

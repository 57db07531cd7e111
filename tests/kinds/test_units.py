"""Units of predictions and metrics: the task file's, else the data set's, else the kind's."""

from __future__ import annotations

import pytest

from onnxmtl.errors import TaskError
from onnxmtl.kinds import METRICS, Task, TaskSet, load_tasks, mean_metric

TASKS = TaskSet.parse("seg=segmentation:3,depth,normals,edges,pitch=regression,keypoints")


def test_the_unit_is_the_kinds_where_nobody_says_more():
    found = {task.name: task.prediction_unit for task in TASKS.with_classes({})}
    assert found == {"seg": "", "depth": "metres", "normals": "unit vector", "edges": "", "pitch": "", "keypoints": ""}


def test_the_data_sets_unit_takes_the_place_of_the_kinds_but_not_of_the_users():
    tasks = TaskSet((Task("a", "depth"), Task("b", "depth", unit="metres"), Task("c", "depth", unit="feet")))
    found = tasks.with_classes({}, units=dict.fromkeys("abcz", "inverse depth"))
    assert [task.prediction_unit for task in found] == ["inverse depth", "metres", "feet"]
    again = found.with_classes({}, units={"a": "metres"})  # a finished run is opened again: it stays what it was
    assert again == found == TaskSet.from_json(found.to_json())


def test_what_has_no_unit_is_not_given_one():
    units = {"seg": "metres", "edges": "metres", "pitch": "radians", "depth": ""}
    found = TASKS.with_classes({}, units=units)
    assert found["seg"] == TASKS["seg"] and found["edges"] == TASKS["edges"] and found["depth"] == TASKS["depth"]
    assert found["pitch"].unit == "radians"


def test_metrics_are_in_the_unit_of_the_task():
    depth, inverse = Task("d", "depth"), Task("d", "depth", unit="inverse depth")
    assert {name: depth.metric_unit(name) for name in depth.metrics} == {
        "abs": "metres", "rel": "", "rmse": "metres", "delta1": "", "delta2": "", "delta3": "",
    }  # fmt: skip
    assert [inverse.metric_unit(name) for name in ("abs", "rel", "rmse")] == ["inverse depth", "", "inverse depth"]
    pitch = Task("p", "regression", unit="radians")
    assert [pitch.metric_unit(name) for name in pitch.metrics] == ["radians", "radians"]
    normals = Task("n", "normals", unit="anything")
    assert [normals.metric_unit(name) for name in ("mean_angle", "within_30")] == ["degrees", ""]
    # mae of edges is of probabilities, and so has none.
    assert Task("e", "edges", metrics=("best_f", "mae")).metric_unit("mae") == ""
    assert METRICS["abs"].unit == METRICS["rmse"].unit == ""  # of itself it has none


def test_a_metric_of_the_users_can_be_in_the_unit_of_the_task(tmp_path, monkeypatch):
    (tmp_path / "unit_metric_for_test.py").write_text(
        "from onnxmtl.kinds import mean_metric\n"
        "@mean_metric(higher_is_better=False, in_task_unit=True)\n"
        "def bias(task, prediction, target, valid): return 0, 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = Task("d", "depth", metrics=("abs", "unit_metric_for_test:bias"), unit="feet")
    assert task.metric_unit("unit_metric_for_test:bias") == "feet"
    METRICS.pop("unit_metric_for_test:bias")
    with pytest.raises(TaskError, match="has the unit 'px' and that of the task"):
        mean_metric(higher_is_better=True, unit="px", in_task_unit=True)(lambda: None)


def test_a_unit_in_a_task_file(tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_text('[tasks.depth]\nkind = "depth"\nunit = "inverse depth"\n')
    assert load_tasks(file)["depth"].unit == "inverse depth"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "depth"\nunit = 3', "unit must be a string, not 3"),
        ('kind = "depth"\nunit = "a\\nb"', r"the unit 'a\\nb' must be one line of text"),
        ('kind = "depth"\nunit = " "', "the unit ' ' must be one line of text"),
        ('kind = "segmentation"\nclasses = 3\nunit = "metres"', "segmentation has no unit, leave unit out"),
        ('kind = "edges"\nunit = "metres"', "edges has no unit, leave unit out"),
    ],
)
def test_bad_units(tmp_path, text, message):
    file = tmp_path / "tasks.toml"
    file.write_text(f"[tasks.t]\n{text}\n")
    with pytest.raises(TaskError, match=message) as caught:
        load_tasks(file)
    assert "\n" not in str(caught.value) and "[tasks.t]" in str(caught.value)

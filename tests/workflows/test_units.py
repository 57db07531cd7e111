"""The unit that the data set states reaches the tasks of a run."""

from __future__ import annotations

from pathlib import Path

from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.pipelines import import_pipeline
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "vgg-small.onnx"
OWN = """
import numpy as np
class Data:
    units = {"far": "log metres", "near": "log metres"}
    def __len__(self): return 2
    def __getitem__(self, i):
        label = np.ones((1, HEIGHT, WIDTH), np.float32)
        return np.zeros((3, HEIGHT, WIDTH), np.float32), {"far": label, "near": label}
def make(): return Data(), Data()
"""


def test_open_data_gives_tasks_the_data_sets_units(tmp_path, monkeypatch):
    backbone = import_pipeline()(load(BACKBONE)).model
    shape = backbone.graph.inputs[0].shape
    text = OWN.replace("HEIGHT", str(shape[2])).replace("WIDTH", str(shape[3]))
    (tmp_path / "data_with_units.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = TaskSet((Task("far", "depth"), Task("near", "depth", unit="metres")))
    _, found = open_data(backbone, tasks, CompileConfig(data="data_with_units:make"))
    assert [task.prediction_unit for task in found] == ["log metres", "metres"]


def test_reports_have_the_units_of_the_task():
    from onnxmtl.workflows.phases.emission import task_row

    task = Task("far", "depth", unit="inverse depth", metrics=("abs", "rel", "rmse"))
    values = {"far": {"abs": 0.1, "rel": 0.2, "rmse": 0.3}}
    found = task_row(task, {"found": values, "constant": values}, {})
    assert [metric.unit for metric in found.metrics] == ["inverse depth", "", "inverse depth"]

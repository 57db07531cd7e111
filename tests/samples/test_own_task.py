"""The sample of a user's own kind, loss, metrics and head: it runs, and each part is what was asked for."""

from __future__ import annotations

import contextlib
import io
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from onnxmtl import kinds
from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet, registry
from onnxmtl.train import accumulators, constant, labels, losses
from onnxmtl.train.losses import loss_for
from onnxmtl.train.metrics import metric_for
from onnxmtl.workflows import verify

SAMPLES = Path(__file__).parents[2] / "samples"


REGISTRIES = (
    registry.KINDS,
    registry.METRICS,
    registry._IMPORTED,
    losses.LOSSES,
    labels._RULES,
    constant._FITS,
    accumulators.METRICS_OF,
)


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    """The sample can be imported by its name; what it registers is gone afterwards."""
    monkeypatch.syspath_prepend(SAMPLES)
    before = [dict(entries) for entries in REGISTRIES]
    yield
    for entries, kept in zip(REGISTRIES, before, strict=True):
        entries.clear()
        entries.update(kept)
    sys.modules.pop("own_task", None)


def test_it_runs(tmp_path):
    out, text = tmp_path / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr(sys, "argv", ["own_task.py", "--steps", "4", "--train-size", "8", "--out", str(out)])
        runpy.run_path(str(SAMPLES / "own_task.py"), run_name="__main__")
    assert "disparity_error ↓" in text.getvalue() and verify(out).passed
    found = dict(_metrics(out))
    assert set(found["seg"]) == {"miou", "own_task:border_accuracy"}
    assert 0 <= found["seg"]["own_task:border_accuracy"] <= 1
    assert found["close"]["worst_image"] >= found["close"]["disparity_error"] > 0


def _metrics(run: Path):
    file = max(run.glob("phases/*/metrics.json"))
    content = json.loads(file.read_text())
    return [(task, content[task]) for task in ("seg", "close")]


def test_the_short_form_names_the_kind():
    tasks = TaskSet.parse("close=own_task:DISPARITY")
    task = tasks["close"]
    assert (task.spec.name, task.loss, task.head, task.channels) == ("disparity", "berhu", "own_task:small_head", 1)
    assert TaskSet.from_json(tasks.to_json()) == tasks  # now that it was imported
    assert TaskSet.parse("own_task:DISPARITY").names == ("DISPARITY",)
    p, g = torch.tensor([[[[1.0, 2.0, 9.0]]]]), torch.tensor([[[[2.0, 7.0, 0.0]]]])
    assert loss_for(task)(p, g, None).item() == pytest.approx((1 + (25 + 1) / 2) / 2)  # c = 1
    metric = metric_for(task)
    metric.update(p, g)
    metric.update(p[..., :1], g[..., :1])
    assert metric.compute() == pytest.approx({"disparity_error": 7 / 3, "worst_image": 3.0})
    assert all(math.isnan(value) for value in metric_for(task).compute().values())


def test_a_models_metadata_imports_nothing():
    text = TaskSet.parse("close=own_task:DISPARITY").to_json()
    registry._IMPORTED.clear()
    sys.modules.pop("own_task")
    with pytest.raises(TaskError, match="the kind 'own_task:DISPARITY' is Python code of somebody's: import it first"):
        TaskSet.from_json(text)
    assert "own_task" not in sys.modules
    assert kinds.kind("own_task:DISPARITY").name == "disparity"


def test_focal_and_border_by_hand():
    task = kinds.Task("s", "segmentation", channels=2, loss="own_task:focal", metrics=("own_task:border_accuracy",))
    p, g = torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]]), torch.tensor([[[0, 255]]])
    assert loss_for(task)(p, g, None).item() == pytest.approx(0.25 * math.log(2))
    metric = metric_for(task)
    scores = torch.zeros(1, 2, 1, 4)
    scores[:, 1, :, 2:] = 1
    metric.update(scores, torch.tensor([[[0, 1, 1, 0]]]))  # borders at 0 and 2: both right
    metric.update(scores.flip(1), torch.tensor([[[0, 1, 1, 0]]]))  # 0 everywhere: right at 0
    assert metric.compute() == {"own_task:border_accuracy": 3 / 4}

"""Metrics from what a model emits are those of the raw predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxmtl.kinds import Task
from onnxmtl.train.metrics import metric_for
from onnxmtl.workflows.emitted_metrics import raw_prediction

EMIT = {
    "logits": lambda x: x,
    "raw": lambda x: x,
    "probabilities": lambda x: x.softmax(1) if x.shape[1] > 1 else x.sigmoid(),
    "argmax": lambda x: x.argmax(1),
    "unit": lambda x: x / x.norm(dim=1, keepdim=True),
}
RNG = np.random.default_rng(5)


def classes(shape):
    return torch.from_numpy(RNG.integers(0, 4, shape))


def floats(*shape, low=0.0, high=1.0):
    return torch.from_numpy(RNG.uniform(low, high, shape).astype(np.float32))


def tasks():
    for output in ("logits", "probabilities", "argmax"):
        yield Task("t", "segmentation", 4, output=output), classes((3, 8, 8))
        yield Task("t", "classification", 4, output=output), classes((3,))
    yield Task("t", "depth"), floats(3, 1, 8, 8, low=1, high=3)
    for output in ("unit", "raw"):
        normals = floats(3, 3, 8, 8, low=-1)
        yield Task("t", "normals", output=output), normals / normals.norm(dim=1, keepdim=True)
    for kind in ("edges", "saliency"):
        for output in ("probabilities", "logits"):
            yield Task("t", kind, output=output), (floats(3, 1, 8, 8) > 0.5).float()
    yield Task("t", "regression", 2), floats(3, 2)


@pytest.mark.parametrize(
    ("task", "target"), list(tasks()), ids=lambda x: f"{x.kind}-{x.output}" if hasattr(x, "kind") else ""
)
def test_equal_metrics(task, target):
    shape = (3, task.channels, 8, 8) if task.dense else (3, task.channels)
    raw = floats(*shape, low=-4, high=4)
    emitted = EMIT[task.output](raw).numpy()
    direct, again = metric_for(task), metric_for(task)
    direct.update(raw, target)
    again.update(raw_prediction(task, emitted, tuple(target.shape)), target)
    expected, found = direct.compute(), again.compute()
    assert found == pytest.approx(expected, rel=1e-6) and all(np.isfinite(list(found.values())))


@pytest.mark.parametrize("kind", ["edges", "saliency"])
def test_certain_probabilities(kind):
    """0 and 1 have no finite logit."""
    task, target = Task("t", kind), (floats(2, 1, 8, 8) > 0.5).float()
    metric = metric_for(task)
    metric.update(raw_prediction(task, target.numpy(), tuple(target.shape)), target)
    assert metric.compute()["best_f"] == 1.0


def test_class_numbers_at_another_resolution():
    task = Task("t", "segmentation", 4, output="argmax", resolution="native")
    coarse = classes((2, 4, 4))
    target = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    metric = metric_for(task)
    metric.update(raw_prediction(task, coarse.numpy(), tuple(target.shape)), target)
    assert metric.compute()["pixel_accuracy"] == 1.0

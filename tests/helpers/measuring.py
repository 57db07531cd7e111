"""Tasks of every kind, random sets of them, and what their metrics are."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmtl.kinds import Task
from onnxmtl.train.metrics import metric_for

approx = pytest.approx


def task(kind: str, channels: int = 0) -> Task:
    """A task 't' of this kind, with few channels."""
    return Task("t", kind, channels=channels or {"segmentation": 3, "classification": 3, "regression": 2}.get(kind, 0))


def full(kind: str, channels: int = 0) -> Task:
    """A task with every metric of its kind."""
    of = task(kind, channels)
    return of.replace(metrics=(*of.spec.metrics, *of.spec.further))


def measure(of: Task, prediction, target, labelled=None) -> dict[str, float]:
    """All metrics of the task, of a single batch."""
    metric = metric_for(of)
    metric.update(np.asarray(prediction, dtype=np.float64), np.asarray(target), labelled)
    return metric.compute()


def logits(classes: list, channels: int = 3) -> np.ndarray:
    """One-hot logits [1, C, …] of the given classes."""
    return np.moveaxis(np.eye(channels)[np.asarray(classes)], -1, 0)[None]


def random_set(of: Task, seed: int, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of `n` samples (of 2x3 pixels, if dense); about a third has no label."""
    rng = np.random.default_rng(seed)
    size = (2, 3)
    pred = rng.standard_normal((n, of.channels, *(size if of.dense else ())))
    gone = rng.random((n, *size)) < 0.3
    if of.kind == "segmentation":
        target = np.where(gone, 255, rng.integers(0, 3, (n, *size)))
    elif of.kind == "classification":
        target = rng.choice([0, 1, 2, 255], n)
    elif of.kind == "regression":
        target = np.where(rng.random((n, 2)) < 0.3, np.nan, rng.standard_normal((n, 2)))
    elif of.kind == "normals":
        target = rng.standard_normal((n, 3, *size))
        target = np.where(gone[:, None], 0, target / np.linalg.norm(target, axis=1, keepdims=True))
    else:
        target = np.where(gone, 0.0 if of.kind == "depth" else 255.0, rng.random((n, *size)))[:, None]
    return pred, target

"""Kinds and metrics by name."""

from __future__ import annotations

import dataclasses

import pytest

from onnxmtl.errors import TaskError
from onnxmtl.kinds import KINDS, METRICS, Kind, Metric, Target, Task, TaskSet, kind, register_kind, register_metric


def test_the_eight_kinds():
    assert list(KINDS) == [
        "segmentation",
        "depth",
        "normals",
        "edges",
        "saliency",
        "keypoints",
        "classification",
        "regression",
    ]


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_is_consistent(name):
    spec = kind(name)
    assert spec.primary in spec.metrics and {*spec.metrics, *spec.further} <= set(METRICS)
    assert not set(spec.metrics) & set(spec.further)
    assert spec.head in spec.heads and spec.weight > 0
    assert spec.target.dtype in ("int64", "float32")
    assert spec.dense == ("H" in spec.target.shape)
    assert spec.categorical == (spec.target.dtype == "int64")
    every = spec.metrics + spec.further
    assert dict(spec.higher_is_better) == {metric: METRICS[metric].higher_is_better for metric in every}
    assert all(METRICS[metric].doc for metric in every)


def test_directions():
    lower = {"abs", "rel", "rmse", "mean_angle", "median_angle", "mae", "cross_entropy"}
    lower |= {"mean_angle_legacy_uncentred", "median_angle_legacy_uncentred"}
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == lower


def test_unknown_kind_has_a_hint_and_a_list():
    with pytest.raises(TaskError, match=r"unknown task kind 'dept' \(did you mean 'depth'\?\); known kinds: segm"):
        kind("dept")


@pytest.fixture
def saliency():
    """A kind of a user, taken out again afterwards."""
    register_metric(Metric("test_max_f", True))
    mine = Kind(
        name="test_saliency",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="light",
        losses=("balanced_bce",),
        metrics=("test_max_f",),
        primary="test_max_f",
        weight=5.0,
        outputs=("probabilities",),
        target=Target("float32", (1, "H", "W"), None, "255 is ignored"),
    )
    yield register_kind(mine)
    del KINDS[mine.name], METRICS["test_max_f"]


def test_a_user_registers_a_kind(saliency):
    task = TaskSet.parse("sal=test_saliency")["sal"]
    assert (task.channels, task.head, task.loss, task.weight) == (1, "light", "balanced_bce", 5.0)
    assert task.output == "probabilities" and task.primary == "test_max_f" and task.fill == 255
    register_kind(saliency)  # the same once more is no mistake
    with pytest.raises(TaskError, match="registered already"):
        register_kind(dataclasses.replace(saliency, weight=1.0))
    with pytest.raises(TaskError, match="registered already"):
        register_metric(Metric("miou", False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ()}, "has no loss"),
        ({"outputs": ()}, "has no output form"),
        ({"metrics": ("nope",), "primary": "nope"}, "names the metric 'nope'"),
        ({"primary": "miou"}, "primary metric 'miou', which is not among its metrics"),
        ({"default_channels": 0}, "fixes its channels but gives no number"),
    ],
)
def test_a_kind_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        register_kind(dataclasses.replace(kind("depth"), name="test_other", **changes))
    assert "test_other" not in KINDS


def test_fill_is_what_does_not_count():
    fills = {name: Task("t", name, channels=3 if kind(name).default_channels == 0 else 0).fill for name in KINDS}
    assert fills.pop("regression") != fills.get("regression")  # nan
    assert fills == {
        "segmentation": 255,
        "depth": 0,
        "normals": 0,
        "edges": 255,
        "saliency": 255,
        "keypoints": 255,
        "classification": 255,
    }

"""Δ of AutoMTL Eq. 5."""

from __future__ import annotations

import math

import pytest
from helpers.measuring import approx
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.errors import DataError
from onnxmtl.kinds import METRICS, Task, TaskSet
from onnxmtl.train.delta import delta, relative_performance
from onnxmtl.train.metrics import better


def test_relative_performance_is_equation_five():
    found = {"miou": 0.55, "pixel_accuracy": 0.9}
    base = {"miou": 0.5, "pixel_accuracy": 1.0}
    assert relative_performance(found, base, ("miou", "pixel_accuracy")) == approx((10 - 10) / 2)
    assert relative_performance({"abs": 0.4}, {"abs": 0.5}, ("abs",)) == approx(20)
    assert math.isnan(relative_performance({"abs": 0.4}, {"abs": 0.0}, ("abs",)))
    assert relative_performance({"abs": 0.0}, {"abs": 0.0}, ("abs",)) == 0
    assert math.isnan(relative_performance({"abs": math.nan}, {"abs": 0.1}, ("abs",)))
    assert math.isnan(relative_performance({"abs": 0.1}, {"abs": math.nan}, ("abs",)))
    assert relative_performance(
        {"cosine_similarity": 0.1}, {"cosine_similarity": -0.2}, ("cosine_similarity",)
    ) == approx(150)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.sampled_from(sorted(METRICS)))
def test_better_is_above_zero(one, other, name):
    found = relative_performance({name: one}, {name: other}, (name,))
    assert (found > 0) == better(name, one, other) and (found < 0) == better(name, other, one)


METRICS_OF_TABLE_2 = ("abs", "rel", "delta1", "delta2", "delta3")
TABLE_2 = {  # AutoMTL, CityScapes: mIoU, pixel accuracy, abs, rel, δ1, δ2, δ3
    "Single-Task": (36.5, 73.8, 0.026, 0.38, 57.5, 76.9, 87.0),
    "Multi-Task": (42.7, 68.1, 0.026, 0.39, 58.8, 80.5, 89.9),
    "Sluice": (39.8, 74.2, 0.018, 0.35, 68.9, 85.8, 92.8),
    "AdaShare": (40.6, 74.7, 0.018, 0.37, 71.4, 86.8, 93.1),
    "AutoMTL": (42.8, 74.8, 0.018, 0.33, 70.0, 86.6, 93.4),
}


def row(name: str) -> dict[str, dict[str, float]]:
    miou, accuracy, *depth = TABLE_2[name]
    seg = {"miou": miou, "pixel_accuracy": accuracy}
    return {"seg": seg, "depth": dict(zip(METRICS_OF_TABLE_2, depth, strict=True))}


@pytest.mark.parametrize(
    ("method", "seg", "depth"),
    [("Multi-Task", 4.6, 1.5), ("Sluice", 4.8, 15.3), ("AdaShare", 6.2, 15.5), ("AutoMTL", 9.3, 17.1)],
)
def test_delta_gives_table_3_of_automtl_from_its_table_2(method, seg, depth):
    tasks = TaskSet((Task("seg", "segmentation", channels=19), Task("depth", "depth", metrics=METRICS_OF_TABLE_2)))
    found = delta(tasks, row(method), row("Single-Task"))
    assert found.tasks == approx({"seg": seg, "depth": depth}, abs=0.051)
    assert found.total == approx((found.tasks["seg"] + found.tasks["depth"]) / 2)


def test_what_is_missing_is_named():
    tasks = TaskSet.parse("depth")
    with pytest.raises(DataError, match="task 'depth' is missing in the reference"):
        delta(tasks, {"depth": {}}, {})
    with pytest.raises(DataError, match="metric 'abs' is missing in the result"):
        delta(tasks, {"depth": {}}, {"depth": {"abs": 1.0}})

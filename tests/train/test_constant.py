"""The constant predictors: by hand, and no constant is better."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.measuring import approx, random_set, task
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import DataError
from onnxmtl.kinds import KINDS, Task
from onnxmtl.train import constant
from onnxmtl.train.constant import least_mean_angle
from onnxmtl.train.metrics import better, constant_predictor, constant_predictors, metric_for


class Samples:
    """A data set of given targets (None or absent: not labelled)."""

    def __init__(self, targets: list[dict]) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return np.zeros((3, 2, 3), np.float32), self.targets[index]


def samples(of: Task, seed: int, n: int = 9) -> Samples:
    _, target = random_set(of, seed, n)
    return Samples([{of.name: target[i]} for i in range(n)] + [{}, {of.name: None}])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("edges", "saliency")])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_constant_is_better_on_the_set_it_was_fitted_on(kind, seed):
    of = task(kind)
    data = samples(of, seed)
    found = constant_predictor(of, data, data)[of.primary]
    rng = np.random.default_rng(seed)
    others = np.eye(of.channels) if of.spec.categorical else rng.standard_normal((10, of.channels))
    for other in others:
        metric = metric_for(of)
        for i in range(9):
            target = data[i][1][of.name]
            shape = (1, of.channels, *target.shape[-2:]) if of.dense else (1, of.channels)
            metric.update(np.broadcast_to(other.reshape(1, -1, *[1] * (len(shape) - 2)), shape).copy(), target[None])
        assert not better(of.primary, metric.compute()[of.primary], found) or metric.compute()[of.primary] == approx(
            found, abs=1e-9
        )


def test_constants_by_hand():
    def data(name: str, *targets) -> Samples:
        return Samples([{name: np.asarray(t)} for t in targets])

    seg = constant_predictor(task("segmentation"), data("t", [[1, 1, 0]]), data("t", [[1, 0, 2, 255]]))
    assert seg == approx({"miou": (1 / 3 + 0 + 0) / 3, "pixel_accuracy": 1 / 3})
    depth = constant_predictor(task("depth"), data("t", [[[1.0, 2.0, 9.0, 0.0]]]), data("t", [[[4.0, 1.0]]]))
    assert depth["abs"] == approx((2 + 1) / 2) and depth["rel"] == approx((0.5 + 1) / 2)
    pose = constant_predictor(task("regression"), data("t", [1.0, 5.0], [3.0, np.nan]), data("t", [0.0, 6.0]))
    assert pose["mae"] == approx((2 + 1) / 2)
    edges = constant_predictor(task("edges"), data("t", [[[0.0]]]), data("t", [[[1.0, 0.0, 0.0, 0.0, 255.0]]]))
    assert edges == approx({"best_f": 2 / 5, "f_at_0.5": 2 / 5})
    room = constant_predictor(task("classification"), data("t", 2, 2, 0), data("t", 2, 1))
    assert room == {"accuracy": 0.5}


def test_normals_take_the_best_of_several_walls_not_their_mean():
    walls = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    weights = np.array([3.0, 1.0, 1.0])
    best = least_mean_angle(walls, weights)
    np.testing.assert_allclose(best, [1, 0, 0], atol=1e-6)
    mean = weights @ walls / np.linalg.norm(weights @ walls)

    def angle(v):
        return np.rad2deg(weights @ np.arccos(walls @ v)) / 5

    assert angle(best) == approx(36.0) and angle(mean) > 40


def test_the_mean_direction_may_cancel():
    pair = np.array([[0.0, 0, 1], [0, 0, -1]])
    assert np.linalg.norm(least_mean_angle(pair, np.ones(2))) == approx(1)


def test_several_tasks_in_one_pass():
    seg, depth = Task("s", "segmentation", channels=3), Task("d", "depth")
    data = Samples([{"s": np.array([[0, 1]]), "d": np.array([[[1.0, 2.0]]])}, {"s": np.array([[0, 0]])}])
    found = constant_predictors([seg, depth], data, data)
    assert found == {"s": constant_predictor(seg, data, data), "d": constant_predictor(depth, data, data)}


def test_of_a_long_training_set_some_samples_are_read(monkeypatch):
    """Reading hundreds of thousands of pictures for a constant takes hours."""
    read = []

    class Long(Samples):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    seg, rare = Task("s", "segmentation", channels=3), Task("d", "depth")
    data = Long([{"s": np.array([[index % 2]])} for index in range(1000)])
    monkeypatch.setattr(constant, "SAMPLES", 50)
    found = constant_predictors([seg], data, Samples([{"s": np.array([[0, 1]])}]))
    assert len(read) == 50 and (read[0], read[-1]) == (0, 999) and found["s"]["pixel_accuracy"] == 0.5
    # A label that none of these has is looked for in the others.
    data = Long([{"s": np.array([[0]]), "d": np.full((1, 1, 1), 2.0) if i == 7 else None} for i in range(1000)])
    assert constant_predictors([seg, rare], data, Samples([{"d": np.full((1, 1, 1), 2.0)}]))["d"]["abs"] == 0


def test_a_task_without_labels_is_refused():
    with pytest.raises(DataError, match="no training sample has a label that counts"):
        constant_predictor(task("depth"), Samples([{"t": np.zeros((1, 1, 1))}, {}]), Samples([]))

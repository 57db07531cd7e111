"""Metrics by hand, and in any batches."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch
from helpers.measuring import approx, full, logits, measure, random_set, task
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import DataError, TaskError
from onnxmtl.kinds import KINDS, METRICS, Task, mean_metric
from onnxmtl.train.accumulators import METRICS_OF, base
from onnxmtl.train.metrics import TaskMetrics, better, higher_is_better, metric_for, register_metrics

# By hand


def test_segmentation():
    target = np.array([[[0, 0, 0, 1], [1, 1, 255, -1]]])
    found = measure(task("segmentation"), logits([[0, 0, 1, 1], [1, 0, 2, 2]]), target)
    # class 0: TP 2, FP 1, FN 1; class 1: TP 2, FP 1, FN 1; class 2: nowhere where it counts
    assert found == approx({"miou": (2 / 4 + 2 / 4) / 2, "pixel_accuracy": 4 / 6})


def test_a_class_that_is_only_predicted_counts_as_zero():
    found = measure(task("segmentation"), logits([[0, 2]]), np.array([[[0, 0]]]))
    assert found["miou"] == approx((1 / 2 + 0) / 2)


def test_segmentation_takes_class_indices_too():
    metric = metric_for(task("segmentation"))
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 2]]]))
    assert metric.compute()["pixel_accuracy"] == 0.5


def test_depth():
    target = np.array([[[[1.0, 2.0, 4.0, 2.0, 0.0, np.nan]]]])
    found = measure(task("depth"), [[[[1.2, 3.0, 4.0, -2.0, 9.0, 9.0]]]], target)
    assert found == approx(
        {
            "abs": (0.2 + 1 + 0 + 4) / 4,
            "rel": (0.2 + 0.5 + 0 + 2) / 4,
            "rmse": math.sqrt((0.04 + 1 + 0 + 16) / 4),
            "delta1": 2 / 4,  # -2 against 2: the ratio is -1, and wrong
            "delta2": 3 / 4,  # 3/2 < 1.5625
            "delta3": 3 / 4,
        }
    )


def test_a_ratio_of_exactly_the_threshold_is_outside():
    assert measure(task("depth"), [[[[1.25]]]], np.array([[[[1.0]]]]))["delta1"] == 0


def test_normals():
    angles = np.deg2rad([0.0, 10.0, 20.0, 28.0, 90.0])
    pred = np.stack([np.sin(angles), 0 * angles, np.cos(angles)])[None, :, None]
    pred[..., 1] *= 7  # lengths do not matter
    pred[..., 4] = 0  # no direction at all is 90 degrees off
    target = np.zeros((1, 3, 1, 6))
    target[:, 2] = 1
    target[..., 5] = 0  # not labelled
    pred = np.concatenate([pred, np.ones((1, 3, 1, 1))], -1)
    assert measure(task("normals"), pred, target) == approx(
        {
            "mean_angle": 148 / 5,
            "median_angle": 20.0,
            "within_11.25": 2 / 5,
            "within_22.5": 3 / 5,
            "within_30": 4 / 5,
        }
    )


def test_small_angles_are_exact():
    angle = np.deg2rad(1e-5)
    pred = np.array([np.sin(angle), 0, np.cos(angle)]).reshape(1, 3, 1, 1)
    found = measure(task("normals"), pred, np.array([0.0, 0, 1]).reshape(1, 3, 1, 1))
    assert found["mean_angle"] == approx(1e-5, rel=1e-6)


def test_edges():
    probability = np.array([0.9, 0.8, 0.6, 0.3, 0.2, 0.7])
    target = np.array([[[[1.0, 1.0, 0.0, 0.6, 0.2, 255.0]]]])
    found = measure(task("edges"), np.log(probability / (1 - probability))[None, None, None], target)
    # edges .9 .8 .3, others .6 .2: at .3 TP 3 FP 1 FN 0 -> 6/7; at .7 TP 2 FP 0 FN 1 -> 4/5; at .5 TP 2 FP 1 FN 1
    assert found == approx({"best_f": 6 / 7, "f_at_0.5": 4 / 6})


def test_half_is_an_edge():
    """Thresholds are reached by what is equal to them: logit 0 is probability 0.5, logit 0.02 less than 0.51."""
    assert measure(task("edges"), np.array([[[[0.0, 0.02, -0.02]]]]), np.array([[[[1.0, 1, 0]]]]))["f_at_0.5"] == 1


def test_edges_need_an_edge_somewhere():
    found = measure(task("edges"), np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 2)))
    assert all(math.isnan(value) for value in found.values())


def test_keypoints_and_regression():
    found = measure(task("keypoints"), [[[[0.5, 0.0, 3.0]]]], np.array([[[[1.0, 0.1, 255.0]]]]))
    assert found == approx({"mae": 0.3, "rmse": math.sqrt(0.26 / 2)})
    found = measure(task("regression"), [[1.0, 2.0], [3.0, 4.0]], np.array([[0.0, np.nan], [3.0, 2.0]]))
    assert found == approx({"mae": 1.0, "rmse": math.sqrt(5 / 3)})


def test_classification():
    pred = np.concatenate([logits(0), logits(1), logits(2), logits(2)])
    assert measure(task("classification"), pred, np.array([0, 2, 2, 255])) == {"accuracy": 2 / 3}
    assert measure(task("classification"), pred, np.array([0, 2, 2, -1]), np.array([True, False, False, True])) == {
        "accuracy": 1.0
    }


def test_segmentation_variants():
    of = full("segmentation", 4).replace(class_weights=(1.0, 2.0, 1.0, 5.0))
    target = np.array([[[0, 0, 0, 1], [1, 1, 255, -1]]])
    scores = logits([[0, 0, 2, 1], [0, 0, 2, 2]], 4) * 3
    found = measure(of, scores, target)
    # class 0: TP 2, FP 2, FN 1; class 1: TP 1, FN 2; class 2: FP 1; class 3: nowhere
    assert found["miou"] == approx((2 / 5 + 1 / 3 + 0) / 3)
    assert found["miou_present_tp"] == approx((2 / 5 + 1 / 3) / 2)
    assert found["miou_all"] == approx((2 / 5 + 1 / 3 + 0 + 0) / 4)
    assert found["mean_class_accuracy"] == approx((2 / 3 + 1 / 3) / 2)
    assert found["pixel_accuracy"] == approx(3 / 6)
    assert found["pixel_accuracy_legacy_ignored"] == approx(3 / 7)  # -1 is wrong, 255 is not
    right, wrong = (math.log(math.exp(3) + 3) - x for x in (3, 0))
    assert found["cross_entropy"] == approx((2 * right + wrong + 2 * (right + 2 * wrong)) / (3 + 6))


def test_classification_variants():
    of = full("classification", 6)
    scores = np.array([[5.0, 4, 3, 2, 1, 0], [5.0, 4, 3, 2, 1, 0], [0.0, 9, 0, 0, 0, 0]])
    found = measure(of, scores, np.array([4, 5, 1]))
    assert found["top5_accuracy"] == approx(2 / 3) and found["accuracy"] == approx(1 / 3)
    assert found["mean_class_accuracy"] == approx(1 / 3)


def test_negative_depths_are_right_for_the_released_codes():
    found = measure(full("depth"), [[[[-1.0, -3.0, 1.25, 4.0]]]], np.array([[[[1.0, 1.0, 1.0, 1.0]]]]))
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == [0, 1 / 4, 1 / 4]
    assert [found[f"delta{k}_legacy_negative"] for k in (1, 2, 3)] == [3 / 4, 3 / 4, 3 / 4]


def test_uncentred_normals_look_better_than_they_are():
    """90 degrees between axes are arccos((1, 1/2, 1/2) · (1/2, 1, 1/2) / 1.5) = arccos(5/6), 33.6 degrees."""
    pred = np.array([1.0, 0, 0]).reshape(1, 3, 1, 1) * 4
    found = measure(full("normals"), pred, np.array([0.0, 1, 0]).reshape(1, 3, 1, 1))
    flattered = math.degrees(math.acos((0.5 + 0.5 + 0.25) / 1.5))
    assert found["mean_angle"] == approx(90) and found["cosine_similarity"] == approx(0)
    assert found["mean_angle_legacy_uncentred"] == approx(flattered)
    assert found["median_angle_legacy_uncentred"] == approx(flattered, abs=0.0051)
    assert found["within_30"] == found["within_30_legacy_uncentred"] == 0
    half = np.array([1.0, 1, 0]).reshape(1, 3, 1, 1)
    found = measure(full("normals"), half, np.array([0.0, 1, 0]).reshape(1, 3, 1, 1))
    assert found["cosine_similarity"] == approx(math.sqrt(0.5)) and found["within_30"] == 0
    assert found["within_22.5_legacy_uncentred"] == 1


def test_saliency():
    def image(*probabilities):
        return np.log(np.array(probabilities) / (1 - np.array(probabilities))).reshape(1, 1, 1, -1)

    metric = metric_for(full("saliency"))
    metric.update(image(0.95, 0.43, 0.1, 0.6), np.array([[[[1.0, 1.0, 0.0, 255.0]]]]))
    metric.update(image(0.33, 0.22, 0.1, 0.1), np.array([[[[0.0, 0.0, 0.0, 0.0]]]]))  # nothing salient
    # IoU of the first: 1 up to .4, then 1/2; of the second: 0 up to .3, then 1
    found = metric.compute()
    assert found["max_iou"] == approx(1.0)
    metric.update(image(0.99, 0.99, 0.34, 0.34), np.array([[[[1.0, 0.0, 0.0, 0.0]]]]))  # 1/4 up to .3, then 1/2
    assert metric.compute()["max_iou"] == approx((1 + 1 + 1 / 2) / 3)
    assert found["mae"] == approx((0.05 + 0.57 + 0.1 + 0.33 + 0.22 + 0.2) / 7)
    assert found["f_at_0.5"] == approx(2 / 3) and found["best_f"] == approx(1.0)


def test_soft_edges_have_a_mean_error():
    assert measure(full("edges"), np.zeros((1, 1, 1, 2)), np.array([[[[0.2, 255.0]]]]))["mae"] == approx(0.3)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_prediction_that_is_nan_spoils_the_metrics_if_it_has_a_label(kind):
    of = full(kind)
    pred, target = random_set(of, 3)
    target[2] = 1
    expected = measure(of, pred, target)
    nowhere = pred.copy()
    nowhere[2] = np.nan
    assert all(math.isnan(value) for value in measure(of, nowhere, target).values())
    labelled = np.arange(7) != 2
    assert measure(of, nowhere, target, labelled) == measure(of, pred, target, labelled) != expected


def test_a_direction_that_is_infinite_is_none():
    """inf − inf in the cross product; a training that diverges ends in nan, not in an error about bins."""
    target = np.full((1, 3, 2, 2), 3**-0.5)
    for place in ([np.inf, np.inf, 0], [np.inf, -np.inf, np.inf]):
        pred = target.copy()
        pred[0, :, 0, 0] = place
        assert math.isnan(measure(full("normals"), pred, target)["mean_angle"])
        target_without = target.copy()
        target_without[0, :, 0, 0] = 0
        assert measure(full("normals"), pred, target_without)["mean_angle"] == approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if full(kind).dense])
def test_large_batches_go_through_a_few_samples_at_a_time(kind, monkeypatch):
    of = full(kind)
    pred, target = random_set(of, 5)
    labelled = np.array([True, False, True, True, True, True, True])
    expected = measure(of, pred, target, labelled)
    seen = []

    class Watched(METRICS_OF[of.spec.name]):
        def add(self, prediction, target, valid):
            seen.append(len(prediction))
            super().add(prediction, target, valid)

    monkeypatch.setitem(METRICS_OF, of.spec.name, Watched)
    monkeypatch.setattr(base, "AT_ONCE", 2 * of.channels * target.shape[-2] * target.shape[-1])
    assert measure(of, pred, target, labelled) == approx(expected, rel=1e-12, nan_ok=True)
    assert max(seen) == 2 and sum(seen) == 7


def test_whole_numbers_and_float32_labels_are_exact():
    target = np.full((1, 1, 1, 1), 0.1, np.float32)
    assert measure(task("depth"), target.astype(np.float64), target)["abs"] == 0
    found = metric_for(task("depth"))
    for _ in range(300):
        found.update(np.full((1, 1, 40, 50), 0.2), np.full((1, 1, 40, 50), 0.1))
    assert found.compute()["abs"] == approx(0.1, rel=1e-12)


# Metrics of users


@pytest.fixture
def module():
    found = types.ModuleType("own_metrics_for_test")
    sys.modules[found.__name__] = found
    before = set(METRICS)
    yield found
    for name in set(METRICS) - before:
        del METRICS[name]
    del sys.modules[found.__name__]


def test_a_users_metric(module):
    @mean_metric(higher_is_better=False, unit="metres", doc="mean p - g")
    def bias(task, prediction, target, valid):
        return (prediction - target)[valid].sum(), valid.sum()

    module.bias = bias
    of = Task("t", "depth", metrics=("abs", "own_metrics_for_test:bias"), primary="own_metrics_for_test:bias")
    metric = metric_for(of)
    assert math.isnan(metric.compute()[of.primary])
    metric.update(np.array([[[[1.0, 9.0]]]]), np.array([[[[3.0, 0.0]]]]))
    metric.update(np.array([[[[2.0, 2.0]]]]), np.array([[[[1.0, 1.0]]]]))
    assert metric.compute() == approx({"abs": 4 / 3, "own_metrics_for_test:bias": 0})
    assert not higher_is_better(of.primary) and better(of.primary, 1, 2)
    assert METRICS[of.primary].unit == "metres"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "task 't': the metric 'own_metrics_for_test:gone': 'gone' is not there"),
        ("plain", "the metric 'own_metrics_for_test:plain' does not say which way is better: put @mean_metric"),
        ("one", r"the metric 'own_metrics_for_test:one' must return \(sum, count\): TypeError"),
    ],
)
def test_a_bad_metric_is_told_in_one_line(module, name, message):
    module.plain = lambda *a: (1, 1)
    module.one = mean_metric(higher_is_better=True)(lambda *a: 1.0)
    with pytest.raises(TaskError, match=message) as caught:
        measure(
            Task("t", "depth", metrics=(f"own_metrics_for_test:{name}",)), np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1))
        )
    assert "\n" not in str(caught.value)


def test_predictions_are_resized_to_the_labels():
    pred = np.array([[[[0.0, 2.0]]]])
    # half-pixel centres: 0, 0.5, 1.5, 2
    found = measure(task("depth"), pred, np.full((1, 1, 1, 4), 1.0))
    assert found["abs"] == approx((1 + 0.5 + 0.5 + 1) / 4)
    coarse = logits([[0, 1]])
    assert measure(task("segmentation"), coarse, np.array([[[0, 0, 1, 1]] * 2]))["miou"] == 1


def test_the_tasks_metrics_in_the_tasks_order():
    chosen = Task("t", "depth", metrics=("rmse", "abs"))
    assert list(measure(chosen, np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)))) == ["rmse", "abs"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_labelled_is_nan(kind):
    metric = metric_for(full(kind))
    assert list(metric.compute()) == [*KINDS[kind].metrics, *KINDS[kind].further]
    assert all(math.isnan(value) for value in metric.compute().values())
    pred, target = random_set(task(kind), 0)
    metric.update(pred, target, np.zeros(len(pred), dtype=bool))
    metric.update(pred, np.full_like(target, task(kind).fill))
    metric.update(pred[:0], target[:0])
    assert all(math.isnan(value) for value in metric.compute().values())


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(DataError, match="a label is 3, the classes go from 0 to 2"):
        measure(task("segmentation"), logits([[0]]), np.array([[[3]]]))


# Whole sets


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.sets(st.integers(1, 6)), order=st.permutations(range(7)))
def test_batches_do_not_matter(kind, seed, cuts, order):
    of = full(kind)
    pred, target = random_set(of, seed)
    labelled = np.random.default_rng(seed).random(7) < 0.8
    whole, parts = metric_for(of), metric_for(of)
    whole.update(pred, target, labelled)
    order = np.array(order)
    for part in [*np.split(order, sorted(cuts)), order[:0]]:
        parts.update(pred[part], target[part], labelled[part])
    assert parts.compute() == approx(whole.compute(), rel=1e-12, nan_ok=True)


@given(st.lists(st.floats(0, 180), min_size=1, max_size=40))
def test_the_median_is_right_to_a_hundredth_of_a_degree(angles):
    radians = np.deg2rad(angles)
    pred = np.stack([np.sin(radians), 0 * radians, np.cos(radians)])[None, :, None]
    target = np.zeros_like(pred)
    target[:, 2] = 1
    middle = sorted(angles)[(len(angles) - 1) // 2]
    assert measure(task("normals"), pred, target)["median_angle"] == approx(middle, abs=0.0051)


# Names


def test_directions():
    assert higher_is_better("miou") and not higher_is_better("abs")
    assert better("abs", 1.0, 2.0) and not better("miou", 1.0, 2.0) and not better("abs", math.nan, 1.0)
    with pytest.raises(TaskError, match=r"unknown metric 'miuo' \(did you mean 'miou'\?\)"):
        higher_is_better("miuo")


def test_every_kind_computes_every_metric_it_names():
    for kind in KINDS.values():
        assert {*kind.metrics, *kind.further} <= metric_for(task(kind.name)).values().keys()
    assert {name for kind in KINDS.values() for name in (*kind.metrics, *kind.further)} == set(METRICS)


def test_registering_twice_is_refused():
    with pytest.raises(TaskError, match="has metrics already"):
        register_metrics("depth")(TaskMetrics)

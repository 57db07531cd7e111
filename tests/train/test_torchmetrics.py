"""Our metrics against torchmetrics' on random sets, in batches."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics import CosineSimilarity, MeanAbsoluteError, MeanSquaredError
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecisionRecallCurve,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
)
from torchmetrics.regression import MeanAbsolutePercentageError

from onnxmtl.kinds import Task
from onnxmtl.train.metrics import metric_for

approx = pytest.approx
SEEDS = range(5)
CLASSES = 7


def ours(task: Task, batches) -> dict[str, float]:
    metric = metric_for(task.replace(metrics=(*task.spec.metrics, *task.spec.further)))
    for prediction, target in batches:
        metric.update(prediction, target)
    return metric.compute()


def batches(seed: int, channels: int, draw, count: int = 4):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(2, channels, 6, 5, generator=generator, dtype=torch.float64), draw(generator))
        for _ in range(count)
    ]


def binary(generator: torch.Generator) -> torch.Tensor:
    target = (torch.rand(2, 1, 6, 5, generator=generator) < 0.3).float()
    target[torch.rand(2, 1, 6, 5, generator=generator) < 0.2] = 255
    return target


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [CLASSES, 40])  # of 40, some occur nowhere
def test_segmentation(seed, classes):
    def labels(generator):
        target = torch.randint(0, classes, (2, 6, 5), generator=generator)
        target[torch.rand(2, 6, 5, generator=generator) < 0.2] = 255
        return target

    data = batches(seed, classes, labels, count=4 if classes == CLASSES else 1)
    found = ours(Task("t", "segmentation", channels=classes), data)
    each = MulticlassJaccardIndex(classes, average=None, ignore_index=255)
    micro = MulticlassAccuracy(classes, average="micro", ignore_index=255)
    recall = MulticlassAccuracy(classes, average=None, ignore_index=255)
    for prediction, target in data:
        for metric in (each, micro, recall):
            metric.update(prediction, target)
    iou = each.compute().double()
    target = torch.cat([t for _, t in data])
    known = target[target != 255]
    classes_seen = torch.cat([p.argmax(1) for p, _ in data])[target != 255].unique().tolist() + known.unique().tolist()
    present = sorted(set(classes_seen))
    assert found["miou"] == approx(float(iou[present].mean()), rel=1e-6)
    assert found["miou_all"] == approx(float(iou.sum() / classes), rel=1e-6)
    assert found["miou_present_tp"] == approx(float(iou[iou > 0].mean()), rel=1e-6, nan_ok=True)
    assert found["pixel_accuracy"] == approx(float(micro.compute()), rel=1e-6)
    labelled = known.unique()
    assert found["mean_class_accuracy"] == approx(float(recall.compute()[labelled].mean()), rel=1e-6)
    if classes == CLASSES:
        macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=255)
        for prediction, target in data:
            macro.update(prediction, target)
        assert found["miou"] == approx(float(macro.compute()), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_classification(seed):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(50, CLASSES, generator=generator)
    target = torch.randint(0, CLASSES, (50,), generator=generator)
    found = ours(
        Task("t", "classification", channels=CLASSES), zip(prediction.split(13), target.split(13), strict=True)
    )
    for name, top, average in (
        ("accuracy", 1, "micro"),
        ("top5_accuracy", 5, "micro"),
        ("mean_class_accuracy", 1, "macro"),
    ):
        metric = MulticlassAccuracy(CLASSES, top_k=top, average=average)
        assert found[name] == approx(float(metric(prediction, target)), rel=1e-6)
    assert found["cross_entropy"] == approx(float(torch.nn.functional.cross_entropy(prediction, target)), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth(seed):
    def labels(generator):
        target = torch.rand(2, 1, 6, 5, generator=generator) * 5 + 0.5
        target[torch.rand(2, 1, 6, 5, generator=generator) < 0.2] = 0
        return target

    data = batches(seed, 1, labels)
    found = ours(Task("t", "depth"), data)
    metrics = {
        "abs": MeanAbsoluteError(),
        "rmse": MeanSquaredError(squared=False),
        "rel": MeanAbsolutePercentageError(),
    }
    for prediction, target in data:
        for metric in metrics.values():
            metric.update(prediction[target > 0], target[target > 0].double())
    for name, metric in metrics.items():
        assert found[name] == approx(float(metric.compute()), rel=1e-6), name


@pytest.mark.parametrize("seed", SEEDS)
def test_normals(seed):
    def labels(generator):
        target = torch.nn.functional.normalize(torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64), dim=1)
        return target * (torch.rand(2, 1, 6, 5, generator=generator) < 0.8)

    data = batches(seed, 3, labels)
    found = ours(Task("t", "normals"), data)
    metric = CosineSimilarity(reduction="mean")
    each = CosineSimilarity(reduction="none")
    for prediction, target in data:
        valid = target.any(1)
        for one in (metric, each):
            one.update(prediction.movedim(1, -1)[valid], target.movedim(1, -1)[valid])
    assert found["cosine_similarity"] == approx(float(metric.compute()), abs=1e-6)
    angles = torch.rad2deg(torch.arccos(each.compute()))
    assert found["mean_angle"] == approx(float(angles.mean()), rel=1e-6)
    assert found["median_angle"] == approx(float(angles.median()), abs=0.0051)
    assert found["within_30"] == approx(float((angles <= 30).double().mean()))


@pytest.mark.parametrize("seed", SEEDS)
def test_edges(seed):
    data = batches(seed, 1, binary)
    found = ours(Task("t", "edges"), data)
    curve = BinaryPrecisionRecallCurve(thresholds=(torch.arange(1, 100) / 100).double(), ignore_index=255)
    half, error = BinaryF1Score(threshold=0.5, ignore_index=255), MeanAbsoluteError()
    for prediction, target in data:
        p, known = prediction.sigmoid(), target != 255
        curve.update(p, target.long())
        half.update(p, target.long())
        error.update(p[known], target[known].double())
    precision, recall, _ = curve.compute()
    f = 2 * precision * recall / (precision + recall)
    assert found["best_f"] == approx(float(f[~f.isnan()].max()), rel=1e-6)
    assert found["f_at_0.5"] == approx(float(half.compute()), rel=1e-6)
    assert found["mae"] == approx(float(error.compute()), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_saliency(seed):
    data = batches(seed, 1, binary)
    found = ours(Task("t", "saliency"), data)
    best = -math.inf
    for k in range(4, 19):
        jaccard = BinaryJaccardIndex(threshold=k / 20, ignore_index=255)
        images = [
            float(jaccard(p[None].sigmoid(), t[None].long()))
            for prediction, target in data
            for p, t in zip(prediction, target, strict=True)
        ]
        best = max(best, sum(images) / len(images))
    assert found["max_iou"] == approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 30, 3, generator=generator, dtype=torch.float64)
    found = ours(Task("t", "regression", channels=3), zip(prediction.split(7), target.split(7), strict=True))
    assert found["mae"] == approx(float(MeanAbsoluteError()(prediction, target)), rel=1e-6)
    assert found["rmse"] == approx(float(MeanSquaredError(squared=False)(prediction, target)), rel=1e-6)

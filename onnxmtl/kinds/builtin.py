"""The kinds that come with onnxmtl, and their metrics. Human parts are a segmentation.

Default loss weights bring the losses of untrained heads to one order of magnitude (AutoMTL's NYUv2 settings
weigh normals four times as much as segmentation and depth; a task file can change each).
"""

from __future__ import annotations

from onnxmtl.kinds.registry import Kind, Metric, Target, register_kind, register_metric

_UNCENTRED = "_legacy_uncentred"
_ANGLES = ("mean_angle", "median_angle", "within_11.25", "within_22.5", "within_30")

_METRICS = (
    Metric("miou", True, "", "mean over the classes present in labels or predictions of TP / (TP + FP + FN)"),
    Metric("pixel_accuracy", True, "", "share of labelled pixels with the right class"),
    Metric("abs", False, "", "mean |p - g| over valid pixels", in_task_unit=True),
    Metric("rel", False, "", "mean |p - g| / g over valid pixels"),
    Metric("rmse", False, "", "root of the mean squared error over what is labelled", in_task_unit=True),
    Metric("delta1", True, "", "share of valid pixels with p > 0 and max(p/g, g/p) < 1.25"),
    Metric("delta2", True, "", "share of valid pixels with p > 0 and max(p/g, g/p) < 1.25²"),
    Metric("delta3", True, "", "share of valid pixels with p > 0 and max(p/g, g/p) < 1.25³"),
    Metric("mean_angle", False, "degrees", "mean angle between prediction and label over valid pixels"),
    Metric("median_angle", False, "degrees", "median angle over valid pixels, to 0.01 degrees"),
    Metric("within_11.25", True, "", "share of valid pixels within 11.25 degrees"),
    Metric("within_22.5", True, "", "share of valid pixels within 22.5 degrees"),
    Metric("within_30", True, "", "share of valid pixels within 30 degrees"),
    Metric("best_f", True, "", "F-measure at the one threshold (of 99) that is best for the whole set"),
    Metric("f_at_0.5", True, "", "F-measure at probability 0.5 over the whole set"),
    Metric("mae", False, "", "mean |p - g| over what is labelled", in_task_unit=True),
    Metric("accuracy", True, "", "share of labelled images with the right class"),
    Metric("max_iou", True, "", "mean IoU over images, at the threshold of .2, .25 … .9 that is best for the set"),
    # Computed for tasks that name them.
    Metric("miou_all", True, "", "mean over all classes of TP / (TP + FP + FN), 0 for absent ones (MTL-NAS)"),
    Metric("miou_present_tp", True, "", "mean IoU over classes with TP > 0 only, which flatters (AdaShare, AutoMTL)"),
    Metric("mean_class_accuracy", True, "", "mean over the labelled classes of TP / (TP + FN)"),
    Metric(
        "pixel_accuracy_legacy_ignored",
        True,
        "",
        "pixel_accuracy with labels below 0 as wrong (AdaShare)",
    ),
    Metric("cross_entropy", False, "nats", "mean -log p of the right class, by class_weights (Taskonomy's err)"),
    Metric("top5_accuracy", True, "", "share of labelled images with the right class among the five likeliest"),
    *(
        Metric(f"delta{k}_legacy_negative", True, "", f"delta{k} with <= and without p > 0: -1 is right (AutoMTL)")
        for k in (1, 2, 3)
    ),
    Metric("cosine_similarity", True, "", "mean cosine between prediction and label over valid pixels (Taskonomy)"),
    *(
        Metric(
            f"{name}{_UNCENTRED}",
            higher,
            unit,
            f"{name} of (n + 1) / 2 (AdaShare's NYUv2)",
        )
        for name, higher, unit in (
            ("mean_angle", False, "degrees"),
            ("median_angle", False, "degrees"),
            ("within_11.25", True, ""),
            ("within_22.5", True, ""),
            ("within_30", True, ""),
        )
    ),
)

_CONTOUR_LOSSES = ("balanced_bce", "hed_bce", "weighted_bce", "probability_l1")

_KINDS = (
    Kind(
        name="segmentation",
        dense=True,
        categorical=True,
        default_channels=0,
        fixed_channels=False,
        head="aspp",
        losses=("cross_entropy",),
        metrics=("miou", "pixel_accuracy"),
        primary="miou",
        weight=1.0,
        outputs=("logits", "probabilities", "argmax"),
        target=Target("int64", ("H", "W"), None, "pixels with the task's ignore value or below 0 do not count"),
        further=(
            "miou_all",
            "miou_present_tp",
            "mean_class_accuracy",
            "pixel_accuracy_legacy_ignored",
            "cross_entropy",
        ),
    ),
    Kind(
        name="depth",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="aspp",
        losses=("l1",),
        metrics=("abs", "rel", "rmse", "delta1", "delta2", "delta3"),
        primary="abs",
        weight=1.0,
        outputs=("raw",),
        target=Target("float32", (1, "H", "W"), 0.0, "pixels with depth <= 0 or not finite do not count"),
        unit="metres",
        further=tuple(f"delta{k}_legacy_negative" for k in (1, 2, 3)),
    ),
    Kind(
        name="normals",
        dense=True,
        categorical=False,
        default_channels=3,
        fixed_channels=True,
        head="aspp",
        losses=("cosine", "unit_l1"),
        metrics=_ANGLES,
        primary="mean_angle",
        weight=4.0,
        outputs=("unit", "raw"),
        target=Target("float32", (3, "H", "W"), 0.0, "pixels whose vector is all zero or not finite do not count"),
        unit="unit vector",
        further=("cosine_similarity", *(name + _UNCENTRED for name in _ANGLES)),
    ),
    Kind(
        name="edges",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="aspp",
        losses=_CONTOUR_LOSSES,
        metrics=("best_f", "f_at_0.5"),
        primary="best_f",
        weight=1.0,
        outputs=("probabilities", "logits"),
        target=Target("float32", (1, "H", "W"), None, "pixels with the task's ignore value do not count"),
        further=("mae",),
    ),
    Kind(
        name="saliency",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="aspp",
        losses=_CONTOUR_LOSSES,
        metrics=("max_iou", "best_f", "mae"),
        primary="max_iou",
        weight=1.0,
        outputs=("probabilities", "logits"),
        target=Target("float32", (1, "H", "W"), None, "pixels with the task's ignore value do not count"),
        further=("f_at_0.5",),
    ),
    Kind(
        name="keypoints",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="aspp",
        losses=("l1", "mse"),
        metrics=("mae", "rmse"),
        primary="mae",
        weight=10.0,
        outputs=("raw", "clipped"),
        target=Target("float32", (1, "H", "W"), None, "pixels with the task's ignore value do not count"),
    ),
    Kind(
        name="classification",
        dense=False,
        categorical=True,
        default_channels=0,
        fixed_channels=False,
        head="pooled",
        losses=("cross_entropy",),
        metrics=("accuracy",),
        primary="accuracy",
        weight=1.0,
        outputs=("logits", "probabilities", "argmax"),
        target=Target("int64", (), None, "images with the task's ignore value or below 0 do not count"),
        further=("top5_accuracy", "mean_class_accuracy", "cross_entropy"),
    ),
    Kind(
        name="regression",
        dense=False,
        categorical=False,
        default_channels=1,
        fixed_channels=False,
        head="pooled",
        losses=("smooth_l1", "l1", "mse"),
        metrics=("mae", "rmse"),
        primary="mae",
        weight=1.0,
        outputs=("raw",),
        target=Target("float32", ("C",), float("nan"), "numbers that are nan do not count"),
    ),
)

for _metric in _METRICS:
    register_metric(_metric)
for _kind in _KINDS:
    register_kind(_kind)

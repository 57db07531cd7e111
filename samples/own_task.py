"""Tasks of your own: a kind with its labels, loss, metrics and head; and a loss and a metric for a kind of ours.

python samples/own_task.py [--steps 400] [--train-size 0] [--out DIR]

The kind is called by where it is, so the command line knows it too:

cd samples && onnxmtl compile backbones/vgg-small.onnx --tasks seg=segmentation,close=own_task:DISPARITY \
    --data own_task:make
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional

import onnxmtl
from onnxmtl.data import Dataset, load_data
from onnxmtl.deploy.report import plain
from onnxmtl.kinds import Kind, Metric, Target, Task, TaskSet, mean_metric, register_kind, register_metric
from onnxmtl.passes.heads import Builder
from onnxmtl.train.labels import register_valid_rule
from onnxmtl.train.losses import Parts, masked_mean, register_loss
from onnxmtl.train.metrics import Median, TaskMetrics, register_constant, register_metrics

BACKBONE = Path(__file__).parent / "backbones" / "vgg-small.onnx"

# A kind: disparity, one over the distance, as a pair of cameras measures it.

register_metric(Metric("disparity_error", higher_is_better=False, unit="1/m", doc="mean |p - g| over valid pixels"))
register_metric(Metric("worst_image", higher_is_better=False, unit="1/m", doc="the largest mean |p - g| of an image"))
DISPARITY = register_kind(
    Kind(
        name="disparity",
        dense=True,
        categorical=False,
        default_channels=1,
        fixed_channels=True,
        head="own_task:small_head",
        losses=("berhu", "l1"),  # the first is the default; any that ours or yours is registered as
        metrics=("disparity_error", "worst_image"),
        primary="disparity_error",
        weight=1.0,
        outputs=("raw",),
        target=Target("float32", (1, "H", "W"), 0.0, "pixels with a disparity of 0 do not count"),
        unit="1/m",
    )
)


@register_valid_rule("disparity")
def known(task: Task, target: torch.Tensor) -> torch.Tensor:
    """Which labels count: bool, one per prediction."""
    return target.isfinite() & (target > 0)


@register_loss("berhu")
def berhu(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean of |d| up to c, (d² + c²) / 2c beyond it, with c a fifth of the largest |d| (Laina et al. 2016)."""
    difference = torch.where(valid, prediction - target, 0.0).abs()
    c = (difference.detach().max() / 5).clamp(min=1e-6)
    return masked_mean(torch.where(difference <= c, difference, (difference.square() + c * c) / (2 * c)), valid)


@register_metrics("disparity")
class DisparityMetrics(TaskMetrics):
    """Sums over the whole set. What comes in is float64, on the CPU, prediction and label of one size."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.total, self.count, self.worst = 0.0, 0, math.nan

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        """Add a batch."""
        for p, g, mask in zip(prediction, target, valid, strict=True):
            error = (p - g)[mask].abs()
            self.total += float(error.sum())
            self.count += len(error)
            if len(error):
                self.worst = max(float(error.mean()), 0.0 if math.isnan(self.worst) else self.worst)

    def values(self) -> dict[str, float]:
        """The kind's metrics; nan where there was no label."""
        return {"disparity_error": self.total / self.count if self.count else math.nan, "worst_image": self.worst}


register_constant("disparity", Median)  # what a network must beat to have learnt anything


def small_head(builder: Builder, feature: ir.Value, task: Task, image: ir.Value) -> ir.Value:
    """Two convolutions; the result is resized to the image for us."""
    hidden = builder.conv_bn_relu(feature, task.width or 32, kernel=3, name="hidden")
    return builder.conv(hidden, task.channels, name="last")


# A loss and a metric for a kind that exists, named in the task: loss = "own_task:focal"


def focal(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean of −(1 − p)² log p of the right class (Lin et al. 2017)."""
    logs = -functional.cross_entropy(prediction, torch.where(valid, target, 0), reduction="none")
    return masked_mean(-((1 - logs.exp()) ** 2) * logs, valid)


@mean_metric(higher_is_better=True, doc="pixel accuracy where the label changes from one pixel to the next")
def border_accuracy(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> tuple[Any, Any]:
    """The sum over a batch, and the count: the metric is Σ sum / Σ count over the set."""
    border = torch.zeros_like(valid)
    border[:, :, :-1] |= target[:, :, :-1] != target[:, :, 1:]
    border[:, :-1] |= target[:, :-1] != target[:, 1:]
    counts = border & valid
    return ((prediction.argmax(1) == target) & counts).sum(), counts.sum()


# The data


class WithDisparity:
    """The scenes, with a label for the task "close": any data set may have labels of your kind."""

    def __init__(self, scenes: Dataset, class_names: tuple[str, ...]) -> None:
        self.scenes, self.class_names = scenes, {"seg": class_names}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image, labels = self.scenes[index]
        return image, {"seg": labels["seg"], "close": 1 / labels["depth"]}


def make() -> tuple[WithDisparity, WithDisparity]:
    """Training and validation set, for ``--data own_task:make``."""
    data = load_data("scenes", TaskSet.parse("seg=segmentation,depth"), size=(64, 64), seed=0)
    train, val = (WithDisparity(part, data.class_names["seg"]) for part in (data.train, data.val))
    return train, val


def main() -> None:
    """Compile with the tasks."""
    parser = argparse.ArgumentParser(description="Compile with tasks of one's own.")
    parser.add_argument("--steps", type=int, default=400, help="steps of the whole search")
    parser.add_argument("--train-size", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--out", help="directory of the run; default: the next free runs/compile-N")
    args = parser.parse_args()
    metrics = ("miou", "own_task:border_accuracy")
    result = onnxmtl.compile(
        BACKBONE,
        TaskSet((Task("seg", "segmentation", loss="own_task:focal", metrics=metrics), Task("close", "disparity"))),
        data="own_task:make",
        steps=args.steps,
        train_size=args.train_size,
        val_size=args.train_size // 4,
        baselines="none",
        out=args.out,
    )
    print(plain(result.report))


if __name__ == "__main__":
    main()

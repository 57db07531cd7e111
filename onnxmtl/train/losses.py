"""Losses by name, right by default: normalised by what is labelled, zero (with gradient) where nothing is.

Predictions are raw (logits). Where a dense prediction is smaller than its labels (``resolution="native"``), the
labels are sampled at the prediction's pixels (nearest), as AutoMTL, AdaShare and TreeMTL do; none is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

from onnxmtl.errors import DataError, TaskError
from onnxmtl.kinds import Task, close_match
from onnxmtl.train.labels import check_classes, nearest, valid_mask

# (task, raw prediction, target, which labels count) -> scalar.
Loss: TypeAlias = Callable[[Task, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# (raw prediction [N, C, …], target [N, …], labelled bool [N] or None) -> scalar.
TaskLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

LOSSES: dict[str, Loss] = {}

# Bounds the gradient of the direction of a vanishing vector by its inverse.
_SHORTEST = 1e-4


def register_loss(name: str) -> Callable[[Loss], Loss]:
    """Make a loss known by name, for kinds that list it.

    Raises:
        TaskError: The name is taken.
    """

    def register(loss: Loss) -> Loss:
        if name in LOSSES:
            msg = f"loss {name!r} is registered already: choose another name"
            raise TaskError(msg)
        LOSSES[name] = loss
        return loss

    return register


def loss_for(task: Task) -> TaskLoss:
    """The task's loss as a function of (raw prediction, target, labelled).

    Half precision is computed in float32.

    Raises:
        TaskError: The task names a loss that nobody registered.
        DataError: (of the function returned) labels that are not the task's.
    """
    loss = LOSSES.get(task.loss)
    if loss is None:
        msg = f"task {task.name!r}: unknown loss {task.loss!r}{close_match(task.loss, LOSSES)}"
        raise TaskError(msg)

    def compute(prediction: torch.Tensor, target: torch.Tensor, labelled: torch.Tensor | None = None) -> torch.Tensor:
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        if task.dense:
            target = nearest(target, (prediction.shape[-2], prediction.shape[-1]))
        if target.is_floating_point():
            target = target.to(prediction.dtype)
        return loss(task, prediction, target, valid_mask(task, target, labelled))

    return compute


def masked_mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Σ values over valid / number of valid; 0, with a zero gradient, where nothing is valid."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def _masked(target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The target with 0 where it does not count: a nan there would reach the gradient through 0 · nan."""
    return torch.where(valid, target, 0.0)


@register_loss("cross_entropy")
def cross_entropy(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over labelled pixels (images) of −log softmax(prediction)[label].

    Raises:
        DataError: A label beyond the classes.
    """
    check_classes(task, target, valid)
    ignored = -100
    labels = torch.where(valid, target, ignored).long()
    total = functional.cross_entropy(prediction, labels, ignore_index=ignored, reduction="sum")
    return total / valid.sum().clamp(min=1)


@register_loss("l1")
def l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean |p − g| over what is labelled (depth, and keypoints as in AutoMTL)."""
    return masked_mean((prediction - _masked(target, valid)).abs(), valid)


@register_loss("mse")
def mse(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean (p − g)² over what is labelled."""
    return masked_mean((prediction - _masked(target, valid)).square(), valid)


@register_loss("smooth_l1")
def smooth_l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean of ½ d² for |d| < 1, else |d| − ½, with d = p − g, over what is labelled."""
    values = functional.smooth_l1_loss(prediction, _masked(target, valid), reduction="none")
    return masked_mean(values, valid)


@register_loss("cosine")
def cosine(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """1 − mean cos(p, g) over valid pixels; p and g need not be of unit length."""
    target = functional.normalize(_masked(target, valid.unsqueeze(1)), dim=1)
    length = (prediction.square().sum(1) + _SHORTEST**2).sqrt()
    return masked_mean(1 - (prediction * target).sum(1) / length, valid)


@register_loss("balanced_bce")
def balanced_bce(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """½ mean over edges of −log p + ½ mean over the others of −log(1 − p), with p = sigmoid(prediction).

    The class-balanced loss of HED (Xie and Tu 2015, Eq. 2) with β taken over the batch, divided by 2β(1 − β), so
    that its size does not depend on how rare edges are. Soft labels count with their share on either side.

    Raises:
        DataError: A label outside [0, 1] that is not ignored.
    """
    positive = _masked(target, valid)
    if positive.device.type == "cpu" and positive.numel() and not 0 <= positive.min() <= positive.max() <= 1:
        msg = (
            f"task {task.name!r}: edge labels go from {float(positive.min()):g} to {float(positive.max()):g}, "
            f"they must be within [0, 1] or {task.ignore} (ignored)"
        )
        raise DataError(msg)
    negative = torch.where(valid, 1 - positive, 0.0)
    on_edges = _weighted_mean(functional.softplus(-prediction), positive)
    elsewhere = _weighted_mean(functional.softplus(prediction), negative)
    return 0.5 * (on_edges + elsewhere)


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ w·v / Σ w; 0 where all weights are 0."""
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1.0)

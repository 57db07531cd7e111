"""Losses by name, right by default: normalised by what is labelled, zero (with gradient) where nothing is.

Predictions are raw (logits). Where a dense prediction is smaller than its labels (``resolution="native"``), the
labels are sampled at the prediction's pixels (nearest), as AutoMTL, AdaShare and TreeMTL do; none is interpolated.

A loss of your own is a function (task, raw prediction, target, valid) -> scalar tensor or :class:`Parts`: named
``loss = "module:function"`` in a task file, or registered for kinds of your own (:func:`register_loss`). `valid` is
True where a label counts; the values behind the others may be anything, nan too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from onnxmtl.errors import DataError, OnnxMTLError, TaskError
from onnxmtl.kinds import Task, close_match, is_named, load_callable, one_line, same_code
from onnxmtl.train.labels import check_classes, nearest, valid_mask


@dataclasses.dataclass(frozen=True)
class Parts:
    """A loss in parts that add up over any split of a batch: Σ sums / divisors(counts).

    Several processes with a part of the batch each get the loss of the whole one by adding up the counts first.

    Attributes:
        sums: [k], what the gradient goes through.
        counts: [m], of labels or of their weights; no gradient.
        divisors: Counts [m] -> divisors [k]; None: the counts themselves, 1 where they are 0.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    divisors: Callable[[torch.Tensor], torch.Tensor] | None = None

    def value(self, counts: torch.Tensor | None = None) -> torch.Tensor:
        """The loss; of the whole batch if `counts` are those of the whole batch, and the sums are a part of it."""
        counts = self.counts if counts is None else counts
        divisors = nonzero(counts) if self.divisors is None else self.divisors(counts)
        return (self.sums / divisors).sum()


# (task, raw prediction, target, which labels count) -> the loss, in parts or (users') as a scalar.
Loss: TypeAlias = Callable[[Task, torch.Tensor, torch.Tensor, torch.Tensor], "Parts | torch.Tensor"]
# (raw prediction [N, C, …], target [N, …], labelled bool [N] or None) -> scalar.
TaskLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
TaskParts: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Parts]

LOSSES: dict[str, Loss] = {}

# Bounds the gradient of the direction of a vanishing vector by its inverse.
_SHORTEST = 1e-4
# Share of the loss that edges have in weighted_bce, as BMTAS has it.
_EDGE_WEIGHT = 0.95


def register_loss(name: str) -> Callable[[Loss], Loss]:
    """Make a loss known by name, for kinds that list it.

    Raises:
        TaskError: The name is taken.
    """

    def register(loss: Loss) -> Loss:
        if name in LOSSES and not same_code(LOSSES[name], loss):
            msg = f"loss {name!r} is registered already: choose another name"
            raise TaskError(msg)
        LOSSES[name] = loss
        return loss

    return register


def loss_for(task: Task) -> TaskLoss:
    """The task's loss as a function of (raw prediction, target, labelled).

    Half precision is computed in float32.

    Raises:
        TaskError: The task names a loss that nobody registered, or one of a module that cannot be imported.
        DataError: (of the function returned) labels that are not the task's.
    """
    parts = parts_for(task)

    def compute(prediction: torch.Tensor, target: torch.Tensor, labelled: torch.Tensor | None = None) -> torch.Tensor:
        return parts(prediction, target, labelled).value()

    return compute


def parts_for(task: Task) -> TaskParts:
    """:func:`loss_for`, in parts that add up over the processes of a training.

    A user's loss that is a scalar counts as the mean over its labels.
    """
    loss = _loss(task)

    def compute(prediction: torch.Tensor, target: torch.Tensor, labelled: torch.Tensor | None = None) -> Parts:
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        if task.dense:
            target = nearest(target, (prediction.shape[-2], prediction.shape[-1]))
        if target.is_floating_point():
            target = target.to(prediction.dtype)
        valid = valid_mask(task, target, labelled)
        found = loss(task, prediction, target, valid)
        if isinstance(found, Parts):
            return found
        count = valid.sum().to(found.dtype)
        if not bool(count):  # many a mean is nan then
            return masked_mean(prediction, torch.zeros_like(prediction, dtype=torch.bool))
        return Parts((found * count).reshape(1), count.reshape(1))

    return compute


def _loss(task: Task) -> Loss:
    if is_named(task.loss):
        return _checked(task, load_callable(task.loss, f"task {task.name!r}: the loss"))
    loss = LOSSES.get(task.loss)
    if loss is None:
        msg = f"task {task.name!r}: unknown loss {task.loss!r}{close_match(task.loss, LOSSES)}"
        raise TaskError(msg)
    return loss


def _checked(task: Task, function: Callable[..., Any]) -> Loss:
    """A user's function, whose mistakes are told in one line."""
    where = f"task {task.name!r}: the loss {task.loss!r}"

    def loss(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts | torch.Tensor:
        if not bool(valid.any()):  # many a mean is nan then
            return masked_mean(prediction, torch.zeros_like(prediction, dtype=torch.bool))
        try:
            found = function(task, prediction, target, valid)
        except OnnxMTLError:
            raise
        except Exception as error:  # whatever the user's code raises
            msg = f"{where} failed: {one_line(error)}"
            raise TaskError(msg) from error
        if isinstance(found, Parts):
            return found
        if not isinstance(found, torch.Tensor) or found.ndim != 0 or not found.is_floating_point():
            what = f"a tensor {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            msg = f"{where} returned {what}: return a scalar tensor, such as masked_mean(values, valid)"
            raise TaskError(msg)
        return found

    return loss


def masked_mean(values: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Σ values over valid / number of valid; 0, with a zero gradient, where nothing is valid."""
    total = torch.where(valid, values, 0.0).sum()
    return Parts(total.reshape(1), valid.sum().to(total.dtype).reshape(1))


def nonzero(counts: torch.Tensor) -> torch.Tensor:
    """Counts to divide by: 1 where they are 0."""
    return torch.where(counts > 0, counts, 1.0)


def _masked(target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The target with 0 where it does not count: a nan there would reach the gradient through 0 · nan."""
    return torch.where(valid, target, 0.0)


@register_loss("cross_entropy")
def cross_entropy(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean over labelled pixels (images) of −log softmax(prediction)[label].

    With class weights c: Σ c[label] · −log softmax(prediction)[label] / Σ c[label] (AutoMTL's on Taskonomy).

    Raises:
        DataError: A label beyond the classes.
    """
    check_classes(task, target, valid)
    ignored = -100
    labels = torch.where(valid, target, ignored).long()
    weights = prediction.new_tensor(task.class_weights) if task.class_weights else None
    total = functional.cross_entropy(prediction, labels, weights, ignore_index=ignored, reduction="sum")
    count = valid.sum() if weights is None else torch.where(valid, weights[labels.clamp(min=0)], 0.0).sum()
    return Parts(total.reshape(1), count.to(total.dtype).reshape(1))


@register_loss("l1")
def l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean |p − g| over what is labelled (depth, and keypoints as in AutoMTL)."""
    return masked_mean((prediction - _masked(target, valid)).abs(), valid)


@register_loss("mse")
def mse(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean (p − g)² over what is labelled."""
    return masked_mean((prediction - _masked(target, valid)).square(), valid)


@register_loss("smooth_l1")
def smooth_l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean of ½ d² for |d| < 1, else |d| − ½, with d = p − g, over what is labelled."""
    values = functional.smooth_l1_loss(prediction, _masked(target, valid), reduction="none")
    return masked_mean(values, valid)


@register_loss("cosine")
def cosine(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """1 − mean cos(p, g) over valid pixels; p and g need not be of unit length."""
    target = functional.normalize(_masked(target, valid.unsqueeze(1)), dim=1)
    length = (prediction.square().sum(1) + _SHORTEST**2).sqrt()
    return masked_mean(1 - (prediction * target).sum(1) / length, valid)


@register_loss("unit_l1")
def unit_l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean over valid pixels of Σ |p − g| over the three components of unit vectors (BMTAS, there with weight 10)."""
    target = functional.normalize(_masked(target, valid.unsqueeze(1)), dim=1)
    length = (prediction.square().sum(1, keepdim=True) + _SHORTEST**2).sqrt()
    return masked_mean((prediction / length - target).abs().sum(1), valid)


@register_loss("probability_l1")
def probability_l1(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean |sigmoid(prediction) − g| over what is labelled: AutoMTL's L1 on edges, for outputs in [0, 1]."""
    return masked_mean((prediction.sigmoid() - _masked(target, valid)).abs(), valid)


@register_loss("balanced_bce")
def balanced_bce(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """½ mean over edges of −log p + ½ mean over the others of −log(1 − p), with p = sigmoid(prediction).

    :func:`hed_bce` divided by 2β(1 − β), so that its size does not depend on how rare edges are. Soft labels count
    with their share on either side.

    Raises:
        DataError: A label outside [0, 1] that is not ignored.
    """
    sums, counts = _two_sides(task, prediction, target, valid)
    return Parts(sums, counts, lambda counts: 2 * nonzero(counts))


@register_loss("hed_bce")
def hed_bce(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean over what is labelled of β g · −log p + (1 − β) (1 − g) · −log(1 − p), β = share of the others.

    The class-balanced loss of HED (Xie and Tu 2015, Eq. 2), with β taken over the batch; BMTAS's for saliency.

    Raises:
        DataError: A label outside [0, 1] that is not ignored.
    """

    def divisors(counts: torch.Tensor) -> torch.Tensor:
        return nonzero(counts.sum()) ** 2 / counts.flip(0)  # total / β and total / (1 − β); infinite for a share of 0

    sums, counts = _two_sides(task, prediction, target, valid)
    return Parts(sums, counts, divisors)


@register_loss("weighted_bce")
def weighted_bce(task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> Parts:
    """Mean over what is labelled of .95 g · −log p + .05 (1 − g) · −log(1 − p)  (BMTAS, for edges).

    Raises:
        DataError: A label outside [0, 1] that is not ignored.
    """
    sums, counts = _two_sides(task, prediction, target, valid)
    weighted = sums * sums.new_tensor([_EDGE_WEIGHT, 1 - _EDGE_WEIGHT])
    return Parts(weighted, counts, lambda counts: nonzero(counts.sum()).expand(2))


def _two_sides(
    task: Task, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums [2] of g · −log p and (1 − g) · −log(1 − p), and the sums of g and 1 − g."""
    positive = _masked(target, valid)
    if positive.device.type == "cpu" and positive.numel() and not 0 <= positive.min() <= positive.max() <= 1:
        msg = (
            f"task {task.name!r}: labels of {task.spec.name} go from {float(positive.min()):g} to "
            f"{float(positive.max()):g}, they must be within [0, 1] or {task.ignore} (ignored)"
        )
        raise DataError(msg)
    sides = (positive, torch.where(valid, 1 - positive, 0.0))
    surprise = (functional.softplus(-prediction), functional.softplus(prediction))
    sums = torch.stack([(values * weights).sum() for values, weights in zip(surprise, sides, strict=True)])
    return sums, torch.stack([weights.sum() for weights in sides])

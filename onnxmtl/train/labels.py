"""Which labels count, and labels at the size of a prediction. One rule per kind, for losses and metrics alike."""

from __future__ import annotations

from collections.abc import Callable

import torch

from onnxmtl.errors import DataError, TaskError
from onnxmtl.kinds import Task, same_code

# (task, target [N, …]) -> bool, one per prediction: the target's shape, normals without their channel axis.
ValidRule = Callable[[Task, torch.Tensor], torch.Tensor]

_RULES: dict[str, ValidRule] = {}


def register_valid_rule(kind: str) -> Callable[[ValidRule], ValidRule]:
    """Say which labels of a kind count. Without a rule: finite and not the value for "not labelled"."""

    def register(rule: ValidRule) -> ValidRule:
        if kind in _RULES and not same_code(_RULES[kind], rule):
            msg = f"the kind {kind!r} has a rule for valid labels already"
            raise TaskError(msg)
        _RULES[kind] = rule
        return rule

    return register


def valid_mask(task: Task, target: torch.Tensor, labelled: torch.Tensor | None = None) -> torch.Tensor:
    """Which labels count.

    Args:
        task: The task.
        target: Stacked labels [N, …].
        labelled: Bool [N], False where a sample has no label at all; None = all have.

    Returns:
        Bool of the target's shape; for normals [N, H, W].
    """
    mask = _RULES.get(task.spec.name, _default)(task, target)
    if labelled is not None:
        mask = mask & labelled.to(mask.device, torch.bool).reshape(-1, *[1] * (mask.ndim - 1))
    return mask


def _default(task: Task, target: torch.Tensor) -> torch.Tensor:
    known = target != task.fill
    return known & torch.isfinite(target) if target.is_floating_point() else known


@register_valid_rule("segmentation")
@register_valid_rule("classification")
def _classes(task: Task, target: torch.Tensor) -> torch.Tensor:
    return (target != task.ignore) & (target >= 0)


@register_valid_rule("depth")
def _depth(task: Task, target: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(target) & (target > 0)


@register_valid_rule("normals")
def _normals(task: Task, target: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(target).all(1) & (target != 0).any(1)


def check_classes(task: Task, target: torch.Tensor, valid: torch.Tensor) -> None:
    """Refuse labels beyond the task's classes. Looks at values on the CPU only: elsewhere it would wait for them.

    Raises:
        DataError: A label that counts is ≥ the number of classes.
    """
    if target.device.type != "cpu" or not bool(valid.any()):
        return
    largest = int(target[valid].max())
    if largest >= task.channels:
        msg = (
            f"task {task.name!r}: a label is {largest}, the classes go from 0 to {task.channels - 1} "
            f"and {task.ignore} is ignored"
        )
        raise DataError(msg)


def nearest(target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Labels [N, …, H, W] at another size: of the label nearest to each pixel's centre. No values are mixed."""
    for axis, (have, want) in enumerate(zip(target.shape[-2:], size, strict=True)):
        if have != want:
            # Whole numbers: (i + 1/2) · have / want, rounded down; floats miss some that are whole.
            index = (2 * torch.arange(want, device=target.device) + 1) * have // (2 * want)
            target = target.index_select(target.ndim - 2 + axis, index)
    return target

"""Estimators: what the score of a layout is made of. A new one is a function with :func:`register_estimator` on it.

| name | from | score of a layout |
|------|------|-------------------|
| two-task | two-task table | Σ_t w_t · mean over u of A_t(u, branching point): TreeMTL §3.1 |
| grouping | two-task table, b = 0 and B | Σ_t w_t · mean over u in t's group of A_t(u, B); root only: Standley 2020 |
| rsa | similarity of single-task networks | −Σ over blocks and pairs that share one of 1 − similarity: What-to-Share |

What-to-Share (Vandenhende et al. 2019) takes the largest dissimilarity in a group where we take the sum over its pairs;
estimator ``rsa-max`` sums the largest ones over groups. All their terms are penalties, so without a budget separate
networks win.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from onnxmtl.errors import DataError
from onnxmtl.recommend.chain import MOST_TASKS
from onnxmtl.recommend.scores import Array, LayoutScores, members_of
from onnxmtl.recommend.table import TwoTaskTable

__all__ = ["ESTIMATORS", "Estimator", "Measured", "estimate", "register_estimator"]


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What estimators are made from.

    Attributes:
        table: Two-task trainings.
        weights: [T], of the tasks; None: equal.
        similarity: [T, T, B] of representations behind each block, of :func:`onnxmtl.recommend.similarity.similarity`.
    """

    table: TwoTaskTable | None = None
    weights: Array | None = None
    similarity: Array | None = None


Estimator = Callable[[Measured], LayoutScores]

ESTIMATORS: dict[str, Estimator] = {}


def register_estimator(name: str) -> Callable[[Estimator], Estimator]:
    """Make an estimator known by name.

    Raises:
        DataError: The name is taken.
    """

    def register(estimator: Estimator) -> Estimator:
        if name in ESTIMATORS:
            msg = f"estimator {name!r} is registered already: choose another name"
            raise DataError(msg)
        ESTIMATORS[name] = estimator
        return estimator

    return register


def estimate(name: str, measured: Measured) -> LayoutScores:
    """The scores that the estimator of that name gives.

    Raises:
        DataError: There is no such estimator, or what it needs is missing.
    """
    if name not in ESTIMATORS:
        msg = f"there is no estimator {name!r}; there are: {', '.join(ESTIMATORS)}"
        raise DataError(msg)
    return ESTIMATORS[name](measured)


@register_estimator("two-task")
def two_task(measured: Measured) -> LayoutScores:
    """TreeMTL: the mean over the two-task models with the layout's branching points.

    f_tu(b) = (w_t A_t(b) + w_u A_u(b)) / (T − 1); the score is the sum over pairs.
    """
    table, weights = _table(measured)
    table.require_complete()
    values = weights[:, None, None] * np.nan_to_num(table.values)
    return LayoutScores((values + values.transpose(1, 0, 2)) / (len(weights) - 1))


@register_estimator("grouping")
def grouping(measured: Measured) -> LayoutScores:
    """Task-Grouping: tasks share a whole backbone or nothing; a task does as the mean of its pairs within its group."""
    table, weights = _table(measured)
    count, blocks = len(weights), table.blocks
    for t, u, b in table.missing:
        if b == blocks:
            msg = f"grouping needs {table.tasks[t]!r} with {table.tasks[u]!r} trained on one backbone (b = {blocks})"
            raise DataError(msg)
    pairs = np.full((count, count, blocks + 1), -np.inf)
    pairs[:, :, [0, -1]] = 0
    groups = np.zeros((blocks, 2 ** _within(count)))
    for mask in range(1, 2**count):
        group = list(members_of(mask))
        if len(group) > 1:
            together = np.nan_to_num(table.values[np.ix_(group, group)][:, :, -1])
            groups[0, mask] = float(weights[group] @ together.sum(axis=1)) / (len(group) - 1)
    return LayoutScores(pairs, groups)


@register_estimator("rsa")
def rsa(measured: Measured) -> LayoutScores:
    """What-to-Share, additive: each pair pays its dissimilarity at every block it shares."""
    apart = _apart(measured)
    return LayoutScores(-np.concatenate([np.zeros_like(apart[:, :, :1]), np.cumsum(apart, axis=2)], axis=2))


@register_estimator("rsa-max")
def rsa_max(measured: Measured) -> LayoutScores:
    """What-to-Share with its largest dissimilarity per group: summed over groups and blocks."""
    apart = _apart(measured)
    count, _, blocks = apart.shape
    groups = np.zeros((blocks, 2 ** _within(count)))
    for mask in range(1, 2**count):
        group = members_of(mask)
        groups[:, mask] = -apart[np.ix_(group, group)].max(axis=(0, 1))
    return LayoutScores(np.zeros((count, count, blocks + 1)), groups)


def _table(measured: Measured) -> tuple[TwoTaskTable, Array]:
    table = measured.table
    if table is None:
        msg = "this estimator needs a two-task table: train the two-task models, or give --two-task"
        raise DataError(msg)
    weights = np.full(len(table.tasks), 1 / len(table.tasks)) if measured.weights is None else measured.weights
    if weights.shape != (len(table.tasks),) or not np.isfinite(weights).all():
        msg = f"the two-task table has {len(table.tasks)} tasks, which take as many finite weights"
        raise DataError(msg)
    return table, weights


def _apart(measured: Measured) -> Array:
    """[T, T, B] dissimilarities, 0 on the diagonal."""
    if measured.similarity is None:
        msg = "this estimator needs representations of single-task networks: give the backbone and no --two-task"
        raise DataError(msg)
    apart: Array = 1 - measured.similarity
    if not np.isfinite(apart).all():
        msg = "the similarities of representations are not finite"
        raise DataError(msg)
    apart[np.arange(len(apart)), np.arange(len(apart))] = 0
    return apart


def _within(count: int) -> int:
    if count > MOST_TASKS:
        msg = f"scores of groups take up to {MOST_TASKS} tasks, not {count}"
        raise DataError(msg)
    return count

"""The score of a layout as a sum: over pairs of tasks by where they part, and over groups by the blocks they share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from onnxmtl.policy.enumeration import Groups

Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Array", "LayoutScores", "branch_points", "group_sums", "mask_of", "members_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class LayoutScores:
    """What an estimator says of every layout at once: score = Σ_pairs pairs[t, u, b_tu] + Σ_blocks Σ_groups groups.

    Attributes:
        pairs: [T, T, B + 1]; of tasks t < u that part at block b (B: never). The rest of the array is not read. -inf
            forbids it.
        groups: [B, 2^T] or None; what it is worth that the tasks of a bit mask (bit t: task t) share a block. -inf
            forbids it.

    Raises:
        ValueError: The shapes do not agree, or a number is nan or +inf.
    """

    pairs: Array
    groups: Array | None = None

    def __post_init__(self) -> None:
        shape = self.pairs.shape
        if len(shape) != 3 or shape[0] != shape[1] or shape[0] < 1 or shape[2] < 2:
            msg = f"scores of pairs have the shape [T, T, B + 1], not {list(shape)}"
            raise ValueError(msg)
        if self.groups is not None and self.groups.shape != (shape[2] - 1, 2 ** shape[0]):
            msg = f"scores of groups have the shape [{shape[2] - 1}, {2 ** shape[0]}], not {list(self.groups.shape)}"
            raise ValueError(msg)
        upper = self.pairs[np.triu_indices(shape[0], 1)]
        for values in (upper,) if self.groups is None else (upper, self.groups[:, 1:]):
            if np.isnan(values).any() or (values == np.inf).any():
                msg = "scores are numbers or -inf, not nan or inf"
                raise ValueError(msg)

    @property
    def tasks(self) -> int:
        """T."""
        return int(self.pairs.shape[0])

    @property
    def blocks(self) -> int:
        """B."""
        return int(self.pairs.shape[2]) - 1

    def of(self, groups: Groups) -> float:
        """The score of one layout, given as a partition of the tasks per block."""
        points = branch_points(groups)
        parts = [float(self.pairs[t, u, points[t, u]]) for t, u in itertools.combinations(range(self.tasks), 2)]
        if self.groups is not None:
            rows = zip(self.groups, groups, strict=True)
            parts += [float(row[mask_of(group)]) for row, block in rows for group in block]
        return math.fsum(parts) if all(map(math.isfinite, parts)) else -math.inf


def branch_points(groups: Groups) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[T, T]: the first block in which two tasks are apart, B if there is none."""
    count = 1 + max(task for group in groups[0] for task in group)
    points = np.zeros((count, count), np.int64)
    for block in groups:
        for group in block:
            points[np.ix_(group, group)] += 1  # once apart, tasks stay apart
    return points


def mask_of(group: tuple[int, ...]) -> int:
    """A group of tasks as a bit mask."""
    return sum(1 << task for task in group)


def members_of(mask: int) -> tuple[int, ...]:
    """The tasks of a bit mask, ascending."""
    return tuple(task for task in range(mask.bit_length()) if mask >> task & 1)


def group_sums(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each bit mask the sum of values[t, u] over its pairs t < u; [T, T] -> [2^T], of the same type."""
    count = len(values)
    sums = np.zeros(2**count, values.dtype)
    for new in range(count):
        row = np.zeros(2**new, values.dtype)  # of the new task with the members of each mask of earlier ones
        for task in range(new):
            row[1 << task : 2 << task] = row[: 1 << task] + values[task, new]
        sums[1 << new : 2 << new] = sums[: 1 << new] + row
    return sums

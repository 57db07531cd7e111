"""The problem of the best layouts as numbers per (block, group of tasks), in exact integers.

A pair's score by its branching point telescopes over the blocks that the pair shares,

    f(b) = f(0) + Σ_{l < b} (f(l + 1) − f(l)),

so the score of a layout is a constant plus one number per block and group, as its cost is (the sum over the parts of
the block that the group needs). Both are scaled by a power of two and rounded to integers of 50 bits: finer than the
rounding of float64 sums, and sums of integers do not depend on their order, so equal scores are equal and the same
layouts come first on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxmtl.policy.enumeration import Groups
from onnxmtl.policy.parts import Part, finished, whole_blocks
from onnxmtl.recommend.scores import Array, LayoutScores, group_sums, mask_of, members_of
from onnxmtl.recommend.subsets import SizeClass

Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

_BITS = 50
_FORBIDDEN = -(1 << (_BITS + 2))  # lower than any sum of allowed scores
_ROUNDING = 1e-12  # by which a sum of costs may exceed a budget

MOST_TASKS = 14
RANGE = 1 << _BITS  # no two layouts without a forbidden part differ by more than twice this in score

__all__ = ["MOST_TASKS", "RANGE", "Chain", "Flags", "Integers", "distinct", "make_chain"]


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """A layout problem.

    Attributes:
        scores: [B, 2^T]; what it is worth that the tasks of a mask share a block, as integers.
        costs: [D, B, 2^T]; what it costs, in D quantities, as integers >= 0.
        cost_scales: [D]; by which costs were multiplied.
        base: The score of separate networks, which `scores` leave out, as an integer.
        finished: [B]; masks of the tasks that need neither the block nor one behind it.
    """

    scores: Integers
    costs: Integers
    cost_scales: tuple[float, ...]
    base: int
    finished: Integers

    @property
    def tasks(self) -> int:
        """T."""
        return int(self.scores.shape[1]).bit_length() - 1

    @property
    def blocks(self) -> int:
        """B."""
        return int(self.scores.shape[0])

    def limits(self, budgets: Sequence[float | None]) -> Integers:
        """The budgets in the units of `costs`; of a quantity without one, what no layout exceeds."""
        most = self.costs.max(axis=2).sum(axis=1) * self.tasks
        found = [
            int(top) if budget is None else min(int(top), _floor(budget, scale))
            for budget, scale, top in zip(budgets, self.cost_scales, most, strict=True)
        ]
        return np.array(found, np.int64)

    def is_forbidden(self, score: int) -> bool:
        """Whether a layout with this sum of `scores` has a part with the score -inf."""
        return score + self.base < _FORBIDDEN // 2

    def only_distinct(self, block: int, kind: SizeClass, values: Array) -> Array:
        """Values of (set, group of its smallest task), with -inf where a finished task splits off."""
        idle = int(self.finished[block])
        return np.where(distinct(idle, kind), values, -np.inf) if idle else values

    def cost_of(self, groups: Groups) -> Integers:
        """[D]; of one layout."""
        masks = np.array([(number, mask_of(group)) for number, block in enumerate(groups) for group in block])
        total: Integers = self.costs[:, masks[:, 0], masks[:, 1]].sum(axis=1)
        return total

    def score_of(self, groups: Groups) -> int:
        """Sum of `scores` of one layout; without `base`."""
        return sum(int(self.scores[b, mask_of(group)]) for b, block in enumerate(groups) for group in block)


def distinct(idle: int, kind: SizeClass) -> Flags:
    """Which (set, group of its smallest task) do not split finished tasks off (`idle`, a mask).

    The group has all of them, and the first task that is not finished; so layouts with the same graph come once.
    """
    going = kind.sets & ~idle
    first_going = (going & -going)[:, None]
    allowed: Flags = (kind.rest & idle == 0) & ((kind.rest == 0) | (kind.first & first_going != 0))
    return allowed


def make_chain(
    scores: LayoutScores,
    costs: Array,
    probability: Callable[[tuple[int, ...]], float] | None = None,
    parts: Sequence[Part] | None = None,
) -> Chain:
    """Scale and round.

    Args:
        scores: Of pairs and groups.
        costs: [D, B]; of one copy of each block. With `parts`, [D, P]; of one copy of each part.
        probability: How likely the tasks of a group need their block; None: always.
        parts: Which tasks need which part of a block; None: all need all of every block.

    Raises:
        ValueError: Costs are negative or not finite, are not for as many blocks or parts; a part is of another block or
            of other tasks; or a probability is not in 0 … 1.
    """
    tasks, blocks = scores.tasks, scores.blocks
    known = whole_blocks(tasks, blocks) if parts is None else parts
    if any(not 0 <= p.block < blocks or not set(p.tasks) <= set(range(tasks)) for p in known):
        msg = f"parts are of the blocks 0 to {blocks - 1} and the tasks 0 to {tasks - 1}"
        raise ValueError(msg)
    if costs.ndim != 2 or costs.shape[1] != len(known) or not np.isfinite(costs).all() or (costs < 0).any():
        msg = f"costs are finite numbers from 0 on, [D, {len(known)}]"
        raise ValueError(msg)
    masks = np.arange(2**tasks)
    chance = np.ones(len(masks))
    if probability is not None:
        chance[1:] = [probability(members_of(mask)) for mask in range(1, len(masks))]
        if not ((chance >= 0) & (chance <= 1)).all():
            msg = "probabilities are between 0 and 1"
            raise ValueError(msg)
    chance[0] = 0  # a part that no task of the group needs is not there
    per_group = np.zeros((len(costs), blocks, len(masks)))
    for part, column in zip(known, costs.T, strict=True):
        per_group[:, part.block] += column[:, None] * chance[masks & mask_of(part.tasks)]
    scales = [_scale(float(values.max(axis=1).sum()) * tasks, values) for values in per_group]
    whole = np.rint(per_group * np.array(scales)[:, None, None]).astype(np.int64)
    by_block, base = _scores(scores)
    idle = np.array([mask_of(tuple(gone)) for gone in finished(known, tasks, blocks)], np.int64)
    return Chain(by_block, whole, tuple(scales), base, idle)


def _scores(scores: LayoutScores) -> tuple[Integers, int]:
    pairs = np.where(np.triu(np.ones((scores.tasks, scores.tasks), bool), 1)[:, :, None], scores.pairs, 0.0)
    allowed = np.where(np.isfinite(pairs), pairs, 0.0)
    size = float(np.abs(allowed).max(axis=2).sum())
    own = scores.groups
    if own is not None:
        own = own.copy()
        own[:, 0] = 0
        size += float(np.abs(np.where(np.isfinite(own), own, 0.0)).max(axis=1).sum()) * scores.tasks
    scale = _scale(size)
    points = np.where(np.isfinite(pairs), np.rint(allowed * scale), float(_FORBIDDEN)).astype(np.int64)
    sums = np.stack([group_sums(points[:, :, b]) for b in range(scores.blocks + 1)])
    by_block = np.diff(sums, axis=0)
    if own is not None:
        allowed = np.where(np.isfinite(own), own, 0.0)
        by_block += np.where(np.isfinite(own), np.rint(allowed * scale), float(_FORBIDDEN)).astype(np.int64)
    return by_block, int(sums[0, -1])


def _scale(size: float, values: np.ndarray[Any, Any] | None = None) -> float:
    """A power of two that brings sums of this size to 50 bits; 1 for whole numbers that are not larger."""
    if size == 0 or (values is not None and size < 1 << _BITS and (values == np.rint(values)).all()):
        return 1.0
    return math.ldexp(1.0, _BITS - math.frexp(size)[1])


def _floor(budget: float, scale: float) -> int:
    if math.isinf(budget):
        return 1 << 62 if budget > 0 else -1
    return math.floor(budget * scale * (1.0 if scale == 1 else 1 + math.copysign(_ROUNDING, budget)))

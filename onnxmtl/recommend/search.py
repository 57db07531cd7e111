"""The exact k best trees within limits: k-skybands over (set of tasks, block), from the last block to the first.

With V(S, l) = the points (costs, score) of all subtrees in which the tasks S share everything before block l,

    V(S, B) = {(0, 0)}
    U(S, l) = (cost and score of S sharing block l) ⊕ V(S, l + 1)
    V(S, l) = ⋃ over groups A of S with its smallest task: U(A, l) ⊗ V(S − A, l)

where V(∅, l) is the point 0. Taking the group of the smallest task out generates every partition once. Of each V only
the k-skyband is kept, and of that only what bounds on the rest of the layout leave a chance.

Tasks that are finished at block l (they need nothing from there on) split nothing, so that layouts with the same graph
come once: the first A that is taken out has all of them, and the first task of S that is not finished.

Order of ties: points of a set are stored in the order of their trees, and the earlier of equal points is kept. A tree
comes before another if the group of its smallest task is earlier (:mod:`onnxmtl.recommend.subsets`: larger prefixes
first), then by that group's subtree, then by the tree of the rest. Both parts keep that order when they are put
together, so dropping the later of two equal points never changes which layouts come first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.policy.enumeration import Groups
from onnxmtl.recommend.bounds import Bound
from onnxmtl.recommend.chain import Chain, Flags, Integers, distinct
from onnxmtl.recommend.scores import members_of
from onnxmtl.recommend.skyband import skyband
from onnxmtl.recommend.subsets import SizeClass, size_classes

Rows = np.ndarray[Any, np.dtype[np.int64]]

_BATCH = 1 << 20  # points that are put together at once

__all__ = ["Effort", "Found", "TooMuch", "search"]


class TooMuch(Exception):
    """A search would put more subtrees together than it may."""


@dataclasses.dataclass
class Effort:
    """How much searches do.

    Attributes:
        most: Pairs of subtrees that may be put together.
        used: Those that were.
    """

    most: float = math.inf
    used: int = 0

    def take(self, pairs: int) -> None:
        """Count pairs; raises TooMuch where they are too many."""
        self.used += pairs
        if self.used > self.most:
            raise TooMuch


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Some subtrees of a set from a block on.

    Attributes:
        costs: [D, n].
        scores: [n].
        first: [n]; the group of the smallest task, a mask.
        in_first: [n]; which point of U(first, l) its subtree is.
        in_rest: [n]; which point of V(rest, l) the others are.
    """

    costs: Integers
    scores: Integers
    first: Rows
    in_first: Rows
    in_rest: Rows

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: np.ndarray[Any, Any]) -> Points:
        """Some of the points, in their order."""
        parts = (self.scores, self.first, self.in_first, self.in_rest)
        return Points(self.costs[:, chosen], *(part[chosen] for part in parts))


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """U(S, l): the points of V(S, l + 1) that remain within the limits with block l.

    Attributes:
        costs: [D, n], with block l.
        scores: [n], with block l.
        origin: [n]; which points of V(S, l + 1).
    """

    costs: Integers
    scores: Integers
    origin: Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The layouts that a search kept: with no limits and k = 1 the Pareto front; in the order of ties.

    Attributes:
        costs: [D, n].
        scores: [n].
        largest: Size of the largest set of points that was kept.
    """

    costs: Integers
    scores: Integers
    largest: int
    _levels: tuple[dict[int, Points], ...]
    _kept: tuple[dict[int, Kept], ...]

    def groups(self, index: int) -> Groups:
        """The layout of one point."""
        blocks = len(self._kept)
        groups: list[list[tuple[int, ...]]] = [[] for _ in range(blocks)]
        stack = [(0, max(self._levels[0]), index)]
        while stack:
            block, tasks, at = stack.pop()
            if block == blocks or not tasks:
                continue
            points = self._levels[block][tasks]
            first = int(points.first[at])
            groups[block].append(members_of(first))
            stack.append((block + 1, first, int(self._kept[block][first].origin[points.in_first[at]])))
            stack.append((block, tasks ^ first, int(points.in_rest[at])))
        return tuple(tuple(sorted(block)) for block in groups)


@dataclasses.dataclass(frozen=True, eq=False)
class _Cut:
    """A bound and what a whole layout's worth has to reach."""

    bound: Bound
    least: float

    def allows(self, costs: Integers, scores: Integers, outside: float) -> np.ndarray[Any, Any]:
        worth = self.bound.weight * scores - self.bound.prices @ costs
        allowed: np.ndarray[Any, Any] = worth >= self.least - outside
        return allowed


def search(
    chain: Chain,
    k: int,
    limits: Integers | None,
    bounds: Sequence[Bound] = (),
    least: float = -math.inf,
    effort: Effort | None = None,
) -> Found:
    """All layouts that are among the k best of some limits (at or below `limits`), and score `least` or more.

    Args:
        chain: The problem.
        k: How many.
        limits: [D]; what a layout may cost.
        bounds: What drops points early: with a weight of 0 by the limits, else by the limits and `least`.
        least: A sum of scores that every layout of interest reaches.
        effort: Counts what is done, and may end it; None: no end.

    Raises:
        TooMuch: It takes more than `effort` allows.
    """
    effort = effort or Effort()
    cuts = []
    for bound in bounds:
        given = 0.0 if limits is None or not bound.prices.any() else float(bound.prices @ limits)
        needed = bound.weight * least - given if bound.weight else -given
        if math.isfinite(needed):
            cuts.append(_Cut(bound, needed - bound.slack))
    count = len(chain.costs)
    origin = Points(np.zeros((count, 1), np.int64), np.zeros(1, np.int64), *(np.zeros(1, np.int64) for _ in range(3)))
    levels: list[dict[int, Points]] = [{}] * (chain.blocks + 1)
    kept_levels: list[dict[int, Kept]] = [{}] * chain.blocks
    levels[-1] = dict.fromkeys(range(2**chain.tasks), origin)
    largest = 1
    for block in reversed(range(chain.blocks)):
        kept = {}
        for tasks, points in levels[block + 1].items():
            step = _keep(chain, block, tasks, points, limits, cuts) if tasks else None
            if step is not None:
                kept[tasks] = step
        free = {0: origin}
        for kind in size_classes(chain.tasks):
            alive = distinct(int(chain.finished[block]), kind) & _alive(cuts, block, kind)
            for row in np.flatnonzero(alive.any(axis=1)):
                tasks = int(kind.sets[row])
                if block == 0 and tasks & 1 and tasks != 2**chain.tasks - 1:
                    continue  # no layout asks for it
                pairs = [
                    (int(first), int(rest))
                    for first, rest in zip(kind.first[row, alive[row]], kind.rest[row, alive[row]], strict=True)
                    if int(first) in kept and int(rest) in free
                ]
                around = [(cut, float(cut.bound.outside_free[block, tasks])) for cut in cuts]
                effort.take(sum(len(kept[first].scores) * len(free[rest]) for first, rest in pairs))
                points = _join(kept, free, pairs, limits, around)
                points = points.take(skyband(points.costs, points.scores, k))
                if len(points):
                    free[tasks] = points
                    largest = max(largest, len(points))
        levels[block], kept_levels[block] = free, kept
    full = 2**chain.tasks - 1
    final = levels[0].get(full)
    if final is None:
        final = origin.take(np.empty(0, np.int64))
        levels[0][full] = final
    return Found(final.costs, final.scores, largest, tuple(levels), tuple(kept_levels))


def _keep(
    chain: Chain, block: int, tasks: int, points: Points, limits: Integers | None, cuts: Sequence[_Cut]
) -> Kept | None:
    costs = points.costs + chain.costs[:, block, tasks, None]
    scores = points.scores + chain.scores[block, tasks]
    good = np.ones(len(scores), bool) if limits is None else (costs <= limits[:, None]).all(axis=0)
    for cut in cuts:
        good &= cut.allows(costs, scores, float(cut.bound.outside_kept[block, tasks]))
    if good.all():
        return Kept(costs, scores, np.arange(len(scores)))
    chosen = np.flatnonzero(good)
    return Kept(costs[:, chosen], scores[chosen], chosen) if len(chosen) else None


def _alive(cuts: Sequence[_Cut], block: int, kind: SizeClass) -> Flags:
    """Which (set, group of its smallest task) the bounds leave a chance."""
    alive = np.ones(kind.first.shape, bool)
    for cut in cuts:
        inside, around = cut.bound.inside, cut.bound.outside_free[block, kind.sets][:, None]
        alive &= inside.kept[block, kind.first] + inside.free[block, kind.rest] + around >= cut.least
    return alive


def _join(
    kept: dict[int, Kept],
    free: dict[int, Points],
    pairs: Sequence[tuple[int, int]],
    limits: Integers | None,
    cuts: Sequence[tuple[_Cut, float]],
) -> Points:
    """U(A, l) ⊗ V(S − A, l) of all groups A in `pairs`, in the order of ties."""
    parts, batch, size = [], list[tuple[int, int]](), 0
    for first, rest in pairs:
        batch.append((first, rest))
        size += len(kept[first].scores) * len(free[rest])
        if size > _BATCH:
            parts.append(_products(kept, free, batch, limits, cuts))
            batch, size = [], 0
    parts.append(_products(kept, free, batch, limits, cuts))
    names = ("scores", "first", "in_first", "in_rest")
    return Points(
        np.concatenate([part.costs for part in parts], axis=1),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names),
    )


def _products(
    kept: dict[int, Kept],
    free: dict[int, Points],
    pairs: Sequence[tuple[int, int]],
    limits: Integers | None,
    cuts: Sequence[tuple[_Cut, float]],
) -> Points:
    """The part of :func:`_join` that fits into memory at once."""
    count = len(free[0].costs)
    if not pairs:
        nothing = np.empty(0, np.int64)
        return Points(np.empty((count, 0), np.int64), nothing, nothing, nothing, nothing)
    scores = np.concatenate([np.add.outer(kept[a].scores, free[b].scores).ravel() for a, b in pairs])
    costs = np.stack(
        [
            np.concatenate([np.add.outer(kept[a].costs[d], free[b].costs[d]).ravel() for a, b in pairs])
            for d in range(count)
        ]
    )
    chosen: Rows = np.arange(len(scores))
    if limits is not None:
        chosen = np.flatnonzero((costs <= limits[:, None]).all(axis=0))
    for cut, outside in cuts:
        chosen = chosen[cut.allows(costs[:, chosen], scores[chosen], outside)]
    ends = np.cumsum([len(kept[a].scores) * len(free[b]) for a, b in pairs])
    pair = np.searchsorted(ends, chosen, side="right")
    width = np.array([len(free[b]) for _, b in pairs])[pair]
    in_first, in_rest = np.divmod(chosen - np.r_[0, ends][pair], width)
    return Points(costs[:, chosen], scores[chosen], np.array([a for a, _ in pairs])[pair], in_first, in_rest)

"""What the rest of a layout can add at most: Lagrangian bounds for every (set of tasks, block).

For a price per unit of cost, the best layout of worth = score − price · cost is a dynamic program with one number per
(set, block), which takes milliseconds. Its inside values are the best worth of a subtree, its outside values the best
worth of everything else around it. So no layout within the budget C that contains a subtree (cost c, score s) scores
more than

    s − price · c + outside + price · C

for any price >= 0. The search drops what cannot reach the k-th best score known; with prices around the best one (the
minimum of that bound for whole layouts) little is left. Nothing is lost: bounds are given the slack that float64
sums need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.policy.enumeration import Groups
from onnxmtl.recommend.chain import Chain, Integers
from onnxmtl.recommend.scores import Array, members_of
from onnxmtl.recommend.subsets import SizeClass, size_classes

_SLACK = 1e-10  # relative to the largest sum there can be
_AROUND = (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)  # prices, as multiples of the best one

__all__ = ["Bound", "best_by_worth", "make_bound", "prices", "score_bounds"]


@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    """The best worth of subtrees.

    Attributes:
        free: [B + 1, 2^T]; of a set that shares everything before block l and may part there.
        kept: [B, 2^T]; if it shares block l too.
    """

    free: Array
    kept: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """worth = weight · score − prices · costs, of subtrees and of the rest.

    Attributes:
        weight: 1, or 0 for a bound on costs alone.
        prices: [D].
        inside: The best worth of subtrees.
        outside_free: [B + 1, 2^T]; the best worth of what is around a set that may part at block l.
        outside_kept: [B, 2^T]; around one that shares block l.
        slack: What rounding may take from a worth.
    """

    weight: float
    prices: Array
    inside: Inside
    outside_free: Array
    outside_kept: Array
    slack: float

    @property
    def best(self) -> float:
        """The best worth of a layout."""
        return float(self.inside.free[0, -1])


def make_bound(chain: Chain, weight: float, price: Sequence[float] | Array) -> Bound:
    """The bound for one price per unit of each cost."""
    prices = np.asarray(price, np.float64)
    worth = _worth(chain, weight, prices)
    inside = _inside(chain, worth)
    free, kept = _outside(chain, worth, inside)
    slack = _SLACK * chain.tasks * float(np.abs(worth).max(axis=1).sum())
    return Bound(weight, prices, inside, free, kept, slack)


def best_by_worth(chain: Chain, weight: float, price: Sequence[float]) -> Groups:
    """The layout of the best worth; ties as numpy's argmax finds them."""
    worth = _worth(chain, weight, np.asarray(price, np.float64))
    inside = _inside(chain, worth)
    groups: list[list[tuple[int, ...]]] = [[] for _ in range(chain.blocks)]
    stack = [(0, 2**chain.tasks - 1)]
    while stack:
        block, tasks = stack.pop()
        if block == chain.blocks or not tasks:
            continue
        kind = size_classes(chain.tasks)[tasks.bit_count() - 1]
        row = np.searchsorted(kind.sets, [tasks])
        one = SizeClass(kind.sets[row], kind.first[row], kind.rest[row])
        options = inside.kept[block, one.first] + inside.free[block, one.rest]
        best = int(np.argmax(chain.only_distinct(block, one, options)))
        first, rest = int(one.first[0, best]), int(one.rest[0, best])
        groups[block].append(members_of(first))
        stack += [(block + 1, first), (block, rest)]
    return tuple(tuple(sorted(block)) for block in groups)


def prices(chain: Chain, quantity: int, limit: int) -> tuple[float, ...]:
    """The price of one quantity at which the bound on all layouts within its limit is lowest.

    The bound is convex and piecewise linear in the price; each step takes the price at which the dearest and the
    cheapest layout known are worth the same, until no other layout is worth more.

    Returns:
        The price of each quantity: 0 for the others, and where the limit does not bind or cannot be kept.
    """
    count = len(chain.costs)

    def at(price: float, weight: float = 1.0) -> tuple[float, float]:
        vector = tuple(price if d == quantity else 0.0 for d in range(count))
        groups = best_by_worth(chain, weight, vector)
        return float(chain.cost_of(groups)[quantity]), float(chain.score_of(groups))

    dear, high = at(0.0)
    if dear <= limit:
        return (0.0,) * count
    cheap, low = at(1.0, weight=0.0)
    if cheap > limit:
        return (0.0,) * count
    price = 0.0
    for _ in range(100):  # a handful suffices; no result depends on how many
        price = max((high - low) / (dear - cheap), 0.0)
        cost, score = at(price)
        if score - price * cost <= high - price * dear + 1e-9 * (abs(high) + price * dear) or cost in (dear, cheap):
            break
        if cost > limit:
            dear, high = cost, score
        else:
            cheap, low = cost, score
    return tuple(price if d == quantity else 0.0 for d in range(count))


def score_bounds(chain: Chain, limits: Integers) -> list[Bound]:
    """Bounds on the score within limits [D], with several prices around the best one of each quantity."""
    bounds = []
    for quantity, limit in enumerate(limits):
        price = prices(chain, quantity, int(limit))
        factors = _AROUND if any(price) else (0.0,)
        bounds += [make_bound(chain, 1.0, np.asarray(price) * factor) for factor in factors]
    return bounds


def _worth(chain: Chain, weight: float, price: np.ndarray[Any, Any]) -> Array:
    """[B, 2^T]; of sharing one block."""
    worth: Array = weight * chain.scores.astype(np.float64)
    for row, costs in zip(price, chain.costs, strict=True):
        worth -= row * costs
    return worth


def _inside(chain: Chain, worth: Array) -> Inside:
    blocks, sets = worth.shape
    free, kept = np.zeros((blocks + 1, sets)), np.zeros((blocks, sets))
    classes = size_classes(sets.bit_length() - 1)
    for block in reversed(range(blocks)):
        kept[block] = worth[block] + free[block + 1]
        for kind in classes:  # the rest of a set is smaller than the set
            options = kept[block, kind.first] + free[block, kind.rest]
            free[block, kind.sets] = chain.only_distinct(block, kind, options).max(axis=1)
    return Inside(free, kept)


def _outside(chain: Chain, worth: Array, inside: Inside) -> tuple[Array, Array]:
    blocks, sets = worth.shape
    free, kept = np.full((blocks + 1, sets), -np.inf), np.full((blocks, sets), -np.inf)
    free[0, -1] = 0
    classes = size_classes(sets.bit_length() - 1)
    for block in range(blocks):
        for kind in reversed(classes):
            around = chain.only_distinct(block, kind, free[block, kind.sets][:, None])
            np.maximum.at(kept[block], kind.first, around + inside.free[block, kind.rest])
            np.maximum.at(free[block], kind.rest, around + inside.kept[block, kind.first])
        free[block + 1] = kept[block] + worth[block]
    return free, kept

"""Choices that add up: the cheapest way through an and-or graph under one budget, exactly.

A node is one of several alternatives; an alternative has a cost, a loss and up to two child nodes, whose choices do
not touch each other. A solution picks one alternative at the root, at its children, and so on; its cost and loss are
the sums. Knapsacks and programs over subsets of tasks are such graphs.

:func:`solve` finds the least loss with a cost of at most the budget B:

1. For a multiplier λ >= 0 the least loss + λ·cost below a node, ``inside``, and of all the rest, ``outside``, take one
   pass each. inside(root) − λ·B is a lower bound of the answer; the λ with the largest bound is found by walking the
   lower convex hull of (cost, loss). Solutions on the way that fit are upper bounds.
2. Bottom up, every node gets its Pareto points (cost, loss). A point stays only if loss + λ·cost + outside − λ·B is
   below the upper bound and the cheapest rest still fits. What remains is close to the optimum, however large the
   graph. As the upper bound may be poor, the pass first supposes a better one, and is repeated if that was wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

NOTHING = 0  # the node that costs nothing: a child of alternatives with fewer than two
_MOST_ALTERNATIVES = 1_500_000
_MOST_PAIRS = 20_000_000  # points looked at in one pass
_BLOCK = 1 << 20  # points merged at once
_ROUNDING = 1e-11  # relative
_GUESSES = (1 / 64, 1 / 8, 1.0)  # where between the two bounds the optimum is supposed to be


class TooLargeError(Exception):
    """The graph, or its Pareto sets, are larger than this method is meant for. Not an error of the user."""


class Alternative(NamedTuple):
    """One way to satisfy a node: its own cost and loss, at most two children, and what it decides."""

    cost: int
    loss: float
    first: int = NOTHING
    second: int = NOTHING
    label: Any = None


class Circuit:
    """Grows node by node, children first. Alternatives are kept as columns: there are many."""

    def __init__(self) -> None:
        self.costs: list[int] = [0]
        self.losses: list[float] = [0.0]
        self.firsts: list[int] = [NOTHING]
        self.seconds: list[int] = [NOTHING]
        self.labels: list[Any] = [None]
        self.starts: list[int] = [0]  # per node its first alternative
        self.heights: list[int] = [0]
        self._products: dict[tuple[int, ...], int] = {(): NOTHING}

    def add(self, alternatives: Sequence[Alternative]) -> int:
        """A node with these alternatives, at least one; returns its number.

        Raises:
            TooLargeError: The graph has grown beyond what is solved quickly.
        """
        if len(self.costs) + len(alternatives) > _MOST_ALTERNATIVES:
            raise TooLargeError
        costs, losses, firsts, seconds, labels = zip(*alternatives, strict=True)
        self.starts.append(len(self.costs))
        self.costs.extend(costs)
        self.losses.extend(losses)
        self.firsts.extend(firsts)
        self.seconds.extend(seconds)
        self.labels.extend(labels)
        heights = self.heights
        heights.append(1 + max(max(map(heights.__getitem__, firsts)), max(map(heights.__getitem__, seconds))))
        return len(self.starts) - 1

    def product(self, children: Sequence[int]) -> int:
        """A node that needs all of `children`."""
        wanted = tuple(child for child in children if child != NOTHING)
        if len(wanted) == 1:
            return wanted[0]
        if wanted not in self._products:
            first = self.product(wanted[:-1])
            self._products[wanted] = self.add([Alternative(0, 0.0, first, wanted[-1])])
        return self._products[wanted]


@dataclasses.dataclass(frozen=True)
class Way:
    """A solution: its sums and the labels of the alternatives it picks."""

    cost: int
    loss: float
    labels: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Best:
    """What :func:`solve` found.

    Attributes:
        way: The best solution within the budget; None if there is none.
        lower: Nothing within the budget has a smaller loss.
        least: The smallest cost of any solution.
    """

    way: Way | None
    lower: float
    least: int


def solve(circuit: Circuit, root: int, budget: int) -> Best:
    """The solution below `root` with the least loss whose cost is within `budget`; equal input, equal result.

    If the Pareto sets become too large, `lower` is below the loss of the solution: it need not be the best.
    """
    arrays = _Arrays(circuit, root)
    cheapest = arrays.least(arrays.cost)
    if cheapest.cost > budget:
        return Best(None, math.inf, cheapest.cost)
    incumbent, multiplier, lower = _dual(arrays, budget, cheapest)
    slack = _ROUNDING * max(1.0, incumbent.loss, multiplier * budget)
    gap = incumbent.loss - lower
    if gap <= slack:
        return Best(incumbent, incumbent.loss, cheapest.cost)
    bounds = _Bounds.of(arrays, multiplier, budget)
    for share in _GUESSES:
        upper = min(lower + gap * share, incumbent.loss) + slack
        try:
            found = _pareto(arrays, bounds, budget, upper)
        except TooLargeError:
            return Best(incumbent, lower, cheapest.cost)
        if found is not None and found.loss < incumbent.loss:
            incumbent = found
        if incumbent.loss <= upper:
            break  # whatever is better was within the bounds of this pass
        lower = upper - slack
    return Best(incumbent, incumbent.loss, cheapest.cost)


def _dual(arrays: _Arrays, budget: int, cheapest: Way) -> tuple[Way, float, float]:
    """(Best solution within the budget seen, λ with the largest bound, that bound)."""
    over, under = arrays.least(arrays.loss), cheapest
    if over.cost <= budget:
        return over, 0.0, over.loss
    best, multiplier, lower = under, 0.0, over.loss
    while True:
        slope = (under.loss - over.loss) / (over.cost - under.cost)
        middle = arrays.least(arrays.loss + slope * arrays.cost)
        bound = middle.loss + slope * (middle.cost - budget)
        if bound > lower:
            multiplier, lower = slope, bound
        corner = over.loss + slope * (over.cost - budget)
        if not under.cost < middle.cost < over.cost or bound >= corner - _ROUNDING * max(1.0, abs(corner)):
            return best, multiplier, lower
        if middle.cost <= budget:
            under = middle
            best = min(best, middle, key=lambda way: (way.loss, way.cost))
        else:
            over = middle


class _Arrays:
    """The graph as arrays, nodes sorted by height and alternatives by their node."""

    def __init__(self, circuit: Circuit, root: int) -> None:
        self.root = root
        starts = np.array([*circuit.starts, len(circuit.costs)])
        heights = np.array(circuit.heights)
        order = np.argsort(heights, kind="stable")
        counts = np.diff(starts)[order]
        ends = np.cumsum(counts)
        self.owner = np.repeat(order, counts)
        self.index = np.arange(len(self.owner)) - np.repeat(ends - counts - starts[order], counts)
        self.cost = np.array(circuit.costs, np.float64)[self.index]
        self.loss = np.array(circuit.losses)[self.index]
        self.first, self.second = np.array(circuit.firsts)[self.index], np.array(circuit.seconds)[self.index]
        self.labels = circuit.labels
        self.start = np.zeros(len(order), np.int64)
        self.start[order] = ends - counts
        self.count = np.diff(starts)
        self.levels: list[tuple[Int64, int, int, Int64]] = []  # nodes, first and last alternative, starts
        borders = np.flatnonzero(np.diff(heights[order], prepend=-1, append=heights.max() + 1))
        for low, high in itertools.pairwise(borders.tolist()):
            nodes = order[low:high]
            begin, end = int(self.start[nodes[0]]), int(ends[high - 1])
            self.levels.append((nodes, begin, end, self.start[nodes] - begin))

    def inside(self, weights: Float64) -> Float64:
        """Per node the least sum of weights below it."""
        values = np.zeros(len(self.start))
        for nodes, low, end, starts in self.levels:
            sums = weights[low:end] + values[self.first[low:end]] + values[self.second[low:end]]
            values[nodes] = np.minimum.reduceat(sums, starts)
        return values

    def outside(self, weights: Float64, inside: Float64) -> Float64:
        """Per node the least sum of weights of all that a solution with the node has beside what is below it."""
        values = np.full(len(self.start), np.inf)
        values[self.root] = 0.0
        for _, low, end, _ in reversed(self.levels):
            rest = values[self.owner[low:end]] + weights[low:end]
            first, second = self.first[low:end], self.second[low:end]
            np.minimum.at(values, first, rest + inside[second])
            np.minimum.at(values, second, rest + inside[first])
        return values

    def least(self, weights: Float64) -> Way:
        """The solution with the least sum of weights; takes the first of equal alternatives."""
        inside = self.inside(weights)
        sums = weights + inside[self.first] + inside[self.second]
        picked = []
        stack = [self.root]
        while stack:
            node = stack.pop()
            start = int(self.start[node])
            at = start + int(np.argmin(sums[start : start + int(self.count[node])]))
            picked.append(at)
            stack.extend(child for child in (int(self.second[at]), int(self.first[at])) if child != NOTHING)
        return self.way(picked)

    def way(self, picked: Sequence[int]) -> Way:
        """The solution of these alternatives."""
        labels = [self.labels[self.index[at]] for at in picked]
        cost = sum(int(self.cost[at]) for at in picked)
        return Way(cost, math.fsum(self.loss[picked]), tuple(label for label in labels if label is not None))


@dataclasses.dataclass(frozen=True, eq=False)
class _Bounds:
    """What the rest of a solution takes at least, per node: of loss + λ·cost − λ·budget, and of cost."""

    multiplier: float
    rest: Float64
    rest_cost: Float64
    whole: Float64  # per alternative: the least loss + λ·cost − λ·budget of a solution with it

    @classmethod
    def of(cls, arrays: _Arrays, multiplier: float, budget: int) -> _Bounds:
        weights = arrays.loss + multiplier * arrays.cost
        inside = arrays.inside(weights)
        outside = arrays.outside(weights, inside) - multiplier * budget
        whole = weights + inside[arrays.first] + inside[arrays.second] + outside[arrays.owner]
        cheapest = arrays.inside(arrays.cost)
        return cls(multiplier, outside, arrays.outside(arrays.cost, cheapest), whole)


@dataclasses.dataclass(frozen=True, eq=False)
class _Points:
    """Pareto points of a node, costs ascending: their sums, and how each came about."""

    cost: Float64
    loss: Float64
    alternative: Int64
    first: Int64
    second: Int64

    def take(self, index: Int64) -> _Points:
        return _Points(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def _pareto(arrays: _Arrays, bounds: _Bounds, budget: int, upper: float) -> Way | None:
    """The best solution within the budget with a loss of at most `upper`; None if there is none."""
    zero, none = np.zeros(1), np.zeros(1, np.int64)
    points: dict[int, _Points] = {NOTHING: _Points(zero, zero, none, none, none)}
    work = 0
    kept = np.flatnonzero(bounds.whole <= upper)
    rows = zip(arrays.owner[kept].tolist(), kept.tolist(), strict=True)
    for node, group in itertools.groupby(rows, key=lambda row: row[0]):
        if node == NOTHING:
            continue
        found: list[_Points] = []
        for _, index in group:
            first, second = points.get(int(arrays.first[index])), points.get(int(arrays.second[index]))
            if first is None or second is None:
                continue
            work += len(first.cost) * len(second.cost)
            if work > _MOST_PAIRS:
                raise TooLargeError
            found += _merge(arrays, bounds, budget, upper, node, index, first, second)
        if found:
            points[node] = _undominated(found)
    if arrays.root not in points:
        return None
    return _trace(arrays, points, len(points[arrays.root].cost) - 1)


def _merge(
    arrays: _Arrays,
    bounds: _Bounds,
    budget: int,
    upper: float,
    node: int,
    index: int,
    first: _Points,
    second: _Points,
) -> list[_Points]:
    """Points of one alternative that can still become the best solution."""
    found = []
    rows = max(1, _BLOCK // len(second.cost))
    for low in range(0, len(first.cost), rows):
        cost = arrays.cost[index] + first.cost[low : low + rows, None] + second.cost
        loss = arrays.loss[index] + first.loss[low : low + rows, None] + second.loss
        possible = (loss + bounds.multiplier * cost + bounds.rest[node] <= upper) & (
            cost + bounds.rest_cost[node] <= budget
        )
        i, j = np.nonzero(possible)
        if len(i):
            found.append(_Points(cost[i, j], loss[i, j], np.full(len(i), index), i + low, j))
    return found


def _undominated(parts: list[_Points]) -> _Points:
    """The points that no other one matches in both cost and loss; of equal ones the first."""
    fields = [np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(_Points)]
    joined = _Points(*fields)
    order = np.lexsort((joined.loss, joined.cost))
    losses = joined.loss[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
    return joined.take(order[losses < before])


def _trace(arrays: _Arrays, points: dict[int, _Points], position: int) -> Way:
    picked = []
    stack = [(arrays.root, position)]
    while stack:
        node, at = stack.pop()
        own = points[node]
        index = int(own.alternative[at])
        picked.append(index)
        for child, where in ((arrays.second[index], own.second[at]), (arrays.first[index], own.first[at])):
            if child != NOTHING:
                stack.append((int(child), int(where)))
    return arrays.way(picked)

"""The best layouts within a budget, the Pareto front, and the best of every budget: exact, without enumeration.

All take any number of quantities at once (multiply-adds and parameters, say), group probabilities (traffic), and tasks
that need only parts of the blocks: layouts in which finished tasks split are left out, for they have the graph of one
that is found (:func:`onnxmtl.policy.parts.without_idle_splits`). Of layouts of equal score the cheaper comes first (in
the first quantity, then the next); of equal ones still, the tree that keeps earlier tasks together:
:mod:`onnxmtl.recommend.search` has the exact order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxmtl.errors import BudgetError
from onnxmtl.policy.enumeration import Group, Groups
from onnxmtl.policy.parts import Part, whole_blocks
from onnxmtl.recommend.bounds import make_bound, score_bounds
from onnxmtl.recommend.chain import MOST_TASKS, RANGE, Chain, make_chain
from onnxmtl.recommend.descent import descend
from onnxmtl.recommend.scores import Array, LayoutScores
from onnxmtl.recommend.search import Effort, Found, TooMuch, search
from onnxmtl.recommend.skyband import exactly

Probability = Callable[[Group], float]

_MOST_PAIRS = 2 * 10**9  # of subtrees, put together for a front: minutes
_FIRST_GAP = RANGE / 2**12  # how far below the bound to look first

__all__ = ["Probability", "Scored", "best", "front", "layout_costs", "of_every_budget"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A layout with what is predicted of it.

    Attributes:
        groups: Per block the partition of the tasks (indices), in the canonical order of
            :class:`onnxmtl.policy.layout.Layout`.
        score: Of the estimator.
        costs: Of its blocks, in each quantity, in the unit that was given.
    """

    groups: Groups
    score: float
    costs: tuple[float, ...]

    @property
    def cost(self) -> float:
        """In the first quantity."""
        return self.costs[0]


def best(
    pair_scores: LayoutScores | Array,
    block_costs: Sequence[float] | Sequence[Sequence[float]] | Array,
    k: int = 1,
    budget: float | Sequence[float | None] | None = None,
    probability: Probability | None = None,
    parts: Sequence[Part] | None = None,
) -> list[Scored]:
    """The k layouts of the highest score among those within the budget; all of them if there are fewer.

    Args:
        pair_scores: Of an estimator: [T, T, B + 1], the score of a pair of tasks t < u that parts at block b; or with
            scores of groups.
        block_costs: [B], the cost of one copy of each block; or [D, B] for D quantities. With `parts`, [P] or [D, P].
        k: How many.
        budget: What a layout's blocks may cost together; a number per quantity if there are several, None: any. A
            cost above it by a relative 1e-12 counts as rounding.
        probability: How likely a group of tasks (indices) needs its block; multiplies the cost. None: always.
        parts: Which tasks need which part of a block; None: all need all of every block.

    Raises:
        BudgetError: No layout is that cheap; says what the cheapest one costs. Or there are more than 14 tasks.
        ValueError: Shapes do not agree; a number is nan; a cost is negative.
    """
    if k < 1:
        msg = f"at least one layout is asked for, not {k}"
        raise ValueError(msg)
    scores, costs, budgets = _given(pair_scores, block_costs, budget)
    chain = make_chain(scores, costs, probability, parts)
    limits = chain.limits(budgets)
    guards = [make_bound(chain, 0.0, row) for row in np.eye(len(costs))]
    for guard, limit, scale, given in zip(guards, limits, chain.cost_scales, budgets, strict=True):
        if -guard.best > limit:
            msg = f"no layout is within the budget {given:.6g}: the cheapest costs {-guard.best / scale:.6g}"
            raise BudgetError(msg)
    bounds = [*guards, *score_bounds(chain, limits)]
    most = min(bound.best + float(bound.prices @ limits) for bound in bounds if bound.weight)
    below = _FIRST_GAP
    while True:  # nothing reaches `most`, perhaps; search ever further below it, until k layouts are found
        found = search(chain, k, limits, bounds, most - below if below < 2 * RANGE else -math.inf)
        order = _by_score(chain, found)
        if len(order) >= k or below >= 2 * RANGE:
            return [_scored(scores, found.groups(int(index)), costs, probability, parts) for index in order[:k]]
        below *= 4


def front(
    pair_scores: LayoutScores | Array,
    block_costs: Sequence[float] | Array,
    probability: Probability | None = None,
    parts: Sequence[Part] | None = None,
) -> list[Scored]:
    """The Pareto front of one quantity: every layout that is the best of some budget, the cheapest first.

    Args and errors: as of :func:`of_every_budget`.
    """
    return of_every_budget(pair_scores, block_costs, 1, probability, parts)


def of_every_budget(
    pair_scores: LayoutScores | Array,
    block_costs: Sequence[float] | Sequence[Sequence[float]] | Array,
    k: int,
    probability: Probability | None = None,
    parts: Sequence[Part] | None = None,
) -> list[Scored]:
    """The k-skyband: all layouts that are among the k best within some budget, the cheapest first.

    The k best of any budgets (one per quantity) are then a matter of sorting what is within them.

    Args and errors: as of :func:`best`; or there are so many that they are not found within minutes (BudgetError).
    """
    if k < 1:
        msg = f"at least one layout is asked for, not {k}"
        raise ValueError(msg)
    scores, costs, _ = _given(pair_scores, block_costs, None)
    chain = make_chain(scores, costs, probability, parts)
    effort = Effort(_MOST_PAIRS)
    try:
        if len(costs) == 1:
            every = descend(chain, k, effort)
        else:
            found = search(chain, k, None, effort=effort)
            order = np.lexsort((-found.scores, *found.costs[::-1]))  # whatever beats a layout comes before it; stable
            order = order[~_forbidden(chain, found)[order]]
            places = order[exactly(found.costs[:, order], found.scores[order], k)]
            every = [found.groups(int(place)) for place in places]
    except TooMuch as error:
        msg = (
            f"{scores.tasks} tasks on {scores.blocks} blocks have too many layouts that are the best of some budget: "
            "ask for the best within one budget, or take fewer blocks"
        )
        raise BudgetError(msg) from error
    return [_scored(scores, groups, costs, probability, parts) for groups in every]


def _given(
    pair_scores: LayoutScores | Array,
    block_costs: Sequence[float] | Sequence[Sequence[float]] | Array,
    budget: float | Sequence[float | None] | None,
) -> tuple[LayoutScores, Array, list[float | None]]:
    scores = pair_scores if isinstance(pair_scores, LayoutScores) else LayoutScores(np.asarray(pair_scores, np.float64))
    if scores.tasks > MOST_TASKS:
        msg = f"exact search takes up to {MOST_TASKS} tasks, not {scores.tasks}; take the greedy decoder instead"
        raise BudgetError(msg)
    costs = np.atleast_2d(np.asarray(block_costs, np.float64))
    budgets = [budget] * len(costs) if budget is None or isinstance(budget, int | float) else list(budget)
    if len(budgets) != len(costs) or (len(costs) > 1 and isinstance(budget, int | float)):
        msg = f"{len(costs)} quantities take as many budgets"
        raise ValueError(msg)
    if any(value is not None and math.isnan(value) for value in budgets):
        msg = "a budget is a number, not nan"
        raise ValueError(msg)
    return scores, costs, budgets


def _forbidden(chain: Chain, found: Found) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([chain.is_forbidden(int(score)) for score in found.scores], bool)


def _by_score(chain: Chain, found: Found) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of what is allowed, the best first; the sort is stable, and `found` in the order of ties."""
    order = np.lexsort((*found.costs[::-1], -found.scores))
    return order[~_forbidden(chain, found)[order]]


def _scored(
    scores: LayoutScores,
    groups: Groups,
    costs: Array,
    probability: Probability | None,
    parts: Sequence[Part] | None,
) -> Scored:
    return Scored(groups, scores.of(groups), layout_costs(groups, costs, probability, parts))


def layout_costs(
    groups: Groups, costs: Array, probability: Probability | None = None, parts: Sequence[Part] | None = None
) -> tuple[float, ...]:
    """What the blocks of a layout cost, in each of the quantities of `costs` [D, B]; with `parts`, [D, P]."""
    chance = probability or (lambda group: 1.0)
    known = whole_blocks(sum(map(len, groups[0])), len(groups)) if parts is None else parts
    copies = [[chance(group) for group in part.needing(groups[part.block])] for part in known]
    return tuple(
        math.fsum(float(cost) * share for cost, shares in zip(row, copies, strict=True) for share in shares)
        for row in costs
    )

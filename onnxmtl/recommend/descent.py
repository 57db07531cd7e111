"""All layouts that are among the k best within some budget of one quantity, without holding all subtrees at once.

A search with the limit C and the least score s finds all of them that cost C or less and score s or more. If those are
k or more, whatever else there is scores less than s, so it costs less than the k-th cheapest of them: the next search
has that limit. From the dearest layouts to the cheapest, each search has bounds with the right prices and a narrow
range of scores, and little work.
"""

from __future__ import annotations

import math

import numpy as np

from onnxmtl.policy.enumeration import Groups
from onnxmtl.recommend.bounds import make_bound, score_bounds
from onnxmtl.recommend.chain import RANGE, Chain, Integers
from onnxmtl.recommend.search import Effort, search
from onnxmtl.recommend.skyband import exactly

_FIRST_GAP = RANGE / 2**14  # of scores, in the first search
_LITTLE, _MUCH = 10**7, 10**8  # pairs of subtrees; after a search with fewer or more, the range is widened or narrowed

__all__ = ["descend"]


def descend(chain: Chain, k: int, effort: Effort) -> list[Groups]:
    """The k-skyband, the cheapest first; of equal costs the better first, then in the order of ties.

    Args:
        chain: A problem with one quantity.
        k: How many.
        effort: What the searches may take together.

    Raises:
        TooMuch: They would take more.
    """
    guard = make_bound(chain, 0.0, [1.0])
    limit, gap, told = int(chain.limits([None])[0]), _FIRST_GAP, math.inf
    every: list[tuple[int, int, Groups]] = []
    while -guard.best <= limit:
        limits: Integers = np.array([limit], np.int64)
        bounds = [guard, *score_bounds(chain, limits)]
        most = min(bound.best + float(bound.prices @ limits) for bound in bounds if bound.weight)
        least = most - gap if gap < 2 * RANGE else -math.inf
        before = effort.used
        found = search(chain, k, limits, bounds, least, effort)
        costs, scores = found.costs[0], found.scores
        order = np.lexsort((-scores, costs))  # whatever beats a layout comes before it; stable
        order = order[[score >= least and not chain.is_forbidden(int(score)) for score in scores[order]]]
        last = math.isinf(least)
        if len(order) < k and not last:
            gap *= 4
            continue
        kept = order[exactly(costs[None, order], scores[order], k)]  # what beats them scores as much: it is among them
        new = [int(index) for index in kept if scores[index] < told]
        every += [(int(costs[index]), -int(scores[index]), found.groups(index)) for index in new]
        if last:
            break
        limit, told = int(costs[order[k - 1]]) - 1, least
        gap *= 2 if effort.used - before < _LITTLE else 0.5 if effort.used - before > _MUCH else 1
    return [groups for *_, groups in sorted(every, key=lambda row: row[:2])]  # stable: equal ones are of one search

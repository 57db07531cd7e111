"""A layout by greedy splitting, for comparison and for more tasks than the exact program takes.

As FAFS (Lu et al., CVPR 2017) it begins thin, with everything shared, and widens: again and again it splits one group
of tasks in two from some block on, where that gains most score for what it costs, as long as the budget allows and
something is gained. What it finds may be far from the best; :func:`onnxmtl.recommend.program.best` says how far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from onnxmtl.errors import BudgetError
from onnxmtl.policy.enumeration import Group, Groups
from onnxmtl.policy.parts import Part, finished, whole_blocks, without_idle_splits
from onnxmtl.recommend.program import Probability, Scored, layout_costs
from onnxmtl.recommend.scores import Array, LayoutScores

_EVERY_SPLIT = 8  # tasks in a group up to which all its splits are tried

__all__ = ["greedy"]


def greedy(
    pair_scores: LayoutScores | Array,
    block_costs: Sequence[float] | Sequence[Sequence[float]] | Array,
    budget: float | Sequence[float | None] | None = None,
    probability: Probability | None = None,
    parts: Sequence[Part] | None = None,
) -> Scored:
    """One layout within the budget.

    Groups of up to 8 tasks are split in every way; of larger ones, tasks leave one by one, each time the one whose
    leaving scores best.

    Args: as of :func:`onnxmtl.recommend.program.best`.

    Raises:
        BudgetError: No layout is that cheap.
    """
    scores = pair_scores if isinstance(pair_scores, LayoutScores) else LayoutScores(np.asarray(pair_scores, np.float64))
    costs = np.atleast_2d(np.asarray(block_costs, np.float64))
    budgets = [budget] * len(costs) if budget is None or isinstance(budget, int | float) else list(budget)
    known = whole_blocks(scores.tasks, scores.blocks) if parts is None else parts
    some_finish = any(finished(known, scores.tasks, scores.blocks))
    bounds = [math.inf if bound is None else bound * (1 + 1e-12) for bound in budgets]

    def scored(groups: Groups) -> Scored:
        return Scored(groups, scores.of(groups), layout_costs(groups, costs, probability, known))

    def fits(one: Scored) -> bool:
        return all(cost <= bound for cost, bound in zip(one.costs, bounds, strict=True))

    now = scored(((tuple(range(scores.tasks)),),) * scores.blocks)
    if not fits(now):
        short = next(i for i, (cost, bound) in enumerate(zip(now.costs, bounds, strict=True)) if cost > bound)
        msg = f"no layout is within the budget {budgets[short]:.6g}: the cheapest costs {now.costs[short]:.6g}"
        raise BudgetError(msg)
    while True:
        best: tuple[float, Scored] | None = None
        for groups in _splits(now.groups, scores):
            one = scored(without_idle_splits(groups, known) if some_finish else groups)
            gain = one.score - now.score
            if gain > 0 and fits(one):
                rate = gain / max(one.cost - now.cost, 1e-300)
                if best is None or rate > best[0]:
                    best = rate, one
        if best is None:
            return now
        now = best[1]


def _splits(groups: Groups, scores: LayoutScores) -> Iterator[Groups]:
    """All layouts in which one more group is split from some block on."""
    for block, partition in enumerate(groups):
        for group in partition:
            if len(group) < 2:
                continue
            parts = _halves(group) if len(group) <= _EVERY_SPLIT else _leaving(groups, block, group, scores)
            for part in parts:
                yield _split(groups, block, group, part)


def _split(groups: Groups, block: int, group: Group, part: Group) -> Groups:
    """Keep `part` apart from the rest of its group from a block on."""
    inside = set(part)
    later = []
    for partition in groups[block:]:
        pieces: list[Group] = []
        for other in partition:
            if other[0] in group:
                halves = (tuple(t for t in other if t in inside), tuple(t for t in other if t not in inside))
                pieces += [half for half in halves if half]
            else:
                pieces.append(other)
        later.append(tuple(sorted(pieces)))
    return (*groups[:block], *later)


def _halves(group: Group) -> Iterator[Group]:
    first, *others = group
    for size in range(len(others)):
        for chosen in itertools.combinations(others, size):
            yield (first, *chosen)


def _leaving(groups: Groups, block: int, group: Group, scores: LayoutScores) -> Iterator[Group]:
    """Parts that grow by the task that scores best, up to half of the group."""
    part: Group = ()
    for _ in range(len(group) // 2):
        options = [tuple(sorted((*part, task))) for task in group if task not in part]
        part = max(options, key=lambda option: scores.of(_split(groups, block, group, option)))
        yield part

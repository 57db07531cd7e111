"""An architecture within the limits without any solver: for the time that HiGHS runs out with nothing in hand."""

from __future__ import annotations

import numpy as np

from onnxmtl.cost.selected import Int64, SelectedCost
from onnxmtl.policy.budgeted.problem import Problem


def cheap_then_climb(problem: Problem, counter: SelectedCost) -> list[Int64]:
    """From the cheapest architecture in which all tasks do the same, take single better options while they fit.

    Returns:
        Options [sites, tasks]; nothing if no such start keeps the limits.
    """
    picks = _start(problem, counter)
    if picks is None:
        return []
    while True:
        moves = [
            (float(losses[t, picks[s, t]] - losses[t, o]), s, t, o)
            for s, losses in enumerate(problem.losses)
            for t in problem.tasks_at(s)
            for o in range(losses.shape[1])
            if losses[t, o] < losses[t, picks[s, t]]
        ]
        moves.sort(key=lambda move: (-move[0], *move[1:]))
        changed = np.repeat(picks[None], len(moves), axis=0)
        for row, (_, s, t, o) in enumerate(moves):
            changed[row, s, t] = o
        fitting = np.flatnonzero(problem.fits(counter(changed))) if moves else np.zeros(0, np.int64)
        if not len(fitting):
            return [picks]
        picks = changed[fitting[0]]


def _start(problem: Problem, counter: SelectedCost) -> Int64 | None:
    """All tasks take one option per site, the one that makes the first broken limit smallest; site by site."""
    picks = problem.first
    for s in range(len(problem.table.sites)):
        tasks = list(problem.tasks_at(s))
        picks[s, tasks] = 0
    for s, losses in enumerate(problem.losses):
        tasks = list(problem.tasks_at(s))
        tried = np.repeat(picks[None], losses.shape[1], axis=0)
        for o in range(losses.shape[1]):
            tried[o, s, tasks] = o
        costs = counter(tried)
        relative = np.zeros(len(tried))
        for limit in problem.limits:
            amount = getattr(costs, f"{limit.quantity}_trunk" if limit.trunk else limit.quantity)
            relative = relative + amount / max(limit.bound, 1.0)
        picks = tried[int(relative.argmin())]
    return picks if bool(problem.fits(counter(picks[None]))[0]) else None

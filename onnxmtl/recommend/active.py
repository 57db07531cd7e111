"""Fewer trainings: which two-task model to train next, and what it costs to stop early.

Between branching points that are trained, a task's performance is taken as a straight line with the uncertainty of a
random walk tied to what is known (a Brownian bridge; its variance per block is estimated from all increments known).
Begin with b = 0 (0 % by definition), B and B/2 of every pair. Then draw whole tables from that, look which layouts are
the best of each, and train the model that matters most for those about which the draws disagree.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.policy.enumeration import Groups
from onnxmtl.policy.parts import Part
from onnxmtl.recommend import estimators, program
from onnxmtl.recommend.program import Probability, Scored
from onnxmtl.recommend.scores import Array, LayoutScores, branch_points
from onnxmtl.recommend.table import TwoTaskTable
from onnxmtl.recommend.weights import weights
from onnxmtl.runs.seeds import derive_seed

Cell = tuple[int, int, int]

_DRAWS = 12

__all__ = ["Cell", "Step", "filled", "first_cells", "next_training", "regret", "replay"]


@dataclasses.dataclass(frozen=True)
class Step:
    """A moment of :func:`replay`.

    Attributes:
        trained: How many two-task models with b >= 1 are trained.
        cell: The last of them: (t, u, b).
        regret: Of the layout recommended now, in the unit of the score.
        decided: Whether all draws agree on the best layouts.
    """

    trained: int
    cell: Cell | None
    regret: float
    decided: bool


def first_cells(tasks: int, blocks: int) -> tuple[Cell, ...]:
    """What is trained in any case: all shared, then half shared, of every pair."""
    depths = dict.fromkeys((blocks, (blocks + 1) // 2))
    return tuple((t, u, b) for b in depths for t, u in itertools.combinations(range(tasks), 2))


def filled(table: TwoTaskTable) -> TwoTaskTable:
    """The table with straight lines through what is trained; b = 0 is 0, and the last known value goes on."""
    return dataclasses.replace(table, values=_lines(table.values, _known(table)))


def next_training(
    table: TwoTaskTable,
    block_costs: Sequence[float] | Sequence[Sequence[float]] | Array,
    k: int = 1,
    budget: float | Sequence[float | None] | None = None,
    probability: Probability | None = None,
    parts: Sequence[Part] | None = None,
    *,
    weighting: str = "auto",
    estimator: str = "two-task",
    seed: int = 0,
) -> Cell | None:
    """The two-task model (t, u, b) to train next; None: nothing is missing, or the k best are decided.

    Args:
        table: What is trained; nan elsewhere.
        block_costs, k, budget, probability, parts: As of :func:`onnxmtl.recommend.program.best`.
        weighting: Name of the task weights.
        estimator: Name of an estimator that reads the table.
        seed: Of the draws.

    Raises:
        OnnxMTLError: As of `best`, of the weights and the estimator.
    """
    missing = [cell for cell in table.missing if cell[2] > 0]
    for cell in first_cells(len(table.tasks), table.blocks):
        if cell in missing:
            return cell
    if not missing:
        return None
    task_weights = weights(weighting, filled(table))
    uses: list[set[Groups]] = []
    for draw in range(_DRAWS):
        measured = estimators.Measured(_drawn(table, derive_seed(seed, "two-task", len(missing), draw)), task_weights)
        found = program.best(estimators.estimate(estimator, measured), block_costs, k, budget, probability, parts)
        uses.append({one.groups for one in found})
    counts = Counter(groups for found_groups in uses for groups in found_groups)
    contested = {groups: count for groups, count in counts.items() if count < _DRAWS}
    if not contested:
        return None
    spread = _spread(table) * task_weights[:, None, None]
    matters = np.zeros_like(spread)
    pairs = np.array(list(itertools.combinations(range(len(table.tasks)), 2)))
    for groups, count in contested.items():
        points = branch_points(groups)[pairs[:, 0], pairs[:, 1]]
        matters[pairs[:, 0], pairs[:, 1], points] += count
    worth = matters * (spread + spread.transpose(1, 0, 2))
    best = max(missing, key=lambda cell: (float(worth[cell]), -missing.index(cell)))
    return best if worth[best] > 0 else None


def regret(truth: LayoutScores, chosen: Scored | Groups, best: Scored) -> float:
    """How much worse a layout is than the best one, both scored by the full table."""
    groups = chosen.groups if isinstance(chosen, Scored) else chosen
    return max(0.0, best.score - truth.of(groups))


def replay(
    table: TwoTaskTable,
    block_costs: Sequence[float] | Array,
    k: int = 1,
    budget: float | None = None,
    *,
    weighting: str = "auto",
    seed: int = 0,
) -> tuple[Step, ...]:
    """What would have been recommended at each moment, had a recorded full table been trained one model at a time.

    From the trainings made in any case up to the moment when :func:`next_training` is satisfied.

    Raises:
        OnnxMTLError: The table is not complete, or no layout keeps the budget.
    """
    table.require_complete()
    truth = _scores(table, weighting)
    best = program.best(truth, block_costs, 1, budget)[0]
    now = TwoTaskTable.untrained(table.tasks, table.blocks)
    cells = first_cells(len(table.tasks), table.blocks)
    for cell in cells:
        now = _revealed(now, table, cell)
    steps: list[Step] = []
    cell_or_none: Cell | None = cells[-1]
    trained = len(cells)
    while True:
        chosen = program.best(_scores(filled(now), weighting), block_costs, 1, budget)[0]
        upcoming = next_training(now, block_costs, k, budget, weighting=weighting, seed=seed)
        steps.append(Step(trained, cell_or_none, regret(truth, chosen, best), upcoming is None))
        if upcoming is None:
            return tuple(steps)
        now, cell_or_none, trained = _revealed(now, table, upcoming), upcoming, trained + 1


def _scores(table: TwoTaskTable, weighting: str) -> LayoutScores:
    return estimators.estimate("two-task", estimators.Measured(table, weights(weighting, table)))


def _revealed(table: TwoTaskTable, full: TwoTaskTable, cell: Cell) -> TwoTaskTable:
    t, u, b = cell
    return table.with_pair(t, u, b, float(full.values[t, u, b]), float(full.values[u, t, b]))


def _known(table: TwoTaskTable) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[T, T, B + 1]; b = 0 is always known."""
    known = np.isfinite(table.values)
    known[:, :, 0] = True
    return known


def _lines(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> Array:
    """Straight lines between what is known, for every (t, u)."""
    result = np.where(np.isfinite(values), values, 0.0)
    steps = np.arange(values.shape[2])
    for t, u in itertools.permutations(range(len(values)), 2):
        at = np.flatnonzero(known[t, u])
        result[t, u] = np.interp(steps, at, result[t, u, at])
    return result


def _step_size(table: TwoTaskTable) -> float:
    """Standard deviation of one step of the random walk."""
    known, squares = _known(table), []
    for t, u in itertools.permutations(range(len(table.tasks)), 2):
        at = np.flatnonzero(known[t, u])
        values = np.nan_to_num(table.values[t, u, at])
        squares += list(np.diff(values) ** 2 / np.diff(at))
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def _drawn(table: TwoTaskTable, seed: int) -> TwoTaskTable:
    """A full table that agrees with what is trained: the lines, plus a walk less the lines through that walk."""
    known = _known(table)
    walk = np.cumsum(np.random.default_rng(seed).normal(size=table.values.shape), axis=2) * _step_size(table)
    walk -= _lines(walk, known)
    return dataclasses.replace(table, values=_lines(table.values, known) + walk)


def _spread(table: TwoTaskTable) -> Array:
    """[T, T, B + 1]; standard deviations of the bridges, 0 where something is trained."""
    known, steps = _known(table), np.arange(table.blocks + 1)
    variance = np.zeros(table.values.shape)
    for t, u in itertools.permutations(range(len(table.tasks)), 2):
        at = np.flatnonzero(known[t, u])
        place = np.searchsorted(at, steps, side="right") - 1
        low = at[place]
        high = at[np.minimum(place + 1, len(at) - 1)]
        inside = high > low
        gap = np.where(inside, high - low, 1)
        variance[t, u] = np.where(inside, (steps - low) * (high - steps) / gap, steps - low)
    spread: Array = np.sqrt(variance) * _step_size(table)
    return spread

"""What ``recommend`` found, as data: layouts ranked, what they cost, what was predicted and what was measured.

The workflow fills it and writes it as ``recommendation.json``; the report page and the command line show it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmtl.deploy.results import finite
from onnxmtl.policy.layout import Layout

RECOMMENDATION_FILE = "recommendation.json"

QUANTITIES: Mapping[str, str] = {
    "multiply_adds": "multiply-adds",
    "parameters": "parameters",
    "multiply_adds_trunk": "trunk multiply-adds",
    "parameters_trunk": "trunk parameters",
    "expected_multiply_adds": "expected multiply-adds",
    "latency": "latency (ms)",
    "models": "backbones",
}
"""Key of a cost -> what people call it. ``models`` is the number of separate trees."""


@dataclasses.dataclass(frozen=True)
class LayoutResult:
    """One layout.

    Attributes:
        layout: What the tasks share.
        score: What the estimator predicts for it, weighted over the tasks; in percent for estimators that read
            performance.
        costs: Quantity (of :data:`QUANTITIES`) -> what the emitted model has of it.
        estimates: Task -> predicted relative performance in percent; empty where the estimator gives none.
        measured: Per seed, task -> relative performance in percent of the trained layout; empty if it was not trained.
        why: Why it was trained: ``top``, ``random`` or ``given``; "" for a layout that was only ranked.
        file: Its layout file, relative to the run; "" if there is none.
    """

    layout: Layout
    score: float
    costs: Mapping[str, float]
    estimates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measured: tuple[Mapping[str, float], ...] = ()
    why: str = ""
    file: str = ""

    def measured_scores(self, weights: Mapping[str, float]) -> tuple[float, ...]:
        """The weighted measured performance, one number per seed."""
        return tuple(sum(weights[task] * value for task, value in one.items()) for one in self.measured)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(
            {
                "number": self.layout.number,
                "groups": [[list(part) for part in groups] for groups in self.layout.groups],
                "score": self.score,
                "costs": dict(self.costs),
                "estimates": dict(self.estimates),
                "measured": [dict(one) for one in self.measured],
                "why": self.why,
                "file": self.file,
            }
        )
        return content


@dataclasses.dataclass(frozen=True)
class LimitResult:
    """One limit of the budget.

    Attributes:
        limit: As the user wrote it.
        quantity: Key of :data:`QUANTITIES`.
        bound: In numbers.
    """

    limit: str
    quantity: str
    bound: float


@dataclasses.dataclass(frozen=True)
class Correlation:
    """How well predictions order what was measured.

    Attributes:
        seed: Which training seed, or None for the mean over the seeds.
        count: Number of layouts.
        pearson, spearman: From -1 to 1; nan for fewer than two different values on a side.
    """

    seed: int | None
    count: int
    pearson: float
    spearman: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes:
        title: Backbone and data.
        tasks: Names, in order.
        blocks: Names of the blocks, in order.
        layouts: The best ones, best first.
        front: The whole Pareto front of cost and score, the cheapest first; empty unless it was asked for.
        trained: Layouts that were trained for comparison.
        estimator: What the scores come from.
        decoder: ``exact`` or ``greedy``.
        weights: Task -> its weight in the score; they sum up to 1.
        weighting: Where the weights come from.
        separate: Quantity -> what one model per task costs, all together.
        block_costs: Quantity -> what one copy of each block costs.
        limits: The budget.
        cost: Quantity that front and ties are decided by.
        table: Values [T][T][B + 1] of the two-task table in percent, None where nothing was trained; () without one.
        seeds: Seeds of the trainings.
        trainings: Number of trainings behind it, all seeds together.
        notes: Remarks, one line each.
    """

    title: str
    tasks: tuple[str, ...]
    blocks: tuple[str, ...]
    layouts: tuple[LayoutResult, ...]
    front: tuple[LayoutResult, ...] = ()
    trained: tuple[LayoutResult, ...] = ()
    estimator: str = "two-task"
    decoder: str = "exact"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weighting: str = ""
    separate: Mapping[str, float] = dataclasses.field(default_factory=dict)
    block_costs: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    limits: tuple[LimitResult, ...] = ()
    cost: str = "multiply_adds"
    table: Sequence[Sequence[Sequence[float | None]]] = ()
    seeds: tuple[int, ...] = ()
    trainings: int = 0
    notes: tuple[str, ...] = ()

    @property
    def correlations(self) -> tuple[Correlation, ...]:
        """Predicted against measured: per seed, then of the mean over the seeds where there are several."""
        pairs = [(one.score, one.measured_scores(self.weights)) for one in self.trained if one.measured]
        if not pairs:
            return ()
        predicted = [score for score, _ in pairs]
        measured = np.array([scores for _, scores in pairs])
        rows: list[tuple[int | None, list[float]]] = [
            (self.seeds[i] if i < len(self.seeds) else i, column) for i, column in enumerate(measured.T.tolist())
        ]
        if len(rows) > 1:
            rows.append((None, measured.mean(axis=1).tolist()))
        return tuple(
            Correlation(seed, len(pairs), pearson(predicted, values), spearman(predicted, values))
            for seed, values in rows
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("layouts", "front", "trained")
        }
        content["limits"] = [dataclasses.asdict(limit) for limit in self.limits]
        content["correlations"] = [dataclasses.asdict(row) for row in self.correlations]
        for name in ("layouts", "front", "trained"):
            content[name] = [row.to_json() for row in getattr(self, name)]
        plain: dict[str, Any] = finite(content)
        return plain


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's correlation of two lists of numbers; nan where one of them does not vary."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else math.nan


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; equal numbers share the mean of their ranks."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    array = np.asarray(values, np.float64)
    return [float((array < value).sum() + (array == value).sum() / 2) for value in array]

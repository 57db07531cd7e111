"""What an estimator says of layouts: scores for the program, predictions per task for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from onnxmtl.policy.layout import Layout
from onnxmtl.recommend.active import filled
from onnxmtl.recommend.estimators import Measured, estimate
from onnxmtl.recommend.scores import LayoutScores, branch_points
from onnxmtl.recommend.table import TwoTaskTable
from onnxmtl.recommend.weights import weights
from onnxmtl.workflows.recommending.store import Performance


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """An estimator with all that it needs.

    Attributes:
        tasks: Names.
        scores: Of every layout.
        weights: Task -> weight.
        weighting: Where the weights come from, for people.
        table: What predictions per task come from, without gaps; None: the estimator gives none.
    """

    tasks: tuple[str, ...]
    scores: LayoutScores
    weights: Mapping[str, float]
    weighting: str
    table: TwoTaskTable | None

    def score(self, layout: Layout) -> float:
        """Of one layout."""
        return self.scores.of(layout.groups)

    def estimates(self, layout: Layout) -> dict[str, float]:
        """Task -> predicted relative performance in percent; empty if the estimator gives none.

        The mean over its two-task models with the layout's branching points (TreeMTL §3.1).
        """
        if self.table is None:
            return {}
        points, count = branch_points(layout.groups), len(self.tasks)
        return {
            name: math.fsum(float(self.table.values[t, u, points[t, u]]) for u in range(count) if u != t) / (count - 1)
            for t, name in enumerate(self.tasks)
        }


def predictor(known: Performance, estimator: str, weighting: str) -> Predictor:
    """The estimator of that name on what is known.

    Args:
        known: Trainings, or a table that was given.
        estimator: Name.
        weighting: Name of the task weights; ``auto``: SVD entropy where it can be computed.

    Raises:
        DataError: What the estimator or the weights need was not trained.
    """
    count = len(known.tasks)
    table = None if known.table is None else filled(known.table) if estimator == "two-task" else known.table
    if table is None:
        shares, name = np.full(count, 1 / count), "equal"
    else:
        name = weighting
        if name == "auto":  # the entropy is that of a curve over all branching points
            name = "svd-entropy" if table.blocks >= 3 and not table.missing else "equal"
        shares = weights(name, table)
    scores = estimate(estimator, Measured(table, shares, known.similarity))
    return Predictor(
        known.tasks,
        scores,
        dict(zip(known.tasks, map(float, shares), strict=True)),
        name,
        table if estimator == "two-task" else None,
    )

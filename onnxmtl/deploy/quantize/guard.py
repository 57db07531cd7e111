"""Which blocks go back to floating point so that every task keeps its metric. Knows no runtime and no data.

All blocks are int8 at first. While a task loses more than it may, the int8 block that disturbs the failing tasks most
goes back. What a block disturbs is measured beforehand, with that block alone in int8; a task's disturbances are taken
as shares of their sum, because outputs have different units. Each step is evaluated, so that there are at most as many
evaluations as blocks and one for the float model: never more than blocks + tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from onnxmtl.deploy.quantize.tolerance import Metrics, Tolerance, check_metrics

Evaluate = Callable[[Collection[str]], Metrics]
Sensitivity = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Step:
    """A mixture that was evaluated.

    Attributes:
        kept: The blocks in floating point.
        metrics: Task -> metric -> value.
        failing: The tolerances that it breaks.
    """

    kept: tuple[str, ...]
    metrics: Metrics
    failing: tuple[Tolerance, ...]


@dataclasses.dataclass(frozen=True)
class Guarded:
    """What the search came to.

    Attributes:
        reference: The float model's metrics.
        steps: All mixtures evaluated, in order; the last one is the result.
    """

    reference: Metrics
    steps: tuple[Step, ...]

    @property
    def evaluations(self) -> int:
        """How often the validation set was gone through, the float model included."""
        return 1 + len(self.steps)

    @property
    def result(self) -> Step:
        """The last mixture."""
        return self.steps[-1]

    @property
    def held(self) -> bool:
        """Whether it keeps every tolerance. If not, no mixture with an int8 block was found that does."""
        return not self.result.failing


def guard(
    blocks: Sequence[str],
    sensitivity: Sensitivity,
    tolerances: Sequence[Tolerance],
    reference: Metrics,
    evaluate: Evaluate,
) -> Guarded:
    """Evaluate the int8 model, and roll blocks back until every tolerance holds or one int8 block would not be left.

    Args:
        blocks: Names, one or more.
        sensitivity: Block -> task -> how much the task's output changes with this block alone in int8.
        tolerances: What is to hold.
        reference: The float model's metrics, evaluated before.
        evaluate: The metrics of the model with these blocks in floating point.

    Raises:
        TaskError: The float model has no value of a metric that is watched.
    """
    check_metrics(tolerances, reference)
    totals: dict[str, float] = {}
    for changes in sensitivity.values():
        for task, change in changes.items():
            totals[task] = totals.get(task, 0.0) + change
    kept: list[str] = []
    steps: list[Step] = []
    while True:
        metrics = evaluate(tuple(kept))
        failing = tuple(
            tolerance
            for tolerance in tolerances
            if not tolerance.holds(
                reference[tolerance.task][tolerance.metric], metrics[tolerance.task][tolerance.metric]
            )
        )
        steps.append(Step(tuple(kept), metrics, failing))
        left = [block for block in blocks if block not in kept]
        if not failing or len(left) == 1:
            return Guarded(reference, tuple(steps))
        tasks = sorted({tolerance.task for tolerance in failing})
        shares = {
            block: max(sensitivity[block].get(task, 0.0) / totals[task] if totals.get(task) else 0.0 for task in tasks)
            for block in left
        }
        worst = max(left, key=lambda block: shares[block])
        kept.append(worst)

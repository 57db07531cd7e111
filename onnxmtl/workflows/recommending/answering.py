"""Questions about layouts answered from a performance table: ranked, within the budget, counted as emitted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.recommendation import LayoutResult, LimitResult, Recommendation
from onnxmtl.deploy.results import finite
from onnxmtl.errors import BudgetError, DataError
from onnxmtl.policy.layout import Groups, Layout
from onnxmtl.policy.parts import Part
from onnxmtl.recommend import program
from onnxmtl.recommend.active import next_training
from onnxmtl.recommend.chain import MOST_TASKS
from onnxmtl.recommend.greedy import greedy
from onnxmtl.recommend.traffic import read_traffic
from onnxmtl.recommend.weights import LEAST_BLOCKS
from onnxmtl.workflows.recommending import budget as budgets
from onnxmtl.workflows.recommending.asking import Plan, Question
from onnxmtl.workflows.recommending.costs import CostTable, Emission, Probability
from onnxmtl.workflows.recommending.predicting import Predictor, predictor
from onnxmtl.workflows.recommending.store import Performance

_MOST = 4096  # layouts that are looked through for those that keep what only their own graphs tell
_OFF = 0.02  # of sums of latencies; less is noise


class Answer:
    """What is asked, and how it is answered.

    Args:
        question: What is asked.
        plan: Which estimator.
        emission: Counts and measures layouts as they are emitted; None: the table's sums stand.
    """

    def __init__(self, question: Question, plan: Plan, emission: Emission | None) -> None:
        self.question, self.plan, self._emission = question, plan, emission
        self._wanted = budgets.parse(question.budget)
        self._counted: dict[Groups, dict[str, float]] = {}

    def of(self, known: Performance) -> Recommendation:
        """The answer.

        Raises:
            OnnxMTLError: No layout keeps the budget, or what is needed is not known.
        """
        asked = self.question
        predicted, probability = self._predictor(known), self._probability(known)
        limits = self._limits(known)
        cost = self._cost(known, limits)
        ranked = self._ranked(known, predicted, limits, cost, probability)
        front: list[LayoutResult] = []
        if asked.sweep:
            row = self._row_of(known.costs, cost)
            scored = program.front(predicted.scores, row, probability, known.costs.parts)
            front = [self.row(known, Layout(known.tasks, one.groups, known.blocks), emitted=False) for one in scored]
        table: Any = () if known.table is None else finite(known.table.values.tolist())
        return Recommendation(
            title=known.title,
            tasks=known.tasks,
            blocks=known.blocks,
            layouts=tuple(ranked),
            front=tuple(front),
            estimator=self.plan.estimator,
            decoder=asked.decoder,
            weights=predicted.weights,
            weighting=predicted.weighting,
            separate={q: known.costs.separate(q) for q in known.costs.copies},
            block_costs={q: known.costs.blocks(q) for q in known.costs.copies},
            limits=limits,
            cost=cost,
            table=table,
            seeds=known.seeds,
            trainings=known.trainings,
            notes=self._notes(known, ranked),
        )

    def refuse_unreachable(self, known: Performance) -> None:
        """Refuse what cannot be answered, whatever the trainings will say; above all a budget that no layout keeps.

        Raises:
            BudgetError: Names the limit and the least that can be reached; or there are too many tasks.
            DataError: The weights need more branching points than there are.
        """
        self._refuse_many_tasks(known)
        self._refuse_weights(known)
        self._probability(known)
        limits = self._limits(known)
        budgets.check_reachable(limits, known.costs, self._costs(known, Layout.shared(known.tasks, len(known.blocks))))

    def row(self, known: Performance, layout: Layout, *, emitted: bool = True) -> LayoutResult:
        """What is known of one layout, counted on its own graph if `emitted`, else summed up over its blocks."""
        predicted = self._predictor(known)
        costs = self._costs(known, layout, emitted)
        return LayoutResult(layout, predicted.score(layout), costs, predicted.estimates(layout))

    def next_training(self, known: Performance, seed: int) -> tuple[int, int, int] | None:
        """Which two-task model (task, task, branching point) tells most about the answer; None: it is decided."""
        assert known.table is not None, "trainings are chosen by those that are done"
        limits, probability = self._limits(known), self._probability(known)
        rows, bounds = self._problem(known, limits, self._cost(known, limits), probability)
        return next_training(
            known.table,
            rows,
            self.question.top,
            bounds,
            probability,
            known.costs.parts,
            weighting=self.question.task_weights,
            estimator=self.plan.estimator,
            seed=seed,
        )

    def _refuse_many_tasks(self, known: Performance) -> None:
        count, asked, estimator = len(known.tasks), self.question, self.plan.estimator
        for option, used, instead in (
            (f"--estimator {estimator}", estimator in ("grouping", "rsa-max"), "take another one"),
            ("--sweep", asked.sweep, "leave it out"),
            ("--decoder exact", asked.decoder == "exact", "take --decoder greedy"),
        ):
            if used and count > MOST_TASKS:
                msg = f"{option} takes up to {MOST_TASKS} tasks, not {count}: {instead}"
                raise BudgetError(msg)

    def _refuse_weights(self, known: Performance) -> None:
        name, points = self.question.task_weights, len(known.blocks)
        least = LEAST_BLOCKS.get(name, 0)
        if not least:
            return
        if self.plan.estimator != "two-task" and known.table is None:
            msg = f"--task-weights {name} needs two-task models at all branching points, which --estimator "
            msg += f"{self.plan.estimator} does not train: take equal"
            raise DataError(msg)
        if points < least:
            msg = f"--task-weights {name} needs {least} blocks or more, there are {points}: take equal"
            raise DataError(msg)

    def _predictor(self, known: Performance) -> Predictor:
        return predictor(known, self.plan.estimator, self.question.task_weights)

    def _probability(self, known: Performance) -> Probability | None:
        if not self.question.traffic:
            return None
        return read_traffic(self.question.traffic, known.tasks).probability

    def _limits(self, known: Performance) -> tuple[LimitResult, ...]:
        return budgets.resolve(self._wanted, known.costs, bool(self.question.traffic))

    def _cost(self, known: Performance, limits: tuple[LimitResult, ...]) -> str:
        """What layouts are weighed against: what is limited first, else multiply-adds."""
        if limits and limits[0].quantity != "models":
            return limits[0].quantity
        name = "multiply_adds" if known.costs.heads_known else "multiply_adds_trunk"
        return f"expected_{name}" if self.question.traffic else name

    def _row_of(self, costs: CostTable, quantity: str) -> np.ndarray[Any, Any]:
        return np.array(costs.copies[_plain(quantity)])

    def _ranked(
        self,
        known: Performance,
        predicted: Predictor,
        limits: tuple[LimitResult, ...],
        cost: str,
        probability: Probability | None,
    ) -> list[LayoutResult]:
        """The best layouts that keep all limits on their own graphs.

        Sums over the table of latencies say which layouts are looked at; once some have been measured, the limit on
        those sums is moved by as much as the sums were off.
        """
        asked = self.question
        ratio, moved = self._predicted_by_measured(known, [Layout.shared(known.tasks, len(known.blocks))]), False
        count = asked.top
        while True:
            rows, bounds = self._problem(known, limits, cost, probability, ratio)
            found = self._best(predicted, rows, count, bounds, probability, known.costs.parts)
            kept, seen = [], []
            for one in found:
                layout = Layout(known.tasks, one.groups, known.blocks)
                result = self.row(known, layout)
                seen.append(layout)
                if budgets.allows(limits, dict(result.costs)):
                    kept.append(result)
                if len(kept) == asked.top:
                    break
            now = self._predicted_by_measured(known, seen)
            if not moved and abs(now / ratio - 1) > _OFF:
                ratio, moved = now, True
                continue
            if len(kept) == asked.top:
                return kept
            if len(found) < count or count >= _MOST or asked.decoder == "greedy":
                break
            count = min(4 * count, _MOST)
        if not kept:
            shown = ", ".join(limit.limit for limit in limits)
            msg = (
                f"{shown}: none of the {len(found)} best layouts keeps it once it is emitted; loosen the budget, or "
                "limit multiply-adds as well"
            )
            raise BudgetError(msg)
        return kept

    def _problem(
        self,
        known: Performance,
        limits: tuple[LimitResult, ...],
        cost: str,
        probability: Probability | None,
        ratio: float = 1.0,
    ) -> tuple[np.ndarray[Any, Any], list[float | None]]:
        """Costs of the parts of blocks [D, P], and what the budget leaves for them; of latency `ratio` times as much.

        With a traffic model the program's costs are expected ones; what is not expected is looked at afterwards.
        """
        inside = [limit for limit in limits if limit.quantity.startswith("expected_") or probability is None]
        quantities = list(dict.fromkeys(limit.quantity for limit in inside)) or [cost]
        rows = np.stack([self._row_of(known.costs, q) for q in quantities])
        factors = [ratio if q == "latency" else 1.0 for q in quantities]
        return rows, [self._left(known, inside, q, probability, f) for q, f in zip(quantities, factors, strict=True)]

    def _predicted_by_measured(self, known: Performance, layouts: Sequence[Layout]) -> float:
        """What the table of latencies says as a multiple of what was measured, in the middle; 1 without a limit."""
        if self._emission is None or not layouts or not any(one.quantity == "latency" for one in self._wanted):
            return 1.0
        ratios = [known.costs.of(one, "latency") / self._costs(known, one)["latency"] for one in layouts]
        return statistics.median(ratios)

    def _best(
        self,
        predicted: Predictor,
        rows: np.ndarray[Any, Any],
        count: int,
        bounds: list[float | None],
        probability: Probability | None,
        parts: Sequence[Part],
    ) -> list[program.Scored]:
        """The best layouts by the sums over their blocks."""
        if self.question.decoder == "greedy":
            return [greedy(predicted.scores, rows, bounds, probability, parts)]
        return program.best(predicted.scores, rows, count, bounds, probability, parts)

    def _left(
        self,
        known: Performance,
        limits: list[LimitResult],
        quantity: str,
        probability: Probability | None,
        factor: float,
    ) -> float | None:
        """What `factor` times the budget leaves for blocks."""
        bounds = [limit.bound * factor for limit in limits if limit.quantity == quantity]
        return min(bounds) - known.costs.fixed(_plain(quantity), probability) if bounds else None

    def _costs(self, known: Performance, layout: Layout, emitted: bool = True) -> dict[str, float]:
        """Every known quantity of a layout: counted on its own graph where that can be made, else summed up."""
        if layout.groups not in self._counted:
            costs = known.costs.all_of(layout)
            if emitted and self._emission is not None and self._emission.has_heads:
                counted = self._emission.costs(layout)
                costs |= {name: _counted(counted, name) for name in costs if hasattr(counted, name)}
                if any(limit.quantity == "latency" for limit in self._wanted):
                    costs["latency"] = self._emission.latency(layout)
            probability = self._probability(known)
            if probability is not None:
                for name in ("multiply_adds", "multiply_adds_trunk"):
                    if name in costs:
                        costs[f"expected_{name}"] = known.costs.of(layout, name, probability)
            if not emitted:
                return costs
            self._counted[layout.groups] = costs
        return self._counted[layout.groups]

    def _notes(self, known: Performance, ranked: list[LayoutResult]) -> tuple[str, ...]:
        notes = []
        if not known.costs.heads_known:
            notes.append(
                "costs are those of the trunk, for a task has no number of classes: write name=kind:N in --tasks to "
                "count heads too"
            )
        if self.question.decoder == "greedy":
            notes.append("the greedy decoder splits step by step to one layout, and may miss the best one")
        elif len(ranked) < self.question.top:
            within = " within the budget" if self.question.budget else ""
            notes.append(f"no more than these {len(ranked)} layouts are there{within}")
        if self.plan.estimator == "two-task" and known.table is not None and known.table.missing:
            count = len(known.tasks)
            every = count * (count - 1) // 2 * len(known.blocks)
            done = every - sum(point > 0 for _, _, point in known.table.missing)
            notes.append(f"{done} of {every} two-task models were trained; the others are taken to lie between them")
        if self.plan.similarity_only and not self.question.budget:
            notes.append("similarity only tells what sharing loses: without a budget, separate networks come first")
        return tuple(notes)


def _plain(quantity: str) -> str:
    return quantity.removeprefix("expected_")


def _counted(costs: Costs, name: str) -> float:
    return float(getattr(costs, name))

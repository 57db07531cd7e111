"""Limits on what only the emitted model shows: milliseconds, or weights after folding.

The decoder knows multiply-adds, parameters before folding, and what a table of measured times predicts. So it decodes
under a cap on one of them, the model is emitted and measured, and the cap is moved until the measured value keeps the
limit. The measurement decides, never the cap, and it is repeated before it is believed: latency is noisy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from onnxmtl.errors import BudgetError
from onnxmtl.policy.budget import Absolute

D = TypeVar("D")

_CLOSE = {True: 0.01, False: 1e-4}  # caps nearer to each other are not told apart; whether values are noisy
_MARGIN = 0.98  # of a cap that follows from a measurement, for noise


@dataclasses.dataclass(frozen=True)
class Trial(Generic[D]):
    """One cap that was tried.

    Attributes:
        cap: What the decoder was allowed; infinite for no cap.
        cost: What the decoded model has of the capped quantity.
        measured: What was measured on it; the largest, if more than once.
        decoded: What `decode` gave.
    """

    cap: float
    cost: float
    measured: float
    decoded: D


@dataclasses.dataclass(frozen=True)
class Fitted(Generic[D]):
    """The model that keeps the limit, and how it was found.

    Attributes:
        decoded: What `decode` gave.
        measured: The largest value measured on it.
        cap: The cap it was decoded with.
        trials: All that was measured, in order.
    """

    decoded: D
    measured: float
    cap: float
    trials: tuple[Trial[D], ...]


def fit_to_measure(
    decode: Callable[[float], D],
    measure: Callable[[D], float],
    limit: Absolute,
    *,
    cost: Callable[[D], float],
    start: float = math.inf,
    least: Callable[[], float | None] = lambda: None,
    rounds: int = 8,
    repeats: int = 2,
) -> Fitted[D]:
    """Decode under a cap that shrinks until what is measured keeps the limit; then as large a cap as still does.

    The cap that follows the first one assumes that the measured value is proportional to the cost; between a model that
    is over the limit and one that is not, that it rises in a straight line. A larger cap is taken for the more probable
    architecture.

    Args:
        decode: Cap -> the best model whose `cost` is within it; raises BudgetError if there is none.
        measure: The value that is limited, of the emitted model.
        limit: Its bound.
        cost: What the cap caps.
        start: The first cap.
        least: The least cap that there is a model for, or None; asked if there is none within a cap, for what a cap
            stands for may be wrong.
        rounds: The most caps that are tried.
        repeats: A model counts as within the limit only if it is so in this many measurements (1 for a value that is
            counted).

    Raises:
        BudgetError: No model that was measured keeps the limit; names the smallest value found.
    """
    search = _Search(decode, measure, limit, cost, repeats)
    cap: float | None = start
    for _ in range(rounds):
        if cap is None:
            break
        cap = search.step(cap, least)
    good = search.good
    if good is None:
        smallest = min(trial.measured for trial in search.trials)
        unit = " ms" if limit.quantity == "latency" else ""
        msg = (
            f"{limit}: of the {len(search.trials)} architectures that were emitted and measured, the smallest has "
            f"{smallest:.4g}{unit}"
        )
        raise BudgetError(msg)
    return Fitted(good.decoded, good.measured, good.cap, tuple(search.trials))


class _Search(Generic[D]):
    """What is known so far: a cap that is good, one that is too large, and between them the next one."""

    def __init__(
        self,
        decode: Callable[[float], D],
        measure: Callable[[D], float],
        limit: Absolute,
        cost: Callable[[D], float],
        repeats: int,
    ) -> None:
        self.decode, self.measure, self.limit, self.cost, self.repeats = decode, measure, limit, cost, repeats
        self.trials: list[Trial[D]] = []
        self.good: Trial[D] | None = None
        self.refused = 0.0  # no model within this cap
        self.too_large = math.inf  # cost of the smallest model that was over the limit
        self.margin, self.close = (_MARGIN if repeats > 1 else 1.0), _CLOSE[repeats > 1]

    def step(self, cap: float, least: Callable[[], float | None]) -> float | None:
        """Try a cap; the next one, None if there is nothing more to learn."""
        try:
            decoded = self.decode(cap)
        except BudgetError:
            self.refused = max(self.refused, cap)
            if self.good is not None:
                return self._between()
            smallest = least()
            if smallest is None or smallest <= cap or smallest >= self.too_large:
                if not self.trials:
                    raise
                return self._between()
            self.refused = cap = smallest  # nothing is below that
            try:
                decoded = self.decode(cap)
            except BudgetError:  # other limits rule that one out
                if not self.trials:
                    raise
                return self._between()
        if self.good is not None and decoded == self.good.decoded:
            self.good = dataclasses.replace(self.good, cap=cap)  # as measured already
            return self._between() if self.too_large < math.inf else None
        trial = self._measured(decoded, cap)
        self.trials.append(trial)
        if self.limit.allows(trial.measured):
            self.good = trial
            return self._between() if self.too_large < math.inf else self._larger(trial)
        self.too_large = min(self.too_large, trial.cost, cap)
        return self._between()

    def _between(self) -> float | None:
        """On the line through both sides; while nothing is known below, as much smaller as the last was too large."""
        good, over = self.good, [trial for trial in self.trials if not self.limit.allows(trial.measured)]
        floor = max(self.refused, 0.0 if good is None else max(good.cap, good.cost))
        if not over or self.too_large <= floor * (1 + self.close):
            return None
        if floor == 0.0:
            return self.too_large * self.limit.bound / self.trials[-1].measured * self.margin
        cap = (floor + self.too_large) / 2
        nearest = min(over, key=lambda trial: trial.cost)
        if good is not None and nearest.cost > good.cost:
            slope = (nearest.measured - good.measured) / (nearest.cost - good.cost)
            cap = min(good.cost + (self.limit.bound - good.measured) / slope, self.too_large * self.margin)
        return cap if cap > floor * (1 + self.close) else None

    def _larger(self, trial: Trial[D]) -> float | None:
        """What may keep the limit as well, if the prediction was too high."""
        cap = trial.cost * self.limit.bound / max(trial.measured, 1e-12) * self.margin
        return cap if math.isfinite(trial.cap) and cap > trial.cap * (1 + self.close) else None

    def _measured(self, decoded: D, cap: float) -> Trial[D]:
        """Measure until one value is over the limit, or `repeats` are within."""
        largest = -math.inf
        for _ in range(self.repeats):
            largest = max(largest, self.measure(decoded))
            if not self.limit.allows(largest):
                break
        return Trial(cap, self.cost(decoded), largest, decoded)

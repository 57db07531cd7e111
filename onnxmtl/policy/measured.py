"""Limits on what only the emitted model shows: milliseconds, or weights after folding.

The decoder knows multiply-adds and parameters before folding. So it decodes under a cap on one of them, the model is
emitted and measured, and the cap is scaled until the measured value keeps the limit. The measurement decides, never
the cap, and it is repeated before it is believed: latency is noisy.
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
_MARGIN = 0.98  # of the first smaller cap, for noise


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
    rounds: int = 8,
    repeats: int = 2,
) -> Fitted[D]:
    """Decode under a shrinking cap until what is measured keeps the limit; then as large a cap as still does.

    The first smaller cap assumes that the measured value is proportional to the cost; between a cap that is too large
    and one that is not, the next lies in the middle. A larger cap is taken for the more probable architecture.

    Args:
        decode: Cap -> the best model whose `cost` is within it; raises BudgetError if there is none.
        measure: The value that is limited, of the emitted model.
        limit: Its bound.
        cost: What the cap caps.
        start: The first cap.
        rounds: The most models that are measured.
        repeats: A model counts as within the limit only if it is so in this many measurements (1 for a value that is
            counted).

    Raises:
        BudgetError: No model that was measured keeps the limit; names the smallest value found.
    """
    trials: list[Trial[D]] = []
    good: Trial[D] | None = None
    refused = 0.0  # no model within this cap
    too_large = math.inf  # cost of the smallest model that was over the limit
    cap, noisy = start, repeats > 1
    for _ in range(rounds):
        try:
            decoded = decode(cap)
        except BudgetError:
            if not trials:
                raise
            refused = max(refused, cap)
        else:
            trial = _measured(decoded, measure, limit, cap, cost(decoded), repeats)
            trials.append(trial)
            if limit.allows(trial.measured):
                good = trial
                if cap >= start:
                    break
            else:
                too_large = min(too_large, trial.cost, cap)
        floor = max(refused, 0.0 if good is None else max(good.cap, good.cost))
        if too_large <= floor * (1 + _CLOSE[noisy]):
            break
        if floor == 0.0:  # nothing known below: as much smaller as the last was too large
            cap = too_large * limit.bound / trials[-1].measured * (_MARGIN if noisy else 1.0)
        else:
            cap = (floor + too_large) / 2
    if good is None:
        least = min(trial.measured for trial in trials)
        raise BudgetError(
            f"{limit}: of the {len(trials)} architectures that were emitted and measured, the smallest has {least:.4g}"
        )
    return Fitted(good.decoded, good.measured, good.cap, tuple(trials))


def _measured(
    decoded: D, measure: Callable[[D], float], limit: Absolute, cap: float, cost: float, repeats: int
) -> Trial[D]:
    """Measure until one value is over the limit, or `repeats` are within."""
    largest = -math.inf
    for _ in range(repeats):
        largest = max(largest, measure(decoded))
        if not limit.allows(largest):
            break
    return Trial(cap, cost, largest, decoded)

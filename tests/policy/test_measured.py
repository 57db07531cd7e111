"""Caps that are scaled until the measured value keeps its limit."""

import itertools
import math

import pytest

from onnxmtl.errors import BudgetError
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.measured import fit_to_measure

COSTS = [40, 55, 70, 85, 100, 130, 180, 240]  # of the architectures that there are, better and better


def decode(cap):
    fitting = [cost for cost in COSTS if cost <= cap]
    if not fitting:
        raise BudgetError("nothing fits")
    return fitting[-1]


def fit(measure, bound, **options):
    return fit_to_measure(
        decode, measure, Absolute("latency", bound, text=f"latency<={bound}ms"), cost=float, **options
    )


@pytest.mark.parametrize("bound", [2.5, 3.3, 4.0, 5.1, 7.0, 11.0])
def test_the_best_within_the_limit_is_found(bound):
    def measure(cost):
        return 0.5 + cost / 25

    found = fit(measure, bound, rounds=12)
    assert found.decoded == max(cost for cost in COSTS if measure(cost) <= bound)
    assert found.measured == measure(found.decoded) <= bound
    assert found.decoded in [trial.decoded for trial in found.trials]


def test_what_fits_at_once_is_measured_twice_and_kept():
    seen = []
    found = fit(lambda cost: seen.append(cost) or 1.0, 4.0)
    assert found.decoded == 240 and found.cap == math.inf and seen == [240, 240]


def test_a_value_that_does_not_repeat_is_not_believed():
    noise = itertools.cycle([3.9, 4.1])
    found = fit(lambda cost: next(noise) if cost == 240 else cost / 100, 4.0)
    assert found.decoded == 180 and found.trials[0].measured == 4.1


def test_counted_values_need_one_look():
    seen = []
    found = fit(lambda cost: seen.append(cost) or cost * 1.02, 180, repeats=1, start=180, rounds=12)
    assert found.decoded == 130 and len(seen) == len(found.trials)


def test_nothing_fits():
    with pytest.raises(BudgetError, match=r"latency<=1.0ms: of the \d architectures .* the smallest has 40"):
        fit(float, 1.0, rounds=12)
    with pytest.raises(BudgetError, match="nothing fits"):
        fit(float, 1.0, start=10)


def test_the_number_of_measured_models_is_bounded():
    assert len(fit(lambda cost: cost / 40, 4.0, rounds=3, repeats=1).trials) <= 3

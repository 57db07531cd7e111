"""Caps that are scaled until the measured value keeps its limit."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(deadline=None, max_examples=60)
@given(st.floats(0.3, 3.0), st.integers(45, 300))
def test_a_prediction_in_proportion_decides_at_the_first_or_second_look(factor, bound):
    """The first cap is the limit itself, as predicted; what is left out is at most the margin for noise."""
    found = fit(lambda cost: factor * cost, factor * bound, start=float(factor * bound), least=lambda: min(COSTS))
    assert factor * found.decoded == found.measured <= factor * bound
    assert found.decoded >= max(cost for cost in COSTS if cost <= 0.96 * bound)
    assert len(found.trials) <= 4
    if factor == 1:
        assert len(found.trials) == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(45, 300))
def test_whatever_is_predicted_the_measurement_decides(seed, bound):
    """Predictions off by 20 % each: the limit is kept, or it is said that it is not."""
    rng = random.Random(seed)
    true = {cost: cost * rng.uniform(0.8, 1.2) for cost in COSTS}
    seen = []

    def measure(cost):
        seen.append(cost)
        return true[cost]

    try:
        found = fit(measure, bound, start=float(bound), least=lambda: min(COSTS))
    except BudgetError:
        assert all(true[cost] > bound for cost in seen)
    else:
        assert true[found.decoded] == found.measured <= bound
        better = [trial.decoded for trial in found.trials if trial.decoded > found.decoded]
        assert all(true[cost] > bound for cost in better)


def test_within_a_prediction_that_is_too_high_there_may_be_nothing():
    asked = []
    found = fit(lambda cost: cost / 10, 8.0, start=8.0, least=lambda: asked.append(1) or 40.0)
    assert found.decoded == 70 and asked == [1]  # 80 is allowed, less the margin
    with pytest.raises(BudgetError, match=r"of the 1 architectures .* the smallest has 40 ms"):
        fit(float, 8.0, start=8.0, least=lambda: 40.0)


def test_from_the_most_probable_one_down_to_the_least():
    """By proportion the next cap lies below everything: the least is measured, and then what lies between."""
    found = fit(lambda cost: cost / 10 - 3.4, 3.2, least=lambda: 40.0, rounds=12)
    assert found.decoded == 55 and [trial.decoded for trial in found.trials][:2] == [240, 40]
    asked = []

    def ruled_out(cap):
        asked.append(cap)
        if cap < 60:
            raise BudgetError("another limit")
        return decode(cap)

    found = fit_to_measure(
        ruled_out, lambda cost: cost / 10 - 3.4, Absolute("latency", 3.2), cost=float, least=lambda: 50.0, rounds=12
    )
    assert found.decoded == 55 and asked[2] == 50


def test_the_same_model_is_not_measured_again():
    seen = []
    fit(lambda cost: seen.append(cost) or cost / 25, 4.3, start=100.0, repeats=1)
    assert len(seen) == len(set(seen))


def test_nothing_fits():
    with pytest.raises(BudgetError, match=r"latency<=1.0ms: of the \d architectures .* the smallest has 40"):
        fit(float, 1.0, rounds=12)
    with pytest.raises(BudgetError, match="nothing fits"):
        fit(float, 1.0, start=10)


def test_the_number_of_measured_models_is_bounded():
    assert len(fit(lambda cost: cost / 40, 4.0, rounds=3, repeats=1).trials) <= 3

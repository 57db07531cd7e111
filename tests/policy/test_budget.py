"""Budgets as text."""

import pytest

from onnxmtl.cost.count import Costs
from onnxmtl.errors import BudgetError, OnnxMTLError
from onnxmtl.policy.budget import Absolute, Limit, parse_budget

SEPARATE = Costs(80, 100, 2000, 2000, 0.0, 70, None, 1800)


def test_every_form():
    limits = parse_budget("params<=0.6x, madds <= 12M,trunk.params<=1.5e6 , trunk.madds<=0.29x, latency<=4ms")
    assert limits == (
        Limit("parameters", 0.6, relative=True, text="params<=0.6x"),
        Limit("multiply_adds", 12e6, text="madds <= 12M"),
        Limit("parameters", 1.5e6, trunk=True, text="trunk.params<=1.5e6"),
        Limit("multiply_adds", 0.29, relative=True, trunk=True, text="trunk.madds<=0.29x"),
        Limit("latency", 4.0, text="latency<=4ms"),
    )
    assert [limit.resolve(SEPARATE).bound for limit in limits] == [60.0, 12e6, 1.5e6, 522.0, 4.0]
    assert parse_budget("  ") == ()


@pytest.mark.parametrize(
    ("text", "bound"),
    [("madds<=12.1M", 12.1e6), ("params<=3k", 3000), ("params<=7", 7), ("madds<=2G", 2e9),
     ("latency<=250us", 0.25), ("latency<=0.1s", 100)],
)  # fmt: skip
def test_units(text, bound):
    assert parse_budget(text)[0].bound == bound


def test_relative_limits_are_decimal():
    assert parse_budget("params<=0.29x")[0].resolve(SEPARATE).bound == 29.0  # 0.29 * 100 is less in binary


def test_limits_are_read_off_counted_costs():
    assert [limit.resolve(SEPARATE).of(SEPARATE) for limit in parse_budget("params<=1x, trunk.params<=1x")] == [100, 80]
    limit = Absolute("multiply_adds", 2000.0)
    assert limit.of(SEPARATE) == 2000 and limit.allows(2000) and not limit.allows(2001)
    assert str(limit) == "madds<=2000" and Absolute("parameters", 1, trunk=True).name == "trunk.params"
    with pytest.raises(ValueError, match="measured"):
        Absolute("latency", 1.0).of(SEPARATE)
    with pytest.raises(ValueError, match="finite"):
        Absolute("latency", float("inf"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params<0.6x", "'params<0.6x' has to look like"),
        ("params<=0.6x,", "'' has to look like"),
        ("weights<=1M", "limits 'weights'; what can be limited: params, madds, latency"),
        ("latency<=0.5x", "has the unit 'x'; latency takes one of ms, s, us"),
        ("params<=4ms", "has the unit 'ms'; params takes one of k, K, M, G, x"),
        ("trunk.latency<=4ms", "leave out 'trunk.'"),
        ("params<=0", "needs a positive number, not '0'"),
        ("params<=1.2.3", "needs a positive number, not '1.2.3'"),
        ("params<=1e999", "needs a positive number"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(BudgetError) as error:
        parse_budget(text)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, OnnxMTLError)

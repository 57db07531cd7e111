"""Distances in units in the last place."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.networks import parse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxmtl.deploy.parity import Reference, compare_outputs, same_bits, ulps
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes


@given(st.sampled_from([np.float16, np.float32, np.float64]), st.data(), st.integers(1, 9))
def test_a_step_is_one_ulp_from_anywhere(kind, data, steps):
    """Over the whole line of floats, 0 and the change of sign included."""
    start = data.draw(arrays.arrays(kind, 4, elements={"allow_nan": False, "allow_infinity": False}))
    there = start
    with np.errstate(over="ignore"):
        for _ in range(steps):
            there = np.nextafter(there, kind(np.inf))
    assert ulps(start, there) == ulps(there, start) and abs(ulps(start, there) - steps) <= 1
    if (np.sign(start) == np.sign(there)).all() and not np.isinf(there).any():
        assert ulps(start, there) == steps


def test_what_is_not_finite_and_what_is_no_float():
    nan, inf = np.float32("nan"), np.float32("inf")
    assert ulps(np.array([nan, 0.0, inf]), np.array([nan, -0.0, inf])) == 0
    one = np.float32(1)
    assert ulps(np.array([nan]), np.array([one])) > 1e6 and ulps(np.array([-inf]), np.array([inf])) > 1e6
    assert ulps(np.array([1, 2]), np.array([1, 3])) is None and ulps(np.zeros(2), np.zeros(3)) is None
    assert ulps(np.zeros(0), np.zeros(0)) == 0
    assert not same_bits(np.array([0.0]), np.array([-0.0])) and same_bits(np.array([nan]), np.array([nan]))


NET = """<ir_version: 10, opset_import: ["": 21]> net (float[N,3] x) => (float[N,3] y) {{ y = {}(x) }}"""


def test_a_difference_is_seen():
    one, two = (to_bytes(parse(NET.format(op))) for op in ("Relu", "Neg"))
    (same,) = compare_outputs(one, [Reference("r", one, {"x": "x"}, {"y": "y"})])
    assert same.identical and same.error == 0 and same.ulps == 0
    (other,) = compare_outputs(one, [Reference("r", two, {"x": "x"}, {"y": "y"})])
    assert not other.identical and other.error > 0.5 and other.ulps > 1000


def test_an_input_that_cannot_be_fed():
    text = """<ir_version: 10, opset_import: ["": 21]> net (string[2] x) => (string[2] y) { y = Identity(x) }"""
    model = to_bytes(parse(text))
    with pytest.raises(ModelError, match="tensor\\(string\\), which nothing is known to feed with"):
        compare_outputs(model, [Reference("r", model, {"x": "x"}, {"y": "y"})])

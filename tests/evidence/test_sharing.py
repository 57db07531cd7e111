"""The statistics of ``make evidence-sharing``, on numbers that can be checked by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("sharing", Path(__file__).with_name("sharing.py"))
sharing = importlib.util.module_from_spec(_SPEC)
sys.modules["sharing"] = sharing
_SPEC.loader.exec_module(sharing)


def result(data="scenes", method="AdaShare", seed=0, found=5.0, random=(1.0, 3.0), shared=-2.0):
    return sharing.Result(data, method, seed, found, shared, random, 0.5, 0.4, 0.34, 0.35, (0.5, 0.5), 1.0)


def test_an_interval_of_student():
    """t(0.975, 4) = 2.776; the standard deviation of 1 … 5 is the root of 2.5."""
    mean, half = sharing.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), abs=1e-3)


def test_one_value_has_no_interval():
    mean, half = sharing.interval([2.0])
    assert mean == 2.0 and math.isnan(half)


def test_differences_are_paired_by_seed():
    """Seeds differ by 100, and the gain over chance is 3 in each: its interval is 0 wide."""
    rows = [result(seed=seed, found=100.0 * seed + 5, random=(100.0 * seed + 1, 100.0 * seed + 3)) for seed in range(3)]
    line = next(line for line in sharing.summary(rows).splitlines() if line.startswith("| scenes | AdaShare"))
    assert "| +3.00 ± 0.00 |" in line


def test_the_hard_sharing_row_counts_each_seed_once():
    rows = [result(method=method, seed=seed) for seed in range(2) for method in ("AdaShare", "AutoMTL, ours")]
    line = next(line for line in sharing.summary(rows).splitlines() if "all shared |" in line and "scenes" in line)
    assert line.startswith("| scenes | all shared | 2 | -2.00 ± 0.00 |")

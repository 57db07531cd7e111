"""The statistics of ``make evidence-fusion``, on numbers that can be checked by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("evidence_fusion", Path(__file__).with_name("fusion.py"))
fusion = importlib.util.module_from_spec(_SPEC)
sys.modules["evidence_fusion"] = fusion
_SPEC.loader.exec_module(fusion)


def result(arm="D-entropy", alphas=(0.0, 0.99, 0.98, 0.021), drawn=((10, 0, 1.5),), delta=1.5, seed=0):
    return fusion.Result(arm, seed, delta, alphas, 2, tuple(fusion.Drawn(*d) for d in drawn), 1.1, 1.0)


def candidate(edges, count, total):
    """An architecture by the sites whose edges it keeps."""
    sites = {f"seg/l{i}<normals/l{i}": {"seg": "edge" if i in edges else "cut"} for i in range(3)}
    return {"architecture": sites, "count": count, "total": total}


def test_certain_is_within_two_hundredths():
    assert result().certain == 0.75
    assert result(alphas=(0.02, 0.98)).certain == 1 and result(alphas=(0.5,)).certain == 0


def test_draws_that_are_the_deterministic_architecture():
    one = result(alphas=(0.9, 0.2), drawn=((7, 0, 1.0), (2, 1, -1.0), (1, 2, 0.0)))
    assert one.agreeing == pytest.approx(0.7)
    assert one.expected == pytest.approx(0.9 * 0.8)
    assert fusion.differing(one) == pytest.approx((2 * 1 + 1 * 2) / 10)
    assert sorted(one.draws) == [-1.0, -1.0, 0.0, *[1.0] * 7]


def test_discretisations_are_told_apart():
    """α of 0.9, 0.4, 0.6: the deterministic one keeps 0 and 2, whether it was drawn or not."""
    alphas = {f"seg/l{i}<normals/l{i}": alpha for i, alpha in enumerate((0.9, 0.4, 0.6))}
    rows = [candidate({0, 2}, 0, 3.0), candidate({0}, 6, 2.0), candidate({1}, 4, 1.0)]
    delta, drawn = fusion.discretised(alphas, rows)
    assert delta == 3.0
    assert drawn == (fusion.Drawn(6, 1, 2.0), fusion.Drawn(4, 3, 1.0))
    rows[0]["count"] = 1
    assert fusion.discretised(alphas, rows)[1][0] == fusion.Drawn(1, 0, 3.0)
    assert math.isnan(fusion.discretised(alphas, rows[1:])[0])


def test_bins_hold_every_alpha_once():
    """Bounds belong to the outer bin: 0.02 and 0.98 are certain."""
    assert fusion.histogram([0.0, 0.02, 0.021, 0.1, 0.3, 0.5, 0.51, 0.9, 0.97, 0.98, 1.0]) == [2, 2, 2, 1, 2, 2]


def test_the_verdict_counts_runs():
    rows = [
        result(alphas=(0.0, 1.0)),
        result("S-entropy", alphas=(0.0, 0.9), drawn=((9, 0, 1.0), (1, 1, 0.0))),
        result("D", alphas=(0.5, 0.6), drawn=((10, 1, 0.0),)),
        result("random", alphas=(), drawn=()),
    ]
    claims = fusion.verdict(rows)
    assert [line.rpartition(": ")[2] for line in claims] == [
        "in 1 of 2 runs",
        "in 1 of 2 runs",
        "in 1 of 1 runs",
        "in 1 of 1 runs",
    ]


def test_the_tables():
    rows = [result(seed=seed, delta=1.0 + seed) for seed in range(3)]
    rows += [result("random", alphas=(), drawn=(), delta=-1.0)]
    text = fusion.summary(rows)
    line = next(line for line in text.splitlines() if line.startswith("| searched | ✓ | D"))
    assert "| 3 | +1.00; +2.00; +3.00 (mean +2.00) | +1.50 (+1.50 … +1.50)" in line
    assert "| random edges |  |  | 1 | -1.00 |" in text
    assert "| D, with entropy | 3 | 3 | 0 | 0 | 0 | 6 |" in text
    header = text.splitlines()[0]
    assert all(one.count("|") == header.count("|") for one in text.splitlines()[:4])


def test_every_arm_is_one_of_the_papers():
    """Two relaxations with and without the entropy; a discretisation needs no run of its own."""
    searched = {(arm.letter, arm.entropy) for arm in fusion.ARMS if arm.kind == "search"}
    assert searched == {("D", False), ("D", True), ("S", False), ("S", True)}

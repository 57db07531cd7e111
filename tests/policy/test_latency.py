"""Measured times in the place of multiply-adds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.architectures import every_architecture, log_probabilities, random_policy
from helpers.branching import architecture_of, branch_table, branched, line_model, selected_from
from helpers.graphs import small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost import count_architecture
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.selected import SelectedCost
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture, Policy, decode_budgeted, layout_of
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.latency import Times, in_microseconds, measured_times, not_rising

TIMES = Times({"block0": 300.0, "block1": 120.4, "block2": 50.0}, 1000.0)


def milliseconds(table, architecture: Architecture) -> float:
    """A machine without noise."""
    layout = layout_of(table, architecture)
    return (TIMES.rest + layout.cost(list(TIMES.blocks.values()))) / 1e3


def test_times_are_found_again() -> None:
    table = branch_table(3, (5, 6, 7))
    found = measured_times(table, lambda architecture: milliseconds(table, architecture))
    assert found.rest == pytest.approx(TIMES.rest)
    assert dict(found.blocks) == pytest.approx(dict(TIMES.blocks))


def test_times_of_tasks_that_end_early() -> None:
    table = branch_table(3, (5, 6, 7), ends={2: 1})
    found = measured_times(table, lambda architecture: milliseconds(table, architecture))
    assert dict(found.blocks) == pytest.approx(dict(TIMES.blocks))


def test_costs_of_the_table_are_microseconds() -> None:
    table = in_microseconds(branch_table(3, (5, 6, 7)), TIMES)
    assert [site.options[0].multiply_adds for site in table.sites] == [300, 120, 50]
    picks = every_architecture(table)[::301]
    rng = np.random.default_rng(0)
    for drawn in picks:
        architecture = architecture_of(table, drawn)
        by_hand = 1000 + layout_of(table, architecture).cost([300, 120, 50])
        parameters = count_architecture(branch_table(3, (5, 6, 7)), architecture)[0]
        assert count_architecture(table, architecture) == (parameters, by_hand)
        assert float(ExpectedCost(table).multiply_adds(architecture.probabilities(table))) == by_hand
    policy = random_policy(table, rng, 1.0)
    picks = every_architecture(table)
    costs, values = SelectedCost(table)(picks).multiply_adds, log_probabilities(policy, picks)
    found = decode_budgeted(Policy(table, policy.logits), [Absolute("multiply_adds", 1900.0)])
    assert found.multiply_adds <= 1900
    assert found.log_probability == pytest.approx(values[costs <= 1900].max())


def test_a_real_network_is_measured() -> None:
    model = branched(line_model(2, 2, size=16))
    table = site_table(model)
    image = np.zeros((1, 3, 16, 16), np.float32)
    found = measured_times(
        table, lambda one: runtime.latency(to_bytes(selected_from(model, one)), image, seconds=0.01, threads=1)
    )
    assert set(found.blocks) == {"block0", "block1"} and found.rest >= 0
    assert all(time >= 0 for time in found.blocks.values()) and found.rest + sum(found.blocks.values()) > 0


def test_noise_is_averaged() -> None:
    assert not_rising([5.0, 3.0, 4.0, 1.0]) == [5.0, 3.5, 3.5, 1.0]
    assert not_rising([1.0, 2.0, 6.0]) == [3.0, 3.0, 3.0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_noise_is_averaged_out_as_by_isotonic_regression(values: list[int]) -> None:
    found = not_rising([float(v) for v in values])
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(found))
    # Least squares over all falling sequences: each is constant on runs, where the mean is best.
    best = min(
        sum((v - np.mean(run)) ** 2 for run in runs for v in run)
        for runs in _runs(values)
        if all(np.mean(a) >= np.mean(b) - 1e-12 for a, b in itertools.pairwise(runs))
    )
    assert sum((a - b) ** 2 for a, b in zip(values, found, strict=True)) == pytest.approx(best, abs=1e-9)


def _runs(values: list[int]):
    for cuts in itertools.product([False, True], repeat=len(values) - 1):
        runs = [[values[0]]]
        for value, cut in zip(values[1:], cuts, strict=True):
            if cut:
                runs.append([value])
            else:
                runs[-1].append(value)
        yield runs


def test_refusals() -> None:
    model = small_resnet()
    Vcn()(model)
    with pytest.raises(ModelError, match="times of blocks are for the space 'branch'"):
        measured_times(site_table(model), lambda _: 1.0)
    with pytest.raises(ModelError, match="lack the block 'block2'; they have: block0, block1"):
        in_microseconds(branch_table(2, (5, 6, 7)), Times({"block0": 1.0, "block1": 2.0}))

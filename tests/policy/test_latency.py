"""Measured times in the place of multiply-adds: parts, whole models, and the table between them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.architectures import every_architecture, log_probabilities, random_policy
from helpers.branching import architecture_of, branch_table, with_rest
from helpers.graphs import random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import ops
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost import count_architecture
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.selected import SelectedCost
from onnxmtl.errors import BudgetError, ModelError
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Policy, decode_budgeted, layout_of
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.budgeted import fastest
from onnxmtl.policy.latency import calibrated, calibrating, executions, nonnegative


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12))
def test_least_squares_without_negative_numbers_as_scipy_has_them(seed: int, unknowns: int, equations: int) -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    rows = np.vstack([rng.normal(size=(equations, unknowns)), 0.1 * np.eye(unknowns)])
    wanted = rng.normal(size=len(rows))
    assert nonnegative(rows, wanted) == pytest.approx(nnls(rows, wanted)[0], abs=1e-9)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_whole_models_correct_a_guess(seed: int, parts: int) -> None:
    """A guess in another unit that is right stays as it is; one that is off by 2 explains much more afterwards."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 2.0, parts)
    copies = rng.integers(1, 4, (12, parts))
    took = copies @ truth
    assert calibrated(1000 * truth, copies, took) == pytest.approx(truth, rel=1e-9)
    wrong = truth * rng.uniform(0.5, 2.0, parts)
    found = calibrated(wrong, copies, took)
    assert found.min() >= 0

    def off(times):
        return np.sqrt(np.mean((copies @ times / took - 1) ** 2))

    assert off(found) <= min(0.03, off(wrong))


def test_what_was_not_measured_stays_in_proportion() -> None:
    found = calibrated([1.0, 2.0, 4.0], [[1, 1, 0], [2, 2, 0]], [6.0, 12.0])
    assert found == pytest.approx([2.0, 4.0, 8.0])
    assert calibrated([], [], []).tolist() == []
    assert calibrated([0.0, 0.0], [[1, 1]], [2.0]) == pytest.approx([1.0, 1.0], rel=0.02)
    with pytest.raises(ModelError, match="takes 0 ms was not measured"):
        calibrated([1.0], [[1]], [0.0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", [Vcn, SelectOrSkip])
def test_executions_are_those_of_the_selected_graph(seed: int, space) -> None:
    model = random_model(seed, tasks=3) if space is Vcn else small_resnet()
    model = Pipeline([space()])(model).model
    forms = sorted({node.op_type for node in model.graph if ops.multiply_adds(node)})
    table = site_table(model, lambda node: 1 + forms.index(node.op_type))
    tried = calibrating(table)
    assert len(tried) == len(set(tried)) <= 9
    assert tried == calibrating(table)
    found = executions(table, tried, len(forms))
    for architecture, row in zip(tried, found, strict=True):
        selected = Pipeline(select_passes(architecture))(model.clone()).model
        nodes = [node.op_type for node in selected.graph if ops.multiply_adds(node)]
        assert row.tolist() == [nodes.count(form) for form in forms]


def test_trees_that_are_measured_begin_with_all_shared_and_separate() -> None:
    table = branch_table(3, (5, 6, 7))
    shared, separate, *others = (layout_of(table, one) for one in calibrating(table))
    assert shared.cost([1, 1, 1]) == 3 and separate.cost([1, 1, 1]) == 9
    assert len({layout.groups for layout in others}) > 2


def test_a_table_of_times_counts_and_decodes_like_any_other() -> None:
    """Latency is in milliseconds; parameters and multiply-adds are those of the table of sites."""
    table, times = branch_table(3, (5, 6, 7)), with_rest(branch_table(3, (300, 120, 50)), 979)  # and 21 of the heads
    for drawn in every_architecture(table)[::301]:
        architecture = architecture_of(table, drawn)
        by_hand = 1000 + layout_of(table, architecture).cost([300, 120, 50])
        assert count_architecture(times, architecture)[1] == by_hand
        assert float(ExpectedCost(times).multiply_adds(architecture.probabilities(table))) == by_hand
    rng = np.random.default_rng(0)
    picks = every_architecture(table)
    costs = SelectedCost(table, times)(picks)
    assert (costs.latency == SelectedCost(times)(picks).multiply_adds).all()
    assert (costs.multiply_adds == SelectedCost(table)(picks).multiply_adds).all()
    policy = Policy(table, random_policy(table, rng, 1.0).logits)
    values = log_probabilities(policy, picks)
    for limits in ([("latency", 1.9)], [("latency", 1.9), ("multiply_adds", 50)], [("parameters", 60)]):
        asked = [Absolute(quantity, bound) for quantity, bound in limits]
        kept = (costs.latency <= 1900) if limits[0][0] == "latency" else costs.parameters <= 60
        if len(limits) > 1:
            kept &= costs.multiply_adds <= 50
        found = decode_budgeted(policy, asked, times=times)
        assert found.log_probability == pytest.approx(values[kept].max())
        assert found.latency == count_architecture(times, found.architecture)[1] / 1e3
        assert found.multiply_adds == count_architecture(table, found.architecture)[1]
    assert fastest(policy, times) == 1.47
    assert decode_budgeted(policy, [Absolute("latency", 1.47)], times=times).latency == 1.47
    with pytest.raises(BudgetError, match=r"latency<=1\.4: .* 1\.47 ms at the least by the measured times, allowed"):
        decode_budgeted(policy, [Absolute("latency", 1.4)], times=times)


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_on_latency_in_a_space_of_layers(seed: int) -> None:
    """Against all architectures, together with a limit on parameters; unequal costs per form of operator."""
    model = Pipeline([Vcn(skip="none")])(random_model(seed, tasks=2, layers=2)).model
    table = site_table(model)
    times = with_rest(site_table(model, lambda node: 1 + len(str(node.name)) % 7 + ops.multiply_adds(node) % 11), 5)
    picks = every_architecture(table)
    policy = random_policy(table, np.random.default_rng(seed), 1.0)
    costs, values = SelectedCost(table, times)(picks), log_probabilities(policy, picks)
    for share in (0.0, 0.3, 0.7):
        bound = float(np.quantile(costs.latency, share)) / 1e3
        limits = [Absolute("latency", bound), Absolute("parameters", float(np.quantile(costs.parameters, 0.8)))]
        kept = (costs.latency <= limits[0].bound * 1e3 + 1e-6) & (costs.parameters <= limits[1].bound)
        if kept.any():
            found = decode_budgeted(policy, limits, times=times)
            assert found.log_probability == pytest.approx(values[kept].max())


def test_latency_needs_times_of_the_same_sites() -> None:
    policy = Policy.uniform(branch_table(2, (5, 6)))
    for times in (None, branch_table(2, (5, 6, 7))):
        with pytest.raises(ValueError, match="table of measured times of the same sites"):
            decode_budgeted(policy, [Absolute("latency", 1.0)], times=times)

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers.layout_search import branching_points, every_layout

from onnxmtl.errors import DataError
from onnxmtl.recommend import estimators, program, similarity, weights
from onnxmtl.recommend.estimators import Measured, estimate
from onnxmtl.recommend.table import TwoTaskTable

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def table():
    values = np.random.default_rng(3).normal(size=(4, 4, 5))
    values[:, :, 0] = 0
    return TwoTaskTable(NAMES, 4, values)


def svd_entropy_of(sequence):
    """From the definition: the windows of length 3 as a matrix, entropy of its normalized singular values."""
    windows = np.array([sequence[i : i + 3] for i in range(len(sequence) - 2)])
    values = np.linalg.svd(windows)[1]
    shares = values / values.sum()
    return -sum(s * math.log2(s) for s in shares if s > 0) / math.log2(3)


def test_weights_are_the_released_ones(table):
    raw = []
    for t in range(4):
        raw.append(1 - np.mean([svd_entropy_of(table.values[t, u, 1:]) for u in range(4) if u != t]))
    np.testing.assert_allclose(weights.svd_entropy(table), np.array(raw) / sum(raw), rtol=1e-12)


def test_weights_of_the_paper_to_the_letter_prefer_what_is_irregular(table):
    raw = [-np.mean([svd_entropy_of(table.values[t, u]) for u in range(4) if u != t]) for t in range(4)]
    found = weights.svd_entropy(table, "paper")
    np.testing.assert_allclose(found, np.array(raw) / sum(raw), rtol=1e-12)
    assert np.argmax(found) == np.argmin(raw)


def test_a_regular_task_weighs_more():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 3, 9))
    values[1] = 2.0 * np.ones(9)
    found = weights.svd_entropy(TwoTaskTable(NAMES[:3], 8, values))
    assert found[1] > 0.5 and found.sum() == pytest.approx(1)
    assert weights.entropy(np.zeros(5)) == 0


def test_names_of_weights(table):
    np.testing.assert_array_equal(weights.weights("auto", table), weights.svd_entropy(table))
    short = TwoTaskTable(NAMES, 2, table.values[:, :, :3])
    np.testing.assert_array_equal(weights.weights("auto", short), np.full(4, 0.25))
    with pytest.raises(DataError, match="no task weights 'best'; there are: auto, equal, svd-entropy"):
        weights.weights("best", table)
    with pytest.raises(DataError, match="take equal weights"):
        weights.svd_entropy(short)
    with pytest.raises(DataError, match="missing"):
        weights.svd_entropy(TwoTaskTable.untrained(NAMES, 4))


def test_two_task_is_the_mean_over_associated_models(table):
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    scores = estimate("two-task", Measured(table, shares))
    for layout in every_layout(4, 4)[::37]:
        points = branching_points(layout)
        wanted = sum(
            shares[t] * np.mean([table.values[t, u, points[min(t, u), max(t, u)]] for u in range(4) if u != t])
            for t in range(4)
        )
        assert scores.of(layout) == pytest.approx(wanted, abs=1e-12)


def test_grouping_shares_backbones_whole(table):
    """Standley 2020: every partition, a task's performance is the mean of its pairs within its group."""
    scores = estimate("grouping", Measured(table))
    best = program.best(scores, [1.0] * 4, 100)
    assert len(best) == 15 and all(len(set(one.groups)) == 1 for one in best)
    for one in best:
        wanted = 0.0
        for group in one.groups[0]:
            for t in group:
                others = [table.values[t, u, 4] for u in group if u != t]
                wanted += 0.25 * np.mean(others) if others else 0.0
        assert one.score == pytest.approx(wanted, abs=1e-12)
    two = program.best(scores, [1.0] * 4, 1, 8.0)[0]
    assert len(two.groups[0]) <= 2


def test_rsa_adds_up_dissimilarities():
    rng = np.random.default_rng(2)
    half = rng.random((3, 3, 4))
    alike = (half + half.transpose(1, 0, 2)) / 2
    pairwise, largest = (estimate(name, Measured(similarity=alike)) for name in ("rsa", "rsa-max"))
    for layout in every_layout(3, 4):
        total = worst = 0.0
        for b, block in enumerate(layout):
            for group in block:
                apart = [1 - alike[t, u, b] for t, u in itertools.combinations(group, 2)]
                total += sum(apart)
                worst += max(apart, default=0.0)
        assert pairwise.of(layout) == pytest.approx(-total, abs=1e-12)
        assert largest.of(layout) == pytest.approx(-worst, abs=1e-12)
    assert len(program.best(pairwise, [1.0] * 4)[0].groups[0]) == 3  # without a budget: separate


def test_dissimilarities_and_similarity_against_numpy():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(3, 6, 5, 2))  # task, image, …
    matrices = [[similarity.dissimilarities(f)] for f in features]
    full = 1 - np.corrcoef(features[0].reshape(6, -1))
    np.testing.assert_allclose(matrices[0][0], full[np.triu_indices(6, 1)], atol=1e-12)
    found = similarity.similarity(matrices)
    ranks = [np.argsort(np.argsort(row[0])) for row in matrices]  # no ties here
    np.testing.assert_allclose(found[:, :, 0], np.corrcoef(ranks), atol=1e-12)
    same = similarity.similarity([[matrices[0][0]], [3 * matrices[0][0] + 1]])
    assert same[0, 1, 0] == pytest.approx(1)
    square = [[1 - np.corrcoef(f.reshape(6, -1))] for f in features]
    np.testing.assert_allclose(similarity.similarity(square), found, atol=1e-12)
    with pytest.raises(DataError, match="3 images or more"):
        similarity.dissimilarities(features[0, :2])


def test_what_an_estimator_needs_is_asked_for(table):
    for name, measured, message in (
        ("two-task", Measured(), "needs a two-task table"),
        ("rsa", Measured(table), "needs representations"),
        ("two-task", Measured(TwoTaskTable.untrained(NAMES, 4)), "has no value for 'a' with 'b'"),
        ("grouping", Measured(TwoTaskTable.untrained(NAMES, 4)), "'a' with 'b' trained on one backbone"),
        ("two-task", Measured(table, np.ones(3)), "take as many finite weights"),
        ("magic", Measured(table), "no estimator 'magic'; there are: two-task, grouping, rsa, rsa-max"),
    ):
        with pytest.raises(DataError, match=message):
            estimate(name, measured)


def test_an_estimator_of_one_s_own(monkeypatch):
    monkeypatch.setattr(estimators, "ESTIMATORS", dict(estimators.ESTIMATORS))
    estimators.register_estimator("mine")(lambda measured: estimators.two_task(measured))
    with pytest.raises(DataError, match="registered already"):
        estimators.register_estimator("mine")(estimators.two_task)

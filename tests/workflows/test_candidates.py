"""What a policy proposes, and which proposal is the best."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from helpers.architectures import log_probabilities, random_policy
from helpers.branching import branch_table
from helpers.compiling import QUICK

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.selected import picks_of
from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Architecture, Layout, Policy, layout_of
from onnxmtl.policy.decoders import argmax
from onnxmtl.workflows import CompileConfig
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.phases.candidates import distinct, perturbed, propose, scores, with_prefix
from onnxmtl.workflows.preparation import prepare
from onnxmtl.workflows.source import Source

TASKS = TaskSet.parse("seg=segmentation:3,depth")


@pytest.fixture(scope="module")
def policy(backbone):
    recipe, config = resolve(None, CompileConfig(**QUICK), fixed=False)
    table = site_table(prepare(Source(backbone), TaskSet.parse("seg=segmentation,depth"), config, recipe).supermodel)
    rng = np.random.default_rng(0)
    logits = tuple(rng.normal(size=(len(table.tasks), len(site.options))) for site in table.sites)
    return Policy(table, logits)


def test_a_prefix_is_forced_whatever_the_policy_says(policy):
    forced = with_prefix(policy, 2)
    for draw in range(20):
        for architecture in (argmax(forced), argmax(perturbed(forced, 0, draw)), *propose(
            forced, samples=3, with_argmax=True, seed=draw
        )):  # fmt: skip
            for site in policy.table.sites[:2]:
                assert set(architecture.choices[site.id].values()) == {site.options[0].name}
    for before, after in zip(policy.logits[2:], forced.logits[2:], strict=True):
        np.testing.assert_array_equal(before, after)
    assert argmax(with_prefix(policy, 0)) == argmax(policy)


def test_perturbed_policies_have_the_policys_samples_as_their_best(policy):
    """The Gumbel-max trick: frequencies at one site against the probabilities."""
    draws, site = 2000, policy.table.sites[1]
    counts = Counter(
        argmax(Policy(policy.table, perturbed(policy, 0, d).logits)).choices[site.id]["seg"] for d in range(draws)
    )
    p = policy.probabilities()[1][policy.table.tasks.index("seg")]
    for option, expected in zip(site.option_names, p, strict=True):
        assert abs(counts[option] / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_candidates_of_the_branch_space_are_different_trees():
    """Of the architectures that are one tree the likeliest, and all their draws."""
    table = branch_table(3, (5, 6))
    policy = random_policy(table, np.random.default_rng(0), 1.0)
    drawn = propose(policy, samples=60, with_argmax=True, seed=0)
    found = distinct(policy, drawn)
    trees: dict[Layout, list[Architecture]] = {}
    for architecture in drawn:
        trees.setdefault(layout_of(table, architecture), []).append(architecture)
    assert len(found) == len(trees) < len(drawn) and sum(found.values()) == 60
    for architecture, count in found.items():
        alike = trees[layout_of(table, architecture)]
        assert count == sum(drawn[one] for one in alike)
        values = [log_probabilities(policy, picks_of(table, one)[None])[0] for one in alike]
        assert architecture == alike[int(np.argmax(values))]
        assert policy.log_probability(architecture) == pytest.approx(max(values), rel=1e-12)


def test_candidates_of_other_spaces_stay_as_they_are(policy):
    drawn = propose(policy, samples=20, with_argmax=True, seed=0)
    assert list(distinct(policy, drawn).items()) == list(drawn.items())


def test_draws_are_counted(policy):
    found = propose(policy, samples=50, with_argmax=False, seed=0)
    assert sum(found.values()) == 50
    assert list(propose(policy, samples=0, with_argmax=False, seed=0).items()) == [(argmax(policy), 1)]
    with_best = propose(policy, samples=50, with_argmax=True, seed=0)
    assert next(iter(with_best)) == argmax(policy) and sum(with_best.values()) == 50


def metrics(miou, accuracy, error):
    values = dict.fromkeys(TASKS["depth"].metrics, 1.0)
    primary = TASKS["depth"].primary
    return {"seg": dict(zip(TASKS["seg"].metrics, (miou, accuracy), strict=False)), "depth": {**values, primary: error}}


def test_scores_by_hand():
    """Mean mIoU 0.4: +25 % and −25 %; the error 2.0: the first is 10 % worse. Other metrics are equal."""
    one, two = metrics(0.5, 0.8, 2.2), metrics(0.3, 0.8, 1.8)
    of_seg, of_depth = len(TASKS["seg"].metrics), len(TASKS["depth"].metrics)
    expected = (25 / 2 - 10 / of_depth) / 2
    assert of_seg == 2
    assert scores(TASKS, [one, two]) == pytest.approx([expected, -expected])
    assert scores(TASKS, [two, one]) == pytest.approx([-expected, expected])
    assert scores(TASKS, [one]) == [0.0]


def test_a_candidate_without_a_value_is_the_worst():
    good, bad, none = metrics(0.5, 0.8, 2.0), metrics(0.1, 0.8, 2.0), metrics(math.nan, 0.8, 2.0)
    ranks = scores(TASKS, [good, bad, none])
    assert ranks[0] > ranks[1] > ranks[2]
    assert scores(TASKS, [none, none]) == [0.0, 0.0]

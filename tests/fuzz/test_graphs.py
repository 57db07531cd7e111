"""Random networks through the whole line: each ends in a model that computes the right thing, or in one clear line."""

from __future__ import annotations

import pytest
from helpers.mutation import run_isolated
from helpers.random_graphs import random_graph, use_network


def check(seeds: range) -> None:
    outcomes = run_isolated(use_network, [random_graph(seed) for seed in seeds])
    wrong = [outcome for outcome in outcomes if not outcome.allowed]
    assert not wrong, "\n".join(f"seed {seeds[outcome.index]}: {outcome.text}" for outcome in wrong[:20])
    assert sum(outcome.text == "ok" for outcome in outcomes) >= len(seeds) / 3, "hardly a network is taken"


def test_random_networks():
    check(range(16))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_networks():
    check(range(16, 1000))

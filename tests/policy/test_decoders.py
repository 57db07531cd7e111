"""Decoders: what they pick, how often, and that nothing else moves the picks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.table import Option, Site, SiteTable
from onnxmtl.policy import Policy, argmax, sample, threshold


def table(*counts: int, tasks: tuple[str, ...] = ("a", "b")) -> SiteTable:
    sites = []
    for i, count in enumerate(counts):
        options = tuple(Option(f"o{o}", 1, 1, 0, True, False) for o in range(count))
        sites.append(Site(f"s{i}", i, i, "vcn", (f"c{i}",), options))
    return SiteTable(tasks, tuple(sites))


def random_policy(seed: int, sites: SiteTable) -> Policy:
    rng = np.random.default_rng(seed)
    return Policy(sites, tuple(rng.normal(0, 2, (len(sites.tasks), len(s.options))) for s in sites.sites))


@given(st.integers(0, 2**32 - 1))
def test_argmax_is_the_most_probable_architecture(seed):
    sites = table(3, 2, 4)
    policy = random_policy(seed, sites)
    picked = argmax(policy).indices(sites)
    for (s, t), option in picked.items():
        assert policy.probabilities()[s][t, option] == policy.probabilities()[s][t].max()


def test_argmax_takes_the_first_of_equals():
    sites = table(3, 2)
    assert set(argmax(Policy.uniform(sites)).indices(sites).values()) == {0}
    tied = Policy(sites, (np.array([[0.0, 1, 1], [1, 0, 1]]), np.zeros((2, 2))))
    assert argmax(tied).indices(sites) == {(0, 0): 1, (0, 1): 0, (1, 0): 0, (1, 1): 0}


def test_sampling_follows_the_probabilities():
    """4000 draws per (site, task): each frequency within five standard deviations."""
    sites = table(3, 2)
    p = [np.array([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]]), np.array([[0.5, 0.5], [0.01, 0.99]])]
    draws = sample(Policy.of_probabilities(sites, p), 4000, seed=0)
    counts = [np.zeros_like(x) for x in p]
    both = 0
    for architecture in draws:
        indices = architecture.indices(sites)
        for (s, t), option in indices.items():
            counts[s][t, option] += 1
        both += indices[0, 0] == 0 and indices[1, 0] == 0
    for count, x in zip(counts, p, strict=True):
        assert (np.abs(count / 4000 - x) <= 5 * np.sqrt(x * (1 - x) / 4000)).all()
    assert abs(both / 4000 - 0.35) < 5 * np.sqrt(0.35 * 0.65 / 4000)  # sites are drawn independently


def test_temperature_sharpens():
    sites = table(2)
    policy = Policy(sites, (np.array([[1.0, 0.0], [0.0, 0.0]]),))
    cold = sample(policy, 200, seed=1, temperature=0.05)
    assert all(architecture.indices(sites)[0, 0] == 0 for architecture in cold)
    assert policy.probabilities(0.5)[0][0] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_sampling_is_a_function_of_seed_draw_site_and_task(seed, k):
    sites = table(3, 2, 3)
    policy = random_policy(7, sites)
    draws = sample(policy, k, seed)
    assert draws == sample(policy, k + 3, seed)[:k]
    wider = table(3, 2, 3, 2, tasks=("a", "b", "c"))
    logits = [np.vstack([x, np.ones((1, x.shape[1]))]) for x in policy.logits]
    more = sample(Policy(wider, (*logits, np.zeros((3, 2)))), k, seed)
    for small, large in zip(draws, more, strict=True):
        assert all(large.choices[s][t] == small.choices[s][t] for s in small.choices for t in ("a", "b"))


def test_other_seeds_give_other_samples():
    policy = Policy.uniform(table(*[3] * 20))
    assert len({sample(policy, 1, seed) for seed in range(20)}) == 20
    assert len(set(sample(policy, 20, 0))) == 20


def test_options_of_probability_zero_are_never_drawn():
    sites = table(3)
    policy = Policy(sites, (np.array([[-1e9, 0.0, 0.0], [-1e9, -1e9, 0.0]]),))
    for architecture in sample(policy, 300, 0):
        assert architecture.indices(sites)[0, 0] in (1, 2) and architecture.indices(sites)[0, 1] == 2


def test_threshold():
    sites = table(3, 2, 1)
    p = [np.array([[0.4, 0.35, 0.25], [0.1, 0.6, 0.3]]), np.array([[0.5, 0.5], [0.51, 0.49]]), np.ones((2, 1))]
    policy = Policy.of_probabilities(sites, p)
    assert threshold(policy, "o1", 0.5).indices(sites) == {
        (0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0, (2, 0): 0, (2, 1): 0,
    }  # fmt: skip
    assert threshold(policy, "o1", 0.3).indices(sites)[0, 0] == 1
    assert threshold(policy, "o0", 0.45).indices(sites)[0, 0] == 1
    assert threshold(policy, "o0", 0.5).indices(sites)[2, 0] == 0  # nothing else to take

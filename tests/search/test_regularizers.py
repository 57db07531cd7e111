"""The papers' losses against literal transcriptions; expected costs of one-hot samples against the selected graph."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from helpers.branching import branch_table, with_rest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.views import chain, logits_of, soft_sample, supermodel, view
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError, RunError
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip
from onnxmtl.policy import Architecture
from onnxmtl.policy.budget import Absolute, parse_budget
from onnxmtl.policy.layout import Layout
from onnxmtl.search.regularizers import REGULARIZERS, PolicyView, register_regularizer, regularizer


def one_hot(table, seed):
    draw = random.Random(seed)
    picks = {(s.index, t): draw.randrange(len(s.options)) for s in table.sites for t in range(len(table.tasks))}
    architecture = Architecture.from_indices(table, picks)
    return architecture, [torch.from_numpy(array) for array in architecture.probabilities(table)]


def literally_eq3(table, sample, scale=1.0):
    """L_reg = Σ_tasks Σ_{l ≤ L} (L − l)/L · { ln(1 + e^{α1 − α0}) + ln(1 + e^{α2 − α0}) }, l counted from 1.

    α0 shared, α1 own, α2 skip. Only tasks that pass through a site count. The code's differences are scaled.
    """
    layers = max(site.depth for site in table.sites) + 1
    value, gradient = 0.0, [np.zeros(tuple(p.shape)) for p in sample]
    for t in range(len(table.tasks)):
        for site, p, g in zip(table.sites, sample, gradient, strict=True):
            if site.tasks and t not in site.tasks:
                continue
            layer = site.depth + 1
            for option in range(1, len(site.options)):
                x = scale * (float(p[t, option].detach()) - float(p[t, 0].detach()))
                value += (layers - layer) / layers * math.log(1 + math.exp(x))
                slope = scale * (layers - layer) / layers / (1 + math.exp(-x))
                g[t, option] += slope
                g[t, 0] -= slope
    return value, gradient


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("seed", range(6))
def test_sharing_is_eq_3(seed, scale):
    """Eq. 3; with the scale of 6 the released code's policy_reg (methods.md 1.5)."""
    _, table = supermodel(random_model(seed, tasks=3) if seed else small_resnet())
    sample = soft_sample(table, seed)
    value = regularizer("sharing", table, {} if scale == 1 else {"scale": scale})(view(table, sample))
    value.backward()
    expected, gradient = literally_eq3(table, sample, scale)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    for p, g in zip(sample, gradient, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-12, atol=1e-15)


def test_sharing_leaves_out_tasks_that_never_come_by():
    b = GraphBuilder()
    early = b.block(b.image, 4, name="stem")
    late = b.block(b.block(early, 4), 4)
    _, table = supermodel(
        b.heads({"near": early, "far": late, "further": late}, dict.fromkeys(("near", "far", "further"), 1))
    )
    assert any(site.tasks == (1, 2) for site in table.sites)
    sample = soft_sample(table, 0)
    value = regularizer("sharing", table)(view(table, sample))
    value.backward()
    expected, _ = literally_eq3(table, sample)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    for site, p in zip(table.sites, sample, strict=True):
        if site.tasks == (1, 2):
            assert p.grad[0].abs().max() == 0


def test_sharing_prefers_sharing():
    _, table = supermodel(small_resnet())
    value = regularizer("sharing", table)
    shared, own = (
        [torch.from_numpy(a) for a in Architecture.uniform(table, option, otherwise="shared").probabilities(table)]
        for option in ("shared", "own")
    )
    assert value(view(table, shared)) < value(view(table, own))


# All of them


def parse_limits(table, share):
    whole = sum(item.size for item in table.weight_items)
    return (Absolute("parameters", share * whole), Absolute("latency", 1.0))


@pytest.mark.parametrize("name", sorted(REGULARIZERS))
def test_tasks_in_turn_get_together_the_gradient_of_all(name):
    """One update per task, the others' rows being constants: the parts of the whole's gradient."""
    table = branch_table(3, [4, 2, 5]) if name == "bmtas_released" else chain(3, 3)[1]
    settings = {"budget": {"limits": parse_limits(table, 0.3)}, "latency": {"times": table}}
    function = regularizer(name, table, settings.get(name))
    logits = logits_of(table, 5)

    def gradient(learning):
        rows = [torch.stack([z[t] if t in learning else z[t].detach() for t in range(3)]) for z in logits]
        value = function(view(table, [torch.softmax(z, -1) for z in rows], logits=rows))
        return float(value.detach()), torch.autograd.grad(value, logits, allow_unused=True, materialize_grads=True)

    value, whole = gradient((0, 1, 2))
    parts = [gradient((t,)) for t in range(3)]
    assert value != 0 and [part for part, _ in parts] == [value] * 3
    for site in range(3):
        for t in range(3):
            torch.testing.assert_close(parts[t][1][site][t], whole[site][t], rtol=1e-12, atol=1e-15)
            assert not parts[t][1][site][[u for u in range(3) if u != t]].any()


# Time


def test_latency_is_the_expected_time_as_a_share_of_separate_models():
    """By enumeration: probability of every architecture times the microseconds of its tree."""
    table = branch_table(3, (5, 6, 7))
    times = with_rest(branch_table(3, (300, 120, 50)), 979)  # and 21 of the heads
    function = regularizer("latency", table, {"times": times})
    sample = soft_sample(table, 3)
    p = [row.detach().numpy() for row in sample]
    expected = 0.0
    for taken in itertools.product(itertools.product(range(3), repeat=3), repeat=3):
        chance = math.prod(p[s][t, taken[s][t]] for s in range(3) for t in range(3))
        expected += chance * (1000 + Layout.from_choices("abc", taken).cost((300, 120, 50)))
    value = function(view(table, sample))
    assert float(value.detach()) == pytest.approx(expected / (1000 + 3 * 470), rel=1e-12)
    value.backward()
    assert all(bool(row.grad.any()) for row in sample)


def test_latency_is_of_the_policy_or_of_the_sample():
    table = branch_table(2, (5, 6))
    sample, logits = soft_sample(table, 1), logits_of(table, 2)
    both = view(table, sample, logits=logits)
    found = {of: regularizer("latency", table, {"times": table, "of": of})(both) for of in ("sample", "policy")}
    work = {of: regularizer("multiply_adds", table, {"of": of})(both) for of in ("sample", "policy")}
    assert found == work and found["sample"] != found["policy"]
    assert regularizer("latency", table, {"times": table})(both) == found["policy"]


def test_latency_needs_times_of_this_supermodel():
    table = branch_table(2, (5, 6))
    with pytest.raises(RunError, match="needs measured times, and none are given"):
        regularizer("latency", table)
    with pytest.raises(RunError, match="measured on another supermodel"):
        regularizer("latency", table, {"times": branch_table(2, (5, 6, 7))})
    with pytest.raises(RunError, match="latency is of 'sample' or 'policy', not 'mean'"):
        regularizer("latency", table, {"times": table, "of": "mean"})


# Budget


@pytest.mark.parametrize("seed", range(2))
def test_budget_is_the_excess_over_each_limit(seed):
    """Σ max(0, E[cost]/limit − 1), E by enumeration of all architectures."""
    model, table = supermodel(small_resnet())
    generator = np.random.default_rng(seed)
    logits = [torch.from_numpy(generator.normal(0, 1, (2, len(site.options)))).requires_grad_() for site in table.sites]
    # A policy that is sure but for two sites can be enumerated.
    unsure = set(generator.choice(len(table.sites), 2, replace=False).tolist())
    for site in table.sites:
        if site.index not in unsure:
            with torch.no_grad():
                logits[site.index][:, int(generator.integers(len(site.options)))] += 60
    policy = view(table, [], logits=logits)
    p = [rows.detach() for rows in policy.probabilities]
    expected = dict.fromkeys((("parameters", False), ("multiply_adds", False), ("parameters", True)), 0.0)
    places = [(site.index, task) for site in table.sites for task in range(2)]
    possible = [range(p[s].shape[1]) if s in unsure else [int(p[s][t].argmax())] for s, t in places]
    for picks in itertools.product(*possible):
        chosen = dict(zip(places, picks, strict=True))
        chance = math.prod(float(p[s][t, option]) for (s, t), option in chosen.items())
        costs = count(Pipeline(select_passes(Architecture.from_indices(table, chosen)))(model.clone()).model)
        for quantity, trunk in expected:
            expected[quantity, trunk] += chance * getattr(costs, f"{quantity}_trunk" if trunk else quantity)
    for limits in (
        tuple(Absolute(q, 0.7 * e, trunk) for (q, trunk), e in expected.items()),
        (Absolute("parameters", 0.5 * expected["parameters", False]), Absolute("multiply_adds", 1e12)),
    ):
        literal = sum(max(0.0, expected[limit.quantity, limit.trunk] / limit.bound - 1) for limit in limits)
        value = regularizer("budget", table, {"limits": limits})(policy)
        assert literal > 0 and float(value.detach()) == pytest.approx(literal, rel=1e-9)
    within = regularizer("budget", table, {"limits": (Absolute("multiply_adds", 1e12),)})(policy)
    assert float(within.detach()) == 0.0 and parse_budget("") == ()


def test_a_budget_of_time_is_paid_for_once_it_is_measured():
    """The same excess as of as many multiply-adds; of times without a limit, or a limit without times, nothing."""
    table, times = branch_table(3, (5, 6, 7)), with_rest(branch_table(3, (300, 120, 50)), 979)
    policy = view(table, soft_sample(table, 3))
    limits = (Absolute("latency", 1.2),)
    work = regularizer("budget", times, {"limits": (Absolute("multiply_adds", 1200.0),)})(policy)
    value = regularizer("budget", table, {"limits": limits, "times": times})(policy)
    assert float(value.detach()) == pytest.approx(float(work.detach()), rel=1e-12) and float(value.detach()) > 0
    assert float(regularizer("budget", table, {"limits": limits})(policy).detach()) == 0
    assert float(regularizer("budget", table, {"times": times})(policy).detach()) == 0
    loose = regularizer("budget", table, {"limits": (Absolute("latency", 9.0),), "times": times})(policy)
    assert float(loose.detach()) == 0
    with pytest.raises(RunError, match="'budget' was given times that were measured on another supermodel"):
        regularizer("budget", table, {"times": branch_table(3, (5, 6))})


def test_budget_gradient_by_finite_differences():
    _, table = supermodel(small_resnet())
    value = regularizer("budget", table, {"limits": (Absolute("multiply_adds", 100.0), Absolute("parameters", 50.0))})
    logits = logits_of(table, 2)
    assert torch.autograd.gradcheck(lambda *z: value(view(table, [], logits=z)), logits, rtol=1e-6, atol=1e-9)


# Costs


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), tasks=st.integers(2, 3), pick=st.integers(0, 1000))
def test_costs_of_a_one_hot_sample_are_those_of_the_selected_graph(seed, tasks, pick):
    model, table = supermodel(random_model(seed, tasks))
    architecture, sample = one_hot(table, pick)
    costs = count(Pipeline(select_passes(architecture))(model.clone()).model)
    separate = sum(count(_alone(seed, tasks, task)).multiply_adds for task in range(tasks))
    assert float(regularizer("multiply_adds", table)(view(table, sample))) == pytest.approx(
        costs.multiply_adds / separate, rel=1e-9
    )
    whole = sum(item.size for item in table.weight_items)
    assert float(regularizer("parameters", table)(view(table, sample))) == pytest.approx(
        costs.parameters / whole, rel=1e-9
    )


def _alone(seed, tasks, task):
    model = random_model(seed, tasks)
    output = model.graph.outputs[task]
    model.graph.outputs.clear()
    model.graph.outputs.append(output)
    return model


@pytest.mark.parametrize("name", ["sharing", "multiply_adds", "parameters"])
def test_gradients_by_finite_differences(name):
    _, table = supermodel(small_resnet())
    value = regularizer(name, table)
    sample = soft_sample(table, 1)
    assert torch.autograd.gradcheck(lambda *sample: value(view(table, sample)), sample, rtol=1e-6, atol=1e-9)


def test_a_table_without_sites():
    model = small_resnet()
    table = site_table(model)
    assert not table.sites
    nothing = view(table, [])
    for name in ("sharing", "sparsity", "adashare_sharing", "budget"):
        assert float(regularizer(name, table)(nothing)) == 0.0
    costs = count(model)
    trunk_once = costs.multiply_adds / costs.multiply_adds_unshared
    assert float(regularizer("multiply_adds", table)(nothing)) == pytest.approx(trunk_once, rel=1e-12)


def test_names():
    _, table = supermodel(small_resnet())
    known = "adashare_sharing, bmtas_released, budget, entropy, latency, multiply_adds, parameters, sharing, sparsity"
    with pytest.raises(RunError, match=f"unknown regularizer 'x'; there are: {known}"):
        regularizer("x", table)
    with pytest.raises(RunError, match=r"'sharing' does not take the settings \{'form': 'x'\}"):
        regularizer("sharing", table, {"form": "x"})
    for name in ("sparsity", "adashare_sharing"):
        with pytest.raises(RunError, match=f"'{name}' has the forms 'paper' and 'released', not 'x'"):
            regularizer(name, table, {"form": "x"})
    with pytest.raises(RunError, match="registered already"):
        register_regularizer("sharing")(REGULARIZERS["sharing"])


def test_too_many_tasks_are_told_at_once():
    _, table = supermodel(small_resnet({f"t{i}": 1 for i in range(13)}))
    with pytest.raises(ModelError, match="up to 12"):
        regularizer("multiply_adds", table)
    regularizer("sharing", table)


# MTL-NAS


def literally_entropy(table, logits):
    """Mean over tasks of the mean over their sites of −Σ p ln p, in plain Python."""
    means = []
    for t in range(len(table.tasks)):
        terms = []
        for site, row in zip(table.sites, logits, strict=True):
            if not site.tasks or t in site.tasks:
                e = [math.exp(float(x)) for x in row[t].detach()]
                terms.append(-sum(x / sum(e) * math.log(x / sum(e)) for x in e))
        if terms:
            means.append(sum(terms) / len(terms))
    return sum(means) / len(means)


@pytest.mark.parametrize("seed", range(6))
def test_entropy_is_eq_12(seed):
    _, table = supermodel(random_model(seed, tasks=3) if seed else small_resnet())
    logits = logits_of(table, seed)
    value = regularizer("entropy", table)(view(table, soft_sample(table, seed), logits=logits))
    assert float(value.detach()) == pytest.approx(literally_entropy(table, logits), rel=1e-12)


def test_entropy_of_tasks_that_do_not_come_by_everywhere():
    b = GraphBuilder()
    early = b.block(b.image, 4, name="stem")
    late = b.block(b.block(early, 4), 4)
    heads = {"near": early, "far": late, "further": late}
    _, table = supermodel(b.heads(heads, dict.fromkeys(heads, 1)))
    assert any(site.tasks == (1, 2) for site in table.sites)
    logits = logits_of(table, 0)
    value = regularizer("entropy", table)(view(table, soft_sample(table, 0), logits=logits))
    value.backward()
    assert float(value.detach()) == pytest.approx(literally_entropy(table, logits), rel=1e-12)
    for site, row in zip(table.sites, logits, strict=True):
        assert (site.tasks == (1, 2)) == (float(row.grad[0].abs().max()) == 0)


def test_the_entropy_of_an_edge_and_its_slope():
    """H(p) of p = σ(a), a the difference of two logits: −p ln p − (1 − p) ln(1 − p), and dH/da = −a p (1 − p)."""
    model = GraphBuilder()
    x = model.residual(model.block(model.image, 4, name="stem"), 4)
    graph = model.heads(x, {"seg": 3, "depth": 1})
    SelectOrSkip()(graph)
    table = site_table(graph)
    assert len(table.sites) == 1
    for a in (-3.0, -0.1, 0.0, 0.4, 2.0):
        logits = [torch.tensor([[a, 0.0], [a, 0.0]], dtype=torch.float64, requires_grad=True)]
        value = regularizer("entropy", table)(view(table, [], logits=logits, active=(0,)))
        value.backward()
        p = 1 / (1 + math.exp(-a))
        assert float(value.detach()) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-12)
        assert float(logits[0].grad[0, 0]) == pytest.approx(-a * p * (1 - p) / 2, abs=1e-12)  # a mean of two tasks


def test_entropy_of_sure_and_of_waiting_sites():
    _, table = supermodel(small_resnet())
    sure = [torch.zeros(2, len(site.options), dtype=torch.float64) for site in table.sites]
    for row in sure:
        row[:, 0] = 1e4
        row.requires_grad_()
    value = regularizer("entropy", table)(view(table, [], logits=sure))
    value.backward()
    assert float(value.detach()) == 0 and all(bool(torch.isfinite(row.grad).all()) for row in sure)
    logits = logits_of(table, 3)
    last = len(table.sites) - 1
    alone = regularizer("entropy", table)(view(table, [], logits=logits, active=(last,)))
    p = torch.softmax(logits[last].detach(), -1)
    assert float(alone.detach()) == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-12)
    assert float(regularizer("entropy", table)(view(table, [], logits=logits, active=()))) == 0


def test_entropy_rises():
    _, table = supermodel(small_resnet())
    logits = logits_of(table, 1)
    whole = float(regularizer("entropy", table)(view(table, [], logits=logits)).detach())
    rising = regularizer("entropy", table, {"rise": 0.5})
    for progress, factor in ((0.0, 0.0), (0.1, 0.2), (0.5, 1.0), (1.0, 1.0)):
        seen = PolicyView([], logits, tuple(range(len(table.sites))), progress)
        assert float(rising(seen).detach()) == pytest.approx(factor * whole, rel=1e-12)
    with pytest.raises(RunError, match="rises over a share of the stage, 0 to 1, not 2"):
        regularizer("entropy", table, {"rise": 2})

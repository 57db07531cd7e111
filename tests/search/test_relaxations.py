"""Draws: functions of (seed, stage, step), with the distribution they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.search.relaxations import (
    average_draw,
    by_site,
    decided,
    gumbel_weights,
    harden,
    logits_by_site,
    shared_draw,
    softmax_weights,
)


@pytest.fixture(scope="module")
def module():
    model = small_resnet()
    Vcn()(model)
    return to_torch(model)


def draw(module, seed=0, stage="s", step=0, temperature=1.0):
    return gumbel_weights(module, temperature, seed=seed, stage=stage, step=step)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_draw_is_a_function_of_seed_stage_and_step(module):
    first = draw(module)
    torch.manual_seed(99)
    torch.rand(7)
    assert equal(first, draw(module))
    fresh = gumbel_weights(module, 1.0, seed=0, stage="s", step=0, stream="regularizer")
    for found in (draw(module, seed=1), draw(module, stage="t"), draw(module, step=1), fresh):
        assert not any(torch.equal(first[key], found[key]) for key in first)


def test_no_two_places_share_their_noise(module):
    values = {tuple(np.round(w.detach().numpy(), 9)) for step in range(3) for w in draw(module, step=step).values()}
    assert len(values) == 3 * len(module.logits)


def test_soft_samples_are_weights(module):
    for temperature in (0.1, 1.0, 5.0):
        for w in draw(module, temperature=temperature).values():
            assert float(w.detach().sum()) == pytest.approx(1, abs=1e-6) and bool((w >= 0).all()) and w.requires_grad


def test_hard_samples_follow_the_policy(module):
    """The Gumbel-max trick: the largest entry is distributed as softmax(logits), at any temperature."""
    key = sorted(module.logits)[3]
    logits = module.weight(module.logits[key])
    assert logits.numel() == 3
    count = 4000
    before = logits.detach().clone()
    try:
        with torch.no_grad():
            logits.copy_(torch.tensor([0.7, -0.4, 0.1]))
        found = np.zeros(3)
        soft = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad():
            for step in range(count):
                weights = draw(module, step=step, temperature=0.5)
                found[harden(weights).options[key]] += 1
                soft += weights[key]
            expected = torch.softmax(logits, -1).double().numpy()
    finally:
        with torch.no_grad():
            logits.copy_(before)
    # Five standard deviations of a frequency.
    assert np.abs(found / count - expected).max() < 5 * np.sqrt(0.25 / count)
    assert not np.allclose(soft / count, expected, atol=1e-4), "a mean of soft samples is no probability"


def test_the_gumbel_noise_is_standard():
    """At logits 0, log-ratios of a sample times the temperature are differences of Gumbels: logistic."""
    model = small_resnet()
    Vcn()(model)
    module = to_torch(model, dtype=torch.float64)
    values = []
    with torch.no_grad():
        for step in range(200):
            values += [float(2.0 * (w[0] / w[1]).log()) for w in draw(module, step=step, temperature=2.0).values()]
    ordered = np.sort(values)
    distance = np.abs(1 / (1 + np.exp(-ordered)) - (np.arange(len(values)) + 0.5) / len(values)).max()
    assert len(values) > 1000 and distance < 2.0 / np.sqrt(len(values)), "Kolmogorov-Smirnov, p < 1e-3"


def test_gradient_of_a_sample(module):
    """d w_i / d logit_j = w_i (δ_ij − w_j) / τ."""
    key = sorted(module.logits)[0]
    w = draw(module, temperature=0.7)[key]
    logits = module.weight(module.logits[key])
    jacobian = torch.stack([torch.autograd.grad(w[i], logits, retain_graph=True)[0] for i in range(w.numel())])
    p = w.detach()
    torch.testing.assert_close(jacobian, (torch.diag(p) - torch.outer(p, p)) / 0.7, rtol=1e-4, atol=1e-6)


def test_low_temperatures_are_finite(module):
    for step in range(50):
        for w in draw(module, step=step, temperature=1e-3).values():
            assert bool(torch.isfinite(w).all())


def test_average_weighs_all_options_the_same(module):
    for key, w in average_draw(module).weights.items():
        assert w.tolist() == pytest.approx([1 / len(module.options[key])] * len(module.options[key]))
        assert not w.requires_grad


def test_harden_takes_the_largest():
    hard = harden({("a", "t"): torch.tensor([0.2, 0.5, 0.3]), ("b", "t"): torch.tensor([0.9, 0.1])})
    assert hard == Draw(options={("a", "t"): 1, ("b", "t"): 0})


def test_by_site_has_a_row_per_task_and_option_zero_for_absent_ones():
    b = GraphBuilder()
    early = b.block(b.image, 4, name="stem")
    late = b.block(early, 4)
    model = b.heads({"near": early, "far": late, "further": late}, {"near": 1, "far": 1, "further": 1})
    Vcn()(model)
    module, table = to_torch(model), site_table(model)
    weights = gumbel_weights(module, 1.0, seed=0, stage="s", step=0)
    rows = by_site(table, weights)
    assert [tuple(row.shape) for row in rows] == [(3, len(site.options)) for site in table.sites]
    assert table.sites[-1].tasks == (1, 2)
    assert rows[-1][0].tolist() == [1.0] + [0.0] * (len(table.sites[-1].options) - 1)
    for site, row in zip(table.sites, rows, strict=True):
        for t, task in enumerate(table.tasks):
            if (site.id, task) in weights:
                assert torch.equal(row[t], weights[site.id, task].double())
    sum(row.pow(2).sum() for row in rows).backward()
    assert all(p.grad is not None for p in module.parameters_with(Role.LOGITS).values())


def test_shared_draw_takes_the_first_option_everywhere(module):
    assert shared_draw(module) == Draw(options=dict.fromkeys(module.logits, 0))


def test_decided_sites_take_the_first_option_and_the_others_their_sample(module):
    weights = draw(module)
    sites = sorted({site for site, _ in weights})
    assert decided(weights, ()) == Draw(weights=weights)
    some = decided(weights, set(sites[:2]))
    assert some.options == {key: 0 for key in weights if key[0] in sites[:2]}
    assert some.weights == {key: p for key, p in weights.items() if key[0] not in sites[:2]}
    hard = harden(some)
    assert hard.hard and hard.options.keys() == weights.keys()
    assert all(hard.options[key] == (0 if key[0] in sites[:2] else int(p.argmax())) for key, p in weights.items())


def test_by_site_of_a_draw_that_is_decided_in_part():
    model = small_resnet()
    Vcn()(model)
    module, table = to_torch(model), site_table(model)
    weights = gumbel_weights(module, 1.0, seed=0, stage="s", step=0)
    first = table.sites[0]
    rows = by_site(table, Draw(weights={k: p for k, p in weights.items() if k[0] != first.id},
                               options={(first.id, "seg"): 1, (first.id, "depth"): 0}))  # fmt: skip
    assert rows[0].tolist() == torch.eye(len(first.options))[[1, 0]].tolist() and not rows[0].requires_grad
    assert rows[1].requires_grad and all(row.dtype == torch.float64 for row in rows)


def test_logits_by_site():
    b = GraphBuilder()
    early = b.block(b.image, 4, name="stem")
    model = b.heads({"near": early, "far": b.block(early, 4)}, {"near": 1, "far": 1})
    Vcn()(model)
    module, table = to_torch(model), site_table(model)
    with torch.no_grad():
        for i, name in enumerate(module.logits.values()):
            module.weight(name).fill_(float(i + 1))
    for site, row in zip(table.sites, logits_by_site(table, module), strict=True):
        for t, task in enumerate(table.tasks):
            name = module.logits.get((site.id, task))
            expected = torch.zeros(len(site.options)) if name is None else module.weight(name).detach()
            assert torch.equal(row[t].detach(), expected.double())


def test_softmax_is_the_policy_itself(module):
    key = sorted(module.logits)[3]
    logits = module.weight(module.logits[key])
    before = logits.detach().clone()
    try:
        with torch.no_grad():
            logits.copy_(torch.tensor([0.7, -0.4, 0.1]))
        found = softmax_weights(module)
        assert found.keys() == module.logits.keys() and equal(found, softmax_weights(module))
        e = np.exp([0.7, -0.4, 0.1])
        np.testing.assert_allclose(found[key].detach().numpy(), e / e.sum(), rtol=1e-6)
        (slope,) = torch.autograd.grad(found[key][0], logits)
        p = e / e.sum()
        np.testing.assert_allclose(slope.numpy(), p[0] * (np.eye(3)[0] - p), rtol=1e-5)
    finally:
        with torch.no_grad():
            logits.copy_(before)


@pytest.fixture(scope="module")
def pairs():
    """A supermodel whose sites have two options each."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for _ in range(3):
        x = b.residual(x, 4)
    model = b.heads(x, {"seg": 3, "depth": 1})
    SelectOrSkip()(model)
    module = to_torch(model, dtype=torch.float64)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name in module.logits.values():
            module.weight(name).copy_(torch.from_numpy(rng.normal(size=2)))
    return module


def test_of_two_options_softmax_is_the_sigmoid_of_the_difference(pairs):
    for key, p in softmax_weights(pairs).items():
        p = p.detach()
        one, other = pairs.weight(pairs.logits[key]).tolist()
        assert float(p[0]) == pytest.approx(1 / (1 + np.exp(other - one)), rel=1e-12)


@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.1])
def test_of_two_options_gumbel_is_the_relaxed_bernoulli(pairs, temperature):
    """MTL-NAS Eq. 6: X = 1 / (1 + exp(−(a + L) / τ)), a the log-odds; L is read off a draw of other logits."""
    other = {key: torch.zeros(2, dtype=torch.float64) for key in pairs.logits}
    logits = {key: pairs.weight(name).detach().clone() for key, name in pairs.logits.items()}
    with torch.no_grad():
        for key, name in pairs.logits.items():
            pairs.weight(name).copy_(other[key])
        noise = {key: float((w[0] / w[1]).log()) for key, w in draw(pairs, step=5).items()}
        for key, name in pairs.logits.items():
            pairs.weight(name).copy_(logits[key])
        found = draw(pairs, step=5, temperature=temperature)
    for key, w in found.items():
        a = float(logits[key][0] - logits[key][1])
        assert float(w[0]) == pytest.approx(1 / (1 + np.exp(-(a + noise[key]) / temperature)), rel=1e-9, abs=1e-12)
    assert len(set(noise.values())) == len(noise)

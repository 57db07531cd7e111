"""Eq. 3 against a literal transcription; expected costs of one-hot samples against the selected graph."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError, RunError
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture
from onnxmtl.search.regularizers import REGULARIZERS, register_regularizer, regularizer


def supermodel(model):
    Vcn()(model)
    return model, site_table(model)


def soft_sample(table, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.softmax(torch.randn(len(table.tasks), len(site.options), dtype=torch.float64, generator=generator), -1)
        .detach()
        .requires_grad_()
        for site in table.sites
    ]


def one_hot(table, seed):
    draw = random.Random(seed)
    picks = {(s.index, t): draw.randrange(len(s.options)) for s in table.sites for t in range(len(table.tasks))}
    architecture = Architecture.from_indices(table, picks)
    return architecture, [torch.from_numpy(array) for array in architecture.probabilities(table)]


def literally_eq3(table, sample):
    """L_reg = Σ_tasks Σ_{l ≤ L} (L − l)/L · { ln(1 + e^{α1 − α0}) + ln(1 + e^{α2 − α0}) }, l counted from 1.

    α0 shared, α1 own, α2 skip. Only tasks that pass through a site count.
    """
    layers = max(site.depth for site in table.sites) + 1
    value, gradient = 0.0, [np.zeros(tuple(p.shape)) for p in sample]
    for t in range(len(table.tasks)):
        for site, p, g in zip(table.sites, sample, gradient, strict=True):
            if site.tasks and t not in site.tasks:
                continue
            layer = site.depth + 1
            for option in range(1, len(site.options)):
                x = float(p[t, option].detach()) - float(p[t, 0].detach())
                value += (layers - layer) / layers * math.log(1 + math.exp(x))
                slope = (layers - layer) / layers / (1 + math.exp(-x))
                g[t, option] += slope
                g[t, 0] -= slope
    return value, gradient


@pytest.mark.parametrize("seed", range(6))
def test_sharing_is_eq_3(seed):
    _, table = supermodel(random_model(seed, tasks=3) if seed else small_resnet())
    sample = soft_sample(table, seed)
    value = regularizer("sharing", table)(sample)
    value.backward()
    expected, gradient = literally_eq3(table, sample)
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
    value = regularizer("sharing", table)(sample)
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
    assert value(shared) < value(own)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), tasks=st.integers(2, 3), pick=st.integers(0, 1000))
def test_costs_of_a_one_hot_sample_are_those_of_the_selected_graph(seed, tasks, pick):
    model, table = supermodel(random_model(seed, tasks))
    architecture, sample = one_hot(table, pick)
    costs = count(Pipeline(select_passes(architecture))(model.clone()).model)
    separate = sum(count(_alone(seed, tasks, task)).multiply_adds for task in range(tasks))
    assert float(regularizer("multiply_adds", table)(sample)) == pytest.approx(costs.multiply_adds / separate, rel=1e-9)
    whole = sum(item.size for item in table.weight_items)
    assert float(regularizer("parameters", table)(sample)) == pytest.approx(costs.parameters / whole, rel=1e-9)


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
    assert torch.autograd.gradcheck(lambda *sample: value(sample), soft_sample(table, 1), rtol=1e-6, atol=1e-9)


def test_a_table_without_sites():
    model = small_resnet()
    table = site_table(model)
    assert not table.sites
    assert float(regularizer("sharing", table)([])) == 0.0


def test_names():
    _, table = supermodel(small_resnet())
    with pytest.raises(RunError, match="unknown regularizer 'x'; there are: multiply_adds, parameters, sharing"):
        regularizer("x", table)
    with pytest.raises(RunError, match="registered already"):
        register_regularizer("sharing")(REGULARIZERS["sharing"])


def test_too_many_tasks_are_told_at_once():
    _, table = supermodel(small_resnet({f"t{i}": 1 for i in range(13)}))
    with pytest.raises(ModelError, match="up to 12"):
        regularizer("multiply_adds", table)
    regularizer("sharing", table)

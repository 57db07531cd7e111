"""AdaShare's losses of the policy against literal transcriptions of its paper and of its authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.graphs import small_resnet
from helpers.views import chain, logits_of, there, view

from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import RunError
from onnxmtl.passes.spaces import Vcn
from onnxmtl.search.regularizers import regularizer


def literally_eq5(table, logits, active):
    """L_sparsity = Σ_{l ≤ L, k ≤ K} log α_{l,k}, α the probability that the block is executed.

    With α = e^z0 / (e^z0 + e^z1): d log α / dz0 = 1 − α, d log α / dz1 = α − 1.
    """
    value, gradient = 0.0, [np.zeros(tuple(z.shape)) for z in logits]
    for k in range(len(table.tasks)):
        for site in table.sites:
            if site.index in active and there(table, site, k):
                z0, z1 = (float(z) for z in logits[site.index][k].detach())
                alpha = math.exp(z0) / (math.exp(z0) + math.exp(z1))
                value += math.log(alpha)
                gradient[site.index][k] += [1 - alpha, alpha - 1]
    return value, gradient


def literally_get_sparsity_loss2(table, logits, active):
    """methods.md 4.3: per task CrossEntropy(logits[-n:], ones), a mean over the n blocks, summed over tasks."""
    value, gradient = 0.0, [np.zeros(tuple(z.shape)) for z in logits]
    for k in range(len(table.tasks)):
        blocks = [site for site in table.sites if site.index in active and there(table, site, k)]
        for site in blocks:
            z0, z1 = (float(z) for z in logits[site.index][k].detach())
            p_skip = math.exp(z1) / (math.exp(z0) + math.exp(z1))
            value += -math.log(p_skip) / len(blocks)
            gradient[site.index][k] += [(1 - p_skip) / len(blocks), (p_skip - 1) / len(blocks)]
    return value, gradient


def literally_eq6(table, logits, active):
    """L_sharing = Σ_{k1,k2 ≤ K} Σ_{l ≤ L} (L − l)/L · |α_{l,k1} − α_{l,k2}|, l from 1.

    Blocks that do not decide are executed by all.
    """
    layers = len(table.sites)
    value, gradient = 0.0, [np.zeros(tuple(z.shape)) for z in logits]
    for k1 in range(len(table.tasks)):
        for k2 in range(len(table.tasks)):
            for site in table.sites:
                if site.index in active and there(table, site, k1) and there(table, site, k2):
                    a1, a2 = (
                        1 / (1 + math.exp(float(z[1]) - float(z[0]))) for z in logits[site.index][[k1, k2]].detach()
                    )
                    factor = (layers - (site.index + 1)) / layers
                    value += factor * abs(a1 - a2)
                    sign = (a1 > a2) - (a1 < a2)
                    gradient[site.index][k1] += factor * sign * a1 * (1 - a1) * np.array([1, -1])
                    gradient[site.index][k2] -= factor * sign * a2 * (1 - a2) * np.array([1, -1])
    return value, gradient


def literally_get_hamming_loss(table, logits, active):
    """methods.md 4.3: Σ_{i ≤ j} Σ_l (l+1)/L · |logits_i[l, 0] − logits_j[l, 0]| over all L blocks, l from 0."""
    layers = len(table.sites)
    value, gradient = 0.0, [np.zeros(tuple(z.shape)) for z in logits]
    for i in range(len(table.tasks)):
        for j in range(i, len(table.tasks)):
            for site in table.sites:
                if there(table, site, i) and there(table, site, j):
                    a, b = float(logits[site.index][i, 0].detach()), float(logits[site.index][j, 0].detach())
                    factor = (site.index + 1) / layers
                    value += factor * abs(a - b)
                    gradient[site.index][i, 0] += factor * ((a > b) - (a < b))
                    gradient[site.index][j, 0] -= factor * ((a > b) - (a < b))
    return value, gradient


LITERAL = {
    ("sparsity", "paper"): literally_eq5,
    ("sparsity", "released"): literally_get_sparsity_loss2,
    ("adashare_sharing", "paper"): literally_eq6,
    ("adashare_sharing", "released"): literally_get_hamming_loss,
}


@pytest.mark.parametrize(("tasks", "early"), [(2, 0), (3, 0), (3, 1), (4, 2)])
@pytest.mark.parametrize("form", LITERAL, ids=" ".join)
def test_adashare_losses(form, tasks, early):
    """Value and gradient, with all blocks in the curriculum, some of them, and one."""
    _, table = chain(4, tasks, early)
    assert [site.depth for site in table.sites] == [0, 1, 2, 3]
    for active in ((0, 1, 2, 3), (2, 3), (3,)):
        logits = logits_of(table, 7 * tasks + len(active))
        # A task that does not come by has no logits.
        blank = []
        for site, z in zip(table.sites, logits, strict=True):
            rows = torch.tensor([there(table, site, task) for task in range(tasks)])
            blank.append(torch.where(rows[:, None], z, 0.0).detach().requires_grad_())
        value = regularizer(form[0], table, {"form": form[1]})(view(table, [], logits=blank, active=active))
        expected, gradient = LITERAL[form](table, blank, active)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        if value.requires_grad:
            value.backward()
        for z, g in zip(blank, gradient, strict=True):
            found = np.zeros(tuple(z.shape)) if z.grad is None else z.grad.numpy()
            np.testing.assert_allclose(found, g, rtol=1e-9, atol=1e-14)


def test_defaults_of_the_adashare_losses():
    """Sparsity as released (Eq. 5 has no lower bound), sharing as Eq. 6."""
    _, table = chain()
    logits = view(table, [], logits=logits_of(table, 0))
    for name, form in (("sparsity", "released"), ("adashare_sharing", "paper")):
        assert regularizer(name, table)(logits) == regularizer(name, table, {"form": form})(logits)
    skipped = [torch.tensor([[-50.0, 50.0]] * 3, dtype=torch.float64) for _ in table.sites]
    assert float(regularizer("sparsity", table)(view(table, [], logits=skipped))) == pytest.approx(0, abs=1e-9)
    assert float(regularizer("sparsity", table, {"form": "paper"})(view(table, [], logits=skipped))) < -1000


def test_sparsity_needs_something_to_skip():
    model = small_resnet()
    Vcn(skip="none")(model)
    with pytest.raises(RunError, match="no site of this space offers 'skip'"):
        regularizer("sparsity", site_table(model))

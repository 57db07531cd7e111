"""Views of a policy, as regularizers get them, of small supermodels."""

from __future__ import annotations

import torch

from helpers.graphs import GraphBuilder
from onnxmtl.analysis.sites import site_table
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.search.regularizers import PolicyView


def supermodel(model):
    """The model as AutoMTL's supermodel, and its sites."""
    Vcn()(model)
    return model, site_table(model)


def soft_sample(table, seed):
    """Probabilities per site, [tasks, options], with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.softmax(torch.randn(len(table.tasks), len(site.options), dtype=torch.float64, generator=generator), -1)
        .detach()
        .requires_grad_()
        for site in table.sites
    ]


def view(table, sample, *, logits=None, active=None):
    """A view of a policy; by default of all sites, and the sample is the policy."""
    return PolicyView(
        sample,
        [p.log() for p in sample] if logits is None else logits,
        tuple(range(len(table.sites))) if active is None else active,
    )


def logits_of(table, seed):
    """Logits per site, [tasks, options], with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            2 * torch.randn(len(table.tasks), len(site.options), dtype=torch.float64, generator=generator)
        ).requires_grad_()
        for site in table.sites
    ]


def chain(blocks=4, tasks=3, early=0):
    """AdaShare's supermodel of a chain of residual blocks; the first `early` tasks leave after two of them."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    features = []
    for _ in range(blocks):
        x = b.residual(x, 4)
        features.append(x)
    names = [f"t{i}" for i in range(tasks)]
    model = b.heads({name: features[1 if i < early else -1] for i, name in enumerate(names)}, dict.fromkeys(names, 1))
    SelectOrSkip()(model)
    return model, site_table(model)


def there(table, site, task):
    """Whether the task passes through the site."""
    return not site.tasks or task in site.tasks

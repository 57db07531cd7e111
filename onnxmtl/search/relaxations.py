"""How a policy becomes a draw: averages and Gumbel-softmax samples, each a function of (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from onnxmtl.analysis.table import SiteTable
from onnxmtl.lowering import Draw, LoweredModule, SiteTask
from onnxmtl.runs import derive_seed


def average_draw(module: LoweredModule) -> Draw:
    """All options of a site weigh the same (AutoMTL's pre-training)."""
    return Draw(
        weights={
            key: torch.full_like(module.weight(name), 1.0 / len(module.options[key])).detach()
            for key, name in module.logits.items()
        }
    )


def gumbel_weights(
    module: LoweredModule, temperature: float, *, seed: int, stage: str, step: int
) -> dict[SiteTask, torch.Tensor]:
    """softmax((logits + g) / τ) with g ~ Gumbel(0, 1), one sample per (site, task); differentiable in the logits."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stage, step, "gumbel"))
    keys = sorted(module.logits)
    width = max((len(module.options[key]) for key in keys), default=0)
    exponential = torch.empty(len(keys), width, dtype=torch.float64).exponential_(generator=generator)
    noise = -exponential.clamp_min(torch.finfo(torch.float64).tiny).log()
    weights = {}
    for row, key in zip(noise, keys, strict=True):
        logits = module.weight(module.logits[key])
        gumbel = row[: logits.numel()].to(device=logits.device, dtype=logits.dtype)
        weights[key] = torch.softmax((logits + gumbel) / temperature, -1)
    return weights


def harden(weights: Mapping[SiteTask, torch.Tensor]) -> Draw:
    """The option with the largest weight at each (site, task); carries no gradient."""
    return Draw(options={key: int(p.argmax()) for key, p in weights.items()})


def by_site(table: SiteTable, weights: Mapping[SiteTask, torch.Tensor]) -> list[torch.Tensor]:
    """The sample as regularizers want it: per site [tasks, options] in float64; absent tasks take option 0."""
    rows = []
    for site in table.sites:
        some = next(weights[site.id, task] for task in table.tasks if (site.id, task) in weights)
        absent = torch.zeros_like(some).detach()
        absent[0] = 1.0
        rows.append(torch.stack([weights.get((site.id, task), absent) for task in table.tasks]).double())
    return rows

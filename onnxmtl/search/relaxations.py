"""How a policy becomes a draw: averages, probabilities and Gumbel-softmax samples.

All are functions of (logits, seed, stage, step). Where a site has two options, such as an edge that is there or cut,
the softmax is the sigmoid of the logits' difference a, and the Gumbel-softmax sample σ((a + L) / τ) with L logistic:
the relaxed Bernoulli distribution of the Concrete paper, MTL-NAS Eq. 6. (Its log α stands for the log-odds: with τ → 0
the sample is 1 with probability σ(a), as the text below that equation says it has to be.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from onnxmtl.analysis.table import SiteTable
from onnxmtl.errors import RunError
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


def shared_draw(module: LoweredModule) -> Draw:
    """Option 0 everywhere: one trunk for all tasks, which runs once (AdaShare's warm-up)."""
    return Draw(options=dict.fromkeys(module.logits, 0))


def own_branch_draw(module: LoweredModule, tasks: Sequence[str]) -> Draw:
    """Task t of `tasks` takes ``branch_t`` everywhere: a network for each of them (BMTAS's warm-up).

    Raises:
        RunError: The options are no branches.
    """
    options = {}
    for (site, task), names in module.options.items():
        wanted = f"branch_{tasks.index(task)}"
        if wanted not in names:
            msg = f"the relaxation 'own-branch' is for the space 'branch'; site {site!r} has no option {wanted!r}"
            raise RunError(msg)
        options[site, task] = names.index(wanted)
    return Draw(options=options)


def softmax_weights(module: LoweredModule) -> dict[SiteTask, torch.Tensor]:
    """softmax(logits), for every (site, task); differentiable in the logits (DARTS; MTL-NAS Eq. 5)."""
    return {key: torch.softmax(module.weight(name), -1) for key, name in module.logits.items()}


def gumbel_weights(
    module: LoweredModule, temperature: float, *, seed: int, stage: str, step: int, stream: str = "gumbel"
) -> dict[SiteTask, torch.Tensor]:
    """softmax((logits + g) / τ) with g ~ Gumbel(0, 1), one sample per (site, task); differentiable in the logits."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stage, step, stream))
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


def decided(weights: Mapping[SiteTask, torch.Tensor], sites: Collection[str]) -> Draw:
    """The sample, but option 0 for sure at `sites`."""
    if not sites:
        return Draw(weights=weights)
    return Draw(
        weights={key: p for key, p in weights.items() if key[0] not in sites},
        options={key: 0 for key in weights if key[0] in sites},
    )


def harden(draw: Draw | Mapping[SiteTask, torch.Tensor]) -> Draw:
    """The option with the largest weight at each (site, task); carries no gradient."""
    soft = draw if isinstance(draw, Mapping) else draw.weights or {}
    fixed = {} if isinstance(draw, Mapping) else draw.options or {}
    return Draw(options={**fixed, **{key: int(p.argmax()) for key, p in soft.items()}})


def by_site(
    table: SiteTable, draw: Draw | Mapping[SiteTask, torch.Tensor], learning: Collection[str] | None = None
) -> list[torch.Tensor]:
    """The sample as regularizers want it: per site [tasks, options] in float64; absent tasks take option 0.

    Only the rows of tasks in `learning` carry a gradient (default: all).
    """
    soft = draw if isinstance(draw, Mapping) else draw.weights or {}
    hard = {} if isinstance(draw, Mapping) else draw.options or {}
    device = next((p.device for p in soft.values()), None)
    rows = []
    for site in table.sites:
        constant = torch.eye(len(site.options), dtype=torch.float64, device=device)
        of_tasks = []
        for task in table.tasks:
            p = soft.get((site.id, task))
            row = constant[hard.get((site.id, task), 0)] if p is None else p.double()
            of_tasks.append(row if learning is None or task in learning else row.detach())
        rows.append(torch.stack(of_tasks))
    return rows


def logits_by_site(
    table: SiteTable, module: LoweredModule, learning: Collection[str] | None = None
) -> list[torch.Tensor]:
    """The logits as regularizers want them: per site [tasks, options] in float64; zeros for absent tasks.

    Only the rows of tasks in `learning` carry a gradient (default: all).
    """
    rows = []
    for site in table.sites:
        there = {task: module.weight(module.logits[site.id, task]) for task in table.tasks_at(site)}
        blank = torch.zeros(len(site.options), dtype=torch.float64, device=next(iter(there.values())).device)
        of_tasks = [there[task].double() if task in there else blank for task in table.tasks]
        rows.append(
            torch.stack(
                [
                    row if learning is None or task in learning else row.detach()
                    for task, row in zip(table.tasks, of_tasks, strict=True)
                ]
            )
        )
    return rows

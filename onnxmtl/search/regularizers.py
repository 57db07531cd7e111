"""What is added to the task losses in policy steps. Regularizers see the table of sites and one sample, never nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.errors import RunError

Regularizer = Callable[[Sequence[torch.Tensor]], torch.Tensor]
REGULARIZERS: dict[str, Callable[[SiteTable], Regularizer]] = {}


def register_regularizer(
    name: str,
) -> Callable[[Callable[[SiteTable], Regularizer]], Callable[[SiteTable], Regularizer]]:
    """Decorator: make a regularizer available to recipes. It gets the table once, then a sample per step.

    A sample is a list with one tensor [tasks, options] per site.
    """

    def register(factory: Callable[[SiteTable], Regularizer]) -> Callable[[SiteTable], Regularizer]:
        if name in REGULARIZERS:
            msg = f"regularizer {name!r} is registered already"
            raise RunError(msg)
        REGULARIZERS[name] = factory
        return factory

    return register


def regularizer(name: str, table: SiteTable) -> Regularizer:
    """The regularizer called `name`, for `table`.

    Raises:
        RunError: There is none of that name.
    """
    if name not in REGULARIZERS:
        msg = f"unknown regularizer {name!r}; there are: {', '.join(sorted(REGULARIZERS))}"
        raise RunError(msg)
    return REGULARIZERS[name](table)


@register_regularizer("sharing")
def sharing(table: SiteTable) -> Regularizer:
    """AutoMTL Eq. 3: Σ_tasks Σ_sites (L−l)/L · Σ_{o ≠ shared} softplus(P(o) − P(shared)).

    l counts a site's depth from 1, so the deepest sites weigh nothing. The shared option is the first one.
    """
    depth = table.depth
    factors = [(depth - site.depth - 1) / depth for site in table.sites]

    def value(sample: Sequence[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64, device=sample[0].device if sample else None)
        for site, factor, p in zip(table.sites, factors, sample, strict=True):
            rows = p[list(site.tasks)] if site.tasks else p
            total = total + factor * functional.softplus(rows[:, 1:] - rows[:, :1]).sum()
        return total

    return value


@register_regularizer("multiply_adds")
def multiply_adds(table: SiteTable) -> Regularizer:
    """Expected multiply-adds, as a share of what separate models execute; exact, rewards common prefixes."""
    cost = ExpectedCost(table)
    separate = _separate(table)

    def value(sample: Sequence[torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = cost.multiply_adds(sample) / separate
        return result

    return value


@register_regularizer("parameters")
def parameters(table: SiteTable) -> Regularizer:
    """Expected parameters, as a share of the supermodel's."""
    cost = ExpectedCost(table)
    whole = float(sum(item.size for item in table.weight_items)) or 1.0

    def value(sample: Sequence[torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = cost.parameters(sample) / whole
        return result

    return value


def _separate(table: SiteTable) -> float:
    """Multiply-adds of one model per task, each with option 0 (the user's operator) at every site."""
    return float(sum(item.cost * len(item.tasks) for item in table.cost_items if item.option in (None, 0))) or 1.0

"""What is added to the task losses in policy steps. Regularizers see the table of sites and the policy, never nodes.

Everything is in float64, a sum over sites and tasks of scalars, and holds in every space whose options it names. Of
one loss the papers and their codes have different forms; each is an option, and its docstring says which.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from onnxmtl.analysis.table import Site, SiteTable
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.released import ReleasedCost
from onnxmtl.errors import RunError
from onnxmtl.policy.budget import Absolute


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyView:
    """The policy in one step. Tensors are float64, one [tasks, options] per site, in the table's order.

    Attributes:
        sample: The step's soft sample, or a fresh one, as the stage says; differentiable. Where a task takes an option
            for sure (it is not there, or the site does not decide yet) it is a constant one-hot row.
        logits: Of all sites, those that do not decide yet included; zeros for tasks that are not there.
        active: Indices of the sites that decide, ascending.
        progress: How much of the stage is over, in [0, 1].

    Where tasks take steps in turn the rows of the others are constants, so that a regularizer, which is always that of
    all tasks, gives the task whose turn it is its own part of the gradient.
    """

    sample: Sequence[torch.Tensor]
    logits: Sequence[torch.Tensor]
    active: tuple[int, ...]
    progress: float = 1.0

    @functools.cached_property
    def probabilities(self) -> tuple[torch.Tensor, ...]:
        """softmax(logits); a constant one-hot row for option 0 at sites that do not decide yet."""
        deciding = set(self.active)
        found = []
        for index, logits in enumerate(self.logits):
            p = torch.softmax(logits, -1)
            if index not in deciding:
                p = functional.one_hot(torch.zeros(len(p), dtype=torch.long, device=p.device), p.shape[1]).to(p)
            found.append(p)
        return tuple(found)

    def zero(self) -> torch.Tensor:
        """A scalar to add to."""
        return torch.zeros((), dtype=torch.float64, device=self.logits[0].device if self.logits else None)


TIMED = "latency"
"""The regularizer that needs measured times."""

_GFLOP = 5e8  # multiply-adds: each is two operations

Regularizer = Callable[[PolicyView], torch.Tensor]
RegularizerFactory = Callable[..., Regularizer]
REGULARIZERS: dict[str, RegularizerFactory] = {}


def register_regularizer(name: str) -> Callable[[RegularizerFactory], RegularizerFactory]:
    """Decorator: make a regularizer available to recipes.

    The factory gets the table, and the recipe's settings by name, once; what it returns gets a :class:`PolicyView` per
    step and returns a scalar.

    Raises:
        RunError: The name is taken.
    """

    def register(factory: RegularizerFactory) -> RegularizerFactory:
        if name in REGULARIZERS:
            msg = f"regularizer {name!r} is registered already"
            raise RunError(msg)
        REGULARIZERS[name] = factory
        return factory

    return register


def regularizer(name: str, table: SiteTable, settings: Mapping[str, Any] | None = None) -> Regularizer:
    """The regularizer called `name`, for `table`.

    Raises:
        RunError: There is none of that name, or it does not take the settings.
    """
    if name not in REGULARIZERS:
        msg = f"unknown regularizer {name!r}; there are: {', '.join(sorted(REGULARIZERS))}"
        raise RunError(msg)
    try:
        return REGULARIZERS[name](table, **(settings or {}))
    except TypeError as error:
        msg = f"regularizer {name!r} does not take the settings {dict(settings or {})}: {error}"
        raise RunError(msg) from error


# AutoMTL


@register_regularizer("sharing")
def sharing(table: SiteTable, scale: float = 1.0) -> Regularizer:
    """AutoMTL Eq. 3: Σ_tasks Σ_sites (L−l)/L · Σ_{o ≠ shared} softplus(scale · (P'(o) − P'(shared))).

    l counts a site's depth from 1, so the deepest sites weigh nothing. The shared option is the first one. P' is the
    Gumbel-softmax sample. The paper has no scale; the code's policy steps have 6, on a fresh sample.
    """
    depth = table.depth
    factors = [(depth - site.depth - 1) / depth for site in table.sites]

    def value(view: PolicyView) -> torch.Tensor:
        total = view.zero()
        for site, factor, p in zip(table.sites, factors, view.sample, strict=True):
            rows = p[_rows(site, table)]
            total = total + factor * functional.softplus(scale * (rows[:, 1:] - rows[:, :1])).sum()
        return total

    return value


# AdaShare


@register_regularizer("sparsity")
def sparsity(table: SiteTable, form: str = "released") -> Regularizer:
    """AdaShare's pull towards skipped blocks, over the sites that decide.

    ``released``: Σ_tasks of the mean over sites of −log P(skip), a cross-entropy towards skipping. ``paper``, Eq. 5:
    Σ_tasks Σ_sites log α with α = P(execute) = 1 − P(skip), which has no lower bound. Sites without a skip are left
    out.

    Raises:
        RunError: Another form, or no site has an option ``skip``.
    """
    _check_form("sparsity", form)
    skips = {site.index: site.option_index("skip") for site in table.sites if "skip" in site.option_names}
    if table.sites and not skips:
        msg = "the regularizer 'sparsity' is about skipped sites, and no site of this space offers 'skip'"
        raise RunError(msg)

    def value(view: PolicyView) -> torch.Tensor:
        total = view.zero()
        terms: dict[int, list[torch.Tensor]] = {}
        for index in view.active:
            if index in skips:
                logits = view.logits[index]
                if form == "released":
                    term = -functional.log_softmax(logits, -1)[:, skips[index]]
                else:
                    others = [o for o in range(logits.shape[1]) if o != skips[index]]
                    term = torch.logsumexp(logits[:, others], -1) - torch.logsumexp(logits, -1)
                for task in _rows(table.sites[index], table):
                    terms.setdefault(task, []).append(term[task])
        for task in sorted(terms):
            of_task = torch.stack(terms[task])
            total = total + (of_task.mean() if form == "released" else of_task.sum())
        return total

    return value


@register_regularizer("adashare_sharing")
def adashare_sharing(table: SiteTable, form: str = "paper") -> Regularizer:
    """AdaShare's pull towards equal choices of any two tasks, by the first option (execute).

    ``paper``, Eq. 6: Σ_{k1,k2} Σ_l (L−l)/L · |α_{l,k1} − α_{l,k2}|, ordered pairs, α = P(execute), l from 1: bottom
    blocks weigh most. ``released``: Σ_{i≤j} Σ_l (l+1)/L · |z_{i,l} − z_{j,l}|, z the raw logits of execute, l from 0,
    over all blocks whether they decide yet or not: top blocks weigh most. The published λ belong to the latter.

    Raises:
        RunError: Another form.
    """
    _check_form("adashare_sharing", form)
    depth = table.depth
    paper = form == "paper"
    factors = [(depth - site.depth - 1) / depth if paper else (site.depth + 1) / depth for site in table.sites]

    def value(view: PolicyView) -> torch.Tensor:
        total = view.zero()
        for site, factor, row in zip(table.sites, factors, view.probabilities if paper else view.logits, strict=True):
            alpha = row[_rows(site, table), 0]
            distances = (alpha[:, None] - alpha[None, :]).abs().sum()  # every pair twice
            total = total + factor * (distances if paper else distances / 2)
        return total

    return value


# MTL-NAS


@register_regularizer("entropy")
def entropy(table: SiteTable, rise: float = 0.0) -> Regularizer:
    """MTL-NAS Eq. 12, 13: how undecided the policy is. Mean over tasks of the mean over a task's sites of H(p).

    H(p) = −Σ_o p(o) · ln p(o) in nats, p the policy itself, without noise and temperature. Over the sites that decide,
    and the tasks that come by one. (The paper divides by the number of all edges; the code takes the mean per network
    and averages these, as here. They are equal where all networks have as many edges.)

    Args:
        table: The sites.
        rise: Share of the stage in which the weight rises from 0 to what it is, linearly; 0: it is there at once, as in
            the paper. Near p = 1/2 the entropy pushes away from wherever the first noisy steps have gone; while it
            rises the tasks decide where to.

    Raises:
        RunError: `rise` is no share.
    """
    if not 0 <= rise <= 1:
        msg = f"regularizer 'entropy' rises over a share of the stage, 0 to 1, not {rise}"
        raise RunError(msg)
    rows = [_rows(site, table) for site in table.sites]

    def value(view: PolicyView) -> torch.Tensor:
        terms: dict[int, list[torch.Tensor]] = {}
        for index in view.active:
            logs = functional.log_softmax(view.logits[index], -1)
            each = -(logs.exp() * logs).sum(-1)
            for task in rows[index]:
                terms.setdefault(task, []).append(each[task])
        if not terms:
            return view.zero()
        mean = torch.stack([torch.stack(terms[task]).mean() for task in sorted(terms)]).mean()
        return mean * (min(view.progress / rise, 1.0) if rise else 1.0)

    return value


# Costs


@register_regularizer("multiply_adds")
def multiply_adds(table: SiteTable, unit: str = "separate", of: str = "sample") -> Regularizer:
    """Expected multiply-adds; exact, rewards common prefixes. BMTAS Eq. 5 with ``of="policy"``.

    Args:
        table: The sites.
        unit: ``separate``: as a share of what separate models execute. ``gflop``: 2·10⁻⁹ times their number, the unit
            that BMTAS's λ belong to.
        of: The probabilities: the step's ``sample``, or the ``policy`` itself, without noise and temperature.

    Raises:
        RunError: Another unit, or something else to take it of.
    """
    if unit not in ("separate", "gflop") or of not in ("sample", "policy"):
        msg = f"multiply_adds has the units 'separate' and 'gflop', of 'sample' or 'policy', not {unit!r} of {of!r}"
        raise RunError(msg)
    return _expected(table, separate_multiply_adds(table) if unit == "separate" else _GFLOP, of)


@register_regularizer(TIMED)
def latency(table: SiteTable, of: str = "policy", times: SiteTable | None = None) -> Regularizer:
    """Expected time on this machine, as a share of what separate models take; exact, as ``multiply_adds`` is.

    Args:
        table: The sites.
        of: As of ``multiply_adds``.
        times: The same table with measured microseconds in the place of multiply-adds; ``compile`` measures them.

    Raises:
        RunError: Something else to take it of; no times, or those of another supermodel.
    """
    if of not in ("sample", "policy"):
        msg = f"latency is of 'sample' or 'policy', not {of!r}"
        raise RunError(msg)
    if times is None and table.sites:
        msg = "the regularizer 'latency' needs measured times, and none are given: take it in a recipe that is compiled"
        raise RunError(msg)
    timed = table if times is None else _same_sites(table, times, TIMED)
    return _expected(timed, separate_multiply_adds(timed), of)


def _expected(table: SiteTable, one: float, of: str) -> Regularizer:
    """The expected cost of the step's sample or of the policy, divided by `one`."""
    cost = ExpectedCost(table)

    def value(view: PolicyView) -> torch.Tensor:
        p = view.sample if of == "sample" else view.probabilities
        result: torch.Tensor = cost.multiply_adds(p, like=view.zero()) / one
        return result

    return value


def _same_sites(table: SiteTable, times: SiteTable, name: str) -> SiteTable:
    if (times.tasks, _names(times)) != (table.tasks, _names(table)):
        msg = f"the regularizer {name!r} was given times that were measured on another supermodel"
        raise RunError(msg)
    return times


def _names(table: SiteTable) -> list[tuple[str, tuple[str, ...]]]:
    return [(site.id, site.option_names) for site in table.sites]


@register_regularizer("bmtas_released")
def bmtas_released(table: SiteTable, unit: str = "separate", per_task: bool = False) -> Regularizer:
    """The resource loss of BMTAS's code, which charges too much for three tasks and more; up to five tasks.

    See :mod:`onnxmtl.cost.released`. Of the policy itself, without noise and temperature, and of the blocks alone.

    Args:
        table: The sites.
        unit: ``separate`` or ``gflop``, as of ``multiply_adds``.
        per_task: Once for every task, as the code adds it; else once per step.

    Raises:
        RunError: Another unit.
        ModelError: More tasks, or the table is not that of the space ``branch``.
    """
    if unit not in ("separate", "gflop"):
        msg = f"bmtas_released has the units 'separate' and 'gflop', not {unit!r}"
        raise RunError(msg)
    cost = ReleasedCost(table)
    one = separate_multiply_adds(table) if unit == "separate" else _GFLOP
    times = len(table.tasks) if per_task else 1

    def value(view: PolicyView) -> torch.Tensor:
        result: torch.Tensor = cost.multiply_adds(view.probabilities) * (times / one)
        return result

    return value


@register_regularizer("parameters")
def parameters(table: SiteTable) -> Regularizer:
    """Expected parameters, as a share of the supermodel's."""
    cost = ExpectedCost(table)
    whole = float(sum(item.size for item in table.weight_items)) or 1.0

    def value(view: PolicyView) -> torch.Tensor:
        result: torch.Tensor = cost.parameters(view.sample, like=view.zero()) / whole
        return result

    return value


@register_regularizer("budget")
def budget(table: SiteTable, limits: Sequence[Absolute] = (), times: SiteTable | None = None) -> Regularizer:
    """Σ over the run's limits of max(0, E[cost] / limit − 1), the exact expected cost under the policy.

    Args:
        table: The sites.
        limits: The run's budget; a limit on latency counts only with `times`.
        times: As of ``latency``.

    Raises:
        RunError: The times are those of another supermodel.
    """
    costs = {False: ExpectedCost(table)}
    if any(limit.trunk for limit in limits):
        costs[True] = ExpectedCost(trunk_of(table))
    timed = None if times is None else ExpectedCost(_same_sites(table, times, "budget"))

    def value(view: PolicyView) -> torch.Tensor:
        total = view.zero()
        for limit in limits:
            if limit.quantity == "latency" and timed is not None:
                milliseconds = timed.multiply_adds(view.probabilities, like=view.zero()) / 1e3
                total = total + torch.relu(milliseconds / limit.bound - 1.0)
            elif limit.quantity != "latency":
                of = costs[limit.trunk]
                expected = of.parameters if limit.quantity == "parameters" else of.multiply_adds
                total = total + torch.relu(expected(view.probabilities, like=view.zero()) / limit.bound - 1.0)
        return total

    return value


def separate_multiply_adds(table: SiteTable) -> float:
    """Multiply-adds of one model per task, each with option 0 (the user's operator) at every site."""
    return float(sum(item.cost * len(item.tasks) for item in table.cost_items if item.option in (None, 0))) or 1.0


def trunk_of(table: SiteTable) -> SiteTable:
    """The table without the heads' costs."""
    return dataclasses.replace(
        table,
        cost_items=tuple(item for item in table.cost_items if not item.head),
        weight_items=tuple(item for item in table.weight_items if not item.head),
    )


def _rows(site: Site, table: SiteTable) -> list[int]:
    """The tasks that pass through the site."""
    return list(site.tasks or range(len(table.tasks)))


def _check_form(name: str, form: str) -> None:
    if form not in ("paper", "released"):
        msg = f"regularizer {name!r} has the forms 'paper' and 'released', not {form!r}"
        raise RunError(msg)

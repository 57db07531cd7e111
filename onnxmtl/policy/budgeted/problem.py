"""What every way of decoding reads: probabilities as losses, and what each limit counts.

A *load* is what one limit adds up over an architecture: a constant, amounts that one task causes by one option
(`single`), executions that tasks can have together (`joint`), and weights that are needed by any of several uses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxmtl.analysis.table import CostItem, SiteTable
from onnxmtl.cost.selected import Int64, Relations, SelectedCost, SelectedCosts
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.policy import Policy

Float64 = np.ndarray[Any, np.dtype[np.float64]]


WORST = 1e6  # options that give away more log-probability count as if they gave away this much


class Use(NamedTuple):
    """A task takes an option at a site."""

    task: int
    site: int
    option: int


@dataclasses.dataclass(frozen=True)
class Joint:
    """Executions that tasks have together while they agree at all sites above.

    Attributes:
        cost: Multiply-adds of one.
        site: Index of the site of whose option it is, or -1: outside all sites.
        option: Index of that option, or -1.
        tasks: Two or more.
        above: Number of what lies above in the problem's `parts`.
    """

    cost: int
    site: int
    option: int
    tasks: tuple[int, ...]
    above: int


@dataclasses.dataclass(frozen=True)
class Load:
    """What one limit adds up.

    Attributes:
        limits: The limits that bound it; several where they differ in the heads alone, which cost the same always.
        constants: Per limit what every architecture causes.
        bound: What the limits leave beyond that; a whole number.
        single: Caused by one use.
        joint: Executions; for parameters the weights of which every group of tasks has its own.
        weights: (Elements, the uses each of which needs them); empty for multiply-adds.
    """

    limits: tuple[Absolute, ...]
    constants: tuple[int, ...]
    bound: int
    single: dict[Use, int]
    joint: tuple[Joint, ...]
    weights: tuple[tuple[int, tuple[Use, ...]], ...]

    @property
    def unit(self) -> int:
        """A number that divides all its costs."""
        costs = [*self.single.values(), *(item.cost for item in self.joint), *(size for size, _ in self.weights)]
        return math.gcd(*costs) or 1


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A policy and its limits.

    Attributes:
        table: The sites.
        limits: What has to hold; of latency in microseconds.
        losses: Per site [tasks, options]: how much log-probability an option gives away against the best one: >= 0,
            at most :data:`WORST`.
        best: Log-probability of the best architecture without limits.
        loads: What the limits add up, one per distinct sum.
        parts: What lies above joint items, see :class:`~onnxmtl.cost.selected.Relations`.
        times: The table with microseconds in the place of multiply-adds, if latency is limited.
    """

    table: SiteTable
    limits: tuple[Absolute, ...]
    losses: tuple[Float64, ...]
    best: float
    loads: tuple[Load, ...]
    parts: tuple[tuple[int | None, tuple[tuple[int, tuple[int, ...]], ...]], ...]
    times: SiteTable | None = None

    def counter(self) -> SelectedCost:
        """Counts all that is limited."""
        return SelectedCost(self.table, self.times)

    def tasks_at(self, site: int) -> tuple[int, ...]:
        """Indices of the tasks that decide at a site."""
        return self.table.sites[site].tasks or tuple(range(len(self.table.tasks)))

    @property
    def first(self) -> Int64:
        """The most probable options [sites, tasks], of equally probable ones the first; -1 for absent tasks."""
        picks = np.full((len(self.table.sites), len(self.table.tasks)), -1, np.int64)
        for site, losses in enumerate(self.losses):
            tasks = list(self.tasks_at(site))
            picks[site, tasks] = losses[tasks].argmin(axis=1)
        return picks

    def loss(self, picks: Int64) -> float:
        """Log-probability given away by options [sites, tasks], summed exactly."""
        return math.fsum(
            float(losses[t, picks[site, t]]) for site, losses in enumerate(self.losses) for t in self.tasks_at(site)
        )

    def fits(self, costs: SelectedCosts) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Per counted architecture, whether all limits hold."""
        kept = np.ones(len(costs.parameters), bool)
        for limit in self.limits:
            kept &= amounts(costs, limit) <= limit.bound
        return kept


def amounts(costs: SelectedCosts, limit: Absolute) -> Int64:
    """What counted architectures have of a limited quantity."""
    found: Int64 = getattr(costs, f"{limit.quantity}_trunk" if limit.trunk else limit.quantity)
    return found


def make_problem(policy: Policy, limits: Sequence[Absolute], times: SiteTable | None = None) -> Problem:
    """Prepare a policy and limits for decoding; `times` is needed for those on latency, see :class:`Problem`.

    Raises:
        ValueError: Latency is limited, and there are no times, or those of other sites.
    """
    table = policy.table
    if any(limit.quantity == "latency" for limit in limits) and (
        times is None or [(s.id, s.option_names) for s in times.sites] != [(s.id, s.option_names) for s in table.sites]
    ):
        msg = "a limit on latency needs a table of measured times of the same sites"
        raise ValueError(msg)
    losses, best = [], []
    for site, logits in enumerate(policy.logits):
        top = logits.max(axis=1, keepdims=True)
        losses.append(np.minimum(top - logits, WORST))
        total = np.log(np.exp(logits - top).sum(axis=1))
        best += [-float(total[t]) for t in (table.sites[site].tasks or range(len(table.tasks)))]
    relations = Relations()
    merged: dict[Any, Load] = {}
    for limit in limits:
        if limit.quantity == "parameters":
            load = _parameters(table, limit, relations)
        else:
            load = _executed(table if times is None or limit.quantity != "latency" else times, limit, relations)
        key = (frozenset(load.single.items()), load.joint, load.weights)
        other = merged.get(key)
        if other is None:
            merged[key] = load
        else:
            merged[key] = dataclasses.replace(
                load,
                limits=other.limits + load.limits,
                constants=other.constants + load.constants,
                bound=min(other.bound, load.bound),
            )
    loads, parts = tuple(merged.values()), tuple(relations.parts)
    return Problem(table, tuple(limits), tuple(losses), math.fsum(best), loads, parts, times)


def _parameters(table: SiteTable, limit: Absolute, relations: Relations) -> Load:
    constant = 0
    needed: dict[tuple[Use, ...], int] = {}
    copied: list[CostItem] = []
    for weight in table.weight_items:
        if limit.trunk and weight.head:
            continue
        item = weight.per_group
        if weight.always:
            constant += weight.size
        elif item is not None:
            copied.append(item)
        elif weight.size:
            uses = tuple(sorted(Use(*use) for use in weight.uses))
            needed[uses] = needed.get(uses, 0) + weight.size
    more, single, joint = _copies(copied, relations)
    constant += more
    for uses, size in needed.items():
        if len(uses) == 1:
            single[uses[0]] = single.get(uses[0], 0) + size
    weights = tuple((size, uses) for uses, size in needed.items() if len(uses) > 1)
    return Load((limit,), (constant,), math.floor(limit.bound) - constant, single, joint, weights)


def _executed(table: SiteTable, limit: Absolute, relations: Relations) -> Load:
    items = [item for item in table.cost_items if not (limit.trunk and item.head)]
    constant, single, joint = _copies(items, relations)
    return Load((limit,), (constant,), math.floor(limit.bound) - constant, single, joint, ())


def _copies(items: Sequence[CostItem], relations: Relations) -> tuple[int, dict[Use, int], tuple[Joint, ...]]:
    """(What is there always, what one use causes, what tasks can have together)."""
    constant = 0
    single: dict[Use, int] = {}
    joint: dict[tuple[int, int, tuple[int, ...], int], int] = {}
    for item in items:
        together = len(item.tasks) > 1 and all(item.agree.values())
        if item.site is None or item.option is None:
            if together and item.agree:
                place = (-1, -1, item.tasks, relations.number(item.agree))
                joint[place] = joint.get(place, 0) + item.cost
            else:
                constant += item.cost * (1 if together else len(item.tasks))
        elif together:
            place = (item.site, item.option, item.tasks, relations.number(item.agree))
            joint[place] = joint.get(place, 0) + item.cost
        else:
            for task in item.tasks:
                use = Use(task, item.site, item.option)
                single[use] = single.get(use, 0) + item.cost
    return constant, single, tuple(Joint(cost, *place) for place, cost in joint.items())


def picks_to_indices(picks: Int64) -> dict[tuple[int, int], int]:
    """(Site, task) -> option, as :meth:`Architecture.from_indices` reads it."""
    return {(site, task): int(option) for (site, task), option in np.ndenumerate(picks) if option >= 0}

"""From the user's budget to an architecture whose emitted model keeps it.

The decoder counts on the table of sites, before folding; the verdict is counted on the emitted graph, which has fewer
parameters where a normalization was folded, and more where one convolution was folded into several. So the decoder's
limits are first loosened by what folding is seen to save, and then tightened until the emitted graph keeps the user's.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl import runtime
from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.count import Costs
from onnxmtl.cost.selected import count_architecture
from onnxmtl.deploy.report import limited
from onnxmtl.deploy.results import BudgetResult
from onnxmtl.errors import BudgetError
from onnxmtl.policy import Architecture, Policy
from onnxmtl.policy.budget import Absolute, parse_budget
from onnxmtl.policy.budgeted import Decoded, decode_budgeted, fastest
from onnxmtl.policy.decoders import argmax
from onnxmtl.policy.measured import fit_to_measure
from onnxmtl.workflows.phases.job import Graphs
from onnxmtl.workflows.phases.times import times_table

_ATTEMPTS = 100
_NO_CHOICE = Architecture({})  # of a layout that is given


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An architecture within the budget.

    Attributes:
        architecture: What the tasks share.
        decoded: What the decoder says about it.
        costs: Of the model as it is emitted.
    """

    architecture: Architecture
    decoded: Decoded = dataclasses.field(compare=False)
    costs: Costs

    @property
    def sentence(self) -> str:
        """How it was found, for people."""
        found = self.decoded
        if found.method == "exact":
            return "the most probable architecture within the budget (exact)"
        gap = "no gap" if found.gap == 0 else f"a gap of at most {found.gap:.3g} in log-probability"
        return f"the most probable architecture within the budget (mixed-integer program, {gap})"


def resolve(made: Graphs, budget: str) -> tuple[Absolute, ...]:
    """A budget in numbers; relative limits refer to separate models as they would be emitted."""
    limits = parse_budget(budget)
    if not limits:
        return ()
    separate = made.separate_costs()
    return tuple(limit.resolve(separate) for limit in limits)


def fit(made: Graphs, policy: Policy, limits: Sequence[Absolute]) -> Fitted:
    """The most probable architecture whose emitted model keeps all limits.

    Latency is measured, so the result can differ between two runs if it is limited: the table of measured times says
    which architecture comes next, a measurement of its emitted model whether it is taken.

    Raises:
        BudgetError: There is none, or none was found; with the smallest cost that can be reached.
    """
    counted = [limit for limit in limits if limit.quantity != "latency"]
    times = [limit for limit in limits if limit.quantity == "latency"]
    if not times or not policy.table.sites:
        return _fit_counted(made, policy, counted)
    tightest = min(times, key=lambda limit: limit.bound)
    table = times_table(made)

    def decode(cap: float) -> Fitted:
        latency = dataclasses.replace(tightest, bound=cap) if math.isfinite(cap) else None
        return _fit_counted(made, policy, counted, table, latency)

    found = fit_to_measure(
        decode,
        lambda fitted: measure(made, made.as_emitted(fitted.architecture)),
        tightest,
        cost=lambda fitted: fitted.decoded.latency,
        least=lambda: fastest(policy, table),
    )
    return found.decoded


def check(made: Graphs, policy: Policy, limits: Sequence[Absolute]) -> None:
    """Refuse limits that no architecture keeps, or that a given layout does not.

    Raises:
        BudgetError: As :func:`fit`.
    """
    if made.layout is None:
        fit(made, policy, limits)
        return
    model = made.select(made.supermodel, _NO_CHOICE)
    for row in verdict(made, limits, made.finalize(model), made.costs_of(_NO_CHOICE)):
        if not row.met:
            msg = (
                f"{row.limit}: the layout has {row.quantity} of {limited(row, row.value)}, more than "
                f"{limited(row, row.bound)}; give one that shares more (onnxmtl recommend ranks those within a budget)"
            )
            raise BudgetError(msg)


def measure(made: Graphs, final: ir.Model) -> float:
    """Milliseconds of one image in ONNX Runtime on this machine."""
    spec = made.input
    image = np.zeros((1, spec.channels, spec.height, spec.width), np.float32)
    return runtime.latency(graphs.to_bytes(final), image)


def _fit_counted(
    made: Graphs,
    policy: Policy,
    limits: Sequence[Absolute],
    times: SiteTable | None = None,
    latency: Absolute | None = None,
) -> Fitted:
    """What keeps all `limits` once it is emitted, and `latency` by what `times` predicts."""
    slack = [_saved(made, policy, limit) for limit in limits]
    predicted = [] if latency is None else [latency]
    for _ in range(_ATTEMPTS):
        asked = [
            dataclasses.replace(limit, bound=limit.bound + more) for limit, more in zip(limits, slack, strict=True)
        ]
        decoded = decode_budgeted(policy, [*asked, *predicted], times=times)
        architecture = decoded.architecture.validate(policy.table)
        costs = made.costs_of(architecture)
        over = [limit.of(costs) - limit.bound for limit in limits]
        if max(over, default=0.0) <= 0:
            return Fitted(architecture, decoded, costs)
        # Just below what this architecture has on the table, by as much as its emitted graph is over.
        slack = [
            _counted_on_table(policy, architecture, limit) - math.ceil(excess) - limit.bound if excess > 0 else more
            for limit, excess, more in zip(limits, over, slack, strict=True)
        ]
    shown = ", ".join(map(str, limits))
    msg = f"{shown}: no architecture was found whose emitted model keeps it; folding adds to them, try --no-fold"
    raise BudgetError(msg)


def _saved(made: Graphs, policy: Policy, limit: Absolute) -> float:
    """What the emitted model has less than the table says; the largest over architectures that differ much."""
    table = policy.table
    tried = [argmax(policy), _everywhere(policy, 0)]
    if all("cut" in site.option_names for site in table.sites):
        tried.append(_everywhere(policy, -1))  # units without an edge are what folds away (fusion)
    found = [0.0]
    for architecture in dict.fromkeys(tried):
        found.append(_counted_on_table(policy, architecture, limit) - limit.of(made.costs_of(architecture)))
    return max(found)


def _everywhere(policy: Policy, option: int) -> Architecture:
    """The same option at all sites: the first one, or the last (-1)."""
    table = policy.table
    taken = {(s.index, t): option % len(s.option_names) for s in table.sites for t in range(len(table.tasks))}
    return Architecture.from_indices(table, taken)


def _counted_on_table(policy: Policy, architecture: Architecture, limit: Absolute) -> float:
    parameters, multiply_adds = count_architecture(policy.table, architecture, trunk=limit.trunk)
    return float(parameters if limit.quantity == "parameters" else multiply_adds)


def verdict(made: Graphs, limits: Sequence[Absolute], final: ir.Model, costs: Costs) -> tuple[BudgetResult, ...]:
    """One row per limit, counted or measured on the emitted model."""
    rows = []
    for limit in limits:
        value = _measured_again(made, limit, final) if limit.quantity == "latency" else limit.of(costs)
        name = ("trunk " if limit.trunk else "") + limit.quantity.replace("_", "-")
        rows.append(BudgetResult(str(limit), name, limit.bound, value))
    return tuple(rows)


def _measured_again(made: Graphs, limit: Absolute, final: ir.Model) -> float:
    """One measurement if it keeps the limit, else the median of three: the machine may have been busy."""
    found = [measure(made, final)]
    if not limit.allows(found[0]):
        found += [measure(made, final), measure(made, final)]
    return statistics.median(found)

"""One entry: the most probable architecture within all limits, by the method that suits the table and the limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.selected import Int64, SelectedCost, picks_of
from onnxmtl.errors import BudgetError
from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.budgeted import milp
from onnxmtl.policy.budgeted.exact import solve_exactly, solve_load
from onnxmtl.policy.budgeted.fallback import cheap_then_climb
from onnxmtl.policy.budgeted.problem import Load, Problem, amounts, make_problem, picks_to_indices
from onnxmtl.policy.policy import Policy

Method = Literal["exact", "milp"]

_PROVEN = 1e-9  # a gap below is none
_MICROSECONDS = 1e3  # of a millisecond


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The architecture found, and how good it is.

    Attributes:
        architecture: The most probable one that was found within the limits.
        log_probability: Of the architecture under the policy, natural logarithm.
        parameters: Elements of all unique trainable weights, heads included, before folding.
        multiply_adds: Executed by one run of all tasks, heads included (batch 1).
        latency: Milliseconds that the table of measured times predicts; 0 without one.
        method: ``exact``: by enumeration or dynamic programs; ``milp``: by HiGHS.
        gap: No architecture within the limits is more probable by more than this (in log-probability); 0: proven best.
        message: One line for the user.
    """

    architecture: Architecture
    log_probability: float
    parameters: int
    multiply_adds: int
    method: Method
    gap: float
    message: str
    latency: float = 0.0


def decode_budgeted(
    policy: Policy, limits: Sequence[Absolute], *, times: SiteTable | None = None, time_limit: float = 60.0
) -> Decoded:
    """The most probable architecture that keeps all `limits`.

    Equal inputs give equal results, unless the time runs out. An option that gives away more than a million of
    log-probability against the best one of its site counts as if it gave away a million.

    Args:
        policy: The distributions, with their table of sites.
        limits: All have to hold; without any, the result is the policy's argmax. Those on latency (milliseconds) are
            kept by what `times` predicts: whether the model keeps them has to be measured
            (:mod:`onnxmtl.policy.measured`).
        times: The same sites with measured microseconds in the place of multiply-adds; needed if latency is limited.
        time_limit: Seconds for HiGHS; when they are over, the best found is returned with its gap.

    Raises:
        BudgetError: No architecture keeps the limits, with the least value each quantity can take; or none was found
            in the time.
        MissingDependencyError: The problem needs scipy and it is not installed.
        ValueError: A limit on latency, and no times.
    """
    limits = [_in_microseconds(limit) for limit in limits]
    problem = make_problem(policy, limits, times)
    counter = problem.counter()
    first = problem.first
    if bool(problem.fits(counter(first[None]))[0]):
        return _decoded(problem, counter, first, "exact", 0.0, "the most probable architecture keeps the budget")
    exact = solve_exactly(problem, counter)
    if exact.impossible:
        raise BudgetError(_smallest(problem, time_limit))
    if exact.proven and exact.picks is not None:
        return _decoded(problem, counter, exact.picks, "exact", 0.0, f"proven best by {exact.how}")
    solution = milp.solve(problem, time_limit)
    if solution.picks is None and solution.lower == math.inf:
        raise BudgetError(_smallest(problem, time_limit))
    lower = max(solution.lower, exact.lower)
    found = [picks for picks in (solution.picks, exact.picks) if picks is not None]
    if not found:
        found = cheap_then_climb(problem, counter)
    if not found:
        raise BudgetError(
            f"{_listed(limits)}: no architecture that keeps the budget was found in {time_limit:g} s; "
            "give more time or a larger budget"
        )
    picks = min(found, key=problem.loss)
    gap = problem.loss(picks) - lower
    gap = 0.0 if gap <= _PROVEN * max(1.0, problem.loss(picks)) else gap
    proven = "proven best" if gap == 0 else f"no other is more probable by more than {gap:.3g} in log-probability,"
    return _decoded(problem, counter, picks, "milp", gap, f"{proven} by HiGHS")


def _decoded(
    problem: Problem, counter: SelectedCost, picks: Int64, method: Method, gap: float, message: str
) -> Decoded:
    architecture = Architecture.from_indices(problem.table, picks_to_indices(picks))
    costs = counter(picks_of(problem.table, architecture)[None])
    return Decoded(
        architecture=architecture,
        log_probability=problem.best - problem.loss(picks),
        parameters=int(costs.parameters[0]),
        multiply_adds=int(costs.multiply_adds[0]),
        method=method,
        gap=gap,
        message=message,
        latency=int(costs.latency[0]) / _MICROSECONDS,
    )


def fastest(policy: Policy, times: SiteTable, *, time_limit: float = 60.0) -> float | None:
    """The least latency, in milliseconds, that `times` predicts of any architecture; None if it is not found in time.

    Args:
        policy: With the table of sites; its probabilities do not matter.
        times: As of :func:`decode_budgeted`.
        time_limit: Seconds for HiGHS.
    """
    problem = make_problem(policy, [Absolute("latency", 0.0)], times)
    (load,) = problem.loads
    least = _least(problem, load, time_limit)
    return None if least is None else (least + load.constants[0]) / _MICROSECONDS


def _in_microseconds(limit: Absolute) -> Absolute:
    """Latency in the unit of the table of times; its text stays as the user wrote it."""
    if limit.quantity != "latency":
        return limit
    return dataclasses.replace(limit, bound=round(limit.bound * _MICROSECONDS, 6), text=str(limit))


def _listed(limits: Sequence[Absolute]) -> str:
    return ", ".join(dict.fromkeys(str(limit) for limit in limits))


def _smallest(problem: Problem, time_limit: float) -> str:
    """Why nothing fits, in one line."""
    reached, alone = [], True
    for load in problem.loads:
        least = _least(problem, load, time_limit)
        if least is None:
            continue
        alone = alone and least <= load.bound
        for limit, constant in zip(load.limits, load.constants, strict=True):
            if limit.quantity == "latency":
                can, allowed = (f"{amount / _MICROSECONDS:.3g} ms" for amount in (least + constant, limit.bound))
                reached.append(f"latency can be {can} at the least by the measured times, allowed are {allowed}")
                continue
            reached.append(
                f"{limit.name} can be {least + constant:,} at the least, allowed are {math.floor(limit.bound):,}"
            )
    why = "each limit can be kept, but not all together" if alone else "no architecture of the supermodel is that small"
    return f"{_listed(problem.limits)}: {why}; {'; '.join(reached)}"


def _least(problem: Problem, load: Load, time_limit: float) -> int | None:
    """The least that a load can be beyond its constants; None if it is not found in the time."""
    best = solve_load(problem, load)
    if best is not None:
        return best.least
    picks = milp.least(problem, load, time_limit).picks
    if picks is None:
        return None
    costs = problem.counter()(picks[None])
    return int(amounts(costs, load.limits[0])[0]) - load.constants[0]

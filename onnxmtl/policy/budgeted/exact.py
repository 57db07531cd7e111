"""The exact programs behind one door: each limit by its own program, as far as that settles the question."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from onnxmtl.cost.selected import Int64, SelectedCost, SelectedCosts
from onnxmtl.policy.budgeted.chains import chain_circuit, is_grouped_chain
from onnxmtl.policy.budgeted.circuit import Best, Circuit, TooLargeError, Way, solve
from onnxmtl.policy.budgeted.executions import NotStructuredError, execution_circuit
from onnxmtl.policy.budgeted.parameters import parameter_circuit
from onnxmtl.policy.budgeted.problem import Load, Problem, amounts


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """What the exact programs say.

    Attributes:
        picks: Options [sites, tasks] that keep all limits, the best known; None if none is.
        proven: Whether nothing that keeps the limits is better.
        lower: Nothing that keeps the limits gives away less log-probability.
        how: The program that found it.
        impossible: Whether some limit cannot be kept at all.
    """

    picks: Int64 | None
    proven: bool
    lower: float
    how: str
    impossible: bool = False


def solve_exactly(problem: Problem, counter: SelectedCost) -> Exact:
    """Solve for each limit alone. One solution that keeps all limits is the best for all; else it is a bound."""
    picks, lower, how = None, 0.0, ""
    for load in problem.loads:
        found = solve_load(problem, load)
        if found is None:
            continue
        if found.way is None:
            return Exact(None, False, math.inf, "", impossible=True)
        drawn = _picks(problem, found.way)
        if drawn is None or not _as_counted(problem, load, found.way, counter(drawn[None])):
            continue
        lower = max(lower, found.lower)
        if not bool(problem.fits(counter(drawn[None]))[0]):
            continue
        if picks is None or problem.loss(drawn) < problem.loss(picks):
            picks, how = drawn, "a program over subsets of tasks" if load.joint else "a knapsack over the sites"
    proven = picks is not None and problem.loss(picks) <= lower + 1e-11 * max(1.0, lower)
    return Exact(picks, proven, lower, how)


def solve_load(problem: Problem, load: Load) -> Best | None:
    """The best for one limit; None if its program does not suit the table."""
    try:
        circuit, root = _circuit(problem, load)
    except (NotStructuredError, TooLargeError):
        return None
    return solve(circuit, root, load.bound)


def _circuit(problem: Problem, load: Load) -> tuple[Circuit, int]:
    if is_grouped_chain(problem, load):
        return chain_circuit(problem, load)
    if load.limits[0].quantity != "parameters":
        return execution_circuit(problem, load)
    if not load.joint:
        return parameter_circuit(problem, load)
    if load.weights:  # some weights are of groups, others not: neither program has both
        raise NotStructuredError
    return execution_circuit(problem, load)


def _as_counted(problem: Problem, load: Load, way: Way, costs: SelectedCosts) -> bool:
    """Whether the table counts what the program did; if not, it has another structure than was read from it.

    A weight that is allowed and paid for need not be used, and groups of a chain that take the same are one group, so
    it may be less.
    """
    counted = int(amounts(costs, load.limits[0])[0]) - load.constants[0]
    less = not load.joint or is_grouped_chain(problem, load)
    return counted <= way.cost if less else counted == way.cost


def _picks(problem: Problem, way: Way) -> Int64 | None:
    """The options of a solution; None if they are not one for each site and task (a table without structure)."""
    picks = np.full((len(problem.table.sites), len(problem.table.tasks)), -1, np.int64)
    uses = [use for label in way.labels for use in label]
    for use in uses:
        picks[use.site, use.task] = use.option
    places = sum(len(problem.tasks_at(site.index)) for site in problem.table.sites)
    return picks if len(uses) == places == int((picks >= 0).sum()) else None

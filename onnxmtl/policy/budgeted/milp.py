"""Any table, any limits: a mixed-integer linear program, solved by HiGHS through scipy.

Per (task, site, option) a binary y. For a pair of tasks s < t and an option o of a site, b ≤ y_s, y_t says that both
take it; agreement a ≤ Σ b over the options that keep tasks equal; agreement above a node is e ≤ e of what lies above
before, a of every site added. A joint node is executed by representatives, as in facility location: x_st says that s
executes it for t, with

    Σ_{s≤t} x_st = y_t,    x_st ≤ x_ss,    x_st ≤ e_st    and the cost Σ_s c·x_ss

Agreement is transitive once y is whole, so then the least Σ x_ss is the number of classes of tasks, and only y has to
be binary. (Stronger in its relaxation than counting pairs, with as many variables.) A weight needed by several uses
costs w ≥ y of each. The objective gives away as little log-probability as possible.

HiGHS keeps rows to 1e-6 and stops 1e-6 below its bound, so the objective is scaled up, a bound is put half a unit
above its whole number, and every answer is counted anew on the table: one that does not fit is forbidden and the
program solved again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from onnxmtl.cost.selected import Int64
from onnxmtl.errors import MissingDependencyError
from onnxmtl.policy.budgeted.problem import Load, Problem, Use

_INSTALL = "budgets on this supermodel need scipy; install it: pip install 'onnxmtl[train]'"
_SCALE = 1e4  # of the objective
_ROW = 1e3  # rows of limits are scaled to this bound


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """What the program found.

    Attributes:
        picks: Options [sites, tasks]; None if none was found in the time.
        lower: Nothing that fits gives away less log-probability (or costs less, for :func:`least`); infinite if
            nothing fits.
    """

    picks: Int64 | None
    lower: float


def solve(problem: Problem, time_limit: float) -> Solution:
    """The architecture that gives away the least log-probability within all limits."""
    program = Program(problem)
    for load in problem.loads:
        program.limit(load)
    counter = problem.counter()
    end = time.monotonic() + time_limit
    while True:
        found = program.minimize(program.losses, max(end - time.monotonic(), 0.0), _SCALE)
        if found.picks is None or bool(problem.fits(counter(found.picks[None]))[0]):
            return found
        program.forbid(found.picks)


def least(problem: Problem, load: Load, time_limit: float) -> Solution:
    """The architecture with the least of one limited quantity, whatever its probability and the limits."""
    program = Program(problem)
    costs = program.cost_of(load)
    scale = _ROW / max(costs.values(), default=1.0)
    return program.minimize(costs, time_limit, scale)


class Program:
    """Variables and rows of one problem; columns are numbered as they come."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.binary: list[bool] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.y: dict[Use, int] = {}
        self.losses: dict[int, float] = {}
        self._both: dict[tuple[int, int, int, int], int] = {}
        self._agree: dict[tuple[int, tuple[int, ...], int, int], int] = {}
        self._above: dict[tuple[int, int, int], int | None] = {}
        for site in problem.table.sites:
            for task in problem.tasks_at(site.index):
                columns = []
                for option in range(len(site.options)):
                    column = self._variable(binary=True)
                    self.y[Use(task, site.index, option)] = column
                    self.losses[column] = float(problem.losses[site.index][task, option])
                    columns.append(column)
                self.rows.append((dict.fromkeys(columns, 1.0), 1.0, 1.0))

    def limit(self, load: Load) -> None:
        """Add the row of a limit."""
        unit = load.unit
        top = (math.floor(load.bound / unit) + 0.5) * unit
        costs = self.cost_of(load)
        scale = _ROW / max(abs(top), 1.0)
        self.rows.append(({column: cost * scale for column, cost in costs.items()}, -math.inf, top * scale))

    def forbid(self, picks: Int64) -> None:
        """Rule one architecture out."""
        columns = [self.y[Use(task, site, int(o))] for (site, task), o in np.ndenumerate(picks) if o >= 0]
        self.rows.append((dict.fromkeys(columns, 1.0), -math.inf, len(columns) - 1.0))

    def cost_of(self, load: Load) -> dict[int, float]:
        """Columns and what each adds to a load, beyond its constant."""
        costs: dict[int, float] = {}

        def add(column: int, cost: int) -> None:
            costs[column] = costs.get(column, 0.0) + cost

        for use, cost in load.single.items():
            add(self.y[use], cost)
        for size, uses in load.weights:
            needed = self._variable()
            for use in uses:
                self._at_most(self.y[use], needed)
            add(needed, size)
        for item in load.joint:
            executing: dict[int, int] = {}
            for i, t in enumerate(item.tasks):
                executing[t] = self._variable()
                row = {executing[t]: 1.0}
                for s in item.tasks[:i]:
                    serves = self._variable()
                    self._at_most(serves, executing[s])
                    above = self._agree_above(item.above, s, t)
                    if above is not None:
                        self._at_most(serves, above)
                    row[serves] = 1.0
                if item.site >= 0:
                    row[self.y[Use(t, item.site, item.option)]] = -1.0
                self.rows.append((row, *((0.0, 0.0) if item.site >= 0 else (1.0, 1.0))))
                add(executing[t], item.cost)
        return costs

    def minimize(self, costs: dict[int, float], time_limit: float, scale: float) -> Solution:
        """Solve with the objective `costs` times `scale`; the bound of the solution is without the scale.

        Raises:
            MissingDependencyError: scipy is not installed.
        """
        try:
            from scipy.optimize import Bounds, LinearConstraint, milp
            from scipy.sparse import coo_array
        except ImportError as error:
            raise MissingDependencyError(_INSTALL) from error
        size = len(self.binary)
        objective = np.zeros(size)
        objective[list(costs)] = list(costs.values())
        entries = [(i, column, value) for i, (row, _, _) in enumerate(self.rows) for column, value in row.items()]
        where, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_array((values, (where, columns)), shape=(len(self.rows), size)).tocsr()
        lower, upper = (np.array([row[k] for row in self.rows]) for k in (1, 2))
        with _silent():
            result: Any = milp(
                objective * scale,
                integrality=np.array(self.binary, dtype=np.int64),
                bounds=Bounds(0.0, 1.0),
                constraints=LinearConstraint(matrix, lower, upper),
                options={"time_limit": time_limit, "mip_rel_gap": 0.0},
            )
        if result.status == 2:  # infeasible
            return Solution(None, math.inf)
        bound = result.mip_dual_bound
        known = -math.inf if bound is None or not math.isfinite(bound) else float(bound) / scale
        return Solution(None if result.x is None else self._picks(result.x), known)

    def _picks(self, x: np.ndarray[Any, Any]) -> Int64:
        picks = np.full((len(self.problem.table.sites), len(self.problem.table.tasks)), -1, np.int64)
        most: dict[tuple[int, int], float] = {}
        for use, column in self.y.items():
            place = (use.site, use.task)
            if x[column] > most.get(place, -1.0):
                most[place] = float(x[column])
                picks[place] = use.option
        return picks

    # -- variables -------------------------------------------------------------------------------------------------

    def _variable(self, *, binary: bool = False) -> int:
        self.binary.append(binary)
        return len(self.binary) - 1

    def _at_most(self, column: int, other: int) -> None:
        self.rows.append(({column: 1.0, other: -1.0}, -math.inf, 0.0))

    def _minimum(self, columns: Iterable[int]) -> int | None:
        """A variable that is at most each of `columns`; None for no columns, that is, 1."""
        columns = list(dict.fromkeys(columns))
        if len(columns) <= 1:
            return columns[0] if columns else None
        least_of = self._variable()
        for column in columns:
            self._at_most(least_of, column)
        return least_of

    def _agree_above(self, part: int, s: int, t: int) -> int | None:
        """Whether two tasks hold the same value after a part of what lies above; None: always."""
        missing = []
        current: int | None = part
        while current is not None and (current, s, t) not in self._above:
            missing.append(current)
            current = self.problem.parts[current][0]
        for number in reversed(missing):
            base, added = self.problem.parts[number]
            factors = [self._agree_at(site, options, s, t) for site, options in added]
            before = None if base is None else self._above[base, s, t]
            self._above[number, s, t] = self._minimum(([] if before is None else [before]) + factors)
        return self._above[part, s, t]

    def _agree_at(self, site: int, options: tuple[int, ...], s: int, t: int) -> int:
        """Whether two tasks take the same one of `options` at a site."""
        key = (site, options, s, t)
        if key not in self._agree:
            both = [self._both_take(site, option, s, t) for option in options]
            if len(both) == 1:
                self._agree[key] = both[0]
            else:
                self._agree[key] = self._variable()
                self.rows.append(({self._agree[key]: 1.0, **dict.fromkeys(both, -1.0)}, -math.inf, 0.0))
        return self._agree[key]

    def _both_take(self, site: int, option: int, s: int, t: int) -> int:
        key = (site, option, s, t)
        if key not in self._both:
            column = self._both[key] = self._variable()
            self._at_most(column, self.y[Use(s, site, option)])
            self._at_most(column, self.y[Use(t, site, option)])
        return self._both[key]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what HiGHS prints of its own accord, past Python, into the process's standard output."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the process has none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

"""How long budgeted decoding takes: the exact programs against HiGHS, on networks as deep as published ones.

Per network, number of tasks and budget (a share of separate models): seconds of the exact program and of HiGHS, their
ratio, and by how much the results differ in log-probability (0: both are the best; else HiGHS ran out of time).
Run: python tests/benchmarks/bench_budget.py [tasks, 3] [seconds for HiGHS, 60]
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from helpers import backbones

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.selected import SelectedCost, picks_of
from onnxmtl.passes.spaces import space
from onnxmtl.policy import Architecture, Policy
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.budgeted import exact, milp
from onnxmtl.policy.budgeted.problem import make_problem

NETWORKS = (
    ("resnet34", "vcn"),
    ("mobilenet_v2", "vcn"),
    ("inception", "vcn"),
    ("resnet34", "select_or_skip"),
)


def policy_for_own(table: SiteTable) -> Policy:
    """Random, and in favour of what is dear: so that budgets bind."""
    rng, dear = np.random.default_rng(0), {"shared": 0.0, "own": 1.5, "skip": -1.0, "select": 1.0}
    bias = [np.array([dear[name] for name in site.option_names]) for site in table.sites]
    return Policy(table, tuple(b + rng.normal(0, 0.7, (len(table.tasks), len(b))) for b in bias))


def main(tasks: int, time_limit: float) -> None:
    """Print the table."""
    print(f"{'network':>14} {'space':>15} {'budget':>20} {'exact s':>8} {'HiGHS s':>8} {'ratio':>7} {'worse by':>9}")
    for network, name in NETWORKS:
        model = getattr(backbones, network)(tasks)
        space(name)(model)
        table = site_table(model)
        dearest = Architecture.uniform(table, "own" if name == "vcn" else "select")
        separate: Any = SelectedCost(table)(picks_of(table, dearest)[None])
        for quantity in ("parameters", "multiply_adds"):
            for share in (0.8, 0.6, 0.4):
                bound = share * float(getattr(separate, quantity)[0])
                problem = make_problem(policy_for_own(table), [Absolute(quantity, bound)])
                start = time.perf_counter()
                mine = exact.solve_exactly(problem, SelectedCost(table))
                middle = time.perf_counter()
                theirs = milp.solve(problem, time_limit)
                end = time.perf_counter()
                known = mine.picks is not None and mine.proven and theirs.picks is not None
                worse = problem.loss(theirs.picks) - problem.loss(mine.picks) if known else math.nan
                print(
                    f"{network:>14} {name:>15} {quantity + f'<={share}x':>20} {middle - start:8.2f} "
                    f"{end - middle:8.2f} {(end - middle) / (middle - start):7.1f} {worse:9.2g}",
                    flush=True,
                )


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 3, float(given[1]) if len(given) > 1 else 60.0)

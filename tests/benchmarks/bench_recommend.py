"""How long the best layouts take: the exact program for 8 and 10 tasks on 16 blocks, where enumeration never ends.

Per problem: how many layouts there are, seconds for the ten best under a budget (a share of separate networks), for
each kind of table; the greedy decoder's seconds, and by how much of the range it is worse. Then the Pareto front. At
the end the most memory that was in use.
Kinds of tables: random (no order in them), falling (the more is shared, the worse: the budget trades against score
everywhere), dear (what sharing costs in score is what it saves, up to noise: hardly any layout is worse than another).
Run: python tests/benchmarks/bench_recommend.py [front of 8 tasks too: yes or no, yes]
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import numpy as np

from onnxmtl.policy.layout import count_layouts
from onnxmtl.recommend import program
from onnxmtl.recommend.greedy import greedy

PROBLEMS = ((5, 16), (8, 16), (10, 16))
SHARES = (0.3, 0.5, 0.8)


def table(kind: str, tasks: int, blocks: int, costs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scores of pairs, [T, T, B + 1]."""
    rng = np.random.default_rng(0)
    shape = (tasks, tasks, blocks + 1)
    if kind == "random":
        return rng.normal(size=shape)
    if kind == "falling":
        return -np.cumsum(rng.random(shape), axis=2)
    return -np.broadcast_to(np.r_[0, np.cumsum(costs)], shape) + 1e-3 * rng.normal(size=shape)


def megabytes() -> float:
    """The most memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main(fronts: bool) -> None:
    """Print the table."""
    print("tasks blocks   layouts    table budget top 10 s greedy s  worse")
    for tasks, blocks in PROBLEMS:
        costs = np.random.default_rng(1).random(blocks) + 0.1
        for kind in ("random", "falling", "dear"):
            scores = table(kind, tasks, blocks, costs)
            span = program.best(scores, costs)[0].score + program.best(-scores, costs)[0].score
            for share in SHARES:
                budget = share * tasks * float(costs.sum())
                start = time.perf_counter()
                found = program.best(scores, costs, 10, budget)
                middle = time.perf_counter()
                split = greedy(scores, costs, budget)
                end = time.perf_counter()
                assert len(found) == 10 and found[0].cost <= budget * (1 + 1e-9)
                print(
                    f"{tasks:5} {blocks:6} {float(count_layouts(tasks, blocks)):9.1e} {kind:>8} {share:5.1f}x "
                    f"{middle - start:8.2f} {end - middle:8.2f} {(found[0].score - split.score) / span:6.1%}",
                    flush=True,
                )
    for tasks, blocks in PROBLEMS[: 2 if fronts else 1]:
        costs = np.random.default_rng(1).random(blocks) + 0.1
        start = time.perf_counter()
        front = program.front(table("falling", tasks, blocks, costs), costs)
        print(f"front of {tasks} tasks, {blocks} blocks: {len(front)} layouts, {time.perf_counter() - start:.2f} s")
    print(f"memory: {megabytes():.0f} MB at most")


if __name__ == "__main__":
    main(sys.argv[1:2] != ["no"])

"""What blocks take on this machine: a table that explains measurements of some whole models.

A block cut out and timed alone tells little. So a few models are measured in turns, all shared, separate and random
ones, and the times of the parts of blocks are moved from multiply-adds to what explains those
(:mod:`onnxmtl.policy.latency`). ``tests/benchmarks/bench_latency_table.py`` shows how well layouts are predicted that
were not among them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np

from onnxmtl.policy.enumeration import count_layouts
from onnxmtl.policy.latency import CALIBRATING, calibrated
from onnxmtl.policy.layout import Layout
from onnxmtl.policy.parts import Part
from onnxmtl.workflows.recommending.costs import CostTable, Emission


def with_latency(table: CostTable, emission: Emission) -> CostTable:
    """Add the milliseconds of each part of a block, from :data:`~onnxmtl.policy.latency.CALIBRATING` models.

    Raises:
        BudgetError: Heads are not known.
    """
    emission.require_heads("latency")
    layouts = calibrating(table.tasks, len(emission.blocks))
    return explaining(table, layouts, emission.latencies(layouts))


def explaining(table: CostTable, layouts: Sequence[Layout], measured: Sequence[float]) -> CostTable:
    """The table with the latency that explains what these layouts took, in milliseconds."""
    *times, base = calibrated(
        [*table.copies["multiply_adds_trunk"], sum(table.heads["multiply_adds"])],
        copies(table.parts, layouts),
        measured,
    ).tolist()
    return dataclasses.replace(
        table,
        copies={**table.copies, "latency": tuple(times)},
        base={**table.base, "latency": base},
    )


def calibrating(tasks: Sequence[str], depth: int, count: int = CALIBRATING) -> list[Layout]:
    """All shared, all separate, and layouts drawn at random (the same ones every time); none twice."""
    total = count_layouts(len(tasks), depth)
    drawn = random.Random(0)
    found = [Layout.shared(tasks, depth), Layout.separate(tasks, depth)]
    found += [Layout.from_id(tasks, depth, drawn.randrange(total)) for _ in range(4 * count)]
    return list(dict.fromkeys(found))[:count]


def copies(parts: Sequence[Part], layouts: Sequence[Layout]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How many copies of each part a layout has, and one of what is there always; [layouts, parts + 1]."""
    unit = np.eye(len(parts)).tolist()
    return np.array([[*(layout.cost(row, parts=parts) for row in unit), 1.0] for layout in layouts], np.float64)

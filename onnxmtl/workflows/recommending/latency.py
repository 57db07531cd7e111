"""What blocks take on this machine: a table from measurements of whole models.

A block cut out and timed alone tells little. So models are measured in which one task leaves the others at each block
in turn; the difference between neighbours is what a second copy of a block takes. The third copy need not take what the
second one does, nor do errors of neighbours add up to nothing. So some other layouts are measured too, and the table is
moved, as little as it has to be, to what explains all of them: with a_L the copies that a layout L has of each part,
m_L its milliseconds and t₀ the first table,

    t = argmin_{t ≥ 0} Σ_L ((a_L·t − m_L) / m_L)² + λ Σ_j ((t_j − t₀_j) / s)²,     s the mean of t₀ over the blocks.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np

from onnxmtl.policy.enumeration import count_layouts
from onnxmtl.policy.latency import not_rising
from onnxmtl.policy.layout import Layout
from onnxmtl.policy.parts import Part
from onnxmtl.workflows.recommending.costs import CostTable, Emission

_CALIBRATING = 8  # layouts, one of them separate models
_TRUST = 1e-3  # λ: a table off by its mean weighs as much as one layout off by 3 %


def with_latency(table: CostTable, emission: Emission) -> CostTable:
    """Add the milliseconds of each block: all models are measured in turns, then the table is calibrated by them.

    The task that leaves is the one whose trunk is the largest; what it and another one need of a block takes time in
    the ratio of multiply-adds.

    Raises:
        BudgetError: Heads are not known.
    """
    emission.require_heads("latency")
    depth, count = len(emission.blocks), len(table.tasks)
    work = table.copies["multiply_adds_trunk"]
    own = [sum(amount for amount, part in zip(work, table.parts, strict=True) if t in part.tasks) for t in range(count)]
    leaving = own.index(max(own))
    others = tuple(task for task in range(count) if task != leaving)
    groups = ((leaving,), others) if others else ((leaving,),)
    everyone = (tuple(range(count)),)
    chain = [
        Layout(table.tasks, tuple(everyone if b < point else groups for b in range(depth)))
        for point in range(depth + 1)
    ]
    layouts = [*chain, *calibrating(table.tasks, depth, chain)]
    measured = emission.latencies(layouts)
    falling = not_rising(measured[: len(chain)])
    copied = [leaving in part.tasks and (len(part.tasks) > 1 or count == 1) for part in table.parts]
    times = [0.0] * len(table.parts)
    for block in range(depth):
        places = [i for i, part in enumerate(table.parts) if part.block == block and copied[i]]
        total = sum(work[i] for i in places)
        for i in places:
            share = work[i] / total if total else 1 / len(places)
            times[i] = share * (falling[block] - falling[block + 1])
    base = max(0.0, falling[-1] - sum(times))
    times, base = calibrated(times, base, table.parts, layouts, measured)
    return dataclasses.replace(
        table,
        copies={**table.copies, "latency": tuple(times)},
        base={**table.base, "latency": base},
    )


def calibrating(tasks: Sequence[str], depth: int, known: Sequence[Layout]) -> list[Layout]:
    """Separate models, and layouts drawn at random (the same ones every time); none twice, none that is `known`."""
    total = count_layouts(len(tasks), depth)
    drawn = random.Random(0)
    found = [Layout.separate(tasks, depth)]
    found += [Layout.from_id(tasks, depth, drawn.randrange(total)) for _ in range(4 * _CALIBRATING)]
    left = [layout for layout in dict.fromkeys(found) if layout not in known]
    return left[:_CALIBRATING]


def calibrated(
    times: Sequence[float], base: float, parts: Sequence[Part], layouts: Sequence[Layout], measured: Sequence[float]
) -> tuple[list[float], float]:
    """The table that explains the measurements best, see the module.

    Args:
        times: Milliseconds of a copy of each part.
        base: What is there always.
        parts: Which tasks need which part of a block.
        layouts: What was measured.
        measured: Milliseconds of each.
    """
    from scipy.optimize import lsq_linear

    before = np.array([*times, base])
    unit = np.eye(len(parts))
    rows_of = [[layout.cost(row.tolist(), parts=parts) for row in unit] for layout in layouts]
    copies = np.array([[*row, 1.0] for row in rows_of], np.float64)
    weights = 1 / np.maximum(np.array(measured), 1e-9)
    scale = float(np.mean(times)) if len(times) else 0.0
    if scale <= 0:
        return list(times), base
    # In units of `scale`, and from `before` on: where that explains everything, nothing moves.
    rows = np.vstack([copies * weights[:, None] * scale, np.sqrt(_TRUST) * np.eye(len(before))])
    wanted = np.concatenate([(np.array(measured) - copies @ before) * weights, np.zeros(len(before))])
    moved = lsq_linear(rows, wanted, bounds=(-before / scale - 1e-12, np.inf)).x
    found = np.maximum(0.0, before + scale * moved)
    return found[:-1].tolist(), float(found[-1])

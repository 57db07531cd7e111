"""How well the latency of a layout is predicted from the table of blocks that `onnxmtl recommend` measures.

ResNet-18, ResNet-34 and MobileNetV2 (untrained), three tasks, up to 8 blocks. The table is measured and calibrated;
then 20 random layouts that it was not made from are measured, in turns, and compared with the sums over the table.
Printed: the share within ±10 %, the median and the largest error; the same without the calibration, and of
multiply-adds alone (scaled to fit the all-shared model). On a busy machine measure processor time.
Run: python tests/benchmarks/bench_latency_table.py [image size, 128] [passed|worked, passed] [threads, 1]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from bench_deploy import NETWORKS, TASKS

from onnxmtl.analysis.blocks import blocks
from onnxmtl.policy.enumeration import count_layouts
from onnxmtl.policy.layout import Layout
from onnxmtl.workflows import load
from onnxmtl.workflows.recommending import latency
from onnxmtl.workflows.recommending.costs import CostTable, Emission, cost_table

BLOCKS, LAYOUTS = 8, 20


class Clock(Emission):
    """Measures as it is told, not as a user's machine would be."""

    worked = False
    threads = 1

    def latencies(self, layouts, *, worked=False, threads=None):
        return super().latencies(layouts, worked=self.worked, threads=self.threads)


def without_calibration(table: CostTable, emission: Emission) -> CostTable:
    """The table of the chain alone."""
    before = latency.calibrating
    latency.calibrating = lambda *_: []
    try:
        return latency.with_latency(table, emission)
    finally:
        latency.calibrating = before


def line(name: str, predicted: list[float], measured: list[float]) -> str:
    """One row."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    return (
        f"  {name:<24} within ±10 %: {np.mean(errors <= 0.1):4.0%}   median {np.median(errors):6.1%}   "
        f"largest {errors.max():6.1%}"
    )


def main(size: int, worked: bool, threads: int) -> None:
    """Print a table per network."""
    for name, build in NETWORKS.items():
        backbone = load(build(size), guard=False)
        emission = Clock(backbone, blocks(backbone.graph, groups=BLOCKS), TASKS)
        emission.worked, emission.threads = worked, threads
        table, depth = cost_table(emission), len(emission.blocks)
        chain = without_calibration(table, emission)
        found = latency.with_latency(table, emission)
        known = set(latency.calibrating(table.tasks, depth, []))
        drawn, total, layouts = random.Random(1), count_layouts(len(table.tasks), depth), []
        while len(layouts) < LAYOUTS:
            layout = Layout.from_id(table.tasks, depth, drawn.randrange(total))
            if layout not in known and layout not in layouts:
                layouts.append(layout)
        shared = Layout.shared(table.tasks, depth)
        first, *measured = emission.latencies([shared, *layouts])
        rate = first / found.of(shared, "multiply_adds")
        print(f"{name}, {size}×{size}, {depth} blocks, {first:.1f} to {max(measured):.1f} ms")
        print(line("calibrated table", [found.of(one, "latency") for one in layouts], measured))
        print(line("without calibration", [chain.of(one, "latency") for one in layouts], measured))
        print(line("multiply-adds", [rate * found.of(one, "multiply_adds") for one in layouts], measured), flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        int(given[0]) if given else 128,
        len(given) > 1 and given[1] == "worked",
        int(given[2]) if len(given) > 2 else 1,
    )

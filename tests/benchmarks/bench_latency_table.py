"""How well latencies are predicted from the tables that are added up by the search, the decoder and the recommender.

Trees: ResNet-18, ResNet-34 and MobileNetV2 (untrained), three tasks, up to 8 blocks. `onnxmtl recommend` makes its
table from 9 models; then 20 random layouts that were not among them are measured, in turns, and compared with the sums.
Layers: the same for the table that `onnxmtl compile` makes of AutoMTL's space, and 20 random architectures.

Printed: the share within ±10 %, the median and the largest error, by the clock and in processor time (which other work
on the machine disturbs less); beside it multiply-adds alone, scaled to fit the first model (all shared).
Run: python tests/benchmarks/bench_latency_table.py [network, all] [image size, 128] [threads, 1] [trees|layers, both]
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from bench_deploy import NETWORKS, TASKS

from onnxmtl import ir as graphs
from onnxmtl.analysis.blocks import blocks
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.selected import count_architecture
from onnxmtl.data import InputSpec
from onnxmtl.deploy.bench.together import passed_and_worked
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import space
from onnxmtl.policy.enumeration import count_layouts
from onnxmtl.policy.latency import calibrating as of_layers
from onnxmtl.policy.layout import Layout
from onnxmtl.workflows import CompileConfig, load
from onnxmtl.workflows.phases import times
from onnxmtl.workflows.phases.job import Graphs
from onnxmtl.workflows.recommending.costs import Emission, cost_table
from onnxmtl.workflows.recommending.latency import calibrating, explaining

BLOCKS, COUNT = 8, 20
CLOCKS = ("by the clock", "processor time")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of models of one backbone that the table was not made from.

    Attributes:
        network: Name of the backbone.
        of: What was predicted, and by what.
        clock: One of :data:`CLOCKS`.
        predicted: Milliseconds per model.
        measured: Likewise.
    """

    network: str
    of: str
    clock: str
    predicted: Sequence[float]
    measured: Sequence[float]

    @property
    def errors(self) -> np.ndarray:
        """Relative, without sign."""
        return np.abs(np.array(self.predicted) / np.array(self.measured) - 1)

    @property
    def within(self) -> float:
        """The share of models within ±10 %."""
        return float(np.mean(self.errors <= 0.1))

    def __str__(self) -> str:
        errors, low, high = self.errors, min(self.measured), max(self.measured)
        worst = self.measured[int(errors.argmax())]
        return (
            f"{self.network:<12} {self.of:<28} {self.clock:<15} within ±10 %: {self.within:4.0%}   median "
            f"{np.median(errors):5.1%}   largest {errors.max():6.1%} of {worst:.1f} ms   ({low:.1f} to {high:.1f} ms)"
        )


def trees(name: str, size: int, threads: int, count: int = COUNT) -> Iterator[Prediction]:
    """Random layouts, by the table of the recommender and by multiply-adds."""
    backbone = load(NETWORKS[name](size), guard=False)
    emission = Emission(backbone, blocks(backbone.graph, groups=BLOCKS), TASKS)
    table, depth = cost_table(emission), len(emission.blocks)
    known = calibrating(table.tasks, depth)
    seen = emission.timings(known, threads=threads)
    drawn, total, layouts = random.Random(1), count_layouts(len(table.tasks), depth), []
    while len(layouts) < min(count, total - len(known)):
        layout = Layout.from_id(table.tasks, depth, drawn.randrange(total))
        if layout not in known and layout not in layouts:
            layouts.append(layout)
    found = emission.timings([known[0], *layouts], threads=threads)
    for which, clock in enumerate(CLOCKS):
        timed = explaining(table, known, seen[which])
        rate = seen[which][0] / table.of(known[0], "multiply_adds")
        for of, predicted in (
            ("trees, table", [timed.of(one, "latency") for one in layouts]),
            ("trees, multiply-adds", [rate * table.of(one, "multiply_adds") for one in layouts]),
        ):
            yield Prediction(name, of, clock, predicted, found[which][1:])


def layers(name: str, size: int, threads: int, count: int = COUNT) -> Iterator[Prediction]:
    """Random architectures of AutoMTL's space, by the table of the search and the decoder, and by multiply-adds."""
    backbone = load(NETWORKS[name](size), guard=False)
    heads = Pipeline([AttachHeads(TASKS, 0)], name="heads")(graphs.clone(backbone)).model
    model = Pipeline([space("vcn")], name="space")(graphs.clone(heads)).model
    made = Graphs(backbone, heads, model, TASKS, InputSpec(3, size, size), CompileConfig(), ())
    plain = site_table(model)
    known, others = of_layers(plain), of_layers(plain, 4 * count, seed=1)
    architectures = [one for one in others[2:] if one not in known][:count]
    image = np.zeros((1, 3, size, size), np.float32)
    for which, clock in enumerate(CLOCKS):
        made.clock.clear()
        with _clock(which, threads):
            table = times.times_table(made)
        models = [functools.partial(_emitted, made, one) for one in (known[0], *architectures)]
        measured = passed_and_worked(models, image, seconds=0.3, rounds=10, threads=threads)[which]
        rate = made.clock[0].measured[0] / 1e3 / count_architecture(plain, known[0])[1]
        for of, predicted in (
            ("layers, table", [count_architecture(table, one)[1] / 1e3 for one in architectures]),
            ("layers, multiply-adds", [rate * count_architecture(plain, one)[1] for one in architectures]),
        ):
            yield Prediction(name, of, clock, predicted, measured[1:])


@contextlib.contextmanager
def _clock(which: int, threads: int) -> Iterator[None]:
    """Inside, a run's table is made as ever, but by this clock, and not moved to what a model takes that runs alone."""
    before = times.latencies, times._by_the_users_clock
    times.latencies = lambda *models, **options: passed_and_worked(*models, threads=threads, **options)[which]
    times._by_the_users_clock = lambda models, measured, image: list(measured)
    try:
        yield
    finally:
        times.latencies, times._by_the_users_clock = before


def _emitted(made: Graphs, architecture) -> bytes:
    return graphs.to_bytes(made.as_emitted(architecture))


def main(networks: Sequence[str], size: int, threads: int, of: str) -> None:
    """Print a line per network, kind of prediction and clock."""
    print(f"{size}×{size}, {threads} thread(s), 3 tasks, {COUNT} models each that the table was not made from")
    for name in networks:
        begin = time.perf_counter()
        for kind in (trees, layers):
            if of in ("both", kind.__name__):
                for row in kind(name, size, threads):
                    print(row, flush=True)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        list(NETWORKS) if not given or given[0] == "all" else [given[0]],
        int(given[1]) if len(given) > 1 else 128,
        int(given[2]) if len(given) > 2 else 1,
        given[3] if len(given) > 3 else "both",
    )

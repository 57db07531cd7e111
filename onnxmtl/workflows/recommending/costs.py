"""What layouts cost, counted on graphs as they are emitted: per block and per head, so that a layout's cost is a sum.

Blocks are counted on the emitted graph of the all-shared model: normalizations are folded there, so a table of
parameters is the one that a budget is kept by. Every layout that is recommended is counted once more on its own graph.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl import ops, runtime
from onnxmtl.analysis.blocks import Block
from onnxmtl.cost.count import Costs, count, elements, trainable
from onnxmtl.errors import BudgetError
from onnxmtl.ir import head_of, sources
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import DedupInitializers, DropTrainingOnly, FoldBatchNorm, RemoveUnused
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces.tree import Tree
from onnxmtl.policy.latency import not_rising
from onnxmtl.policy.layout import Group, Layout

COUNTED = ("multiply_adds", "parameters", "multiply_adds_trunk", "parameters_trunk")
Probability = Callable[[Group], float]


@dataclasses.dataclass(frozen=True)
class CostTable:
    """What blocks and heads cost.

    Attributes:
        tasks: Names of the tasks.
        blocks: Quantity -> cost of one copy of each block; ``models`` counts 1 in the first block.
        heads: Quantity -> cost of each task's head; zeros without known heads and for the trunk.
        base: Quantity -> what is there once whatever the layout (of latencies: what no block explains).
        heads_known: Whether heads are counted; if not, only the trunk is.
    """

    tasks: tuple[str, ...]
    blocks: Mapping[str, tuple[float, ...]]
    heads: Mapping[str, tuple[float, ...]]
    base: Mapping[str, float] = dataclasses.field(default_factory=dict)
    heads_known: bool = True

    def of(self, layout: Layout, quantity: str, probability: Probability | None = None) -> float:
        """What a layout has of a quantity; with `probability`, what it is expected to take per request."""
        chance = probability or (lambda group: 1.0)
        heads = sum(cost * chance((task,)) for task, cost in enumerate(self._heads(quantity)))
        return layout.cost(self.blocks[quantity], chance) + heads + self.base.get(quantity, 0.0)

    def fixed(self, quantity: str, probability: Probability | None = None) -> float:
        """The part of :meth:`of` that is the same for all layouts."""
        chance = probability or (lambda group: 1.0)
        heads = sum(cost * chance((task,)) for task, cost in enumerate(self._heads(quantity)))
        return heads + self.base.get(quantity, 0.0)

    def separate(self, quantity: str) -> float:
        """What one model per task costs, all together."""
        return self.of(Layout.separate(self.tasks, len(self.blocks[quantity])), quantity)

    def all_of(self, layout: Layout) -> dict[str, float]:
        """Every known quantity of a layout."""
        return {quantity: self.of(layout, quantity) for quantity in self.blocks}

    def _heads(self, quantity: str) -> Sequence[float]:
        return self.heads.get(quantity) or (0.0,) * len(self.tasks)


class Emission:
    """The models of layouts as they would be emitted, without training anything.

    Args:
        backbone: The normalized backbone.
        blocks: Of the backbone.
        tasks: The tasks.
        seed: Of the heads' weights.
        fold: Whether BatchNormalization is folded.
        instruments: Watch the passes.
    """

    def __init__(
        self,
        backbone: ir.Model,
        blocks: Sequence[Block],
        tasks: TaskSet,
        *,
        seed: int = 0,
        fold: bool = True,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.backbone, self.blocks, self.tasks, self.seed, self.fold = backbone, blocks, tasks, seed, fold
        self._instruments = (CheckInvariants(), *instruments)

    @property
    def has_heads(self) -> bool:
        """Whether all tasks are known well enough to have heads."""
        return all(task.channels for task in self.tasks)

    @functools.cached_property
    def shared(self) -> ir.Model:
        """The emitted model in which all is shared; the backbone alone where heads are not known."""
        if not self.has_heads:
            return self._rewrite(self.backbone, self._emitting(), "count")
        return self._rewrite(self.backbone, [AttachHeads(self.tasks, self.seed), *self._emitting()], "count")

    def of(self, layout: Layout) -> ir.Model:
        """The emitted model of a layout.

        Raises:
            BudgetError: Heads are not known.
        """
        self.require_heads(f"layout {layout.number}")
        heads = AttachHeads(self.tasks, self.seed)
        return self._rewrite(self.backbone, [heads, Tree(layout, self.blocks), *self._emitting()], "count")

    def costs(self, layout: Layout) -> Costs:
        """Counted on the emitted model."""
        return count(self.of(layout))

    def latency(self, layout: Layout) -> float:
        """Milliseconds of one image in ONNX Runtime on this machine."""
        model = self.of(layout)
        shape = model.graph.inputs[0].shape
        assert shape is not None, "a normalized backbone knows the shape of its image"
        sizes = [1, *(dim if isinstance(dim, int) else 3 for dim in shape[1:])]
        return runtime.latency(graphs.to_bytes(model), np.zeros(sizes, np.float32))

    def require_heads(self, what: str) -> None:
        """Refuse to count what needs the heads, where tasks leave open what theirs look like.

        Raises:
            BudgetError: Names the first such task.
        """
        for task in self.tasks:
            if not task.channels:
                msg = (
                    f"{what} needs the heads, and the number of classes of task {task.name!r} is not known: write "
                    f"{task.name}={task.kind}:N, or limit the trunk alone, as trunk.madds<=0.6x"
                )
                raise BudgetError(msg)

    def _emitting(self) -> list[PassBase]:
        fold = [FoldBatchNorm()] if self.fold else []
        return [DropTrainingOnly(), *fold, DedupInitializers(), RemoveUnused()]

    def _rewrite(self, model: ir.Model, passes: Sequence[PassBase], name: str) -> ir.Model:
        return Pipeline(passes, instruments=self._instruments, name=name)(graphs.clone(model)).model


def cost_table(emission: Emission) -> CostTable:
    """Count all blocks and heads on the emitted all-shared model."""
    tasks = emission.tasks.names
    blocks = {quantity: [0] * len(emission.blocks) for quantity in COUNTED}
    heads = {quantity: [0] * len(tasks) for quantity in COUNTED[:2]}
    found = _Places(emission.blocks)
    seen: set[ir.Value] = set()
    for node in emission.shared.graph:
        weights = [value for value in trainable(node) if value not in seen]
        seen.update(weights)
        amounts = {"multiply_adds": ops.multiply_adds(node), "parameters": sum(map(elements, weights))}
        head = head_of(node)
        place = found.of(node) if head is None else 0
        for quantity, amount in amounts.items():
            if head is not None:
                heads[quantity][tasks.index(head)] += amount
            else:
                blocks[quantity][place] += amount
                blocks[f"{quantity}_trunk"][place] += amount
    kept = COUNTED if emission.has_heads else COUNTED[2:]
    made: dict[str, tuple[float, ...]] = {q: tuple(map(float, blocks[q])) for q in kept}
    made["models"] = (1.0, *(0.0 for _ in emission.blocks[1:]))
    return CostTable(
        tasks,
        made,
        {q: tuple(map(float, amounts)) for q, amounts in heads.items()} if emission.has_heads else {},
        heads_known=emission.has_heads,
    )


def with_latency(table: CostTable, emission: Emission) -> CostTable:
    """Add the milliseconds of each block, measured on whole models: one task leaves the others at each block in turn.

    The differences are what a second copy of the blocks behind takes; noise that would make one negative is averaged
    out (isotonic regression).

    Raises:
        BudgetError: Heads are not known.
    """
    emission.require_heads("latency")
    depth = len(emission.blocks)
    groups = ((0,), tuple(range(1, len(table.tasks)))) if len(table.tasks) > 1 else ((0,),)
    everyone = (tuple(range(len(table.tasks))),)
    measured = [
        emission.latency(Layout(table.tasks, tuple(everyone if b < point else groups for b in range(depth))))
        for point in range(depth + 1)
    ]
    falling = not_rising(measured)
    blocks = tuple(falling[b] - falling[b + 1] for b in range(depth))
    return dataclasses.replace(
        table,
        blocks={**table.blocks, "latency": blocks},
        base={**table.base, "latency": max(0.0, falling[-1] - sum(blocks))},
    )


class _Places:
    """Which block a node of the emitted graph is of: by its name, by the user's nodes behind it, or by its inputs."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._names: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        for block in blocks:
            for node in block.nodes:
                if node.name:
                    self._names.setdefault(node.name, block.index)
                for name in sources(node):
                    self._sources.setdefault(name, block.index)
        self._made: dict[ir.Node, int] = {}

    def of(self, node: ir.Node) -> int:
        """The block's index."""
        place = self._names.get(node.name or "")
        if place is None:
            known = [self._sources[name] for name in sources(node) if name in self._sources]
            before = [self._made.get(value.producer(), 0) for value in node.inputs if value and value.producer()]  # type: ignore[arg-type]
            place = min(known) if known else max(before, default=0)
        self._made[node] = place
        return place

"""What layouts cost, counted on graphs as they are emitted: per block and per head, so that a layout's cost is a sum.

Blocks are counted on the emitted graph of the all-shared model: normalizations are folded there, so a table of
parameters is the one that a budget is kept by. Tasks whose heads read early features pay for nothing behind them: what
only some tasks need is a part of its own (:mod:`onnxmtl.policy.parts`). Every layout that is recommended is counted
once more on its own graph.
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
from onnxmtl.deploy.bench.together import passed_and_worked
from onnxmtl.errors import BudgetError
from onnxmtl.ir import head_of, sources, tasks_of_nodes
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import DedupInitializers, DropTrainingOnly, FoldBatchNorm, RemoveUnused
from onnxmtl.passes.heads import AttachHeads, features_of
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces.tree import Tree
from onnxmtl.policy.layout import Group, Layout
from onnxmtl.policy.parts import Part, whole_blocks

COUNTED = ("multiply_adds", "parameters", "multiply_adds_trunk", "parameters_trunk")
_AMOUNTS = COUNTED[:2]
_SECONDS, _ROUNDS = 0.3, 10  # for which each layout is measured at least, beside the others
Probability = Callable[[Group], float]


@dataclasses.dataclass(frozen=True)
class CostTable:
    """What blocks and heads cost.

    Attributes:
        tasks: Names of the tasks.
        copies: Quantity -> cost of one copy of each of `parts`; ``models`` counts 1 in the first block.
        heads: Quantity -> cost of each task's head; zeros without known heads and for the trunk.
        base: Quantity -> what is there once whatever the layout (of latencies: what no block explains).
        heads_known: Whether heads are counted; if not, only the trunk is.
        parts: What the same tasks need of the blocks. Not given: each block is one part, which all tasks need.
        depth: The number of blocks; with `parts` to be given, for the last blocks may have none.
    """

    tasks: tuple[str, ...]
    copies: Mapping[str, tuple[float, ...]]
    heads: Mapping[str, tuple[float, ...]]
    base: Mapping[str, float] = dataclasses.field(default_factory=dict)
    heads_known: bool = True
    parts: tuple[Part, ...] = ()
    depth: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "depth", len(next(iter(self.copies.values()))))
            object.__setattr__(self, "parts", whole_blocks(len(self.tasks), self.depth))

    def blocks(self, quantity: str) -> tuple[float, ...]:
        """What one copy of each block costs, with all its parts."""
        sums = [0.0] * self.depth
        for part, cost in zip(self.parts, self.copies[quantity], strict=True):
            sums[part.block] += cost
        return tuple(sums)

    def of(self, layout: Layout, quantity: str, probability: Probability | None = None) -> float:
        """What a layout has of a quantity; with `probability`, what it is expected to take per request."""
        chance = probability or (lambda group: 1.0)
        return layout.cost(self.copies[quantity], chance, self.parts) + self.fixed(quantity, probability)

    def fixed(self, quantity: str, probability: Probability | None = None) -> float:
        """The part of :meth:`of` that is the same for all layouts."""
        chance = probability or (lambda group: 1.0)
        heads = sum(cost * chance((task,)) for task, cost in enumerate(self._heads(quantity)))
        return heads + self.base.get(quantity, 0.0)

    def separate(self, quantity: str) -> float:
        """What one model per task costs, all together."""
        return self.of(Layout.separate(self.tasks, self.depth), quantity)

    def all_of(self, layout: Layout) -> dict[str, float]:
        """Every known quantity of a layout."""
        return {quantity: self.of(layout, quantity) for quantity in self.copies}

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

    @functools.cached_property
    def needed(self) -> dict[ir.Node, Group]:
        """For each node of `shared`, the tasks (indices) that need it."""
        outputs = [str(value.name) for value in self.shared.graph.outputs]  # of the heads, or what heads would read
        read = [{task.name} if self.has_heads else set(features_of(task, outputs)) for task in self.tasks]
        return {
            node: tuple(task for task, names in enumerate(read) if names & found)
            for node, found in tasks_of_nodes(self.shared.graph).items()
        }

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
        return runtime.latency(graphs.to_bytes(self.of(layout)), self._image())

    def latencies(self, layouts: Sequence[Layout], *, worked: bool = False, threads: int | None = None) -> list[float]:
        """Milliseconds of several layouts, measured in turns.

        Args:
            layouts: One or more.
            worked: Processor time instead of the time that passes.
            threads: Within an operator; ONNX Runtime's own choice if None.
        """
        return self.timings(layouts, threads=threads)[worked]

    def timings(self, layouts: Sequence[Layout], *, threads: int | None = None) -> tuple[list[float], list[float]]:
        """The same by the clock and of the processor, from one series of measurements."""
        made = [functools.partial(self._bytes, layout) for layout in layouts]
        return passed_and_worked(made, self._image(), seconds=_SECONDS, rounds=_ROUNDS, threads=threads)

    def _bytes(self, layout: Layout) -> bytes:
        return graphs.to_bytes(self.of(layout))

    def _image(self) -> runtime.Array:
        shape = self.backbone.graph.inputs[0].shape
        assert shape is not None, "a normalized backbone knows the shape of its image"
        return np.zeros([1, *(dim if isinstance(dim, int) else 3 for dim in shape[1:])], np.float32)

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
    begin = Part(0, tuple(range(len(tasks))))  # every group of the first block is a model
    trunk = {begin: dict.fromkeys(_AMOUNTS, 0)}
    heads = {quantity: [0] * len(tasks) for quantity in _AMOUNTS}
    found = _Places(emission.blocks)
    weights: dict[ir.Value, Part] = {}
    seen: set[ir.Value] = set()
    for node in emission.shared.graph:
        using, head = emission.needed[node], head_of(node)
        if head is not None:
            own = [value for value in trainable(node) if value not in seen]
            seen.update(own)
            heads["multiply_adds"][tasks.index(head)] += ops.multiply_adds(node)
            heads["parameters"][tasks.index(head)] += sum(map(elements, own))
            continue
        part = Part(found.of(node), using)
        if using:
            _part(trunk, part)["multiply_adds"] += ops.multiply_adds(node)
        for value in trainable(node) if using else ():
            before = weights.get(value, part)
            # Along each path a weight of two blocks is one: there are as many as groups in the last of them.
            everyone = tuple(sorted({*before.tasks, *using}))
            weights[value] = Part(max(before.block, part.block), everyone)
    for value, part in weights.items():
        _part(trunk, part)["parameters"] += elements(value)
    parts = sorted(trunk, key=lambda part: (part.block, -len(part.tasks), part.tasks))
    copies = {f"{quantity}_trunk": tuple(float(trunk[part][quantity]) for part in parts) for quantity in _AMOUNTS}
    if emission.has_heads:
        copies = {quantity: copies[f"{quantity}_trunk"] for quantity in _AMOUNTS} | copies
    copies["models"] = tuple(float(part == begin) for part in parts)
    return CostTable(
        tasks,
        copies,
        {q: tuple(map(float, amounts)) for q, amounts in heads.items()} if emission.has_heads else {},
        heads_known=emission.has_heads,
        parts=tuple(parts),
        depth=len(emission.blocks),
    )


def _part(trunk: dict[Part, dict[str, int]], part: Part) -> dict[str, int]:
    return trunk.setdefault(part, dict.fromkeys(_AMOUNTS, 0))


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

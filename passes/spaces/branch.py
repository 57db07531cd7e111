"""The ``branch`` space (BMTAS, Sec. 3.1): every block exists once per task, and each task takes one copy of each.

Block b becomes T candidates of equal form, T the number of tasks. Task t holds behind it

    x_t^{b+1} = Σ_j p_t^b(branch_j) · block_j^b(x_t^b)

so that with hard choices tasks share for as long as they took the same candidates: the result is a tree, and a task
that left a group never comes back to it. Tasks that part and later take the same candidate execute it on different
inputs, with weights of their own: ``select`` gives each group its own copy (the sites are *grouped*, see
:mod:`onnxmtl.ir.choice`), as :meth:`onnxmtl.policy.layout.Layout.from_choices` draws it.

Requires a multi-task graph: a backbone with heads attached, outputs named after the tasks. Any backbone will do: a
block may hand on several tensors (``frontier``), read what lies several blocks before it, and hold features that heads
read. Ensures one Choice per (block, task, tensor that the task needs of it), its options ``branch_0`` …, its site
called as the block; the Choices of one (block, task) have one logits tensor. Candidate 0 has the weights of the
original, the others copies of them, running statistics included. With the architecture "all branch_0" the supermodel
computes exactly what the multi-task graph did.

The graph holds T² candidates of every block but the first, hence the limit :data:`MOST_TASKS`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Literal

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.frontiers import reads
from onnxmtl.ir import Diagnostic, Role, copy_initializer, head_of, is_supermodel, report, role_of, set_role
from onnxmtl.ir.choice import BLOCKS_KEY, GROUPED_KEY
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes.spaces.copies import TaskCopies
from onnxmtl.passes.spaces.trunk import TrunkBlock, independent_blocks, preparation, trunk_blocks

MOST_TASKS = 8  # 64 candidates of every block


def branch_name(index: int) -> str:
    """Name of the option that is candidate `index`."""
    return f"branch_{index}"


class Branch(InPlacePass):
    """Turn a multi-task graph into BMTAS's supermodel.

    Args:
        groups: How many blocks, as equal in multiply-adds as possible; or how many of the blocks that are found make
            each, in order; or None for all found, see :func:`onnxmtl.analysis.blocks.backbone_blocks`.
        at: Cut at exactly these boundaries.
        frontier: Largest number of tensors alive at a boundary (U-Net and FPN need more than 1).
        shared_prefix: The first N blocks are shared by all tasks and get no Choice.
        prior: Logit of ``branch_0`` to begin with, of the others 0: above 0 the tasks begin with sharing.
        affine: ``not-last``: scale and bias of the last BatchNormalization of every candidate keep their values during
            the search, so that candidates do not compete by their scale (BMTAS, Sec. 3.3); ``select`` frees them.
    """

    def __init__(
        self,
        *,
        groups: int | Sequence[int] | None = None,
        at: Collection[str] | None = None,
        frontier: int = 1,
        shared_prefix: int = 0,
        prior: float = 0.0,
        affine: Literal["all", "not-last"] = "all",
    ) -> None:
        self.groups = groups
        self.at = at
        self.frontier = frontier
        self.shared_prefix = shared_prefix
        self.prior = prior
        self.affine = affine

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads, one that holds Choices already, and too few or too many tasks."""
        if is_supermodel(model):
            raise Refused("branch: this model already holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("branch: the graph has no task heads; run AttachHeads first")
        tasks = len(model.graph.outputs)
        if tasks < 2:
            raise Refused("branch: one task has nobody to share with or to part from; give two tasks or more")
        if tasks > MOST_TASKS:
            msg = f"branch: {tasks} tasks need {tasks**2} candidates of every block, up to {MOST_TASKS} tasks are taken"
            raise Refused(f"{msg}; leave tasks out, or rank trees by `onnxmtl recommend`")
        if self.affine not in ("all", "not-last"):
            raise Refused(f"branch: affine is 'all' or 'not-last', not {self.affine!r}")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the Choices in place; nodes that no task needs are dropped.

        Raises:
            Refused: Not even one block is left that two tasks come by.
            ModelError: The backbone has no such blocks.
        """
        RemoveUnusedNodesPass()(model)
        found = trunk_blocks(model, self.groups, self.at, self.frontier)
        builder = _Builder(model.graph, self)
        tasks_of = {node: builder.tasks_of(node) for block in found for node in block.nodes}
        blocks, joined = independent_blocks(found, tasks_of)
        present = [_tasks_of(block, builder) for block in blocks]
        first, last = self.shared_prefix, sum(len(tasks) > 1 for tasks in present)
        if first >= last:
            which = f"shared_prefix={first} leaves" if first and last else "the backbone has"
            msg = f"branch: {which} no block that two tasks come by, of {len(blocks)}; {_other_blocks(first)}"
            raise Refused(msg)
        for remark in joined:
            report(model, remark)
        for block in blocks[:first]:
            message = f"one of the first {first} blocks, which the settings force to be shared"
            report(model, Diagnostic("site-not-made", message, block.name, "a smaller --shared-prefix frees it"))
        for block, tasks in zip(blocks[last:], present[last:], strict=True):
            message = f"only task {tasks[0]!r} comes by, so there is nothing to decide"
            report(model, Diagnostic("site-not-made", message, block.name))
        builder.build(blocks, range(first, last))
        model.metadata_props[BLOCKS_KEY] = json.dumps([block.name for block in blocks], ensure_ascii=False)
        model.metadata_props["onnxmtl.kind"] = "supermodel"
        return PassResult(model, modified=True)


class _Builder(TaskCopies):
    """Builds the supermodel block by block; heads come last."""

    def __init__(self, graph: ir.Graph, settings: Branch) -> None:
        super().__init__(graph, settings)
        self.settings = settings
        self.weights: dict[tuple[ir.Value, int], ir.Value] = {}  # (original, candidate) -> its own

    def build(self, blocks: Sequence[TrunkBlock], deciding: Collection[int]) -> None:
        """Visit the blocks in order and the nodes within; those of `deciding` get candidates."""
        prepared = preparation(blocks)
        outputs = list(self.graph.outputs)
        for node in (node for block in blocks for node in block.nodes if node in prepared):
            self.order.append(node)  # equal for all tasks, whatever they take
        for index, block in enumerate(blocks):
            nodes = [node for node in block.nodes if node not in prepared]
            if index in deciding:
                self._candidates(TrunkBlock(block.name, tuple(nodes)), first=index == min(deciding))
            else:
                for node in nodes:
                    self.plain(node, self.tasks_of(node))
        for node in self.graph:
            if head_of(node) is not None:
                self.plain(node, self.tasks_of(node))
        for index, value in enumerate(outputs):
            self._keep_output(index, value)
        self.finish()

    def _candidates(self, block: TrunkBlock, *, first: bool) -> None:
        """The block's copies and its Choices. At the first site all tasks hold the same, so copies serve all."""
        norms = last_norms(block.nodes) if self.settings.affine == "not-last" else []
        frozen = {value for node in norms for value in node.inputs[1:3] if value is not None}
        candidates = [self._candidate(block, j, frozen, first=first) for j in range(len(self.tasks))]
        inside = set(block.nodes)
        for task in self.tasks:
            made = [value for node in block.nodes for value in node.outputs]
            results = [value for value in made if self._leaves(value, inside, task)]
            if not results:
                continue
            logits = self.logits(block.name, task, len(candidates), self.settings.prior)
            for value in results:
                options = [(branch_name(j), candidate[task][value]) for j, candidate in enumerate(candidates)]
                self.choose(block.name, task, value, options, logits)
                self.order[-1].metadata_props[GROUPED_KEY] = str(value.name)

    def _candidate(
        self, block: TrunkBlock, candidate: int, frozen: Collection[ir.Value], *, first: bool
    ) -> dict[str, dict[ir.Value, ir.Value]]:
        """Task -> value of the block -> the candidate's; one copy of every node per task, or one for all."""
        made: dict[str, dict[ir.Value, ir.Value]] = {task: {} for task in self.tasks}
        for node in block.nodes:
            copied: tuple[ir.Value, ...] | None = None
            for task in self.tasks_of(node):
                if copied is None or not first:
                    suffix = branch_name(candidate) if first else f"{task}/{branch_name(candidate)}"
                    copied = self._copy(node, candidate, made[task], task, suffix, frozen)
                made[task].update(zip(node.outputs, copied, strict=True))
        return made

    def _copy(
        self,
        node: ir.Node,
        candidate: int,
        made: dict[ir.Value, ir.Value],
        task: str,
        suffix: str,
        frozen: Collection[ir.Value],
    ) -> tuple[ir.Value, ...]:
        """One node of one candidate, on what the candidate made of it so far and what the task holds."""
        slots = {slot.index for slot, _ in ops.weight_slots(node)}
        inputs = [
            None
            if value is None
            else self._weight(value, candidate, value in frozen)
            if index in slots
            else made.get(value, self.held(value, task))
            for index, value in enumerate(node.inputs)
        ]
        return self.copy(node, inputs, suffix)

    def _weight(self, value: ir.Value, candidate: int, frozen: bool) -> ir.Value:
        key = (value, candidate)
        if key not in self.weights:
            weight = value
            if candidate:
                name = self.namer.unique(f"{value.name}/{branch_name(candidate)}")
                weight = copy_initializer(self.graph, value, name)
                if role_of(value) is not Role.STATISTIC:
                    set_role(weight, Role.OWN)
            if frozen:
                ops.freeze(weight)
            self.weights[key] = weight
        return self.weights[key]

    def _leaves(self, value: ir.Value, inside: Collection[ir.Node], task: str) -> bool:
        """Whether `task` reads a value of the block behind it."""
        behind = [use.node for use in value.uses() if use.node not in inside and use.node in self._needed]
        as_output = value.is_graph_output() and value.name == task
        return as_output or any(task in self._needed[node] for node in behind)

    def _keep_output(self, index: int, value: ir.Value) -> None:
        """An output that is a value of the backbone itself keeps its name."""
        new = self.held(value, str(value.name))
        if new is not value:
            name, value.name = value.name, self.namer.unique(f"{value.name}/before")
            new.name = name
            self.graph.outputs[index] = new


def last_norms(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The BatchNormalizations of a block behind which the block has no other one."""
    followed: set[ir.Node] = set()  # a normalization comes behind
    for node in reversed(nodes):
        if node in followed or node.op_type == "BatchNormalization":
            followed.update(p for value in reads(node) if (p := value.producer()) is not None)
    return [node for node in nodes if node.op_type == "BatchNormalization" and node not in followed]


def _tasks_of(block: TrunkBlock, builder: TaskCopies) -> list[str]:
    found = {task for node in block.nodes for task in builder.tasks_of(node)}
    return [task for task in builder.tasks if task in found]


def _other_blocks(prefix: int) -> str:
    return "make it smaller" if prefix else "let the heads read later features"

"""The ``tree`` space (TreeMTL): a layout is given, and the multi-task graph becomes its tree; nothing is to choose.

Requires a multi-task graph: a backbone with heads attached, outputs named after the tasks of the layout. Ensures that
every node of block b is there once per group of the layout at b that needs it, without Choices. Of the groups that use
a weight the one with the first task keeps the original, every other has a copy with the role OWN (running statistics
keep theirs), so that all groups start alike: untrained, the tree computes what the multi-task graph did.

A weight that the backbone uses in two blocks stays one weight along each path from the image to a task, as far as
groups allow: behind a branching point the branch with the first task goes on with it, the others have copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import Block, backbone_blocks
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, copy_initializer, head_of, is_supermodel, role_of, set_role
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes.spaces.copies import TaskCopies
from onnxmtl.policy.layout import Group, Layout

LAYOUT_KEY = "onnxmtl.layout"
_MOST_ALIVE = 8  # tensors at a boundary that a layout may name


class Nodes(Protocol):
    """A block, of whatever type: it has nodes."""

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """Its nodes; only their names count."""


class Tree(InPlacePass):
    """Turn a multi-task graph into the tree of a layout.

    Args:
        layout: Which tasks share each block; its tasks in any order.
        blocks: The blocks of the backbone that the heads were attached to, from
            :func:`~onnxmtl.analysis.blocks.backbone_blocks` or :func:`layout_blocks`; as many as the layout has.
    """

    def __init__(self, layout: Layout, blocks: Sequence[Nodes]) -> None:
        self.layout = layout
        self.block_of = {str(node.name): index for index, block in enumerate(blocks) for node in block.nodes}
        self.blocks = len(blocks)

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads or with Choices, other tasks, and blocks of another backbone."""
        if is_supermodel(model):
            raise Refused("tree: this model holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("tree: the graph has no task heads; run AttachHeads first")
        try:
            self.layout.for_tasks([str(value.name) for value in model.graph.outputs])
        except ModelError as error:
            msg = f"tree: {error}"
            raise Refused(msg) from error
        if self.blocks != len(self.layout.groups):
            msg = f"tree: the layout has {len(self.layout.groups)} blocks, but {self.blocks} blocks are given"
            raise Refused(msg)
        for node in model.graph:
            if head_of(node) is None and node.name not in self.block_of:
                msg = f"tree: node {node.name!r} is in none of the blocks; give those of this graph's backbone"
                raise Refused(msg)

    def call(self, model: ir.Model) -> PassResult:
        """Build the tree in place; nodes that no task needs are dropped. The layout goes into the metadata."""
        RemoveUnusedNodesPass()(model)
        layout = self.layout.for_tasks([str(value.name) for value in model.graph.outputs])
        _Builder(model.graph, self, layout).build()
        model.metadata_props[LAYOUT_KEY] = layout.to_json()
        return PassResult(model, modified=True)


def layout_blocks(backbone: ir.Model, layout: Layout) -> list[Block]:
    """The blocks of a normalized backbone that a layout names; without names as many equal ones as it has.

    Raises:
        ModelError: The backbone cannot be cut there, or into so many blocks: the layout is for another one.
    """
    if not layout.blocks:
        return backbone_blocks(backbone, groups=len(layout.groups))
    found: list[Block] = []
    for alive in range(1, _MOST_ALIVE + 1):  # the fewest live tensors at which all its boundaries are known
        try:
            found = backbone_blocks(backbone, at=layout.blocks[:-1], k=alive)
            break
        except ModelError as error:
            if alive == _MOST_ALIVE:
                msg = f"the layout does not fit the backbone: {error}"
                raise ModelError(msg) from error
    # A layout of a part of the backbone may end before it: what is behind its end is the last block's.
    end = {value.name for node in found[-1].nodes for value in node.outputs}
    names = [*(block.name for block in found[:-1]), layout.blocks[-1]]
    if tuple(names) != layout.blocks or names[-1] not in end:
        wrong = next((b for a, b in zip(names, layout.blocks, strict=False) if a != b), layout.blocks[-1])
        msg = (
            f"the layout does not fit the backbone: no block of it ends with {wrong!r}; blocks of a layout are called "
            "by the last tensor in them, in the order of the network"
        )
        raise ModelError(msg)
    return found


class _Builder(TaskCopies):
    """Builds the tree node by node, in topological order of the multi-task graph."""

    def __init__(self, graph: ir.Graph, made_by: Tree, layout: Layout) -> None:
        super().__init__(graph, made_by)
        self.layout, self.block_of = layout, made_by.block_of
        self.users = _users_of_weights(graph, self)
        self.copies: dict[tuple[ir.Value, int], ir.Value] = {}
        self.constant = _constants(graph)
        self.constants: dict[tuple[ir.Node, tuple[int, ...]], tuple[ir.Value, ...]] = {}

    def build(self) -> None:
        """Visit the nodes in order; what is computed from weights alone is built where it is first needed."""
        for node in self.graph:
            tasks = self.tasks_of(node)
            if head_of(node) is not None:
                self.plain(node, tasks)
            elif node not in self.constant:
                self._backbone(node, tasks)
        self.finish()

    def _backbone(self, node: ir.Node, tasks: Sequence[str]) -> None:
        """A node of the backbone: one per group that needs it. The first such group keeps the node and its name."""
        here = self.layout.groups[self.block_of[str(node.name)]]
        needing = [group for group in here if any(self.tasks[task] in tasks for task in group)]
        made = [(group, self._inputs(node, group)) for group in needing]
        for group, inputs in made[1:]:
            name = next(self.tasks[task] for task in group if self.tasks[task] in tasks)
            for old, new in zip(node.outputs, self.copy(node, inputs, name), strict=True):
                for task in group:
                    self.maps[self.tasks[task]][old] = new
        for index, value in enumerate(made[0][1]):
            node.replace_input_with(index, value)
        self.order.append(node)

    def _inputs(self, node: ir.Node, group: Group) -> tuple[ir.Value | None, ...]:
        """What a group feeds a node: its own weights, and what it has computed."""
        weights = {slot.index for slot, _ in ops.weight_slots(node)}
        inputs: list[ir.Value | None] = []
        for index, value in enumerate(node.inputs):
            producer = None if value is None else value.producer()
            if value is not None and index in weights:
                inputs.append(self._weight(value, group))
            elif value is not None and producer in self.constant:
                inputs.append(self._computed(value, group))
            else:
                inputs.append(None if value is None else self.held(value, self._holder(value, group)))
        return tuple(inputs)

    def _holder(self, value: ir.Value, group: Group) -> str:
        """A task of the group that needs the value; all that do hold the same one."""
        producer = value.producer()
        tasks = self.tasks if producer is None else self.tasks_of(producer)
        return next(self.tasks[task] for task in group if self.tasks[task] in tasks)

    def _weight(self, value: ir.Value, group: Group) -> ir.Value:
        """The weight of a group in the place of `value`."""
        users = self.users[value]
        first = min(task for task in group if task in users)
        if first == min(users):
            return value
        if (value, first) not in self.copies:
            copy = copy_initializer(self.graph, value, self.namer.unique(f"{value.name}/{self.tasks[first]}"))
            if role_of(value) is not Role.STATISTIC:
                set_role(copy, Role.OWN)
            self.copies[value, first] = copy
        return self.copies[value, first]

    def _computed(self, value: ir.Value, group: Group) -> ir.Value:
        """The same for a value that is computed from weights or constants alone: once per set of weights."""
        node = value.producer()
        assert node is not None
        inputs = self._inputs(node, group)
        key = (node, tuple(map(id, inputs)))
        if key not in self.constants:
            if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
                self.order.append(node)
                self.constants[key] = tuple(node.outputs)
            else:
                self.constants[key] = self.copy(node, inputs, self.tasks[group[0]])
        return self.constants[key][list(node.outputs).index(value)]


def _constants(graph: Iterable[ir.Node]) -> set[ir.Node]:
    """The nodes of the backbone that read nothing but weights and constants."""
    found: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if head_of(node) is None and all(value.is_initializer() or value.producer() in found for value in read):
            found.add(node)
    return found


def _users_of_weights(graph: Iterable[ir.Node], copies: TaskCopies) -> dict[ir.Value, set[int]]:
    """Weight -> indices of the tasks that use it."""
    users: dict[ir.Value, set[int]] = {}
    for node in graph:
        for _, value in ops.weight_slots(node):
            users.setdefault(value, set()).update(copies.tasks.index(task) for task in copies.tasks_of(node))
    return users

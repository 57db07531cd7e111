"""Separate networks: every task gets a whole network of its own, which is where fusion and soft sharing begin.

Requires a multi-task graph: heads attached, outputs named after the tasks, no Choices; its tasks may share as much as
they like. Ensures that every node of the trunk and every weight and running statistic of it is there once per task that
needs it, called ``{task}/`` and its old name, so that no two tasks have a layer or a weight in common. All copies start
alike: the graph computes what it did before. Constants and sizes of the image, which nobody trains, stay one.

A graph whose tasks have networks of their own already (joined from several files) is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import (
    Namer,
    Role,
    copy_initializer,
    copy_nodes,
    head_of,
    is_supermodel,
    role_of,
    set_role,
    stamp,
    tasks_of_nodes,
)
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes.spaces.trunk import TrunkBlock, preparation


class Separate(InPlacePass):
    """Give every task a network of its own; see the module."""

    preserves_numerics = True

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads, and one that holds Choices."""
        if is_supermodel(model):
            raise Refused("separate: this model holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("separate: the graph has no task heads; run AttachHeads first")

    def call(self, model: ir.Model) -> PassResult:
        """Copy in place; nodes that no task needs are dropped."""
        if are_separate(model.graph):
            return PassResult(model, modified=False)
        RemoveUnusedNodesPass()(model)
        _Builder(model.graph, self).build()
        RemoveUnusedNodesPass()(model)  # the weights that were copied
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Check that no two tasks share a layer or a weight."""
        assert are_separate(model.graph), "two tasks still share a part of the trunk"


def are_separate(graph: ir.Graph) -> bool:
    """Whether no two tasks have a node of the trunk, or a weight or a statistic of it, in common.

    What only prepares constants or sizes of the image may be common.
    """
    tasks = tasks_of_nodes(graph)
    owner: dict[ir.Value, frozenset[str]] = {}
    for node in trunk_nodes(graph):
        if len(tasks[node]) > 1:
            return False
        if tasks[node] and any(owner.setdefault(value, tasks[node]) != tasks[node] for value in _weights(node)):
            return False
    return True


def trunk_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that belong to no head and do more than preparing constants or sizes of the image, in order."""
    nodes = [node for node in graph if head_of(node) is None]
    prepared = preparation([TrunkBlock("", tuple(nodes))])
    return [node for node in nodes if node not in prepared]


def _weights(node: ir.Node) -> list[ir.Value]:
    return [value for _, value in ops.weight_slots(node)]


class _Builder:
    """Rebuilds the graph node by node, in its order."""

    def __init__(self, graph: ir.Graph, made_by: Separate) -> None:
        self.graph, self.made_by = graph, made_by
        self.tasks = [str(value.name) for value in graph.outputs]
        self.namer = Namer(graph)
        self.maps: dict[str, dict[ir.Value, ir.Value]] = {task: {} for task in self.tasks}

    def build(self) -> None:
        """Copies of the trunk's nodes in their places; heads read their own task's."""
        needed = tasks_of_nodes(self.graph)
        trunk = trunk_nodes(self.graph)
        outputs = list(self.graph.outputs)
        for node in trunk:
            for task in self.tasks:
                if task in needed[node]:
                    self.graph.insert_before(node, self._copy(node, task))
        for node in self.graph:
            if (task_of_head := head_of(node)) is not None:
                values = self.maps.get(next(iter(needed[node]), task_of_head), {})
                for index, value in enumerate(node.inputs):
                    if value is not None:
                        node.replace_input_with(index, values.get(value, value))
        for index, value in enumerate(outputs):
            self._keep_output(index, value)
        self._drop(trunk)

    def _copy(self, node: ir.Node, task: str) -> Sequence[ir.Node]:
        values = self.maps[task]
        for value in _weights(node):
            if value not in values:
                own = copy_initializer(self.graph, value, self._name(str(value.name), task))
                values[value] = own if role_of(value) is Role.STATISTIC else set_role(own, Role.BACKBONE)
        copies = copy_nodes([node], values, lambda name: self._name(name, task))
        for copy in copies:
            stamp(copy, self.made_by, node)
        return copies

    def _name(self, name: str, task: str) -> str:
        return self.namer.unique(f"{task}/{name}")

    def _keep_output(self, index: int, value: ir.Value) -> None:
        """An output that is a value of the trunk itself keeps its name."""
        new = self.maps[str(value.name)].get(value, value)
        if new is not value:
            name, value.name = value.name, self.namer.unique(f"{value.name}/before")
            new.name = name
            self.graph.outputs[index] = new

    def _drop(self, nodes: Iterable[ir.Node]) -> None:
        old = list(nodes)
        for node in old:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.graph.remove(old, safe=True)

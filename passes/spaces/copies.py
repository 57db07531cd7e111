"""Building a supermodel node by node: what every space needs.

Nodes are visited in topological order. While all tasks that come by hold the same inputs, a node stays one node; from
the first Choice on every task has a copy of its own, with the weights (and running statistics) of the original.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import (
    Namer,
    Role,
    copy_nodes,
    head_of,
    make_choice,
    new_initializer,
    set_role,
    stamp,
    tasks_of_nodes,
)


class TaskCopies:
    """The nodes of a supermodel under construction.

    Attributes:
        graph: The multi-task graph that is rebuilt in place.
        tasks: Names of its outputs, in order.
        maps: Task -> value of the multi-task graph -> the value that the task holds instead.
        order: The new nodes so far.
    """

    def __init__(self, graph: ir.Graph, made_by: object) -> None:
        self.graph = graph
        self.made_by = made_by
        self.tasks = [str(value.name) for value in graph.outputs]
        self.namer = Namer(graph)
        self.maps: dict[str, dict[ir.Value, ir.Value]] = {task: {} for task in self.tasks}
        self.order: list[ir.Node] = []
        self._needed = tasks_of_nodes(graph)

    def tasks_of(self, node: ir.Node) -> list[str]:
        """The tasks that need a node of the multi-task graph, in the order of the outputs."""
        return [task for task in self.tasks if task in self._needed[node]]

    def held(self, value: ir.Value, task: str) -> ir.Value:
        """What `task` holds in the place of `value`."""
        return self.maps[task].get(value, value)

    def inputs(self, node: ir.Node, task: str) -> tuple[ir.Value | None, ...]:
        """What `task` feeds `node`."""
        return tuple(None if v is None else self.held(v, task) for v in node.inputs)

    def plain(self, node: ir.Node, tasks: Sequence[str]) -> None:
        """A node without a choice: one node while all tasks still hold the same inputs, else one per task."""
        inputs = {task: self.inputs(node, task) for task in tasks}
        # A head has one task, and keeps its node: an output of the model has to keep its name.
        if head_of(node) is not None or len({tuple(map(id, values)) for values in inputs.values()}) <= 1:
            for index, value in enumerate(inputs[tasks[0]]):
                node.replace_input_with(index, value)
            self.order.append(node)
            return
        for task in tasks:
            for old, new in zip(node.outputs, self.copy(node, inputs[task], task), strict=True):
                self.maps[task][old] = new

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], suffix: str) -> tuple[ir.Value, ...]:
        """A copy of `node` on these inputs, in the new graph; its outputs."""
        values = {old: new for old, new in zip(node.inputs, inputs, strict=True) if old is not None and new is not None}
        (copy,) = copy_nodes([node], dict(values), lambda name: self.namer.unique(f"{name}/{suffix}"))
        for index, value in enumerate(inputs):
            copy.replace_input_with(index, value)
        stamp(copy, self.made_by, node)
        self.order.append(copy)
        return tuple(copy.outputs)

    def logits(self, site: str, task: str, count: int, prior: float = 0.0) -> ir.Value:
        """New logits of one (site, task): `prior` for the first option, 0 for the others."""
        values = np.zeros(count, np.float32)
        values[0] = prior
        return set_role(new_initializer(self.graph, self.namer.unique(f"{site}/{task}/logits"), values), Role.LOGITS)

    def choose(
        self,
        site: str,
        task: str,
        replaced: ir.Value,
        options: Sequence[tuple[str, ir.Value]],
        logits: ir.Value,
    ) -> None:
        """A Choice of `task` between (name, value) pairs, which it holds from now on in the place of `replaced`."""
        node = replaced.producer()
        assert node is not None
        choice = make_choice(
            options,
            logits,
            site=site,
            task=task,
            name=self.namer.unique(f"{node.name}/{task}/choice"),
            output=self.namer.unique(f"{replaced.name}/{task}"),
        )
        stamp(choice, self.made_by, node)
        self.order.append(choice)
        self.maps[task][replaced] = choice.outputs[0]

    def finish(self) -> None:
        """Put the new nodes in the place of the old ones."""
        old = list(self.graph)
        self.graph.remove(old)
        self.graph.extend(self.order)
        for node in set(old) - set(self.order):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)

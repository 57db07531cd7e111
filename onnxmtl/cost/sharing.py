"""What the tasks share, layer by layer of the user's network, read from the graph of a multi-task or emitted model.

Per layer (a node of the user's model that has weights) and task, one of four answers:

    once      one execution serves the task and others
    weights   the same weights, executed separately because the inputs differ
    own       weights that no other task uses
    skipped   not executed for the task (or the task takes an earlier feature)
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.cost.count import elements, trainable
from onnxmtl.ir import Role, head_of, role_of, sources, tasks_of_nodes
from onnxmtl.ir.metadata import json_names

# On an operator that took in a normalization, or is what became of one: JSON list of the normalization's sources.
FOLDED_KEY = "onnxmtl.folded"


class How(enum.StrEnum):
    """How a task uses a layer."""

    ONCE = "once"
    WEIGHTS = "weights"
    OWN = "own"
    SKIPPED = "skipped"


@dataclasses.dataclass(frozen=True)
class Use:
    """How one task uses a layer, and with whom.

    Attributes:
        how: See the module.
        partners: The other tasks of that execution (``once``) or of these weights (``weights``), in output order.
    """

    how: How
    partners: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.how is How.ONCE:
            return f"once with {', '.join(self.partners)}"
        if self.how is How.WEIGHTS:
            return f"weights of {', '.join(self.partners)}"
        return self.how.value


@dataclasses.dataclass(frozen=True)
class SharingRow:
    """One layer of the user's network.

    Attributes:
        layer: Name of the user's node.
        op: Its operator.
        uses: Task -> how it uses the layer, in output order.
        runs: The groups of tasks that one execution serves each; tasks that skip are in none.
        parameters: Trainable elements of the layer, one copy (the largest); folded layers count as one with the
            operator that took them in.
        multiply_adds: Of one execution.
    """

    layer: str
    op: str
    uses: Mapping[str, Use] = dataclasses.field(hash=False)
    runs: tuple[tuple[str, ...], ...]
    parameters: int
    multiply_adds: int

    @property
    def executed_once(self) -> bool:
        """Whether one execution serves two tasks or more."""
        return any(len(group) > 1 for group in self.runs)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dictionary; uses as text."""
        return {
            "layer": self.layer,
            "op": self.op,
            "uses": {task: str(use) for task, use in self.uses.items()},
            "runs": [list(group) for group in self.runs],
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
        }


def sharing(model: ir.Model, backbone: ir.Model | None = None) -> list[SharingRow]:
    """One row per layer with weights.

    Args:
        model: A model without Choices whose outputs are the tasks.
        backbone: The imported backbone. With it the rows are all its layers with weights in its order, also those
            that every task skips; without it, the layers found in `model`, in graph order.

    Raises:
        ModelError: A shape is unknown.
    """
    tasks = [str(value.name) for value in model.graph.outputs]
    needed = tasks_of_nodes(model.graph)
    layers: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if not needed[node] or head_of(node) is not None or not _is_layer(node):
            continue
        for name in sources(node):
            layers.setdefault(name, []).append(node)
    if backbone is None:
        listed = {name: _op_type(name, nodes[0]) for name, nodes in layers.items()}
    else:
        found = [node for node in backbone.graph if trainable(node)]
        listed = {}  # the first node of a layer gives its operator: an inserted normalization has its layer's name
        for node in found:
            for name in sources(node) or (str(node.name),):
                listed.setdefault(name, node.op_type)
    return [_row(name, op, layers.get(name, []), needed, tasks) for name, op in listed.items()]


def _row(
    layer: str, op: str, nodes: list[ir.Node], needed: Mapping[ir.Node, frozenset[str]], tasks: list[str]
) -> SharingRow:
    main = {}  # task -> the node that does the layer's work for it
    for task in tasks:
        serving = [node for node in nodes if task in needed[node]]
        if serving:
            # The first of equals, but of separate networks that feed each other the task's own.
            main[task] = max(serving, key=lambda node: (_size(node), str(node.name).startswith(f"{task}/")))
    uses, runs = {}, []
    for task in tasks:
        node = main.get(task)
        if node is None:
            uses[task] = Use(How.SKIPPED)
            continue
        together = tuple(t for t in tasks if main.get(t) is node)
        if together not in runs:
            runs.append(together)
        weight = _weight(node)
        same = tuple(t for t in tasks if t != task and t in main and _weight(main[t]) is weight)
        if len(together) > 1:
            uses[task] = Use(How.ONCE, tuple(t for t in together if t != task))
        else:
            uses[task] = Use(How.WEIGHTS, same) if same else Use(How.OWN)
    distinct = set(main.values())
    return SharingRow(
        layer=layer,
        op=op,
        uses=uses,
        runs=tuple(runs),
        parameters=max(map(_size, distinct), default=0),
        multiply_adds=max(map(ops.multiply_adds, distinct), default=0),
    )


def _is_layer(node: ir.Node) -> bool:
    """Whether the node has weights and is no projection that replaces a skipped layer."""
    weights = trainable(node)
    return bool(weights) and all(role_of(value) is not Role.SKIP for value in weights)


def _op_type(name: str, node: ir.Node) -> str:
    folded = json_names(node.metadata_props, FOLDED_KEY)
    return "BatchNormalization" if name in folded else node.op_type


def _size(node: ir.Node) -> int:
    return sum(elements(value) for value in set(trainable(node)))


def _weight(node: ir.Node) -> ir.Value:
    return max(trainable(node), key=elements)

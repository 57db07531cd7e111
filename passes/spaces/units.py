"""Which nodes form one site: an operator with the bias, scale and normalization that only it feeds."""

from __future__ import annotations

import dataclasses
from typing import Literal

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import head_of

Granularity = Literal["op", "block"]

_AFFINE = frozenset(("Add", "Mul", "Sub", "Div"))


@dataclasses.dataclass(frozen=True)
class Unit:
    """One site before it becomes Choices.

    Attributes:
        site: Id of the site: the name of its first node.
        nodes: The operator and the nodes that follow it, a chain.
        norm_only: A normalization without an operator before it (DenseNet): shared or own, never skipped.
    """

    site: str
    nodes: tuple[ir.Node, ...]
    norm_only: bool

    @property
    def input(self) -> ir.Value:
        """The value the site reads."""
        value = self.nodes[0].inputs[0]
        assert value is not None
        return value


def find_units(graph: ir.Graph, granularity: Granularity) -> list[Unit]:
    """The sites of a multi-task graph's backbone, in topological order. Read-only."""
    units: list[Unit] = []
    taken: set[ir.Node] = set()
    for node in graph:
        if node in taken or head_of(node) is not None:
            continue
        if ops.is_linear_op(node) and not _weight_first(node):
            chain = [node, *_followers(node, granularity)]
            units.append(Unit(str(node.name), tuple(chain), norm_only=False))
        elif _is_norm(node):
            chain = [node]
            if granularity == "block":
                chain += _followers(node, granularity)
            units.append(Unit(str(node.name), tuple(chain), norm_only=True))
        else:
            continue
        taken.update(chain)
    return units


def _weight_first(node: ir.Node) -> bool:
    """Gemm and MatMul may hold their weight on the left; such a node stays shared."""
    value = node.inputs[0]
    return value is None or value.is_initializer()


def _is_norm(node: ir.Node) -> bool:
    found = ops.spec(node)
    return found is not None and found.norm and len(ops.weight_slots(node)) > 0


def _followers(first: ir.Node, granularity: Granularity) -> list[ir.Node]:
    """The chain of sole consumers after `first` that belong to it: affine by constants, norm, activation."""
    chain: list[ir.Node] = []
    value = first.outputs[0]
    while not value.is_graph_output() and len(value.uses()) == 1:
        node = next(iter(value.uses())).node
        if head_of(node) is not None or len(node.outputs) != 1:
            break
        if (_is_norm(node) and node.inputs[0] is value) or _is_affine(node, value):
            chain.append(node)
        elif granularity == "block" and _is_activation(node, value):
            chain.append(node)
            break
        else:
            break
        value = node.outputs[0]
    return chain


def _is_activation(node: ir.Node, value: ir.Value) -> bool:
    return node.domain == "" and node.op_type in ops.ACTIVATIONS and node.inputs[0] is value


def _is_affine(node: ir.Node, value: ir.Value) -> bool:
    """Scale or shift by a constant that keeps the shape: a skip, which goes around it, would not fit otherwise."""
    if node.op_type not in _AFFINE or node.domain != "" or len(node.inputs) != 2:
        return False
    first, second = node.inputs
    if node.op_type == "Div" and second is value:
        return False
    other = second if first is value else first
    return other is not None and other.is_initializer() and value.shape == node.outputs[0].shape

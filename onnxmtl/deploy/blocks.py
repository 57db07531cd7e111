"""The blocks of a network as rows of a table: what each one is made of and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import Block, chosen_boundaries
from onnxmtl.analysis.features import read_strides
from onnxmtl.cost.profile import NodeCost, group_cost
from onnxmtl.errors import ModelError
from onnxmtl.ir import dims_of


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A live tensor: its name, its shape (numbers, or names of free dimensions), () if that is unknown."""

    name: str
    shape: tuple[int | str, ...] | None


@dataclasses.dataclass(frozen=True)
class BlockRow:
    """One block.

    Attributes:
        index: 0, 1, …
        first, last: Names of its first and last node.
        nodes: How many it has.
        operators: Operator -> number of nodes, the most frequent first.
        outputs: The tensors alive behind it; of the last block, its outputs.
        stride: Of the newest of them, relative to the image; None where it is unknown, or no map.
        features: Names of the graph's outputs that it makes.
        parameters: Trainable elements; a weight that several blocks use counts in each.
        multiply_adds, activation_bytes: For one image, of all its nodes; None where a shape is unknown.
    """

    index: int
    first: str
    last: str
    nodes: int
    operators: dict[str, int]
    outputs: tuple[Tensor, ...]
    stride: int | None
    features: tuple[str, ...]
    parameters: int
    multiply_adds: int | None
    activation_bytes: int | None


@dataclasses.dataclass(frozen=True)
class BoundaryRow:
    """A place between two blocks.

    Attributes:
        name: The newest live tensor's: what ``--add`` and ``--drop`` call it.
        behind: Index of the block before it.
        tensors: All live tensors.
    """

    name: str
    behind: int
    tensors: tuple[Tensor, ...]


def block_rows(graph: ir.Graph, found: Sequence[Block]) -> tuple[BlockRow, ...]:
    """One row per block."""
    strides = read_strides(graph)
    return tuple(_row(block, set(graph.outputs), strides) for block in found)


def boundary_rows(found: Sequence[Block]) -> tuple[BoundaryRow, ...]:
    """One row per boundary between the blocks."""
    return tuple(
        BoundaryRow(cut.name, index, tuple(map(_tensor, cut.values)))
        for index, cut in enumerate(chosen_boundaries(found))
    )


def _row(block: Block, outputs: set[ir.Value], strides: Mapping[ir.Value, int]) -> BlockRow:
    cost = _cost(block.nodes)
    operators: dict[str, int] = {}
    for node in block.nodes:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    newest = block.outputs[-1] if block.outputs else None
    return BlockRow(
        index=block.index,
        first=str(block.nodes[0].name),
        last=str(block.nodes[-1].name),
        nodes=len(block.nodes),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        outputs=tuple(map(_tensor, block.outputs)),
        stride=None if newest is None else strides.get(newest),
        features=tuple(str(value.name) for node in block.nodes for value in node.outputs if value in outputs),
        parameters=_parameters(block.nodes) if cost is None else cost.parameters,
        multiply_adds=None if cost is None else cost.multiply_adds,
        activation_bytes=None if cost is None else cost.activation_bytes,
    )


def _cost(nodes: Sequence[ir.Node]) -> NodeCost | None:
    try:
        return group_cost(nodes)
    except ModelError:
        return None


def _parameters(nodes: Sequence[ir.Node]) -> int:
    """Trainable elements, which are known without the shapes of activations."""
    trained = {value for node in nodes for slot, value in ops.weight_slots(node) if slot.trainable}
    fixed = {value for node in nodes for slot, value in ops.weight_slots(node) if not slot.trainable}
    return sum(value.const_value.size for value in trained - fixed if value.const_value is not None)


def _tensor(value: ir.Value) -> Tensor:
    return Tensor(str(value.name), dims_of(value))

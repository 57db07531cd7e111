"""The blocks of a network: what lies between two boundaries, and how a user moves the boundaries.

A block is a place's worth of layers that is shared or not shared as a whole. By default there is one between any two
neighbouring boundaries (:mod:`onnxmtl.analysis.frontiers`), except that a block without a layer of its own joins a
neighbour: an activation, a pooling, an addition, and also a normalization alone, which belongs to the convolution
before it.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.frontiers import Boundary, boundaries, frontier, is_activation, passive_values, scan_order
from onnxmtl.analysis.partition import partition
from onnxmtl.analysis.scopes import scope
from onnxmtl.errors import ModelError

__all__ = ["Block", "Boundary", "backbone_blocks", "blocks", "boundaries", "chosen_boundaries", "is_activation"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_OUR_DOMAINS = frozenset({"", "ai.onnx", "onnxmtl"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclasses.dataclass(frozen=True)
class Block:
    """The nodes between two boundaries.

    Attributes:
        index: 0, 1, … in the order of the network.
        nodes: In the order of :func:`~onnxmtl.analysis.frontiers.scan_order`; every node is in exactly one block.
        inputs: The activations at the boundary before it.
        outputs: The activations at the boundary behind it; of the last block, the outputs of the graph it makes.
    """

    index: int
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def name(self) -> str:
        """The newest tensor at the boundary behind it; of the last block, the last output it makes."""
        return str(self.outputs[-1].name) if self.outputs else ""

    @property
    def has_weights(self) -> bool:
        """Whether any of its nodes has weights."""
        return any(ops.weight_slots(node) for node in self.nodes)

    @property
    def has_layers(self) -> bool:
        """Whether any of its nodes is a layer: has weights, and more than a scale and shift per channel.

        Convolutions and products with a weight, and operators we do not know that read a floating-point tensor of the
        file. Normalizations, biases and scales are no layers.
        """
        constants: set[ir.Value] | None = None  # a weight may also be computed, from quantized numbers or a norm
        for node in self.nodes:
            entry = ops.spec(node)
            if entry is None:
                if node.domain not in _OUR_DOMAINS and _reads_weights(node):
                    return True
            elif entry.linear:
                constants = passive_values(self.nodes) if constants is None else constants
                given = [value.is_initializer() or value in constants for value in node.inputs[:2] if value is not None]
                if node.op_type in _CONVOLUTIONS or (any(given) and not all(given)):
                    return True
        return False


def blocks(
    graph: ir.Graph,
    *,
    k: int = 1,
    at: Collection[str] | None = None,
    add: Collection[str] = (),
    drop: Collection[str] = (),
    groups: int | None = None,
    scopes: int | None = None,
    merge: bool = True,
    cost: Callable[[ir.Node], int] = ops.multiply_adds,
) -> list[Block]:
    """Cut the graph at its boundaries, or at those the user wants.

    A boundary is called by the newest tensor alive at it, or by the node that makes it.

    Args:
        graph: Nodes in topological order.
        k: Largest number of live tensors at a boundary.
        at: Cut at exactly these boundaries.
        add: Cut at these too, whatever the number of tensors alive there; they are never merged away.
        drop: Do not cut at these.
        groups: Join neighbouring blocks to this many, as equal in multiply-adds as possible: the dearest as cheap as
            can be (exact), then the smallest sum of squares. Cuts of `add` stay.
        scopes: Cut only where the torch module changes, at this depth of modules: 1 tells ``layer1`` from
            ``layer2``, 2 also ``layer1.0`` from ``layer1.1``.
        merge: Join blocks without layers to the block before them (the first ones: to the block behind them).
        cost: Of a node, for `groups`.

    Raises:
        ModelError: A name is no boundary; the nodes tell no scopes; there are fewer blocks than groups, or an unknown
            shape whose cost is asked for.
    """
    order = scan_order(graph)
    known = boundaries(order, k=k)
    cuts = known if scopes is None else _where_scopes_change(known, order, scopes)
    if at is not None:
        cuts = [_named(known, order, name) for name in at]
    added = _at_any(order, add)
    cuts = sorted({cut.position: cut for cut in [*cuts, *added]}.values(), key=lambda cut: cut.position)
    kept = {cut.position for cut in added} | ({cut.position for cut in cuts} if at is not None else set())
    parts = _cut(graph, order, cuts)
    if merge:
        parts = _merged(parts, kept)
    if drop:  # after merging: what was merged away does not come back in its place
        parts = _dropped(parts, {_named([*known, *added], order, name).name for name in drop})
    return parts if groups is None else _grouped(parts, groups, {cut.position for cut in added}, cost)


def backbone_blocks(
    backbone: ir.Model,
    groups: int | Sequence[int] | None = None,
    at: Collection[str] | None = None,
    k: int = 1,
) -> list[Block]:
    """The blocks in which tasks can branch off: what the tree and branch spaces, tables and recommendations agree on.

    Args:
        backbone: A normalized backbone, without heads.
        groups: How many blocks, as equal in multiply-adds as possible; or how many of the blocks that are found make
            each block, in order, as (1, 3, 4, 6, 3) for TreeMTL's five blocks of ResNet-34; or None for all found.
        at: Cut at exactly these boundaries, see :func:`blocks`.
        k: Largest number of live tensors at a boundary.

    Raises:
        ModelError: As of :func:`blocks`; or the numbers in `groups` do not sum to the number of blocks found.
    """
    if groups is None or isinstance(groups, int):
        return blocks(backbone.graph, k=k, at=at, groups=groups)
    found = blocks(backbone.graph, k=k, at=at)
    if any(count < 1 for count in groups) or sum(groups) != len(found):
        msg = (
            f"the backbone has {len(found)} blocks, so groups of {', '.join(map(str, groups))} blocks do not fit; give "
            f"numbers from 1 on that sum to {len(found)}"
        )
        raise ModelError(msg)
    ends = list(itertools.accumulate(groups))
    return _joined([found[end - count : end] for end, count in zip(ends, groups, strict=True)])


def chosen_boundaries(found: Sequence[Block]) -> list[Boundary]:
    """The boundaries between blocks."""
    chosen, position = [], 0
    for block in found[:-1]:
        position += len(block.nodes)
        chosen.append(Boundary(position, block.outputs))
    return chosen


def _named(cuts: Sequence[Boundary], order: Sequence[ir.Node], name: str) -> Boundary:
    """The boundary of that name: the one with the fewest live tensors."""
    tensor = _tensor_name(order, name)
    fitting = [cut for cut in cuts if cut.name in (name, tensor)]
    if fitting:
        return min(fitting, key=lambda cut: len(cut.values))
    if tensor is not None:
        alive = len(_behind(order, tensor).values)
        hint = f"--frontier {alive} allows that" if alive > 1 else "choose another one"
        msg = f"the network cannot be cut at {name!r}: {alive or 'no'} tensors are alive there; {hint}"
        raise ModelError(msg)
    raise _unknown(name, [cut.name for cut in cuts])


def _at_any(order: Sequence[ir.Node], names: Collection[str]) -> list[Boundary]:
    """Cuts right behind the nodes that make these tensors."""
    found = []
    for name in names:
        tensor = _tensor_name(order, name)
        if tensor is None:
            raise _unknown(name, [str(value.name) for node in order for value in node.outputs])
        cut = _behind(order, tensor)
        if not cut.values:
            msg = f"the network cannot be cut at {name!r}: nothing is computed from it; name a tensor before it"
            raise ModelError(msg)
        found.append(cut)
    return found


def _tensor_name(order: Sequence[ir.Node], name: str) -> str | None:
    """The tensor of that name, or the first output of the node of that name."""
    by_node = None
    for node in order:
        if any(value.name == name for value in node.outputs):
            return name
        if node.name == name and node.outputs:
            by_node = str(node.outputs[0].name)
    return by_node


def _behind(order: Sequence[ir.Node], tensor: str) -> Boundary:
    """The frontier behind the node that makes the tensor, however large."""
    position = next(i for i, node in enumerate(order, 1) if any(value.name == tensor for value in node.outputs))
    return Boundary(position, frontier(order, position))


def _unknown(name: str, known: Collection[str]) -> ModelError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return ModelError(f"there is no tensor, node or boundary {name!r} in the network{hint}")


def _where_scopes_change(cuts: Iterable[Boundary], order: Sequence[ir.Node], depth: int) -> list[Boundary]:
    if depth < 1:
        msg = f"the depth of module scopes is a number from 1 on, not {depth}"
        raise ModelError(msg)
    found = [scope(node) for node in order]
    if all(path is None for path in found):
        msg = (
            "the nodes do not tell which torch module they come from; export the model with torch's default exporter, "
            "or name the boundaries"
        )
        raise ModelError(msg)
    short = [None if path is None else path[:depth] for path in found]
    before, behind = _last_known(short), _last_known(short[::-1])[::-1]
    return [
        cut
        for cut in cuts
        if (old := before[cut.position]) is not None and (new := behind[cut.position]) is not None and old != new
    ]


def _last_known(paths: Sequence[tuple[str, ...] | None]) -> list[tuple[str, ...] | None]:
    """For each position, the last path before it that is known."""
    known: list[tuple[str, ...] | None] = [None]
    for path in paths:
        known.append(known[-1] if path is None else path)
    return known


def _cut(graph: ir.Graph, order: Sequence[ir.Node], cuts: Sequence[Boundary]) -> list[Block]:
    inputs = tuple(value for value in graph.inputs if is_activation(value))
    parts: list[Block] = []
    start = 0
    for cut in [*cuts, Boundary(len(order), ())]:
        part = tuple(order[start : cut.position])
        if part:
            outputs = cut.values or _made_here(graph, part)
            parts.append(Block(len(parts), part, inputs, outputs))
        start, inputs = cut.position, cut.values
    return parts


def _made_here(graph: ir.Graph, nodes: Sequence[ir.Node]) -> tuple[ir.Value, ...]:
    """The graph outputs that `nodes` produce."""
    members = set(nodes)
    return tuple(value for value in graph.outputs if value.producer() in members)


def _merged(parts: Sequence[Block], kept: Collection[int]) -> list[Block]:
    """Join blocks without layers to a neighbour, but never across a position in `kept`."""
    groups: list[list[Block]] = []
    position, layers = 0, False  # whether the last group has layers
    for part in parts:
        own = part.has_layers
        if groups and position not in kept and not (own and layers):
            groups[-1].append(part)
            layers |= own
        else:
            groups.append([part])
            layers = own
        position += len(part.nodes)
    return _joined(groups)


def _dropped(parts: Sequence[Block], names: Collection[str]) -> list[Block]:
    """Join the blocks on both sides of the boundaries of these names."""
    groups: list[list[Block]] = []
    for part in parts:
        if groups and Boundary(0, groups[-1][-1].outputs).name in names:
            groups[-1].append(part)
        else:
            groups.append([part])
    return _joined(groups)


def _grouped(parts: Sequence[Block], count: int, kept: Collection[int], cost: Callable[[ir.Node], int]) -> list[Block]:
    positions = [0]
    for part in parts:
        positions.append(positions[-1] + len(part.nodes))
    fixed = [i for i, position in enumerate(positions[:-1]) if position in kept]
    if not 1 <= count <= len(parts) or len(fixed) >= count:
        most = f"has {len(parts)} blocks" + (f"; cuts that were added: {len(fixed)}" if fixed else "")
        msg = f"the network cannot be cut into {count} groups: it {most}; ask for another number"
        raise ModelError(msg)
    cuts = [0, *partition([sum(map(cost, part.nodes)) for part in parts], count, fixed), len(parts)]
    return _joined([list(parts[a:b]) for a, b in itertools.pairwise(cuts)])


def _joined(groups: Iterable[Sequence[Block]]) -> list[Block]:
    return [
        Block(i, tuple(n for block in group for n in block.nodes), group[0].inputs, group[-1].outputs)
        for i, group in enumerate(groups)
    ]


def _reads_weights(node: ir.Node) -> bool:
    weights = [value.const_value for value in node.inputs if value is not None and value.is_initializer()]
    return any(tensor is not None and tensor.size > 1 and tensor.dtype in _FLOATS for tensor in weights)

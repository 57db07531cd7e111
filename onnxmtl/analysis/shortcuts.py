"""Residual blocks: where a network adds what it computed to what it computed it from.

**An addition** is an `Add` or `Sum` of two activations or more; additions that feed nothing but another addition are
one with it, however they are nested. **It closes a residual block** with the shortcut s (one of its operands) if

- *entry*: going back from s through operators of one activation each, none of them an activation function (pooling,
  padding, convolution, normalization, transposition, …; at most one layer among them), one comes to a value that lies
  on every path from the image to all other operands (it dominates them). The first such value is the block's entry;
  it is s itself for an identity;
- *branch*: what lies between the entry and the other operands holds a layer, and does more multiply-adds than the
  shortcut;
- *single exit*: nobody else reads what lies in between, be it a head;
- *resolution*: some path through the branch has no upsampling. Where every path comes back from a coarser map, the
  addition is lateral (FPN, LinkNet, hourglass), not residual;
- the shortcut has the shape of the sum (it is not spread over it).

So additions of a bias, of positions, of the branches of HRNet or of the scales of a pyramid close no block, and
neither do joins by concatenation (ShuffleNet, DenseNet, U-Net).

**Blocks are never nested: inner ones win.** An addition around residual blocks is a long shortcut (LinkNet, EDSR's
global one, residual groups); what papers call blocks, and decide on, are the innermost ones, and a choice around
choices would be no table of independent sites.

**The exit** is behind the activation that alone reads the sum, if there is one: a block of He et al. (2016a) ends with
its ReLU. A pre-activation block, in which only normalizations and activations read the entry, begins with its own
(He et al. 2016b, transformers): the activation behind its sum belongs to what follows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import Block
from onnxmtl.analysis.frontiers import passive_values, reads
from onnxmtl.ir import Diagnostic, head_of

__all__ = ["Residual", "refused_additions", "residual_blocks"]

_SUMS = frozenset({"Add", "Sum"})
_UPSAMPLING = frozenset({"Resize", "Upsample", "ConvTranspose", "DepthToSpace", "MaxUnpool", "GridSample"})
_GATES = frozenset({"Sigmoid", "HardSigmoid", "Tanh"})  # x * Sigmoid(x) is SiLU, written as two nodes
# What a shortcut may pass through besides layers and normalizations.
_PLAIN = frozenset(
    [
        "Identity",
        "Dropout",
        "Cast",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "AveragePool",
        "MaxPool",
        "LpPool",
        "Pad",
        "Concat",
        "Add",
        "Sub",
        "Mul",
        "Div",
    ]
)
_MOST_STEPS = 16  # longest projection that is looked at


@dataclasses.dataclass(frozen=True)
class Residual:
    """A block with a shortcut: ``exit = activation(branch(entry) + shortcut(entry))``.

    Attributes:
        id: Name of the node that adds (the last one, if several do).
        entry: What branch and shortcut read.
        shortcut: The operand that goes past the branch: the entry itself, or its projection.
        add: The node that adds.
        exit: The block's result.
        branch: The nodes between the entry and the addition, in graph order.
        shortcut_nodes: The nodes of the projection, in graph order; none for an identity.
        tail: The adding nodes and the activation behind them, in graph order.
    """

    id: str
    entry: ir.Value
    shortcut: ir.Value
    add: ir.Node
    exit: ir.Value
    branch: tuple[ir.Node, ...]
    shortcut_nodes: tuple[ir.Node, ...]
    tail: tuple[ir.Node, ...]

    @property
    def identity(self) -> bool:
        """Whether the shortcut computes nothing."""
        return self.shortcut is self.entry

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes of the block: branch, projection, addition and activation."""
        return (*self.branch, *self.shortcut_nodes, *self.tail)


def residual_blocks(graph: ir.Graph) -> list[Residual]:
    """The residual blocks of a backbone or of a multi-task graph's backbone, in graph order. Read-only.

    Raises:
        ModelError: The shape that a projection's cost depends on is unknown.
    """
    return [found for found in _read(graph) if isinstance(found, Residual)]


def refused_additions(graph: ir.Graph) -> list[Diagnostic]:
    """A ``no-block`` for every addition of layers' results that closes no residual block, and why.

    Raises:
        ModelError: As :func:`residual_blocks`.
    """
    return [found for found in _read(graph) if isinstance(found, Diagnostic)]


def _read(graph: ir.Graph) -> Iterator[Residual | Diagnostic]:
    reader = _Reader(graph)
    taken: dict[ir.Node, str] = {}
    for addition in reader.additions():
        found = reader.block(addition)
        if isinstance(found, Residual):
            inner = next((taken[node] for node in found.nodes if node in taken), None)
            if inner is None:
                taken.update(dict.fromkeys(found.nodes, found.id))
                yield found
                continue
            found = f"the block that it would close holds the residual block of {inner!r}, which decides by itself"
        if found:
            name = str(addition.root.name)
            yield Diagnostic("no-block", f"this addition closes no residual block: {found}", name, "it is always made")


@dataclasses.dataclass(frozen=True)
class _Addition:
    """Nodes that make one sum of activations, and its terms."""

    root: ir.Node
    nodes: tuple[ir.Node, ...]
    terms: tuple[ir.Value, ...]


@dataclasses.dataclass(frozen=True)
class _Way:
    """How a shortcut is reached: from its entry through nodes, in graph order."""

    entry: ir.Value
    nodes: tuple[ir.Node, ...]


class _Reader:
    """One graph with its dominator tree: of every activation the nearest value on all paths from the image to it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes = [node for node in graph if head_of(node) is None]
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.passive = passive_values(self.nodes)
        self.dominator: dict[ir.Value, ir.Value | None] = {}
        self.depth: dict[ir.Value, int] = {}
        for node in self.nodes:
            above = self._activations(node)
            for value in above:
                if value not in self.depth:  # an input of the graph
                    self.dominator[value], self.depth[value] = None, 0
            nearest: ir.Value | None = above[0] if above else None
            for value in above[1:]:
                nearest = self._common(nearest, value)
            for value in node.outputs:
                self.dominator[value] = nearest
                self.depth[value] = 0 if nearest is None else self.depth[nearest] + 1

    def _activations(self, node: ir.Node) -> list[ir.Value]:
        """What the node reads, without weights, constants and shape arithmetic."""
        return [value for value in reads(node) if not value.is_initializer() and value not in self.passive]

    def _common(self, one: ir.Value | None, two: ir.Value | None) -> ir.Value | None:
        while one is not two and one is not None and two is not None:
            if self.depth[one] >= self.depth[two]:
                one = self.dominator[one]
            else:
                two = self.dominator[two]
        return one if one is two else None

    def _dominates(self, above: ir.Value, value: ir.Value) -> bool:
        current: ir.Value | None = value
        while current is not None and self.depth[current] > self.depth[above]:
            current = self.dominator[current]
        return current is above

    def additions(self) -> Iterator[_Addition]:
        """The sums of two activations or more, in graph order; one that only feeds another is part of that one."""
        for node in self.nodes:
            if self._adds(node) and not self._feeds_a_sum(node):
                nodes, terms, waiting = [node], [], list(reversed(self._activations(node)))
                while waiting:
                    value = waiting.pop()
                    maker = value.producer()
                    if maker is not None and self._adds(maker) and self._feeds_a_sum(maker):
                        nodes.append(maker)
                        waiting.extend(reversed(self._activations(maker)))
                    else:
                        terms.append(value)
                yield _Addition(node, tuple(sorted(nodes, key=self.order.__getitem__)), tuple(terms))

    def _adds(self, node: ir.Node) -> bool:
        standard = node.op_type in _SUMS and node.domain == "" and node in self.order
        return standard and len(self._activations(node)) > 1

    def _feeds_a_sum(self, node: ir.Node) -> bool:
        value = node.outputs[0]
        users = {use.node for use in value.uses()}
        return not value.is_graph_output() and len(value.uses()) == 1 and all(map(self._adds, users))

    def block(self, addition: _Addition) -> Residual | str:
        """The block that the addition closes; or why it closes none, "" if none of its operands holds a layer."""
        reasons: list[str] = []
        ways = [(value, way) for value in dict.fromkeys(addition.terms) if (way := self._way(value, addition.terms))]
        for value, way in sorted(ways, key=lambda found: (self._layers(found[1].nodes), len(found[1].nodes))):
            found = self._closed(addition, value, way)
            if isinstance(found, Residual):
                return found
            reasons.append(found)
        if ways:
            return next((reason for reason in reasons if reason), "")
        names = " and ".join(repr(str(value.name)) for value in addition.terms)
        return f"none of {names} is what the others are computed from, or a plain projection of it"

    def _way(self, shortcut: ir.Value, terms: Sequence[ir.Value]) -> _Way | None:
        """Back from `shortcut` to the first value that dominates all other terms."""
        others = [value for value in terms if value is not shortcut]
        value = shortcut
        nodes: list[ir.Node] = []
        for _ in range(_MOST_STEPS):
            if others and all(self._dominates(value, other) for other in others):
                return _Way(value, tuple(reversed(nodes)))
            node = value.producer()
            before = self._passed(node) if node is not None and node in self.order else None
            if node is None or before is None or self._layers((*nodes, node)) > 1:
                return None
            nodes.append(node)
            value = before
        return None

    def _passed(self, node: ir.Node) -> ir.Value | None:
        """The one activation that a node of a projection reads; None if it cannot be part of one."""
        above = self._activations(node)
        entry = ops.spec(node)
        if len(above) != 1 or node.domain != "" or node.op_type in _UPSAMPLING:
            return None
        if node.op_type in _PLAIN or (entry is not None and (entry.linear or entry.norm)) or _subsamples(node):
            return above[0]
        return None

    @staticmethod
    def _layers(nodes: Iterable[ir.Node]) -> int:
        return sum(Block(0, (node,), (), ()).has_layers for node in nodes)

    def _closed(self, addition: _Addition, shortcut: ir.Value, way: _Way) -> Residual | str:
        others = [value for value in addition.terms if value is not shortcut]
        branch = self._between(way.entry, others)
        if not Block(0, branch, (), ()).has_layers:
            return ""
        total = addition.root.outputs[0]
        if shortcut.shape is None or total.shape is None or shortcut.shape != total.shape:
            return f"{shortcut.name!r} has the shape {shortcut.shape}, the sum has {total.shape}"
        if not self._keeps_resolution(way.entry, others, branch):
            return f"what is added to {shortcut.name!r} comes back from a coarser map, so this is a lateral connection"
        inside = {*branch, *addition.nodes}
        escape = self._read_outside(branch, inside)
        if escape is not None:
            return escape
        costs = [sum(map(ops.multiply_adds, nodes)) for nodes in (way.nodes, branch)]
        if self._layers(way.nodes) and costs[0] >= costs[1]:
            return f"its projection costs {costs[0]} multiply-adds and what it would go around {costs[1]}"
        activation = () if self._begins_activated(way.entry, inside) else _activation_behind(total)
        return Residual(
            id=str(addition.root.name),
            entry=way.entry,
            shortcut=shortcut,
            add=addition.root,
            exit=activation[-1].outputs[0] if activation else total,
            branch=branch,
            shortcut_nodes=way.nodes,
            tail=(*addition.nodes, *activation),
        )

    def _between(
        self, entry: ir.Value, values: Iterable[ir.Value], without: Collection[str] = ()
    ) -> tuple[ir.Node, ...]:
        """The nodes on the paths from `entry`, which dominates `values`, to these; none through operators `without`."""
        found: set[ir.Node] = set()
        stack = [value for value in values if value is not entry]
        while stack:
            node = stack.pop().producer()
            if node is None or node in found or node.op_type in without:
                continue
            found.add(node)
            stack.extend(value for value in self._activations(node) if value is not entry)
        return tuple(sorted(found, key=self.order.__getitem__))

    def _keeps_resolution(self, entry: ir.Value, values: Sequence[ir.Value], branch: Sequence[ir.Node]) -> bool:
        """Whether some path from `entry` to `values` has no upsampling."""
        if not any(node.op_type in _UPSAMPLING for node in branch):
            return True
        finest = self._between(entry, values, _UPSAMPLING)
        return entry in values or any(entry in node.inputs for node in finest)

    def _read_outside(self, branch: Sequence[ir.Node], inside: Collection[ir.Node]) -> str | None:
        for node in branch:
            for value in node.outputs:
                if value.is_graph_output():
                    return f"{value.name!r}, which lies inside, is an output of the model"
                for use in value.uses():
                    if use.node not in inside and not self._measures(use.node):
                        return f"{value.name!r}, which lies inside, is read by {use.node.name!r} outside"
        return None

    def _measures(self, node: ir.Node) -> bool:
        """Whether a node only asks for a shape."""
        return all(value in self.passive for value in node.outputs)

    def _begins_activated(self, entry: ir.Value, inside: Collection[ir.Node]) -> bool:
        readers = [use.node for use in entry.uses() if use.node in inside and not self._adds(use.node)]
        gates = [node.outputs[0] for node in readers if node.op_type in _GATES]
        return bool(readers) and all(
            _is_norm(node) or _is_activation(node, entry) or any(gate in node.inputs for gate in gates)
            for node in readers
        )


def _is_norm(node: ir.Node) -> bool:
    entry = ops.spec(node)
    return entry is not None and entry.norm


def _is_activation(node: ir.Node, value: ir.Value) -> bool:
    return node.domain == "" and node.op_type in ops.ACTIVATIONS and node.inputs[0] is value


def _gated(value: ir.Value) -> tuple[ir.Node, ...]:
    """The two nodes of ``x * gate(x)`` behind `value` x, if nothing else reads it (SiLU, as exporters write it)."""
    users = [use.node for use in value.uses()]
    gate = next((node for node in users if node.op_type in _GATES and node.domain == ""), None)
    product = next((node for node in users if node.op_type == "Mul" and node.domain == ""), None)
    if len(users) != 2 or gate is None or product is None or gate.outputs[0].is_graph_output():
        return ()
    alone = [use.node for use in gate.outputs[0].uses()] == [product]
    return (gate, product) if alone and set(product.inputs) == {value, gate.outputs[0]} else ()


def _activation_behind(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes of the activation function that alone reads `value`; none if there is no such."""
    if value.is_graph_output():
        return ()
    users = [use.node for use in value.uses()]
    if len(users) == 1 and head_of(users[0]) is None and _is_activation(users[0], value):
        return (users[0],)
    return tuple(node for node in _gated(value) if head_of(node) is None)


def _subsamples(node: ir.Node) -> bool:
    """Whether a Slice only takes rows and columns of maps [N, C, H, W] (He et al. 2016a, option A), not channels."""
    if node.op_type != "Slice" or len(node.inputs) < 4 or node.outputs[0].shape is None:
        return False
    axes = node.inputs[3]
    if axes is None or axes.const_value is None or len(node.outputs[0].shape) != 4:
        return False
    return all(int(axis) % 4 >= 2 for axis in axes.const_value.numpy())

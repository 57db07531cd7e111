"""The blocks of a multi-task graph's backbone in which tasks can branch off.

They are those of :func:`onnxmtl.analysis.blocks.backbone_blocks`, which tables and recommendations use too, read from
the graph without its heads. :func:`independent_blocks` joins those that no task could take from different copies:

- a block without weights (a user may cut anywhere): all its copies are the same;
- blocks with a weight in common, tied on purpose: a copy of one would tear them apart;
- blocks between which a value passes that is no floating-point number (a position, a mask, a size that is computed):
  it cannot be mixed;
- a block that a task needs nothing of, although it needs something behind it, with the block behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.analysis.frontiers import passive_values, reads
from onnxmtl.ir import Diagnostic, clone, head_of, listed
from onnxmtl.ir.passes import RemoveUnusedNodesPass

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclasses.dataclass(frozen=True)
class TrunkBlock:
    """Neighbouring nodes of the backbone in a multi-task graph.

    Attributes:
        name: The newest tensor at the boundary behind it.
        nodes: In topological order, also across blocks.
    """

    name: str
    nodes: tuple[ir.Node, ...]


def trunk_blocks(
    model: ir.Model,
    groups: int | Sequence[int] | None = None,
    at: Collection[str] | None = None,
    k: int = 1,
) -> list[TrunkBlock]:
    """The blocks of a multi-task graph without its heads; for the arguments see ``backbone_blocks``.

    Raises:
        ModelError: As of ``backbone_blocks``.
    """
    copy = clone(model)
    original = dict(zip(copy.graph, model.graph, strict=True))
    heads = [node for node in copy.graph if head_of(node) is not None]
    made = {value: None for node in copy.graph if head_of(node) is None for value in node.outputs}
    wanted = {value for node in heads for value in reads(node)} | set(copy.graph.outputs)
    copy.graph.outputs[:] = [value for value in made if value in wanted]
    copy.graph.remove(heads, safe=False)
    RemoveUnusedNodesPass()(copy)
    found = backbone_blocks(copy, groups, at, k)
    return _settled([TrunkBlock(block.name, tuple(original[node] for node in block.nodes)) for block in found])


def _settled(blocks: Sequence[TrunkBlock]) -> list[TrunkBlock]:
    """What is computed from weights alone (a table of positions, looked up) stands in the block that reads it first.

    Blocks are found in an order in which constants, which belong to nobody, may come before everything else.
    """
    where = {node: i for i, block in enumerate(blocks) for node in block.nodes}
    constant: dict[ir.Value, bool] = {}  # computed from initializers alone -> whether weights are among them
    for node in where:
        before = [value for value in reads(node) if not value.is_initializer()]
        if all(value in constant for value in before):
            weighty = bool(ops.weight_slots(node)) or any(constant[value] for value in before)
            constant.update(dict.fromkeys(node.outputs, weighty))
    moved: dict[int, list[ir.Node]] = {}
    for node in reversed(list(where)):
        readers = [where[use.node] for value in node.outputs for use in value.uses() if use.node in where]
        if readers and min(readers) > where[node] and constant.get(node.outputs[0], False):
            where[node] = min(readers)
            moved.setdefault(where[node], []).insert(0, node)
    return [
        TrunkBlock(block.name, (*moved.get(i, ()), *(node for node in block.nodes if where[node] == i)))
        for i, block in enumerate(blocks)
    ]


def preparation(blocks: Iterable[TrunkBlock]) -> set[ir.Node]:
    """Constants and sizes of the image: nodes whose results are the same whatever any block computes."""
    nodes = [node for block in blocks for node in block.nodes]
    passive = passive_values(nodes)
    computed: set[ir.Value] = set()  # by a node that does more
    found: set[ir.Node] = set()
    for node in nodes:
        more = bool(ops.weight_slots(node)) or any(value in computed for value in reads(node))
        if more or not all(value in passive for value in node.outputs):
            computed.update(node.outputs)
        else:
            found.add(node)
    return found


def independent_blocks(
    blocks: Sequence[TrunkBlock], tasks_of: Mapping[ir.Node, Collection[str]]
) -> tuple[list[TrunkBlock], list[Diagnostic]]:
    """Join blocks as the module says.

    Args:
        blocks: As :func:`trunk_blocks` gives them.
        tasks_of: Of every node the tasks that need it.

    Returns:
        The blocks that are left, and a ``blocks-joined`` for each that was joined of several.
    """
    prepared = preparation(blocks)
    place = {node: i for i, block in enumerate(blocks) for node in block.nodes if node not in prepared}
    reasons: dict[int, str] = {}  # no cut behind this block
    for first, last, reason in [*_weightless(blocks), *_tied(place), *_not_mixed(place), *_gaps(place, tasks_of)]:
        for i in range(first, last):
            reasons.setdefault(i, reason)
    parts: list[list[int]] = []
    for i in range(len(blocks)):
        if parts and i - 1 in reasons:
            parts[-1].append(i)
        else:
            parts.append([i])
    found, remarks = [], []
    for part in parts:
        name = blocks[part[-1]].name
        found.append(TrunkBlock(name, tuple(node for i in part for node in blocks[i].nodes)))
        if len(part) > 1:
            names = listed([blocks[i].name for i in part])
            because = "; ".join(dict.fromkeys(reasons[i] for i in part[:-1]))
            message = f"the blocks {names} are one: {because}"
            remarks.append(Diagnostic("blocks-joined", message, name, "tasks take them from one copy"))
    return found, remarks


def _weightless(blocks: Sequence[TrunkBlock]) -> Iterator[tuple[int, int, str]]:
    weighty = [any(ops.weight_slots(node) for node in block.nodes) for block in blocks]
    for i, block in enumerate(blocks):
        if not weighty[i] and len(blocks) > 1:
            first = i - 1 if any(weighty[:i]) else i
            yield first, first + 1, f"{block.name!r} has no weights"


def _tied(place: Mapping[ir.Node, int]) -> Iterator[tuple[int, int, str]]:
    users: dict[ir.Value, list[int]] = {}
    for node, block in place.items():
        for _, value in ops.weight_slots(node):
            users.setdefault(value, []).append(block)
    for value, where in users.items():
        if min(where) < max(where):
            yield min(where), max(where), f"the weight {value.name!r} is tied across them"


def _not_mixed(place: Mapping[ir.Node, int]) -> Iterator[tuple[int, int, str]]:
    for node, block in place.items():
        for value in reads(node):
            before = place.get(value.producer(), block)  # type: ignore[arg-type]
            if before < block and value.dtype not in _FLOATS:
                yield before, block, f"{value.name!r} passes from one to the other and is no floating-point number"


def _gaps(place: Mapping[ir.Node, int], tasks_of: Mapping[ir.Node, Collection[str]]) -> Iterator[tuple[int, int, str]]:
    needed: dict[str, set[int]] = {}
    for node, block in place.items():
        for task in tasks_of[node]:
            needed.setdefault(task, set()).add(block)
    for task, found in needed.items():
        for missing in sorted(set(range(max(found))) - found):
            yield missing, missing + 1, f"task {task!r} needs nothing of one of them, but what is behind"

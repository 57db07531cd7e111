"""A task's way through the trunk of a multi-task model, and the places where another task can leave it.

A new task that *leaves* a path at a place has everything before it in common with that path, and a copy of its own of
everything behind it. A place is a tensor that alone leads from the layers before it to those behind it (a boundary of
:mod:`onnxmtl.analysis.frontiers`); the image is the first one, what the head reads the last.

Where every task has a network of its own and the networks read each other (fusion), a path is the task's own network.
What it reads from the others stays as it is, wherever the new task leaves.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxmtl.analysis.blocks import Block
from onnxmtl.analysis.frontiers import Boundary, boundaries, is_activation, passive_values, reads
from onnxmtl.errors import ModelError
from onnxmtl.ir import head_of, sources, tasks_of_nodes


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a task can leave a path.

    Attributes:
        name: What people call it: the tensor of the backbone that the last layer before it makes.
        position: Number of the path's nodes before it; 0: the image.
        block: Whether there are layers on both sides, or it is the image or the last place: all others are in the
            middle of a block, and only taken if somebody names them.
        names: Other names that it goes by: its tensor, the node that makes it, the user's nodes behind that.
    """

    name: str
    position: int
    block: bool
    names: frozenset[str]


@dataclasses.dataclass(frozen=True, eq=False)
class TaskPath:
    """A task's way from the image to its head.

    Attributes:
        task: Name of the task.
        nodes: Of the trunk, in the order of the graph; those of other tasks' networks left out.
        features: What its head reads, from the image on.
        places: From the image to the features.
    """

    task: str
    nodes: tuple[ir.Node, ...]
    features: tuple[ir.Value, ...]
    places: tuple[Place, ...]

    def behind(self, place: Place) -> tuple[ir.Node, ...]:
        """The nodes behind a place."""
        return self.nodes[place.position :]

    def named(self, name: str) -> Place:
        """The place of that name.

        Raises:
            ModelError: There is none; names those that are close, or all.
        """
        fitting = [place for place in self.places if place.name == name]
        fitting = fitting or [place for place in self.places if name in place.names]
        if fitting:
            return fitting[-1]
        known = [place.name for place in self.places if place.block]
        close = difflib.get_close_matches(name, [place.name for place in self.places], n=3, cutoff=0.6)
        hint = f"close to it: {', '.join(close)}" if close else f"there are: {', '.join(known)}"
        msg = f"the path of task {self.task!r} cannot be left at {name!r}; {hint}"
        raise ModelError(msg)


def task_path(graph: ir.Graph, task: str, backbone: ir.Graph, *, others: Collection[str] = ()) -> TaskPath:
    """The path of one task.

    Args:
        graph: Of a multi-task model with its heads, in topological order. Read-only.
        task: Name of one of its outputs.
        backbone: The network that it was made from; its tensors give places their names.
        others: Tasks with networks of their own, apart from this one; their nodes are called ``{task}/…``.

    Raises:
        ModelError: The task has no head, or its head reads nothing that the trunk computes.
    """
    needed = tasks_of_nodes(graph)
    mine = [node for node in graph if task in needed[node]]
    passive = passive_values(graph)
    heads = [node for node in mine if head_of(node) is not None]
    read = {value for node in heads for value in reads(node) if is_activation(value) and value not in passive}
    trunk = [node for node in mine if head_of(node) is None]
    features = tuple(value for node in trunk for value in node.outputs if value in read)
    if not features:
        msg = f"the head of task {task!r} reads nothing that the trunk computes: nothing can be shared with it"
        raise ModelError(msg)
    apart = tuple(f"{other}/" for other in others)
    trunk = [node for node in trunk if not str(node.name).startswith(apart)]
    return TaskPath(task, tuple(trunk), features, tuple(_places(graph, trunk, features, backbone)))


def _places(graph: ir.Graph, trunk: Sequence[ir.Node], features: Sequence[ir.Value], backbone: ir.Graph) -> list[Place]:
    passive = passive_values(trunk)
    inside = {value for node in trunk for value in node.outputs} | set(graph.inputs)

    def counts(value: ir.Value) -> bool:
        return is_activation(value) and value not in passive and value in inside

    found = boundaries(trunk, counts=counts)
    whole = _between_layers(trunk, found)
    called = {name: str(node.outputs[0].name) for node in backbone for name in (str(node.name), *sources(node))}
    image = str(graph.inputs[0].name)
    places = [Place(image, 0, True, frozenset((image, "image", "input")))]
    for cut in found:
        places.append(_place(cut.values[-1], cut.position, cut.position in whole, called))
    places.append(_place(features[-1], len(trunk), True, called))
    return places


def _place(value: ir.Value, position: int, block: bool, called: dict[str, str]) -> Place:
    node = value.producer()
    names = {str(value.name)}
    if node is not None:
        users = sources(node)
        names |= {str(node.name), *users, *(called[name] for name in users if name in called)}
        # Of several sources (a folded normalization, an activation) the last one's tensor is the block's.
        tensors = [called[name] for name in users if name in called]
        if len(tensors) == 1:
            return Place(tensors[0], position, block, frozenset(names))
    return Place(str(value.name), position, block, frozenset(names))


def _between_layers(trunk: Sequence[ir.Node], found: Sequence[Boundary]) -> Collection[int]:
    """Positions of the boundaries that have a layer on both sides, up to the next one of these."""
    starts = [0, *(cut.position for cut in found)]
    ends = [*starts[1:], len(trunk)]
    kept = set()
    layers = False
    for start, end in zip(starts, ends, strict=True):
        own = Block(0, tuple(trunk[start:end]), (), ()).has_layers
        if own and layers:
            kept.add(start)
        layers |= own
    return kept

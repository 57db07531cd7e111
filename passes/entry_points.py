"""Cutting a multi-task model into segments, so that a runtime can compute some tasks without the others.

A node's *label* is the set of outputs (tasks) that need it. Along an edge u → v every task that needs v needs u, so
label(v) ⊆ label(u). From this follows all that is used here, for trees, for trunks with heads anywhere, and for
networks that exchange features alike:

- the nodes of one label are **convex**: on a way u → w → v between two of them label(u) ⊇ label(w) ⊇ label(v), which is
  label(u) again;
- the segments (one per label) have **no cycle**: an edge between two of them leads to a proper subset;
- a task runs **exactly** the nodes that it needs, if the segments run whose label it is in.

Then segments are joined where keeping them apart costs more than it saves (:func:`join_small`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxmtl.cost.profile import group_cost
from onnxmtl.errors import ModelError
from onnxmtl.ir import copy_nodes, is_supermodel, tasks_of_nodes
from onnxmtl.ir.copying import copy_shape
from onnxmtl.ir.passes import (
    LiftConstantsToInitializersPass,
    PassBase,
    Refused,
    TopologicalSortPass,
)
from onnxmtl.ops.counting import shape_at_one
from onnxmtl.passes.finalize.siblings import SeparateSiblings
from onnxmtl.passes.finalize.unused import RemoveUnused
from onnxmtl.passes.normalize.inline import InlineFunctions
from onnxmtl.passes.normalize.inputs import CleanInputs
from onnxmtl.passes.normalize.shapes import InferShapes

SEGMENT_KIND = "segment"  # "onnxmtl.kind" in a segment's metadata


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast a machine is, for weighing computing against handing over.

    Only the proportions matter. The defaults were measured as CPU time of one thread on one core of a cloud machine's
    x86-64 with AVX-512, ONNX Runtime 1.31: convolutions 3×3 of 32 to 128 channels (49 to 52 · 10⁹ per second), ReLU
    of 1 to 2 MiB, graphs of 13 segments with tensors of 1 to 2 MiB between them (7 · 10⁹ bytes per second where
    convolutions meet, which wait for their blocks of channels to be put in order; 13 · 10⁹ between ReLUs) and of 256
    bytes (11 µs a call).

    Attributes:
        multiply_adds: Per second.
        activations: Bytes of tensors written inside a segment per second.
        handed: Bytes of tensors written for, and read from, other segments per second.
        call: Seconds that running one more session takes.
    """

    multiply_adds: float = 50e9
    activations: float = 35e9
    handed: float = 7e9
    call: float = 11e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Nodes that run together.

    Attributes:
        tasks: The outputs of the model that need some of it, in the model's order.
        nodes: In the order of the graph.
        inputs: What they read from elsewhere, weights left out: the model's inputs and outputs of other segments.
        outputs: What others read: other segments, or the user.
    """

    tasks: tuple[str, ...]
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def preparation() -> list[PassBase]:
    """Passes that bring any ONNX model into the form that is cut; they leave what it computes as it is.

    Functions are expanded and constants become initializers, so that no segment has to hand them over; values have
    types and, where they can be inferred, shapes. Fused siblings are separated: they would tie their tasks together.
    """
    return [
        SeparateSiblings(),
        InlineFunctions(),
        CleanInputs(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        TopologicalSortPass(),
        RemoveUnused(),
        InferShapes(),
    ]


def segments_of(model: ir.Model) -> tuple[Segment, ...]:
    """One segment per label, in an order in which they can run: by inclusion, the largest sets first.

    Args:
        model: Prepared (:func:`preparation`); not changed. Nodes that no output needs are left out.

    Raises:
        Refused: It is a supermodel, an output is computed by no node, or a node has a graph of its own (If, Loop).
    """
    graph = model.graph
    if is_supermodel(model):
        msg = "a supermodel computes several architectures: select one first (onnxmtl specialize), then cut its model"
        raise Refused(msg)
    for value in graph.outputs:
        if value.producer() is None:
            msg = f"the output {value.name!r} is computed by no node: it is an input or a constant; leave it out"
            raise Refused(msg)
    for node in graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            msg = f"{node.op_type} {node.name!r} has a graph of its own; a model with control flow is not cut"
            raise Refused(msg)
    needing = tasks_of_nodes(graph)
    groups: dict[frozenset[str], list[ir.Node]] = {}
    for node in graph:
        if needing[node]:
            groups.setdefault(needing[node], []).append(node)
    found = [_segment(graph, nodes, label) for label, nodes in groups.items()]
    return _ordered(found)


def join_small(model: ir.Model, segments: Sequence[Segment], rates: Rates | None = None) -> tuple[Segment, ...]:
    """Join segments as long as that makes the requests faster, by estimate.

    The requests are each task alone and all tasks together, each as frequent as the others. A request runs the
    segments that its outputs depend on. A segment takes its multiply-adds and the bytes of its activations, each at its
    rate, and for being a file of its own a call and the bytes of the tensors it reads from other segments and writes
    for them (ONNX Runtime keeps activations of convolutions in blocks of channels, and reorders them at the border of a
    graph). Of all joins of two segments that hand a tensor over and leave no cycle, the best is taken, again and again,
    until none helps.

    Args:
        model: What the segments are of.
        segments: Of :func:`segments_of`.
        rates: Of the machine.

    Returns:
        Segments that can run in this order. Where shapes are not known, they are those given.
    """
    try:
        weighed = _Weighed(model.graph, segments, rates or Rates())
    except ModelError:  # nothing to weigh by
        return tuple(segments)
    parts: list[frozenset[int]] = [frozenset([i]) for i in range(len(segments))]
    now = weighed.seconds(parts)
    while True:
        tried = [(weighed.seconds(joined), i, joined) for i, joined in enumerate(weighed.joins(parts))]
        if not tried or min(tried)[0] >= now:
            break
        now, _, parts = min(tried)
    order = {node: i for i, node in enumerate(model.graph)}
    joined_segments = []
    for part in parts:
        nodes = sorted((node for i in part for node in segments[i].nodes), key=order.__getitem__)
        joined_segments.append(_segment(model.graph, nodes, {task for i in part for task in segments[i].tasks}))
    return _ordered(joined_segments)


class _Weighed:
    """Segments as numbers, and what a partition of them costs."""

    def __init__(self, graph: ir.Graph, segments: Sequence[Segment], rates: Rates) -> None:
        self._rates = rates
        home = {value: i for i, segment in enumerate(segments) for value in segment.outputs}
        self._home = home
        self._inputs = [[value for value in segment.inputs if value in home] for segment in segments]
        self._work = []
        self._bytes: dict[ir.Value, float] = {}
        for segment in segments:
            cost = group_cost(segment.nodes)
            self._work.append(cost.multiply_adds / rates.multiply_adds + cost.activation_bytes / rates.activations)
        for value in {value for inputs in self._inputs for value in inputs}:
            self._bytes[value] = _value_bytes(value)
        outputs = [home[value] for value in graph.outputs if value in home]
        self._requests = [*([output] for output in outputs), outputs]

    def joins(self, parts: Sequence[frozenset[int]]) -> Iterable[list[frozenset[int]]]:
        """Every partition with two neighbours joined that has no cycle."""
        below = self._edges(parts)
        for first in range(len(parts)):
            for second in sorted(below[first]):
                around = any(second in _reachable(below, other) for other in below[first] - {second})
                if not around:
                    rest = [part for i, part in enumerate(parts) if i not in (first, second)]
                    yield [*rest, parts[first] | parts[second]]

    def seconds(self, parts: Sequence[frozenset[int]]) -> float:
        """What all requests take together."""
        part_of = {i: p for p, part in enumerate(parts) for i in part}
        handing = [self._handing(part) for part in parts]
        work = [sum(self._work[i] for i in part) for part in parts]
        above: list[set[int]] = [set() for _ in parts]
        for source, targets in enumerate(self._edges(parts)):
            for target in targets:
                above[target].add(source)
        total = 0.0
        for request in self._requests:
            runs: set[int] = set()
            for output in request:
                runs |= _reachable(above, part_of[output])
            total += sum(work[p] + handing[p] for p in sorted(runs))
        return total

    def _handing(self, part: frozenset[int]) -> float:
        read = {value for i in part for value in self._inputs[i] if self._home[value] not in part}
        written = {
            value
            for i, inputs in enumerate(self._inputs)
            if i not in part
            for value in inputs
            if self._home[value] in part
        }
        return self._rates.call + sum(sorted(self._bytes[value] for value in (*read, *written))) / self._rates.handed

    def _edges(self, parts: Sequence[frozenset[int]]) -> list[set[int]]:
        part_of = {i: p for p, part in enumerate(parts) for i in part}
        below: list[set[int]] = [set() for _ in parts]
        for i, inputs in enumerate(self._inputs):
            for value in inputs:
                source = part_of[self._home[value]]
                if source != part_of[i]:
                    below[source].add(part_of[i])
        return below


def _reachable(below: Sequence[set[int]], start: int) -> set[int]:
    found, stack = {start}, [start]
    while stack:
        for other in below[stack.pop()] - found:
            found.add(other)
            stack.append(other)
    return found


def _value_bytes(value: ir.Value) -> float:
    producer = value.producer()
    assert producer is not None
    shape = shape_at_one(producer, value)
    return math.prod(shape) * (value.dtype.itemsize if value.dtype is not None else 0)


def segment_model(model: ir.Model, segment: Segment, name: str) -> ir.Model:
    """One segment as a model of its own. Its weights are the same tensors, not copies of them.

    Args:
        model: What the segment is of; not changed.
        segment: The segment.
        name: What the graph is called.
    """
    values: dict[ir.Value, ir.Value] = {}
    weights: list[ir.Value] = []
    for value in (*segment.inputs, *_weights(segment.nodes)):
        new = ir.Value(name=value.name, type=value.type, shape=copy_shape(value), const_value=value.const_value)
        new.metadata_props.update(value.metadata_props)
        values[value] = new
        if value.is_initializer():
            weights.append(new)
    nodes = copy_nodes(segment.nodes, values, lambda text: text)
    graph = ir.Graph(
        [values[value] for value in segment.inputs],
        [values[value] for value in segment.outputs],
        nodes=nodes,
        initializers=weights,
        opset_imports=model.graph.opset_imports,
        name=name,
    )
    made = ir.Model(graph, ir_version=model.ir_version, producer_name=model.producer_name)
    made.metadata_props["onnxmtl.kind"] = SEGMENT_KIND
    return made


def _segment(graph: ir.Graph, nodes: Sequence[ir.Node], label: Iterable[str]) -> Segment:
    inside = set(nodes)
    tasks = set(label)
    inputs: dict[ir.Value, None] = {}
    outputs: dict[ir.Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and not value.is_initializer() and value.producer() not in inside:
                inputs[value] = None
        for value in node.outputs:
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                outputs[value] = None
    names = tuple(str(value.name) for value in graph.outputs if value.name in tasks)
    return Segment(names, tuple(nodes), tuple(inputs), tuple(outputs))


def _weights(nodes: Iterable[ir.Node]) -> dict[ir.Value, None]:
    return {v: None for node in nodes for v in node.inputs if v is not None and v.is_initializer()}


def _ordered(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Producers first; among those that may run next the one of most tasks, then as they were."""
    home: Mapping[ir.Value, int] = {value: i for i, segment in enumerate(segments) for value in segment.outputs}
    waits = [{home[value] for value in segment.inputs if value in home} for segment in segments]
    left = list(range(len(segments)))
    order: list[int] = []
    while left:
        ready = [i for i in left if waits[i] <= set(order)]
        if not ready:
            msg = "the segments depend on each other in a cycle"
            raise ModelError(msg)
        chosen = min(ready, key=lambda i: (-len(segments[i].tasks), i))
        order.append(chosen)
        left.remove(chosen)
    return tuple(segments[i] for i in order)

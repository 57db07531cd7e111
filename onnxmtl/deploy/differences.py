"""What two models have in common, and the first node in which they differ, with the reason.

Read-only; the models are in the form of :func:`onnxmtl.passes.merge_models.canonical_parts` and numbered.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.value_numbers import ValueNumbers, meaning_of_attributes
from onnxmtl.cost.count import elements, trainable
from onnxmtl.errors import ModelError
from onnxmtl.ir import counted, shape_text
from onnxmtl.passes.merge_models import Part

_STATISTICS = {3: "running mean", 4: "running variance"}  # inputs of a BatchNormalization
_UPDATED = (
    "kept updating while the weights before it were frozen: put the frozen part into evaluation mode (.eval()) too "
    "when training, or give both models the same running statistics and see what that costs"
)
_ROUNDING = 2e-6  # relative to the largest number of a channel: a few ulp of single precision
_AFFINE = {1: "scale", 2: "bias"}


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first place, in the order of execution, where two models part.

    Attributes:
        cause: "weights", "statistics" (of a BatchNormalization: its running statistics alone, or, where an exporter has
            folded it into a convolution, the channels' factors and biases), "rounding" (weights, by no more than an
            exporter's rounding), "folded" (a BatchNormalization into it, in one of the two), "constant", "attribute",
            "operator", or "end" (the other model computes nothing there).
        node: Name of the first model's node.
        operator: Of that node.
        other: Name of the second model's node in its place; None at an end.
        reason: In words.
        hint: What to do about it; empty if nothing is wrong.
    """

    cause: str
    node: str
    operator: str
    other: str | None
    reason: str
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two of the models.

    Attributes:
        first, second: Their names.
        nodes: How many of the first model's nodes the second has too.
        multiply_adds: Of these, at batch 1; None if a shape is unknown.
        parameters: Trainable elements that these use.
        difference: Where they part; None if the second has every node of the first.
        alike: Nodes with weights behind that place that are equal but for their inputs: they would be shared if the
            models did not part before.
        alike_multiply_adds: Of these; None if a shape is unknown.
    """

    first: str
    second: str
    nodes: int
    multiply_adds: int | None
    parameters: int
    difference: Difference | None
    alike: int
    alike_multiply_adds: int | None

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON-ready dictionary."""
        return dataclasses.asdict(self)


def compare_parts(first: Part, second: Part, numbers: ValueNumbers) -> Pair:
    """What two parts have in common. Linear in their nodes; weights are read where the parts differ only."""
    graph, other = first.model.graph, second.model.graph
    theirs = {numbers.of_node(node) for node in other}
    shared = [node for node in graph if numbers.of_node(node) in theirs]
    alike = _alike(graph, other, numbers)
    weights = {value for node in shared for value in trainable(node)}
    return Pair(
        first=first.name,
        second=second.name,
        nodes=len(shared),
        multiply_adds=_work(shared),
        parameters=sum(map(elements, weights)),
        difference=_first_difference(graph, other, numbers),
        alike=len(alike),
        alike_multiply_adds=_work(alike),
    )


def _first_difference(graph: ir.Graph, other: ir.Graph, numbers: ValueNumbers) -> Difference | None:
    """The first node of `graph` that `other` lacks although all it reads is in both."""
    mine, theirs = ({numbers.of_node(node) for node in nodes} for nodes in (graph, other))
    known = {numbers.of(value) for value in (*graph.inputs, *_outputs(graph))}
    known &= {numbers.of(value) for value in (*other.inputs, *_outputs(other))}
    places: dict[int | None, list[ir.Node]] = collections.defaultdict(list)  # a value -> who reads it in `other` alone
    for node in other:
        if numbers.of_node(node) not in mine:
            for number in dict.fromkeys(_read(node, numbers)):
                places[number].append(node)
    lonely: ir.Node | None = None
    for node in graph:
        read = _read(node, numbers)
        if numbers.of_node(node) in theirs or not known.issuperset(read):
            continue
        candidates = [found for number in dict.fromkeys(read) for found in places.get(number, ())]
        if candidates:
            best = min(
                candidates,
                key=lambda found: (
                    found.op_type != node.op_type,
                    _read(found, numbers) != read,
                    found.name != node.name,
                ),
            )
            return _difference(node, best, numbers, (graph.opset_imports, other.opset_imports))
        lonely = lonely or node
    if lonely is None:
        return None
    reason = "the other computes nothing from what it reads that is not shared"
    return Difference("end", str(lonely.name), lonely.op_type, None, reason)


def _difference(
    node: ir.Node, other: ir.Node, numbers: ValueNumbers, opsets: tuple[Mapping[str, int], Mapping[str, int]]
) -> Difference:
    def found(cause: str, reason: str, hint: str = "") -> Difference:
        return Difference(cause, str(node.name), node.op_type, str(other.name), reason, hint)

    if (node.domain, node.op_type) != (other.domain, other.op_type):
        return found("operator", f"it is {node.op_type}, in the other {other.op_type} {str(other.name)!r}")
    differing = [
        index
        for index in range(max(len(node.inputs), len(other.inputs)))
        if numbers.of(_input(node, index)) != numbers.of(_input(other, index))
    ]
    if differing:
        slots = {id(value) for each in (node, other) for _, value in ops.weight_slots(each)}
        said = [_values(node, other, index) for index in differing]
        if node.op_type == "BatchNormalization" and set(differing) <= set(_STATISTICS):
            return found("statistics", "; ".join(said), f"this BatchNormalization {_UPDATED}")
        change = _change_of_kernel(node, other)
        if change == "statistics":
            said.insert(0, "each channel of its weight is a multiple of the other's")
            if _normalized(node) != _normalized(other):
                return found("folded", said[0], "one exporter folded its BatchNormalization: export both the same way")
            return found(change, "; ".join(said), f"a BatchNormalization was folded into it that {_UPDATED}")
        if change == "rounding":
            return found(change, "; ".join(said), "only rounding differs: export both models the same way")
        first = (_input(each, differing[0]) for each in (node, other))
        cause = "weights" if any(id(value) in slots for value in first if value is not None) else "constant"
        return found(cause, "; ".join(said))
    one, two = (dict(_attributes(n, o)) for n, o in zip((node, other), opsets, strict=True))
    for name in sorted({*one, *two}):
        if one.get(name) != two.get(name):
            return found("attribute", f"its {name} is {_text(one.get(name))}, in the other {_text(two.get(name))}")
    if len(node.outputs) != len(other.outputs):
        return found("attribute", f"it has {counted(len(node.outputs), 'output')}, in the other {len(other.outputs)}")
    return found("operator", f"{node.op_type} may compute something else each time, or has a graph inside")


def _values(node: ir.Node, other: ir.Node, index: int) -> str:
    """In which way input `index` differs."""
    name = _slot(node, index)
    one, two = (_constant(_input(n, index)) for n in (node, other))
    if one is None or two is None:
        said = ["given" if _input(n, index) is not None else "left out" for n in (node, other)]
        return f"its {name} is {said[0]}, in the other {said[1]}" if said[0] != said[1] else f"its {name} differs"
    if one.dtype != two.dtype:
        return f"its {name} is {one.dtype.name.lower()}, in the other {two.dtype.name.lower()}"
    shapes = [list(tensor.shape.numpy()) for tensor in (one, two)]
    if shapes[0] != shapes[1]:
        return f"its {name} has shape {shape_text(shapes[0])}, in the other {shape_text(shapes[1])}"
    if one.dtype is ir.DataType.STRING:
        return f"its {name} differs"
    a, b = (np.asarray(tensor.numpy()) for tensor in (one, two))
    if a.size <= 8 and a.dtype.kind in "biu":
        return f"its {name} is {a.tolist()}, in the other {b.tolist()}"
    a, b = a.astype(np.float64), b.astype(np.float64)
    differ = int(np.count_nonzero(~((a == b) | (np.isnan(a) & np.isnan(b)))))
    if not differ:
        return f"its {name} differs in the sign of zeros only, or in the bits of what is no number"
    delta, largest = float(np.nanmax(np.abs(a - b))), float(np.nanmax(np.abs(a)))
    share = f"{differ} of {a.size} numbers differ"
    return f"its {name} differs: max |Δ| {delta:.3g} (largest {largest:.3g}), {share}"


def _change_of_kernel(node: ir.Node, other: ir.Node) -> str:
    """What happened to a convolution's weight between two models; empty if it was trained, or is the same.

    A folded BatchNormalization leaves W·γ/√(variance + ε): if W and γ were frozen, each channel is the other's times a
    number. Numbers drawn or trained apart from each other are not.
    """
    one, two = (_constant(_input(each, 1)) for each in (node, other))
    if node.op_type != "Conv" or one is None or two is None or one.dtype != two.dtype:
        return ""
    if list(one.shape.numpy()) != list(two.shape.numpy()) or not one.dtype.is_floating_point():
        return ""
    a, b = (np.asarray(tensor.numpy()).astype(np.float64).reshape(tensor.shape.numpy()[0], -1) for tensor in (one, two))
    if np.array_equal(a, b):
        return ""
    scale = np.abs(a).max(axis=1, keepdims=True)
    if (np.abs(a - b) <= _ROUNDING * scale).all():
        return "rounding"
    factors = (a * b).sum(axis=1, keepdims=True) / np.maximum((a * a).sum(axis=1, keepdims=True), np.finfo(float).tiny)
    # A channel of one number is a multiple of any.
    multiples = (np.abs(b - factors * a) <= _ROUNDING * np.abs(b).max(axis=1, keepdims=True)).all()
    return "statistics" if multiples and a.shape[1] > 1 and (factors > 0).all() else ""


def _normalized(node: ir.Node) -> bool:
    """Whether a BatchNormalization stands behind the node."""
    return any(user.op_type == "BatchNormalization" for value in node.outputs for user in value.consumers())


def _slot(node: ir.Node, index: int) -> str:
    if node.op_type == "BatchNormalization" and node.domain == "":
        return (_STATISTICS | _AFFINE).get(index, f"input {index}")
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and index in (1, 2):
        return "weight" if index == 1 else "bias"
    return f"input {index}"


def _alike(graph: ir.Graph, other: ir.Graph, numbers: ValueNumbers) -> list[ir.Node]:
    """Nodes of `graph` that `other` lacks, but has with the same operator, attributes and weights."""
    mine = {numbers.of_node(node) for node in graph}
    theirs = {numbers.of_node(node) for node in other}
    available = collections.Counter(
        _with_weights(node, other.opset_imports, numbers) for node in other if numbers.of_node(node) not in mine
    )
    del available[None]
    found = []
    for node in graph:
        key = None if numbers.of_node(node) in theirs else _with_weights(node, graph.opset_imports, numbers)
        if key is not None and available[key] > 0:
            available[key] -= 1
            found.append(node)
    return found


def _with_weights(node: ir.Node, opsets: Mapping[str, int], numbers: ValueNumbers) -> Hashable | None:
    """Operator, attributes and weights; None for a node without weights."""
    slots = {slot.index for slot, _ in ops.weight_slots(node)}
    attributes = meaning_of_attributes(node, opsets)
    if not slots or attributes is None:
        return None
    weights = tuple(numbers.of(v) if v is not None and v.is_initializer() else None for v in node.inputs)
    return (node.domain, node.op_type, attributes, weights)


def _read(node: ir.Node, numbers: ValueNumbers) -> tuple[int | None, ...]:
    """What the node reads that is no initializer."""
    return tuple(numbers.of(v) for v in node.inputs if v is not None and not v.is_initializer())


def _outputs(graph: ir.Graph) -> Iterable[ir.Value]:
    return (value for node in graph for value in node.outputs)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _attributes(node: ir.Node, opsets: Mapping[str, int]) -> Iterable[tuple[str, Hashable]]:
    found = meaning_of_attributes(node, opsets)
    return found if isinstance(found, tuple) else ()


def _text(value: Hashable) -> str:
    if value is None:
        return "left out"
    return str(list(value)) if isinstance(value, tuple) and value[:1] != ("tensor",) else str(value)[:60]


def _work(nodes: Iterable[ir.Node]) -> int | None:
    """Multiply-adds at batch 1; None if a shape is unknown."""
    try:
        return sum(map(ops.multiply_adds, nodes))
    except ModelError:
        return None

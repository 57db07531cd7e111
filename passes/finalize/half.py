"""float16, mixed with float32: half the size of the file, and on devices that have it half the memory traffic.

float16 has 11 bits of precision and ends at 65504. What is known to bear that becomes float16: convolutions, matrix
products, and what works element by element or moves elements about (:data:`SAFE`). Everything else stays float32:

- operators that add up many elements, or exponentiate, divide or take roots: softmax, means, norms, normalizations;
- arithmetic that does not come from the image, such as the factors of a Resize, which must be exact;
- a node whose weights do not fit, because they are too large, or so small that float16 loses more than
  :data:`LOST` of them;
- a node of which an activation came near the end of the range on the images that were given.

The model's input and outputs stay float32: a Cast stands where precision changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import Diagnostic, Namer, copy_initializer, head_of, report, stamp
from onnxmtl.ir.copying import copy_shape
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ir.provenance import HEAD_KEY

PRECISION_KEY = "onnxmtl.precision"
FLOAT16 = "float16"

SAFE = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul"),
        *("Relu", "LeakyRelu", "PRelu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu", "Erf"),
        *("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Where", "MaxPool", "AveragePool", "Resize"),
        *("Concat", "Split", "Slice", "Gather", "Pad", "Expand", "Tile", "Identity", "DepthToSpace", "SpaceToDepth"),
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
    )
)
LARGEST = float(np.finfo(np.float16).max)
LOST = 0.01  # of a weight's Euclidean norm; 2e-4 is what rounding alone takes
ROOM = 4.0  # activations of images that nobody has seen may be so much larger

_ANY_TYPE = frozenset(("Shape", "Size", "Cast"))  # read a value of any type and give none of it
_SINGLE, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class HalfPrecision(InPlacePass):
    """Make of a float32 model one that computes in float16 where it can.

    Requires types on all values. Ensures that inputs and outputs keep names and types, and that an operator has the
    weights it had: a trained weight that one float32 operator reads stays float32 for all that read it.

    Args:
        largest: Name of a value -> the largest absolute number seen there; values without an entry are taken to fit.
    """

    preserves_numerics = False  # to three digits, not to the last bit

    def __init__(self, largest: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.largest = dict(largest or {})

    def call(self, model: ir.Model) -> PassResult:
        """Decide per node, convert, and put casts between."""
        graph = model.graph
        opset = graph.opset_imports.get("", 1)
        chosen = self._chosen(model)
        if not chosen:
            return PassResult(model, modified=False)
        half = {node: half_inputs(node, opset) for node in graph if node in chosen}
        namer = Namer(graph)
        _convert(graph, namer, half)
        _insert_casts(self, graph, namer, half)
        model.metadata_props[PRECISION_KEY] = FLOAT16
        return PassResult(model, modified=True)

    def _chosen(self, model: ir.Model) -> set[ir.Node]:
        graph = model.graph
        opset = graph.opset_imports.get("", 1)
        trained = set(ops.trainable_values(graph))
        derived = {value for value in graph.inputs if value.dtype is _SINGLE}  # from the image, by float arithmetic
        chosen: dict[ir.Node, list[ir.Value]] = {}
        for node in graph:
            if not any(value in derived for value in node.inputs):
                continue
            derived.update(value for value in node.outputs if value.dtype is _SINGLE)
            read = [node.inputs[i] for i in half_inputs(node, opset)]
            if not any(value in derived for value in read):
                continue
            known = [value for value in read if value is not None and (value in derived or value.is_initializer())]
            if len(known) < len(read):
                continue
            if why := self._unfit(node, known, trained):
                report(model, Diagnostic("kept-float32", why, str(node.name)))
            else:
                chosen[node] = known
        return _without_shared(chosen, trained)

    def _unfit(self, node: ir.Node, read: Iterable[ir.Value], trained: Collection[ir.Value]) -> str:
        """Why the numbers of a node do not fit float16; empty if they do."""
        for value in (*read, *node.outputs):
            if value.is_initializer():
                bound = node.op_type == "Clip"  # a bound beyond the range is none
                if why := "" if bound else _lost(value, "weight" if value in trained else "constant"):
                    return why
            elif not ROOM * (most := self.largest.get(str(value.name), 0.0)) <= LARGEST:  # nan does not fit either
                return f"{value.name!r} reaches {most:.3g} and may get larger; float16 ends at {LARGEST:.0f}"
        return ""


def half_inputs(node: ir.Node, opset: int) -> list[int]:
    """Positions of the inputs that become float16 if the node does; none if it may not.

    They are those that have the type of the result: not the factors of a Resize, not the condition of a Where.

    Args:
        node: Any node.
        opset: Of the model.
    """
    if node.domain != "" or node.op_type not in SAFE or not onnx.defs.has(node.op_type, ""):
        return []
    schema = onnx.defs.get_schema(node.op_type, node.version or opset, "")
    kind = schema.outputs[0].type_str
    allowed = [c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == kind]
    if not allowed or "tensor(float16)" not in allowed[0]:
        return []
    last = len(schema.inputs) - 1
    kinds = [schema.inputs[min(i, last)].type_str for i in range(len(node.inputs))]
    return [i for i, value in enumerate(node.inputs) if value is not None and kinds[i] == kind]


def _lost(value: ir.Value, what: str) -> str:
    """Why an initializer does not fit; empty if it does."""
    assert value.const_value is not None
    array = value.const_value.numpy().astype(np.float64)
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= LARGEST:
        return f"its {what} {value.name!r} reaches {largest:.3g}; float16 ends at {LARGEST:.0f}"
    norm = float(np.linalg.norm(array))
    lost = float(np.linalg.norm(array - array.astype(np.float16))) / norm if norm else 0.0
    return (
        f"float16 would lose {lost:.0%} of its {what} {value.name!r}, whose numbers are too small"
        if lost > LOST
        else ""
    )


def _without_shared(chosen: Mapping[ir.Node, list[ir.Value]], trained: Collection[ir.Value]) -> set[ir.Node]:
    """The chosen nodes but those that share a trained weight with one that is not."""
    left = set(chosen)
    while True:
        apart = {
            node
            for node in left
            if any(value in trained and any(use.node not in left for use in value.uses()) for value in chosen[node])
        }
        if not apart:
            return left
        left -= apart


def _convert(graph: ir.Graph, namer: Namer, half: Mapping[ir.Node, list[int]]) -> None:
    """Weights and results of the nodes become float16; a constant that float32 nodes read too is copied."""
    copies: dict[ir.Value, ir.Value] = {}
    for node in graph:
        for index in half.get(node, ()):
            value = node.inputs[index]
            assert value is not None
            if not value.is_initializer() or value.dtype is _HALF:
                continue
            if all(use.idx in half.get(use.node, ()) for use in value.uses()):
                value.const_value, value.type = _rounded(value, str(value.name)), ir.TensorType(_HALF)
                continue
            if value not in copies:
                name = namer.unique(f"{value.name}/float16")
                copies[value] = copy_initializer(graph, value, name, _rounded(value, name))
                copies[value].type = ir.TensorType(_HALF)
            node.replace_input_with(index, copies[value])
        if node in half:
            for value in node.outputs:
                value.type = ir.TensorType(_HALF)


def _rounded(value: ir.Value, name: str) -> ir.TensorProtocol:
    assert value.const_value is not None
    array = value.const_value.numpy()
    bounded = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return ir.tensor(bounded.astype(np.float16), name=name)


def _insert_casts(made_by: object, graph: ir.Graph, namer: Namer, half: Mapping[ir.Node, list[int]]) -> None:
    """A Cast wherever a node reads, or an output is, of the other precision; one for all readers of a value."""
    cast: dict[ir.Value, ir.Value] = {}
    for half_output in [value for value in graph.outputs if value.dtype is _HALF]:
        name, half_output.name = str(half_output.name), None
        half_output.name = namer.unique(f"{name}_float16")
        made = _cast(made_by, namer, half_output, _SINGLE, name)
        producer = half_output.producer()
        assert producer is not None
        graph.insert_after(producer, made)
        cast[half_output] = made.outputs[0]
        graph.outputs[:] = [made.outputs[0] if output is half_output else output for output in graph.outputs]
    for node in list(graph):
        for index, value in enumerate(node.inputs):
            wanted = _HALF if index in half.get(node, ()) else _SINGLE
            if value is None or value.dtype not in (_SINGLE, _HALF) or value.dtype is wanted:
                continue
            if node.op_type in _ANY_TYPE or node.outputs[0] is cast.get(value):
                continue
            if value not in cast:
                made = _cast(made_by, namer, value, wanted, "")
                if (task := head_of(node)) is not None:
                    made.metadata_props[HEAD_KEY] = task
                graph.insert_before(node, made)
                cast[value] = made.outputs[0]
            node.replace_input_with(index, cast[value])


def _cast(made_by: object, namer: Namer, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    kind = FLOAT16 if to is _HALF else "float32"
    out = ir.Value(name=name or namer.unique(f"{value.name}/{kind}"), type=ir.TensorType(to), shape=copy_shape(value))
    label = namer.unique(f"{value.name}/to_{kind}")
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], outputs=[out], name=label)
    producer = value.producer()
    if producer is not None and (task := head_of(producer)) is not None:
        node.metadata_props[HEAD_KEY] = task
    return stamp(node, made_by)

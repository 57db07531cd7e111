"""Everything that can be computed from constants is computed, shape arithmetic with an open batch size included."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, is_choice, new_initializer, report, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import is_constant, mark_constant
from onnxmtl.passes.normalize.batch_sizes import BATCH, batch_multiple
from onnxmtl.passes.normalize.branches import take_branch
from onnxmtl.passes.normalize.evaluate import Array, can_evaluate, evaluate, result_elements
from onnxmtl.passes.normalize.resize import resize_height_and_width
from onnxmtl.passes.normalize.shapes import infer_node

# Shape arithmetic with an open batch N is evaluated for two values of N. What is equal does not depend on N; what is
# k·N in both is k·N. Primes, so that no other number of a network is a multiple of them by accident.
_PROBES = (7919, 7907)
_SHAPE_ELEMENTS = 64
REPEATED = "onnxmtl.repeated"  # in a value's meta: one number, repeated by the graph; nobody stored it as a weight
_REPEATING = frozenset({"Expand", "Tile", "Gather", "GatherND"})


class FoldConstants(InPlacePass):
    """Replaces what depends on constants only by initializers.

    - Constant nodes, ConstantOfShape weights, arithmetic on constants: evaluated by onnx's reference implementation.
    - Identity of a weight: the weight itself (the tie stays visible to ``UntieWeights``).
    - Shape arithmetic: folded where image size and channels are known. With an open batch size N, a Reshape to
      [N, 128] is given [-1, 128], and an Expand to [N, 1, 128] a Concat of a Shape and constants.
    - If with a known condition: the branch.

    A weight that is repeated (Expand, Tile) stays the weight: the repetition is computed.

    Requires: initializers are no inputs; producers before consumers.
    Ensures: types and shapes are inferred where inference succeeds; a failure is left for ``InferShapes`` to report.

    Args:
        limit: Results of more than this many bytes stay nodes, unless their inputs are as large.
    """

    preserves_numerics = True

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self.limit = limit

    def call(self, model: ir.Model) -> PassResult:
        """Walk once in graph order; inference and folding help each other on the way."""
        walk = _Walk(model, self.limit, Namer(model.graph), dict(model.graph.opset_imports))
        modified = False
        for node in model.graph:
            modified |= walk.visit(node)
        modified |= remove_dead(model.graph)
        return PassResult(model, modified)


@dataclasses.dataclass
class _Walk:
    model: ir.Model
    limit: int
    namer: Namer
    opsets: dict[str, int]
    # Small integer values that depend on N: their values for both probes.
    probes: dict[ir.Value, tuple[Array, Array]] = dataclasses.field(default_factory=dict)
    # k -> the last value whose shape was asked for that has a dimension k·N, and that dimension's axis.
    origins: dict[int, tuple[ir.Value, int]] = dataclasses.field(default_factory=dict)

    def visit(self, node: ir.Node) -> bool:
        if is_choice(node):
            return infer_node(node, self.opsets)
        if node.op_type == "If" and node.domain == "":
            return self._branch(node)
        if self._alias(node):
            return True
        changed = _cast_like_to_cast(node) or self._rewrite_shape_input(node)
        try:
            changed |= infer_node(node, self.opsets)
        except ModelError:
            # The faulty node may lie behind the features and be cut off; if not, InferShapes says it.
            return changed
        if self._is_foldable(node):
            return self._fold(node) or changed
        return self._probe(node) or changed

    def _alias(self, node: ir.Node) -> bool:
        """Identity of a weight (exporters share biases that way) is the weight."""
        source = node.inputs[0] if node.op_type == "Identity" and node.domain == "" else None
        if source is None or not source.is_initializer() or source.is_graph_input():
            return False
        if node.outputs[0].is_graph_output():
            return False
        node.outputs[0].replace_all_uses_with(source)
        self.model.graph.remove(node, safe=True)
        return True

    def _branch(self, node: ir.Node) -> bool:
        """Behind the If its branch is visited next."""
        condition = node.inputs[0]
        if condition is None or condition.const_value is None or condition.is_graph_input():
            return False
        taken = bool(condition.const_value.numpy().reshape(-1)[0])
        return take_branch(self.model.graph, node, taken, self.namer)

    def _is_foldable(self, node: ir.Node) -> bool:
        return (
            can_evaluate(node)
            and not _repeats_weight(node)
            and all(v is None or (v.const_value is not None and not v.is_graph_input()) for v in node.inputs)
            and not any(value.is_graph_output() for value in node.outputs)
        )

    def _fold(self, node: ir.Node) -> bool:
        graph = self.model.graph
        if node.op_type == "Constant" and "value" in node.attributes:
            tensors = [node.attributes["value"].as_tensor()]
        else:
            size = sum(value.const_value.nbytes for value in node.inputs if value is not None and value.const_value)
            known = sum(_bytes(value) for value in node.outputs)
            # A transposed memory-mapped weight is no larger than the weight: allowed at any size.
            if known > self.limit and known > size:
                message = (
                    f"{node.op_type} stays a node: its result has {known} bytes, more than the limit of {self.limit}"
                )
                report(
                    self.model, Diagnostic("not-folded", message, str(node.name), "FoldConstants(limit=…) raises it")
                )
                return False
            arrays = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs]
            if result_elements(node, arrays) * 4 > max(self.limit, size):
                return False
            results = evaluate(node, arrays, self.opsets)
            if results is None:
                report(self.model, Diagnostic("not-folded", f"{node.op_type} could not be evaluated", str(node.name)))
                return False
            tensors = [ir.tensor(np.asarray(result)) for result in results]
        for value, tensor in zip(node.outputs, tensors, strict=True):
            if value.uses():
                name = str(value.name)
                value.name = self.namer.unique(f"{name}.folded")  # free the name: the initializer takes it over
                weight = ir.Value(
                    name=name,
                    type=ir.TensorType(tensor.dtype),
                    shape=ir.Shape(tensor.shape.numpy()),
                    const_value=tensor,
                )
                weight.metadata_props.update(value.metadata_props)
                if node.op_type == "Expand":
                    weight.meta[REPEATED] = True
                if tensor.dtype.is_floating_point() and _of_constants(node):
                    mark_constant(weight, "folded")
                graph.register_initializer(weight)
                value.replace_all_uses_with(weight)
        graph.remove(node, safe=True)
        return True

    def _probe(self, node: ir.Node) -> bool:
        """Evaluate shape arithmetic that depends on N for both probes; fold it if the results agree."""
        pairs = self._probe_inputs(node)
        if pairs is None:
            return False
        results: list[list[Array]] = []
        for k in range(2):
            if node.op_type in ("Shape", "Size"):
                values = shape_of(node, _PROBES[k])
                self._remember(node.inputs[0])
            else:
                arrays = [None if pair is None else pair[k] for pair in pairs]
                if result_elements(node, arrays) > _SHAPE_ELEMENTS:
                    return False
                values = evaluate(node, arrays, self.opsets)
            if values is None:
                return False
            results.append(values)
        first, second = results
        if any(a.shape != b.shape or a.size > _SHAPE_ELEMENTS for a, b in zip(first, second, strict=True)):
            return False
        if any(value.is_graph_output() for value in node.outputs):
            return False
        if not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
            self.probes.update(zip(node.outputs, zip(first, second, strict=True), strict=True))
            return False
        for value, array in zip(node.outputs, first, strict=True):
            if value.uses():
                weight = new_initializer(self.model.graph, self.namer.unique(f"{value.name}.static"), array)
                value.replace_all_uses_with(weight)
        return True

    def _remember(self, value: ir.Value | None) -> None:
        for axis, dim in enumerate(() if value is None or value.shape is None else value.shape):
            multiple = batch_multiple(dim)
            if value is not None and multiple is not None and multiple[1] == BATCH:
                self.origins[multiple[0]] = value, axis

    def _probe_inputs(self, node: ir.Node) -> list[tuple[Array, Array] | None] | None:
        """The inputs for both probes; None if this is no shape arithmetic."""
        if not can_evaluate(node):
            return None
        if node.op_type in ("Shape", "Size"):
            return []
        pairs: list[tuple[Array, Array] | None] = []
        depends = False
        for value in node.inputs:
            if value is None:
                pairs.append(None)
            elif value in self.probes:
                pairs.append(self.probes[value])
                depends = True
            elif value.const_value is not None and value.const_value.size <= _SHAPE_ELEMENTS:
                array = value.const_value.numpy()
                pairs.append((array, array))
            else:
                return None
        return pairs if depends else None

    def _rewrite_shape_input(self, node: ir.Node) -> bool:
        """Give a Reshape whose target depends on N in one place a constant target with -1 there; likewise Resize."""
        if node.op_type == "Resize" and node.domain == "" and len(node.inputs) > 3 and node.inputs[3] in self.probes:
            first, second = self.probes[node.inputs[3]]
            if np.array_equal(first[1:], second[1:]):
                return resize_height_and_width(node, [int(size) for size in first], self.model.graph, self.namer)
        if node.op_type in ("Expand", "ConstantOfShape") and node.domain == "" and node.inputs[-1] in self.probes:
            return self._name_dimensions(node, self.probes[node.inputs[-1]])
        if node.op_type != "Reshape" or node.domain != "" or node.inputs[1] not in self.probes:
            return False
        pair = self.probes[node.inputs[1]]
        target = static_target(node, pair)
        if target is None:
            return False
        weight = new_initializer(self.model.graph, self.namer.unique(f"{node.name}.shape"), np.array(target, np.int64))
        node.replace_input_with(1, weight)
        node.attributes.pop("allowzero", None)
        return True

    def _name_dimensions(self, node: ir.Node, pair: tuple[Array, Array]) -> bool:
        """Make a shape that depends on N a Concat of constants and of dimensions that are read, as inference knows."""
        graph = self.model.graph
        parts: list[ir.Value] = []
        constants: list[int] = []

        def flush() -> None:
            if constants:
                name = self.namer.unique(f"{node.name}.dims")
                parts.append(new_initializer(graph, name, np.array(constants, np.int64)))
                constants.clear()

        for a, b in zip(*(array.reshape(-1).tolist() for array in pair), strict=True):
            if a == b:
                constants.append(a)
                continue
            multiple, rest = divmod(a, _PROBES[0])
            origin = self.origins.get(multiple)
            if rest or multiple * _PROBES[1] != b or origin is None:
                return False
            flush()
            value, axis = origin
            parts.append(self._integers("Shape", [value], node, start=axis, end=axis + 1))
        flush()
        joined = parts[0] if len(parts) == 1 else self._integers("Concat", parts, node, axis=0)
        node.replace_input_with(len(node.inputs) - 1, joined)
        self.probes[joined] = pair
        return True

    def _integers(self, op_type: str, inputs: list[ir.Value], node: ir.Node, **ints: int) -> ir.Value:
        """A new node before `node` that makes a vector of int64."""
        name = self.namer.unique(f"{node.name}.{op_type.lower()}")
        out = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64))
        attributes = [ir.AttrInt64(key, number) for key, number in ints.items()]
        new = ir.Node("", op_type, inputs, attributes, outputs=[out], name=self.namer.unique(f"{name}.node"))
        self.model.graph.insert_before(node, stamp(new, FoldConstants.__name__, node))
        infer_node(new, self.opsets)
        return out


def _repeats_weight(node: ir.Node) -> bool:
    """Whether the node only repeats the elements of a tensor of floats, which may be a weight: a class token for every
    image, a table of relative positions."""
    data = node.inputs[0] if node.op_type in _REPEATING and node.domain == "" else None
    if data is None or data.const_value is None or data.dtype is None or not data.dtype.is_floating_point():
        return False
    size, out = data.const_value.size, node.outputs[0].shape
    return size > 1 and (out is None or math.prod(d if isinstance(d, int) else 0 for d in out) > size)


def _of_constants(node: ir.Node) -> bool:
    """Whether the node computes with marked constants and no weights; single numbers are no weights."""
    floats = [v for v in node.inputs if v is not None and v.dtype is not None and v.dtype.is_floating_point()]
    marked = [value for value in floats if is_constant(value)]
    rest = [v for v in floats if not is_constant(v) and (v.const_value is None or v.const_value.size > 1)]
    return bool(marked) and not rest


def _cast_like_to_cast(node: ir.Node) -> bool:
    """CastLike needs its second input's type only, which is known: a constant must not hang on the image by it."""
    like = node.inputs[1] if node.op_type == "CastLike" and node.domain == "" else None
    if like is None or like.dtype is None:
        return False
    node.op_type = "Cast"
    node.attributes["to"] = ir.AttrInt64("to", like.dtype.value)
    node.resize_inputs(1)
    return True


def static_target(node: ir.Node, pair: tuple[Array, Array]) -> list[int] | None:
    """The target of a Reshape with -1 where it depends on N, or None if that cannot be said."""
    first, second = (array.astype(np.int64) for array in pair)
    varying = [i for i in range(first.size) if first[i] != second[i]]
    if len(varying) != 1 or first[varying[0]] * _PROBES[1] != second[varying[0]] * _PROBES[0]:
        return None
    target = [int(dim) for dim in first]
    data = node.inputs[0]
    for i, dim in enumerate(target):
        # With the batch at -1, every other dimension must be said.
        if dim == -1 or (dim == 0 and node.attributes.get_int("allowzero", 0) == 1):
            total = _elements(data, _PROBES[0])
            rest = int(np.prod([d for j, d in enumerate(target) if j != i], dtype=object))
            if dim == 0 or total is None or rest == 0 or total % rest or 0 in target:
                return None
            target[i] = total // rest
    target[varying[0]] = -1
    return target


def _elements(value: ir.Value | None, batch: int) -> int | None:
    dims = None if value is None or value.shape is None else _dims(value.shape, batch)
    return None if dims is None else int(np.prod(dims, dtype=object))


def _dims(shape: ir.Shape, batch: int) -> list[int] | None:
    """The dimensions with N = batch; None if one of them is unknown."""
    dims: list[int] = []
    for dim in shape:
        if isinstance(dim, int):
            dims.append(dim)
        elif (multiple := batch_multiple(dim)) is not None and multiple[1] == BATCH:
            dims.append(multiple[0] * batch)
        else:
            return None
    return dims


def shape_of(node: ir.Node, batch: int) -> list[Array] | None:
    """The result of a Shape or Size node with N = batch."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    if node.op_type == "Size":
        dims = _dims(value.shape, batch)
        return None if dims is None else [np.array(np.prod(dims, dtype=object), np.int64)]
    rank = len(value.shape)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
    part = _dims(ir.Shape(list(value.shape)[slice(start, end)]), batch)
    return None if part is None else [np.array(part, np.int64)]


def _bytes(value: ir.Value) -> int:
    """Bytes of the value as far as its shape is known; 0 if it is not."""
    if value.shape is None or value.dtype is None or not all(isinstance(dim, int) for dim in value.shape):
        return 0
    return int(np.prod([dim for dim in value.shape if isinstance(dim, int)], dtype=object) * value.dtype.itemsize)


def remove_dead(graph: ir.Graph) -> bool:
    """Remove nodes that no output needs and initializers that no node uses. Returns whether there were any."""
    modified = False
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
            modified = True
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        if not graph.initializers[name].is_graph_output():
            del graph.initializers[name]
            modified = True
    return modified

"""The graph under construction: nodes, weights, constants and remarks, with names that are unique and readable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt import fillers
from onnxmtl.frontends.prototxt.registry import Blob, Layer, UnsupportedLayerError
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.frontends.prototxt.weights import CaffeModel
from onnxmtl.ir import Diagnostic
from onnxmtl.ops import mark_tied

OPSET = 21
MAX_ELEMENTS = 1 << 30  # of one weight: 4 GiB
MAX_DIM = (1 << 31) - 1  # Caffe counts in int32
FLOAT = ir.DataType.FLOAT
_MANY_LINES = 8


class Builder:
    """What converters write to.

    Attributes:
        graph: Grows node by node.
        weights: Of the ``.caffemodel``, if there is one.
        drawn: Names of layers whose weights were drawn because nothing gave them.
    """

    def __init__(self, name: str, weights: CaffeModel | None) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name or "prototxt")
        self.weights = weights
        self._said: dict[tuple[str, str, str, str], list[Layer | None]] = {}
        self.drawn: dict[str, None] = {}
        self._values: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._shared: dict[str, tuple[ir.Value, tuple[int, ...], Layer]] = {}

    # Nodes

    def node(
        self,
        layer: Layer,
        op_type: str,
        inputs: Sequence[Blob | ir.Value | None],
        shape: Sequence[int],
        *,
        suffix: str = "",
        batched: bool | None = None,
        dtype: ir.DataType = FLOAT,
        **attributes: Any,
    ) -> Blob:
        """Append an operator with one output.

        Args:
            layer: Whose node it is; the node that stands for the layer has no `suffix` and bears its name.
            op_type: Operator of the standard domain.
            inputs: Blobs, initializers, or None for one that is left out.
            shape: Of the output.
            suffix: Of the names of nodes beside the main one.
            batched: Whether axis 0 of the output is the batch; by default, if it is so for an input.
            dtype: Of the output.
            attributes: As Python values.

        Raises:
            ModelError: A size that no tensor can have.
        """
        return self.nodes(layer, op_type, inputs, [shape], suffix=suffix, batched=batched, dtype=dtype, **attributes)[0]

    def nodes(
        self,
        layer: Layer,
        op_type: str,
        inputs: Sequence[Blob | ir.Value | None],
        shapes: Sequence[Sequence[int]],
        *,
        suffix: str = "",
        batched: bool | None = None,
        dtype: ir.DataType = FLOAT,
        **attributes: Any,
    ) -> list[Blob]:
        """As :meth:`node`, with as many outputs as `shapes`."""
        for shape in shapes:
            if not all(1 <= dim <= MAX_DIM for dim in shape) or math.prod(shape) > MAX_DIM:
                raise layer.error(f"its output would have shape {'×'.join(map(str, shape))}; check sizes and padding")
        if batched is None:
            batched = any(isinstance(blob, Blob) and blob.batched for blob in inputs)
        name = f"{layer.name}.{suffix}" if suffix else layer.name
        values = [blob.value if isinstance(blob, Blob) else blob for blob in inputs]
        outputs = [ir.Value(name=self.unique(f"{name}.out"), type=ir.TensorType(dtype)) for _ in shapes]
        attrs = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
        node = ir.Node("", op_type, values, attrs, outputs=outputs, name=_unique(name, self._nodes))
        self.graph.append(node)
        blobs = [Blob(value, tuple(shape), batched) for value, shape in zip(outputs, shapes, strict=True)]
        for blob in blobs:
            set_shape(blob)
        return blobs

    def image(self, name: str, shape: Sequence[int]) -> Blob:
        """A graph input; its first axis is the batch, which is left free."""
        blob = Blob(ir.Value(name=self.unique(name), type=ir.TensorType(FLOAT)), tuple(shape), bool(shape))
        set_shape(blob)
        self.graph.inputs.append(blob.value)
        return blob

    def scalar(self, layer: Layer, suffix: str, number: float) -> ir.Value:
        """A constant number."""
        return self._constant(layer, suffix, np.asarray(number, np.float32))

    def ints(self, layer: Layer, suffix: str, numbers: Sequence[int]) -> ir.Value:
        """A constant list of whole numbers."""
        return self._constant(layer, suffix, np.asarray(numbers, np.int64).reshape(-1))

    def floats(self, layer: Layer, suffix: str, numbers: Sequence[float]) -> ir.Value:
        """A constant list of numbers."""
        return self._constant(layer, suffix, np.asarray(numbers, np.float32).reshape(-1))

    def _constant(self, layer: Layer, suffix: str, array: np.ndarray[Any, Any]) -> ir.Value:
        name = self.unique(f"{layer.name}.{suffix}")
        return self._register(name, ir.tensor(array, name=name))

    # Weights

    def weight(
        self,
        layer: Layer,
        index: int,
        name: str,
        shape: Sequence[int],
        filler: Any = None,
        *,
        default: str = "msra",
        value: float = 0.0,
        stored: Sequence[int] | None = None,
        transpose: bool = False,
    ) -> ir.Value:
        """Blob `index` of a layer, as an initializer ``<layer>.<name>``.

        The numbers come from the ``.caffemodel``, else from the filler, else from He et al.'s distribution. Blobs that
        the layer's ``param { name }`` ties to another layer's are one initializer.

        Args:
            layer: The layer.
            index: Of the blob among the layer's.
            name: Of the weight.
            shape: In Caffe.
            filler: A ``FillerParameter`` of the file, or None.
            default: Filler type without one.
            value: For ``default="constant"``.
            stored: The shape in the graph, where it differs.
            transpose: Whether the graph holds the transposed matrix.

        Raises:
            ModelError: Damaged weights, weights of another shape, or an impossible size.
        """
        shape = tuple(shape)
        if not all(1 <= dim <= MAX_DIM for dim in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise layer.error(f"its {name} would have shape {'×'.join(map(str, shape))}")
        kept = tuple(reversed(shape)) if transpose else tuple(stored or shape)
        tie = layer.message.param[index].name if index < len(layer.message.param) else ""
        if tie and tie in self._shared:
            return self._tied(tie, layer, index, kept)
        full = self.unique(f"{layer.name}.{name}")
        given = self.weights.take(layer.name, index, shape) if self.weights is not None else None
        tensor: ir.TensorProtocol
        if given is not None:
            tensor = ir.tensor(np.ascontiguousarray(given.T) if transpose else given.reshape(kept), name=full)
        else:
            tensor = self._drawn(layer, full, shape, kept, filler, default, value, transpose)
        weight = self._register(full, tensor)
        if tie:
            self._shared[tie] = (weight, kept, layer)
        return weight

    def constant_weight(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer with the given numbers."""
        full = self.unique(name)
        return self._register(full, ir.tensor(np.ascontiguousarray(array, np.float32), name=full))

    def _drawn(
        self,
        layer: Layer,
        full: str,
        shape: tuple[int, ...],
        kept: tuple[int, ...],
        filler: Any,
        default: str,
        value: float,
        transpose: bool,
    ) -> ir.TensorProtocol:
        if filler is None:
            filler = message("FillerParameter")
            filler.type, filler.value = default, value
        if filler.type not in fillers.KINDS:
            raise layer.error(f"there is no filler {filler.type!r}; known are {', '.join(fillers.KINDS)}")
        if filler.type == "bilinear" and len(shape) != 4:
            raise layer.error("a bilinear filler needs a blob with 4 axes")
        self.drawn[layer.name] = None

        def numbers() -> ir.TensorProtocol:
            array = fillers.draw(filler, shape, full)
            return ir.tensor(np.ascontiguousarray(array.T) if transpose else array.reshape(kept), name=full)

        return ir.LazyTensor(numbers, dtype=FLOAT, shape=ir.Shape(kept), name=full, cache=True)

    def _tied(self, tie: str, layer: Layer, index: int, kept: tuple[int, ...]) -> ir.Value:
        weight, shape, owner = self._shared[tie]
        if self.weights is not None and self.weights.count(layer.name):
            self.weights.used[layer.name] = max(self.weights.used.get(layer.name, 0), index + 1)
        if shape != kept:
            raise layer.error(f"shares the weight {tie!r} of layer {owner.name!r}, which has another shape")
        mark_tied(weight)
        return weight

    def _register(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    # Names and remarks

    def unique(self, name: str) -> str:
        """`name`, or with a number behind it if a value has it already."""
        return _unique(name, self._values)

    def node_name(self, name: str) -> str:
        """As :meth:`unique`, for a node."""
        return _unique(name, self._nodes)

    def rename(self, blob: Blob, name: str, otherwise: str) -> None:
        """Give a value its final name: `name`, or `otherwise` if that is taken."""
        self._values.pop(str(blob.value.name), None)
        blob.value.name = self.unique(otherwise if name in self._values else name)

    def differs(self, layer: Layer, what: str) -> None:
        """A layer that AutoMTL's own reader understands otherwise."""
        self.remark("prototxt-differs", what, layer)

    def ignored(self, layer: Layer, path: str, what: str) -> None:
        """A field that is read and left without effect, with the reason."""
        self.remark("prototxt-ignored", f"{what} ({path})", layer)

    def remark(self, code: str, what: str, layer: Layer | None = None, hint: str = "") -> None:
        """Something the user should know."""
        self._said.setdefault((code, layer.type if layer is not None else "", what, hint), []).append(layer)

    @property
    def remarks(self) -> list[Diagnostic]:
        """What was said, in order; of several layers of one type that are told the same, once."""
        found = []
        for (code, _, what, hint), told in self._said.items():
            layers = [layer for layer in told if layer is not None]
            if layers:
                what = f"line {layers[0].line}: layer {layers[0].name!r} ({layers[0].type}) {what}"
                if len(layers) > 1:
                    what += (
                        f"; the same for {len(layers) - 1} more: {shown_lines([layer.line for layer in layers[1:]])}"
                    )
            found.append(Diagnostic(code, what, layers[0].name if layers else "", hint))
        return found


def shown_lines(lines: Sequence[int]) -> str:
    """``line 3, 5, 8``; of many the first ones, and how many there are."""
    different = list(dict.fromkeys(lines))
    more = f" and {len(different) - _MANY_LINES} more" if len(different) > _MANY_LINES else ""
    return f"line {', '.join(map(str, different[:_MANY_LINES]))}{more}"


def _unique(name: str, used: dict[str, int]) -> str:
    """A name that is not used; the number behind each name is remembered, so that equal names cost nothing more."""
    name = name or "unnamed"  # a blob may be called "", a value may not
    found = name
    while found in used:
        used[name] += 1
        found = f"{name}_{used[name]}"
    used[found] = 0
    return found


def set_shape(blob: Blob) -> None:
    """Write the blob's shape to its value, the batch as ``N``; nothing where the batch is lost in another axis."""
    if blob.batched:
        blob.value.shape = ir.Shape(["N", *blob.shape[1:]])


def only(layer: Layer, condition: bool, what: str) -> None:
    """Refuse a setting.

    Raises:
        UnsupportedLayerError: The condition does not hold.
    """
    if not condition:
        raise UnsupportedLayerError(what)

"""The network under construction: layers, blobs, weights and remarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.registry import CannotSayError, require
from onnxmtl.frontends.prototxt.export.windows import Pads
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.ir import Diagnostic

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Blob: TypeAlias = ir.Value | str  # a tensor of the model, or the name of a blob that exists in the prototxt only

SMALL = 64  # elements of a constant that is a setting, not a weight


@dataclasses.dataclass(frozen=True)
class Weight:
    """A blob of a layer.

    Attributes:
        shape: In Caffe.
        numbers: Reads them, only when they are written.
        key: Equal for weights that are one; None for what nobody can share.
    """

    shape: tuple[int, ...]
    numbers: Callable[[], Array]
    key: object = None


@dataclasses.dataclass(eq=False)
class Written:
    """A layer and its weights."""

    message: Any
    weights: list[Weight] = dataclasses.field(default_factory=list)


class Net:
    """What the functions that say operators write to.

    Attributes:
        automtl: Whether AutoMTL's dialect is written.
        layers: In order.
        remarks: What the user should know.
        done: Nodes that were said together with an earlier one.
        pads: (top, left, bottom, right) zeros around a value whose blob is without them; its readers add them.
    """

    def __init__(self, graph: ir.Graph, shapes: dict[ir.Value, tuple[int, ...]], *, automtl: bool) -> None:
        self.automtl = automtl
        self.layers: list[Written] = []
        self.remarks: list[Diagnostic] = []
        self.done: set[ir.Node] = set()
        self.pads: dict[ir.Value, Pads] = {}
        self._shapes = shapes
        self._blobs: dict[ir.Value, str] = {}
        nodes = {str(node.name) for node in graph if node.name}
        self._layer_names = dict.fromkeys(nodes, 0)
        self._given: set[str] = set()  # names of nodes that a layer has by now
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        self._blob_names = {str(value.name): 0 for value in values}
        for value in values:
            if (name := _printable(str(value.name))) != value.name:
                self._blobs[value] = self.reserve(name)

    # Tensors

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Shape of a tensor, the batch included."""
        found = None if value is None else self._shapes.get(value)
        if found is None:
            msg = "the shape of a tensor at it is not known"
            raise CannotSayError(msg)
        return found

    def blob(self, value: Blob | None) -> str:
        """The name of the blob that holds a tensor.

        Raises:
            CannotSayError: It is a constant: Caffe has no blobs of constants.
        """
        if isinstance(value, str):
            return value
        require(value is not None, "an input is left out")
        assert value is not None
        require(not self.is_constant(value), f"it reads the constant {value.name!r}, which Caffe keeps in layers only")
        # A node that could not be said has no blob; then nothing is written, and its name serves.
        return self._blobs.get(value, str(value.name))

    def put(self, value: ir.Value, blob: str) -> None:
        """Say which blob holds a tensor: that of another one, for what changes nothing."""
        self._blobs[value] = blob

    def zeros(self, value: ir.Value | None) -> Pads:
        """The zeros around a tensor (see ``pads``)."""
        return (0, 0, 0, 0) if value is None else self.pads.get(value, (0, 0, 0, 0))

    def alias(self, node: ir.Node) -> None:
        """A node that changes nothing has no layer, but for a ``Power`` at the end of the network, which copies."""
        x, out = node.inputs[0], node.outputs[0]
        if out.is_graph_output():
            self.layer("Power", node, [x], [out])
        else:
            self.put(out, self.blob(x))

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether the tensor is known: an initializer, or made by a Constant node."""
        return value is not None and not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None

    def constant(self, value: ir.Value | None, what: str) -> Array:
        """The numbers of a constant.

        Raises:
            CannotSayError: `what` is computed.
        """
        tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if tensor is None:
            msg = f"{what} is computed"
            raise CannotSayError(msg)
        array: Array = tensor.numpy()
        return array

    def ints(self, node: ir.Node, index: int, what: str) -> list[int] | None:
        """Whole numbers that an optional input gives; None if it is left out."""
        if index >= len(node.inputs) or node.inputs[index] is None:
            return None
        return [int(number) for number in self.constant(node.inputs[index], what).reshape(-1)]

    # Layers

    def layer(
        self, kind: str, node: ir.Node, bottoms: Sequence[Blob | None], tops: Sequence[Blob], suffix: str = ""
    ) -> Written:
        """Append a layer; its parameters are the caller's to fill in.

        Args:
            kind: Layer type.
            node: Whose layer it is; the first one without `suffix` bears its name.
            bottoms: What it reads.
            tops: What it writes: an output of the node, or a name from :meth:`between`.
            suffix: Of the names of layers beside the main one.
        """
        written = Written(message("LayerParameter"))
        layer = written.message
        read = [self.blob(bottom) for bottom in bottoms]  # before the top takes a name
        layer.name, layer.type = self._name(node, suffix), kind
        layer.bottom.extend(read)
        for top in tops:
            if isinstance(top, ir.Value):
                self._blobs.setdefault(top, str(top.name))
            layer.top.append(self.blob(top))
        self.layers.append(written)
        return written

    def between(self, node: ir.Node, suffix: str) -> str:
        """A new name for a blob between two layers of a node."""
        return self.reserve(f"{node.outputs[0].name}_{suffix}")

    def append(self, kind: str, name: str, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """A layer that is no node's."""
        layer = message("LayerParameter")
        layer.name, layer.type = _unique(name, self._layer_names), kind
        layer.bottom.extend(bottoms)
        layer.top.extend(tops)
        self.layers.append(Written(layer))

    def reserve(self, name: str) -> str:
        """A name for a blob that no other blob has: `name`, or with a number behind it."""
        return _unique(name, self._blob_names)

    def _name(self, node: ir.Node, suffix: str) -> str:
        given = str(node.name or node.outputs[0].name)
        name = _printable(given)
        if not suffix and name == given and name not in self._given:
            self._given.add(name)
            self._layer_names.setdefault(name, 0)
            return name
        return _unique(f"{name}_{suffix}" if suffix else name, self._layer_names)

    # Weights

    def weight(
        self,
        written: Written,
        value: ir.Value | None,
        what: str,
        *,
        shape: Sequence[int] | None = None,
        change: Callable[[Array], Array] | None = None,
        form: str = "",
    ) -> None:
        """Append a weight of the model as the layer's next blob.

        Args:
            written: The layer.
            value: A constant.
            what: For messages: "its weight".
            shape: In Caffe, where it differs.
            change: From the array in the model to the one in Caffe, before it is reshaped.
            form: Names the change: only weights of one form and shape can be shared.

        Raises:
            CannotSayError: The weight is computed.
        """
        tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if value is None or tensor is None:
            msg = f"{what} is computed; Caffe keeps weights in layers"
            raise CannotSayError(msg)
        dims = tuple(int(dim) for dim in (tensor.shape.numpy() if shape is None else shape))

        def numbers() -> Array:
            array = np.asarray(tensor.numpy(), np.float32)
            return (array if change is None else change(array)).reshape(dims)

        written.weights.append(Weight(dims, numbers, (value, dims, form)))

    def numbers(self, written: Written, array: Array) -> None:
        """Append numbers that are no weight of the model as the layer's next blob."""
        written.weights.append(Weight(array.shape, lambda: array))

    def remark(self, code: str, what: str, node: str = "", hint: str = "") -> None:
        """Something the user should know."""
        self.remarks.append(Diagnostic(code, what, node, hint))


def _printable(name: str) -> str:
    """A name without line breaks and other control characters, which a prototxt cannot hold."""
    return "".join(char if char.isprintable() else "_" for char in name)


def _unique(name: str, used: dict[str, int]) -> str:
    found = name
    while found in used:
        used[name] = used.get(name, 0) + 1
        found = f"{name}_{used[name]}"
    used[found] = 0
    return found

"""Which values of several graphs are the same: numbers given bottom-up, equal for values that are computed equally.

Two values have one number if they are the same input, initializers of equal type, shape and bytes, or the same output
of nodes that agree in operator, attributes (what is left out counts as what it stands for) and numbers of inputs. The
graphs may be of several models; their standard operators must be of one opset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

import onnx_ir as ir

from onnxmtl.ir.attributes import canonical_attributes

_RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_WINDOWS = frozenset(("AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"))


class ValueNumbers:
    """Numbers of the values and nodes of the graphs that were added.

    Linear in the number of nodes and the bytes of the weights. A graph must not change in between.
    """

    def __init__(self) -> None:
        self._interned: dict[Hashable, int] = {}
        self._values: dict[ir.Value, int] = {}
        self._nodes: dict[ir.Node, int] = {}
        self._tensors: dict[int, tuple[ir.TensorProtocol, Hashable]] = {}

    def add(self, graph: ir.Graph, inputs: Mapping[ir.Value, Hashable]) -> None:
        """Number a graph.

        Args:
            graph: Its main nodes, producers before consumers; initializers are no inputs.
            inputs: What each input of the graph is: inputs of several graphs with one key are the same.
        """
        for value in graph.inputs:
            self._values[value] = self._number(("input", inputs[value]))
        for value in graph.initializers.values():
            self._values[value] = self._number(self._content(value))
        for node in graph:
            key = self._key(node, graph.opset_imports)
            number = self._nodes[node] = self._number(key if key is not None else ("alone", id(node)))
            for index, value in enumerate(node.outputs):
                self._values[value] = self._number(("output", number, index))

    def of(self, value: ir.Value | None) -> int | None:
        """The number of a value; None for an input that a node leaves out."""
        return None if value is None else self._values[value]

    def of_node(self, node: ir.Node) -> int:
        """The number of a node: equal for nodes that compute the same. Random nodes and those with subgraphs have
        one of their own."""
        return self._nodes[node]

    def of_inputs(self, node: ir.Node) -> tuple[int | None, ...]:
        """The numbers of a node's inputs, without those left out at the end."""
        found = [self.of(value) for value in node.inputs]
        while found and found[-1] is None:
            found.pop()
        return tuple(found)

    def _number(self, key: Hashable) -> int:
        return self._interned.setdefault(key, len(self._interned))

    def _key(self, node: ir.Node, opsets: Mapping[str, int]) -> Hashable | None:
        attributes = meaning_of_attributes(node, opsets)
        if attributes is None or _is_random(node):
            return None
        called = (node.domain, node.op_type, node.overload, opsets.get(node.domain, 1), len(node.outputs))
        return ("node", called, self.of_inputs(node), attributes)

    def _content(self, value: ir.Value) -> Hashable:
        tensor = value.const_value
        if tensor is None:
            return ("alone", id(value))
        if id(tensor) not in self._tensors:  # the tensor is kept with it: an id may be given again
            if tensor.dtype is ir.DataType.STRING:
                content: Hashable = tuple(tensor.numpy().reshape(-1).tolist())
            else:
                content = hashlib.blake2b(tensor.tobytes(), digest_size=32).digest()
            shape = tuple(tensor.shape.numpy())
            self._tensors[id(tensor)] = (tensor, ("weight", tensor.dtype, shape, content))
        return self._tensors[id(tensor)][1]


def meaning_of_attributes(node: ir.Node, opsets: Mapping[str, int]) -> Hashable | None:
    """A hashable that is equal for nodes whose attributes mean the same; None if one of them is a graph.

    Beyond the defaults that ONNX lists, those that it tells in words are filled in: strides, dilations and pads of
    windows, the size of a convolution's kernel, which its weight has, and the reversal of a Transpose.
    """
    found = canonical_attributes(node, opsets)
    if found is None or node.domain not in ("", "ai.onnx"):
        return found
    assert isinstance(found, tuple)
    attributes: dict[str, Hashable] = dict(found)
    if node.op_type == "Transpose" and (rank := _rank(node.inputs[0])) is not None:
        attributes.setdefault("perm", tuple(reversed(range(rank))))
    if node.op_type in _WINDOWS:
        kernel = attributes.get("kernel_shape") or _kernel(node)
        if isinstance(kernel, tuple):
            attributes["kernel_shape"] = kernel
            for name in ("strides", "dilations"):
                attributes.setdefault(name, (1,) * len(kernel))
            if attributes.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in attributes:
                attributes.setdefault("pads", (0,) * 2 * len(kernel))
            if node.op_type == "ConvTranspose":
                attributes.setdefault("output_padding", (0,) * len(kernel))
    return tuple(sorted(attributes.items()))


def _is_random(node: ir.Node) -> bool:
    """Whether two runs may differ; a Dropout with a training mode may."""
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in _RANDOM or (
        node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    )


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    """The kernel of a convolution, from its weight."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.const_value is None:
        return None
    return tuple(weight.const_value.shape.numpy()[2:])

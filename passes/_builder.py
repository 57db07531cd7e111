"""Builds nodes one after another into a graph: unique names, weights drawn by name, shapes known at once."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.ir import Namer, Role, new_initializer, set_role, shape_text, stamp
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.runs import derive_seed

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
# How a weight is drawn: (generator, shape) -> array.
Init = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray[Any, Any]]

BATCHNORM_EPSILON = 1e-5
BATCHNORM_MOMENTUM = 0.9  # ONNX's convention: the share of the old running statistics that is kept
# Constant inputs up to this many elements (shapes, axes) are shown to shape inference.
_SMALL = 1024


def kaiming(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """He's initialisation for a weight before a ReLU: normal with variance 2 / fan-in."""
    return generator.standard_normal(shape) * math.sqrt(2.0 / math.prod(shape[1:]))


def scaled(gain: float) -> Init:
    """Normal with variance gain² / fan-in: the last layer of a head."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return generator.standard_normal(shape) * (gain / math.sqrt(math.prod(shape[1:])))

    return draw


def constant(number: float) -> Init:
    """The same number everywhere."""
    return lambda _, shape: np.full(shape, number)


@dataclasses.dataclass(eq=False)
class Builder:
    """Appends the nodes of one head to a graph.

    A user's head, ``module:callable``, is called as ``callable(builder, feature, task, image)`` and returns the raw
    prediction. It may use :meth:`conv`, :meth:`conv_bn_relu`, :meth:`gemm`, :meth:`resize` or any operator with
    :meth:`op`, and weights with :meth:`weight`.

    Attributes:
        graph: The graph that is extended at its end.
        prefix: Leads every name of a node or value.
        task: Marks the nodes as that task's head.
        made_by: The pass (object or name) that the nodes are stamped with.
        seed: Weights are drawn from ``derive_seed(seed, name of the weight)``.
        namer: Hands out names; shared by all builders of a graph.
        created: The nodes made so far.
        sizes: Name of a feature -> (height, width) that its head is designed for, where that is not its own size.
    """

    graph: ir.Graph
    prefix: str
    task: str
    made_by: object
    seed: int
    namer: Namer
    created: list[ir.Node] = dataclasses.field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    _scope: tuple[str, ...] = ()

    # Names

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Inside, names get one more part: ``seg_head/branch1/conv``."""
        outer, self._scope = self._scope, (*self._scope, name)
        try:
            yield
        finally:
            self._scope = outer

    def name(self, last: str) -> str:
        """A unique name under the prefix and the open scopes."""
        return self.namer.unique("/".join((self.prefix, *self._scope, last)))

    # Weights

    def weight(self, name: str, shape: Sequence[int], init: Init, like: ir.Value, role: Role = Role.HEAD) -> ir.Value:
        """A new initializer of `like`'s element type, drawn by `init` from its own random stream."""
        full = self.name(name)
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, full)))
        array = np.asarray(init(generator, tuple(shape))).astype(_numpy_type(like))
        return set_role(new_initializer(self.graph, full, array), role)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A new initializer that is no weight: sizes, axes, bounds."""
        return set_role(new_initializer(self.graph, self.name(name), array), Role.HEAD)

    # Nodes

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str = "",
        shape: Sequence[int | str | ir.SymbolicDim | None] | ir.Shape | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Append a node with one output and return its value.

        Type and shape come from onnx's inference; `shape` and `dtype` are for what it cannot tell.
        """
        full = self.name(name or op_type.lower())
        node = ir.node(op_type, inputs, dict(attributes or {}), name=full)
        node.outputs[0].name = full
        self.append(node)
        value = node.outputs[0]
        if shape is not None:
            value.shape = ir.Shape(shape)
        if dtype is not None:
            value.type = ir.TensorType(dtype)
        return value

    def append(self, node: ir.Node) -> ir.Node:
        """Append a finished node: marked as the task's, stamped, its outputs' types and shapes inferred."""
        stamp(node, self.made_by)
        node.metadata_props[HEAD_KEY] = self.task
        self.graph.append(node)
        self.created.append(node)
        infer_outputs(node, self.graph.opset_imports)
        return node

    # Layers

    def conv(
        self,
        x: ir.Value,
        channels: int,
        *,
        kernel: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        init: Init = kaiming,
        name: str = "conv",
    ) -> ir.Value:
        """A convolution with stride 1 that keeps height and width (odd kernels)."""
        pad = dilation * (kernel // 2)
        w = self.weight(f"{name}.weight", (channels, static_channels(x) // groups, kernel, kernel), init, x)
        inputs = [x, w, *([self.weight(f"{name}.bias", (channels,), constant(0.0), x)] if bias else [])]
        attributes: dict[str, Attribute] = {
            "kernel_shape": [kernel] * 2,
            "dilations": [dilation] * 2,
            "pads": [pad] * 4,
            "strides": [1, 1],
            **({"group": groups} if groups > 1 else {}),
        }
        assert x.shape is not None
        return self.op("Conv", inputs, attributes, name=name, shape=[x.shape[0], channels, *x.shape[2:]])

    def conv_bn_relu(
        self, x: ir.Value, channels: int, *, kernel: int = 1, dilation: int = 1, groups: int = 1, name: str
    ) -> ir.Value:
        """Convolution without bias, BatchNormalization, Relu."""
        with self.scope(name):
            x = self.conv(x, channels, kernel=kernel, dilation=dilation, groups=groups, bias=False)
            return self.op("Relu", [self.batchnorm(x)])

    def batchnorm(self, x: ir.Value, name: str = "bn") -> ir.Value:
        """BatchNormalization over axis 1, scale 1, shift 0, running mean 0, running variance 1."""
        shape = (static_channels(x),)
        inputs = [
            x,
            self.weight(f"{name}.weight", shape, constant(1.0), x),
            self.weight(f"{name}.bias", shape, constant(0.0), x),
            self.weight(f"{name}.mean", shape, constant(0.0), x, Role.STATISTIC),
            self.weight(f"{name}.var", shape, constant(1.0), x, Role.STATISTIC),
        ]
        attributes = {"epsilon": BATCHNORM_EPSILON, "momentum": BATCHNORM_MOMENTUM}
        return self.op("BatchNormalization", inputs, attributes, name=name, shape=x.shape)

    def gemm(self, x: ir.Value, channels: int, *, init: Init = kaiming, name: str = "linear") -> ir.Value:
        """A linear layer on [N, features]."""
        w = self.weight(f"{name}.weight", (channels, static_channels(x)), init, x)
        b = self.weight(f"{name}.bias", (channels,), constant(0.0), x)
        assert x.shape is not None
        return self.op("Gemm", [x, w, b], {"transB": 1}, name=name, shape=[x.shape[0], channels])

    def resize(self, x: ir.Value, like: ir.Value, name: str = "resize") -> ir.Value:
        """Bilinear interpolation (half-pixel centres) to `like`'s height and width; `x` itself if it has them."""
        assert x.shape is not None and like.shape is not None
        height, width = like.shape[2], like.shape[3]
        if static_size(x) is not None and static_size(x) == static_size(like):
            return x
        sizes = self.size_of(like, f"{name}_size")
        attributes: dict[str, Attribute] = {
            "mode": "linear",
            "coordinate_transformation_mode": "half_pixel",
            "axes": [2, 3],
        }
        shape = [x.shape[0], x.shape[1], height, width]
        return self.op("Resize", [x, None, None, sizes], attributes, name=name, shape=shape)

    def designed_size(self, feature: ir.Value) -> tuple[int, int] | None:
        """The height and width that decide what the head of a feature looks like; None if they are not known."""
        return self.sizes.get(str(feature.name)) or static_size(feature)

    def size_of(self, x: ir.Value, name: str) -> ir.Value:
        """Height and width as an int64[2]: an initializer where they are known, else computed."""
        size = static_size(x)
        if size is not None:
            return self.constant(name, np.array(size, dtype=np.int64))
        return self.op("Shape", [x], {"start": 2, "end": 4}, name=name)


def static_channels(value: ir.Value) -> int:
    """Size of axis 1.

    Raises:
        ValueError: It is not known.
    """
    if value.shape is None or len(value.shape) < 2 or not isinstance(value.shape[1], int):
        msg = f"the channels of {value.name!r} are not known: its shape is {shape_text(value.shape)}"
        raise ValueError(msg)
    return value.shape[1]


def static_size(value: ir.Value) -> tuple[int, int] | None:
    """Height and width of an NCHW value, or None where one is symbolic."""
    if value.shape is None or len(value.shape) != 4:
        return None
    height, width = value.shape[2], value.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def infer_outputs(node: ir.Node, opsets: Mapping[str, int]) -> None:
    """Set types and shapes of a node's outputs from those of its inputs, by onnx's inference for that operator.

    What cannot be told stays as it is.

    Raises:
        ValueError: onnx has no such operator, or refuses the inputs.
    """
    proto = ir.serde.serialize_node(node)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        info = ir.serde.serialize_value(value)
        types[str(value.name)] = info.type
        const = value.const_value
        if const is not None and const.size <= _SMALL:
            data[str(value.name)] = ir.serde.serialize_tensor(const)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        msg = f"{node.op_type} ({node.name}): {lines[-1] if lines else error}"
        raise ValueError(msg) from error
    for value in node.outputs:
        inferred = found.get(str(value.name))
        if inferred is None:
            continue
        info = onnx.ValueInfoProto(name=str(value.name), type=inferred)
        typed = ir.serde.deserialize_value_info_proto(info, None)
        value.type = typed.type if typed.type is not None else value.type
        value.shape = typed.shape if typed.shape is not None else value.shape


def _numpy_type(like: ir.Value) -> np.dtype[Any]:
    return np.dtype(like.dtype.numpy()) if like.dtype is not None else np.dtype(np.float32)

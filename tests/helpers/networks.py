"""Small convolutional networks with a classifier, as a user's exporter would write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.ir import diagnostics, to_bytes
from onnxmtl.runtime import session


class Network:
    """Adds layers to a raw graph (no shapes but the input's, no metadata), as exporters do."""

    def __init__(self, image: Sequence[int | str] = (1, 3, 16, 16), opset: int = 21, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.image = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(image))
        self.graph = ir.Graph([self.image], [], nodes=[], opset_imports={"": opset}, name="net")

    def weight(self, name: str, array: np.ndarray | Sequence[int]) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def add(self, op: str, inputs: Sequence[ir.Value | None], name: str = "", **attributes) -> ir.Value:
        name = name or f"{op.lower()}{len(self.graph)}"
        out = ir.Value(name=f"{name}_out")
        self.graph.append(ir.node(op, inputs, attributes, outputs=[out], name=name))
        return out

    def conv(self, x, cin, cout, k=3, stride=1, pads=None, bias=False, name="", **attributes):
        name = name or f"conv{len(self.graph)}"
        group = attributes.get("group", 1)
        inputs = [x, self.weight(f"{name}.w", self.normal(cout, cin // group, k, k))]
        if bias:
            inputs.append(self.weight(f"{name}.b", self.normal(cout)))
        if "auto_pad" not in attributes:
            attributes["pads"] = pads if pads is not None else [k // 2] * 4
        return self.add("Conv", inputs, name, kernel_shape=[k, k], strides=[stride] * 2, **attributes)

    def norm(self, x, channels, name=""):
        name = name or f"bn{len(self.graph)}"
        weights = [
            self.weight(f"{name}.{slot}", array)
            for slot, array in (
                ("scale", self.positive(channels)),
                ("bias", self.normal(channels)),
                ("mean", self.normal(channels)),
                ("var", self.positive(channels)),
            )
        ]
        return self.add("BatchNormalization", [x, *weights], name)

    def classifier(self, x, channels, classes=5):
        x = self.add("GlobalAveragePool", [x], "pool")
        x = self.add("Flatten", [x], "flatten")
        return self.add("Gemm", [x, self.weight("fc.w", self.normal(classes, channels))], "fc", transB=1)

    def model(self, *outputs: ir.Value) -> ir.Model:
        for value in outputs:
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            self.graph.outputs.append(value)
        return ir.Model(self.graph, ir_version=10)

    def normal(self, *shape: int) -> np.ndarray:
        scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def positive(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(0.5, 1.5, shape).astype(np.float32)


def small_network(image: Sequence[int | str] = (1, 3, 16, 16)) -> ir.Model:
    """conv-bn-relu, a residual block of stride 2 with projection, a classifier. Features: "out_out", stride 4."""
    net = Network(image)
    x = net.add("Relu", [net.norm(net.conv(net.image, 3, 4, stride=2, name="stem"), 4, "stem_bn")], "stem_relu")
    y = net.add("Relu", [net.norm(net.conv(x, 4, 6, stride=2, name="a"), 6, "a_bn")], "a_relu")
    y = net.norm(net.conv(y, 6, 6, name="b"), 6, "b_bn")
    x = net.norm(net.conv(x, 4, 6, k=1, stride=2, name="proj"), 6, "proj_bn")
    x = net.add("Relu", [net.add("Add", [y, x], "sum")], "out")
    return net.model(net.classifier(x, 6))


def parse(text: str) -> ir.Model:
    """A model from ONNX's text format."""
    return ir.from_proto(onnx.parser.parse_model(text))


def run(model: ir.Model, image: np.ndarray) -> list[np.ndarray]:
    """All outputs in onnxruntime, its own rewrites off."""
    runner = session(to_bytes(model), optimize=False)
    return list(runner.run(None, {runner.get_inputs()[0].name: image}))


def image_of(model: ir.Model, batch: int = 2, seed: int = 0) -> np.ndarray:
    """A random batch for the model's image."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return np.random.default_rng(seed).normal(size=(batch, *list(shape)[1:])).astype(np.float32)


def codes(model: ir.Model) -> list[str]:
    """Of all remarks that passes left in it, in their order."""
    return [remark.code for remark in diagnostics(model)]


def ops(model: ir.Model) -> list[str]:
    """The types of all nodes, in their order."""
    return [node.op_type for node in model.graph]


def node(model: ir.Model, name: str) -> ir.Node:
    """The node of this name."""
    return next(n for n in model.graph if n.name == name)

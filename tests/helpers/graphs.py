"""Small multi-task graphs for tests: written by hand, or random with residual, concat and multi-path structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Role, set_role, set_sources
from onnxmtl.ir.provenance import HEAD_KEY


class GraphBuilder:
    """Adds nodes one by one; every value has a shape, every weight is seeded."""

    def __init__(self, seed: int = 0, channels: int = 3, size: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.image = ir.Value(
            name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", channels, size, size])
        )
        self.graph = ir.Graph([self.image], [], nodes=[], opset_imports={"": 21}, name="g")
        self.count = 0
        self.task: str | None = None

    def weight(self, name: str, array: np.ndarray, role: Role | None = None) -> ir.Value:
        tensor = ir.tensor(np.asarray(array, np.float32), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        if role is None and self.task is not None:
            role = Role.HEAD
        return value if role is None else set_role(value, role)

    def node(
        self, op: str, inputs: Sequence[ir.Value], shape: Sequence[int | str], name: str = "", **attributes
    ) -> ir.Value:
        self.count += 1
        name = name or f"{op.lower()}{self.count}"
        if self.task:
            name = f"{self.task}.{name}"
        out = ir.Value(name=f"{name}_out", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(list(shape)))
        # Files hold floats in single precision.
        attributes = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in attributes.items()}
        attrs = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        node = ir.Node("", op, inputs, attrs, outputs=[out], name=name)
        set_sources(node, [name])
        if self.task:
            node.metadata_props[HEAD_KEY] = self.task
        self.graph.append(node)
        return out

    def conv(self, x, out, k=3, stride=1, dilation=1, group=1, bias=True, name=""):
        c, h = x.shape[1], x.shape[2]
        self.count += 1
        name = name or f"conv{self.count}"
        full = f"{self.task}.{name}" if self.task else name
        pad = dilation * (k - 1) // 2
        fan = (c // group) * k * k
        inputs = [x, self.weight(f"{full}.weight", self.rng.normal(0, (2 / fan) ** 0.5, (out, c // group, k, k)))]
        if bias:
            inputs.append(self.weight(f"{full}.bias", self.rng.normal(0, 0.1, out)))
        size = (h - 1) // stride + 1
        return self.node("Conv", inputs, ["N", out, size, size], name, strides=[stride] * 2, pads=[pad] * 4,
                         dilations=[dilation] * 2, group=group, kernel_shape=[k, k])  # fmt: skip

    def norm(self, x, name=""):
        c = x.shape[1]
        self.count += 1
        name = name or f"bn{self.count}"
        full = f"{self.task}.{name}" if self.task else name
        inputs = [
            x,
            self.weight(f"{full}.scale", self.rng.uniform(0.5, 1.5, c)),
            self.weight(f"{full}.shift", self.rng.normal(0, 0.2, c)),
            self.weight(f"{full}.mean", self.rng.normal(0, 0.2, c), Role.STATISTIC),
            self.weight(f"{full}.variance", self.rng.uniform(0.5, 1.5, c), Role.STATISTIC),
        ]
        return self.node("BatchNormalization", inputs, x.shape, name, epsilon=1e-5, momentum=0.9)

    def relu(self, x):
        return self.node("Relu", [x], x.shape)

    def block(self, x, out, stride=1, **kw):
        return self.relu(self.norm(self.conv(x, out, stride=stride, bias=False, **kw)))

    def residual(self, x, out, stride=1):
        y = self.norm(self.conv(self.block(x, out, stride), out, bias=False))
        if stride != 1 or x.shape[1] != out:
            x = self.norm(self.conv(x, out, k=1, stride=stride, bias=False))
        return self.relu(self.node("Add", [y, x], y.shape))

    def concat(self, *xs):
        channels = sum(x.shape[1] for x in xs)
        return self.node("Concat", list(xs), [xs[0].shape[0], channels, *xs[0].shape[2:]], axis=1)

    def heads(self, feature: ir.Value | dict[str, ir.Value], tasks: dict[str, int]) -> ir.Model:
        """Attach a 1x1 convolution per task and return the multi-task model; outputs are named after the tasks."""
        for task, channels in tasks.items():
            self.task = task
            source = feature[task] if isinstance(feature, dict) else feature
            out = self.conv(source, channels, k=1, name="predict")
            out.name = task
            self.graph.outputs.append(out)
        self.task = None
        model = ir.Model(self.graph, ir_version=10)
        model.metadata_props["onnxmtl.kind"] = "multitask"
        return model


def small_resnet(tasks: dict[str, int] | None = None, seed: int = 0, width: int = 4, size: int = 8) -> ir.Model:
    """Stem, a residual block with identity and one with projection, heads."""
    b = GraphBuilder(seed, size=size)
    x = b.block(b.image, width, name="stem")
    x = b.residual(x, width)
    x = b.residual(x, 2 * width, stride=2)
    return b.heads(x, tasks or {"seg": 3, "depth": 1})


def random_model(seed: int, tasks: int = 2, layers: int = 4, size: int = 6) -> ir.Model:
    """A random multi-task graph with residual, concat and multi-path structure."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder(seed, size=size)
    x = b.conv(b.image, 4, name="stem") if rng.random() < 0.5 else b.block(b.image, 4, name="stem")
    features = [x]
    for _ in range(layers):
        kind = rng.integers(6)
        out = int(rng.choice([4, 6]))
        stride = int(rng.choice([1, 1, 2])) if x.shape[2] > 2 else 1
        if kind == 0:
            x = b.block(x, out, stride)
        elif kind == 1:
            x = b.residual(x, out, stride)
        elif kind == 2:
            x = b.concat(b.block(x, 2), b.relu(b.conv(x, 4, k=1)))
        elif kind == 3:
            x = b.relu(b.conv(x, x.shape[1], group=x.shape[1], stride=stride))
        elif kind == 4:
            left, right = b.block(x, out), b.relu(b.conv(x, out, k=1))
            x = b.node("Add", [left, right], left.shape)
        else:
            x = b.block(x, out, dilation=2)
        features.append(x)
    names = ["seg", "depth", "normals", "edges", "keys"][:tasks]
    early = {t: (features[len(features) // 2] if rng.random() < 0.25 else x) for t in names}
    return b.heads(early, {t: int(rng.integers(1, 4)) for t in names})

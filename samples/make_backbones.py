"""Makes the sample backbones: small untrained networks with readable node names, the same bytes every time.

    python samples/make_backbones.py [DIRECTORY]

- ``resnet18-small.onnx``: ResNet-18 (8 basic blocks, BatchNorm unfolded), 64×64 images, stride 8.
- ``resnet14-tiny.onnx``: 6 basic blocks so narrow that each of them counts, stride 8.
- ``mobilenetv2-small.onnx``: inverted residuals with Relu6, stride 16.
- ``vgg-small.onnx``: plain convolutions without normalization, stride 16.

All end in a classifier of ten classes, as a downloaded backbone does. Weights are He-initialised from a fixed seed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

IMAGE = 64
CLASSES = 10


class Builder:
    """Adds layers to a graph; every weight is a function of (network, weight name)."""

    def __init__(self, network: str) -> None:
        self.network = network
        image = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 3, IMAGE, IMAGE]))
        self.graph = ir.Graph([image], [], nodes=[], opset_imports={"": 21}, name=network)
        self.image = image

    def add(self, op: str, name: str, inputs: list[ir.Value], **attributes: int | float | list[int]) -> ir.Value:
        """One node; its output is named after it."""
        output = ir.Value(name=f"{name}.out")
        node = ir.node(op, inputs, attributes, outputs=[output], name=name)
        self.graph.append(node)
        return output

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer."""
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def he(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A weight of variance 2 / fan-in. Uniform: its bits do not depend on a math library's logarithm."""
        seed = [ord(c) for c in f"{self.network}/{name}"]
        bound = math.sqrt(6.0 / math.prod(shape[1:]))
        uniform = np.random.Generator(np.random.PCG64(seed)).random(shape) * 2.0 - 1.0
        return self.weight(name, (uniform * bound).astype(np.float32))

    def conv(
        self,
        x: ir.Value,
        name: str,
        cin: int,
        cout: int,
        k: int,
        *,
        stride: int = 1,
        group: int = 1,
        bias: bool = False,
    ) -> ir.Value:
        """A convolution that keeps the size but for its stride."""
        inputs = [x, self.he(f"{name}.weight", (cout, cin // group, k, k))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", np.zeros(cout, np.float32)))
        return self.add("Conv", name, inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=group)

    def norm(self, x: ir.Value, name: str, channels: int) -> ir.Value:
        """A BatchNormalization as torch initialises it."""
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        slots = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        return self.add(
            "BatchNormalization", name, [x, *(self.weight(f"{name}.{slot}", array) for slot, array in slots.items())]
        )

    def classifier(self, x: ir.Value, channels: int) -> ir.Model:
        """Pooling and a linear layer; closes the graph."""
        x = self.add("GlobalAveragePool", "avgpool", [x])
        x = self.add("Flatten", "flatten", [x], axis=1)
        weight = self.he("fc.weight", (CLASSES, channels))
        x = self.add("Gemm", "fc", [x, weight, self.weight("fc.bias", np.zeros(CLASSES, np.float32))], transB=1)
        x.name = "logits"
        x.type, x.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", CLASSES])
        self.graph.outputs.append(x)
        return ir.Model(self.graph, ir_version=10, producer_name="onnxmtl samples")


def resnet18_small() -> ir.Model:
    """Eight basic blocks of widths 16, 32, 64, 128; strides 2 (stem), 1, 2, 2, 1."""
    return _resnet("resnet18-small", (16, 32, 64, 128), (1, 2, 2, 1))


def resnet14_tiny() -> ir.Model:
    """Six basic blocks of widths 8, 16, 32; strides 2 (stem), 1, 2, 2."""
    return _resnet("resnet14-tiny", (8, 16, 32), (1, 2, 2))


def _resnet(network: str, widths: Sequence[int], strides: Sequence[int]) -> ir.Model:
    """A 3×3 stem of stride 2 and stages of two basic blocks each."""
    b = Builder(network)
    cin = widths[0]
    x = b.conv(b.image, "conv1", 3, cin, 3, stride=2)
    x = b.add("Relu", "relu", [b.norm(x, "bn1", cin)])
    for stage, (width, stride) in enumerate(zip(widths, strides, strict=True), start=1):
        for block in range(2):
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            y = b.norm(b.conv(x, f"{name}.conv1", cin, width, 3, stride=step), f"{name}.bn1", width)
            y = b.add("Relu", f"{name}.relu1", [y])
            y = b.norm(b.conv(y, f"{name}.conv2", width, width, 3), f"{name}.bn2", width)
            if step != 1 or cin != width:
                x = b.conv(x, f"{name}.downsample.0", cin, width, 1, stride=step)
                x = b.norm(x, f"{name}.downsample.1", width)
            x = b.add("Relu", f"{name}.relu2", [b.add("Add", f"{name}.add", [y, x])])
            cin = width
    return b.classifier(x, cin)


def mobilenetv2_small() -> ir.Model:
    """Inverted residuals (expansion 4) of widths 16, 24, 32, 48."""
    b = Builder("mobilenetv2-small")
    low, high = b.weight("relu6.min", np.float32(0)), b.weight("relu6.max", np.float32(6))

    def layer(x: ir.Value, name: str, cin: int, cout: int, k: int, stride: int = 1, group: int = 1) -> ir.Value:
        x = b.norm(b.conv(x, f"{name}.0", cin, cout, k, stride=stride, group=group), f"{name}.1", cout)
        return b.add("Clip", f"{name}.2", [x, low, high])

    x, cin = layer(b.image, "features.0", 3, 16, 3, 2), 16
    index = 1
    for width, repeats, stride in ((16, 1, 1), (24, 2, 2), (32, 2, 2), (48, 2, 2)):
        for repeat in range(repeats):
            name, step, hidden = f"features.{index}", stride if repeat == 0 else 1, 4 * cin
            y = layer(x, f"{name}.conv.0", cin, hidden, 1)
            y = layer(y, f"{name}.conv.1", hidden, hidden, 3, step, hidden)
            y = b.norm(b.conv(y, f"{name}.conv.2", hidden, width, 1), f"{name}.conv.3", width)
            x = b.add("Add", f"{name}.add", [x, y]) if step == 1 and cin == width else y
            cin, index = width, index + 1
    return b.classifier(layer(x, f"features.{index}", cin, 192, 1), 192)


def vgg_small() -> ir.Model:
    """Convolutions with bias, Relu and max pooling; no normalization."""
    b = Builder("vgg-small")
    x, cin, index = b.image, 3, 0
    for width in (16, 32, 64, 64):
        for _ in range(2):
            x = b.add("Relu", f"features.{index + 1}", [b.conv(x, f"features.{index}", cin, width, 3, bias=True)])
            cin, index = width, index + 2
        x = b.add("MaxPool", f"features.{index}", [x], kernel_shape=[2, 2], strides=[2, 2])
        index += 1
    return b.classifier(x, cin)


BACKBONES: dict[str, Callable[[], ir.Model]] = {
    "resnet18-small": resnet18_small,
    "resnet14-tiny": resnet14_tiny,
    "mobilenetv2-small": mobilenetv2_small,
    "vgg-small": vgg_small,
}


def to_bytes(model: ir.Model) -> bytes:
    """The file's content: the same for the same model."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def main() -> None:
    """Write all backbones into the directory named on the command line (default: beside this script)."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "backbones"
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in BACKBONES.items():
        path = directory / f"{name}.onnx"
        path.write_bytes(to_bytes(make()))
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Random small networks of any operators, valid for the most part, and what is done with a network in the main job."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Net:
    """Grows a graph value by value; shapes are followed where they are simple, else guessed."""

    def __init__(self, rng: random.Random, batch: int) -> None:
        self.rng, self.numpy = rng, np.random.default_rng(rng.randrange(2**31))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"image": (batch, 3, 16, 16)}

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random_weight(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.weight((self.numpy.normal(size=shape) / fan**0.5).astype(np.float32))

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        self.shapes[f"{name}_out"] = shape
        return f"{name}_out"

    def any_map(self) -> str:
        return self.rng.choice([name for name, shape in self.shapes.items() if len(shape) == 4])


def random_graph(seed: int) -> bytes:
    """A network of 4 to 14 layers with one or two outputs, in an opset between 14 and 21."""
    rng = random.Random(seed)
    batch = rng.choice(("N", 1, 2))
    net = _Net(rng, 2 if batch == 2 else 1)
    x = _conv(net, "image")
    for _ in range(rng.randint(4, 14)):
        x = rng.choice(_LAYERS)(net, x if rng.random() < 0.8 else net.any_map())
        if rng.random() < 0.2:
            x = _join(net, x, net.any_map())
    outputs = [x]
    if rng.random() < 0.6:
        pooled = net.node("GlobalAveragePool", [x], (net.shapes[x][0], net.shapes[x][1], 1, 1))
        flat = net.node("Flatten", [pooled], net.shapes[x][:2])
        outputs = [net.node("Gemm", [flat, net.random_weight(net.shapes[x][1], 5)], (net.shapes[x][0], 5))]
    elif rng.random() < 0.3:
        outputs.append(net.any_map())
    size: list[str | int] = [16, 16] if rng.random() < 0.9 else ["H", "W"]
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(outputs)],
        net.weights,
    )
    opset = helper.make_opsetid("", rng.choice((14, 15, 17, 18, 20, 21)))
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def _conv(net: _Net, x: str) -> str:
    rng, (n, c, h, w) = net.rng, net.shapes[x]
    k, dilation = rng.choice((1, 3, 3, 5)), rng.choice((1, 1, 2))
    stride = rng.choice((1, 1, 2)) if h > 3 else 1
    group = rng.choice([g for g in (1, 1, 2, c) if c % g == 0])
    out = group * rng.choice((1, 2, 4))
    pad = dilation * (k - 1) // 2
    inputs = [x, net.random_weight(out, c // group, k, k)]
    if rng.random() < 0.4:
        inputs.append(net.random_weight(out))
    y = net.node("Conv", inputs, (n, out, (h - 1) // stride + 1, (w - 1) // stride + 1), kernel_shape=[k, k],
                 pads=[pad] * 4, strides=[stride] * 2, dilations=[dilation] * 2, group=group)  # fmt: skip
    return _norm(net, y) if rng.random() < 0.5 else y


def _norm(net: _Net, x: str) -> str:
    c = net.shapes[x][1]
    statistics = [net.weight(net.numpy.uniform(0.5, 1.5, c).astype(np.float32)) for _ in range(4)]
    return net.node("BatchNormalization", [x, *statistics], net.shapes[x])


def _activation(net: _Net, x: str) -> str:
    op = net.rng.choice(
        ("Relu", "Sigmoid", "HardSwish", "Tanh", "LeakyRelu", "Elu", "Softplus", "Erf", "Dropout", "Clip")
    )
    return net.node(op, [x], net.shapes[x])


def _pool(net: _Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    op = net.rng.choice(("MaxPool", "AveragePool"))
    return net.node(op, [x], (n, c, (h - 1) // 2 + 1, (w - 1) // 2 + 1), kernel_shape=[3, 3], strides=[2, 2],
                    pads=[1, 1, 1, 1])  # fmt: skip


def _excite(net: _Net, x: str) -> str:
    n, c, *_ = net.shapes[x]
    pooled = net.node("GlobalAveragePool", [x], (n, c, 1, 1))
    gate = net.node("Sigmoid", [net.node("Conv", [pooled, net.random_weight(c, c, 1, 1)], (n, c, 1, 1))], (n, c, 1, 1))
    return net.node("Mul", [x, gate], net.shapes[x])


def _shuffle(net: _Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    if c % 2:
        return x
    split = net.node("Reshape", [x, net.weight(np.array([n, 2, c // 2, h, w]))], (n, 2, c // 2, h, w))
    turned = net.node("Transpose", [split], (n, c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", [turned, net.weight(np.array([n, c, h, w]))], (n, c, h, w))


def _layer_norm(net: _Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    last = net.node("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    mixed = net.node("MatMul", [last, net.random_weight(c, c)], (n, h, w, c))
    added = net.node("Add", [mixed, net.random_weight(c)], (n, h, w, c))
    return net.node("Transpose", [added], (n, c, h, w), perm=[0, 3, 1, 2])


def _up(net: _Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    if h > 16:
        return x
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    return net.node("Resize", [x, "", scales], (n, c, 2 * h, 2 * w), mode=net.rng.choice(("nearest", "linear")),
                    coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip


def _scale(net: _Net, x: str) -> str:
    c = net.shapes[x][1]
    weight = net.random_weight(1, c, 1, 1) if net.rng.random() < 0.7 else net.weight(np.float32(0.5))
    return net.node(net.rng.choice(("Add", "Mul", "Sub")), [x, weight], net.shapes[x])


def _join(net: _Net, x: str, y: str) -> str:
    """Add or concatenate; sizes that differ are not cared for: such a network is to be refused."""
    a, b = net.shapes[x], net.shapes[y]
    if a == b and net.rng.random() < 0.6:
        return net.node("Add", [x, y], a)
    if a[2:] != b[2:] and net.rng.random() < 0.9:
        return x
    return net.node("Concat", [x, y], (a[0], a[1] + b[1], *a[2:]), axis=1)


def _wild(net: _Net, x: str) -> str:
    """Any one-input operator, right or not."""
    op = net.rng.choice(
        ("Identity", "Abs", "Exp", "Neg", "Softmax", "LogSoftmax", "Flatten", "GlobalMaxPool", "Det", "NonZero")
    )
    return net.node(op, [x], net.shapes[x])


_LAYERS: tuple[Callable[[_Net, str], str], ...] = (
    _conv, _conv, _conv, _activation, _activation, _pool, _excite, _shuffle, _layer_norm, _up, _scale, _wild,
)  # fmt: skip


def use_network(content: bytes) -> None:
    """Import, two heads, supermodel, selection, finalize: the result computes what the lowered selection does.

    Raises:
        OnnxMTLError: The network is refused.
        AssertionError: A number differs.
    """
    import torch

    from onnxmtl import runtime
    from onnxmtl.analysis.sites import site_table
    from onnxmtl.ir import to_bytes
    from onnxmtl.kinds import TaskSet
    from onnxmtl.lowering import to_torch
    from onnxmtl.passes.finalize import finalize_passes
    from onnxmtl.passes.heads import AttachHeads
    from onnxmtl.passes.pipelines import Pipeline
    from onnxmtl.passes.select import select_passes
    from onnxmtl.passes.spaces.vcn import Vcn
    from onnxmtl.policy import Policy, sample
    from onnxmtl.workflows.importing import load

    if not content:
        return
    tasks = TaskSet.parse("seg=segmentation:3,depth")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(content)
        backbone = load(path)
    supermodel = Pipeline([AttachHeads(tasks, 0), Vcn()])(backbone).model
    architecture = sample(Policy.uniform(site_table(supermodel)), 1, seed=0)[0]
    selected = Pipeline(select_passes(architecture))(supermodel).model
    module = to_torch(selected).eval()
    images = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images))
    outputs = runtime.run(runtime.session(to_bytes(selected), optimize=False, threads=1), {"image": images})
    for name, value in outputs.items():
        scale = float(np.abs(value).max()) or 1.0
        error = float(np.abs(value - expected[name].numpy()).max()) / scale
        assert error <= 1e-4, f"output {name} differs by {error}"
    final = Pipeline(finalize_passes(tasks, {"layout": "NCHW"}))(selected).model
    runtime.run(runtime.session(to_bytes(final), threads=1), {"image": images})

"""Networks of any number of nodes as ONNX files, with weights in an external file that may take no room on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

Shape = Literal["residual", "plain", "inception", "dense"]
Data = Literal["inside", "external", "sparse"]
_FLOAT = TensorProto.FLOAT
_SMALL = 0.02


def peak_megabytes() -> float:
    """The most memory this process ever had, in MB. (``getrusage`` would start with what the parent process had.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@dataclasses.dataclass
class _Writer:
    """Collects nodes and weights; weights are numbered into one external file if there is one."""

    rng: np.random.Generator
    data: Data
    location: str
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    weights: list[onnx.TensorProto] = dataclasses.field(default_factory=list)
    blobs: list[bytes] = dataclasses.field(default_factory=list)
    offset: int = 0

    def weight(self, name: str, shape: tuple[int, ...], low: float, high: float) -> str:
        if self.data == "inside":
            array = self.rng.uniform(low, high, shape).astype(np.float32)
            self.weights.append(onnx.numpy_helper.from_array(array, name))
            return name
        length = 4 * int(np.prod(shape))
        tensor = onnx.TensorProto(name=name, data_type=_FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.location), ("offset", self.offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        if self.data == "external":
            self.blobs.append(self.rng.uniform(low, high, shape).astype(np.float32).tobytes())
        self.offset += length
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x: str, c_in: int, c_out: int, k: int = 1, stride: int = 1) -> str:
        std = (2.0 / (c_in * k * k)) ** 0.5
        w = self.weight(f"w{len(self.nodes)}", (c_out, c_in, k, k), -std, std)
        pads = [k // 2] * 4
        return self.node("Conv", [x, w], kernel_shape=[k, k], pads=pads, strides=[stride] * 2)

    def norm(self, x: str, channels: int, scale: float = 1.0) -> str:
        n = len(self.nodes)
        bounds = (("scale", 0.9 * scale, 1.1 * scale), ("shift", -0.1, 0.1), ("mean", -0.1, 0.1), ("var", 0.9, 1.1))
        return self.node(
            "BatchNormalization", [x, *(self.weight(f"{what}{n}", (channels,), *b) for what, *b in bounds)]
        )


def write_network(
    path: Path,
    nodes: int,
    *,
    shape: Shape = "residual",
    channels: int = 4,
    size: int = 8,
    kernel: int = 1,
    data: Data = "inside",
    backwards: bool = False,
    seed: int = 0,
) -> Path:
    """Write a network of about `nodes` nodes. What a block adds is small: signals neither grow nor die on the way.

    Args:
        path: The ``.onnx`` file; external weights go to ``<path>.data``.
        nodes: How many nodes; the last block may go a few beyond it.
        shape: ``residual`` (conv, norm, relu, add), ``plain`` (a bare chain of convolutions and Relus), ``inception``
            (four branches and a concatenation per block) or ``dense`` (blocks of eight, each layer reads all before).
        channels: Of every layer.
        size: Height and width of the image.
        kernel: Of the residual and plain convolutions.
        data: ``inside`` the file, ``external``, or ``sparse``: an external file of zeros that takes no room on disk.
        backwards: List the nodes from last to first.
        seed: Of the weights.
    """
    w = _Writer(np.random.default_rng(seed), data, f"{path.name}.data")
    c = channels
    x = w.node("Relu", [w.norm(w.conv("image", 3, c, 3), c)])
    while len(w.nodes) < nodes:
        if shape == "residual":
            x = w.node("Relu", [w.node("Add", [x, w.norm(w.conv(x, c, c, kernel), c, _SMALL)])])
        elif shape == "plain":
            x = w.node("Relu", [w.conv(x, c, c, kernel)])
        elif shape == "inception":
            ends = [w.node("Relu", [w.norm(w.conv(x, c, c), c)]) for _ in range(4)]
            joined = w.norm(w.conv(w.node("Concat", ends, axis=1), 4 * c, c), c, _SMALL)
            x = w.node("Relu", [w.node("Add", [x, joined])])
        else:
            maps = [x]
            for _ in range(8):
                before = w.node("Concat", maps, axis=1) if len(maps) > 1 else x
                maps.append(w.conv(w.node("Relu", [w.norm(before, c * len(maps))]), c * len(maps), c))
            joined = w.norm(w.conv(w.node("Concat", maps, axis=1), 9 * c, c), c, _SMALL)
            x = w.node("Relu", [w.node("Add", [x, joined])])
    w.nodes[-1].output[0] = "features"
    pooled = helper.make_node("GlobalAveragePool", ["features"], ["pooled"], name="pool")
    flat = helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten")
    fc = helper.make_node("Gemm", ["flat", w.weight("fc", (c, 10), -1, 1)], ["logits"], name="fc")
    image = helper.make_tensor_value_info("image", _FLOAT, ["N", 3, size, size])
    logits = helper.make_tensor_value_info("logits", _FLOAT, ["N", 10])
    listed = [*w.nodes, pooled, flat, fc]
    graph = helper.make_graph(listed[::-1] if backwards else listed, "net", [image], [logits], w.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    if data != "inside":
        with open(f"{path}.data", "wb") as file:
            file.writelines(w.blobs)
            file.truncate(w.offset)  # a hole where nothing was written
    return path

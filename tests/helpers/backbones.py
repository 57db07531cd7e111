"""Networks with the shape of published ones and few channels: as many sites, as deep, but light."""

from __future__ import annotations

import onnx_ir as ir

from helpers.graphs import GraphBuilder

_NAMES = ("seg", "depth", "normals", "edges", "keys", "parts", "saliency", "curvature")


def resnet34(tasks: int, width: int = 4, size: int = 32) -> ir.Model:
    """ResNet-34: 33 convolutions in residual blocks of two, three with a projection; with heads."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, width, stride=2, name="stem")
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            x = b.residual(x, width << stage, stride=2 if stage and not i else 1)
    return b.heads(x, dict.fromkeys(_NAMES[:tasks], 2))


def mobilenet_v2(tasks: int, size: int = 64) -> ir.Model:
    """MobileNetV2: 17 inverted residual blocks, 52 convolutions; with heads."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, 4, stride=2, name="stem")
    rows = ((1, 2, 1, 1), (6, 3, 2, 2), (6, 4, 3, 2), (6, 8, 4, 2), (6, 12, 3, 1), (6, 20, 3, 2), (6, 40, 1, 1))
    for expansion, out, blocks, first in rows:
        for i in range(blocks):
            stride, inner = (first if not i else 1), x.shape[1] * expansion
            y = b.block(x, inner, k=1) if expansion > 1 else x
            y = b.block(y, inner, stride, group=inner)
            y = b.norm(b.conv(y, out, k=1, bias=False))
            x = b.node("Add", [x, y], y.shape) if stride == 1 and x.shape[1] == out else y
    return b.heads(b.block(x, 160, k=1), dict.fromkeys(_NAMES[:tasks], 2))


def inception(tasks: int, modules: int = 3, size: int = 16) -> ir.Model:
    """A stem and modules of four branches as in GoogLeNet, joined by Concat; with heads."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, 4, stride=2, name="stem")
    for _ in range(modules):
        pooled = b.node("AveragePool", [x], x.shape, kernel_shape=[3, 3], pads=[1] * 4)
        x = b.concat(b.block(x, 4, k=1), b.block(b.block(x, 2, k=1), 4), b.block(b.block(x, 2, k=1), 2),
                     b.block(pooled, 2, k=1))  # fmt: skip
    return b.heads(x, dict.fromkeys(_NAMES[:tasks], 2))

"""Networks to fuse: of published depth with few channels, of small depth, and two different ones in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from helpers.graphs import GraphBuilder
from onnxmtl import ops
from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role, clone, role_of
from onnxmtl.ir.passes import Sequential
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Fusion
from onnxmtl.passes.spaces.separate import Separate
from onnxmtl.policy import Architecture

TASKS = ("seg", "depth", "normals", "edges")


def pooled(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """A 2x2 max pooling."""
    shape = [*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2]
    return b.node("MaxPool", [x], shape, kernel_shape=[2, 2], strides=[2, 2])


def vgg(
    tasks: int = 2, stages: Sequence[int] = (2, 2), width: int = 3, size: int = 8, *, norm: bool = False
) -> ir.Model:
    """Stages of 3x3 convolutions with ReLU, a max pooling behind each; the feature is the last ReLU's."""
    b = GraphBuilder(size=size)
    x = b.image
    for stage, layers in enumerate(stages):
        x = pooled(b, x) if stage else x
        for i in range(layers):
            y = b.conv(x, width + stage, bias=not norm, name=f"conv{stage}_{i}")
            x = b.relu(b.norm(y, name=f"bn{stage}_{i}") if norm else y)
            x.name = f"relu{stage}_{i}"
    return b.heads(x, dict.fromkeys(TASKS[:tasks], 2))


def vgg16(tasks: int = 2) -> ir.Model:
    """VGG-16's 13 convolutions."""
    return vgg(tasks, (2, 2, 3, 3, 3), size=32)


def resnet50(tasks: int = 2, width: int = 2, size: int = 64, *, pool: bool = True) -> ir.Model:
    """A stem and 3, 4, 6 and 3 bottlenecks."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, width, stride=2, name="stem")
    x = pooled(b, x) if pool else x
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width << stage
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            y = b.block(b.block(x, inner, k=1), inner, stride)
            y = b.norm(b.conv(y, 4 * inner, k=1, bias=False))
            if stride != 1 or x.shape[1] != 4 * inner:
                x = b.norm(b.conv(x, 4 * inner, k=1, stride=stride, bias=False))
            x = b.relu(b.node("Add", [y, x], y.shape))
    return b.heads(x, dict.fromkeys(TASKS[:tasks], 2))


def mobile(tasks: int = 2, size: int = 8) -> ir.Model:
    """A stem with ReLU6 and two inverted residual blocks with a linear end, the first without a shortcut."""
    b = GraphBuilder(size=size)
    zero, six = (b.weight(name, np.array(number, np.float32)) for name, number in (("zero", 0), ("six", 6)))

    def relu6(x: ir.Value) -> ir.Value:
        return b.node("Clip", [x, zero, six], x.shape)

    x = relu6(b.norm(b.conv(b.image, 3, stride=2, bias=False, name="stem")))
    for out, stride in ((4, 2), (4, 1)):
        inner = 2 * x.shape[1]
        y = relu6(b.norm(b.conv(x, inner, k=1, bias=False)))
        y = relu6(b.norm(b.conv(y, inner, stride=stride, group=inner, bias=False)))
        y = b.norm(b.conv(y, out, k=1, bias=False))
        x = b.node("Add", [x, y], y.shape) if stride == 1 and x.shape[1] == out else y
    return b.heads(x, dict.fromkeys(TASKS[:tasks], 2))


def different(stages: Sequence[Sequence[tuple[int, int]]] = (((3, 1), (4, 2)), ((2, 1), (5, 2), (5, 1)))) -> ir.Model:
    """One network per task, each of convolutions (channels, stride) with normalization and ReLU."""
    b = GraphBuilder(size=8)
    ends = {}
    for task, layers in zip(TASKS, stages, strict=False):
        x = b.image
        for i, (channels, stride) in enumerate(layers):
            x = b.relu(
                b.norm(b.conv(x, channels, stride=stride, bias=False, name=f"{task}/conv{i}"), name=f"{task}/bn{i}")
            )
            x.name = f"{task}/relu{i}"
        ends[task] = x
    return b.heads(ends, dict.fromkeys(ends, 2))


def separated(model: ir.Model) -> ir.Model:
    """A network of its own for every task; the model stays as it is."""
    copy = model.clone()
    Sequential(Separate())(copy)
    return copy


def fused(model: ir.Model, **settings: Any) -> ir.Model:
    """The fusion supermodel of a multi-task graph, which stays as it is."""
    return Pipeline([Fusion(**settings)], instruments=[CheckInvariants()])(clone(model)).model


def drifted(model: ir.Model, seed: int = 0) -> ir.Model:
    """As after training: no two weights are equal, and units are no identities. In place."""
    rng = np.random.default_rng(seed)
    for value in ops.trainable_values(model.graph) | {
        v: None for v in model.graph.initializers.values() if role_of(v) is Role.STATISTIC
    }:
        array = value.const_value.numpy()
        spread = rng.normal(0, 0.2, array.shape) if role_of(value) is Role.FUSION else 0.0
        value.const_value = ir.tensor((array * rng.uniform(0.6, 1.4, array.shape) + spread).astype(np.float32))
    return model


def everything(model: ir.Model, option: str) -> Architecture:
    """The architecture that takes this option everywhere."""
    return Architecture.uniform(site_table(model), option)

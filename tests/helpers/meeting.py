"""Small networks for soft sharing: chains of convolutions, whose features tests compute by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

from helpers.graphs import GraphBuilder
from onnxmtl import runtime
from onnxmtl.ir import Role, clone, role_of, to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces.separate import Separate

Chain = Sequence[tuple[str, int, int]]
"""(name, channels, stride) of 3x3 convolutions, each with a Relu behind it."""
CHAIN: Chain = [("a", 4, 1), ("b", 6, 2), ("c", 6, 1), ("d", 8, 2)]


def chain(tasks: dict[str, int], layers: Chain = CHAIN, size: int = 8) -> ir.Model:
    """One trunk for all tasks, a 1x1 convolution for each of them; the tensor of layer `a` is called `a`."""
    b = GraphBuilder(size=size)
    x = b.image
    for name, channels, stride in layers:
        x = b.relu(b.conv(x, channels, stride=stride, name=f"conv_{name}"))
        x.name = name
    return b.heads(x, tasks)


def chains(networks: dict[str, Chain], size: int = 8) -> ir.Model:
    """A network of its own for every task, as several files are joined: names begin with the task's."""
    b = GraphBuilder(size=size)
    ends = {}
    for task, layers in networks.items():
        x = b.image
        for name, channels, stride in layers:
            x = b.relu(b.conv(x, channels, stride=stride, name=f"{task}/conv_{name}"))
            x.name = f"{task}/{name}"
        ends[task] = x
    return b.heads(ends, dict.fromkeys(networks, 2))


def stirred(model: ir.Model, seed: int = 1) -> ir.Model:
    """The model with other floats in all its weights: copies differ then, and so does every unit."""
    rng = np.random.default_rng(seed)
    for name, value in model.graph.initializers.items():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and role_of(value) is not Role.STATISTIC:
            value.const_value = ir.tensor((array + 0.3 * rng.normal(size=array.shape)).astype(np.float32), name=name)
    return model


def numbers(model: ir.Model) -> dict[str, torch.Tensor]:
    """Name -> initializer, floats in double precision."""
    found = {name: torch.from_numpy(v.const_value.numpy().copy()) for name, v in model.graph.initializers.items()}
    return {name: x.double() if x.is_floating_point() else x for name, x in found.items()}


def images(model: ir.Model, count: int = 2) -> torch.Tensor:
    shape = [count, *(int(size) for size in list(model.graph.inputs[0].shape)[1:])]
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


def computed(model: ir.Model, x: torch.Tensor | None = None, *, train: bool = False) -> dict[str, torch.Tensor]:
    """What the model computes in double precision; in evaluation mode ONNX Runtime has to agree."""
    x = images(model) if x is None else x
    module = to_torch(model, dtype=torch.float64).train(train)
    found = {task: y.detach() for task, y in module(x).items()}
    if not train:
        again = runtime.run(runtime.session(to_bytes(model), optimize=False, threads=1), x.numpy().astype(np.float32))
        for task, y in found.items():
            np.testing.assert_allclose(again[task], y.numpy(), rtol=1e-4, atol=1e-4 * float(y.abs().max()))
    return found


def alone(model: ir.Model) -> ir.Model:
    """The graph in which every task has a network of its own."""
    copy = clone(model)
    Separate()(copy)
    return copy


def conv(x: torch.Tensor, w: dict[str, torch.Tensor], name: str, stride: int = 1) -> torch.Tensor:
    """A convolution of the networks above, by the name of its node."""
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

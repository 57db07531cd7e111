"""What is trained after an import is what torch trains: every parameter up to the features, once, and nothing else.

On every network of the zoo, the light models and the samples: elements, gradients, running statistics, Dropout, batch
sizes.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers import light, zoo
from helpers.line import without_gradient
from torch import nn

from onnxmtl import runtime
from onnxmtl.frontends import prototxt
from onnxmtl.frontends.onnx import load
from onnxmtl.frontends.torch import export
from onnxmtl.ir import Role, to_bytes
from onnxmtl.lowering import LoweredModule, to_torch
from onnxmtl.ops import trainable_values
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.normalize import normalize

pytest.importorskip("onnxscript")

SAMPLES = sorted((Path(__file__).parents[2] / "samples" / "backbones").glob("*.onnx"))

FIXTURES = Path(__file__).parents[1] / "fixtures" / "prototxt"


def fast(name: str, exporter: zoo.Exporter) -> bool:
    return exporter == "legacy-train" or (name, exporter) in (("densenet", "legacy"), ("swin", "dynamo"))


CASES = [
    pytest.param(name, exporter, marks=[] if fast(name, exporter) else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


def trained(model: ir.Model) -> int:
    return sum(value.const_value.size for value in trainable_values(model.graph))


@functools.cache
def in_torch(name: str) -> tuple[dict[str, int], int]:
    """Name -> elements of the parameters that features depend on, by autograd; and how many are BatchNorm scales."""
    module = zoo.NETWORKS[name]()
    found = module.body(torch.rand(2, 3, zoo.SIZE, zoo.SIZE))
    sum(y.sum() for y in (found if isinstance(found, tuple) else (found,))).backward()
    sizes = {key: p.numel() for key, p in module.named_parameters() if p.grad is not None}
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.weight.grad is not None]
    return sizes, sum(layer.weight.numel() for layer in norms)


def expected(name: str, model: ir.Model, *, folded: bool) -> int:
    """A BatchNorm that the exporter folded leaves a bias (its shift) and no scale; a table of Swin's relative positions
    that it looked up already leaves an entry for each pair of the 16 positions in a window, not for each distance."""
    sizes, scales = in_torch(name)
    kept = sum(node.inputs[1].const_value.size for node in model.graph if node.op_type == "BatchNormalization")
    assert folded or kept == scales
    tables = sum(size for key, size in sizes.items() if key.endswith("bias_table")) if folded else 0
    return sum(sizes.values()) - (scales - kept) + tables * 16**2 // 7**2 - tables


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_what_torch_trains_is_trained(name: str, exporter: zoo.Exporter) -> None:
    trains_like_torch(zoo.backbone(name, exporter), name, exporter)


OPEN = [
    pytest.param(name, exporter, marks=[] if (name, exporter) == ("convnext", "dynamo") else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


@pytest.mark.parametrize(("name", "exporter"), OPEN)
def test_exported_with_an_open_batch(name: str, exporter: zoo.Exporter) -> None:
    trains_like_torch(zoo.backbone(name, exporter, batch=None), name, exporter)


def trains_like_torch(model: ir.Model, name: str, exporter: zoo.Exporter) -> None:
    folded = exporter in ("dynamo", "legacy")
    assert trained(model) == expected(name, model, folded=folded)
    if not folded:
        assert trained(model) == sum(in_torch(name)[0].values())
    with torch.no_grad():
        image = torch.from_numpy(np.random.default_rng(0).random((3, 3, zoo.SIZE, zoo.SIZE), dtype=np.float32))
        found = zoo.NETWORKS[name]().body(image)
    found = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(run(model, image), found, strict=True):
        assert relative_error(ours, theirs.numpy()) <= 1e-5
    trains(model, zoo.SIZE)


def run(model: ir.Model, image: torch.Tensor) -> list[np.ndarray]:
    """ONNX Runtime, its own rewrites off."""
    return list(runtime.run(runtime.session(to_bytes(model), optimize=False), image.numpy()).values())


def trains(model: ir.Model, size: int) -> None:
    """The lowered module learns everywhere, moves its statistics in training alone, and takes any batch."""
    module = to_torch(model).eval()
    images = torch.from_numpy(np.random.default_rng(1).random((3, 3, size, size), dtype=np.float32))
    before = statistics(module)
    for batch in (1, 2, 3):
        with torch.no_grad():
            ours = module(images[:batch]).values()
        for a, b in zip(ours, run(model, images[:batch]), strict=True):
            assert relative_error(a.numpy(), b) <= 1e-5
    assert moved(module, before) == set()
    module.train()
    generator = torch.Generator().manual_seed(0)
    sum((y * torch.randn(y.shape, generator=generator)).sum() for y in module(images[:2]).values()).backward()
    assert without_gradient(module) == []
    assert moved(module, before) == set(before)
    assert len(before) == 2 * sum(node.op_type == "BatchNormalization" for node in model.graph)
    assert {v.name for v in trainable_values(model.graph)} == set(module.parameters_with())
    drops(module, model, images[:2])


def statistics(module: LoweredModule) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in module.tensors().items() if module.roles[name] is Role.STATISTIC}


def moved(module: LoweredModule, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, module.tensors()[name])}


def drops(module: LoweredModule, model: ir.Model, images: torch.Tensor) -> None:
    """Dropout draws anew each time in training, and never in evaluation."""
    for training in (True, False):
        module.train(training)
        with torch.no_grad():
            torch.manual_seed(0)
            first, again = (torch.cat([y.flatten() for y in module(images).values()]) for _ in range(2))
        rates = [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == "Dropout"]
        assert bool((first != again).any()) == (training and any(rate > 0 for rate in rates))


FAST_LIGHTS = ("squeezenet", "zfnet512")
LIGHTS = [name if name in FAST_LIGHTS else pytest.param(name, marks=pytest.mark.slow) for name in light.SIZES]


@pytest.mark.parametrize("name", LIGHTS)
def test_light_models(name: str) -> None:
    size = light.SIZES[name]
    model = normalize(light.reseeded(name), input_size=(size, size))
    assert trained(model) == light.parameters_before(light.reseeded(name), str(model.graph.outputs[0].name))
    trains(model, size)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples(path: Path) -> None:
    raw = load(path)
    model = normalize(load(path))
    by_hand = {"Conv": (1, 2), "BatchNormalization": (1, 2)}
    names = {
        node.inputs[i].name
        for node in model.graph
        for i in by_hand.get(node.op_type, ())
        if i < len(node.inputs) and node.inputs[i] is not None
    }
    assert names <= set(raw.graph.initializers)
    assert trained(model) == sum(raw.graph.initializers[name].const_value.size for name in names)
    trains(model, int(model.graph.inputs[0].shape[2]))


# By hand, up to the feature: convolutions with their biases, scales and shifts, an inner product; shared ones once.
PROTOTXT = {
    "residual_automtl": 8 * 3 * 9 + 8 * 8 * 9 + 2 * (8 + 8),
    "v1_deploy": (8 * 3 * 9 + 8) + (8 * 8 * 9 + 8),  # conv3 has the weights of conv2
    "inception_train_val": (16 * 3 * 49 + 16)  # conv1
    + (8 * 16 + 8 + 8)  # inc/1x1, no bias; its Scale
    + (8 * 16 * 9 + 8 + 8)  # inc/3x3, and PReLU
    + (8 * 8 * 25 + 8)  # inc/5x5 in two groups
    + (24 * (8 + 8 + 8 + 16) * 9 + 24)  # left; right has its weights
    + (24 * 24 + 24)  # excite
    + 24 * 16,  # up, no bias
}


@pytest.mark.parametrize("name", PROTOTXT)
def test_prototxt(name: str) -> None:
    model = normalize(prototxt.load(FIXTURES / f"{name}.prototxt"))
    assert trained(model) == PROTOTXT[name]
    trains(model, int(model.graph.inputs[0].shape[2]))


def test_all_prototxt_fixtures_are_counted() -> None:
    assert {path.stem for path in FIXTURES.glob("*.prototxt")} == set(PROTOTXT)


def test_a_layer_fresh_from_its_initialization_that_is_used_twice_counts_once() -> None:
    """Scales of 1 and shifts of 0, with the statistics of both places in one pair."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            return self.fc(torch.relu(self.norm(torch.sin(x))).mean((2, 3)))

    net = Twice().eval()
    model = normalize(export(net, torch.rand(1, 3, 16, 16)))
    assert trained(model) == sum(p.numel() for part in (net.stem, net.norm) for p in part.parameters())
    assert sum(
        value.const_value.size for value in model.graph.initializers.values() if value.dtype.is_floating_point()
    ) == (trained(model) + 2 * 8)


def test_a_shared_layer_counts_once_and_learns_from_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.again(torch.relu(self.stem(x))))
            return torch.relu(self.again(x)).mean((2, 3))

    torch.manual_seed(0)
    net = Twice()
    for exporter in ("legacy", "legacy-train"):
        model = normalize(ir.from_proto(onnx.ModelProto.FromString(zoo.write(net, exporter))))
        assert trained(model) == sum(p.numel() for p in net.parameters())
        module, images = to_torch(model), torch.rand(2, 3, 64, 64)
        next(iter(module(images).values())).sum().backward()
        net.zero_grad()
        torch.relu(net.again(torch.relu(net.again(torch.relu(net.stem(images)))))).sum().backward()
        (gradient,) = [p.grad for p in module.parameters() if p.shape == net.again.weight.shape]
        assert relative_error(gradient.numpy(), net.again.weight.grad.numpy()) <= 1e-5

"""How many residual blocks the networks of the zoo have, and those that are as deep as published."""

from __future__ import annotations

import functools
import itertools

import onnx
import onnx_ir as ir
import pytest
from helpers import light, zoo

from onnxmtl.analysis.shortcuts import refused_additions, residual_blocks
from onnxmtl.passes.normalize import normalize

COUNTS = {
    "resnet18": 6,
    "resnet50": 5,
    "resnext": 4,
    "regnet": 4,
    "convnext": 4,
    "deeplab": 4,
    "mobilenet_v2": 2,
    "mobilenet_v3": 2,
    "mnasnet": 2,
    "efficientnet_v1": 3,
    "efficientnet_v2": 3,
    "shufflenet_v1": 2,
    "fpn": 4,
    "yolo": 4,
    "vit": 6,
    "vit_sdpa": 6,
    "swin": 10,
}
FAST = ("resnet18", "mobilenet_v2", "shufflenet_v1", "fpn", "yolo", "vit_sdpa", "unet")
CASES = [
    pytest.param(name, exporter, marks=[] if exporter == "legacy-train" and name in FAST else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_blocks_of_the_zoo(name: str, exporter: zoo.Exporter) -> None:
    pytest.importorskip("onnxscript")
    model = zoo.backbone(name, exporter)
    assert len(residual_blocks(model.graph)) == COUNTS.get(name, 0)
    assert len(refused_additions(model.graph)) == (3 if name == "fpn" else 0)


def _resnet(kind: type, counts: tuple[int, ...], widths: tuple[int, ...], expand: int):
    from helpers.zoo.layers import Classifier
    from helpers.zoo.residual import _stem

    c_in, stages = 8, []
    for count, width, stride in zip(counts, widths, (1, 2, 2, 2), strict=True):
        for i in range(count):
            stages.append(kind(c_in, width * expand, stride if i == 0 else 1))
            c_in = width * expand
    return Classifier(c_in, *_stem(8), *stages)


def _mobilenet_v2():
    from helpers.zoo.layers import Classifier
    from helpers.zoo.layers import conv as layer
    from helpers.zoo.mobile import Inverted

    c_in, blocks = 8, []
    # Sandler et al. 2018, Table 2: expansion, channels (scaled), repeats, stride
    rows = ((1, 4, 1, 1), (6, 6, 2, 2), (6, 8, 3, 2), (6, 10, 4, 2), (6, 12, 3, 1), (6, 14, 3, 2), (6, 16, 1, 1))
    for t, c, n, s in rows:
        for i in range(n):
            blocks.append(Inverted(c_in, c, s if i == 0 else 1, expand=t))
            c_in = c
    return Classifier(32, layer(3, 8, 3, 2), *blocks, layer(16, 32, 1))


def _published(name: str):
    from helpers.zoo.residual import Basic, Bottleneck

    return {
        "resnet18": functools.partial(_resnet, Basic, (2, 2, 2, 2), (8, 12, 16, 20), 1),
        "resnet34": functools.partial(_resnet, Basic, (3, 4, 6, 3), (8, 12, 16, 20), 1),
        "resnet50": functools.partial(_resnet, Bottleneck, (3, 4, 6, 3), (4, 6, 8, 10), 4),
        "mobilenet_v2": _mobilenet_v2,
    }[name]()


PUBLISHED = [
    pytest.param("resnet18", 8, marks=pytest.mark.slow),
    ("resnet34", 16),
    pytest.param("resnet50", 16, marks=pytest.mark.slow),
    ("mobilenet_v2", 10),
]


@pytest.mark.parametrize(("name", "count"), PUBLISHED)
def test_networks_of_published_depth(name: str, count: int) -> None:
    pytest.importorskip("onnxscript")
    proto = onnx.load_model_from_string(zoo.write(_published(name), "legacy"))
    blocks = residual_blocks(normalize(ir.from_proto(proto)).graph)
    assert len(blocks) == count
    assert sum(not block.identity for block in blocks) == {"resnet18": 3, "resnet34": 3, "resnet50": 4}.get(name, 0)
    for one, two in itertools.pairwise(blocks):
        if name.startswith("resnet"):
            assert two.entry is one.exit


def test_a_network_of_somebody_else() -> None:
    """ResNet-50 from Caffe by way of the onnx wheel: sums of a scale's shift, weights made by nodes."""
    model = normalize(light.light("resnet50"), input_size=(64, 64))
    assert len(residual_blocks(model.graph)) == 16

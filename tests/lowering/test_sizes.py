"""Images of another size than the exported one: taken where nothing in the graph depends on it, else a clear error."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from helpers import zoo

from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.instruments import relative_error

pytest.importorskip("onnxscript")

SIZE = (96, 80)
# The operator that has the size in it, for the networks whose exports depend on it.
BAKED = {
    "deeplab": "Resize",  # the image level, resized to the map's size
    "inception_v1": "Reshape",  # torch's LocalResponseNorm is spelt out
    "shufflenet_v1": "Reshape",
    "shufflenet_v2": "Reshape",
    "fpn": "Add",  # sizes are whole multiples of each other at 64, not at 80
    "yolo": "Concat",
    "vit": "Reshape",
    "vit_sdpa": "Reshape",
    "swin": "Reshape",
}
FREE = [name for name in zoo.NETWORKS if name not in BAKED]
# Import cannot set another size: positions, windows and normalization across channels are laid out for one.
FIXED = ("inception_v1", "vit", "vit_sdpa", "swin")
FAST = ("resnet18", "convnext", "mobilenet_v3", "unet_resize", "deeplab", "shufflenet_v2", "fpn", "vit", "swin")


def cases(names: Iterable[str]) -> list[Any]:
    """(network, exporter); one exporter and some of the networks are fast."""
    return [
        pytest.param(name, exporter, marks=[] if exporter == "legacy-train" and name in FAST else pytest.mark.slow)
        for name in names
        for exporter in ("legacy-train", "legacy", "dynamo")
    ]


@functools.cache
def images(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((2, 3, *size), dtype=np.float32))


def in_torch(name: str, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    with torch.no_grad():
        found = zoo.NETWORKS[name]().body(images(size))
    return [y.numpy() for y in (found if isinstance(found, tuple) else (found,))]


def with_free_size(model: ir.Model) -> ir.Model:
    """The same nodes and weights; nobody is told a size."""
    model.graph.inputs[0].shape = ir.Shape(["N", 3, "H", "W"])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    return model


@pytest.mark.parametrize(("name", "exporter"), cases(FREE))
def test_fully_convolutional_networks_take_any_size(name: str, exporter: zoo.Exporter) -> None:
    model = zoo.backbone(name, exporter)
    with torch.no_grad():
        ours = [y.numpy() for y in to_torch(model).eval()(images()).values()]
    session = runtime.session(to_bytes(with_free_size(model)), optimize=False)
    for a, b, c in zip(ours, runtime.run(session, images().numpy()).values(), in_torch(name), strict=True):
        assert relative_error(a, b) <= 1e-5
        assert relative_error(a, c) <= 1e-5


@pytest.mark.parametrize(("name", "exporter"), cases(BAKED))
def test_a_baked_size_is_named(name: str, exporter: zoo.Exporter) -> None:
    model = zoo.backbone(name, exporter)
    module = to_torch(model).eval()
    with pytest.raises(ModelError) as error:
        module(images())
    message = str(error.value)
    node = next(node for node in model.graph if f"node {str(node.name)!r} (" in message)
    assert node.op_type == BAKED[name]
    assert "64x64 is part of node" in message and "--input-size 96x80" in message and "\n" not in message
    module(torch.rand(1, 3, 64, 64))  # and works on


def test_other_failures_are_not_blamed_on_the_size() -> None:
    module = to_torch(zoo.backbone("resnet18"))
    with pytest.raises(RuntimeError, match="channels"):
        module(torch.rand(1, 4, 64, 64))


@pytest.mark.parametrize(("name", "exporter"), cases([name for name in zoo.NETWORKS if name not in (*FIXED, "yolo")]))
def test_import_sets_another_size(name: str, exporter: zoo.Exporter) -> None:
    model = zoo.backbone(name, exporter, input_size=SIZE)
    assert list(model.graph.inputs[0].shape)[2:] == list(SIZE)
    with torch.no_grad():
        ours = to_torch(model).eval()(images()).values()
    expected = in_torch(name)
    for a, b in zip(ours, expected, strict=True):
        assert relative_error(a.numpy(), b) <= 1e-5
    session = runtime.session(to_bytes(model), optimize=False)
    for a, b in zip(runtime.run(session, images().numpy()).values(), expected, strict=True):
        assert relative_error(a, b) <= 1e-5


def test_a_detectors_import_sets_another_size() -> None:
    """Its maps are doubled on the way up, so only multiples of 32 fit torch; 128 × 96 is one."""
    size = (128, 96)
    model = zoo.backbone("yolo", "legacy", input_size=size)
    with torch.no_grad():
        ours = to_torch(model).eval()(images(size)).values()
    for a, b in zip(ours, in_torch("yolo", size), strict=True):
        assert relative_error(a.numpy(), b) <= 1e-5


@pytest.mark.parametrize("size", [SIZE, (128, 128)])
@pytest.mark.parametrize("name", FIXED)
def test_import_refuses_a_size_that_is_laid_out(name: str, size: tuple[int, int]) -> None:
    """Also the size that divides: 128 × 128 are four times as many tokens, not four images."""
    with pytest.raises(ModelError, match=r"exported for 64x64: .*node '.*' \(Reshape\)") as error:
        zoo.backbone(name, "legacy", input_size=size)
    assert f"{size[0]}x{size[1]} images" in str(error.value)

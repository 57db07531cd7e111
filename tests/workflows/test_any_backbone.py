"""Any backbone, the whole line: import, supermodel for two tasks, a training step, selection, emission, verification.

The networks are those of the zoo, as torch's exporters write them, and the nine models in the onnx wheel with weights
that are not constant. The architecture's tolerances hold: 1e-5 unfolded with the runtime's optimizations off, 1e-4
folded and optimized.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helpers import light, zoo
from helpers.line import Line, whole_line
from helpers.networks import Network

from onnxmtl import runtime
from onnxmtl.ir import load, save, to_bytes
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.normalize import normalize

pytest.importorskip("onnxscript")


def check(line: Line, *, fold: bool) -> None:
    """Emission verified it already; what it measured has to be the architecture's tolerances."""
    report = line.report
    assert report.passed and [task.task for task in report.tasks] == ["seg", "depth"]
    assert (report.plain_tolerance, report.optimized_tolerance) == ((1e-4 if fold else 1e-5), 1e-4)
    for task in report.tasks:
        assert task.max_error < float("inf")
        assert task.plain_error <= report.plain_tolerance
        assert max(task.optimized_error, task.batch_error) <= report.optimized_tolerance
    assert not any(node.domain == "onnxmtl" for node in line.emitted.graph)


RELATIVES = {  # made of the same blocks as one that is fast
    "efficientnet_v2", "inception_v1", "mnasnet", "regnet", "shufflenet_v2", "unet_resize", "vit_sdpa"
}  # fmt: skip


def fast(name: str, exporter: zoo.Exporter) -> bool:
    """One exporter for each kind of network; torch's default one for two of different kinds."""
    if exporter == "dynamo":
        return name in ("shufflenet_v2", "vit_sdpa")
    return exporter == "legacy-train" and name not in RELATIVES


CASES = [
    pytest.param(name, exporter, marks=[] if fast(name, exporter) else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_networks_that_torch_exports(name: str, exporter: zoo.Exporter, tmp_path: Path) -> None:
    fold = exporter != "dynamo-raw"
    check(whole_line(zoo.backbone(name, exporter), tmp_path, fold=fold), fold=fold)


FAST_LIGHTS = (("squeezenet", False),)  # every network of the zoo above is folded
LIGHTS = [
    pytest.param(name, fold, marks=[] if (name, fold) in FAST_LIGHTS else pytest.mark.slow)
    for name in light.SIZES
    for fold in (True, False)
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "fold"), LIGHTS)
def test_the_models_in_the_onnx_wheel(name: str, fold: bool, tmp_path: Path) -> None:
    size = light.SIZES[name]
    backbone = normalize(light.reseeded(name), input_size=(size, size))
    check(whole_line(backbone, tmp_path, fold=fold), fold=fold)


@pytest.mark.parametrize(
    "name", [n if n in ("squeezenet", "shufflenet") else pytest.param(n, marks=pytest.mark.slow) for n in light.SIZES]
)
def test_no_reseeded_model_keeps_constant_weights(name: str) -> None:
    """But for the classifier: what is the same everywhere hides mistakes, and learns nothing."""
    model = light.reseeded(name)
    arrays = {v.name: v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value.size > 1}
    assert [key for key, a in arrays.items() if a.dtype == np.float32 and np.ptp(a) == 0] == []


def test_a_choice_between_fresh_normalizations_learns(tmp_path: Path) -> None:
    """Scales of 1 and shifts of 0 at a normalization without an operator before it (DenseNet): moved, they differ."""
    net = Network(("N", 3, 16, 16))
    x = net.add("MaxPool", [net.add("Relu", [net.conv(net.image, 3, 6)])], kernel_shape=[2, 2], strides=[2, 2])
    x = net.norm(x, 6, "fresh")
    for slot, number in (("scale", 1), ("bias", 0)):
        net.graph.initializers[f"fresh.{slot}"].const_value = ir.tensor(np.full(6, number, np.float32))
    x = net.add("Relu", [net.conv(net.add("Relu", [x]), 6, 8, stride=2)])
    check(whole_line(normalize(net.model(net.classifier(x, 8))), tmp_path), fold=True)


# -- there and back --------------------------------------------------------------------------------------------------


def decorate(model: ir.Model) -> None:
    """Something to keep in every place that can hold it."""
    model.doc_string, model.metadata_props["owner"] = "a model", "me"
    model.graph.doc_string, model.graph.metadata_props["graph"] = "a graph", "of mine"
    for i, node in enumerate(model.graph):
        node.doc_string = node.doc_string or f"node {i}"
        node.metadata_props["number"] = str(i)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.doc_string, value.metadata_props["value"] = "a port", "mine"
    image = next(v for v in model.graph.inputs if not v.is_initializer())
    image.shape = ir.Shape(["images", *list(image.shape or ())[1:]])


def _names(values: Iterable[ir.Value]) -> list[str | None]:
    return [value.name for value in values]


def described(model: ir.Model) -> dict[str, object]:
    graph = model.graph
    ports = [v for v in (*graph.inputs, *graph.outputs) if not v.is_initializer()]
    return {
        "model": (model.doc_string, dict(model.metadata_props), model.producer_name, model.domain, model.model_version),
        "graph": (graph.name, graph.doc_string, dict(graph.metadata_props)),
        "nodes": [(n.name, n.op_type, n.doc_string, dict(n.metadata_props), *_names(n.outputs)) for n in graph],
        "ports": [(v.name, str(v.shape), v.doc_string, dict(v.metadata_props)) for v in ports],
        "weights": {name: value.const_value.numpy().tobytes() for name, value in graph.initializers.items()},
    }


ROUND_TRIPS = [("resnet18", "dynamo"), ("unet", "legacy"), ("mobilenet_v3", "legacy-train"), ("swin", "legacy")]


@pytest.mark.parametrize(("name", "exporter"), ROUND_TRIPS)
def test_a_plain_backbone_comes_back_as_it_was(name: str, exporter: zoo.Exporter, tmp_path: Path) -> None:
    """Read and written: the same bytes' worth of meaning, and the same numbers to the last bit."""
    source = ir.from_proto(zoo.export(name, exporter))
    decorate(source)
    before = described(source)
    save(source, tmp_path / "net.onnx")
    back = load(tmp_path / "net.onnx")
    assert described(back) == before
    image = np.random.default_rng(0).random((1 + (exporter == "legacy-train"), 3, 64, 64), dtype=np.float32)
    expected = runtime.run(to_bytes(source), {"image": image})
    found = runtime.run(to_bytes(back), {"image": image})
    assert expected.keys() == found.keys()
    if exporter != "legacy-train":  # Dropout is random there
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["resnet18", "unet", "mobilenet_v3", "squeezenet"])
def test_an_imported_backbone_keeps_what_was_written_on_it(name: str) -> None:
    """Import rewrites what it must; the nodes that it keeps stay themselves, and the numbers stay."""
    source = ir.from_proto(zoo.export(name, "legacy"))
    decorate(source)
    before = described(source)
    written = {node.name: (node.op_type, node.doc_string, node.metadata_props["number"]) for node in source.graph}
    model = normalize(source)
    assert model.metadata_props["owner"] == "me" and model.doc_string == "a model"
    assert model.graph.metadata_props["graph"] == "of mine" and model.graph.name == before["graph"][0]
    assert str(model.graph.inputs[0].shape) == "[N,3,64,64]" and model.graph.inputs[0].doc_string == "a port"
    kept = [node for node in model.graph if node.name in written]
    assert len(kept) > 0.9 * len(model.graph)
    for node in kept:
        assert (node.op_type, node.doc_string, node.metadata_props["number"]) == written[node.name]
    image = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    import torch

    with torch.no_grad():
        expected = zoo.NETWORKS[name]().body(torch.from_numpy(image)).numpy()
    (found,) = runtime.run(runtime.session(to_bytes(model), optimize=False), image).values()
    assert relative_error(found, expected) <= 1e-5

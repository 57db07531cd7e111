"""Whole networks to prototxt and back: the zoo, the light models, AutoMTL's own files, torch, random graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import zoo
from helpers.export import assert_same, layer_types, outputs_of, structure, there_and_back, written
from helpers.graphs import small_resnet
from helpers.light import reseeded
from helpers.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.exporting import export_prototxt
from onnxmtl.errors import ModelError
from onnxmtl.frontends import prototxt
from onnxmtl.ir import weight_bytes

# Why a network of the zoo cannot be said; all others can.
REASONS = {
    "convnext": "LayerNormalization",
    "deeplab": "bilinear in Caffe is with align_corners, this one is half_pixel",
    "inception_v1": "its input is no image",  # torch's LocalResponseNorm is a mean over channels
    "inception_v3": "divides by what its windows cover of the image",
    "vit": "LayerNormalization",
    "vit_sdpa": "LayerNormalization",
    "swin": "LayerNormalization",
}


RELATIVES = ("efficientnet_v2", "mnasnet", "regnet", "shufflenet_v2", "unet_resize")  # of networks that are there too


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in RELATIVES else name
        for name in zoo.NETWORKS
        if name not in REASONS
    ],
)
def test_networks_of_the_zoo(name, tmp_path):
    back = there_and_back(zoo.export(name, "legacy"), tmp_path)
    text = (tmp_path / "net.prototxt").read_text()
    again = there_and_back(back, tmp_path)
    settled = (tmp_path / "net.prototxt").read_text()
    there_and_back(again, tmp_path)
    assert (tmp_path / "net.prototxt").read_text() == settled
    if name in ("resnet18", "resnext", "vgg", "densenet", "squeezenet", "mobilenet_v2", "unet"):
        assert text == settled and structure(again) == structure(back)


@pytest.mark.parametrize("name", REASONS)
def test_networks_that_the_format_cannot_say(name, tmp_path):
    with pytest.raises(ModelError, match=REASONS[name]):
        export_prototxt(zoo.export(name, "legacy"), tmp_path / "net.prototxt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dialect", ["caffe", "automtl"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet"])
def test_batch_norm_is_kept(name, dialect, tmp_path):
    """torch's newer exporter without optimization leaves BatchNormalization in the file."""
    proto = zoo.export(name, "dynamo-raw")
    norms = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
    back = there_and_back(proto, tmp_path, dialect=dialect)
    assert norms > 10 and sum(node.op_type == "BatchNormalization" for node in back.graph) == norms
    kinds = layer_types(tmp_path / "net.prototxt")
    assert kinds.count("BatchNorm") == norms and kinds.count("Scale") == (norms if dialect == "caffe" else 0)


def test_an_open_batch(tmp_path):
    proto = zoo.export("shufflenet_v2", "dynamo", batch=None)
    back = there_and_back(proto, tmp_path)
    assert_same(proto, back)


def test_a_backbone_ends_at_its_feature(tmp_path):
    proto = zoo.export("resnet18", "legacy")
    remarks = export_prototxt(proto, tmp_path / "net.prototxt", features=None)
    assert any(remark.code == "features-found" for remark in remarks)
    assert "InnerProduct" not in layer_types(tmp_path / "net.prototxt")
    middle = next(node for node in proto.graph.node if node.op_type == "MaxPool")
    export_prototxt(proto, tmp_path / "net.prototxt", features=[middle.name])
    assert layer_types(tmp_path / "net.prototxt") == ["Convolution", "ReLU", "Pooling"]


@pytest.mark.parametrize("name", ["squeezenet", "inception_v1"])
def test_light_models(name, tmp_path):
    there_and_back(reseeded(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "bvlc_alexnet", "zfnet512", "vgg19"])
def test_large_light_models(name, tmp_path):
    """Before the Softmax: their largest weights are all equal, and so are the logits but for rounding."""
    model = reseeded(name)
    last = model.graph.outputs[0].producer()
    if last.op_type == "Softmax":
        logits = last.inputs[0]
        logits.type, logits.shape = model.graph.outputs[0].type, model.graph.outputs[0].shape
        model.graph.outputs[0] = logits
        model.graph.remove(last, safe=True)
    there_and_back(model, tmp_path)


@pytest.mark.parametrize("name", ["inception_v2", "shufflenet"])
def test_light_models_whose_means_leave_the_padding_out(name, tmp_path):
    with pytest.raises(ModelError, match="nodes cannot be said in a prototxt: AveragePool 'n"):
        export_prototxt(reseeded(name), tmp_path / "net.prototxt")


@pytest.mark.parametrize("dialect", ["automtl", "caffe"])
@pytest.mark.parametrize("name", ["mobilenetv2", pytest.param("deeplab_resnet34", marks=pytest.mark.slow)])
def test_automtl_s_own_files(name, dialect, automtl_folder, tmp_path):
    model = prototxt.load(automtl_folder / f"{name}.prototxt")
    back = there_and_back(model, tmp_path, dialect=dialect)
    assert weight_bytes(back) == weight_bytes(model)
    assert [node.op_type for node in back.graph] == [node.op_type for node in model.graph]
    # Without weights it is the network that the file describes: layer by layer, under the same names.
    ours, theirs = written(tmp_path / "net.prototxt"), written(automtl_folder / f"{name}.prototxt")
    kept = [(layer.name, layer.type, list(layer.top)) for layer in ours.layer if layer.type not in ("Input", "Scale")]
    assert kept == [(layer.name, layer.type, list(layer.top)) for layer in theirs.layer]


def test_fixtures(fixture_files, tmp_path):
    for file in fixture_files:
        there_and_back(prototxt.load(file), tmp_path)


def test_torch_to_prototxt(tmp_path):
    import torch

    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, 1, 1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    module(torch.randn(4, 3, 16, 16))  # statistics that are not those of a new one
    images = torch.randn(2, 3, 16, 16)
    target, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    export_prototxt(module, target, weights, torch.zeros(1, 3, 16, 16))
    back = prototxt.load(target, weights=weights)
    assert {"BatchNorm", "Scale"} <= set(layer_types(target))  # kept, unlike in torch's own export
    with torch.no_grad():
        want = module.eval()(images)
    (got,) = outputs_of(back, {str(back.graph.inputs[0].name): images.numpy()}).values()
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5 * max(1.0, float(want.abs().max())))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_networks_are_said_exactly_or_refused(seed, tmp_path_factory):
    assert said(seed, tmp_path_factory.mktemp("net")) in (True, False)


def test_many_random_networks_are_said(tmp_path):
    assert sum(said(seed, tmp_path) for seed in range(24)) >= 4


def said(seed, folder):
    """Whether a random network can be said; if so, it has come back the same."""
    proto = onnx.ModelProto.FromString(random_graph(seed))
    target = folder / "net.prototxt"
    try:
        image = np.zeros([dim.dim_value or 1 for dim in proto.graph.input[0].type.tensor_type.shape.dim], np.float32)
        outputs_of(proto, {"image": image})
    except ModelError:
        return False  # some of them are no networks at all
    refused = ""
    try:
        export_prototxt(proto, target)
    except ModelError as refusal:
        refused = str(refusal)
    assert target.exists() == (not refused) and "\n" not in refused
    if refused:
        return False
    there_and_back(proto, folder)
    target.unlink()
    return True


def test_a_multi_task_model(tmp_path):
    back = there_and_back(small_resnet({"seg": 5, "depth": 1}), tmp_path)
    assert [value.name for value in back.graph.outputs] == ["seg", "depth"]


def test_the_comparison_sees_other_weights(tmp_path):
    model = zoo.export("resnet18", "legacy")
    there_and_back(model, tmp_path)
    with pytest.raises(AssertionError, match="Not equal"):
        assert_same(model, prototxt.load(tmp_path / "net.prototxt"))  # drawn weights instead

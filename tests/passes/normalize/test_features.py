"""Features: maps stay as they are, tokens and channels-last maps become maps, several are found or named."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, image_of, run

from onnxmtl.analysis.features import Feature, read_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import diagnostics, save
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.shapes import infer_shapes


def tokens(net: Network, extra: int = 0, last: bool = False) -> ir.Value:
    """[N, 16 (+ extra), 8] from a 16×16 image, through a layer; `last`: extra tokens stand behind the grid's."""
    x = net.conv(net.image, 3, 8, k=4, stride=4, pads=[0] * 4, name="patches")
    x = net.add("Transpose", [net.add("Reshape", [x, net.weight("flat", [0, 8, 16])])], perm=[0, 2, 1])
    if extra:
        batch = net.add("Slice", [net.add("Shape", [x]), net.weight("zero", [0]), net.weight("one", [1])])
        shape = net.add("Concat", [batch, net.weight("rest", [extra, 8])], axis=0)
        cls = net.add("Expand", [net.weight("cls", net.normal(1, extra, 8)), shape])
        x = net.add("Concat", [x, cls] if last else [cls, x], "joined", axis=1)
    return net.add("Add", [net.add("MatMul", [x, net.weight("w", net.normal(8, 8))]), x], "layer")


def classified(net: Network, x: ir.Value, channels: int = 8, axes: tuple[int, ...] = (1,)) -> ir.Value:
    x = net.add("ReduceMean", [x, net.weight("axes", list(axes))], keepdims=0)
    return net.add("Gemm", [x, net.weight("fc", net.normal(channels, 5))], "fc")


def values(model: ir.Model, name: str, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A tensor of the raw network, and the image it was computed from."""
    model.graph.outputs.clear()
    value = next(v for node in model.graph for v in node.outputs if v.name == name)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.append(value)
    image = image_of(model, batch)
    return run(model, image)[0], image


@pytest.mark.parametrize(("extra", "last"), [(0, False), (1, False), (5, False), (2, True)])
def test_tokens_become_a_map(extra, last):
    def build():
        net = Network(("N", 3, 16, 16))
        return net.model(classified(net, tokens(net, extra, last)))

    model = normalize(build(), instruments=[CheckInvariants()])
    assert read_features(model) == (Feature("layer_out.map", 4, 8),)
    expected, image = values(build(), "layer_out")
    grid = expected[:, :16] if last else expected[:, extra:]
    found = run(model, image)[0]
    assert found.shape == (3, 8, 4, 4)
    np.testing.assert_allclose(found, grid.transpose(0, 2, 1).reshape(3, 8, 4, 4), rtol=1e-5, atol=1e-6)
    tail = [node.op_type for node in list(model.graph)[-3:]]
    assert tail == (["Slice", "Transpose", "Reshape"] if extra else ["Add", "Transpose", "Reshape"])
    (remark,) = (str(d) for d in diagnostics(model) if d.code == "feature-as-map")
    assert "[N, 8, 4, 4]" in remark and (f"without {extra} other" in remark) == bool(extra)


def test_a_channels_last_map_becomes_a_map():
    def build():
        net = Network(("N", 3, 16, 16))
        x = net.add("Transpose", [net.conv(net.image, 3, 8, k=4, stride=4, pads=[0] * 4)], perm=[0, 2, 3, 1])
        x = net.add("Relu", [net.add("MatMul", [x, net.weight("w", net.normal(8, 6))])], "last")
        return net.model(classified(net, x, 6, (1, 2)))

    model = normalize(build())
    assert read_features(model) == (Feature("last_out.map", 4, 6),)
    assert list(model.graph)[-1].op_type == "Transpose"
    expected, image = values(build(), "last_out")
    np.testing.assert_allclose(run(model, image)[0], expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_named_tokens_and_maps_together():
    net = Network(("N", 3, 16, 16))
    model = normalize(net.model(classified(net, tokens(net, 1))), features=["layer", "patches"])
    assert read_features(model) == (Feature("layer_out.map", 4, 8), Feature("patches_out", 4, 8))


def test_a_map_keeps_its_name_and_gets_no_node():
    net = Network(("N", 3, 16, 16))
    x = net.conv(net.image, 3, 8, stride=2, name="a")
    model = normalize(net.model(net.add("Flatten", [x])))
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert read_features(model) == (Feature("a_out", 2, 8),)


def test_tokens_without_a_grid_are_refused_before_anything_is_changed():
    net = Network(("N", 3, 16, 16))
    x = tokens(net)
    model = net.model(classified(net, net.add("Concat", [x, x, x], "all", axis=1)))
    infer_shapes(model)
    before = [node.name for node in model.graph]
    with pytest.raises(ModelError, match=r"'all_out' is no feature map"):
        CutAtFeatures(["all"])(model)
    assert [node.name for node in model.graph] == before


def test_several_features_of_a_pyramid_are_told():
    net = Network(("N", 3, 16, 16))
    fine = net.conv(net.image, 3, 4, stride=2, name="fine")
    coarse = net.conv(fine, 4, 8, stride=2, name="coarse")
    model = normalize(net.model(coarse, fine))
    assert read_features(model) == (Feature("fine_out", 2, 4), Feature("coarse_out", 4, 8))
    (remark,) = (d for d in diagnostics(model) if d.code == "features-found")
    assert "2 feature tensors 'fine_out' (4 channels, stride 2), 'coarse_out'" in remark.message


def test_new_nodes_have_names_of_their_own(tmp_path):
    net = Network(("N", 3, 16, 16))
    x = tokens(net, 1)
    x.producer().name = "layer_out.reshape"
    model = normalize(net.model(classified(net, x)))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    save(model, tmp_path / "model.onnx")


# The zoo: what was found is what the network's own author would call its features.
NETWORKS = ["convnext", "deeplab", "densenet", "efficientnet_v1", "fpn", "inception_v3", "mobilenet_v3", "resnet18"]
NETWORKS += ["shufflenet_v2", "squeezenet", "swin", "unet", "unet_resize", "vgg", "vit", "vit_sdpa", "yolo"]


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_networks_people_bring(name):
    zoo = pytest.importorskip("helpers.zoo")
    torch = pytest.importorskip("torch")
    from onnxmtl.frontends.onnx import from_proto

    model = normalize(from_proto(zoo.export(name, "legacy")))
    image = torch.from_numpy(image_of(model, batch=3))
    with torch.no_grad():
        expected = zoo.NETWORKS[name]().body(image)
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    found = run(model, image.numpy())
    assert [y.shape for y in found] == [tuple(y.shape) for y in expected]
    for feature, y, wanted in zip(read_features(model), found, expected, strict=True):
        assert np.abs(y - wanted.numpy()).max() <= 1e-5 * np.abs(wanted.numpy()).max()
        assert (feature.channels, feature.stride) == (y.shape[1], pytest.approx(64 / y.shape[2], rel=0.4))

"""The heads with a decoder: which features they read, what they compute, and the feature that import leaves out."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.analysis.features import read_features, write_features
from onnxmtl.errors import OnnxMTLError
from onnxmtl.ir import diagnostics, head_of, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.fine_feature import AddFineFeature
from onnxmtl.passes.heads import AttachHeads

HEADS = ("deeplabv3plus", "raspp")


def backbone(*strides: int, features: tuple[int, ...] = (-1,), size: int = 64) -> ir.Model:
    """A convolution of each of these strides, with so many more channels each; some of their results as features."""
    b = GraphBuilder(0, size=size)
    x, made = b.image, []
    for i, stride in enumerate(strides):
        x = b.block(x, 8 * (i + 1), stride=stride, name=f"block{i}")
        made.append(x)
    b.graph.outputs.extend(made[i] for i in features)
    model = ir.Model(b.graph, ir_version=10)
    write_features(model)
    return model


def tasks(head: str, **changes) -> TaskSet:
    return TaskSet((Task("seg", "segmentation", 5, head=head, **changes), Task("depth", "depth", head="light")))


def nodes_of(model: ir.Model, task: str, op: str) -> list[ir.Node]:
    return [node for node in model.graph if head_of(node) == task and node.op_type == op]


def shape(node: ir.Node, place: int = 1) -> tuple[int, ...]:
    return tuple(int(d) for d in node.inputs[place].shape)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("resolution", ["input", "native"])
def test_the_decoder_works_at_the_fine_feature(head, resolution):
    model = backbone(2, 2, 2, 2, features=(1, 3))
    AttachHeads(tasks(head, resolution=resolution), seed=1)(model)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)
    found = runtime.run(to_bytes(model), {"image": np.random.default_rng(0).random((2, 3, 64, 64), np.float32)})
    assert found["seg"].shape == (2, 5, *((64, 64) if resolution == "input" else (16, 16)))
    assert np.isfinite(found["seg"]).all() and found["seg"].std() > 0
    fine = next(node for node in nodes_of(model, "seg", "Conv") if node.name.endswith("decoder/fine/conv"))
    assert fine.inputs[0].name == read_features(model)[0].name and fine.inputs[0].shape[2] == 16


def test_deeplabv3plus_is_the_papers():
    """Of 256 channels: 48 beside 256, two 3x3 convolutions of 256, the prediction (Chen et al. 2018, Sec. 4.1)."""
    model = backbone(2, 2, 2, 2, features=(1, 3), size=528)
    AttachHeads(tasks("deeplabv3plus", width=256), seed=1)(model)
    convs = [shape(node) for node in nodes_of(model, "seg", "Conv")]
    rates = [
        node.attributes["dilations"].as_ints()[0]
        for node in nodes_of(model, "seg", "Conv")
        if shape(node)[2] == 3 and "rate" in str(node.name)
    ]
    assert rates == [6, 12, 18]  # at the 33x33 feature they were found for
    branches = [(256, 32, 1, 1), *[(256, 32, 3, 3)] * 3, (256, 32, 1, 1), (256, 5 * 256, 1, 1)]
    assert convs == [*branches, (48, 16, 1, 1), (256, 304, 3, 3), (256, 256, 3, 3), (5, 256, 1, 1)]


def test_raspp_is_the_reduced_form():
    """A 1x1 branch and image pooling only, and a decoder of depthwise separable convolutions."""
    model = backbone(2, 2, 2, 2, features=(1, 3))
    AttachHeads(tasks("raspp", width=32), seed=1)(model)
    convs = nodes_of(model, "seg", "Conv")
    groups = [node.attributes.get_int("group", 1) for node in convs]
    assert [shape(node) for node in convs] == [
        (32, 32, 1, 1), (32, 32, 1, 1), (32, 64, 1, 1), (8, 16, 1, 1),
        (40, 1, 3, 3), (32, 40, 1, 1), (32, 1, 3, 3), (32, 32, 1, 1), (5, 32, 1, 1),
    ]  # fmt: skip
    assert groups == [1, 1, 1, 1, 40, 1, 32, 1, 1]
    assert len(nodes_of(model, "seg", "GlobalAveragePool")) == 1


def test_of_several_features_the_one_nearest_to_stride_4():
    model = backbone(2, 2, 2, 2, features=(0, 1, 2, 3))
    AttachHeads(tasks("raspp"), seed=1)(model)
    fine = next(node for node in nodes_of(model, "seg", "Conv") if node.name.endswith("decoder/fine/conv"))
    coarse = next(node for node in nodes_of(model, "seg", "Conv") if node.name.endswith("point/conv"))
    assert (fine.inputs[0].shape[2], coarse.inputs[0].shape[2]) == (16, 4)


@pytest.mark.parametrize("features", [(4,), (3, 4)])
def test_one_size_is_not_enough(features):
    model = backbone(2, 2, 2, 2, 1, features=features)
    with pytest.raises(OnnxMTLError, match=r"task 'seg': the head raspp reads two features, a fine one \(stride 4\)"):
        AttachHeads(tasks("raspp"), seed=1)(model)


@pytest.mark.parametrize(
    ("strides", "stride"),
    [((2, 2, 2, 2), 4), ((2, 2, 1, 2), 4), ((1, 2, 1, 2), 2), ((4, 4), 4), ((2, 4, 2), 2), ((2, 1, 2, 2, 2), 4)],
)
def test_the_fine_feature_is_found(strides, stride):
    """The last one with stride 4, or the coarsest below."""
    model = backbone(*strides)
    before = model.graph.outputs[0]
    assert AddFineFeature(tasks("raspp"))(model).modified
    fine, coarse = read_features(model)
    assert fine.stride == stride and coarse.name == before.name == model.graph.outputs[1].name
    reached = np.cumprod(strides)
    last = max(i for i, value in enumerate(reached[:-1]) if value == stride)
    assert fine.channels == 8 * (last + 1)
    assert [note.code for note in diagnostics(model)] == ["fine-feature"]
    AttachHeads(tasks("raspp"), seed=1)(model)
    assert [value.name for value in model.graph.outputs] == ["seg", "depth"]


@pytest.mark.parametrize(
    ("set_of_tasks", "features"),
    [(tasks("aspp"), (-1,)), (tasks("raspp"), (0, -1)), (tasks("raspp", features=("a", "b")), (-1,))],
)
def test_it_is_added_only_where_it_is_needed(set_of_tasks, features):
    model = backbone(2, 2, 2, features=features)
    before = to_bytes(model)
    assert not AddFineFeature(set_of_tasks)(model).modified
    assert to_bytes(model) == before


def test_no_fine_feature_is_refused():
    with pytest.raises(OnnxMTLError, match=r"needs a feature of stride 4 or less .* name two with --features"):
        AddFineFeature(tasks("raspp"))(backbone(8, 2))
    model = backbone(2, 2, 2)
    del model.metadata_props["onnxmtl.kind"]
    with pytest.raises(Refused, match="import the model first"):
        AddFineFeature(tasks("raspp"))(model)


def test_a_wrong_record_is_noticed():
    model = backbone(2, 2, 2)
    made = AddFineFeature(tasks("raspp"))
    made(model)
    model.metadata_props["onnxmtl.features"] = json.dumps([{"name": "x", "stride": 1, "channels": 1}])
    with pytest.raises(AssertionError):
        made.ensures(model)

"""AttachHeads: outputs, names, roles, shapes, determinism; everything run in onnxruntime."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmtl import runtime
from onnxmtl.analysis.features import read_features
from onnxmtl.errors import OnnxMTLError, TaskError
from onnxmtl.ir import Role, head_of, role_of, sources, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.passes._blocks import default_width, dilation_rates
from onnxmtl.passes.heads import AttachHeads, Builder

BACKBONE = """
<ir_version: 10, opset_import: ["": 21]>
backbone (float[N, 3, {h}, {w}] image) => (float[N, 8, {h2}, {w2}] low, float[N, 40, {h4}, {w4}] high) {{
    [conv1] c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1)
    [relu1] low = Relu (c1)
    [conv2] c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (low, w2)
    [relu2] high = Relu (c2)
}}
"""


def backbone(height: int | str = 32, width: int | str = 48) -> ir.Model:
    def half(size: int | str, times: int) -> int | str:
        return size // 2**times if isinstance(size, int) else f"{size}_{2**times}"

    sizes = {"h": height, "w": width}
    sizes |= {f"{key}{2**k}": half(size, k) for k in (1, 2) for key, size in (("h", height), ("w", width))}
    proto = onnx.parser.parse_model(BACKBONE.format(**sizes))
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (40, 8, 3, 3))):
        array = rng.standard_normal(shape).astype(np.float32) * 0.2
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.metadata_props["onnxmtl.source"] = json.dumps([node.name])
    features = [{"name": "low", "stride": 2, "channels": 8}, {"name": "high", "stride": 4, "channels": 40}]
    model.metadata_props.update({"onnxmtl.kind": "backbone", "onnxmtl.features": json.dumps(features)})
    return model


def attach(tasks: TaskSet, seed: int = 7, **size: int | str) -> ir.Model:
    model = backbone(**size)
    assert AttachHeads(tasks, seed)(model).modified
    return model


def evaluate(model: ir.Model, batch: int = 2, height: int = 32, width: int = 48) -> dict[str, np.ndarray]:
    data = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    image = np.random.default_rng(batch).random((batch, 3, height, width), dtype=np.float32)
    return runtime.run(data, {"image": image})


ALL = TaskSet.parse("seg=segmentation:5,depth,normals,edges,keypoints,room=classification:4,pose=regression:6")
SHAPES = {
    "seg": (5, 32, 48),
    "depth": (1, 32, 48),
    "normals": (3, 32, 48),
    "edges": (1, 32, 48),
    "keypoints": (1, 32, 48),
    "room": (4,),
    "pose": (6,),
}


def changed(tasks: TaskSet, **changes) -> TaskSet:
    return TaskSet(tuple(task.replace(**changes) for task in tasks))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("head", ["aspp", "light"])
def test_every_kind_gives_its_shape_for_every_batch_size(head, batch):
    tasks = TaskSet(tuple(task.replace(head=head) if task.dense else task for task in ALL))
    model = attach(tasks)
    found = evaluate(model, batch)
    assert list(found) == list(tasks.names)
    assert {name: array.shape for name, array in found.items()} == {k: (batch, *v) for k, v in SHAPES.items()}
    assert all(np.isfinite(array).all() and array.std() > 0 for array in found.values())
    assert {v.name: tuple(v.shape[1:]) for v in model.graph.outputs} == SHAPES
    assert all(str(v.shape[0]) == "N" for v in model.graph.outputs)


def test_native_resolution_is_the_features():
    tasks = changed(TaskSet.parse("seg=segmentation:5,depth"), resolution="native")
    found = evaluate(attach(tasks))
    assert found["seg"].shape == (2, 5, 8, 12) and found["depth"].shape == (2, 1, 8, 12)


@pytest.mark.parametrize("head", ["aspp", "light"])
def test_image_size_may_stay_dynamic(head):
    tasks = TaskSet((ALL["seg"].replace(head=head, features=("low", "high")), ALL["depth"], ALL["room"]))
    model = attach(tasks, height="H", width="W")
    for height, width in ((32, 48), (40, 24)):
        found = evaluate(model, 2, height, width)
        assert found["seg"].shape == (2, 5, height, width) and found["depth"].shape == (2, 1, height, width)


def test_all_new_values_have_types_and_static_shapes():
    model = attach(changed(TaskSet.parse("seg=segmentation:5,depth"), features=("low", "high")))
    for node in (node for node in model.graph if head_of(node)):
        for value in node.outputs:
            assert value.dtype is not None and value.shape is not None, value
            assert all(isinstance(d, int) for d in value.shape[1:]) and str(value.shape[0]) == "N", value


def test_inferred_shapes_are_those_of_onnx():
    model = attach(ALL)
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(to_bytes(model)), strict_mode=True)
    ours = {str(v.name): v for node in model.graph for v in node.outputs if head_of(node)}
    compared = 0
    for info in inferred.graph.value_info:
        dims = [d.dim_value or d.dim_param for d in info.type.tensor_type.shape.dim]
        if all(dims) and info.name in ours:
            assert [d if isinstance(d, int) else str(d) for d in ours[info.name].shape] == dims
            compared += 1
    assert compared > 40


def test_nodes_and_weights_are_marked():
    model = attach(ALL)
    heads = [node for node in model.graph if head_of(node) is not None]
    assert {head_of(node) for node in heads} == set(ALL.names)
    assert all(node.metadata_props["onnxmtl.pass"] == "AttachHeads" and not sources(node) for node in heads)
    assert [sources(node) for node in model.graph if head_of(node) is None] == [
        ("conv1",), ("relu1",), ("conv2",), ("relu2",)
    ]  # fmt: skip
    statistics = {v for n in heads if n.op_type == "BatchNormalization" for v in n.inputs[3:]}
    for name, value in model.graph.initializers.items():
        role = Role.BACKBONE if name in ("w1", "w2") else Role.STATISTIC if value in statistics else Role.HEAD
        assert role_of(value) is role, name
        assert name in ("w1", "w2") or name.split("/")[0].removesuffix("_head") in ALL.names
    assert statistics
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert model.metadata_props["onnxmtl.kind"] == "multitask"
    assert TaskSet.from_json(model.metadata_props["onnxmtl.tasks"]) == ALL
    assert [f.name for f in read_features(model)] == ["low", "high"]


def test_weights_depend_on_seed_and_name_only():
    one, same, other = attach(ALL), attach(ALL), attach(ALL, seed=8)
    assert to_bytes(one) == to_bytes(same) != to_bytes(other)
    few = attach(TaskSet((ALL["normals"], ALL["seg"])))
    shared = [name for name in few.graph.initializers if "_head/" in name]
    assert shared
    for name in shared:
        weight = few.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(weight, one.graph.initializers[name].const_value.numpy())


def test_convolutions_start_by_kaiming_and_the_last_small():
    weights = attach(TaskSet((ALL["seg"].replace(width=64),))).graph.initializers
    kernel = weights["seg_head/rate1/conv.weight"].const_value.numpy()
    assert kernel.shape == (64, 40, 3, 3)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (40 * 9)), rel=0.02)
    last = weights["seg_head/predict.weight"].const_value.numpy()
    assert last.std() == pytest.approx(0.1 / np.sqrt(64), rel=0.15)
    assert not weights["seg_head/predict.bias"].const_value.numpy().any()


def test_width_follows_the_feature_unless_given():
    assert [default_width(c) for c in (16, 40, 128, 256, 512, 2048)] == [32, 32, 32, 64, 128, 256]
    weights = attach(TaskSet((ALL["depth"].replace(head="light", width=24),))).graph.initializers
    assert tuple(weights["depth_head/hidden/conv.weight"].shape) == (24, 40, 3, 3)


def test_dilations_follow_the_size_of_the_feature():
    assert dilation_rates((33, 33)) == dilation_rates(None) == (6, 12, 18)
    assert dilation_rates((65, 129)) == (12, 24, 35)
    assert dilation_rates((8, 8)) == (1, 3, 4)
    assert dilation_rates((4, 99)) == (1, 2)
    assert dilation_rates((2, 2)) == (1,)
    ops = [n.op_type for n in attach(TaskSet((ALL["depth"],)), height=32, width=32).graph]
    assert ops.count("GlobalAveragePool") == 1
    tiny = attach(TaskSet((ALL["depth"],)), height=8, width=8)
    assert "GlobalAveragePool" not in [n.op_type for n in tiny.graph]
    assert evaluate(tiny, 1, 8, 8)["depth"].shape == (1, 1, 8, 8)


def test_the_feature_is_the_one_that_is_named_and_the_rest_is_removed():
    model = attach(TaskSet((ALL["depth"].replace(features=("low",)),)))
    assert [n.name for n in model.graph if head_of(n) is None] == ["conv1", "relu1"]
    assert "w2" not in model.graph.initializers
    assert tuple(model.graph.initializers["depth_head/point/conv.weight"].shape[:2]) == (32, 8)
    evaluate(model)


def test_several_features_are_resized_to_the_largest_and_joined():
    model = attach(TaskSet((ALL["seg"].replace(features=("high", "low"), resolution="native"),)))
    join = next(n for n in model.graph if n.op_type == "Concat" and n.name == "seg_head/join")
    assert [v.name for v in join.inputs] == ["seg_head/join0", "low"]
    assert tuple(join.outputs[0].shape[1:]) == (48, 16, 24)
    assert evaluate(model)["seg"].shape == (2, 5, 16, 24)


def test_pooled_head_joins_the_means_and_takes_a_hidden_layer():
    task = ALL["room"].replace(features=("low", "high"), width=16)
    model = attach(TaskSet((task,)))
    assert tuple(model.graph.initializers["room_head/hidden.weight"].shape) == (16, 48)
    assert evaluate(model)["room"].shape == (2, 4)


def test_resize_is_torchs_bilinear():
    torch = pytest.importorskip("torch")
    model = attach(TaskSet((ALL["seg"],)))
    resize = next(n for n in model.graph if n.op_type == "Resize")
    before = resize.inputs[0]
    model.graph.outputs.append(before)
    found = evaluate(model)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(found[before.name]), size=(32, 48), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found["seg"], expected.numpy(), atol=1e-6)


# Names


@pytest.mark.parametrize("name", ["c1", "low", "high", "w1", "conv1", "seg_head"])
def test_the_task_keeps_its_name_and_the_backbone_gives_way(name):
    reference = evaluate(attach(TaskSet((ALL["seg"].replace(name="other", features=("low", "high")),)), seed=3))
    assert reference["other"].shape == (2, 5, 32, 48)
    tasks = TaskSet((ALL["seg"].replace(name=name, features=("low", "high")), ALL["depth"].replace(name="seg")))
    model = attach(tasks)
    found = evaluate(model)
    assert list(found) == [name, "seg"] and found[name].shape == (2, 5, 32, 48)
    present = {v.name for n in model.graph for v in n.outputs}
    assert all(feature.name in present for feature in read_features(model))


def test_renaming_changes_no_number():
    plain = attach(TaskSet((ALL["depth"].replace(name="d"),)))
    model = backbone()
    model.graph.node("relu1").outputs[0].name = "d"
    features = json.loads(model.metadata_props["onnxmtl.features"])
    features[0]["name"] = "d"
    model.metadata_props["onnxmtl.features"] = json.dumps(features)
    AttachHeads(TaskSet((ALL["depth"].replace(name="d"),)), 7)(model)
    np.testing.assert_array_equal(evaluate(model)["d"], evaluate(plain)["d"])


# Heads of users


def own_head(builder: Builder, feature: ir.Value, task, image: ir.Value) -> ir.Value:
    hidden = builder.conv_bn_relu(feature, 16, kernel=3, dilation=2, name="mine")
    half = builder.op("Mul", [hidden, builder.constant("half", np.array(0.5, np.float32))])
    return builder.conv(half, task.channels, name="last")


@pytest.fixture
def own_module():
    module = types.ModuleType("own_heads_for_test")
    module.head = own_head
    module.feature = lambda builder, feature, task, image: feature
    module.image = lambda builder, feature, task, image: image
    module.broken = lambda builder, feature, task, image: 1 / 0
    module.nothing = lambda builder, feature, task, image: None
    module.number = 3
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


def test_a_callable_builds_the_head(own_module):
    model = attach(TaskSet((ALL["seg"].replace(head=f"{own_module}:head"), ALL["depth"])))
    assert evaluate(model)["seg"].shape == (2, 5, 32, 48)
    assert {head_of(n) for n in model.graph if n.name.startswith("seg_head")} == {"seg"}
    assert role_of(model.graph.initializers["seg_head/last.weight"]) is Role.HEAD


def test_a_head_may_be_nothing(own_module):
    model = backbone()
    task = ALL["normals"].replace(head=f"{own_module}:image")
    tasks = TaskSet((task, task.replace(name="again")))
    AttachHeads(tasks)(model)
    found = evaluate(model)
    np.testing.assert_array_equal(found["normals"], found["again"])
    assert found["normals"].shape == (2, 3, 32, 48)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("no_such_module:head", "there is no module 'no_such_module', neither installed nor in"),
        ("{}:no_such_name", "'no_such_name' is not there in module"),
        ("{}:number", "not callable"),
        ("{}:broken", "ZeroDivisionError"),
        ("{}:nothing", "returned NoneType"),
        ("{}:feature", r"gives \[N, 40, 8, 12\], \[N, C, H, W\] with C = 5 is needed"),
    ],
)
def test_a_bad_callable_is_told_in_one_line(own_module, head, message):
    tasks = TaskSet((ALL["seg"].replace(head=head.format(own_module)),))
    with pytest.raises(TaskError, match=message) as caught:
        AttachHeads(tasks)(backbone())
    assert "\n" not in str(caught.value) and "'seg'" in str(caught.value)


def head_file(path, channels: int | str = 40, opset: int = 21, outputs: str = "float[N, 5, h, w] y", io: str = ""):
    text = f"""
    <ir_version: 8, opset_import: ["": {opset}]>
    head (float[N, {channels}, h, w] x{io}) => ({outputs}) {{
        half = Constant <value_float = 0.5> ()
        [conv] c = Conv <kernel_shape = [1, 1]> (x, weight)
        [bn] b = BatchNormalization (c, scale, bias, mean, var)
        [relu] y = Mul (b, half)
    }}
    """
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    arrays = {"weight": rng.standard_normal((5, 40, 1, 1)), "scale": rng.random(5), "bias": rng.random(5)}
    arrays |= {"mean": rng.random(5), "var": rng.random(5) + 1}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, path)
    return arrays


@pytest.mark.parametrize("opset", [13, 21])
def test_an_onnx_file_is_a_head(tmp_path, opset):
    path = tmp_path / "own.onnx"
    arrays = head_file(path, opset=opset)
    task = ALL["seg"].replace(head=str(path), resolution="native")
    model = attach(TaskSet((task, task.replace(name="twice"))))
    model.graph.outputs.append(model.graph.node("relu2").outputs[0])
    found = evaluate(model)
    np.testing.assert_array_equal(found["seg"], found["twice"])
    x = np.einsum("oi,nihw->nohw", arrays["weight"][:, :, 0, 0], found["high"].astype(np.float64))
    column = {k: v.reshape(-1, 1, 1) for k, v in arrays.items() if v.ndim == 1}
    y = (x - column["mean"]) / np.sqrt(column["var"] + 1e-5) * column["scale"] + column["bias"]
    np.testing.assert_allclose(found["seg"], 0.5 * y, atol=1e-5)
    weights = model.graph.initializers
    assert weights["seg_head/weight"] is not weights["twice_head/weight"]
    assert role_of(weights["seg_head/weight"]) is Role.HEAD
    assert role_of(weights["twice_head/var"]) is Role.STATISTIC
    assert all(head_of(n) for n in model.graph if n.name.startswith(("seg_head", "twice_head")))
    assert str(tmp_path) not in model.metadata_props["onnxmtl.tasks"]


def test_an_onnx_head_is_resized_to_the_image(tmp_path):
    path = tmp_path / "own.onnx"
    head_file(path)
    assert evaluate(attach(TaskSet((ALL["seg"].replace(head=str(path)),))))["seg"].shape == (2, 5, 32, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 41}, "takes 41 channels, the feature 'high' has 40"),
        ({"outputs": "float[N, 5, h, w] y, float[N, 5, h, w] b"}, "has 1 inputs and 2 outputs"),
        ({"io": ", float[1] z"}, "has 2 inputs"),
        ({"opset": 22}, "uses opset 22, the model 21"),
    ],
)
def test_a_bad_head_file_is_told_in_one_line(tmp_path, options, message):
    path = tmp_path / "own.onnx"
    head_file(path, **options)
    with pytest.raises(TaskError, match=message) as caught:
        attach(TaskSet((ALL["seg"].replace(head=str(path)),)))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_head_file_that_is_missing_or_no_onnx(tmp_path):
    for content in (None, b"not onnx"):
        path = tmp_path / "own.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TaskError, match=r"own\.onnx cannot be read") as caught:
            attach(TaskSet((ALL["seg"].replace(head=str(path)),)))
        assert "\n" not in str(caught.value)


# Refusals


def test_an_unknown_feature_lists_the_features():
    tasks = TaskSet((ALL["seg"].replace(features=("hihg",)),))
    with pytest.raises(TaskError, match=r"no feature 'hihg' \(did you mean 'high'\?\); the features are: low, high"):
        attach(tasks)


def test_open_channels_and_the_inputs_name_are_refused():
    with pytest.raises(TaskError, match="number of classes is missing: write seg=segmentation:N"):
        attach(TaskSet.parse("seg=segmentation"))
    with pytest.raises(TaskError, match="the model's input has that name"):
        attach(TaskSet.parse("image=depth"))


def test_only_a_backbone_takes_heads():
    model = attach(ALL)
    with pytest.raises(Refused, match="this model is multitask"):
        AttachHeads(ALL)(model)
    bare = backbone()
    bare.metadata_props.clear()
    with pytest.raises(Refused, match="import it first") as caught:
        AttachHeads(ALL)(bare)
    assert isinstance(caught.value, OnnxMTLError)
    shapeless = backbone()
    shapeless.graph.outputs[1].shape = None
    with pytest.raises(Refused, match="'high' has no usable shape"):
        AttachHeads(ALL)(shapeless)

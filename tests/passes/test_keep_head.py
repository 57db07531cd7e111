"""Networks that keep their heads: what is cut off at their end, where the head begins, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder
from helpers.networks import Network, run, small_network
from helpers.zoo import export

from onnxmtl import runtime
from onnxmtl.analysis.features import KIND_KEY
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, clone, diagnostics, head_of, role_of, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.keep_head import network_pipeline
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline

SEG = Task("seg", "segmentation", 4)
ROOM = Task("room", "classification", 5)
NATIVE = Task("seg", "segmentation", 4, resolution="native")


def keep(model: ir.Model, task: Task, **options) -> ir.Model:
    return network_pipeline(task, **options)(clone(model)).model


def image(size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, size, size)).astype(np.float32)


def dense(channels: int = 4, *, before: str = "", stride: int = 2) -> tuple[Network, ir.Value]:
    """A stem, a layer of `stride`, a 1x1 classifier; the raw prediction."""
    net = Network()
    x = net.add("Relu", [net.norm(net.conv(net.image, 3, 4, name="stem"), 4)], "stem_relu")
    x = net.add("Relu", [net.conv(x, 4, 6, stride=stride, bias=True, name="body")], "body_relu")
    return net, net.conv(x, 6, channels, k=1, bias=True, name="classifier")


def codes(model: ir.Model) -> list[str]:
    return [remark.code for remark in diagnostics(model)]


# What comes out


def test_the_prediction_is_the_network_s():
    """Without resizing nothing is computed otherwise: bit for bit, onnxruntime's own rewrites off."""
    net, raw = dense()
    model = net.model(raw)
    kept = keep(model, NATIVE)
    np.testing.assert_array_equal(run(kept, image())[0], run(model, image())[0])
    assert kept.metadata_props[KIND_KEY] == "multitask" and len(kept.graph.outputs) == 1


def test_what_is_marked_is_the_head():
    model = small_network()
    kept = keep(model, ROOM)
    assert [node.name for node in kept.graph if head_of(node) == "room"] == ["pool", "flatten", "fc"]
    roles = {name: role_of(value) for name, value in kept.graph.initializers.items()}
    assert [name for name, role in roles.items() if role is Role.HEAD] == ["fc.w"]
    assert roles["stem.w"] is Role.BACKBONE and roles["stem_bn.mean"] is Role.STATISTIC
    assert "head-kept" in codes(kept)


def test_a_dense_prediction_is_resized_to_the_image_and_the_batch_is_open():
    net, raw = dense()
    kept = keep(net.model(raw), SEG)
    images = np.concatenate([image(seed=0), image(seed=1)])
    (found,) = run(kept, images)
    assert found.shape == (2, 4, 16, 16)
    resized = kept.graph.outputs[0].producer()
    assert resized.op_type == "Resize" and head_of(resized) == "seg"
    for i in range(2):
        np.testing.assert_allclose(run(kept, images[i : i + 1])[0], found[i : i + 1], rtol=1e-5, atol=1e-6)


def test_one_prediction_per_image_may_be_a_map_of_one_pixel():
    net, _ = dense()
    x = net.add("GlobalAveragePool", [net.graph[-2].outputs[0]], "pool")
    raw = net.conv(x, 6, 5, k=1, name="fully_convolutional")
    model = net.model(raw)
    kept = keep(model, ROOM)
    np.testing.assert_array_equal(run(kept, image())[0], run(model, image())[0].reshape(1, 5))


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg", "densenet", "mobilenet_v3", "squeezenet", "deeplab", "unet_resize"]
)
def test_the_head_of_known_networks_is_found(name):
    proto = export(name, "legacy")
    maps = len(proto.graph.output[0].type.tensor_type.shape.dim) == 4
    task = Task("depth", "depth", resolution="native") if maps else ROOM
    kept = network_pipeline(task)(ir.from_proto(proto)).model
    pixels = {str(kept.graph.inputs[0].name): image(64)}
    (expected,) = runtime.run(proto.SerializeToString(), pixels).values()
    (found,) = runtime.run(to_bytes(kept), pixels).values()
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-6)
    assert 1 <= sum(head_of(node) is not None for node in kept.graph) <= 6


def test_an_emitted_model_of_ours_comes_back_with_its_head():
    """Its own marks say where the head begins, whatever the task is called now; its output form is taken off."""
    tasks = TaskSet((Task("old", "segmentation", 4, head="aspp", output="argmax"),))
    backbone = normalize(small_network())
    raw = Pipeline([AttachHeads(tasks)])(backbone).model
    emitted = Pipeline(finalize_passes(tasks, {}))(clone(raw)).model
    marked = sum(head_of(node) == "old" for node in emitted.graph)
    kept = keep(emitted, SEG)
    (expected,), (found,) = run(raw, image()), run(kept, image())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(head_of(node) == "seg" for node in kept.graph) == marked - 1  # the ArgMax is gone
    assert "head-end-cut" in codes(kept) and not any(head_of(node) == "old" for node in kept.graph)


def test_marks_of_other_tasks_do_not_stay():
    tasks = TaskSet((Task("one", "depth"), Task("two", "depth")))
    emitted = Pipeline([AttachHeads(tasks), *finalize_passes(tasks, {})])(normalize(small_network())).model
    kept = keep(emitted, Task("two", "depth"))
    np.testing.assert_allclose(run(kept, image())[0], run(emitted, image())[1], rtol=1e-5, atol=1e-6)
    assert {head_of(node) for node in kept.graph} == {None, "two"}


def test_another_image_size_and_the_task_s_own_feature():
    net, raw = dense()
    kept = keep(net.model(raw), SEG.replace(features=("stem_relu_out",)), input_size=(32, 24))
    assert run(kept, np.zeros((1, 3, 32, 24), np.float32))[0].shape == (1, 4, 32, 24)
    assert "body" in [node.name for node in kept.graph if head_of(node) == "seg"]


def test_heads_get_no_normalization():
    net, raw = dense()
    kept = keep(net.model(raw), NATIVE, batchnorm="insert")
    norms = [node.inputs[0].producer().name for node in kept.graph if node.op_type == "BatchNormalization"]
    assert norms == ["stem", "body"]


# The form at the end


def unit(net: Network, x: ir.Value, way: str) -> ir.Value:
    """torch.nn.functional.normalize as exporters write it, or by hand."""
    axes = net.weight("axes", np.array([1], np.int64))
    if way == "clip":
        low = net.weight("low", np.float32(1e-12))
        length = net.add("Clip", [net.add("ReduceL2", [x, axes], keepdims=1), low])
        length = net.add("Expand", [length, net.add("Shape", [x])])
    else:
        squares = net.add("ReduceSum", [net.add("Mul", [x, x]), axes], keepdims=1)
        length = net.add("Sqrt", [net.add("Add", [squares, net.weight("eps", np.float32(1e-9))])])
    return net.add("Div", [x, length], "unit")


def forms(net: Network, raw: ir.Value, form: str) -> ir.Value:
    match form:
        case "softmax":
            return net.add("Softmax", [raw], axis=1)
        case "log-softmax":
            return net.add("LogSoftmax", [raw], axis=-3)
        case "argmax":
            return net.add("Cast", [net.add("ArgMax", [net.add("Softmax", [raw], axis=1)], axis=1, keepdims=0)], to=7)
        case "channels-last":
            return net.add("Softmax", [net.add("Transpose", [raw], perm=[0, 2, 3, 1])], axis=-1)
        case "sigmoid":
            return net.add("Sigmoid", [raw])
        case "clip":
            bounds = [net.weight(name, np.float32(number)) for name, number in (("zero", 0), ("one", 1))]
            return net.add("Clip", [raw, *bounds])
        case _:
            return unit(net, raw, form)


@pytest.mark.parametrize(
    ("task", "form"),
    [
        (NATIVE, "softmax"),
        (NATIVE, "log-softmax"),
        (NATIVE, "argmax"),
        (NATIVE, "channels-last"),
        (Task("edges", "edges", resolution="native"), "sigmoid"),
        (Task("keys", "keypoints", resolution="native"), "clip"),
        (Task("normals", "normals", resolution="native"), "clip-length"),
        (Task("normals", "normals", resolution="native"), "sum"),
    ],
)
def test_another_form_of_the_prediction_is_cut_off(task, form):
    net, raw = dense(task.channels or 4)
    model = net.model(raw)
    (expected,) = run(clone(model), image())
    final = forms(net, raw, "clip" if form == "clip" else form.removesuffix("-length"))
    if form == "clip-length":
        final = unit(net, raw, "clip")
    final.type = ir.TensorType(ir.DataType.INT64 if form == "argmax" else ir.DataType.FLOAT)
    net.graph.outputs[:] = [final]
    kept = keep(model, task)
    np.testing.assert_array_equal(run(kept, image())[0], expected)
    assert "head-end-cut" in codes(kept)


@pytest.mark.parametrize(
    ("task", "form"),
    [
        (Task("depth", "depth", resolution="native"), "sigmoid"),  # bounded depth is the network's function
        (Task("depth", "depth", resolution="native"), "clip"),
    ],
)
def test_what_is_part_of_the_function_stays(task, form):
    net, raw = dense(1)
    model = net.model(forms(net, raw, form))
    kept = keep(model, task)
    np.testing.assert_array_equal(run(kept, image())[0], run(model, image())[0])
    assert "head-end-cut" not in codes(kept)


def test_a_quotient_that_is_no_unit_vector_stays():
    net, raw = dense(3)
    other = net.conv(net.image, 3, 3, stride=2, name="other")
    model = net.model(net.add("Div", [raw, net.add("Abs", [other])]))
    kept = keep(model, Task("normals", "normals", resolution="native", features=("stem_relu_out", "other_out")))
    np.testing.assert_array_equal(run(kept, image())[0], run(model, image())[0])


def test_a_softmax_before_a_resize_is_left_out_and_the_logits_are_resized():
    net, raw = dense()
    sizes = net.weight("sizes", np.array([1, 4, 16, 16], np.int64))
    resized = net.add("Resize", [net.add("Softmax", [raw], axis=1), None, None, sizes], mode="linear")
    model = net.model(resized)
    kept = keep(model, SEG)
    assert not any(node.op_type == "Softmax" for node in kept.graph) and "head-end-cut" in codes(kept)
    plain = dense()
    sizes = plain[0].weight("sizes", np.array([1, 4, 16, 16], np.int64))
    expected = plain[0].model(plain[0].add("Resize", [plain[1], None, None, sizes], mode="linear"))
    np.testing.assert_array_equal(run(kept, image())[0], run(expected, image())[0])


# Which output


def test_of_several_outputs_the_one_with_the_task_s_name():
    net, raw = dense()
    aux = net.conv(net.graph[2].outputs[0], 4, 2, name="aux")
    raw.name, aux.name = "seg", "aux"
    model = net.model(aux, raw)
    kept = keep(model, NATIVE)
    np.testing.assert_array_equal(run(kept, image())[0], run(model, image())[1])
    assert not any("aux" in str(name) for name in kept.graph.initializers)


# Refused


def refused(model: ir.Model, task: Task) -> str:
    with pytest.raises(Refused) as error:
        keep(model, task)
    assert "\n" not in str(error.value) and repr(task.name) in str(error.value)
    return str(error.value)


def test_several_outputs_and_none_is_the_task_s():
    net, raw = dense()
    model = net.model(net.conv(net.graph[2].outputs[0], 4, 2, name="aux"), raw)
    text = refused(model, SEG)
    assert "aux_out, classifier_out" in text and "--heads new" in text


def test_a_prediction_of_another_rank():
    assert "gives [N, 5], depth needs [N, C, H, W]" in refused(small_network(), Task("depth", "depth"))
    net, raw = dense()
    assert "classification needs [N, C]" in refused(net.model(raw), ROOM)


def test_a_backbone_without_a_head():
    net = Network()
    x = net.add("Relu", [net.norm(net.conv(net.image, 3, 4, name="stem"), 4)])
    assert "--heads new" in refused(net.model(x), SEG)


def test_indices_that_nothing_made_scores_of():
    net, raw = dense()
    text = refused(net.model(net.add("Cast", [raw], "rounded", to=7)), SEG)
    assert "INT64" in text and "float32" in text


def test_a_head_that_reads_no_map():
    net = Network()
    x = net.add("Relu", [net.conv(net.image, 3, 4, name="stem")])
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])], "flat")
    model = net.model(net.add("Gemm", [x, net.weight("fc.w", net.normal(5, 4))], "fc", transB=1))
    assert "[N, 4]" in refused(model, ROOM.replace(features=("flat",)))


def test_an_unknown_feature_is_told_with_those_close_to_it():
    b = GraphBuilder(size=16)
    model = b.heads(b.block(b.image, 4, name="stem"), {"seg": 4})
    with pytest.raises(ModelError, match="there is no tensor or node 'relu9'"):
        keep(model, SEG.replace(features=("relu9",)))

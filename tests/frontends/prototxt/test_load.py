"""Whole networks: dialects, phases, V1, in-place layers, names, remarks; and on through our own passes to torch."""

from __future__ import annotations

import gc
import math
import time

import numpy as np
import pytest
import torch
from helpers import caffe

from onnxmtl import ops
from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt import load
from onnxmtl.lowering import to_torch
from onnxmtl.passes.normalize import normalize

DATA = caffe.inputs(data=(1, 3, 8, 8))
CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"


def convolution_parameters(model):
    """Elements of weights and biases of convolutions."""
    return sum(math.prod(v.shape.numpy()) for n in model.graph if n.op_type == "Conv" for v in n.inputs[1:])


# AutoMTL's own files


@pytest.mark.parametrize("name", ["deeplab_resnet34", "deeplab_resnet34_adashare"])
def test_automtl_resnet34(automtl_folder, name):
    model = load(automtl_folder / f"{name}.prototxt")
    stem = 3 * 64 * 7 * 7
    k3, k1 = 9, 1
    stage1 = 3 * 2 * 64 * 64 * k3
    stage2 = 64 * 128 * k3 + 7 * 128 * 128 * k3 + 64 * 128 * k1
    stage3 = 128 * 256 * k3 + 11 * 256 * 256 * k3 + 128 * 256 * k1
    stage4 = 256 * 512 * k3 + 5 * 512 * 512 * k3 + 256 * 512 * k1
    by_hand = stem + stage1 + stage2 + stage3 + stage4
    assert by_hand == 21_267_648
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Conv") == 36 and kinds.count("BatchNormalization") == 36 and kinds.count("Add") == 16
    assert convolution_parameters(model) == by_hand
    assert caffe.remarks(model, "prototxt-dialect")[0].count("AutoMTL's dialect")
    x = np.random.default_rng(0).random((1, 3, 226, 226), dtype=np.float32)
    [(output, y)] = caffe.run(model, blob1=x).items()
    assert (output, y.shape) == ("relu_blob33", (1, 512, 29, 29))  # 226 → 113 → ceil: 57 → 57 → 29
    features = normalize(model).graph.outputs
    assert [tuple(v.shape) for v in features] == [("N", 512, 29, 29)]


def test_automtl_mobilenet_v2(automtl_folder):
    model = load(automtl_folder / "mobilenetv2.prototxt")
    by_hand, channels = 3 * 32 * 9, 32
    for expansion, out, repeats in (
        (1, 16, 1),
        (6, 24, 2),
        (6, 32, 3),
        (6, 64, 4),
        (6, 96, 3),
        (6, 160, 3),
        (6, 320, 1),
    ):
        for _ in range(repeats):
            hidden = channels * expansion
            by_hand += (channels * hidden if expansion > 1 else 0) + hidden * 9 + hidden * out
            channels = out
    by_hand += 320 * 1280
    assert [node.op_type for node in model.graph].count("Conv") == 52
    assert convolution_parameters(model) == by_hand
    x = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    assert [y.shape for y in caffe.run(model, blob1=x).values()] == [(1, 1280, 7, 7)]
    assert [tuple(v.shape) for v in normalize(model).graph.outputs] == [("N", 1280, 7, 7)]
    assert any("engine" in remark and "line 56, " in remark for remark in caffe.remarks(model, "prototxt-ignored"))


# Our own files


@pytest.mark.parametrize(
    ("name", "output", "shape", "feature"),
    [
        ("inception_train_val", "prob", (2, 5, 64, 64), (12, 32, 32)),
        ("v1_deploy", "prob", (2, 7), (8, 8, 8)),
        ("residual_automtl", "add_blob1.relu2", (2, 8, 8, 8), (8, 8, 8)),
    ],
)
def test_fixtures_run_and_are_normalized_lowered_and_trained(fixture_folder, name, output, shape, feature):
    model = load(fixture_folder / f"{name}.prototxt")
    image = model.graph.inputs[0]
    x = np.random.default_rng(1).standard_normal((2, *image.shape[1:])).astype(np.float32)
    outputs = caffe.run(model, **{image.name: x})
    assert {key: y.shape for key, y in outputs.items()} == {output: shape}

    backbone = normalize(model)
    [out] = backbone.graph.outputs
    assert tuple(out.shape) == ("N", *feature)
    [want] = caffe.run(backbone, **{image.name: x}).values()
    module = to_torch(backbone).eval()
    with torch.no_grad():
        [got] = module(torch.from_numpy(x)).values()
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())

    module.train()
    sum(y.square().sum() for y in module(torch.from_numpy(x)).values()).backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing


def test_a_decoder_behind_crop_deconvolution_and_interpolation_is_a_feature_too(fixture_folder):
    model = load(fixture_folder / "inception_train_val.prototxt")
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    backbone = normalize(model, features=["score_up"])
    [want] = caffe.run(backbone, data=x).values()
    module = to_torch(backbone).eval()
    with torch.no_grad():
        [got] = module(torch.from_numpy(x)).values()
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_residual_fixture_by_the_definitions(fixture_folder):
    model = load(fixture_folder / "residual_automtl.prototxt")
    w = caffe.weights_of(model)
    x = np.random.default_rng(2).standard_normal((1, 3, 34, 34)).astype(np.float32)
    norm = 1 / np.sqrt(1 + 1e-5)
    y = np.maximum(caffe.conv(x, w["conv1.weight"], None, (2, 2), (1, 1)) * norm, 0)
    pooled = caffe.pool(y, (2, 2), (2, 2), (0, 0), ceil=False)
    assert pooled.shape == (1, 8, 8, 8)  # 17 / 2 rounded down; Caffe's dialect has 9
    y = caffe.conv(pooled, w["conv2.weight"], None, (1, 1), (1, 1)) * norm + pooled
    want = np.maximum(y, 0) + 0.1 * np.minimum(y, 0)
    np.testing.assert_allclose(caffe.run(model, blob1=x)["add_blob1.relu2"], want, rtol=1e-4, atol=1e-4)
    momenta = [n.attributes["momentum"].value for n in model.graph if n.op_type == "BatchNormalization"]
    assert momenta == pytest.approx([0.8, 0.9])
    as_caffe = load(fixture_folder / "inception_train_val.prototxt", dialect="caffe")
    assert caffe.weights_of(as_caffe)["inc/1x1/scale.weight"].tolist() == [1.0] * 8


def test_trained_parameters_of_a_fixture_counted_by_hand(fixture_folder):
    model = load(fixture_folder / "residual_automtl.prototxt")
    by_hand = 8 * 3 * 9 + 2 * 8 + 8 * 8 * 9 + 2 * 8  # convolutions, and γ and β of each
    assert sum(math.prod(v.shape.numpy()) for v in ops.trainable_values(model.graph)) == by_hand


# Dialects


@pytest.mark.parametrize(
    ("body", "automtl"),
    [
        (caffe.layer("BatchNorm", "data", "y", "batch_norm_param { affine: true }"), True),
        (caffe.layer("BatchNorm", "data", "y", "batch_norm_param { track_running_stats: false }"), True),
        (caffe.layer("BatchNorm", "data", "y", "batch_norm_param { momentum: 0.3 }"), True),
        (caffe.layer("ReLU", "data", "y", "relu_param { inplace: true }"), True),
        (caffe.layer("BatchNorm", "data", "y", "batch_norm_param { use_global_stats: true }"), False),
        (caffe.layer("BatchNorm", "data", "y"), False),
        (caffe.layer("BN", "data", "y", "bn_param { momentum: 0.9 }"), False),
    ],
)
def test_dialect_is_told_by_fields(body, automtl):
    [remark] = caffe.remarks(caffe.load_text(DATA + body), "prototxt-dialect")
    assert ("AutoMTL's dialect" in remark) == automtl
    [remark] = caffe.remarks(caffe.load_text(DATA + body, dialect="caffe"), "prototxt-dialect")
    assert "Caffe's dialect (as asked)" in remark


@pytest.mark.parametrize("name", ["data", "blob1"])
def test_in_automtls_dialect_data_and_blob1_mean_the_input(name):
    text = caffe.inputs(picture=(1, 3, 8, 8)) + caffe.layer("ReLU", name, "y")
    model = caffe.load_text(text)
    assert [v.name for v in model.graph.inputs] == ["picture"]
    with pytest.raises(ModelError, match=f"reads '{name}', which no layer before it makes"):
        caffe.load_text(text, dialect="caffe")


def test_pooling_rounds_by_dialect():
    text = caffe.inputs(data=(1, 1, 5, 5)) + caffe.layer(
        "Pooling", "data", "y", "pooling_param { kernel_size: 2 stride: 2 }"
    )
    x = np.ones((1, 1, 5, 5), np.float32)
    assert caffe.run(caffe.load_text(text, dialect="caffe"), data=x)["y"].shape == (1, 1, 3, 3)
    assert caffe.run(caffe.load_text(text, dialect="automtl"), data=x)["y"].shape == (1, 1, 2, 2)


def test_what_automtls_reader_gets_wrong_is_right_here_and_said():
    text = DATA + caffe.layer("ReLU", "data", "a", "relu_param { negative_slope: 0.5 }", "leaky")
    text += caffe.layer("AbsVal", "data", "b") + caffe.layer("Eltwise", "data a b", "s", name="three")
    text += caffe.layer("Eltwise", "a b", "d", "eltwise_param { coeff: 1 coeff: -1 }", "minus")
    text += caffe.layer("InnerProduct", "s", "fc", "inner_product_param { num_output: 2 }")
    model = caffe.load_text(text, dialect="automtl")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    leaky = np.maximum(x, 0) + 0.5 * np.minimum(x, 0)
    np.testing.assert_allclose(caffe.run(model, data=x)["d"], leaky - abs(x), rtol=1e-6, atol=1e-6)
    said = " ".join(caffe.remarks(model, "prototxt-differs"))
    assert all(name in said for name in ("'leaky'", "'three'", "'minus'", "'innerproduct'"))
    assert not caffe.remarks(caffe.load_text(text, dialect="caffe"), "prototxt-differs")


def test_automtl_keeps_the_last_of_several_kernel_sizes():
    text = DATA + caffe.layer(
        "Convolution", "data", "y", "convolution_param { num_output: 2 kernel_size: 5 kernel_size: 3 }"
    )
    assert caffe.weights_of(caffe.load_text(text, dialect="automtl"))["convolution.weight"].shape == (2, 3, 3, 3)
    assert caffe.weights_of(caffe.load_text(text, dialect="caffe"))["convolution.weight"].shape == (2, 3, 5, 3)


def test_there_are_two_dialects_and_two_phases(fixture_folder):
    with pytest.raises(ModelError, match="there are auto, caffe, automtl; and test, train"):
        load(fixture_folder / "v1_deploy.prototxt", dialect="tensorflow")


# Wiring


def test_in_place_layers_make_new_values_and_keep_names():
    text = DATA + caffe.layer("Convolution", "data", "x", CONV, "c") + caffe.layer("ReLU", "x", "x", name="r")
    text += caffe.layer("Convolution", "x", "y", CONV, "d") + caffe.layer("Sigmoid", "x", "x", name="s")
    text += caffe.layer("Eltwise", "x y", "z", name="e")
    model = caffe.load_text(text)
    assert [n.name for n in model.graph] == ["c", "r", "d", "s", "e"]
    assert [n.outputs[0].name for n in model.graph] == ["x", "x.r", "y", "x.s", "z"]
    nodes = {n.name: n for n in model.graph}
    assert [v.name for v in nodes["d"].inputs] == ["x.r", "d.weight", "d.bias"]
    assert [v.name for v in nodes["e"].inputs] == ["x.s", "y"]
    assert [v.name for v in model.graph.outputs] == ["z"]


def test_layers_of_one_name_and_without_names():
    text = DATA + caffe.layer("ReLU", "data", "a", name="n") + caffe.layer("TanH", "a", "b", name="n")
    text += 'layer { type: "ReLU" bottom: "b" top: "c" }\nlayer { type: "ReLU" bottom: "c" top: "d" }'
    model = caffe.load_text(text)
    assert [n.name for n in model.graph] == ["n", "n_1", "ReLU", "ReLU_1"]


def test_batch_is_free_and_everything_unread_is_an_output():
    text = (
        caffe.inputs(data=(10, 3, 8, 8)) + caffe.layer("Convolution", "data", "a", CONV) + caffe.layer("ReLU", "a", "b")
    )
    text += caffe.layer("TanH", "a", "c")
    model = caffe.load_text(text)
    assert list(model.graph.inputs[0].shape) == ["N", 3, 8, 8]
    outputs = caffe.run(model, data=np.zeros((5, 3, 8, 8), np.float32))
    assert {k: v.shape for k, v in outputs.items()} == {"b": (5, 4, 8, 8), "c": (5, 4, 8, 8)}


def test_unread_inputs_are_dropped():
    text = caffe.inputs(data=(1, 3, 8, 8), im_info=(1, 3)) + caffe.layer("ReLU", "data", "y")
    assert [v.name for v in caffe.load_text(text).graph.inputs] == ["data"]


def test_phases_levels_and_stages():
    rules = {
        "test": "include { phase: TEST }", "train": "include { phase: TRAIN }", "no_test": "exclude { phase: TEST }",
        "level": "include { min_level: 1 }", "low": "include { max_level: 0 }", "stage": 'include { stage: "deploy" }',
        "not": 'exclude { not_stage: "deploy" }', "any": 'include { phase: TRAIN } include { stage: "deploy" }',
    }  # fmt: skip
    text = 'state { stage: "deploy" }' + DATA
    text += "".join(caffe.layer("ReLU", "data", name, rule, name) for name, rule in rules.items())
    assert [n.name for n in caffe.load_text(text).graph] == ["test", "low", "stage", "not", "any"]
    model = caffe.load_text(text, phase="train")
    assert [n.name for n in model.graph] == ["train", "no_test", "low", "stage", "not", "any"]
    [said] = caffe.remarks(model, "prototxt-skipped")
    assert "'test' (ReLU)" in said and "'level'" in said and "line " in said


def test_what_reads_labels_is_left_out_and_said(fixture_folder):
    model = load(fixture_folder / "inception_train_val.prototxt", phase="train")
    assert [v.name for v in model.graph.outputs] == ["score_up"]
    text = caffe.layer(
        "MemoryData", "", "data label", "memory_data_param { batch_size: 2 channels: 1 height: 6 width: 4 }"
    )
    text += caffe.layer("ReLU", "data", "x") + caffe.layer("Flatten", "label", "flat")
    text += caffe.layer("SomebodysLoss", "x flat", "loss") + caffe.layer("Silence", "loss", "")
    model = caffe.load_text(text)
    assert [v.name for v in model.graph.outputs] == ["x"] and list(model.graph.inputs[0].shape) == ["N", 1, 6, 4]
    said = " ".join(caffe.remarks(model, "prototxt-skipped"))
    assert all(f"'{name}'" in said for name in ("flatten", "somebodysloss", "silence"))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (caffe.layer("Input", "", "x", "input_param { shape { dim: 1 dim: 3 dim: 4 dim: 5 } }"), ["N", 3, 4, 5]),
        (caffe.layer("DummyData", "", "x", "dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }"),
         ["N", 3, 4, 5]),
        (caffe.layer("DummyData", "", "x y", "dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }"),
         ["N", 3, 4, 5]),
        (caffe.layer("ImageData", "", "x l", "image_data_param { new_height: 4 new_width: 5 is_color: false }"),
         ["N", 1, 4, 5]),
        (caffe.layer("Data", "", "x l", "transform_param { crop_size: 7 } data_param { batch_size: 9 }"),
         ["N", 3, 7, 7]),
    ],
)  # fmt: skip
def test_every_layer_that_brings_data_is_an_input(layer, shape):
    model = caffe.load_text(layer + caffe.layer("ReLU", "x", "r"))
    assert [list(v.shape) for v in model.graph.inputs] == [shape]


# Errors and remarks


def test_a_layer_that_makes_images_by_code_of_its_own_is_told_how_to_become_an_input():
    body = "python_param { module: 'voc' layer: 'Images' param_str: \"{\\'split\\': \\'val\\'}\" }"
    text = (
        "name: 'n'\n" + caffe.layer("Python", "", "image label", body, name="voc") + caffe.layer("ReLU", "image", "r")
    )
    said = caffe.error_of(caffe.load_text, text)
    assert said is not None and said.startswith("net.prototxt:2: layer 'voc' (Python): ") and "\n" not in said
    assert 'put `input: "image" input_dim: 1' in said and "not supported" not in said
    weights = DATA + caffe.layer("Parameter", "", "w") + caffe.layer("ReLU", "data", "r")
    assert "'parameter' (Parameter, line 2)" in str(caffe.error_of(caffe.load_text, weights))


def test_a_blob_of_another_phase_or_stage_is_said_to_be_one():
    source = caffe.layer("Data", "", "image l", "transform_param { crop_size: 8 } include { phase: TRAIN }", name="d")
    text = "name: 'n'\n" + source + caffe.layer("ReLU", "image", "r", name="r")
    said = str(caffe.error_of(caffe.load_text, text))
    assert "'r' (ReLU): reads 'image', but what makes it is left out of phase TEST" in said and ": 'd' (line 2)" in said
    assert len(caffe.load_text(text, phase="train").graph) == 1


def test_what_is_true_of_many_layers_is_said_once():
    text, last = DATA, "data"
    for i in range(12):
        text += caffe.layer("BatchNorm", last, f"y{i}", "batch_norm_param { use_global_stats: true }", name=f"bn{i}")
        last = f"y{i}"
    [said] = [r for r in caffe.remarks(caffe.load_text(text), "prototxt-ignored") if "use_global_stats" in r]
    assert "line 2: layer 'bn0' (BatchNorm) use_global_stats is ignored" in said
    assert said.endswith("the same for 11 more: line 3, 4, 5, 6, 7, 8, 9, 10 and 3 more")


def test_the_lines_of_an_ignored_field_are_not_all_listed():
    text = DATA + "".join(caffe.layer("ReLU", "data", f"y{i}", "param { lr_mult: 1 }") for i in range(300))
    [said] = caffe.remarks(caffe.load_text(text), "prototxt-ignored")
    assert said.endswith("ignored: line 2, 3, 4, 5, 6, 7, 8, 9 and 292 more")


def test_all_unsupported_layers_are_in_one_message():
    text = DATA + caffe.layer("ROIPooling", "data", "a", name="roi") + caffe.layer("ReLU", "a", "b")
    text += caffe.layer("Python", "b", "c", name="py")
    text += caffe.layer("Pooling", "data", "d", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", name="random")
    text += caffe.layer("Pooling", "data", "e mask", "pooling_param { kernel_size: 2 }", name="masked")
    with pytest.raises(ModelError) as caught:
        caffe.load_text(text)
    words = [
        "4 layers are not supported",
        "'roi' (ROIPooling, line 2)",
        "'py' (Python, line 4)",
        "'random' (Pooling, line 5: stochastic pooling)",
        "'masked' (Pooling, line 6: a second output 'mask')",
    ]
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no layer in it"),
        ("net: 'x'", "there is no layer in it"),
        (DATA, "there is no layer in it"),
        ("layer { type: 'ReLU' bottom: 'dta' top: 'y' } ", "reads 'dta'"),
        (DATA + caffe.layer("ReLU", "dta", "y"), "did you mean 'data'"),
        ("input: 'data' input_dim: 3\n" + caffe.layer("ReLU", "data", "y"), "four input_dim"),
        ("input: 'data' input_dim: [1, 3, 0, 4]\n" + caffe.layer("ReLU", "data", "y"), "sizes have to be positive"),
        (caffe.layer("Data", "", "data") + caffe.layer("ReLU", "data", "y"), "does not say the size of the images"),
        ("layers { layer { name: 'x' type: 'conv' } }", "upgrade_net_proto_text"),
        ("layers { type: RELU } layer { }", "in one file"),
        (DATA + caffe.layer("ReLU", "data", "y", "include { phase: TRAIN }"), "no layer of it computes anything"),
    ],
)
def test_networks_that_are_none(text, words):
    with pytest.raises(ModelError, match=r"^net\.prototxt") as caught:
        caffe.load_text(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_and_ignored_fields_are_listed_by_name_and_line():
    text = DATA + 'layer { name: "c" type: "Convolution" bottom: "data" top: "y"\n  convolution_param { num_output: 2\n'
    text += "    kernel_size: 3 engine: CUDNN\n    sparsity: 0.5 }\n  pooling_param {\n    stride: 2 }\n  lr: 3\n"
    text += "  param { lr_mult: 2 name: 'w' } }\nforce_backward: true\n"
    model = caffe.load_text(text)
    said = "\n".join(caffe.remarks(model))
    for path, line in (("convolution_param.engine", 4), ("pooling_param", 6), ("pooling_param.stride", 7),
                       ("param.lr_mult", 9), ("force_backward", 10)):  # fmt: skip
        assert f"prototxt-ignored: {path} has no effect on the imported network; ignored: line {line}" in said
    for path, line in (("convolution_param.sparsity", 5), ("lr", 8)):
        assert f"prototxt-unknown: {path} is not a field that onnxmtl knows; ignored: line {line}" in said
    assert "num_output" not in said and "param.name" not in said


# Weights that nothing gave


def test_initial_weights_are_the_fillers_and_the_same_every_time():
    fillers = {
        "uniform": "min: -2 max: 3", "gaussian": "mean: 1 std: 2", "xavier": "", "msra": "variance_norm: FAN_OUT",
        "constant": "value: 0.5", "positive_unitball": "", "gaussian ": "sparse: 3",
    }  # fmt: skip
    text = caffe.inputs(data=(1, 40, 8, 8))
    for i, (kind, rest) in enumerate(fillers.items()):
        body = f"num_output: 50 kernel_size: 3 weight_filler {{ type: '{kind.strip()}' {rest} }}"
        text += caffe.layer("Convolution", "data", f"y{i}", f"convolution_param {{ {body} }}", kind)
    found = caffe.weights_of(caffe.load_text(text))
    again = caffe.weights_of(caffe.load_text(text))
    assert all(np.array_equal(found[name], again[name]) for name in found)
    w = {kind: found[f"{kind}.weight"] for kind in fillers}
    assert -2 <= w["uniform"].min() < -1.9 and 2.9 < w["uniform"].max() <= 3
    assert w["gaussian"].mean() == pytest.approx(1, abs=0.1) and w["gaussian"].std() == pytest.approx(2, rel=0.05)
    assert abs(w["xavier"]).max() == pytest.approx(np.sqrt(3 / 360), rel=0.01)
    assert w["msra"].std() == pytest.approx(np.sqrt(2 / 450), rel=0.05)
    assert (w["constant"] == 0.5).all()
    np.testing.assert_allclose(w["positive_unitball"].sum((1, 2, 3)), 1, rtol=1e-5)
    assert (w["gaussian "] != 0).sum() / 50 == pytest.approx(3, rel=0.3)
    assert (found["xavier.bias"] == 0).all()


def test_without_filler_weights_are_he_et_als_and_it_is_said():
    model = caffe.load_text(caffe.inputs(data=(1, 64, 8, 8)) + caffe.layer("Convolution", "data", "y", CONV))
    assert caffe.weights_of(model)["convolution.weight"].std() == pytest.approx(np.sqrt(2 / 576), rel=0.1)
    [said] = caffe.remarks(model, "prototxt-initialized")
    assert "1 layers" in said and "--weights" in said


def test_bilinear_filler_is_caffes():
    body = "num_output: 1 kernel_size: 4 stride: 2 bias_term: false weight_filler { type: 'bilinear' }"
    body = f"convolution_param {{ {body} }}"
    found = caffe.weights_of(
        caffe.load_text(caffe.inputs(data=(1, 1, 4, 4)) + caffe.layer("Deconvolution", "data", "y", body))
    )
    row = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(found["deconvolution.weight"][0, 0], np.outer(row, row))


def test_large_networks_are_read_in_linear_time():
    def seconds(layers):
        text = DATA + "".join(caffe.layer("ReLU", "x" if i else "data", "x", name=f"r{i}") for i in range(layers))
        start = time.process_time()
        assert len(caffe.load_text(text).graph) == layers
        return time.process_time() - start

    gc.collect()
    gc.disable()  # its time grows with all that other tests have left behind
    try:
        seconds(200)
        small, large = (min(seconds(layers) for _ in range(2)) for layers in (1500, 6000))
    finally:
        gc.enable()
    assert large < 10 * small  # four times, with room for noise; quadratic would be sixteen

"""Every layer against Caffe's definition, run by onnxruntime and by our own lowering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import caffe

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.convert import _Conversion  # noqa: F401  (fills the registry of layers)
from onnxmtl.frontends.prototxt.registry import layer_types
from onnxmtl.lowering import to_torch

RNG = np.random.default_rng(7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


# name: (layer type, body, input shapes, reference of (inputs, weights by their last name))
X = (2, 4, 5, 7)
CASES = {
    "conv": ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 }", [X],
             lambda x, w: caffe.conv(x[0], w["weight"], w["bias"], (2, 2), (1, 1))),
    "conv_hw": ("Convolution", "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 pad_h: 1 stride_w: 3 "
                "bias_term: false group: 2 }", [X],
                lambda x, w: caffe.conv(x[0], w["weight"], None, (1, 3), (1, 0), group=2)),
    "conv_lists": ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 kernel_size: 2 pad: [2, 1] "
                   "stride: 1 stride: 2 dilation: 2 dilation: 1 }", [X],
                   lambda x, w: caffe.conv(x[0], w["weight"], w["bias"], (1, 2), (2, 1), (2, 1))),
    "conv_hole": ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 pad: 2 hole: 2 }", [X],
                  lambda x, w: caffe.conv(x[0], w["weight"], w["bias"], (1, 1), (2, 2), (2, 2))),
    "conv_depthwise": ("ConvolutionDepthwise", "convolution_param { num_output: 4 kernel_size: 3 }", [X],
                       lambda x, w: caffe.conv(x[0], w["weight"], w["bias"], group=4)),
    "deconv": ("Deconvolution", "convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 }", [X],
               lambda x, w: caffe.deconv(x[0], w["weight"], w["bias"], (2, 2), (1, 1))),
    "deconv_group": ("Deconvolution", "convolution_param { num_output: 4 kernel_size: 3 stride: 2 group: 4 "
                     "bias_term: false weight_filler { type: 'bilinear' } }", [X],
                     lambda x, w: caffe.deconv(x[0], w["weight"], None, (2, 2), group=4)),
    "inner_product": ("InnerProduct", "inner_product_param { num_output: 3 }", [X],
                      lambda x, w: x[0].reshape(2, -1) @ w["weight"].T + w["bias"]),
    "inner_product_t": ("InnerProduct", "inner_product_param { num_output: 3 transpose: true }", [X],
                        lambda x, w: x[0].reshape(2, -1) @ w["weight"] + w["bias"]),
    "inner_product_axis": ("InnerProduct", "inner_product_param { num_output: 3 axis: 2 }", [X],
                           lambda x, w: x[0].reshape(2, 4, -1) @ w["weight"] + w["bias"]),
    "inner_product_last": ("InnerProduct", "inner_product_param { num_output: 3 axis: -1 bias_term: false }", [X],
                           lambda x, w: x[0] @ w["weight"]),
    "relu": ("ReLU", "", [X], lambda x, w: np.maximum(x[0], 0)),
    "relu_slope": ("ReLU", "relu_param { negative_slope: 0.1 }", [X],
                   lambda x, w: np.maximum(x[0], 0) + 0.1 * np.minimum(x[0], 0)),
    "relu6": ("ReLU6", "", [X], lambda x, w: np.clip(x[0], 0, 6)),
    "clip": ("Clip", "clip_param { min: -0.5 max: 0.25 }", [X], lambda x, w: np.clip(x[0], -0.5, 0.25)),
    "prelu": ("PReLU", "prelu_param { filler { type: 'uniform' } }", [X],
              lambda x, w: np.maximum(x[0], 0) + w["weight"] * np.minimum(x[0], 0)),
    "prelu_shared": ("PReLU", "prelu_param { channel_shared: true }", [X],
                     lambda x, w: np.maximum(x[0], 0) + 0.25 * np.minimum(x[0], 0)),
    "elu": ("ELU", "elu_param { alpha: 0.7 }", [X], lambda x, w: np.where(x[0] > 0, x[0], 0.7 * (np.exp(x[0]) - 1))),
    "sigmoid": ("Sigmoid", "", [X], lambda x, w: sigmoid(x[0])),
    "tanh": ("TanH", "", [X], lambda x, w: np.tanh(x[0])),
    "abs": ("AbsVal", "", [X], lambda x, w: np.abs(x[0])),
    "bnll": ("BNLL", "", [X], lambda x, w: np.log(1 + np.exp(x[0]))),
    "swish": ("Swish", "swish_param { beta: 1.5 }", [X], lambda x, w: x[0] * sigmoid(1.5 * x[0])),
    "threshold": ("Threshold", "threshold_param { threshold: 0.3 }", [X], lambda x, w: (x[0] > 0.3).astype(np.float32)),
    "dropout": ("Dropout", "dropout_param { dropout_ratio: 0.4 }", [X], lambda x, w: x[0]),
    "exp": ("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }", [X], lambda x, w: 2 ** (1 + 0.5 * x[0])),
    "exp_e": ("Exp", "", [X], lambda x, w: np.exp(x[0])),
    "log": ("Log", "log_param { base: 10 scale: 0.1 shift: 2 }", [X], lambda x, w: np.log10(2 + 0.1 * x[0])),
    "power": ("Power", "power_param { power: 3 scale: 0.5 shift: -1 }", [X], lambda x, w: (0.5 * x[0] - 1) ** 3),
    "power_identity": ("Power", "", [X], lambda x, w: x[0]),
    "max_pool": ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", [X],
                 lambda x, w: caffe.pool(x[0], (3, 3), (2, 2), (0, 0))),
    "max_pool_pad": ("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }", [X],
                     lambda x, w: caffe.pool(x[0], (2, 2), (2, 2), (1, 1))),
    "max_pool_floor": ("Pooling", "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }", [X],
                       lambda x, w: caffe.pool(x[0], (2, 2), (2, 2), (0, 0), ceil=False)),
    "max_pool_hw": ("Pooling", "pooling_param { kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_w: 1 }", [X],
                    lambda x, w: caffe.pool(x[0], (3, 2), (1, 3), (0, 1))),
    "ave_pool": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [X],
                 lambda x, w: caffe.pool(x[0], (3, 3), (2, 2), (1, 1), average=True)),
    "ave_pool_beyond": ("Pooling", "pooling_param { pool: AVE kernel_size: 4 stride: 3 pad: 1 }", [(1, 2, 6, 8)],
                        lambda x, w: caffe.pool(x[0], (4, 4), (3, 3), (1, 1), average=True)),
    "ave_pool_no_pad": ("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }", [X],
                        lambda x, w: caffe.pool(x[0], (2, 2), (2, 2), (0, 0), average=True)),
    "global_ave": ("Pooling", "pooling_param { pool: AVE global_pooling: true }", [X],
                   lambda x, w: x[0].mean((2, 3), keepdims=True)),
    "global_max": ("Pooling", "pooling_param { pool: MAX global_pooling: true }", [X],
                   lambda x, w: x[0].max((2, 3), keepdims=True)),
    "eltwise_sum": ("Eltwise", "", [X, X], lambda x, w: x[0] + x[1]),
    "eltwise_coeff": ("Eltwise", "eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }", [X, X, X],
                      lambda x, w: x[0] - 2 * x[1] + 0.5 * x[2]),
    "eltwise_prod": ("Eltwise", "eltwise_param { operation: PROD }", [X, X, X], lambda x, w: x[0] * x[1] * x[2]),
    "eltwise_max": ("Eltwise", "eltwise_param { operation: MAX }", [X, X, X],
                    lambda x, w: np.maximum(np.maximum(x[0], x[1]), x[2])),
    "concat": ("Concat", "", [X, (2, 1, 5, 7)], lambda x, w: np.concatenate(x, 1)),
    "concat_axis": ("Concat", "concat_param { axis: -1 }", [X, (2, 4, 5, 2)], lambda x, w: np.concatenate(x, 3)),
    "concat_dim": ("Concat", "concat_param { concat_dim: 2 }", [X, (2, 4, 1, 7)], lambda x, w: np.concatenate(x, 2)),
    "lrn": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }", [X],
            lambda x, w: caffe.lrn(x[0], 3, 0.5, 0.6, 2)),
    "lrn_within": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 norm_region: WITHIN_CHANNEL }", [X],
                   lambda x, w: caffe.lrn_within(x[0], 3, 0.5, 0.6)),
    "mvn": ("MVN", "", [X], lambda x, w: (x[0] - x[0].mean((2, 3), keepdims=True))
            / (x[0].std((2, 3), keepdims=True) + 1e-9)),
    "mvn_mean": ("MVN", "mvn_param { normalize_variance: false across_channels: true }", [X],
                 lambda x, w: x[0] - x[0].mean((1, 2, 3), keepdims=True)),
    "normalize": ("Normalize", "norm_param { across_spatial: false channel_shared: false scale_filler "
                  "{ type: 'constant' value: 20 } }", [X],
                  lambda x, w: 20 * x[0] / np.sqrt((x[0] ** 2).sum(1, keepdims=True))),
    "normalize_all": ("Normalize", "", [X], lambda x, w: x[0] / np.sqrt((x[0] ** 2).sum((1, 2, 3), keepdims=True))),
    "softmax": ("Softmax", "", [X], lambda x, w: softmax(x[0])),
    "softmax_axis": ("Softmax", "softmax_param { axis: -1 }", [X], lambda x, w: softmax(x[0], 3)),
    "scale": ("Scale", "scale_param { filler { type: 'gaussian' } bias_term: true bias_filler { type: 'gaussian' } }",
              [X], lambda x, w: x[0] * w["weight"].reshape(4, 1, 1) + w["bias"].reshape(4, 1, 1)),
    "scale_axes": ("Scale", "scale_param { axis: 1 num_axes: 2 filler { type: 'gaussian' } }", [X],
                   lambda x, w: x[0] * w["weight"].reshape(4, 5, 1)),
    "scale_all": ("Scale", "scale_param { axis: 2 num_axes: -1 filler { type: 'gaussian' } }", [X],
                  lambda x, w: x[0] * w["weight"].reshape(5, 7)),
    "scale_scalar": ("Scale", "scale_param { num_axes: 0 filler { type: 'constant' value: 3 } }", [X],
                     lambda x, w: 3 * x[0]),
    "scale_two": ("Scale", "scale_param { axis: 0 }", [X, (2, 4)], lambda x, w: x[0] * x[1][:, :, None, None]),
    "scale_two_channels": ("Scale", "", [X, (4, 5)], lambda x, w: x[0] * x[1][:, :, None]),
    "bias": ("Bias", "bias_param { filler { type: 'gaussian' } }", [X],
             lambda x, w: x[0] + w["bias"].reshape(4, 1, 1)),
    "bias_two": ("Bias", "bias_param { axis: -1 }", [X, (7,)], lambda x, w: x[0] + x[1]),
    "axpy": ("Axpy", "", [(2, 4, 1, 1), X, X], lambda x, w: x[0] * x[1] + x[2]),
    "axpy_flat": ("Axpy", "", [(2, 4), X, X], lambda x, w: x[0][:, :, None, None] * x[1] + x[2]),
    "reduction_sum": ("Reduction", "reduction_param { axis: 1 }", [X], lambda x, w: x[0].sum((1, 2, 3))),
    "reduction_mean": ("Reduction", "reduction_param { axis: 2 operation: MEAN coeff: 2 }", [X],
                       lambda x, w: 2 * x[0].mean((2, 3))),
    "reduction_asum": ("Reduction", "reduction_param { axis: -1 operation: ASUM }", [X], lambda x, w: abs(x[0]).sum(3)),
    "reduction_sumsq": ("Reduction", "reduction_param { axis: 1 operation: SUMSQ }", [X],
                        lambda x, w: (x[0] ** 2).sum((1, 2, 3))),
    "argmax_axis": ("ArgMax", "argmax_param { axis: 1 }", [X],
                    lambda x, w: x[0].argmax(1)[:, None].astype(np.float32)),
    "argmax": ("ArgMax", "", [X], lambda x, w: x[0].reshape(2, -1).argmax(1).reshape(2, 1, 1).astype(np.float32)),
    "argmax_both": ("ArgMax", "argmax_param { out_max_val: true }", [X],
                    lambda x, w: np.stack([x[0].reshape(2, -1).argmax(1), x[0].reshape(2, -1).max(1)], 1)[:, :, None]),
    "argmax_value": ("ArgMax", "argmax_param { axis: 1 out_max_val: true }", [X],
                     lambda x, w: x[0].max(1, keepdims=True)),
    "reshape": ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 7 } }", [X],
                lambda x, w: x[0].reshape(2, -1, 7)),
    "reshape_axis": ("Reshape", "reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }", [X],
                     lambda x, w: x[0].reshape(2, 2, 2, 5, 7)),
    "reshape_insert": ("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }", [X],
                       lambda x, w: x[0].reshape(2, 4, 5, 7, 1)),
    "reshape_batch": ("Reshape", "reshape_param { shape { dim: -1 dim: 7 } }", [X], lambda x, w: x[0].reshape(-1, 7)),
    "flatten": ("Flatten", "", [X], lambda x, w: x[0].reshape(2, -1)),
    "flatten_part": ("Flatten", "flatten_param { axis: 2 end_axis: 3 }", [X], lambda x, w: x[0].reshape(2, 4, -1)),
    "crop": ("Crop", "crop_param { offset: 1 offset: 2 }", [X, (2, 9, 3, 4)], lambda x, w: x[0][:, :, 1:4, 2:6]),
    "crop_axis": ("Crop", "crop_param { axis: 1 offset: 1 }", [X, (2, 3, 3, 4)], lambda x, w: x[0][:, 1:4, 1:4, 1:5]),
    "permute": ("Permute", "permute_param { order: 0 order: 2 order: 3 }", [X],
                lambda x, w: x[0].transpose(0, 2, 3, 1)),
    "permute_batch": ("Permute", "permute_param { order: 1 order: 0 }", [X], lambda x, w: x[0].transpose(1, 0, 2, 3)),
    "tile": ("Tile", "tile_param { axis: 2 tiles: 3 }", [X], lambda x, w: np.tile(x[0], (1, 1, 3, 1))),
    "shuffle": ("ShuffleChannel", "shuffle_channel_param { group: 2 }", [X],
                lambda x, w: x[0].reshape(2, 2, 2, 5, 7).transpose(0, 2, 1, 3, 4).reshape(X)),
    "interp_size": ("Interp", "interp_param { height: 9 width: 4 }", [X], lambda x, w: caffe.interp(x[0], 9, 4)),
    "interp_zoom": ("Interp", "interp_param { zoom_factor: 3 }", [X], lambda x, w: caffe.interp(x[0], 13, 19)),
    "interp_shrink": ("Interp", "interp_param { shrink_factor: 2 }", [X], lambda x, w: caffe.interp(x[0], 3, 4)),
    "interp_pad": ("Interp", "interp_param { zoom_factor: 2 shrink_factor: 2 pad_beg: -1 pad_end: -1 }", [X],
                   lambda x, w: caffe.interp(x[0][:, :, 1:-1, 1:-1], 3, 5)),
    "interp_one": ("Interp", "interp_param { height: 3 width: 5 }", [(1, 2, 1, 1)],
                   lambda x, w: caffe.interp(x[0], 3, 5)),
    "interp_like": ("Interp", "", [X, (2, 1, 8, 8)], lambda x, w: caffe.interp(x[0], 8, 8)),
    "upsample": ("Upsample", "upsample_param { scale: 3 }", [X], lambda x, w: x[0].repeat(3, 2).repeat(3, 3)),
    "upsample_size": ("Upsample", "upsample_param { upsample_h: 10 upsample_w: 21 }", [X],
                      lambda x, w: x[0].repeat(2, 2).repeat(3, 3)),
    "batch_norm": ("BatchNorm", "batch_norm_param { eps: 0.25 }", [X], lambda x, w: x[0] / np.sqrt(1.25)),
    "bn": ("BN", "bn_param { eps: 0.5 }", [X], lambda x, w: x[0] / np.sqrt(1.5)),
    "bn, older names": (
        "BN",
        "bn_param { eps: 0.5 scale_filler { value: 3 } shift_filler { value: 2 } moving_average: true decay: 0.05 }",
        [X],
        lambda x, w: 3 * x[0] / np.sqrt(1.5) + 2,
    ),
    "bn, SegNet's inference": (
        "BN",
        "bn_param { bn_mode: INFERENCE scale_filler { value: 3 } shift_filler { value: 2 } }",
        [X],
        lambda x, w: 3 * x[0] + 2,
    ),
}  # fmt: skip


def build(kind, body, shapes):
    names = [f"x{i}" for i in range(len(shapes))]
    text = caffe.inputs(**dict(zip(names, shapes, strict=True))) + caffe.layer(kind, " ".join(names), "y", body, "it")
    model = caffe.load_text(text, dialect="caffe")
    feeds = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in zip(names, shapes, strict=True)}
    return model, feeds


@pytest.mark.parametrize("case", CASES)
def test_layer_computes_what_caffe_computes(case):
    kind, body, shapes, reference = CASES[case]
    model, feeds = build(kind, body, shapes)
    weights = {name.removeprefix("it."): array for name, array in caffe.weights_of(model).items()}
    want = reference(list(feeds.values()), weights)
    got = caffe.run(model, **{name: x for name, x in feeds.items() if name in {v.name for v in model.graph.inputs}})[
        "y"
    ]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", [case for case in CASES if len(CASES[case][2]) == 1])
def test_layer_is_lowered_to_torch(case):
    kind, body, shapes, reference = CASES[case]
    model, feeds = build(kind, body, shapes)
    weights = {name.removeprefix("it."): array for name, array in caffe.weights_of(model).items()}
    module = to_torch(model).eval()
    with torch.no_grad():
        got = module(torch.from_numpy(feeds["x0"]))["y"].numpy()
    np.testing.assert_allclose(got, reference([feeds["x0"]], weights), rtol=2e-5, atol=2e-5)


def test_every_converter_has_a_case():
    elsewhere = {"Slice", "Split"}  # several outputs: below
    aliases = {"DepthwiseConvolution", "HoleConvolution"}  # a Convolution under other names
    assert {case[0] for case in CASES.values()} | elsewhere | aliases == set(layer_types())


def test_hole_convolution_is_a_convolution():
    model, feeds = build("HoleConvolution", "convolution_param { num_output: 2 kernel_size: 3 pad: 2 hole: 2 }", [X])
    w = caffe.weights_of(model)
    want = caffe.conv(feeds["x0"], w["it.weight"], w["it.bias"], pad=(2, 2), dilation=(2, 2))
    np.testing.assert_allclose(caffe.run(model, **feeds)["y"], want, rtol=2e-5, atol=2e-5)


def test_depthwise_convolution_is_a_convolution():
    body = "convolution_param { num_output: 4 kernel_size: 3 group: 4 }"
    model, feeds = build("DepthwiseConvolution", body, [X])
    w = caffe.weights_of(model)
    want = caffe.conv(feeds["x0"], w["it.weight"], w["it.bias"], group=4)
    np.testing.assert_allclose(caffe.run(model, **feeds)["y"], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("body", "tops", "edges"),
    [
        ("", "a b", [0, 2, 4]),
        ("slice_param { slice_point: 1 slice_point: 3 }", "a b c", [0, 1, 3, 4]),
        ("slice_param { slice_dim: 1 slice_point: 3 }", "a b", [0, 3, 4]),
        ("slice_param { axis: -3 }", "a b c d", [0, 1, 2, 3, 4]),
    ],
)
def test_slice_cuts_at_its_points(body, tops, edges):
    model = caffe.load_text(caffe.inputs(x=X) + caffe.layer("Slice", "x", tops, body))
    x = RNG.standard_normal(X).astype(np.float32)
    outputs = caffe.run(model, x=x)
    assert list(outputs) == tops.split()
    for top, start, end in zip(outputs, edges, edges[1:], strict=False):
        np.testing.assert_array_equal(outputs[top], x[:, start:end])


def test_split_hands_out_the_same_blob():
    text = caffe.inputs(x=X) + caffe.layer("ReLU", "x", "r") + caffe.layer("Split", "r", "a b")
    text += caffe.layer("TanH", "a", "t")
    outputs = caffe.run(caffe.load_text(text), x=np.ones(X, np.float32))
    assert set(outputs) == {"t", "r"}  # b is r, under the name it was computed with
    text += caffe.layer("Split", "r", "c d", name="again")
    assert len(caffe.run(caffe.load_text(text), x=np.ones(X, np.float32))) == 4


def test_max_pooling_never_lets_padding_win():
    model, _ = build("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", [X])
    x = -np.ones(X, np.float32)
    assert (caffe.run(model, x0=x)["y"] == -1).all()


BAD = {
    "no num_output": ("Convolution", "convolution_param { kernel_size: 3 }", [X], "num_output is missing"),
    "no kernel": ("Convolution", "convolution_param { num_output: 3 }", [X], "kernel_size is missing"),
    "both kernels": ("Convolution", "convolution_param { num_output: 3 kernel_size: 3 kernel_h: 3 }", [X], "together"),
    "stride 0": ("Convolution", "convolution_param { num_output: 3 kernel_size: 3 stride: 0 }", [X], "at least 1"),
    "too large": ("Convolution", "convolution_param { num_output: 3 kernel_size: 9 }", [X], "shape 2×3×-3×-1"),
    "huge": ("Convolution", "convolution_param { num_output: 4000000000 kernel_size: 3 }", [X], "its weight would"),
    "groups": ("Convolution", "convolution_param { num_output: 3 kernel_size: 3 group: 2 }", [X], "2 groups"),
    "pool padding": ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [X], "not smaller than its window"),
    "pool beyond": ("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", [(1, 1, 5, 5)], "outside the image"),
    "stochastic": ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", [X], "stochastic pooling"),
    "shapes differ": ("Eltwise", "", [X, (2, 4, 5, 6)], "equal ones"),
    "coefficients": ("Eltwise", "eltwise_param { coeff: 1 }", [X, X], "1 coefficients for 2"),
    "one input": ("Eltwise", "", [X], "has 1 bottoms"),
    "reshape": ("Reshape", "reshape_param { shape { dim: 3 } }", [X], "has 280 numbers"),
    "axis": ("Softmax", "softmax_param { axis: 4 }", [X], "axis 4 of a blob with 4 axes"),
    "interp pad": ("Interp", "interp_param { pad_beg: 1 }", [X], "0 or negative"),
    "segnet": ("Upsample", "", [X, X], "SegNet"),
    "permute": ("Permute", "permute_param { order: 7 }", [X], "order [7]"),
    "crop": ("Crop", "crop_param { offset: 4 }", [X, X], "does not lie within"),
    "filler": ("Convolution", "convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: 'x' } }", [X],
               "no filler 'x'"),
    "dropout": ("Dropout", "dropout_param { dropout_ratio: 1 }", [X], "[0, 1)"),
    "unknown": ("ROIPooling", "", [X], "1 layer is not supported: 'it' (ROIPooling, line 2)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_layer_is_named_with_its_line(case):
    kind, body, shapes, message = BAD[case]
    with pytest.raises(ModelError) as caught:
        build(kind, body, shapes)
    text = str(caught.value)
    assert message in text and text.startswith("net.prototxt:") and "\n" not in text
    assert "'it'" in text

"""Every operator that a prototxt can say: as which layers, and with the same numbers when it is read again."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.export import assert_same, layer_types, model_of, structure, there_and_back, written
from helpers.graphs import GraphBuilder

from onnxmtl.errors import ModelError
from onnxmtl.frontends import prototxt
from onnxmtl.frontends.prototxt.export import to_prototxt
from onnxmtl.frontends.prototxt.export.registry import operators
from onnxmtl.ir import diagnostics, make_choice

RNG = np.random.default_rng(3)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def i(*numbers):
    return np.array(numbers, np.int64)


def one(number):
    return np.array(number, np.float32)


POSITIVE = RNG.uniform(0.5, 1.5, 4).astype(np.float32)
POOL = "<kernel_shape = [3, 3], strides = [2, 2], pads = "

# name: (text, weights, layers); x is [2, 4, 6, 8] unless a fourth entry says otherwise.
CASES = {
    "conv": ("y = Conv <pads = [1, 2, 1, 2], strides = [2, 1]> (x, w, b)", {"w": f(6, 4, 3, 5), "b": f(6)},
             "Convolution"),
    "conv_group": ("y = Conv <group = 2, dilations = [2, 1]> (x, w)", {"w": f(4, 2, 3, 3)}, "Convolution"),
    "conv_same": ('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', {"w": f(2, 4, 3, 3)}, "Convolution"),
    "conv_padded": ("p = Pad (x, n) y = Conv <pads = [1, 0, 1, 0]> (p, w)",
                    {"n": i(0, 0, 1, 2, 0, 0, 1, 2), "w": f(2, 4, 3, 3)}, "Convolution"),
    "conv_uneven": ("p = Pad (x, n) y = Conv <pads = [0, 1, 1, 0]> (p, w)",
                    {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(2, 4, 3, 3)}, "Convolution"),
    "deconv": ("y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], group = 2> (x, w, b)",
               {"w": f(4, 3, 4, 4), "b": f(6)}, "Deconvolution"),
    "gemm": ("h = Flatten (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (h, w, b)", {"w": f(3, 192), "b": f(3)},
             "Flatten InnerProduct"),
    "gemm_untransposed": ("h = Flatten (x) y = Gemm (h, w, b)", {"w": f(192, 3), "b": f(1)}, "Flatten InnerProduct"),
    "matmul": ("y = MatMul (x, w)", {"w": f(8, 3)}, "InnerProduct"),
    "matmul_bias": ("h = MatMul (x, w) y = Add (b, h)", {"w": f(8, 3), "b": f(3)}, "InnerProduct"),
    "batch_norm": ("y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
                   {"s": f(4), "b": f(4), "m": f(4), "v": POSITIVE}, "BatchNorm Scale"),
    "lrn": ("y = LRN <size = 3, alpha = 0.2, beta = 0.5, bias = 2.0> (x)", {}, "LRN"),
    "dropout": ("h = Dropout (x, r) y = Relu (h)", {"r": one(0.3)}, "Dropout ReLU"),
    "relu": ("y = Relu (x)", {}, "ReLU"),
    "leaky_relu": ("y = LeakyRelu <alpha = 0.2> (x)", {}, "ReLU"),
    "prelu": ("y = PRelu (x, s)", {"s": f(4, 1, 1)}, "PReLU"),
    "prelu_shared": ("y = PRelu (x, s)", {"s": f(1)}, "PReLU"),
    "elu": ("y = Elu <alpha = 0.5> (x)", {}, "ELU"),
    "selu": ("y = Selu (x)", {}, "ELU Power"),
    "sigmoid": ("y = Sigmoid (x)", {}, "Sigmoid"),
    "tanh": ("y = Tanh (x)", {}, "TanH"),
    "abs": ("y = Abs (x)", {}, "AbsVal"),
    "exp": ("y = Exp (x)", {}, "Exp"),
    "log": ("h = Abs (x) y = Log (h)", {}, "AbsVal Log"),
    "softplus": ("y = Softplus (x)", {}, "BNLL"),
    "clip": ("y = Clip (x, a, b)", {"a": one(0), "b": one(6)}, "Clip"),
    "clip_below": ("y = Clip (x, a)", {"a": one(-0.5)}, "Clip"),
    "clip_relu": ("y = Clip (x, a)", {"a": one(0)}, "ReLU"),
    "hard_sigmoid": ("y = HardSigmoid <alpha = 0.3> (x)", {}, "Power Clip"),
    "hard_swish": ("y = HardSwish (x)", {}, "Power Clip Eltwise"),
    "softmax": ("y = Softmax <axis = 1> (x)", {}, "Softmax"),
    "softmax_last": ("y = Softmax (x)", {}, "Softmax"),
    "log_softmax": ("y = LogSoftmax <axis = 1> (x)", {}, "Softmax Log"),
    "threshold": ("h = Greater (x, t) y = Cast <to = 1> (h)", {"t": one(0.3)}, "Threshold"),
    "max_pool": (f"y = MaxPool {POOL} [1, 1, 1, 1]> (x)", {}, "Pooling"),
    "max_pool_up": ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)", {}, "Pooling"),
    "max_pool_end": (f"y = MaxPool {POOL} [0, 0, 1, 1]> (x)", {}, "Pooling"),
    "max_pool_hw": ("y = MaxPool <kernel_shape = [3, 2], strides = [1, 3]> (x)", {}, "Pooling"),
    "max_pool_whole": ("y = MaxPool <kernel_shape = [9, 9], pads = [1, 0, 2, 1]> (x)", {}, "Pooling"),
    "mean_pool": ("y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)", {}, "Pooling"),
    "mean_pool_pad": (f"y = AveragePool {POOL} [1, 1, 1, 1], count_include_pad = 1> (x)", {}, "Pooling"),
    "mean_pool_padded": ("p = Pad (x, n) "
                         "y = AveragePool <kernel_shape = [4, 4], strides = [3, 3], pads = [0, 0, 1, 1]> (p)",
                         {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}, "Pooling", {"x": (2, 4, 7, 7)}),
    "mean_pool_end": (f"y = AveragePool {POOL} [0, 0, 1, 1]> (x)", {}, "Pooling"),
    "global_mean": ("y = GlobalAveragePool (x)", {}, "Pooling"),
    "global_max": ("y = GlobalMaxPool (x)", {}, "Pooling"),
    "add": ("a = Relu (x) y = Add (x, a)", {}, "ReLU Eltwise"),
    "sum": ("a = Relu (x) b = Tanh (x) y = Sum (x, a, b)", {}, "ReLU TanH Eltwise"),
    "mean": ("a = Relu (x) b = Tanh (x) y = Mean (x, a, b)", {}, "ReLU TanH Eltwise Power"),
    "max": ("a = Sigmoid (x) y = Max (x, a)", {}, "Sigmoid Eltwise"),
    "max_number": ("y = Max (x, c)", {"c": one(0.2)}, "Clip"),
    "max_zero": ("y = Max (c, x)", {"c": one(0)}, "ReLU"),
    "min_number": ("y = Min (x, c)", {"c": one(0.2)}, "Clip"),
    "mul": ("a = Sigmoid (x) y = Mul (x, a)", {}, "Sigmoid Eltwise"),
    "sub": ("a = Relu (x) y = Sub (x, a)", {}, "ReLU Eltwise"),
    "div": ("a = Exp (x) y = Div (x, a)", {}, "Exp Power Eltwise"),
    "scale": ("y = Mul (x, c)", {"c": f(4, 1, 1)}, "Scale"),
    "scale_shift": ("h = Mul (c, x) y = Add (d, h)", {"c": f(1, 4, 1, 1), "d": f(4, 1, 1)}, "Scale"),
    "scale_shift_apart": ("h = Mul (x, c) y = Add (h, d)", {"c": f(4, 1, 1), "d": f(8)}, "Scale Bias"),
    "scale_axes": ("y = Mul (x, c)", {"c": f(6, 8)}, "Scale"),
    "shift": ("y = Add (c, x)", {"c": f(4, 6, 1)}, "Bias"),
    "minus": ("y = Sub (x, c)", {"c": f(4, 1, 1)}, "Bias"),
    "from_constant": ("y = Sub (c, x)", {"c": f(4, 1, 1)}, "Power Bias"),
    "divided": ("y = Div (x, c)", {"c": POSITIVE.reshape(4, 1, 1)}, "Scale"),
    "numbers": ("a = Mul (x, c) b = Add (a, d) e = Sub (b, c) y = Div (e, d)", {"c": one(3), "d": one([2])},
                "Power Power Power Power"),
    "number_over": ("a = Exp (x) y = Div (c, a)", {"c": one(3)}, "Exp Power Power"),
    "pow": ("y = Pow (x, c)", {"c": one(2)}, "Power"),
    "sqrt": ("a = Abs (x) y = Sqrt (a)", {}, "AbsVal Power"),
    "reciprocal": ("a = Exp (x) y = Reciprocal (a)", {}, "Exp Power"),
    "neg": ("y = Neg (x)", {}, "Power"),
    "excite": ("a = GlobalAveragePool (x) y = Mul (a, x)", {}, "Pooling Flatten Scale"),
    "centre": ("a = ReduceMean <keepdims = 1> (x, n) y = Sub (x, a)", {"n": i(2, 3)}, "Pooling Power Flatten Bias"),
    "attend": ("a = Conv (x, w) y = Mul (x, a)", {"w": f(1, 4, 1, 1)}, "Convolution Tile Eltwise"),
    "max_spread": ("a = GlobalMaxPool (x) b = Neg (x) y = Max (a, b)", {}, "Pooling Power Tile Tile Eltwise"),
    "rank": ("a = ReduceMean <keepdims = 0> (x, n) y = Add (x, a)", {"n": i(1, 2, 3)},
             "Reduction Reshape Tile Tile Tile Eltwise", {"x": (1, 4, 6, 8)}),
    "reduce_sum": ("y = ReduceSum <keepdims = 0> (x, n)", {"n": i(-1, 2)}, "Reduction"),
    "reduce_keep": ("y = ReduceSumSquare (x, n)", {"n": i(3)}, "Reduction Reshape"),
    "reduce_l1": ("y = ReduceL1 <keepdims = 0> (x, n)", {"n": i(1, 2, 3)}, "Reduction"),
    "reduce_mean": ("y = ReduceMean <keepdims = 0> (x, n)", {"n": i(2, 3)}, "Reduction"),
    "reduce_max": ("y = ReduceMax <keepdims = 0> (x, n)", {"n": i(2, 3)}, "Pooling Flatten"),
    "arg_max": ("y = ArgMax <axis = 1> (x)", {}, "ArgMax"),
    "arg_max_squeezed": ("h = ArgMax <axis = 1, keepdims = 0> (x) y = Cast <to = 1> (h)", {}, "ArgMax Reshape"),
    "concat": ("a = Relu (x) y = Concat <axis = 1> (x, a)", {}, "ReLU Concat"),
    "concat_last": ("a = Relu (x) y = Concat <axis = -1> (x, a)", {}, "ReLU Concat"),
    "split": ("a, b = Split <axis = 1> (x, n) c = Relu (a) y = Tanh (b)", {"n": i(1, 3)}, "Slice ReLU TanH"),
    "slice": ("y = Slice (x, s, e, n)", {"s": i(1, -5), "e": i(3, 100), "n": i(1, 3)}, "Slice Slice Silence"),
    "slice_nothing": ("h = Slice (x, s, e, n) y = Relu (h)", {"s": i(0), "e": i(99), "n": i(1)}, "ReLU"),
    "reshape": ("y = Reshape (x, n)", {"n": i(0, 2, 2, -1)}, "Reshape"),
    "flatten": ("y = Flatten (x)", {}, "Flatten"),
    "squeeze": ("a = GlobalAveragePool (x) h = Squeeze (a, n) y = Unsqueeze (h, m)", {"n": i(2, 3), "m": i(1)},
                "Pooling Flatten Reshape"),
    "transpose": ("y = Transpose <perm = [0, 2, 3, 1]> (x)", {}, "Permute"),
    "tile": ("y = Tile (x, n)", {"n": i(1, 2, 1, 3)}, "Tile Tile"),
    "expand": ("a = GlobalAveragePool (x) y = Expand (a, n)", {"n": i(1, 1, 6, 8)}, "Pooling Tile Tile"),
    "identity": ("h = Identity (x) a = Relu (h) y = Identity (a)", {}, "ReLU"),
    "cast": ("h = Cast <to = 1> (x) y = Relu (h)", {}, "ReLU"),
    "interp": ('y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , n)',
               {"n": i(2, 4, 9, 5)}, "Interp"),
    "upsample": ('y = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , n)',
                 {"n": one([1, 1, 2, 3])}, "Upsample"),
    "upsample_half_pixel": ("y = Resize (x, , n)", {"n": one([1, 1, 3, 3])}, "Upsample"),
    "resize_nothing": ("h = Resize (x, , n) y = Relu (h)", {"n": one([1, 1, 1, 1])}, "ReLU"),
}  # fmt: skip


def case(name):
    text, weights, layers, *inputs = CASES[name]
    return model_of(text, weights, **(inputs[0] if inputs else {})), layers.split()


@pytest.mark.parametrize("name", CASES)
def test_operator(name, tmp_path):
    model, layers = case(name)
    back = there_and_back(model, tmp_path)
    assert layer_types(tmp_path / "net.prototxt") == layers
    # What was read says itself in the same way again, word for word.
    text = (tmp_path / "net.prototxt").read_text()
    if name in SETTLES_LATER:
        return
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for value in back.graph.inputs:
        value.shape = ir.Shape([batch, *value.shape[1:]])
    again = there_and_back(back, tmp_path)
    assert (tmp_path / "net.prototxt").read_text() == text
    assert structure(again) == structure(back)


# One layer that our reader makes several operators of: they are several layers the second time.
SETTLES_LATER = {"hard_sigmoid", "hard_swish", "sum", "mean", "sub"}


def test_every_operator_that_is_said_has_a_case():
    tested = {node.op_type for name in CASES for node in case(name)[0].graph.node}
    assert set(operators()) == tested


@pytest.mark.parametrize("name", ["batch_norm", "sum", "max_pool", "max_pool_up", "gemm", "sub", "prelu"])
def test_automtl_dialect(name, tmp_path):
    model, _ = case(name)
    target, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    there_and_back(model, tmp_path, dialect="automtl")
    net = written(target)
    assert list(net.input) == ["data"] and list(net.input_dim) == [2, 4, 6, 8]
    for layer in net.layer:
        assert (
            len(layer.bottom) <= 2 and len(layer.top) == 1 and layer.type != "Scale" and not layer.eltwise_param.coeff
        )
    back = prototxt.load(target, weights=weights if weights.exists() else None, dialect="automtl")
    assert_same(model, back)


def test_a_network_without_weights_has_no_caffemodel(tmp_path):
    (remark,) = prototxt.save(ir.from_proto(case("relu")[0]), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert remark.code == "prototxt-weights" and "no weights" in remark.message
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]


def test_a_batch_norm_in_both_dialects(tmp_path):
    model, _ = case("batch_norm")
    there_and_back(model, tmp_path)
    norm, scale = written(tmp_path / "net.prototxt").layer[1:]
    assert (norm.name, list(norm.bottom), list(norm.top)) == ("batchnormalization0", ["x"], ["y"])
    assert norm.batch_norm_param.moving_average_fraction == np.float32(0.9)
    assert (scale.type, list(scale.bottom), list(scale.top)) == ("Scale", ["y"], ["y"]) and scale.scale_param.bias_term
    back = there_and_back(model, tmp_path, dialect="automtl")
    (norm,) = written(tmp_path / "net.prototxt").layer
    assert norm.batch_norm_param.affine and norm.batch_norm_param.track_running_stats
    assert norm.batch_norm_param.momentum == np.float32(0.1)
    assert back.graph[0].attributes["momentum"].as_float() == pytest.approx(0.9)


def test_caffe_itself_can_read_the_weights(tmp_path):
    model, _ = case("batch_norm")
    there_and_back(model, tmp_path)
    net = message_of(tmp_path / "net.caffemodel")
    mean, variance, divisor = net.layer[0].blobs
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(mean.data, weights["m"])
    np.testing.assert_array_equal(variance.data, weights["v"])
    assert list(divisor.data) == [1.0] and [list(blob.shape.dim) for blob in net.layer[0].blobs] == [[4], [4], [1]]
    np.testing.assert_array_equal(net.layer[1].blobs[0].data, weights["s"])


def message_of(path):
    from onnxmtl.frontends.prototxt.schema import message

    net = message("NetParameter")
    net.ParseFromString(path.read_bytes())
    return net


def test_shared_weights_stay_shared(tmp_path):
    weights = {"w": f(4, 4, 3, 3), "b": f(4)}
    text = (
        "a = Conv <pads = [1,1,1,1]> (x, w, b) c = Conv <pads = [1,1,1,1]> (a, w) y = Conv <pads = [1,1,1,1]> (c, w, b)"
    )
    back = there_and_back(model_of(text, weights), tmp_path)
    names = [[param.name for param in layer.param] for layer in written(tmp_path / "net.prototxt").layer[1:]]
    assert names == [["w", "b"], ["w"], ["w", "b"]]
    assert len(back.graph.initializers) == 2


def test_a_weight_in_two_forms_is_written_twice(tmp_path):
    text = "h = Flatten (x) a = Gemm <transB = 1> (h, w) y = Gemm (a, w)"
    model = model_of(text, {"w": f(192, 192)})
    there_and_back(model, tmp_path)
    remarks = prototxt.save(ir.from_proto(model), tmp_path / "net.prototxt")
    assert [r.code for r in remarks] == ["prototxt-untied"] and "'w'" in remarks[0].message
    assert not any(layer.param for layer in written(tmp_path / "net.prototxt").layer)


def test_outputs_keep_their_order_and_names(tmp_path):
    model = model_of("a = Relu (x) b = Tanh (a) c = Sigmoid (b)")
    for name in ("a", "b"):  # read within the network, and wanted in another order
        model.graph.output.insert(0, onnx.ValueInfoProto(name=name))
    model = onnx.shape_inference.infer_shapes(model)
    back = there_and_back(model, tmp_path)
    assert [v.name for v in back.graph.outputs] == ["b", "a", "c"]
    assert layer_types(tmp_path / "net.prototxt")[3:] == ["Split"] * 3


def test_several_inputs(tmp_path):
    model = model_of("y = Add (x, z)", x=(1, 3, 6, 5), z=(1, 3, 6, 5))
    back = there_and_back(model, tmp_path)
    assert [v.name for v in back.graph.inputs] == ["x", "z"]


def test_text_is_deterministic_and_in_caffe_s_style():
    model = ir.from_proto(case("conv")[0])
    text = to_prototxt(model)
    assert text == to_prototxt(model.clone())
    assert text == (
        'name: "net"\nlayer {\n  name: "x"\n  type: "Input"\n  top: "x"\n  input_param {\n'
        "    shape { dim: 2 dim: 4 dim: 6 dim: 8 }\n  }\n}\n"
        'layer {\n  name: "conv0"\n  type: "Convolution"\n  bottom: "x"\n  top: "y"\n  convolution_param {\n'
        '    num_output: 6\n    weight_filler {\n      type: "msra"\n    }\n'
        "    pad_h: 1\n    pad_w: 2\n    kernel_h: 3\n    kernel_w: 5\n    stride_h: 2\n    stride_w: 1\n  }\n}\n"
    )


def test_names_of_any_kind(tmp_path):
    model = model_of("a = Relu (x) y = Tanh (a)")
    model.graph.node[0].name = 'a "quoted"\n name {'
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "größe/0:dim: 1"
    del model.graph.value_info[:]
    back = there_and_back(model, tmp_path)
    assert [node.name for node in back.graph] == ['a "quoted"_ name {', "tanh1"]
    assert back.graph[0].outputs[0].name == "größe/0:dim: 1"


def test_helper_layers_never_take_a_node_s_name(tmp_path):
    model, _ = case("batch_norm")
    model.graph.node.append(onnx.helper.make_node("Relu", ["y"], ["z"], name="batchnormalization0_scale"))
    model.graph.output[0].name = "z"
    there_and_back(model, tmp_path)
    names = [layer.name for layer in written(tmp_path / "net.prototxt").layer]
    assert len(set(names)) == len(names) == 4 and names[3] == "batchnormalization0_scale"


REFUSED = {
    "unknown": ("y = Erf (x)", {}, "Erf 'erf0' (no layer of Caffe computes it)"),
    "uneven": ("y = Conv <pads = [0, 0, 1, 1]> (x, w)", {"w": f(2, 4, 3, 3)}, "Caffe pads both ends alike"),
    "conv_computed": ("w = Reshape (x, n) y = Conv (x, w)", {"n": i(8, 4, 3, 4)}, "its weight is computed"),
    "matmul_computed": ("a = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (x, a)", {}, "multiplies two computed"),
    "output_padding": ("y = ConvTranspose <strides = [2, 2], output_padding = [1, 1]> (x, w)", {"w": f(4, 2, 3, 3)},
                       "output_padding"),
    "dilated_pool": ("y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", {}, "it is dilated"),
    "mean_inside": ("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", {}, "by what its windows"),
    "pool_uneven": ("y = MaxPool <kernel_shape = [3, 3], pads = [0, 0, 2, 2]> (x)", {}, "both ends alike"),
    "positions": ("y, z = MaxPool <kernel_shape = [2, 2]> (x)", {}, "its positions are used"),
    "half_pixel": ('y = Resize <mode = "linear"> (x, , n)', {"n": one([1, 1, 2, 2])}, "align_corners"),
    "cubic": ('y = Resize <mode = "cubic"> (x, , n)', {"n": one([1, 1, 2, 2])}, "its mode is cubic"),
    "nearest_odd": ('y = Resize <nearest_mode = "ceil"> (x, , n)', {"n": one([1, 1, 2, 2])}, "repeats every pixel"),
    "fraction": ("y = Resize (x, , n)", {"n": one([1, 1, 1.5, 1.5])}, "no multiple"),
    "pad": ("y = Pad (x, n)", {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}, "Caffe pads within convolutions"),
    "pad_reflect": ('h = Pad <mode = "reflect"> (x, n) y = Conv (h, w)',
                    {"n": i(0, 0, 1, 1, 0, 0, 1, 1), "w": f(2, 4, 3, 3)}, "does not pad with zeros"),
    "stride": ("y = Slice (x, s, e, n, t)", {"s": i(0), "e": i(99), "n": i(2), "t": i(2)}, "every 2th element"),
    "batch": ("a, y = Split <num_outputs = 2> (x)", {}, "it splits the batch"),
    "join_batch": ("y = Concat <axis = 0> (x, x)", {}, "joins images of a batch"),
    "constant_input": ("y = Concat <axis = 1> (x, c)", {"c": f(2, 1, 6, 8)}, "the constant 'c'"),
    "channels_mean": ("y = ReduceMean (x, n)", {"n": i(1)}, "in Caffe these are the last ones"),
    "some_max": ("y = ReduceMax (x, n)", {"n": i(3)}, "over the whole image"),
    "min": ("a = Relu (x) y = Min (x, a)", {}, "no minimum of two tensors"),
    "pow": ("a = Relu (x) y = Pow (x, a)", {}, "its exponent is computed"),
    "truth": ("a = Greater (x, c) y = Not (a)", {"c": one(0)}, "truth values"),
    "indices": ("a = ArgMax <axis = 1> (x) y = Gather <axis = 1> (x, a)", {}, "used as whole numbers"),
    "prelu": ("y = PRelu (x, s)", {"s": f(8)}, "neither one per channel"),
    "lrn": ("y = LRN <size = 4> (x)", {}, "its size 4 is even"),
    "checkered": ("y = Mul (x, c)", {"c": f(4, 1, 8)}, "neighbouring axes"),
    "image_to_image": ("y = Add (x, c)", {"c": f(2, 4, 1, 1)}, "from image to image"),
    "grown": ("a = GlobalAveragePool (x) y = Add (a, c)", {"c": f(6, 8)}, "it repeats its input"),
    "integers": ("a = Cast <to = 7> (x) y = Cast <to = 1> (a)", {}, "changes the type"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused(name, tmp_path):
    text, weights, reason = REFUSED[name]
    model = ir.from_proto(model_of(text, weights))
    with pytest.raises(ModelError) as refused:
        prototxt.save(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert reason in str(refused.value) and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_all_nodes_are_named_in_one_message(tmp_path):
    model = ir.from_proto(model_of("a = Erf (x) b = Relu (a) c = Gelu (b) y = LRN <size = 2> (c)"))
    with pytest.raises(
        ModelError, match=r"^3 nodes cannot be said .*Erf 'erf0'.*Gelu 'gelu2'.*LRN 'lrn3' .*--features"
    ):
        prototxt.save(model, tmp_path / "net.prototxt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.graph.opset_imports.update({"": 13}), "opset 13, 18 or later"),
        (lambda m: setattr(m.graph.inputs[0], "shape", ir.Shape(["N", 4, "H", "W"])), "for a fixed size"),
        (lambda m: setattr(m.graph.inputs[0], "shape", None), "no shape"),
        (lambda m: setattr(m.graph.inputs[0], "type", ir.TensorType(ir.DataType.UINT8)), "read float32"),
        (lambda m: m.graph.outputs.append(m.graph.inputs[0]), "is an input or a constant"),
    ],
)  # fmt: skip
def test_models_that_are_not_fit(change, reason, tmp_path):
    model = ir.from_proto(model_of("y = Relu (x)"))
    change(model)
    with pytest.raises(ModelError, match=reason):
        prototxt.save(model, tmp_path / "net.prototxt")


def test_operators_of_others_are_refused(tmp_path):
    model = ir.from_proto(model_of("y = Relu (x)"))
    model.graph[0].domain = "com.acme"
    with pytest.raises(ModelError, match=r"Relu 'relu0' \(an operator of com.acme\)"):
        prototxt.save(model, tmp_path / "net.prototxt")


def test_a_supermodel_is_refused(tmp_path):
    builder = GraphBuilder()
    conv = builder.conv(builder.image, 3)
    logits = builder.weight("logits", np.zeros(2))
    options = [("skip", builder.image), ("keep", conv)]
    choice = make_choice(options, logits, site="s0", task="seg", name="choice", output="seg")
    builder.graph.append(choice)
    builder.graph.outputs.append(choice.outputs[0])
    with pytest.raises(ModelError, match="supermodel"):
        prototxt.save(ir.Model(builder.graph, ir_version=10), tmp_path / "net.prototxt")


def test_bad_arguments(tmp_path):
    model = ir.from_proto(model_of("y = Relu (x)"))
    with pytest.raises(ModelError, match="dialect 'auto' is unknown"):
        prototxt.save(model, tmp_path / "net.prototxt", dialect="auto")
    with pytest.raises(ModelError, match="two names"):
        prototxt.save(model, tmp_path / "net", tmp_path / "net")


def test_the_model_is_left_as_it_was(tmp_path):
    model = ir.from_proto(case("batch_norm")[0])
    before = structure(model)
    prototxt.save(model, tmp_path / "net.prototxt")
    assert structure(model) == before and diagnostics(model) == ()


def test_readers_that_do_not_know_a_layer_are_named(tmp_path):
    model = ir.from_proto(case("clip")[0])
    (remark,) = prototxt.save(model, tmp_path / "net.prototxt")
    assert (
        remark.code == "prototxt-readers"
        and "Clip is not in every Caffe" in remark.message
        and "'clip0'" in remark.message
    )
    renamed, unknown = prototxt.save(model, tmp_path / "net.prototxt", dialect="automtl")
    assert renamed.code == "prototxt-renamed" and "AutoMTL's own reader does not know Clip" in unknown.message

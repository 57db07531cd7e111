"""``.caffemodel`` files: what is in them arrives, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import caffe
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt import load, weights
from onnxmtl.frontends.prototxt.schema import message

RNG = np.random.default_rng(3)
NET = caffe.inputs(data=(1, 3, 6, 6)) + caffe.layer(
    "Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"
)
NORM = caffe.layer("BatchNorm", "conv", "conv") + caffe.layer(
    "Scale", "conv", "conv", "scale_param { bias_term: true }"
)


def arrays(**shapes):
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def net(tmp_path):
    """Writes a network and its weights, and loads them."""

    def build(text, layers=None, raw=None, **options):
        (tmp_path / "net.prototxt").write_text(text)
        file = tmp_path / "net.caffemodel"
        if raw is not None:
            file.write_bytes(raw)
        else:
            caffe.write_caffemodel(file, layers, **options)
        return load(tmp_path / "net.prototxt", weights=file)

    return build


@pytest.mark.parametrize("options", [{}, {"v1": True}, {"legacy": True}, {"v1": True, "legacy": True}])
def test_weights_arrive(net, options):
    given_ = arrays(w=(4, 3, 3, 3), b=(4,))
    model = net(NET, {"convolution": [given_["w"], given_["b"]]}, **options)
    found = caffe.weights_of(model)
    np.testing.assert_array_equal(found["convolution.weight"], given_["w"])
    np.testing.assert_array_equal(found["convolution.bias"], given_["b"])
    assert not caffe.remarks(model, "prototxt-initialized")
    x = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)
    want = caffe.conv(x, given_["w"], given_["b"])
    np.testing.assert_allclose(caffe.run(model, data=x)["conv"], want, rtol=1e-5, atol=1e-5)


def test_doubles_unpacked_numbers_and_old_matrices(net):
    w = RNG.standard_normal((5, 108)).astype(np.float32)
    ip = "inner_product_param { num_output: 5 }"
    text = caffe.inputs(data=(1, 3, 6, 6)) + caffe.layer("InnerProduct", "data", "y", ip)
    first = message("BlobProto")
    first.num, first.channels, first.height, first.width = 1, 1, 5, 108
    first.double_data.extend(w.ravel().tolist())
    # The bias as five loose floats, one tag each: what protobuf writes without [packed = true].
    loose = b"".join(b"\x2d" + np.float32(i).tobytes() for i in range(5)) + b"\x08\x01\x10\x01\x18\x01\x20\x05"
    binary = message("WeightFile")
    entry = binary.layers.add(name=b"innerproduct", type=14)
    for raw in (first.SerializeToString(), loose):
        entry.blobs.add().MergeFromString(raw)
    found = caffe.weights_of(net(text, raw=binary.SerializeToString()))
    np.testing.assert_array_equal(found["innerproduct.weight"], w)
    np.testing.assert_array_equal(found["innerproduct.bias"], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("factor", [0.0, 1.0, 999.98])
def test_statistics_are_divided_by_their_factor_and_scale_is_part_of_the_normalization(net, factor):
    a = arrays(w=(4, 3, 3, 3), b=(4,), mean=(4,), gamma=(4,), beta=(4,))
    variance = np.abs(RNG.standard_normal(4)).astype(np.float32)
    layers = {
        "convolution": [a["w"], a["b"]],
        "batchnorm": [a["mean"], variance, np.array([factor], np.float32)],
        "scale": [a["gamma"], a["beta"]],
    }
    model = net(NET + NORM, layers)
    assert [node.op_type for node in model.graph] == ["Conv", "BatchNormalization"]
    divide = 0 if factor == 0 else 1 / factor
    found = caffe.weights_of(model)
    np.testing.assert_allclose(found["batchnorm.mean"], a["mean"] * divide, rtol=1e-6)
    np.testing.assert_allclose(found["batchnorm.variance"], variance * divide, rtol=1e-6)
    x = RNG.standard_normal((1, 3, 6, 6)).astype(np.float32)
    y = caffe.conv(x, a["w"], a["b"])
    shaped = [v.reshape(4, 1, 1) for v in (a["mean"] * divide, variance * divide, a["gamma"], a["beta"])]
    want = (y - shaped[0]) / np.sqrt(shaped[1] + 1e-5) * shaped[2] + shaped[3]
    scale = np.abs(want).max()
    np.testing.assert_allclose(caffe.run(model, data=x)["conv.scale"] / scale, want / scale, rtol=1e-4, atol=1e-5)


def test_a_normalization_that_others_read_keeps_its_scale_apart():
    text = (
        NET
        + caffe.layer("BatchNorm", "conv", "bn")
        + caffe.layer("Scale", "bn", "s", "scale_param { bias_term: true }")
    )
    model = caffe.load_text(text + caffe.layer("Eltwise", "bn s", "y"))
    assert [node.op_type for node in model.graph] == ["Conv", "BatchNormalization", "Mul", "Add", "Add"]
    assert any("no scale and shift of its own" in remark for remark in caffe.remarks(model, "prototxt-affine"))


def test_segnets_normalization_for_inference_has_scale_and_shift_only(tmp_path):
    gamma, beta = np.array([2, 3], np.float32), np.array([1, -1], np.float32)
    file = weights.read(caffe.write_caffemodel(tmp_path / "w.caffemodel", {"bn": [gamma, beta]}))
    x = RNG.standard_normal((1, 2, 3, 4)).astype(np.float32)
    text = caffe.inputs(x=x.shape) + caffe.layer("BN", "x", "y", "bn_param { bn_mode: INFERENCE }", name="bn")
    want = x * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(caffe.run(caffe.load_text(text, file), x=x)["y"], want, rtol=1e-5, atol=1e-5)
    said = str(caffe.error_of(caffe.load_text, text.replace("INFERENCE", "LEARN"), file))
    assert "without running statistics" in said


def test_automtl_normalizations_take_five_blobs(net):
    a = arrays(w=(4, 3, 3, 3), b=(4,), gamma=(4,), beta=(4,), mean=(4,))
    variance = np.ones(4, np.float32) * 4
    layers = {"convolution": [a["w"], a["b"]],
              "batchnorm": [a["gamma"], a["beta"], a["mean"], variance, np.array([2.0], np.float32)]}  # fmt: skip
    found = caffe.weights_of(
        net(NET + caffe.layer("BatchNorm", "conv", "bn", "batch_norm_param { affine: true }"), layers)
    )
    np.testing.assert_array_equal(found["batchnorm.weight"], a["gamma"])
    np.testing.assert_array_equal(found["batchnorm.mean"], a["mean"] / 2)
    np.testing.assert_array_equal(found["batchnorm.variance"], variance / 2)


def test_shared_weights_are_one_initializer(fixture_folder, tmp_path):
    model = load(fixture_folder / "v1_deploy.prototxt")
    nodes = {node.name: node for node in model.graph}
    assert nodes["conv2"].inputs[1] is nodes["conv3"].inputs[1]
    assert nodes["conv2"].inputs[2] is nodes["conv3"].inputs[2]
    assert nodes["conv2"].inputs[1] is not nodes["conv1"].inputs[1]
    a = arrays(w=(8, 8, 3, 3), b=(8,), w1=(8, 3, 3, 3), fc=(7, 8 * 8 * 8), fb=(7,))
    layers = {
        "conv1": [a["w1"], a["b"]],
        "conv2": [a["w"], a["b"]],
        "conv3": [a["w"], a["b"]],
        "fc": [a["fc"], a["fb"]],
    }
    file = caffe.write_caffemodel(tmp_path / "w.caffemodel", layers, v1=True)
    model = load(fixture_folder / "v1_deploy.prototxt", weights=file)
    np.testing.assert_array_equal(caffe.weights_of(model)["conv2.weight"], a["w"])
    assert not caffe.remarks(model, "prototxt-weights")


def test_what_is_missing_and_what_is_left_is_named(net):
    a = arrays(w=(4, 3, 3, 3), b=(4,))
    model = net(NET + NORM, {"convolution": [a["w"], a["b"]], "fc8": [a["b"]], "data": []})
    assert any("'fc8'" in remark for remark in caffe.remarks(model, "prototxt-weights"))
    [missing] = caffe.remarks(model, "prototxt-initialized")
    assert "'batchnorm'" in missing and "'scale'" in missing and "'convolution'" not in missing


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"convolution": [np.zeros((4, 3, 5, 5)), np.zeros(4)]}, "blob 0 has shape 4×3×5×5, the network needs 4×3×3×3"),
        ({"convolution": [np.zeros((4, 3, 3, 3))]}, "has 1 blobs, the network needs 2"),
        ({"convolution": [np.zeros((4, 3, 3, 3)), np.zeros(4), np.zeros(1)]}, "has 3 blobs, the network reads 2"),
        ({"other": [np.zeros(4)]}, "none of its layers"),
        ({"convolution": []}, "no weights in it"),
    ],
)
def test_weights_of_another_network(net, layers, words):
    with pytest.raises(ModelError, match=words) as caught:
        net(NET, layers)
    assert "net.caffemodel" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_weights(net, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "net.prototxt", weights=tmp_path / "none.caffemodel")
    for raw, words in ((b"", "no weights in it"), (b"\x89HDF\r\n", "HDF5"), (b"\xa2\x06\xff", "truncated")):
        with pytest.raises(ModelError, match=words):
            net(NET, raw=raw)


def test_a_shape_that_promises_more_than_the_file_holds_allocates_nothing(net):
    binary = message("NetParameter")
    blob = binary.layer.add(name="convolution").blobs.add()
    blob.shape.dim.extend([4, 3, 3, 3])
    blob.data.extend([1.0] * 7)
    with pytest.raises(ModelError, match="has 7 numbers, its shape says 108"):
        net(NET, raw=binary.SerializeToString())
    blob.shape.dim[0] = 1 << 60
    with pytest.raises(ModelError, match="has shape"):
        net(NET, raw=binary.SerializeToString())
    text = NET.replace("num_output: 4", "num_output: 2000000000").replace("kernel_size: 3", "kernel_size: 6")
    with pytest.raises(ModelError, match="would have shape"):
        net(text, raw=binary.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_weights_or_one_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    file = caffe.write_caffemodel(folder / "damaged.caffemodel", {"convolution": [np.ones((4, 3, 3, 3)), np.ones(4)]})
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    error = caffe.error_of(lambda: caffe.load_text(NET, weights.read(file)))
    assert error is None or "\n" not in error
    if error is None:
        model = caffe.load_text(NET, weights.read(file))
        assert caffe.weights_of(model)["convolution.weight"].shape == (4, 3, 3, 3)

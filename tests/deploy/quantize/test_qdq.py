"""Int8 models: onnxruntime is the judge."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl import runtime
from onnxmtl.deploy.quantize.blocks import name_nodes, quant_blocks
from onnxmtl.deploy.quantize.qdq import QUANTIZATION_KEY, calibrate, check_quantizable, quantized, weight_bytes_of
from onnxmtl.errors import ModelError
from onnxmtl.passes.finalize import FoldBatchNorm, RemoveUnused
from onnxmtl.passes.finalize.half import PRECISION_KEY


@pytest.fixture(scope="module")
def model():
    made = small_resnet(width=8, size=16)
    FoldBatchNorm()(made)
    RemoveUnused()(made)
    made.metadata_props["user.note"] = "mine"
    made.producer_name, made.producer_version = "onnxmtl", "x"
    name_nodes(made)
    return made


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((12, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def calibrated(model, images):
    return calibrate(model, [images[:5], images[5:]])


@pytest.fixture(scope="module")
def everything(calibrated):
    return quantized(calibrated)


def plain(model, images):
    """As it is written, without the runtime's rewriting."""
    return runtime.run(runtime.session(model, optimize=False), images)


def test_int8_is_close_and_small(calibrated, everything, images):
    expected, found = (runtime.run(model, images) for model in (calibrated.source, everything))
    assert list(found) == list(expected)
    for name, output in expected.items():
        assert 0 < np.abs(found[name] - output).max() < 0.1 * np.abs(output).max()
    stored = {t.name: t for t in onnx.load_model_from_string(everything).graph.initializer}
    weights = [t for t in stored.values() if len(t.dims) == 4]
    assert len(weights) == 8 and all(t.data_type == onnx.TensorProto.INT8 for t in weights)


def test_a_scale_for_each_channel(everything):
    graph = onnx.load_model_from_string(everything).graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    unpacked = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type == "Conv":
            weight, scale, _ = unpacked[node.input[1]].input
            assert shapes[scale] == [shapes[weight][0]]


def test_what_is_the_users_stays(model, everything):
    found = onnx.load_model_from_string(everything)
    onnx.checker.check_model(found, full_check=True)
    metadata = {entry.key: entry.value for entry in found.metadata_props}
    assert metadata.pop(QUANTIZATION_KEY) and metadata.pop(PRECISION_KEY) == "int8"
    assert metadata == dict(model.metadata_props)
    assert (found.producer_name, found.producer_version) == ("onnxmtl", "x")
    assert [value.name for value in found.graph.output] == ["seg", "depth"]
    convolutions = {node.name for node in found.graph.node if node.op_type == "Conv"}
    assert convolutions == {node.name for node in model.graph if node.op_type == "Conv"}


def test_all_kept_is_the_float_model(model, calibrated, images):
    none = quantized(calibrated, [str(node.name) for node in model.graph])
    expected, found = plain(calibrated.source, images), plain(none, images)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_task_whose_blocks_are_kept_is_bit_identical(model, calibrated, images):
    """Blocks of other tasks cannot disturb it."""
    keep = [name for block in quant_blocks(model) if "depth" in block.tasks for name in block.nodes]
    expected, found = plain(calibrated.source, images), plain(quantized(calibrated, keep), images)
    assert np.array_equal(expected["depth"], found["depth"])
    assert not np.array_equal(expected["seg"], found["seg"])


@pytest.mark.parametrize("kept", ["seg", "depth"])
def test_a_weight_that_both_precisions_read(kept):
    """Tasks that share weights and not their inputs, one in int8: the other one's are not rounded."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4))
    first, other = b.conv(x, 6, bias=True), b.conv(b.relu(b.conv(x, 4)), 6)
    node = other.producer()
    for index in (1, 2):
        node.replace_input_with(index, first.producer().inputs[index])
    model = b.heads({"seg": b.relu(first), "depth": b.relu(other)}, {"seg": 2, "depth": 1})
    image = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    calibrated = calibrate(model, [image])
    keep = [name for block in quant_blocks(model) if kept in block.tasks for name in block.nodes]
    expected, found = plain(calibrated.source, image), plain(quantized(calibrated, keep), image)
    for task in ("seg", "depth"):
        assert np.array_equal(expected[task], found[task]) == (task == kept)


def test_equal_arguments_equal_bytes(calibrated, everything):
    """And the ranges are not written into, as onnxruntime's quantizer does."""
    assert quantized(calibrated) == everything


def test_seven_bits(calibrated, model, images, everything):
    import dataclasses

    small = quantized(dataclasses.replace(calibrated, reduce_range=True))
    largest = [
        max(int(np.abs(onnx.numpy_helper.to_array(t)).max()) for t in graph.initializer if len(t.dims) == 4)
        for graph in (onnx.load_model_from_string(each).graph for each in (everything, small))
    ]
    assert largest[0] == 127 and largest[1] <= 64


def test_bytes_of_weights(model, calibrated, everything):
    blocks = quant_blocks(model)
    nodes = [set(block.nodes) for block in blocks]
    before, after = weight_bytes_of(calibrated.source, nodes), weight_bytes_of(everything, nodes)
    stem = blocks[0]
    assert before[0] == 4 * (8 * 3 * 9 + 8), stem
    # int8 weights with a scale and a zero point per channel; biases of 32 bits with theirs
    assert after[0] == 8 * 3 * 9 + 8 * (4 + 1) + 8 * (4 + 4 + 4)
    assert sum(before) == sum(v.const_value.nbytes for v in model.graph.initializers.values())


def test_refused():
    b = GraphBuilder()
    model = b.heads(b.conv(b.image, 4), {"seg": 2})
    check_quantizable(model, "x")
    model.graph.inputs[0].dtype = ir.DataType.FLOAT16
    with pytest.raises(ModelError, match=r"x: a model with one float32 image input is needed.*FLOAT16"):
        check_quantizable(model, "x")


def test_quantized_already(everything):
    with pytest.raises(ModelError, match="quantized already"):
        check_quantizable(ir.from_proto(onnx.load_model_from_string(everything)), "x")


def test_nothing_to_calibrate_on(model):
    with pytest.raises(ModelError, match="cannot calibrate"):
        calibrate(model, [])


def test_images_that_do_not_fit(model):
    with pytest.raises(ModelError, match="cannot calibrate") as error:
        calibrate(model, [np.zeros((1, 4, 9, 9), np.float32)])
    assert "\n" not in str(error.value)

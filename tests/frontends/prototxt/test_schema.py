"""Names and numbers are the interface: they are Caffe's, and what is not Caffe's stays out of its numbers."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from onnxmtl.frontends.prototxt.schema import FIRST_OWN_NUMBER, PACKAGE, enum, message, message_class
from onnxmtl.frontends.prototxt.tables import MESSAGES


@pytest.mark.parametrize(
    ("name", "field", "number"),
    [
        ("NetParameter", "layer", 100),
        ("NetParameter", "layers", 2),
        ("NetParameter", "input_dim", 4),
        ("LayerParameter", "blobs", 7),
        ("LayerParameter", "convolution_param", 106),
        ("LayerParameter", "batch_norm_param", 139),
        ("LayerParameter", "scale_param", 142),
        ("LayerParameter", "input_param", 143),
        ("V1LayerParameter", "blobs", 6),
        ("V1LayerParameter", "convolution_param", 10),
        ("BlobProto", "shape", 7),
        ("BlobProto", "data", 5),
        ("ConvolutionParameter", "dilation", 18),
        ("ConvolutionParameter", "group", 5),
        ("PoolingParameter", "stride", 3),
        ("PoolingParameter", "pad", 4),
        ("PoolingParameter", "round_mode", 13),
        ("InnerProductParameter", "transpose", 6),
        ("SliceParameter", "slice_point", 2),
    ],
)
def test_fields_have_caffes_numbers(name, field, number):
    assert message_class(name).DESCRIPTOR.fields_by_name[field].number == number


def test_names_that_only_automtl_has_do_not_take_caffes_numbers():
    own = [("BatchNormParameter", "track_running_stats"), ("BatchNormParameter", "momentum"),
           ("BatchNormParameter", "affine"), ("ReLUParameter", "inplace"), ("ELUParameter", "inplace"),
           ("DropoutParameter", "inplace")]  # fmt: skip
    for name, field in own:
        assert message_class(name).DESCRIPTOR.fields_by_name[field].number >= FIRST_OWN_NUMBER


def test_defaults_are_caffes():
    layer = message("LayerParameter")
    assert layer.convolution_param.bias_term and layer.convolution_param.group == 1
    assert layer.batch_norm_param.moving_average_fraction == pytest.approx(0.999)
    assert layer.lrn_param.local_size == 5 and layer.lrn_param.beta == 0.75
    assert layer.pooling_param.round_mode == enum("RoundMode")["CEIL"]
    assert layer.eltwise_param.operation == enum("EltwiseOp")["SUM"]
    assert not layer.batch_norm_param.HasField("use_global_stats")


def test_bytes_are_what_caffe_writes():
    net = message("NetParameter")
    net.layer.add(name="c", type="Convolution").convolution_param.num_output = 2
    # field 100, length 20: name (1), type (2), convolution_param (106) with num_output (1)
    assert net.SerializeToString() == b"\xa2\x06\x15\n\x01c\x12\x0bConvolution\xd2\x06\x02\x08\x02"
    blob = message("BlobProto")
    blob.shape.dim.extend([2])
    blob.data.extend([1.0, 2.0])
    assert blob.SerializeToString() == b"*\x08\x00\x00\x80?\x00\x00\x00@:\x03\n\x01\x02"


def test_every_message_of_the_table_can_be_made():
    for name in MESSAGES:
        assert message(name).DESCRIPTOR.full_name == f"{PACKAGE}.{name}"


def test_the_shared_pool_does_not_know_our_messages():
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(f"{PACKAGE}.NetParameter")

"""Networks of another precision than float32 are refused at once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, small_network

from onnxmtl.errors import ModelError
from onnxmtl.passes.normalize import normalize

OTHERS = {
    "float16": (ir.DataType.FLOAT16, np.float16),
    "float64": (ir.DataType.DOUBLE, np.float64),
    "bfloat16": (ir.DataType.BFLOAT16, ml_dtypes.bfloat16),
}


def refusal(model: ir.Model) -> str:
    with pytest.raises(ModelError) as caught:
        normalize(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", OTHERS)
def test_the_image(name):
    model = small_network()
    model.graph.inputs[0].type = ir.TensorType(OTHERS[name][0])
    assert refusal(model).startswith(f"the input 'image' is {name}, training is in float32: export the model in float")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["initializer", "Constant", "computed"])
def test_the_weights(name, form):
    net = Network()
    dtype, numpy_type = OTHERS[name]
    x = net.add("Cast", [net.image], "down", to=dtype.value)
    array = net.normal(4, 3, 3, 3)
    if form == "initializer":
        weight = net.weight("w", array.astype(numpy_type))
    elif form == "Constant":
        weight = net.add("Constant", [], "w", value=ir.tensor(array.astype(numpy_type)))
    else:
        weight = net.add("Cast", [net.weight("w32", array)], "w", to=dtype.value)
    x = net.add("Conv", [x, weight], "conv", kernel_shape=[3, 3])
    message = refusal(net.model(net.add("Cast", [x], "up", to=ir.DataType.FLOAT.value)))
    stored = "w" if form == "initializer" else "w_out"
    assert message.startswith(f"the weight {stored!r} of node 'conv' is {name}, training is in float32: export")


def test_many_weights_are_counted():
    net = Network()
    x = net.add("Cast", [net.image], to=ir.DataType.FLOAT16.value)
    for i in range(3):
        x = net.add("Conv", [x, net.weight(f"w{i}", net.normal(3, 3, 1, 1).astype(np.float16))], f"conv{i}")
    message = refusal(net.model(net.add("Cast", [x], to=ir.DataType.FLOAT.value)))
    assert message.startswith("the weight 'w0' of node 'conv0' and 2 more weights are float16")


def test_weights_that_are_only_stored_in_half_precision_are_fine():
    net = Network()
    weight = net.add("Cast", [net.weight("w", net.normal(4, 3, 3, 3).astype(np.float16))], to=ir.DataType.FLOAT.value)
    model = normalize(net.model(net.add("Conv", [net.image, weight], "conv", kernel_shape=[3, 3])))
    assert [node.op_type for node in model.graph] == ["Conv"]

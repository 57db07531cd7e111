"""Networks of another precision than float32 become float32, and say so."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, run

from onnxmtl.ir import diagnostics
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.precision import ToFloat32

OTHERS = {
    "float16": (ir.DataType.FLOAT16, np.float16, 1e-2),
    "float64": (ir.DataType.DOUBLE, np.float64, 1e-6),
    "bfloat16": (ir.DataType.BFLOAT16, ml_dtypes.bfloat16, 5e-2),
}


def network(dtype, numpy_type, form: str) -> tuple[ir.Model, ir.Model]:
    """The same network in the other precision, and in float32 with the numbers that it stores."""
    models = []
    for wide in (False, True):
        net = Network()
        kind = ir.DataType.FLOAT if wide else dtype
        array = net.normal(4, 3, 3, 3).astype(numpy_type).astype(np.float32 if wide else numpy_type)
        x = net.image
        if form == "image":
            x.type = ir.TensorType(kind)
        else:
            x = net.add("Cast", [x], "down", to=kind.value)
        if form == "Constant":
            weight = net.add("Constant", [], "w", value=ir.tensor(array))
        elif form == "computed":
            weight = net.add("Cast", [net.weight("w", array.astype(np.float32))], "w_cast", to=kind.value)
        else:
            weight = net.weight("w", array)
        x = net.add("Conv", [x, weight], "conv", kernel_shape=[3, 3])
        x = net.add("Relu", [x], "relu")
        models.append(net.model(x if form == "image" else net.add("Cast", [x], "up", to=ir.DataType.FLOAT.value)))
    return models[0], models[1]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["image", "initializer", "Constant", "computed"])
def test_all_floats_become_float32(name, form):
    dtype, numpy_type, tolerance = OTHERS[name]
    model, wide = (normalize(m) for m in network(dtype, numpy_type, form))
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    assert {value.dtype for value in values} == {ir.DataType.FLOAT}
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    image = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    assert relative_error(run(model, image)[0], run(wide, image)[0]) <= tolerance


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_reported(name):
    dtype, numpy_type, _ = OTHERS[name]
    model = normalize(network(dtype, numpy_type, "image")[0])
    (remark,) = [remark for remark in diagnostics(model) if remark.code == "precision-changed" and name in str(remark)]
    assert "training is in float32" in remark.message


def test_float32_is_left_alone():
    model = network(*OTHERS["float16"][:2], "image")[1]
    before = [value.const_value for value in model.graph.initializers.values()]
    assert not ToFloat32()(model).modified
    assert [value.const_value for value in model.graph.initializers.values()] == before
    assert diagnostics(model) == ()


def test_shape_arithmetic_in_float64_is_exact():
    """0.1 + 0.2 is more than 0.3 in float64 and not in float32: the size of an image may hang on it."""
    net = Network()
    tenth, fifth = (net.weight(name, np.array(value, np.float64)) for name, value in (("a", 0.1), ("b", 0.2)))
    total = net.add("Mul", [net.add("Add", [tenth, fifth]), net.weight("c", np.array(10 / 3, np.float64))])
    size = net.add("Cast", [net.add("Ceil", [total])], to=ir.DataType.INT64.value)
    shape = net.add(
        "Concat",
        [net.weight("d", np.array([1, 1, 1], np.int64)), net.add("Reshape", [size, net.weight("one", np.array([1]))])],
        axis=0,
    )
    x = net.add("Tile", [net.conv(net.image, 3, 4), shape], "tile")
    assert normalize(net.model(x)).graph.outputs[0].shape[3] == 32


def test_sequences_stay_sequences():
    net = Network()
    net.image.type = ir.TensorType(ir.DataType.FLOAT16)
    parts = net.add("SplitToSequence", [net.image], "split", axis=1)
    parts.type = shared = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT16))
    ToFloat32()(net.model(parts))
    assert parts.type == ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))
    assert shared.dtype is ir.DataType.FLOAT16  # other models may have it


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_stay_finite():
    """The lowest float64, as an attention mask has it: minus infinity would make NaN of a row that is masked."""
    low, infinite = np.finfo(np.float64).min, np.inf
    net = Network()
    mask = net.weight("mask", np.array([low, -low, infinite, 0.5], np.float64))
    ToFloat32()(net.model(net.add("Add", [net.image, mask])))
    most = np.finfo(np.float32).max
    assert mask.const_value.numpy().tolist() == [-most, most, infinite, 0.5]

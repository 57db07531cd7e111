"""The strided network's features are every r-th position of the dilated network's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, image_of, run
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.features import read_features, write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import diagnostics
from onnxmtl.passes.instruments import find_violation, relative_error
from onnxmtl.passes.normalize.dilate import StridesToDilations
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.shapes import infer_shapes


def finished(net: Network, *outputs: ir.Value) -> ir.Model:
    model = net.model(*outputs)
    NameNodes()(model)
    infer_shapes(model, complete=True)
    write_features(model)
    return model


def dilate(model: ir.Model, output_stride: int) -> ir.Model:
    StridesToDilations(output_stride)(model)
    assert find_violation(model.graph) is None
    return model


@st.composite
def layers(draw):
    """Layers in words; `build` makes a network of them."""
    found = []
    for _ in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["conv", "conv", "max", "average", "residual", "branches", "pad", "shuffle"]))
        found.append(
            (
                kind,
                draw(st.sampled_from([1, 2, 3] if kind == "conv" else [2, 3])),  # kernel
                draw(st.sampled_from([1, 2, 2, 4] if kind == "conv" else [1, 2])),  # stride
                draw(st.sampled_from(["none", "same", "end", "SAME_UPPER", "SAME_LOWER", "VALID"])),  # padding
                draw(st.booleans()),  # ceil_mode, or counting pads
                draw(st.sampled_from([1, 1, 2])),  # dilation
            )
        )
    return found


def build(described, size) -> ir.Model:
    net = Network(("N", 4, *size))
    x = net.image
    for kind, k, stride, padding, flag, dilation in described:
        window: dict = {"kernel_shape": [k, k], "strides": [stride] * 2}
        if padding.isupper():
            window["auto_pad"] = padding
            window["strides"] = [min(stride, k)] * 2  # onnxruntime pads negatively where a window skips positions
        else:
            reach = dilation * (k - 1)
            window["pads"] = {"none": [0] * 4, "same": [reach // 2] * 4, "end": [0, 0, min(1, k - 1), min(1, k - 1)]}[
                padding
            ]
            window["dilations"] = [dilation] * 2
        if kind == "conv":
            weight = net.weight(f"w{len(net.graph)}", net.normal(4, 4, k, k))
            x = net.add("Relu", [net.add("Conv", [x, weight], **window)])
        elif kind == "max":
            window.pop("dilations", None)
            window["pads"] = [0] * 4 if k == 1 or "pads" not in window else [min(p, k - 1) for p in window["pads"]]
            if padding.isupper():
                del window["pads"]
            x = net.add("MaxPool", [x], ceil_mode=int(flag and not padding.isupper()), **window)
        elif kind == "average":
            window.pop("dilations", None)
            if "pads" in window:
                window["pads"] = [min(p, k - 1) for p in window["pads"]]
            x = net.add("AveragePool", [x], count_include_pad=int(flag), **window)
        elif kind == "residual":
            y = net.conv(net.conv(x, 4, 4, k=3, stride=stride), 4, 4, k=3)
            x = net.add("Add", [y, net.conv(x, 4, 4, k=1, stride=stride)])
        elif kind == "branches":  # Inception's: paddings differ, sizes agree after rounding down
            y = net.conv(x, 4, 2, k=3, stride=stride)
            z = net.add("MaxPool", [x], kernel_shape=[3, 3], strides=[stride] * 2, pads=[1, 1, 1, 1])
            x = net.conv(net.add("Concat", [y, z], axis=1), 6, 4, k=1)
        elif kind == "pad":
            pads = net.weight(f"p{len(net.graph)}", [0, 0, 1, 0, 0, 0, 1, 2])
            x = net.add("Pad", [x, pads])
        elif kind == "shuffle":
            infer_shapes(ir.Model(net.graph, ir_version=10))
            h, w = list(x.shape)[2:]
            x = net.add("Reshape", [x, net.weight(f"s{len(net.graph)}", [0, 2, 2, h, w])])
            x = net.add("Transpose", [x], perm=[0, 2, 1, 3, 4])
            x = net.add("Reshape", [x, net.weight(f"s{len(net.graph)}", [0, 4, h, w])])
    return finished(net, net.conv(x, 4, 3, name="end"))


@settings(max_examples=80, deadline=None)
@given(layers(), st.tuples(st.integers(15, 24), st.integers(15, 24)), st.sampled_from([1, 2, 4]))
def test_the_exported_features_are_a_subsample(described, size, output_stride):
    try:
        strided = build(described, size)
    except ModelError:
        assume(False)  # the image is too small for these layers
    (before,) = read_features(strided)
    dilated = build(described, size)
    try:
        dilate(dilated, output_stride)
    except ModelError as e:
        # Only what is documented may be refused: a pooling that has no dilated form, a stride that cannot be split.
        if "AveragePool" in str(e) or "cannot be split" in str(e):
            return
        raise
    (after,) = read_features(dilated)
    assert after.stride == min(before.stride, output_stride)
    r = before.stride // after.stride
    image = image_of(strided)
    expected, actual = run(strided, image)[0], run(dilated, image)[0]
    # Where a window is smaller than its stride, onnx and onnxruntime do not agree about the size of the exported model.
    assume(expected.shape[2:] == tuple(strided.graph.outputs[0].shape)[2:])
    assert relative_error(actual[:, :, ::r, ::r], expected) <= 1e-5


def test_weights_are_the_same_and_the_change_is_reported():
    model = build([("conv", 3, 2, "same", False, 1), ("residual", 3, 2, "same", False, 1)], (16, 16))
    weights = {n: v for n, v in model.graph.initializers.items()}
    dilate(model, 2)
    assert all(model.graph.initializers[name] is value for name, value in weights.items())
    assert [d.code for d in diagnostics(model)] == ["strides-dilated"]
    by_name = {node.name: node for node in model.graph}
    assert by_name["end"].attributes["dilations"].as_ints() == (2, 2)
    assert by_name["end"].attributes["pads"].as_ints() == (2, 2, 2, 2)


def test_nothing_to_do():
    model = build([("conv", 3, 2, "same", False, 1)], (16, 16))
    before = ir.to_proto(model)
    assert not StridesToDilations(8)(model).modified
    assert ir.to_proto(model) == before
    assert [d.code for d in diagnostics(model)] == ["output-stride-kept"]


def test_large_padding_of_a_pooling_becomes_a_pad_node():
    model = build([("conv", 3, 4, "same", False, 1), ("branches", 3, 1, "same", False, 1)], (16, 16))
    strided = build([("conv", 3, 4, "same", False, 1), ("branches", 3, 1, "same", False, 1)], (16, 16))
    dilate(model, 1)
    assert [node.op_type for node in model.graph].count("Pad") == 1
    x = image_of(strided)
    assert relative_error(run(model, x)[0][:, :, ::4, ::4], run(strided, x)[0]) <= 1e-5


def test_averages_over_the_image_are_allowed():
    net = Network(("N", 3, 16, 16))
    x = net.conv(net.image, 3, 4, stride=2)
    gate = net.add("Sigmoid", [net.conv(net.add("GlobalAveragePool", [x]), 4, 4, k=1)])
    x = net.conv(net.add("Mul", [x, gate]), 4, 4, stride=2, name="last")
    model = dilate(finished(net, x), 1)
    assert read_features(model)[0].stride == 1
    assert run(model, image_of(model))[0].shape == (2, 4, 16, 16)


def test_several_features():
    net = Network(("N", 3, 32, 32))
    early = net.conv(net.image, 3, 4, stride=2, name="early")
    late = net.conv(net.conv(early, 4, 4, stride=2), 4, 4, stride=2, name="late")
    model = dilate(finished(net, early, late), 4)
    assert [(f.name, f.stride) for f in read_features(model)] == [("early_out", 2), ("late_out", 4)]


@pytest.mark.parametrize("op", ["Resize", "SpaceToDepth", "constant"])
def test_refused_by_name(op):
    net = Network(("N", 4, 16, 16))
    x = net.conv(net.image, 4, 4, stride=2)
    if op == "Resize":
        scales = net.weight("scales", np.array([1, 1, 2, 2], np.float32))
        x = net.add(op, [x, None, scales], "culprit", mode="nearest")
    elif op == "SpaceToDepth":
        x = net.conv(net.add(op, [x], "culprit", blocksize=2), 16, 4)
    else:
        x = net.add("Add", [x, net.weight("position", net.normal(1, 4, 8, 8))], "culprit")
    model = finished(net, net.conv(x, 4, 4))
    with pytest.raises(ModelError, match=r"'culprit'.*--output-stride"):
        StridesToDilations(1)(model)


def test_a_stride_that_cannot_be_split():
    net = Network(("N", 3, 18, 18))
    model = finished(net, net.conv(net.image, 3, 4, stride=3, name="three"))
    with pytest.raises(ModelError, match=r"'three'.*stride 3"):
        StridesToDilations(2)(model)

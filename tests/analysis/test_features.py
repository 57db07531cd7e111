"""Where the classifier starts, what strides are, and what is no CNN."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, small_network

from onnxmtl.analysis.features import (
    Feature,
    describe,
    feature_form,
    named_value,
    read_features,
    read_strides,
    write_features,
)
from onnxmtl.analysis.finding import find_feature, find_features
from onnxmtl.analysis.layouts import MapForm, channel_axes
from onnxmtl.errors import ModelError
from onnxmtl.passes.normalize.shapes import infer_node, infer_shapes


def inferred(model: ir.Model) -> ir.Graph:
    infer_shapes(model)
    return model.graph


def trunk(net: Network) -> ir.Value:
    """Two convolutions; [1, 8, 4, 4] from a 16×16 image."""
    x = net.add("Relu", [net.conv(net.image, 3, 4, stride=2, name="first")])
    return net.add("Relu", [net.conv(x, 4, 8, stride=2, name="second")], "last")


def test_before_global_pooling():
    assert find_feature(inferred(small_network())).name == "out_out"


def test_before_average_pooling_to_one_position_and_reshape():
    net = Network()
    x = net.add("AveragePool", [trunk(net)], kernel_shape=[4, 4])
    x = net.add("Reshape", [x, net.weight("shape", [1, 8])])
    x = net.add("Gemm", [x, net.weight("fc", net.normal(8, 5))])
    assert find_feature(inferred(net.model(net.add("Softmax", [x])))).name == "last_out"


def test_behind_pooling_that_is_flattened():
    net = Network()
    x = net.add("MaxPool", [trunk(net)], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Flatten", [net.add("Dropout", [x])])
    assert (
        find_feature(inferred(net.model(net.add("Gemm", [x, net.weight("fc", net.normal(32, 5))])))).name == "pool_out"
    )


@pytest.mark.parametrize("relu", [False, True])
def test_before_a_convolutional_classifier(relu):
    net = Network()
    x = net.conv(net.add("Dropout", [trunk(net)]), 8, 5, k=1, bias=True)
    x = net.add("GlobalAveragePool", [net.add("Relu", [x]) if relu else x])
    assert find_feature(inferred(net.model(net.add("Softmax", [x], axis=1)))).name == "last_out"


@pytest.mark.parametrize("end", ["Identity", "Relu"])
def test_before_a_convolutional_classifier_with_its_bias_in_an_add(end: str) -> None:
    """Paddle's SqueezeNet."""
    net = Network()
    x = net.add("Identity", [net.conv(net.add("Dropout", [trunk(net)]), 8, 5, k=1)])
    x = net.add("Add", [x, net.weight("bias", net.normal(1, 5, 1, 1))])
    x = net.add("GlobalAveragePool", [net.add(end, [x])])
    assert find_feature(inferred(net.model(x))).name == "last_out"


def test_an_add_of_two_maps_is_no_bias_of_a_classifier() -> None:
    net = Network()
    x = trunk(net)
    x = net.add("Relu", [net.add("Add", [net.conv(x, 8, 8, k=1), x], "sum")], "joined")
    assert find_feature(inferred(net.model(net.add("GlobalAveragePool", [x])))).name == "joined_out"


def test_pooled_then_a_convolution_as_classifier():
    net = Network()
    x = net.conv(net.add("GlobalAveragePool", [trunk(net)]), 8, 5, k=1)
    assert find_feature(inferred(net.model(x))).name == "last_out"


@pytest.mark.parametrize("end", ["", "Resize", "Softmax", "Identity", "ArgMax of Resize"])
def test_before_the_logits_of_every_position(end):
    net = Network()
    x = net.conv(trunk(net), 8, 5, k=1, bias=True, name="logits")
    if "Resize" in end:
        x = net.add("Resize", [x, None, net.weight("scales", np.array([1, 1, 4, 4], np.float32))], mode="nearest")
    if "ArgMax" in end:
        x = net.add("ArgMax", [x], axis=1)
    elif end in ("Softmax", "Identity"):
        x = net.add(end, [x], **({"axis": 1} if end == "Softmax" else {}))
    model = net.model(x)
    if "ArgMax" in end:
        x.type = ir.TensorType(ir.DataType.INT64)
    assert find_feature(inferred(model)).name == "last_out"


def test_before_the_logits_of_a_u_net():
    net = Network()
    skip = net.conv(net.image, 3, 4, name="down")
    y = net.conv(skip, 4, 8, stride=2)
    y = net.add("Resize", [y, None, net.weight("scales", np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    y = net.add("Relu", [net.conv(net.add("Concat", [skip, y], axis=1), 12, 6)], "up")
    assert find_feature(inferred(net.model(net.conv(y, 6, 5, k=1, bias=True)))).name == "up_out"


@pytest.mark.parametrize("end", ["BatchNormalization", "Relu", "Add", "Concat", "Conv", "Dropout of Relu"])
def test_a_last_layer_that_makes_no_logits_stays(end):
    net = Network()
    x = net.conv(trunk(net), 8, 8, k=3 if end == "Conv" else 1, bias=True)
    if end == "BatchNormalization":
        x = net.norm(x, 8)
    elif end != "Conv":
        inputs = [x, x] if end in ("Add", "Concat") else [x]
        x = net.add(end.split()[-1], inputs, **({"axis": 1} if end == "Concat" else {}))
    feature = x
    if "Dropout" in end:
        x = net.add("Dropout", [x])
    assert find_feature(inferred(net.model(x))) is feature


def test_backbone_without_classifier():
    net = Network()
    assert find_feature(inferred(net.model(trunk(net)))).name == "last_out"


def test_auxiliary_classifiers_are_not_the_main_path():
    net = Network()
    x = net.add("Relu", [net.conv(net.image, 3, 4, name="early")])
    side = net.add("Gemm", [net.add("Flatten", [x]), net.weight("aux", net.normal(4 * 256, 5))])
    x = net.add("Relu", [net.conv(x, 4, 4, stride=2)], "late")
    assert find_feature(inferred(net.model(side, net.classifier(x, 4)))).name == "late_out"


def test_squeeze_and_excitation_does_not_distract():
    net = Network()
    x = trunk(net)
    gate = net.conv(net.add("GlobalAveragePool", [x]), 8, 8, k=1)
    x = net.add("Mul", [x, net.add("Sigmoid", [gate])], "gated")
    assert find_feature(inferred(net.model(net.classifier(x, 8)))).name == "gated_out"


def transformer(net: Network, tokens: ir.Value, width: int) -> ir.Value:
    """One attention layer with a shortcut."""
    q, k, v = (net.add("MatMul", [tokens, net.weight(f"w{i}", net.normal(width, width))]) for i in range(3))
    scores = net.add("Softmax", [net.add("MatMul", [q, net.add("Transpose", [k], perm=[0, 2, 1])])])
    return net.add("Add", [net.add("MatMul", [scores, v]), tokens], "layer")


def patches(net: Network, width: int = 8) -> ir.Value:
    x = net.conv(net.image, 3, width, k=4, stride=4, pads=[0] * 4, name="patches")
    return net.add("Transpose", [net.add("Reshape", [x, net.weight("s", [0, width, 16])])], "tokens", perm=[0, 2, 1])


def test_the_tokens_of_a_vision_transformer():
    net = Network()
    x = transformer(net, patches(net), 8)
    pooled = net.add("ReduceMean", [x, net.weight("axes", [1])], keepdims=0)
    graph = inferred(net.model(net.add("Gemm", [pooled, net.weight("fc", net.normal(8, 5))])))
    assert find_feature(graph) is x
    assert feature_form(x, channel_axes(graph)) == MapForm("NLC", (8, 4, 4), 0, 16)


def test_a_network_whose_larger_part_comes_behind_its_last_map_is_refused():
    net = Network()
    x = net.add("Relu", [net.conv(net.image, 3, 4, stride=4, name="first")], "last")
    x = net.add("Flatten", [x])
    for i in range(6):
        x = net.add("Gemm", [x, net.weight(f"fc{i}", net.normal(64, 64))])
    with pytest.raises(ModelError, match=r"6 of 7 layers with weights follow the last feature map 'last_out'"):
        find_feature(inferred(net.model(x)))


def test_no_convolution_is_refused():
    net = Network()
    x = net.add("Gemm", [net.add("Flatten", [net.image]), net.weight("fc", net.normal(768, 5))])
    with pytest.raises(ModelError, match=r"found no features: .*--features"):
        find_feature(inferred(net.model(x)))


# Several features


def pyramid(net: Network) -> list[ir.Value]:
    fine = net.add("Relu", [net.conv(net.image, 3, 4, stride=2, name="c2")], "fine")
    coarse = net.add("Relu", [net.conv(fine, 4, 8, stride=2, name="c3")], "coarse")
    return [coarse, fine]


def test_outputs_of_different_sizes_are_the_features():
    net = Network()
    coarse, fine = pyramid(net)
    outs = [net.conv(coarse, 8, 4, name="p3"), net.conv(fine, 4, 4, name="p2")]
    assert [v.name for v in find_features(inferred(net.model(*outs)))] == ["p2_out", "p3_out"]


def test_what_predictions_at_several_scales_read():
    net = Network()
    coarse, fine = pyramid(net)
    outs = [net.conv(coarse, 8, 5, k=1, name="p3"), net.conv(fine, 4, 5, k=1, name="p2")]
    assert [v.name for v in find_features(inferred(net.model(*outs)))] == ["fine_out", "coarse_out"]


@pytest.mark.parametrize("tower", [0, 1, 2])
def test_what_joined_predictions_read(tower):
    """A detector: per scale a head (of one layer, or more), all boxes in one output."""
    net = Network()
    x = net.add("Relu", [net.conv(net.image, 3, 4, name="stem")])
    fine = net.add("Relu", [net.conv(x, 4, 4, stride=2, name="c2")])
    coarse = net.add("Relu", [net.conv(fine, 4, 8, stride=2, name="c3")])
    up = net.add("Resize", [coarse, None, net.weight("scales", np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    fine = net.add("Relu", [net.conv(net.add("Concat", [fine, up], axis=1), 12, 4, name="p2")], "fine")
    coarse = net.add("Relu", [net.conv(coarse, 8, 8, name="p3")], "coarse")
    found = []
    for level, (y, channels) in enumerate(((fine, 4), (coarse, 8))):
        for _ in range(tower):
            y = net.add("Relu", [net.conv(y, channels, channels)])
        box, kind = net.conv(y, channels, 4, k=1, bias=True), net.conv(y, channels, 3, k=1, bias=True)
        y = net.add("Concat", [box, kind], axis=1)
        found.append(net.add("Reshape", [y, net.weight(f"shape{level}", [0, 7, -1])]))
    graph = inferred(net.model(net.add("Concat", found, axis=2)))
    assert [v.name for v in find_features(graph)] == ["fine_out", "coarse_out"]


def test_one_size_twice_is_no_pyramid():
    net = Network()
    x = trunk(net)  # a segmentation network with an auxiliary output
    outs = [net.conv(x, 8, 5, k=1, bias=True, name=name) for name in ("main", "aux")]
    assert [v.name for v in find_features(inferred(net.model(*outs)))] == ["last_out"]


# Layouts


def test_class_tokens_stand_where_the_concat_puts_them():
    for first in (True, False):
        net = Network()
        grid = patches(net)
        extra = net.weight("cls", net.normal(1, 2, 8))
        x = net.add("Concat", [extra, grid] if first else [grid, extra], axis=1)
        graph = inferred(net.model(transformer(net, x, 8)))
        form = feature_form(graph.outputs[0], channel_axes(graph))
        assert form == MapForm("NLC", (8, 4, 4), 2 if first else 0, 18)


def test_channels_last_and_tokens_last():
    net = Network()
    x = net.conv(net.image, 3, 8, stride=2, name="a")
    last = net.add("Transpose", [x], "last", perm=[0, 2, 3, 1])
    product = net.add("MatMul", [last, net.weight("w", net.normal(8, 6))], "product")
    flat = net.add("Reshape", [x, net.weight("shape", [0, 8, 64])], "flat")
    graph = inferred(net.model(product, flat))
    axes = channel_axes(graph)
    assert feature_form(product, axes) == MapForm("NHWC", (6, 8, 8), 0, 64)
    assert feature_form(flat, axes) == MapForm("NCL", (8, 8, 8), 0, 64)
    assert feature_form(x, axes) == MapForm("NCHW", (8, 8, 8), 0, 64)


def test_tokens_of_no_grid_are_refused():
    net = Network()
    x = net.add("MatMul", [patches(net), net.weight("w", net.normal(8, 8))])
    graph = inferred(net.model(net.add("Concat", [x, x, x], "all", axis=1)))  # 48 tokens
    with pytest.raises(ModelError, match=r"'all_out' is no feature map.*\[1, 48, 8\]; tokens"):
        feature_form(graph.outputs[0], channel_axes(graph))


def test_patches_that_are_merged_by_slices_have_the_stride_of_their_size():
    net = Network()
    x = net.add("Transpose", [net.conv(net.image, 3, 8, stride=2, name="a")], perm=[0, 2, 3, 1])
    corners = []
    for i in range(2):
        bounds = [net.weight(f"{name}{i}", number) for name, number in
                  (("b", [i, 0]), ("e", [99, 99]), ("ax", [1, 2]), ("st", [2, 2]))]  # fmt: skip
        corners.append(net.add("Slice", [x, *bounds]))
    x = net.add("Transpose", [net.add("Concat", corners, axis=-1)], perm=[0, 3, 1, 2])
    graph = inferred(net.model(x))
    assert describe(graph, [x]) == (Feature(str(x.name), 4, 16),)
    assert read_strides(graph)[x] == 4


def test_a_wrong_name_lists_close_ones():
    with pytest.raises(ModelError, match=r"stem_relu_out"):
        named_value(inferred(small_network()), "stem_rellu_out")


def test_names_of_tensors_and_of_nodes():
    graph = inferred(small_network())
    assert named_value(graph, "stem_relu") is named_value(graph, "stem_relu_out")


def test_strides_and_channels():
    graph = inferred(small_network())
    found = describe(graph, [named_value(graph, name) for name in ("image", "stem", "sum")])
    assert [(f.stride, f.channels) for f in found] == [(1, 3), (2, 4), (4, 6)]


def test_the_nominal_stride_counts_where_padding_is_missing():
    net = Network((1, 3, 19, 19))
    x = net.conv(net.image, 3, 4, k=5, stride=4, pads=[0] * 4)  # 19 -> 4
    graph = inferred(net.model(x))
    assert describe(graph, graph.outputs)[0].stride == 4


def test_upsampled_features():
    net = Network()
    x = net.add("Resize", [trunk(net), None, net.weight("scales", np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    graph = inferred(net.model(x))
    assert describe(graph, graph.outputs)[0].stride == 2


def test_what_is_no_feature_map():
    graph = inferred(small_network())
    with pytest.raises(ModelError, match=r"'flatten_out' is no feature map.*\[1, 6\]"):
        describe(graph, [named_value(graph, "flatten")])


def test_record_round_trip():
    net = Network()
    model = net.model(trunk(net))
    infer_shapes(model)
    assert write_features(model) == read_features(model) == (Feature("last_out", 4, 8),)
    assert json.loads(model.metadata_props["onnxmtl.features"]) == [{"name": "last_out", "stride": 4, "channels": 8}]
    assert model.metadata_props["onnxmtl.kind"] == "backbone"


def test_convolutions_behind_an_unknown_operator_are_no_classifier():
    """Else the last map whose shape is known would be taken, and half of the network cut off without a word."""
    net = Network()
    x = net.add("Relu", [trunk(net)], "known")
    for node in net.graph:
        infer_node(node, {"": 21})
    unknown = ir.Node("com.acme", "Swizzle", [x], name="swizzle")
    net.graph.append(unknown)
    unknown.outputs[0].name = "swizzled"
    x = net.conv(unknown.outputs[0], 8, 8, name="third")
    graph = net.model(net.add("Relu", [x])).graph
    message = r"convolutions follow an operator that cannot be trained \(Swizzle\); .* as 'known_out'"
    with pytest.raises(ModelError, match=message):
        find_feature(graph)

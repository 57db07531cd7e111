"""Where a network's features are, if the user does not say: :func:`find_features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxmtl.analysis.features import feature_dims
from onnxmtl.analysis.frontiers import ancestors, boundaries, main_output
from onnxmtl.analysis.layouts import channel_axes, map_form
from onnxmtl.errors import ModelError
from onnxmtl.ops import is_linear_op, supported, weight_slots

_PASS_THROUGH = frozenset({"Dropout", "Identity"})
# These only move a tensor's elements: where a map stands before them, it is the feature.
_LAYOUT_ONLY = _PASS_THROUGH | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_LAYERS = _CONVOLUTIONS | {"Gemm", "MatMul"}
# What may stand behind a convolutional classifier. At the network's very end a Relu makes it an ordinary layer.
_LOGITS_END = frozenset({"Resize", "Softmax", "LogSoftmax", "Sigmoid"})
_LOGITS_INSIDE = frozenset({"Resize", "Relu"})
_MAX_CLASSIFIER_LAYERS = 3  # AlexNet and VGG have three
_MAX_LEVELS = 8  # of a pyramid
_MAX_TRIES = 64


def find_features(graph: ir.Graph) -> list[ir.Value]:
    """The tensors that heads should read, the finest first where they are several.

    - Outputs that are maps of different sizes are the features themselves (a feature pyramid), or what the 1×1
      convolutions read that make them (a detector's predictions).
    - Else it is one tensor, at which the classifier is cut off; see :func:`find_feature`.
    - Where more than a classifier follows that tensor, because several scales are worked on at once (a detector whose
      predictions are joined), it is the last set of maps of different sizes that goes into separate heads.

    Raises:
        ModelError: There are none; see :func:`find_feature`.
    """
    outputs = _pyramid_outputs(graph)
    if outputs:
        return outputs
    try:
        feature: ir.Value | None = find_feature(graph)
        error = None
    except ModelError as e:
        feature, error = None, e
    if feature is not None and _layers_behind(graph, feature) <= _MAX_CLASSIFIER_LAYERS:
        return [feature]
    levels = _levels_of_heads(graph)
    if levels:
        return levels
    if feature is None:
        assert error is not None
        raise error
    return [feature]


def find_feature(graph: ir.Graph) -> ir.Value:
    """The tensor at which the classifier of a network is cut off.

    It is the last spatial tensor that every path from the image to the main output runs through: a map [N, C, H, W], or
    tokens [N, L, C] or a map [N, H, W, C] of a vision transformer. Where nothing with weights follows it, and it
    comes from a 1×1 convolution, that convolution is the classifier: before pooling (as in SqueezeNet) and, if it is
    bare or only resized, at the network's end (the logits of FCN, U-Net, DeepLab).

    Raises:
        ModelError: There is none: no layer makes a map, most of the network comes behind its last one, or convolutions
            come behind an operator that cannot be trained.
    """
    output, needed = main_output(graph)
    if output is None:
        msg = "the model has no outputs"
        raise ModelError(msg)
    nodes = [node for node in graph if node in needed]
    axes = channel_axes(nodes)
    cuts = [cut.values[0] for cut in boundaries(nodes)]
    if output not in cuts:
        cuts.append(output)
    seen_conv: set[ir.Value] = set()
    for node in nodes:
        if node.op_type == "Conv" or any(v in seen_conv for v in node.inputs if v is not None):
            seen_conv.update(node.outputs)
    last = next((v for v in reversed(cuts) if v in seen_conv and _is_spatial(v, axes)), None)
    if last is None:
        msg = (
            "found no features: no map [N, C, H, W] or tokens [N, L, C] behind a convolution that every path runs "
            "through; name the features with --features, or give a backbone for images"
        )
        raise ModelError(msg)
    feature = _map_before(_behind(last), axes)
    upstream = ancestors([feature])
    tail = [node for node in nodes if node not in upstream]
    _check_tail(feature, tail, nodes)
    if not any(node.op_type in _LAYERS for node in tail):
        ends = all(node.op_type in _PASS_THROUGH for node in tail)
        feature = _before_convolutional_classifier(feature, _LOGITS_END if ends else _LOGITS_INSIDE) or feature
    return feature


def _is_spatial(value: ir.Value, axes: Mapping[ir.Value, int]) -> bool:
    form = map_form(value, axes)
    return form is not None and form.size[1] * form.size[2] > 1


def _is_map(value: ir.Value) -> bool:
    dims = feature_dims(value)
    return dims is not None and dims[1] * dims[2] > 1


def _map_before(value: ir.Value, axes: Mapping[ir.Value, int]) -> ir.Value:
    """The map [N, C, H, W] that `value` is only a rearrangement of, if there is one."""
    current: ir.Value | None = value
    while current is not None:
        form = map_form(current, axes)
        if form is not None and form.layout == "NCHW":
            return current
        node = current.producer()
        current = node.inputs[0] if node is not None and node.op_type in _LAYOUT_ONLY and node.inputs else None
    return value


def _behind(value: ir.Value, ops: frozenset[str] = _PASS_THROUGH) -> ir.Value:
    """Walk back over nodes of the given operators."""
    node = value.producer()
    while node is not None and node.op_type in ops and node.inputs[0] is not None and node.inputs[0].producer():
        value = node.inputs[0]
        node = value.producer()
    return value


def _before_convolutional_classifier(feature: ir.Value, between: frozenset[str]) -> ir.Value | None:
    """The input of a 1×1 convolution (with at most the operators `between` behind it) that makes `feature`."""
    node = _without_bias(_behind(feature, _PASS_THROUGH | between)).producer()
    if node is None or node.op_type != "Conv" or not is_linear_op(node):
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or weight.shape is None or list(weight.shape)[2:] != [1, 1]:
        return None
    before = _behind(data)
    return before if before.producer() is not None and _is_map(before) else None


def _without_bias(value: ir.Value) -> ir.Value:
    """What a bias of its own is added to: Paddle writes a convolution's bias as an Add behind it."""
    node = value.producer()
    if node is None or node.op_type != "Add":
        return value
    data = [operand for operand in node.inputs if operand is not None and not operand.is_initializer()]
    if len(data) != 1 or not weight_slots(node):
        return value
    convolution = _behind(data[0])
    layer = convolution.producer()
    return convolution if layer is not None and layer.op_type == "Conv" and len(layer.inputs) < 3 else value


def _check_tail(feature: ir.Value, tail: Sequence[ir.Node], nodes: Sequence[ir.Node]) -> None:
    """What follows the feature must be a classifier, not the larger part of the network."""
    follows = {feature}  # what is computed from the feature
    attention = False
    for node in tail:
        products = [value for value in node.inputs if value in follows]
        if products:
            follows.update(node.outputs)
        attention |= node.op_type == "Attention" or (node.op_type in ("MatMul", "Einsum") and len(products) > 1)
    _check_not_stopped(feature, tail)
    layers = sum(node.op_type in _LAYERS for node in tail)
    total = sum(node.op_type in _LAYERS for node in nodes)
    if attention or layers > max(_MAX_CLASSIFIER_LAYERS, total - layers):
        msg = (
            f"found no features: {layers} of {total} layers with weights follow the last feature map {feature.name!r}; "
            "name the features with --features, or give a backbone without what follows"
        )
        raise ModelError(msg)


def _check_not_stopped(feature: ir.Value, tail: Sequence[ir.Node]) -> None:
    """Convolutions behind an operator that cannot be trained are no classifier: the network goes on there, and only
    the unknown shapes behind that operator make its features look like the last ones."""
    stopped: dict[ir.Value, ir.Node] = {}  # what is computed from the output of such an operator
    for node in tail:
        origin = next((stopped[value] for value in node.inputs if value in stopped), None)
        if origin is not None and node.op_type in _CONVOLUTIONS:
            msg = (
                f"found no features: convolutions follow an operator that cannot be trained ({origin.op_type}); name "
                f"features before it with --features, as {feature.name!r}, or replace it"
            )
            raise ModelError(msg)
        if origin is None and supported(node) is not None:
            origin = node
        if origin is not None:
            stopped.update(dict.fromkeys(node.outputs, origin))


def _layers_behind(graph: ir.Graph, feature: ir.Value) -> int:
    _, needed = main_output(graph)
    upstream = ancestors([feature])
    return sum(node.op_type in _LAYERS for node in needed if node not in upstream)


def _pyramid_outputs(graph: ir.Graph) -> list[ir.Value]:
    """The outputs, if they are maps of different sizes behind convolutions; without 1×1 convolutions that make
    predictions of them all."""
    outputs = [_behind(value) for value in dict.fromkeys(graph.outputs)]
    if len(outputs) < 2 or not _sizes_differ(outputs) or not all(_from_layer(value) for value in outputs):
        return []
    before = [_before_convolutional_classifier(value, _LOGITS_END) for value in outputs]
    inside = [value for value in before if value is not None]
    if len(inside) == len(outputs) and _sizes_differ(inside):
        return _finest_first(inside)
    return _finest_first(outputs)


def _sizes_differ(values: Sequence[ir.Value]) -> bool:
    sizes = [dims[1:] for value in values if (dims := feature_dims(value)) is not None and _is_map(value)]
    return len(sizes) == len(values) == len(set(sizes))


def _finest_first(values: Sequence[ir.Value]) -> list[ir.Value]:
    return sorted(values, key=lambda value: (feature_dims(value) or (0, 0, 0))[1], reverse=True)


def _from_layer(value: ir.Value) -> bool:
    return any(node.op_type in _LAYERS for node in ancestors([value]))


def _levels_of_heads(graph: ir.Graph) -> list[ir.Value]:
    """The last boundary of several maps of different sizes, each of which goes into layers of its own: as many for
    each of them, if there is such a boundary, because a detector's heads are alike."""
    _, needed = main_output(graph)
    nodes = [node for node in graph if node in needed]
    before_layer: set[ir.Value] = set()  # values behind which a layer comes
    for node in reversed(nodes):
        if node.op_type in _LAYERS or any(value in before_layer for value in node.outputs):
            before_layer.update(value for value in node.inputs if value is not None)
    last: list[ir.Value] = []
    tries = 0
    for cut in reversed(boundaries(nodes, k=_MAX_LEVELS)):
        values = cut.values
        if len(values) < 2 or not _sizes_differ(values) or not all(value in before_layer for value in values):
            continue
        layers = _own_layers(nodes[cut.position :], values)
        if layers is not None and len(set(layers)) == 1:
            return _finest_first(values)
        if layers is not None and not last:
            last = _finest_first(values)
        tries += 1
        if tries == _MAX_TRIES:
            break
    return last


def _own_layers(tail: Sequence[ir.Node], cut: Sequence[ir.Value]) -> list[int] | None:
    """How many layers of the tail work on each of the values; None if one works on several of them."""
    levels: dict[ir.Value, frozenset[int]] = {value: frozenset({i}) for i, value in enumerate(cut)}
    layers = [0] * len(cut)
    for node in tail:
        merged = frozenset[int]().union(*(levels.get(value, frozenset()) for value in node.inputs if value is not None))
        if node.op_type in _LAYERS:
            if len(merged) > 1:
                return None
            for level in merged:
                layers[level] += 1
        levels.update(dict.fromkeys(node.outputs, merged))
    return layers
